# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The sharpness of hands: the variance of the Laplacian of a box (Eq. 3), and the sharpness that is requested."""

import cv2
import numpy as np
import PIL.Image

from .. import checks
from .arrays import float_array


# Sharpness is measured only if at least this fraction of the hand box's side lies in the image.
MIN_VISIBLE_SIDE = 0.25

# Standard deviation, in pixels at `sharpness_side`, of the Gaussian before the Laplacian. The finest details of a
# resized image depend more on the resizing than on its sharpness.
SHARPNESS_SMOOTHING = 0.7


def sharpness_array(sharpness: object, num_frames: int) -> np.ndarray | None:
    """Convert the requested sharpness to an array.

    Args:
        sharpness (`str`, `float`, `Sequence[float]` or `np.ndarray`):
            As for [`MotionBlurConditioner.__call__`].
        num_frames (`int`):
            F.

    Returns:
        `np.ndarray`, *optional*: float64 `(F, 2)`, NaN if unknown; `None` for "auto".
    """
    accepted = (
        f'"auto", "unknown", a number in [0, 1], two of them (left, right) or an array of shape ({num_frames}, 2)'
    )
    if isinstance(sharpness, str) and sharpness in ("auto", "unknown"):
        return None if sharpness == "auto" else np.full((num_frames, 2), np.nan)
    if isinstance(sharpness, (str, bool, np.bool_)):
        raise TypeError(f"`sharpness` must be {accepted}, got {checks.shown(sharpness)}.")
    array = float_array("sharpness", sharpness)
    if array.shape not in ((), (2,), (num_frames, 2)):
        raise ValueError(f"`sharpness` must be {accepted}, got an array of shape {array.shape}.")
    if (array.ndim < 2 and np.isnan(array).any()) or (array < 0).any() or (array > 1).any():
        raise ValueError(f"`sharpness` must be {accepted}, got {checks.shown(sharpness)}.")
    return np.broadcast_to(array, (num_frames, 2))


def laplacian_variance(grey: PIL.Image.Image, box: np.ndarray, side: int) -> float:
    """Return the variance of the Laplacian of a box resized to a side; NaN if too little of it lies in the image."""
    low, high = box[:2].clip(0), box[2:].clip(max=grey.size)
    visible = visible_parts(box, grey.size)
    if visible.min() < MIN_VISIBLE_SIDE:
        return np.nan
    size = tuple(np.rint(side * visible).astype(int).tolist())
    # Among Pillow's antialiasing filters, bilinear makes the value depend least on the size of the hand.
    crop = np.asarray(grey.resize(size, PIL.Image.Resampling.BILINEAR, box=(*low.tolist(), *high.tolist())))
    crop = cv2.GaussianBlur(crop, (0, 0), SHARPNESS_SMOOTHING)
    neighbours = crop[:-2, 1:-1] + crop[2:, 1:-1] + crop[1:-1, :-2] + crop[1:-1, 2:]
    return float(np.var(neighbours - 4 * crop[1:-1, 1:-1]))


def visible_parts(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the fraction of the width and of the height of boxes `(..., 4)` that lies in an image."""
    low, high = boxes[..., :2].clip(0), boxes[..., 2:].clip(max=size)
    return (high - low) / (boxes[..., 2:] - boxes[..., :2])
