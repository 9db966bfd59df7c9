# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The people of pose files: their parts in one order, and one person of each frame."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import checks
from .pose_files import PoseFrame
from .tracking import follow_boxes, largest_track
from .whole_body import (
    BODY,
    BODY_IN_OPENPOSE,
    FACE,
    FEET,
    FEET_IN_OPENPOSE_25,
    LEFT_HAND,
    NUM_KEYPOINTS,
    RIGHT_HAND,
)


_PART_SIZES = {
    **{"body": (18, 25), "coco_body": (17,), "feet": (6,)},
    **{"left_hand": (21,), "right_hand": (21,), "face": (68, 70)},
}

# In a larger image, coordinates that never exceed this value are fractions of the image.
_GREATEST_FRACTION = 2.0

logger = logging.getLogger(__name__)


def join_parts(parts: dict[str, np.ndarray]) -> np.ndarray:
    """Join parts as named by `pose_files`, each x, y, score `(n, 3)`, in COCO-WholeBody order `(133, 3)`."""
    for name, points in parts.items():
        if len(points) not in _PART_SIZES[name]:
            accepted = " or ".join(str(size) for size in _PART_SIZES[name])
            raise ValueError(f"`{name}` must have {accepted} points, got {len(points)}.")
    joined = np.full((NUM_KEYPOINTS, 3), np.nan, dtype=np.float32)
    if "body" in parts:
        body = parts["body"]
        joined[BODY] = body[BODY_IN_OPENPOSE[len(body)]]
        if len(body) == 25:
            joined[FEET] = body[FEET_IN_OPENPOSE_25]
    if "face" in parts:
        joined[FACE] = parts["face"][:68]
    for name, place in (("coco_body", BODY), ("feet", FEET), ("left_hand", LEFT_HAND), ("right_hand", RIGHT_HAND)):
        if name in parts:
            joined[place] = parts[name]
    return joined


def size_of(frames: Sequence[PoseFrame], path: Path) -> tuple[int, int] | None:
    """Return the height and width that all frames of a file state."""
    canvases = {frame.canvas for frame in frames if frame.people or frame.canvas}
    if len(canvases) > 1:
        raise ValueError(f"`path`: the frames of {path} state several sizes of their images, or some state none.")
    canvas = next(iter(canvases), None)
    return None if canvas is None else (round(canvas[0]), round(canvas[1]))


def are_fractions(frames: Sequence[np.ndarray], height: int, width: int) -> bool:
    """Return whether coordinates are fractions of the image."""
    found = [people[(people[..., 2] > 0) & np.isfinite(people).all(axis=-1)][:, :2] for people in frames]
    xy = np.concatenate([np.empty((0, 2)), *found])
    if not len(xy) or min(height, width) <= 2 * _GREATEST_FRACTION or np.abs(xy).max() > _GREATEST_FRACTION:
        return False
    if xy.min() < -0.5:
        raise ValueError("The coordinates are neither pixels nor fractions of the image from 0 to 1: save pixels.")
    return True


def select_person(frames: Sequence[np.ndarray], person: int | None, fps: float) -> np.ndarray:
    """Select the points of one person `(F, 133, 3)` from x, y, score `(P, 133, 3)` of each frame; NaN if absent."""
    most_people = max((len(people) for people in frames), default=0)
    if person is not None and not (checks.is_integer(person) and 0 <= person < max(most_people, 1)):
        raise ValueError(f"`person` must be an index below {most_people}, the most people in a frame, got {person!r}.")
    selected = np.full((len(frames), NUM_KEYPOINTS, 3), np.nan, dtype=np.float32)
    if person is not None:
        for target, people in zip(selected, frames, strict=True):
            if person < len(people):
                target[:] = people[person]
        return selected

    frames = [people[[(one[:, 2] > 0).any() for one in people]] if len(people) else people for people in frames]
    boxes = [np.reshape([_box_of(one) for one in people], (-1, 4)) for people in frames]
    tracks = follow_boxes(boxes, fps)
    track = largest_track(boxes, tracks)
    for target, people, names in zip(selected, frames, tracks, strict=True):
        for one in people[names == track]:
            target[:] = one
    most_people = max(len(people) for people in frames)
    if most_people > 1:
        found = sum(track in names for names in tracks)
        logger.warning(
            "There are up to %d people in a frame. The largest is tracked and was found in %d of %d frames.",
            *(most_people, found, len(frames)),
        )
    return selected


def _box_of(points: np.ndarray) -> np.ndarray:
    """Return the box x0, y0, x1, y1 of a person's points x, y, score."""
    found = points[(points[:, 2] > 0) & np.isfinite(points).all(axis=-1), :2]
    return np.concatenate([found.min(axis=0), found.max(axis=0)]) if len(found) else np.zeros(4)
