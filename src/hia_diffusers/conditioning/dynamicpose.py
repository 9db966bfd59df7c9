# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pose map of DynamicPose: a skeleton with other colours and thinner lines than OpenPose's, and with feet.

Axes: H, W, K keypoints.
"""

import math

import cv2
import numpy as np

from .keypoints import WholeBodyKeypoints
from .whole_body import (
    BODY,
    LEFT_ANKLE,
    LEFT_EAR,
    LEFT_ELBOW,
    LEFT_EYE,
    LEFT_HAND,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    LEFT_WRIST,
    NOSE,
    RIGHT_ANKLE,
    RIGHT_EAR,
    RIGHT_ELBOW,
    RIGHT_EYE,
    RIGHT_HAND,
    RIGHT_HIP,
    RIGHT_KNEE,
    RIGHT_SHOULDER,
    RIGHT_WRIST,
)


NECK = 17  # after the 17 points of the body

# RGB colours of the body points, and limbs with theirs, in drawing order.
BODY_COLORS = (
    *((0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 0, 255), (0, 255, 255), (0, 255, 85)),
    *((255, 75, 0), (85, 255, 0), (170, 255, 0), (255, 0, 170), (255, 0, 85), (255, 85, 0)),
    *((255, 255, 0), (255, 0, 85), (255, 0, 170), (255, 0, 255), (170, 0, 255), (85, 0, 255)),
)
LIMBS = (
    ((LEFT_KNEE, LEFT_ANKLE), (0, 255, 0)),
    ((LEFT_HIP, LEFT_KNEE), (255, 0, 0)),
    ((NECK, LEFT_HIP), (0, 255, 255)),
    ((RIGHT_KNEE, RIGHT_ANKLE), (255, 175, 0)),
    ((RIGHT_HIP, RIGHT_KNEE), (0, 0, 255)),
    ((NECK, RIGHT_HIP), (255, 0, 255)),
    ((LEFT_ELBOW, LEFT_WRIST), (85, 255, 0)),
    ((LEFT_SHOULDER, LEFT_ELBOW), (0, 85, 255)),
    ((NECK, LEFT_SHOULDER), (255, 0, 0)),
    ((RIGHT_ELBOW, RIGHT_WRIST), (0, 175, 255)),
    ((RIGHT_SHOULDER, RIGHT_ELBOW), (255, 85, 0)),
    ((NECK, RIGHT_SHOULDER), (0, 255, 0)),
    ((LEFT_EYE, LEFT_EAR), (255, 0, 255)),
    ((RIGHT_EYE, RIGHT_EAR), (0, 255, 255)),
    ((NOSE, RIGHT_EYE), (255, 0, 0)),
    ((NOSE, LEFT_EYE), (0, 255, 0)),
    ((NECK, NOSE), (0, 0, 255)),
)

# The root of a hand, and the three points of each finger that are drawn.
FINGERS = ((0, 2, 3, 4), (0, 5, 6, 8), (0, 9, 10, 12), (0, 13, 14, 16), (0, 17, 18, 20))
FINGER_COLORS = ((0, 0, 255), (0, 255, 0), (255, 0, 255), (255, 255, 0), (0, 255, 255))
# A hand is left out if the length of a finger deviates by more than this from the mean of the others.
MAX_DEVIATION = (1, 0.65, 0.6, 0.65, 1)

# Per foot: ankle, big toe, small toe and heel, and the colour of the line.
FEET = (((LEFT_ANKLE, 17, 18, 19), (255, 0, 255)), ((RIGHT_ANKLE, 20, 21, 22), (0, 255, 0)))
WHITE = (255, 255, 255)

# Least scores of points that are drawn.
BODY_SCORE, HAND_SCORE = 0.4, 0.65
ANKLE_SCORE = WRIST_SCORE = FOOT_SCORE = 0.6


def draw_dynamicpose(keypoints: WholeBodyKeypoints) -> np.ndarray:
    """Draw the body, hands and feet of every frame.

    The widths of lines grow with the height of the frames. Which points are drawn depends on scores as in the
    original.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person to draw.

    Returns:
        `np.ndarray`: uint8 RGB images `(F, H, W, 3)` on black.
    """
    maps = np.zeros((len(keypoints), keypoints.height, keypoints.width, 3), dtype=np.uint8)
    is_near = (np.abs(keypoints.xy) < 2**15 - 1).all(axis=-1)  # OpenCV stores coordinates in fixed point
    width, hand_width = math.ceil(keypoints.height / 256), math.ceil(keypoints.height / 512)
    for canvas, xy, score in zip(
        maps, keypoints.xy.astype(np.float64), np.where(is_near, keypoints.score, 0), strict=True
    ):
        _draw_body(canvas, xy[BODY], score[BODY], width)
        for hand, wrist in ((LEFT_HAND, LEFT_WRIST), (RIGHT_HAND, RIGHT_WRIST)):
            if score[wrist] > WRIST_SCORE and _is_plausible(xy[hand]):
                _draw_hand(canvas, xy[hand], score[hand], hand_width)
        for (ankle, *foot), color in FEET:
            if score[ankle] > ANKLE_SCORE and (score[foot] >= FOOT_SCORE).all():
                _draw_foot(canvas, xy[foot], color, width)
    return maps


def _draw_body(canvas: np.ndarray, xy: np.ndarray, score: np.ndarray, width: int) -> None:
    shoulders = [LEFT_SHOULDER, RIGHT_SHOULDER]
    xy = np.append(xy, [xy[shoulders].mean(axis=0)], axis=0)
    score = np.append(score, score[shoulders].mean())
    least = np.full(len(xy), BODY_SCORE)
    least[[LEFT_ANKLE, RIGHT_ANKLE]] = ANKLE_SCORE
    drawn = (score >= least) & np.isfinite(xy).all(axis=-1)
    for point, color in zip(xy[drawn], np.array(BODY_COLORS)[drawn].tolist(), strict=True):
        _draw_point(canvas, point, width, color)
    for (start, end), color in LIMBS:
        if drawn[start] and drawn[end]:
            center_x, center_y = ((xy[start] + xy[end]) / 2).astype(int).tolist()
            dx, dy = xy[end] - xy[start]
            axes = (int(math.sqrt(dx**2 + dy**2) / 2), width)
            angle = int(math.degrees(math.atan2(dy, dx)))
            outline = cv2.ellipse2Poly((center_x, center_y), axes, angle, 0, 360, 1)
            cv2.fillConvexPoly(canvas, np.asarray(outline), color)


def _is_plausible(hand: np.ndarray) -> bool:
    """Return whether no finger is far longer or shorter than the others; missing points are not judged."""
    lengths = np.array([np.linalg.norm(np.diff(hand[list(finger)], axis=0), axis=-1).sum() for finger in FINGERS])
    others = np.array([np.delete(lengths, finger).mean() for finger in range(len(FINGERS))])
    return not (np.abs(lengths - others) > others * MAX_DEVIATION).any()


def _draw_hand(canvas: np.ndarray, xy: np.ndarray, score: np.ndarray, width: int) -> None:
    drawn = score >= HAND_SCORE
    for point in sorted({point for finger in FINGERS for point in finger}):
        if drawn[point]:
            _draw_point(canvas, xy[point], width, WHITE)
    for finger, color in zip(FINGERS, FINGER_COLORS, strict=True):
        for start, end in zip(finger, finger[1:], strict=False):
            if drawn[start] and drawn[end]:
                cv2.line(canvas, xy[start].astype(int).tolist(), xy[end].astype(int).tolist(), color, width)


def _draw_foot(canvas: np.ndarray, foot: np.ndarray, color: tuple[int, int, int], width: int) -> None:
    toes, heel = (foot[0] + foot[1]) / 2, foot[2]
    for point in (heel, toes):
        _draw_point(canvas, point, width, WHITE)
    cv2.line(canvas, heel.astype(int).tolist(), toes.astype(int).tolist(), color, width)


def _draw_point(canvas: np.ndarray, point: np.ndarray, radius: int, color: tuple[int, ...]) -> None:
    cv2.circle(canvas, point.astype(int).tolist(), radius, color, thickness=-1)
