# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of ControlNets of Stable Diffusion 1.5, such as that of OpenPose, which have fewer input channels."""

import os
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import ControlNetModel

from .. import checks
from ..models.controlnet import HIAControlNetModel
from ..state_dicts import read_state_dict
from .converted import Conversion, ConversionReport
from .key_tables import ComponentKeys, KeyTable, fill, is_allowed, shortened
from .single_files import load_from_single_file, read_described_config
from .weight_files import as_folder, find_weights, read_config


HUB_ID = "lllyasviel/control_v11p_sd15_openpose"
TABLE = KeyTable()  # the layout of diffusers
SINGLE_FILE_PREFIX = "control_model."
MAX_CHANNELS = 64  # of conditioning frames


def convert_controlnet(
    weights: str | os.PathLike,
    conditioning_channels: int = 6,
    config: str | os.PathLike = HUB_ID,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert a ControlNet, and extend it by input channels of zero weight, which leave its output unchanged.

    Args:
        weights (`str` or `os.PathLike`):
            Folder of a `ControlNetModel` in the layout of diffusers, or a single file in the original layout, such as
            `control_v11p_sd15_openpose.pth`.
        conditioning_channels (`int`, *optional*, defaults to 6):
            Input channels of the result, at least as many as the source has.
        config (`str` or `os.PathLike`, *optional*, defaults to `"lllyasviel/control_v11p_sd15_openpose"`):
            For a single file: local folder or Hub id of a `ControlNetModel` with the same configuration.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of the source that may be unused, and keys of the ControlNet that may be missing; these are
            initialized.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.

    Returns:
        [`Conversion`]: The [`HIAControlNetModel`].

    Raises:
        FileNotFoundError: If `weights` does not exist, or a part is missing.
        ValueError: If a file cannot be read, keys are unused or missing, or the source has more channels than that.
    """
    if type(conditioning_channels) is not int or not 1 <= conditioning_channels <= MAX_CHANNELS:
        raise ValueError(
            f"`conditioning_channels` must be an integer from 1 to {MAX_CHANNELS}, got {conditioning_channels!r}."
        )
    if Path(checks.path("weights", weights)).is_file():
        plain, rows = _from_single_file(Path(weights), str(config), allow, dtype)
    else:
        folder = as_folder("weights", weights)
        path = find_weights("weights", folder)
        with torch.device("meta"):
            plain = ControlNetModel.from_config(read_config("weights", folder))
        rows = fill("controlnet", plain, [(read_state_dict("weights", path), TABLE)], allow, dtype)
    model = HIAControlNetModel.from_controlnet(plain, conditioning_channels)
    if conditioning_channels > plain.config.conditioning_channels:
        first = f"controlnet_cond_embedding.conv_in.weight[:, {plain.config.conditioning_channels}:]"
        rows.append(ComponentKeys("controlnet", "new", made=(first,)))
    return Conversion(model.eval(), ConversionReport(tuple(rows)))


def _from_single_file(
    path: Path, config: str, allow: Collection[str], dtype: torch.dtype
) -> tuple[ControlNetModel, list[ComponentKeys]]:
    read_described_config("controlnet", ControlNetModel, config)
    tensors = read_state_dict("weights", path).tensors
    taken = [key for key in tensors if key.startswith(SINGLE_FILE_PREFIX)]
    left = [key for key in tensors if not key.startswith(SINGLE_FILE_PREFIX)]
    refused = [key for key in left if not is_allowed(key, allow)]
    if not taken or refused:
        others = f"has {len(refused)} others: {shortened(refused)}" if refused else "has none"
        raise ValueError(
            f"`weights`: {path} must contain a ControlNet and nothing else, with keys that start with"
            f" {SINGLE_FILE_PREFIX}, but {others}; list keys that may be unused in `allow`."
        )
    model = load_from_single_file(
        "controlnet", ControlNetModel, path, {key: tensors[key] for key in taken}, config, dtype
    )
    return model, [ComponentKeys("controlnet", str(path), tuple(taken), left=tuple(left))]
