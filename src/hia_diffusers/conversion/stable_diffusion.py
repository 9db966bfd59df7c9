# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of Stable Diffusion 1.5, in the layout of diffusers or in a single file, as a whole or in parts."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .. import checks
from ..models.unet_motion import HIAUNetMotionModel
from ..state_dicts import StateDict, read_state_dict
from .converted import Conversion, ConversionReport
from .key_tables import ComponentKeys, KeyTable, fill, is_allowed, shortened
from .single_files import load_from_single_file, read_described_config
from .weight_files import as_folder, find_file, find_weights, read_config


LATENT_CHANNELS = 4
HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"

# Autoencoders saved before diffusers 0.18 have other names in their attention.
VAE_TABLE = KeyTable(
    renames=(
        (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
        (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
        (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
        (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
    )
)

# The text encoder's prefix depends on the version of transformers, which no longer saves the indices of positions.
TEXT_PREFIX = r"^(cond_stage_model\.transformer\.)?(text_model\.)?"
TEXT_UNUSED = (r"\.position_ids$",)
TEXT_TABLES = {
    True: KeyTable(renames=((TEXT_PREFIX, "text_model."),), unused=TEXT_UNUSED),
    False: KeyTable(renames=((TEXT_PREFIX, ""),), unused=TEXT_UNUSED),
}

# The prefixes of each component in a single file, and of keys that belong to none.
SINGLE_FILE_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
SINGLE_FILE_UNUSED = KeyTable(
    unused=(
        r"^model_ema\.",
        r"^(betas|logvar|lvlb_weights|scale_factor)$",
        r"^(\w+_)?alphas_cumprod(_prev)?$",
        r"^posterior_(variance|log_variance_clipped|mean_coef[12])$",
    )
)


def empty_motion_unet(config: dict[str, Any], **options: Any) -> HIAUNetMotionModel:
    """Create a motion UNet without weights, on the meta device, for those of Stable Diffusion and motion modules.

    Args:
        config (`dict[str, Any]`):
            Configuration of a `UNet2DConditionModel`.
        options:
            Options of [`HIAUNetMotionModel`] that a `UNet2DConditionModel` does not have.
    """
    with torch.device("meta"):
        unet = HIAUNetMotionModel.from_unet2d(UNet2DConditionModel.from_config(config), load_weights=False)
        return HIAUNetMotionModel.from_config(unet.config, **options)


def check_unet_channels(argument: str, path: Path, channels: int) -> None:
    """Refuse a UNet whose input is more than latents.

    Args:
        argument (`str`):
            Name of the argument for it, for error messages.
        path (`Path`):
            Its path.
        channels (`int`):
            Number of its input channels.

    Raises:
        ValueError: If it does not have the four channels of latents.
    """
    if channels != LATENT_CHANNELS:
        kind = {9: ", as one for inpainting has", 8: ", as one for editing has"}.get(channels, "")
        raise ValueError(
            f"`{argument}`: the UNet in {path} must take the {LATENT_CHANNELS} channels of latents, but takes"
            f" {channels}{kind}."
        )


def find_vae(base: Path, vae: str | os.PathLike | None) -> tuple[str, Path]:
    """Return the argument for the autoencoder and its folder, which are the first two arguments of [`load_vae`].

    Args:
        base (`Path`):
            Folder of Stable Diffusion 1.5 in the layout of diffusers, whose autoencoder is used if no other is given.
        vae (`str`, `os.PathLike` or `None`):
            Folder of another autoencoder.

    Raises:
        FileNotFoundError: If it has no weights.
    """
    argument, folder = ("base", base / "vae") if vae is None else ("vae", as_folder("vae", vae))
    find_weights(argument, folder)
    return argument, folder


def load_vae(
    argument: str, folder: Path, allow: Collection[str], dtype: torch.dtype
) -> tuple[AutoencoderKL, list[ComponentKeys]]:
    """Load an autoencoder in the layout of diffusers.

    Args:
        argument (`str`):
            Name of the argument for it, for error messages.
        folder (`Path`):
            Its folder.
        allow, dtype:
            As in [`fill`].
    """
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(read_config(argument, folder))
    state_dict = read_state_dict(argument, find_weights(argument, folder))
    return vae, fill("vae", vae, [(state_dict, VAE_TABLE)], allow, dtype)


def check_text_encoder(argument: str, folder: Path) -> None:
    """Check that the files of a text encoder exist.

    Args:
        argument, folder:
            As in [`load_text_encoder`].

    Raises:
        FileNotFoundError: If one is missing.
    """
    find_weights(argument, folder / "text_encoder")
    find_file(argument, *(folder / "tokenizer" / name for name in ("tokenizer.json", "vocab.json")))


def load_text_encoder(
    argument: str, folder: Path, allow: Collection[str], dtype: torch.dtype
) -> tuple[CLIPTextModel, CLIPTokenizer, list[ComponentKeys]]:
    """Load the text encoder and the tokenizer of a pipeline in the layout of diffusers.

    Args:
        argument (`str`):
            Name of the argument for it, for error messages.
        folder (`Path`):
            Folder of the pipeline.
        allow, dtype:
            As in [`fill`].
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    state_dict = read_state_dict(argument, find_weights(argument, folder / "text_encoder"))
    encoder, rows = _fill_text_encoder(config, state_dict, allow, dtype)
    return encoder, tokenizer, rows


def _fill_text_encoder(
    config: CLIPTextConfig, state_dict: StateDict, allow: Collection[str], dtype: torch.dtype
) -> tuple[CLIPTextModel, list[ComponentKeys]]:
    encoder = CLIPTextModel(config)
    has_prefix = any(key.startswith("text_model.") for key in encoder.state_dict())
    return encoder, fill("text_encoder", encoder, [(state_dict, TEXT_TABLES[has_prefix])], allow, dtype)


def convert_stable_diffusion(
    weights: str | os.PathLike,
    config: str | os.PathLike = HUB_ID,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert Stable Diffusion 1.5 to safetensors in the layout of diffusers, with all keys accounted for.

    Args:
        weights (`str` or `os.PathLike`):
            Folder of a pipeline in the layout of diffusers, or a single file in the original layout. If a file
            contains both averaged weights (`model_ema.`) and others, the others are used, as in diffusers.
        config (`str` or `os.PathLike`, *optional*, defaults to `"stable-diffusion-v1-5/stable-diffusion-v1-5"`):
            For a single file: local folder or Hub id of a pipeline with the same configurations.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of the source that may be unused, and keys of a component that may be missing; these are initialized.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.

    Returns:
        [`Conversion`]: The `StableDiffusionPipeline`, without safety checker, from which training can start.

    Raises:
        FileNotFoundError: If `weights` does not exist, or a part is missing.
        ValueError: If a file cannot be read, or keys are unused or missing.
    """
    if Path(checks.path("weights", weights)).is_file():
        components, rows = _from_single_file(Path(weights), str(config), allow, dtype)
        left_over: tuple[str, ...] = ()
    else:
        components, rows, left_over = _from_folder(as_folder("weights", weights), allow, dtype)
    pipeline = StableDiffusionPipeline(
        **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return Conversion(pipeline, ConversionReport(tuple(rows), left_over))


def _from_folder(
    folder: Path, allow: Collection[str], dtype: torch.dtype
) -> tuple[dict[str, Any], list[ComponentKeys], tuple[str, ...]]:
    find_weights("weights", folder / "unet")
    find_weights("weights", folder / "vae")
    check_text_encoder("weights", folder)
    find_file("weights", folder / "model_index.json")
    scheduler_class = StableDiffusionPipeline.load_config(folder)["scheduler"][1]
    scheduler = getattr(diffusers, scheduler_class).from_pretrained(folder, subfolder="scheduler")
    config = read_config("weights", folder / "unet")
    check_unet_channels("weights", folder / "unet", config.get("in_channels", LATENT_CHANNELS))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    state_dict = read_state_dict("weights", find_weights("weights", folder / "unet"))
    rows = fill("unet", unet, [(state_dict, KeyTable())], allow, dtype)
    vae, vae_rows = load_vae("weights", folder / "vae", allow, dtype)
    text_encoder, tokenizer, text_rows = load_text_encoder("weights", folder, allow, dtype)
    components = {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }
    left_over = tuple(str(path) for path in sorted(folder.iterdir()) if path.is_dir() and path.name not in components)
    return components, [*rows, *vae_rows, *text_rows], left_over


def _from_single_file(
    path: Path, config: str, allow: Collection[str], dtype: torch.dtype
) -> tuple[dict[str, Any], list[ComponentKeys]]:
    scheduler_class = read_described_config("pipeline", StableDiffusionPipeline, config)["scheduler"][1]
    whole = read_state_dict("weights", path)
    parts = {
        name: {key: tensor for key, tensor in whole.tensors.items() if key.startswith(prefix)}
        for name, prefix in SINGLE_FILE_PREFIXES.items()
    }
    if empty := [SINGLE_FILE_PREFIXES[name] for name, part in parts.items() if not part]:
        raise ValueError(
            f"`weights`: {path} must contain Stable Diffusion 1.5, but no keys start with {' or '.join(empty)}."
        )
    others = [key for key in whole.tensors if not key.startswith(tuple(SINGLE_FILE_PREFIXES.values()))]
    refused = [key for key in others if SINGLE_FILE_UNUSED.target(key) is not None and not is_allowed(key, allow)]
    if refused:
        raise ValueError(
            f"`weights`: {path} must contain Stable Diffusion 1.5 only, but {len(refused)} of its keys belong to no"
            f" component: {shortened(refused)}; list keys that may be unused in `allow`."
        )
    first = parts["unet"].get(f"{SINGLE_FILE_PREFIXES['unet']}input_blocks.0.0.weight")
    if first is not None and first.ndim == 4:
        check_unet_channels("weights", path, first.shape[1])
    components: dict[str, Any] = {
        "scheduler": getattr(diffusers, scheduler_class).from_pretrained(config, subfolder="scheduler"),
        "tokenizer": CLIPTokenizer.from_pretrained(config, subfolder="tokenizer"),
    }
    rows = []
    for name, model_class in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        components[name] = load_from_single_file(name, model_class, path, parts[name], config, dtype, subfolder=name)
        rows.append(ComponentKeys(name, str(path), tuple(parts[name])))

    text = StateDict("weights", path, parts["text_encoder"])
    text_config = CLIPTextConfig.from_pretrained(config, subfolder="text_encoder")
    components["text_encoder"], text_rows = _fill_text_encoder(text_config, text, allow, dtype)
    return components, [*rows, *text_rows, ComponentKeys("none", str(path), left=tuple(others))]
