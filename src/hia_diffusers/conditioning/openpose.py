# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The OpenPose map, as pretrained OpenPose ControlNets expect it, and as other projects draw it.

At `line_scale=1.0` the pixels equal those of controlnet-aux's `OpenposeDetector` for the same points. That is why
coordinates are divided by the image's size and multiplied by it again, hands and faces in float32, and why hand and
face points in the first row or column are omitted: the detector marks a missing point that way.

Axes: F frames, H, W.
"""

import bisect
import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .keypoints import WholeBodyKeypoints
from .whole_body import FACE, LEFT_HAND, RIGHT_HAND, SCORE_THRESHOLD


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


@dataclass(frozen=True)
class OpenPoseStyle:
    """How an OpenPose map is drawn. The defaults are those of OpenPose ControlNets.

    Args:
        canvas_size (`Callable[[int, int], tuple[int, int]]`, *optional*):
            Returns, for the height and width of the frames, those of the canvas that is drawn on and then resized. By
            default, maps are drawn at the size of the frames.
        resize (`Callable[[np.ndarray, tuple[int, int]], np.ndarray]`, *optional*):
            Resizes a canvas to a width and height. Needed with `canvas_size`.
        has_face (`bool`, *optional*, defaults to `True`):
            Whether the points of the face are drawn.
        hand_radius (`int`, *optional*, defaults to 4):
            Radius of the points of hands, in pixels.
        width_steps (`tuple[int, ...]`, *optional*, defaults to `()`):
            Lengths in pixels at each of which the lines of limbs and hands become one pixel wider, starting from one.
            By default, their widths do not depend on their lengths.
        is_bgr (`bool`, *optional*, defaults to `False`):
            Whether red and blue are exchanged.
    """

    canvas_size: Callable[[int, int], tuple[int, int]] | None = None
    resize: Callable[[np.ndarray, tuple[int, int]], np.ndarray] | None = None
    has_face: bool = True
    hand_radius: int = 4
    width_steps: tuple[int, ...] = ()
    is_bgr: bool = False

    def line_width(self, length: float, usual: float) -> int:
        """Return the width of a line of a length, where it is `usual` unless it depends on the length."""
        return 1 + bisect.bisect(self.width_steps, length) if self.width_steps else max(1, round(usual))


OPENPOSE = OpenPoseStyle()


def draw_openpose(
    keypoints: WholeBodyKeypoints,
    score_threshold: float = SCORE_THRESHOLD,
    line_scale: float = 1.0,
    style: OpenPoseStyle = OPENPOSE,
) -> np.ndarray:
    """Draw the body limbs, hands and face points of every frame.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person to draw. The map does not include feet.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points are drawn when their score is above this, in `[0, 1)`.
        line_scale (`float`, *optional*, defaults to `1.0`):
            Factor on stick widths and point radii, for images much smaller than 512 pixels. It has no effect if the
            style has its own `canvas_size`.
        style ([`OpenPoseStyle`], *optional*):
            How the map is drawn. By default, as OpenPose ControlNets expect it.

    Returns:
        `np.ndarray`: uint8 RGB images `(F, H, W, 3)` on black.
    """
    height, width = keypoints.height, keypoints.width
    body_xy, body_score = keypoints.openpose_body()
    body_xy, xy = body_xy.astype(np.float64), keypoints.xy
    canvas_height, canvas_width = height, width
    if style.canvas_size is not None:
        canvas_height, canvas_width = style.canvas_size(height, width)
        line_scale, xy = 1.0, xy.astype(np.float64)
    sizes = (width, height), (canvas_width, canvas_height)
    body = _drawable(body_xy, body_score, *sizes, score_threshold)
    points = _drawable(xy, keypoints.score, *sizes, score_threshold)
    points = np.where(points.min(axis=-1, keepdims=True) < 1, np.nan, points)
    maps = np.empty((len(keypoints), height, width, 3), dtype=np.uint8)
    for index, (body_points, frame_points) in enumerate(zip(body, points, strict=True)):
        canvas = np.zeros((canvas_height, canvas_width, 3), dtype=np.uint8)
        _draw_body(canvas, body_points, line_scale, style)
        _draw_hand(canvas, frame_points[LEFT_HAND], line_scale, style)
        _draw_hand(canvas, frame_points[RIGHT_HAND], line_scale, style)
        if style.has_face:
            _draw_points(canvas, frame_points[FACE], [FACE_POINT_COLOR] * 68, round(3 * line_scale))
        if style.resize is not None and (canvas_height, canvas_width) != (height, width):
            canvas = style.resize(canvas, (width, height))
        maps[index] = canvas[..., ::-1] if style.is_bgr else canvas
    return maps


def _drawable(
    xy: np.ndarray, score: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], score_threshold: float
) -> np.ndarray:
    """Return coordinates on the canvas, rounded as the detector's normalized points are, NaN if not drawn."""
    xy = xy / np.asarray(size, dtype=xy.dtype) * np.asarray(canvas, dtype=xy.dtype)
    visible = (score > score_threshold) & (np.abs(xy) < MAX_COORDINATE).all(axis=-1)
    return np.where(visible[..., None], xy, np.nan)


def _draw_body(canvas: np.ndarray, points: np.ndarray, line_scale: float, style: OpenPoseStyle) -> None:
    for (start, end), color in zip(BODY_LIMBS, BODY_COLORS, strict=False):
        limb = points[[start, end]]
        if np.isnan(limb).any():
            continue
        center = limb.mean(axis=0)
        dx, dy = limb[0] - limb[1]
        length = math.sqrt(dx**2 + dy**2)
        axes = (int(length / 2), style.line_width(length, 4 * line_scale))
        angle = int(math.degrees(math.atan2(dy, dx)))
        outline = cv2.ellipse2Poly((int(center[0]), int(center[1])), axes, angle, 0, 360, 1)
        cv2.fillConvexPoly(canvas, np.asarray(outline), [int(LIMB_BRIGHTNESS * value) for value in color])
    _draw_points(canvas, points, BODY_COLORS, round(4 * line_scale))


def _draw_hand(canvas: np.ndarray, points: np.ndarray, line_scale: float, style: OpenPoseStyle) -> None:
    for (start, end), color in zip(HAND_BONES, HAND_BONE_COLORS, strict=True):
        if not np.isnan(points[[start, end]]).any():
            first, second = points[[start, end]].astype(int).tolist()
            thickness = style.line_width(math.dist(first, second), 2 * line_scale)
            cv2.line(canvas, first, second, color, thickness=thickness)
    _draw_points(canvas, points, [HAND_POINT_COLOR] * len(points), round(style.hand_radius * line_scale))


def _draw_points(canvas: np.ndarray, points: np.ndarray, colors: Sequence[tuple[int, ...]], radius: int) -> None:
    for point, color in zip(points, colors, strict=True):
        if not np.isnan(point).any():
            cv2.circle(canvas, point.astype(int).tolist(), radius, color, thickness=-1)
