# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Tracking of people from frame to frame by their boxes.

Axes: F frames, P people in a frame. A box is x0, y0, x1, y1 in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_area, box_iou


# A box continues a track if its intersection over union with the expected position is at least this.
MIN_OVERLAP = 0.2

# Maximum motion of a person per second, in longer sides of the box; a sprinter runs 6 body heights.
MAX_SPEED = 6.0

# Number of frames for which a missed person is also expected at the extrapolated position.
MAX_FRAMES_MOVED_ON = 8

# A single person may be missed for this many seconds, or for one frame, and keeps the track wherever they reappear.
MAX_GAP = 1.0


def follow_boxes(boxes: Sequence[np.ndarray], fps: float) -> list[np.ndarray]:
    """Track everyone.

    Args:
        boxes (`Sequence[np.ndarray]`):
            The boxes of the people `(P, 4)` in each frame.
        fps (`float`):
            Frames per second, which determine how far a person may move between frames.

    Returns:
        `list[np.ndarray]`: For each frame, the track numbers of its people `(P,)`.
    """
    tracks = _follow_each(boxes, MAX_SPEED / fps)
    return _joined_where_alone(tracks, max(2.0, MAX_GAP * fps))


def largest_track(boxes: Sequence[np.ndarray], tracks: Sequence[np.ndarray]) -> int:
    """Return the track of the person with the largest box in the first frame that shows anyone.

    Args:
        boxes, tracks (`Sequence[np.ndarray]`):
            The argument and the result of [`follow_boxes`].

    Returns:
        `int`: The track number, -1 if there is nobody.
    """
    for people, names in zip(boxes, tracks, strict=True):
        if len(people):
            return int(names[box_area(torch.from_numpy(people)).argmax()])
    return -1


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes.

    Args:
        boxes (`np.ndarray` of shape `(A, 4)`):
            First boxes.
        others (`np.ndarray` of shape `(B, 4)`):
            Second boxes.

    Returns:
        `np.ndarray` of shape `(A, B)`.
    """
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(others)).nan_to_num().numpy()


def _follow_each(boxes: Sequence[np.ndarray], reach: float) -> list[np.ndarray]:
    """Track people who move by at most `reach` sides of their boxes per frame."""
    # For each track: its last box, the preceding step of the box's centre (zero if unknown), and its age in frames.
    last, steps, ages = np.empty((0, 4)), np.empty((0, 2)), np.empty(0, dtype=int)
    tracks: list[np.ndarray] = []
    for people in boxes:
        ages += 1
        seen = ages == 1
        expected = last + np.tile(steps * np.where(ages <= MAX_FRAMES_MOVED_ON, ages, 0)[:, None], 2)
        overlap = overlaps(expected, people)
        overlap[~seen] = np.maximum(overlap, overlaps(last, people))[~seen]
        # People seen in the last frame take precedence over missed ones, whose last boxes others may cross.
        names = _matched(np.where(overlap >= MIN_OVERLAP, overlap + seen[:, None], 0))
        # A fast person may overlap neither box, for example when turning around.
        distance = _distances(expected, people)
        nearest = np.minimum(distance, _distances(last, people))
        free = seen & ~np.isin(np.arange(len(last)), names)
        further = _matched(np.where(free[:, None] & (names < 0) & (nearest <= reach), 1 / (1 + distance), 0))
        names = np.where(names < 0, further, names)

        new = names < 0
        names[new] = len(last) + np.arange(new.sum())
        last = np.concatenate([last, people[new]])
        steps = np.concatenate([steps, np.zeros((new.sum(), 2))])
        ages = np.append(ages, np.zeros(new.sum(), dtype=int))
        is_known = ages[names] == 1
        steps[names] = np.where(is_known[:, None], _middles(people) - _middles(last[names]), 0)
        last[names], ages[names] = people, 0
        tracks.append(names)
    return tracks


def _matched(ranks: np.ndarray) -> np.ndarray:
    """Match each column with a row, highest ranks first and never rank zero; -1 without a match."""
    ranks = ranks.copy()
    rows = np.full(ranks.shape[1], -1)
    while ranks.any():
        row, column = np.unravel_index(ranks.argmax(), ranks.shape)
        rows[column] = row
        ranks[row], ranks[:, column] = 0, 0
    return rows


def _middles(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _distances(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances `(A, B)` of the centres of boxes, in units of their mean longer side."""
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None] + (others[:, 2:] - others[:, :2]).max(axis=1)
    distance = np.linalg.norm(_middles(boxes)[:, None] - _middles(others), axis=-1)
    return np.divide(2 * distance, sides, out=np.full(distance.shape, np.inf), where=sides > 0)


def _joined_where_alone(tracks: Sequence[np.ndarray], max_gap: float) -> list[np.ndarray]:
    """Join consecutive tracks while nobody else is present, unless both appear in one frame."""
    frames: dict[int, set[int]] = {}
    for frame, names in enumerate(tracks):
        for name in names.tolist():
            frames.setdefault(name, set()).add(frame)
    joined = {name: name for name in frames}

    before, now = -1, -1
    for frame, names in enumerate(tracks):
        if not len(names):
            continue
        before, now = now, frame
        if before < 0 or len(names) > 1 or len(tracks[before]) > 1 or now - before > max_gap:
            continue
        first, second = (_root(joined, int(tracks[number][0])) for number in (before, now))
        if first != second and frames[first].isdisjoint(frames[second]):
            frames[first] |= frames.pop(second)
            joined[second] = first
    return [np.array([_root(joined, name) for name in names.tolist()], dtype=int) for names in tracks]


def _root(joined: dict[int, int], name: int) -> int:
    while joined[name] != name:
        joined[name] = name = joined[joined[name]]
    return name
