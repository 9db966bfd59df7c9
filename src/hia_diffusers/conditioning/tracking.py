# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Who is who from frame to frame, told by boxes alone.

Axes: F frames, P people in a frame. A box is x0, y0, x1, y1 in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_area, box_iou


# A box continues a person's track where intersection over union with the place where he is expected is at least this.
MIN_OVERLAP = 0.2

# A person may move by so many times the longer side of his box in a second; a sprinter runs 6 of his heights.
MAX_SPEED = 6.0

# For so many frames someone who is missed is also expected where his last step leads.
MAX_FRAMES_MOVED_ON = 8

# A person who was alone may be missed for so many seconds, or for one frame, and is the same wherever he is next.
MAX_GAP = 1.0


def follow_boxes(boxes: Sequence[np.ndarray], fps: float) -> list[np.ndarray]:
    """
    Tracks of everyone.

    Args:
        boxes (`Sequence[np.ndarray]`):
            The people `(P, 4)` of each frame.
        fps (`float`):
            Frames per second: how far a person may move from one frame to the next depends on it.

    Returns:
        `list[np.ndarray]`: for each frame, the number of the track that each of its people belongs to, `(P,)`.
    """
    tracks = _follow_each(boxes, MAX_SPEED / fps)
    return _joined_where_alone(tracks, max(2.0, MAX_GAP * fps))


def largest_track(boxes: Sequence[np.ndarray], tracks: Sequence[np.ndarray]) -> int:
    """
    Of the person with the largest box in the first frame with someone.

    Args:
        boxes, tracks (`Sequence[np.ndarray]`):
            What [`follow_boxes`] was given, and what it returned.

    Returns:
        `int`: the number of the track, -1 where there is nobody.
    """
    for people, names in zip(boxes, tracks, strict=True):
        if len(people):
            return int(names[box_area(torch.from_numpy(people)).argmax()])
    return -1


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """
    Intersection over union.

    Args:
        boxes (`np.ndarray` of shape `(A, 4)`):
            Some boxes.
        others (`np.ndarray` of shape `(B, 4)`):
            Others.

    Returns:
        `np.ndarray` of shape `(A, B)`.
    """
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(others)).nan_to_num().numpy()


def _follow_each(boxes: Sequence[np.ndarray], reach: float) -> list[np.ndarray]:
    """Tracks of people who move by at most `reach` sides of their boxes in a frame."""
    # Of every track its last box, the step of the box's middle to there from the frame before, zero where that is
    # unknown, and how many frames ago it was.
    last, steps, ages = np.empty((0, 4)), np.empty((0, 2)), np.empty(0, dtype=int)
    tracks: list[np.ndarray] = []
    for people in boxes:
        ages += 1
        seen = ages == 1
        expected = last + np.tile(steps * np.where(ages <= MAX_FRAMES_MOVED_ON, ages, 0)[:, None], 2)
        overlap = overlaps(expected, people)
        overlap[~seen] = np.maximum(overlap, overlaps(last, people))[~seen]
        # Who was seen in the last frame goes before the missed, whose last boxes others may walk through.
        names = _matched(np.where(overlap >= MIN_OVERLAP, overlap + seen[:, None], 0))
        # The box of someone fast may overlap neither, as where he turns round.
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
    """For each column the row that it is matched with, -1 for none: the highest ranks first, none of zero."""
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
    """Between the middles of boxes, in their mean longer side `(A, B)`."""
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None] + (others[:, 2:] - others[:, :2]).max(axis=1)
    distance = np.linalg.norm(_middles(boxes)[:, None] - _middles(others), axis=-1)
    return np.divide(2 * distance, sides, out=np.full(distance.shape, np.inf), where=sides > 0)


def _joined_where_alone(tracks: Sequence[np.ndarray], max_gap: float) -> list[np.ndarray]:
    """Tracks that follow one another while nobody else is there are one person, unless both are seen in one frame."""
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
