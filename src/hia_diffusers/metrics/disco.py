# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""DisCo's evaluation (arXiv 2307.00040), which tables of the field use: its metrics here, and what differs."""

from collections.abc import Mapping
from typing import Any


# DisCo's code starts a clip of FID-VID and FVD at every frame.
CLIP_STRIDE = 1

# DisCo's metrics, and their names here.
NAMES = {
    "L1": "disco_l1",
    "PSNR": "psnr",
    "SSIM": "ssim",
    "LPIPS": "disco_lpips",
    "FID": "FID",
    "FID-VID": "FID-VID",
    "FVD": "FVD",
}

# Options that provide the networks of metrics.
OPTIONS = {"LPIPS": "--lpips", "FID": "--inception", "FID-VID": "--resnet3d", "FVD": "--i3d"}

# What differs from DisCo's code in every run.
ALWAYS = {
    "L1": "divided by the number of pixels, as there: compare it only with values for frames of the same size",
    "PSNR": "in floating point, as in DisCo's current code; older tables were made with 8-bit differences",
    "SSIM": "grey images are not rounded to integers; the difference is below 0.002",
    "FID": "frames are resized to 299x299 as by TensorFlow 1 (torch-fidelity), not as by PyTorch (pytorch-fid)",
}


def differences(metrics: Mapping[str, Any], lpips_network: str, pad_fid: bool, clip_stride: int) -> dict[str, str]:
    """Return what distinguishes values from those of DisCo's code, by DisCo's metric.

    Args:
        metrics (`Mapping[str, Any]`):
            Result of [`VideoEvaluation.metrics`].
        lpips_network (`str`):
            Backbone of LPIPS.
        pad_fid (`bool`):
            Whether frames were padded for FID.
        clip_stride (`int`):
            Frames between the starts of clips, for FID-VID and FVD.

    Returns:
        `dict[str, str]`: A sentence for each metric with a difference.
    """
    found = {}
    for name, ours in NAMES.items():
        notes = [ALWAYS[name]] if name in ALWAYS else []
        if name == "LPIPS" and lpips_network != "vgg":
            notes.append(f"its backbone is {lpips_network}, not vgg")
        if name == "FID" and pad_fid:
            notes.append("frames are padded to squares (--pad_fid)")
        if name in ("FID-VID", "FVD") and clip_stride != CLIP_STRIDE:
            notes.append(f"a clip starts at every {clip_stride}th frame, not at every frame (--clip_stride)")
        if ours not in metrics:
            notes = [f"not computed: give {OPTIONS[name]}"]
        if notes:
            found[name] = "; ".join(notes)
    return found


def table(metrics: Mapping[str, Mapping[str, Any]], notes: Mapping[str, str]) -> str:
    """Format one line per metric of DisCo: its value, and what differs.

    Args:
        metrics (`Mapping[str, Mapping[str, Any]]`):
            Result of [`VideoEvaluation.metrics`].
        notes (`Mapping[str, str]`):
            Result of [`differences`].
    """
    lines = [f"{'DisCo':10}{'value':>12}  differs from DisCo's code"]
    for name, ours in NAMES.items():
        value = metrics.get(ours, {}).get("value")
        text = "-" if value is None else f"{value:.5g}"
        lines.append(f"{name:10}{text:>12}  {notes.get(name, 'no difference')}")
    return "\n".join(lines)
