# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of Moore-AnimateAnyone, and of the parts that Champ shares with it."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.component_fit import check_components
from ..models.pose_guider import HIAPoseGuider
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from ..state_dicts import StateDict, read_state_dict
from .animatediff import MOTION_TABLE, has_motion_mid_block, motion_max_seq_length
from .converted import Conversion, ConversionReport
from .image_encoder import check_kind, find_image_encoder, load_image_encoder
from .key_tables import ComponentKeys, KeyTable, fill
from .stable_diffusion import LATENT_CHANNELS, check_unet_channels, empty_motion_unet, find_vae, load_vae
from .weight_files import as_folder, find_file, read_config


# Layers of the reference UNet after its last features, on which no output depends.
TABLES = {
    "denoising_unet": MOTION_TABLE,
    "motion_module": MOTION_TABLE,
    "reference_unet": KeyTable(
        unused=(
            r"^conv_(norm_)?out\.",
            r"^up_blocks\.3\.attentions\.2\.proj_out\.",
            r"^up_blocks\.3\.attentions\.2\.transformer_blocks\.0\.(attn1|norm2|attn2|norm3|ff)\.",
        )
    ),
    "pose_guider": KeyTable(renames=((r"^", "controlnet_cond_embedding."),)),
}

# Sampling settings of the original.
CALL_DEFAULTS = {
    "num_inference_steps": 30,
    "guidance_scale": 3.5,
    "context_frames": 24,
    "context_shift": False,
    "reference_noise": False,
    "area": 512 * 784,
    "pose_map": "moore-animate-anyone",
}

# What projects with this layout change.
MUSEPOSE_DEFAULTS: dict[str, Any] = {
    "num_inference_steps": 20,
    "context_frames": 48,
    "context_overlap": 4,
    "area": 768 * 768,
    "pose_map": "musepose",
}

# Options of the UNet; currently our defaults, but these may change.
UNET_OPTIONS = {"reference_attention_blocks": "full", "motion_norm": "frame", "resnet_norm": "frame"}


def convert_moore_animate_anyone(
    weights: str | os.PathLike,
    base: str | os.PathLike,
    image_encoder: str | os.PathLike,
    vae: str | os.PathLike | None = None,
    beta_schedule: str = "linear",
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
    call_defaults: Mapping[str, Any] | None = None,
) -> Conversion:
    """Convert the published weights of Moore-AnimateAnyone, or of a project with its layout.

    Args:
        weights (`str` or `os.PathLike`):
            Folder with `reference_unet.pth`, `denoising_unet.pth`, `motion_module.pth` and `pose_guider.pth`. Motion
            modules in `denoising_unet.pth` override those in `motion_module.pth`.
        base (`str` or `os.PathLike`):
            Folder of Stable Diffusion 1.5 in the layout of diffusers; the configuration of its UNet and, if `vae` is
            not given, its VAE are read.
        image_encoder (`str` or `os.PathLike`):
            As `weights` of [`convert_image_encoder`].
        vae (`str` or `os.PathLike`, *optional*):
            Folder of another `AutoencoderKL`; Moore-AnimateAnyone uses `sd-vae-ft-mse`.
        beta_schedule (`"linear"` or `"scaled_linear"`, *optional*, defaults to `"linear"`):
            Betas that the weights were trained with, which the files do not state; `"scaled_linear"` for MusePose and
            DynamicPose.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of the sources that may be unused, and keys of a component that may be missing; these are initialized.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.
        call_defaults (`Mapping[str, Any]`, *optional*):
            Entries of the pipeline's `call_defaults` in which a project differs from Moore-AnimateAnyone.

    Returns:
        [`Conversion`]: The [`HIAPipeline`], whose conditioning frames are pose maps with 3 channels.

    Raises:
        FileNotFoundError: If a folder or file is missing.
        ValueError: If a file cannot be read, or keys are unused or missing.
    """
    pose_guider_file = find_file("weights", as_folder("weights", weights) / "pose_guider.pth")
    sources = _Sources(weights, base, image_encoder, vae, beta_schedule)
    pose_guider = read_state_dict("weights", pose_guider_file)
    with torch.device("meta"):
        model = HIAPoseGuider(**_pose_guider_options(pose_guider))
    rows = fill("controlnet", model, [(pose_guider, TABLES["pose_guider"])], allow, dtype)
    return sources.conversion(model, rows, allow, dtype, call_defaults or {})


