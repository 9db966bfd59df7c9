# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of MagicAnimate to a pipeline that computes the same function."""

import os
from collections.abc import Collection

import torch

from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.controlnet import HIAControlNetModel
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from ..state_dicts import read_state_dict
from .animatediff import MOTION_TABLE, has_motion_mid_block, motion_max_seq_length
from .converted import Conversion, ConversionReport
from .key_tables import KeyTable, fill
from .stable_diffusion import check_text_encoder, empty_motion_unet, find_vae, load_text_encoder, load_vae
from .weight_files import as_folder, find_file, find_weights, read_config


# The keys of the appearance encoder, the ControlNet and the spatial layers of the UNet are those of diffusers.
TABLES = {
    "spatial": KeyTable(),
    "temporal_attention": MOTION_TABLE,
    "appearance_encoder": KeyTable(),
    "controlnet": KeyTable(),
}

# Sampling settings of the original.
CALL_DEFAULTS = {
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "context_frames": 16,
    "context_shift": False,
    "reference_noise": False,
    "area": 512 * 512,
    "pose_map": "densepose",
}

# Options of the UNet in which MagicAnimate differs from our defaults.
UNET_OPTIONS = {"reference_attention_blocks": "midup", "motion_norm": "frame", "resnet_norm": "clip"}


def convert_magic_animate(
    weights: str | os.PathLike,
    base: str | os.PathLike,
    vae: str | os.PathLike | None = None,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert the published weights of MagicAnimate.

    Args:
        weights (`str` or `os.PathLike`):
            Folder with `appearance_encoder/`, `densepose_controlnet/` and `temporal_attention.ckpt`, or
            `temporal_attention/temporal_attention.ckpt`. Spatial layers in that file override those of `base`.
        base (`str` or `os.PathLike`):
            Folder of Stable Diffusion 1.5 in the layout of diffusers: UNet, text encoder, tokenizer and VAE.
        vae (`str` or `os.PathLike`, *optional*):
            Folder of another `AutoencoderKL`; MagicAnimate uses `sd-vae-ft-mse`.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of the sources that may be unused, and keys of a component that may be missing; these are initialized.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.

    Returns:
        [`Conversion`]: The [`HIAPipeline`], whose conditioning frames are DensePose maps with 3 channels.

    Raises:
        FileNotFoundError: If a folder or file is missing.
        ValueError: If a file cannot be read, or keys are unused or missing.
    """
    folder, base = as_folder("weights", weights), as_folder("base", base)
    encoder_folder, controlnet_folder = folder / "appearance_encoder", folder / "densepose_controlnet"
    motion_file = find_file(
        "weights",
        folder / "temporal_attention.ckpt",
        folder / "temporal_attention" / "temporal_attention.ckpt",
    )
    files = {
        "encoder": find_weights("weights", encoder_folder),
        "controlnet": find_weights("weights", controlnet_folder),
        "unet": find_weights("base", base / "unet"),
    }
    check_text_encoder("base", base)
    vae_source = find_vae(base, vae)
    configs = {
        "encoder": read_config("weights", encoder_folder),
        "controlnet": read_config("weights", controlnet_folder),
        "unet": read_config("base", base / "unet"),
    }

    motion = read_state_dict("weights", motion_file)
    unet = empty_motion_unet(
        configs["unet"],
        motion_max_seq_length=motion_max_seq_length(motion),
        use_motion_mid_block=has_motion_mid_block(motion),
        **UNET_OPTIONS,
    )
    with torch.device("meta"):
        appearance_encoder = HIAAppearanceEncoder.from_config(configs["encoder"])
        # The configuration of a diffusers ControlNet may omit the default of 3 channels.
        controlnet = HIAControlNetModel.from_config({"conditioning_channels": 3, **configs["controlnet"]})

    spatial = (read_state_dict("base", files["unet"]), TABLES["spatial"])
    rows = fill("unet", unet, [spatial, (motion, TABLES["temporal_attention"])], allow, dtype)
    source = (read_state_dict("weights", files["encoder"]), TABLES["appearance_encoder"])
    rows += fill("appearance_encoder", appearance_encoder, [source], allow, dtype)
    source = (read_state_dict("weights", files["controlnet"]), TABLES["controlnet"])
    rows += fill("controlnet", controlnet, [source], allow, dtype)
    autoencoder, vae_rows = load_vae(*vae_source, allow, dtype)
    text_encoder, tokenizer, text_rows = load_text_encoder("base", base, allow, dtype)
    pipeline = HIAPipeline(
        vae=autoencoder,
        image_encoder=None,
        unet=unet,
        appearance_encoder=appearance_encoder,
        controlnet=controlnet,
        scheduler=ShiftedSNRScheduler(snr_shift_factor=1.0, timestep_spacing="leading", steps_offset=1),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        reference_timestep="current",
        unconditional_controlnet=True,
        call_defaults=CALL_DEFAULTS,
    )
    return Conversion(pipeline, ConversionReport((*rows, *vae_rows, *text_rows)))
