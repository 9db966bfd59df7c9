# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Motion modules in the layout of AnimateDiff, which MagicAnimate, Moore-AnimateAnyone and Champ also use."""

import os
import re
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import MotionAdapter

from .. import checks
from ..state_dicts import StateDict, read_state_dict
from .converted import Conversion, ConversionReport
from .key_tables import KeyTable, fill
from .weight_files import find_file


# A file contains each position embedding twice, once per attention layer of a module; diffusers has it once. Spatial
# layers, which some files have too, keep their keys.
MOTION_TABLE = KeyTable(
    renames=(
        (r"^module\.", ""),
        (r"^unet\.", ""),
        (r"\.temporal_transformer\.", "."),
        (r"\.attention_blocks\.[01]\.pos_encoder\.pe$", ".pos_embed.pe"),
        (r"\.attention_blocks\.0\.", ".attn1."),
        (r"\.attention_blocks\.1\.", ".attn2."),
        (r"\.norms\.0\.", ".norm1."),
        (r"\.norms\.1\.", ".norm2."),
        (r"\.ff_norm\.", ".norm3."),
    )
)


def motion_max_seq_length(weights: StateDict) -> int:
    """Return the maximum number of frames that the motion modules support.

    Args:
        weights ([`StateDict`]):
            Weights with motion modules.

    Raises:
        ValueError: If they contain no position embedding, or are in the layout of diffusers.
    """
    for key, tensor in weights.tensors.items():
        if key.endswith(".pos_encoder.pe") and tensor.ndim == 3:
            return tensor.shape[1]
    if any(key.endswith(".pos_embed.pe") for key in weights.tensors):
        raise ValueError(
            f"`{weights.argument}`: {weights.path} must contain motion modules in the layout of AnimateDiff, but has "
            "that of diffusers, which needs no conversion: `MotionAdapter.load_state_dict` accepts it."
        )
    raise ValueError(
        f"`{weights.argument}`: {weights.path} must contain motion modules in the layout of AnimateDiff, but has no"
        " position embeddings, whose keys end in pos_encoder.pe."
    )


def has_motion_mid_block(weights: StateDict) -> bool:
    """Return whether there is a motion module in the middle block.

    Args:
        weights ([`StateDict`]):
            Weights with motion modules.
    """
    return any("mid_block.motion_modules." in key for key in weights.tensors)


def convert_motion_adapter(
    weights: str | os.PathLike,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert a motion adapter of AnimateDiff.

    Args:
        weights (`str` or `os.PathLike`):
            File of a motion module: version 1 (`mm_sd_v14.ckpt`, `mm_sd_v15.ckpt`), 2 (`mm_sd_v15_v2.ckpt`) or 3
            (`v3_sd15_mm.ckpt`), as `.ckpt` or `.safetensors`.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of the file that may be unused, and keys of the adapter that may be missing and are then initialized.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.

    Returns:
        [`Conversion`]: The `MotionAdapter`, for [`HIAUNetMotionModel.from_unet2d`] and for training. AnimateDiff
        computes what a UNet with `motion_norm="frame"` (and, for version 1 only, `resnet_norm="clip"`) computes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or keys are left or missing.
    """
    state_dict = read_state_dict("weights", find_file("weights", Path(checks.path("weights", weights))))
    length = motion_max_seq_length(state_dict)
    channels = {}
    for key, tensor in state_dict.tensors.items():
        if match := re.search(r"down_blocks\.(\d+)\.motion_modules\.0\.temporal_transformer\.norm\.weight$", key):
            channels[int(match[1])] = tensor.shape[0]
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=tuple(channels[i] for i in sorted(channels)),
            motion_max_seq_length=length,
            use_motion_mid_block=has_motion_mid_block(state_dict),
        )
    rows = fill("motion_adapter", adapter, [(state_dict, MOTION_TABLE)], allow, dtype)
    return Conversion(adapter, ConversionReport(tuple(rows)))
