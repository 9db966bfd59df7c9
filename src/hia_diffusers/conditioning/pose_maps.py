# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of maps that networks read, and how the authors of published checkpoints draw them from keypoints."""

import functools
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image

from .dynamicpose import draw_dynamicpose
from .keypoints import WholeBodyKeypoints
from .openpose import OpenPoseStyle, draw_openpose
from .whole_body import SCORE_THRESHOLD


# Maps that are not drawn from keypoints.
DENSEPOSE = "densepose"


def _moore_canvas(height: int, width: int) -> tuple[int, int]:
    """Return a size with a shorter side of 512, both sides multiples of 64."""
    scale = 512 / min(height, width)
    return round(height * scale / 64) * 64, round(width * scale / 64) * 64


def _musepose_canvas(height: int, width: int) -> tuple[int, int]:
    """Return a size with a shorter side of 1024, both sides even."""
    scale = 1024 / min(height, width)
    return int(scale * height // 2 * 2), int(scale * width // 2 * 2)


def _resize_lanczos(canvas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(canvas).resize(size, PIL.Image.Resampling.LANCZOS))


def _resize_area(canvas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)


MOORE = OpenPoseStyle(canvas_size=_moore_canvas, resize=_resize_lanczos)
MUSEPOSE = OpenPoseStyle(
    canvas_size=_musepose_canvas,
    resize=_resize_area,
    has_face=False,
    hand_radius=3,
    width_steps=(5, 10, 20, 40, 80, 160, 320),
    is_bgr=True,
)

# Drawing functions, which take keypoints, the least score of a point, and a factor on line widths. The maps of
# DynamicPose have least scores of their own.
POSE_MAPS: dict[str, Callable[[WholeBodyKeypoints, float, float], np.ndarray]] = {
    "openpose": draw_openpose,
    "moore-animate-anyone": functools.partial(draw_openpose, style=MOORE),
    "musepose": functools.partial(draw_openpose, style=MUSEPOSE),
    "dynamicpose": lambda keypoints, score_threshold, line_scale: draw_dynamicpose(keypoints),
}


def draw_pose_map(
    keypoints: WholeBodyKeypoints,
    pose_map: str = "openpose",
    score_threshold: float = SCORE_THRESHOLD,
    line_scale: float = 1.0,
) -> np.ndarray:
    """Draw the pose map of every frame.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person to draw.
        pose_map (`str`, *optional*, defaults to `"openpose"`):
            A name in `POSE_MAPS`: `"openpose"` as pretrained ControlNets expect it, or the name of a published
            checkpoint.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points are drawn when their score is above this, in `[0, 1)`.
        line_scale (`float`, *optional*, defaults to `1.0`):
            Factor on the line widths of `"openpose"`, for images much smaller than 512 pixels. The maps of published
            checkpoints have line widths of their own.

    Returns:
        `np.ndarray`: uint8 RGB images `(F, H, W, 3)` on black.
    """
    return POSE_MAPS[pose_map](keypoints, score_threshold, line_scale)