def convert_musepose(
    weights: str | os.PathLike,
    base: str | os.PathLike,
    image_encoder: str | os.PathLike,
    vae: str | os.PathLike | None = None,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert the published weights of MusePose.

    They have Moore-AnimateAnyone's layout, `"scaled_linear"` betas, and other pose maps and settings. The arguments,
    the result and the errors are those of [`convert_moore_animate_anyone`].
    """
    options: dict[str, Any] = {"allow": allow, "dtype": dtype, "call_defaults": MUSEPOSE_DEFAULTS}
    return convert_moore_animate_anyone(weights, base, image_encoder, vae, "scaled_linear", **options)


def convert_dynamicpose(
    weights: str | os.PathLike,
    base: str | os.PathLike,
    image_encoder: str | os.PathLike,
    vae: str | os.PathLike | None = None,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert the published weights of DynamicPose.

    They have Moore-AnimateAnyone's layout, `"scaled_linear"` betas, and other pose maps. The arguments, the result and
    the errors are those of [`convert_moore_animate_anyone`].
    """
    options: dict[str, Any] = {"allow": allow, "dtype": dtype, "call_defaults": {"pose_map": "dynamicpose"}}
    return convert_moore_animate_anyone(weights, base, image_encoder, vae, "scaled_linear", **options)


def convert_champ(
    weights: str | os.PathLike,
    base: str | os.PathLike,
    image_encoder: str | os.PathLike,
    vae: str | os.PathLike | None = None,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert the published weights of Champ, except the guidance encoders, which read the pose.

    Args:
        weights (`str` or `os.PathLike`):
            Folder with `reference_unet.pth`, `denoising_unet.pth` and `motion_module.pth`. The four guidance encoders
            in the same folder, which contain attention layers, are not used.
        base, image_encoder, vae, allow, dtype:
            As in [`convert_moore_animate_anyone`].

    Returns:
        [`Conversion`]: The [`HIAPipeline`], with a new pose guider of 3 channels, which has no effect until it is
        trained.

    Raises:
        FileNotFoundError: If a folder or file is missing.
        ValueError: If a file cannot be read, or keys are unused or missing.
    """
    sources = _Sources(weights, base, image_encoder, vae)
    pose_guider = HIAPoseGuider(conditioning_channels=3, out_channels=sources.width)
    rows = [ComponentKeys("controlnet", "new", made=tuple(pose_guider.state_dict()))]
    guidance = tuple(str(path) for path in sorted(Path(weights).glob("guidance_encoder_*.pth")))
    openpose = {"pose_map": "openpose"}
    return sources.conversion(pose_guider.to(dtype).eval(), rows, allow, dtype, openpose, left_over=guidance)


class _Sources:
    """The files of the parts that both projects have. All files are located before the first is read."""

    def __init__(
        self,
        weights: str | os.PathLike,
        base: str | os.PathLike,
        image_encoder: str | os.PathLike,
        vae: str | os.PathLike | None,
        beta_schedule: str = "linear",
    ) -> None:
        folder, base = as_folder("weights", weights), as_folder("base", base)
        names = ("denoising_unet", "motion_module", "reference_unet")
        self.files = {name: find_file("weights", folder / f"{name}.pth") for name in names}
        self.vae = find_vae(base, vae)
        self.image_encoder = find_image_encoder("image_encoder", image_encoder)
        self.unet_config = read_config("base", base / "unet")
        self.scheduler = ShiftedSNRScheduler(
            snr_shift_factor=1.0,
            beta_schedule=beta_schedule,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            steps_offset=1,
        )
        check_unet_channels("base", base / "unet", self.unet_config.get("in_channels", LATENT_CHANNELS))
        self._check_fit()

    def _check_fit(self) -> None:
        """Check that the parts fit each other, before gigabytes are read."""
        argument, encoder_folder, extractor_folder = self.image_encoder
        check_kind(argument, encoder_folder)
        with torch.device("meta"):
            components: dict[str, Any] = {
                "unet": UNet2DConditionModel.from_config(self.unet_config),
                "vae": AutoencoderKL.from_config(read_config(*self.vae)),
                "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(encoder_folder)),
            }
        if extractor_folder is not None:
            components["feature_extractor"] = CLIPImageProcessor.from_pretrained(extractor_folder)
        check_components(components)
        self.width = components["unet"].config.block_out_channels[0]

    def conversion(
        self,
        pose_guider: HIAPoseGuider,
        pose_guider_rows: list[ComponentKeys],
        allow: Collection[str],
        dtype: torch.dtype,
        call_defaults: Mapping[str, Any],
        left_over: tuple[str, ...] = (),
    ) -> Conversion:
        if pose_guider.config.out_channels != self.width:
            raise ValueError(
                f"`weights`: the pose guider must return the {self.width} channels of `base`, got"
                f" {pose_guider.config.out_channels}."
            )
        weights = {name: read_state_dict("weights", path) for name, path in self.files.items()}
        motion = weights["motion_module"]
        unet = empty_motion_unet(
            self.unet_config,
            motion_max_seq_length=motion_max_seq_length(motion),
            use_motion_mid_block=has_motion_mid_block(motion),
            **UNET_OPTIONS,
        )
        with torch.device("meta"):
            appearance_encoder = HIAAppearanceEncoder.from_config(self.unet_config)
        sources = {name: (weights[name], TABLES[name]) for name in weights}
        rows = fill("unet", unet, [sources["motion_module"], sources["denoising_unet"]], allow, dtype)
        rows += fill("appearance_encoder", appearance_encoder, [sources["reference_unet"]], allow, dtype)
        autoencoder, vae_rows = load_vae(*self.vae, allow, dtype)
        encoder, feature_extractor, encoder_rows = load_image_encoder(*self.image_encoder, allow, dtype)
        wanted: dict[str, Any] = {**CALL_DEFAULTS, **call_defaults}
        pipeline = HIAPipeline(
            vae=autoencoder,
            image_encoder=encoder,
            unet=unet,
            appearance_encoder=appearance_encoder,
            controlnet=pose_guider,
            scheduler=self.scheduler,
            feature_extractor=feature_extractor,
            unconditional_controlnet=True,
            call_defaults=wanted
            | {"context_frames": min(wanted["context_frames"], unet.config.motion_max_seq_length)},
        )
        return Conversion(pipeline, ConversionReport((*rows, *pose_guider_rows, *vae_rows, *encoder_rows), left_over))


def _pose_guider_options(weights: StateDict) -> Mapping[str, Any]:
    """Infer the options of the network from the shapes of its weights."""
    convolution, last = (weights.tensors.get(f"{name}.weight") for name in ("conv_in", "conv_out"))
    widening = {}
    for key, tensor in weights.tensors.items():
        if (match := re.fullmatch(r"blocks\.(\d+)\.weight", key)) and int(match[1]) % 2:
            widening[int(match[1])] = tensor.shape[0]
    if convolution is None or convolution.ndim != 4 or last is None or not widening:
        raise ValueError(
            f"`weights`: {weights.path} must contain a pose guider, whose keys are conv_in, blocks.0 to blocks.5 and"
            " conv_out."
        )
    return {
        "conditioning_channels": convolution.shape[1],
        "conditioning_embedding_out_channels": (convolution.shape[0], *(widening[i] for i in sorted(widening))),
        "out_channels": last.shape[0],
    }
