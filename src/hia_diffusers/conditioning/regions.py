# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Face boxes, and conversion of boxes to masks. Hand boxes are those of `MotionBlurConditioner`.

Axes: F frames, H, W. Pixels follow the convention of `keypoints.py`.
"""

import numpy as np

from .keypoints import WholeBodyKeypoints
from .whole_body import FACE, SCORE_THRESHOLD


# Extension beyond the landmarks, which end at the brows, in units of their extent.
FACE_MARGIN = 0.1
FOREHEAD = 0.4
MIN_FACE_POINTS = 3


def face_boxes(keypoints: WholeBodyKeypoints, score_threshold: float = SCORE_THRESHOLD) -> np.ndarray:
    """Return boxes around the face, up to the hair.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person in each of the F frames.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points are visible when their score is above this.

    Returns:
        `np.ndarray`: float32 `(F, 4)`, `x0, y0, x1, y1` in pixels. Boxes may extend beyond the image; NaN if fewer
        than 3 points of the face are visible.
    """
    boxes = np.full((len(keypoints), 4), np.nan, dtype=np.float32)
    visible = keypoints.score[:, FACE] > score_threshold
    for frame in np.flatnonzero(visible.sum(axis=1) >= MIN_FACE_POINTS):
        points = keypoints.xy[frame, FACE][visible[frame]]
        low, high = points.min(axis=0), points.max(axis=0)
        width, height = high - low
        boxes[frame, :2] = low - (FACE_MARGIN * width, FOREHEAD * height)
        boxes[frame, 2:] = high + (FACE_MARGIN * width, FACE_MARGIN * height)
    return boxes


def box_masks(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels whose centres lie in a box.

    Args:
        boxes (`np.ndarray` of shape `(..., 4)`):
            `x0, y0, x1, y1` in pixels; a box of NaN contains no pixel.
        height (`int`):
            Height of the image in pixels.
        width (`int`):
            Width of the image in pixels.

    Returns:
        `np.ndarray`: bool `(..., H, W)`.
    """
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    x0, y0, x1, y1 = np.moveaxis(boxes[..., None], -2, 0)
    columns, rows = (x0 <= x) & (x <= x1), (y0 <= y) & (y <= y1)
    return rows[..., :, None] & columns[..., None, :]
