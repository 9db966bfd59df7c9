# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The OpenPose map, as pretrained OpenPose ControlNets expect it.

At `line_scale=1.0` the pixels equal those of controlnet-aux's `OpenposeDetector` for the same points. That is why
coordinates are divided by the image's size and multiplied by it again, hands and faces in float32, and why hand and
face points in the first row or column are omitted: the detector marks a missing point that way.

Axes: F frames, H, W.
"""

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np

from .keypoints import FACE, LEFT_HAND, RIGHT_HAND, SCORE_THRESHOLD, WholeBodyKeypoints


# Pairs of OpenPose's 18 body points (0 nose, 1 neck, 2-4 right arm, 5-7 left arm, 8-10 right leg, 11-13 left leg,
# 14-15 eyes, 16-17 ears, right before left), in drawing order.
BODY_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
HAND_BONES = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1) for finger in range(5) for joint in range(4)
)

# RGB colours of the 18 body points; the i-th limb has the i-th colour, dimmed.
BODY_COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
HAND_BONE_COLORS = tuple(
    tuple(255 * value for value in colorsys.hsv_to_rgb(bone / len(HAND_BONES), 1.0, 1.0))
    for bone in range(len(HAND_BONES))
)
HAND_POINT_COLOR = (0, 0, 255)
FACE_POINT_COLOR = (255, 255, 255)

LIMB_BRIGHTNESS = 0.6

# OpenCV stores coordinates in fixed point; points farther out than this are treated as missing.
MAX_COORDINATE = 2**15 - 1


def draw_openpose(
    keypoints: WholeBodyKeypoints, score_threshold: float = SCORE_THRESHOLD, line_scale: float = 1.0
) -> np.ndarray:
    """Draw the body limbs, hands and face points of every frame.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person to draw. The map does not include feet.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points are drawn when their score is above this, in `[0, 1)`.
        line_scale (`float`, *optional*, defaults to `1.0`):
            Factor on stick widths and point radii, for images much smaller than 512 pixels.

    Returns:
        `np.ndarray`: uint8 RGB images `(F, H, W, 3)` on black.
    """
    maps = np.zeros((len(keypoints), keypoints.height, keypoints.width, 3), dtype=np.uint8)
    size = (keypoints.width, keypoints.height)
    body_xy, body_score = keypoints.openpose_body()
    body = _drawable(body_xy.astype(np.float64), body_score, size, score_threshold)
    points = _drawable(keypoints.xy, keypoints.score, size, score_threshold)
    points = np.where(points.min(axis=-1, keepdims=True) < 1, np.nan, points)
    for canvas, body_points, frame_points in zip(maps, body, points, strict=True):
        _draw_body(canvas, body_points, line_scale)
        _draw_hand(canvas, frame_points[LEFT_HAND], line_scale)
        _draw_hand(canvas, frame_points[RIGHT_HAND], line_scale)
        _draw_points(canvas, frame_points[FACE], [FACE_POINT_COLOR] * 68, round(3 * line_scale))
    return maps


def _drawable(xy: np.ndarray, score: np.ndarray, size: tuple[int, int], score_threshold: float) -> np.ndarray:
    """Return coordinates rounded as the detector's normalized points are, NaN for points that are not drawn."""
    divisor = np.asarray(size, dtype=xy.dtype)
    visible = (score > score_threshold) & (np.abs(xy) < MAX_COORDINATE).all(axis=-1)
    return np.where(visible[..., None], xy / divisor * divisor, np.nan)


def _draw_body(canvas: np.ndarray, points: np.ndarray, line_scale: float) -> None:
    half_width = max(1, round(4 * line_scale))
    for (start, end), color in zip(BODY_LIMBS, BODY_COLORS, strict=False):
        limb = points[[start, end]]
        if np.isnan(limb).any():
            continue
        center = limb.mean(axis=0)
        dx, dy = limb[0] - limb[1]
        axes = (int(math.sqrt(dx**2 + dy**2) / 2), half_width)
        angle = int(math.degrees(math.atan2(dy, dx)))
        outline = cv2.ellipse2Poly((int(center[0]), int(center[1])), axes, angle, 0, 360, 1)
        cv2.fillConvexPoly(canvas, np.asarray(outline), [int(LIMB_BRIGHTNESS * value) for value in color])
    _draw_points(canvas, points, BODY_COLORS, round(4 * line_scale))


def _draw_hand(canvas: np.ndarray, points: np.ndarray, line_scale: float) -> None:
    for (start, end), color in zip(HAND_BONES, HAND_BONE_COLORS, strict=True):
        if not np.isnan(points[[start, end]]).any():
            first, second = points[[start, end]].astype(int).tolist()
            cv2.line(canvas, first, second, color, thickness=max(1, round(2 * line_scale)))
    _draw_points(canvas, points, [HAND_POINT_COLOR] * len(points), round(4 * line_scale))


def _draw_points(canvas: np.ndarray, points: np.ndarray, colors: Sequence[tuple[int, ...]], radius: int) -> None:
    for point, color in zip(points, colors, strict=True):
        if not np.isnan(point).any():
            cv2.circle(canvas, point.astype(int).tolist(), radius, color, thickness=-1)
