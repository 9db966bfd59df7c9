# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments that become arrays: images in any accepted form, and numbers."""

import numpy as np
import PIL.Image
import torch

from .. import checks
from ..images import load_image


def image_array(frames: object) -> np.ndarray:
    """Convert images in any accepted form to uint8 `(F, H, W, 3)`."""
    if isinstance(frames, (list, tuple)) and frames and all(isinstance(frame, PIL.Image.Image) for frame in frames):
        sizes = sorted({frame.size for frame in frames})
        if len(sizes) > 1:
            raise ValueError(f"`frames` must all have one size, got (width, height) of {sizes}.")
        return np.stack([np.asarray(load_image(frame, "frames")) for frame in frames])
    if isinstance(frames, torch.Tensor):
        if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
            raise ValueError(
                f"`frames` as a tensor must be floating point (F, 3, H, W), got {frames.dtype} {tuple(frames.shape)}."
            )
        frames = frames.detach().float().cpu().numpy().transpose(0, 2, 3, 1)
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"`frames` must be a list of PIL images, an array or a tensor, got {type(frames).__name__}.")
    if np.ma.is_masked(frames):
        raise ValueError("`frames` is a masked array; fill it first, for example with its method `filled`.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0:
        raise ValueError(f"`frames` must have shape (F, H, W, 3) with F >= 1, got {frames.shape}.")
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind != "f" or not (frames.min() >= 0 and frames.max() <= 1):
        raise ValueError(f"`frames` must be uint8 or floating point in [0, 1], got {frames.dtype} outside of it.")
    return (frames * 255).round().astype(np.uint8)


def float_array(name: str, values: object) -> np.ndarray:
    """Convert numbers to float64."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be numbers, got {checks.shown(values)}.") from error
