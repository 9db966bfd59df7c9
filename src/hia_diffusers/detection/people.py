# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The people in every frame of a clip, and tracking of one of them.

Axes: F frames, P people in a frame, K = 133 keypoints, H, W.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.tracking import MIN_OVERLAP, follow_boxes, largest_track, overlaps
from ..conditioning.whole_body import NUM_KEYPOINTS


@dataclass(eq=False)
class DetectedPeople:
    """Everyone detected in the frames of a clip.

    Each list has one array per frame, with that frame's people in the same order.

    Args:
        xy (`list[np.ndarray]`):
            Keypoints `(P, 133, 2)` in pixels, float32; NaN for missing points.
        score (`list[np.ndarray]`):
            Confidence `(P, 133)` in [0, 1], float32; 0 for missing points.
        boxes (`list[np.ndarray]`):
            Boxes `(P, 4)` as x0, y0, x1, y1 in pixels, float32. They may extend beyond the image.
        height (`int`):
            Height of the image in pixels.
        width (`int`):
            Width of the image in pixels.
        fps (`float`):
            Frames per second.
    """

    xy: list[np.ndarray]
    score: list[np.ndarray]
    boxes: list[np.ndarray]
    height: int
    width: int
    fps: float

    @property
    def counts(self) -> np.ndarray:
        """Number of people in every frame, `(F,)`."""
        return np.array([len(people) for people in self.boxes])

    def follow(self, person: Sequence[float] | None = None) -> WholeBodyKeypoints:
        """Track one person through the clip.

        All people are tracked from frame to frame, so that a neighbour's box is not taken for this person while they
        are missed. Boxes are matched first by their overlap with the positions that constant motion predicts, then by
        distance, up to 6 sides of a box per second. A missed person continues with a box that overlaps the last one
        and belongs to nobody else. A single person may move at any speed, and be missed for up to a second.

        Two people whose boxes merge and separate again may be swapped. A person who reappears elsewhere, later or next
        to others counts as new.

        Args:
            person (`Sequence[float]`, *optional*):
                x0, y0, x1, y1 in pixels. The person whose box overlaps this one most is tracked, from the first frame
                with an intersection over union of at least 0.2. By default, this is the person with the largest box in
                the first frame that shows anyone.

        Returns:
            [`WholeBodyKeypoints`]: F frames. Points are missing in frames without the person, and in all frames if
            nobody is detected.

        Raises:
            ValueError: If `person` is not a box, or nobody is detected there.
        """
        tracks = follow_boxes(self.boxes, self.fps)
        track = largest_track(self.boxes, tracks) if person is None else _track_at(person, self.boxes, tracks)
        xy = np.full((len(self.xy), NUM_KEYPOINTS, 2), np.nan, dtype=np.float32)
        score = np.zeros(xy.shape[:2], dtype=np.float32)
        for frame, names in enumerate(tracks):
            for index in np.flatnonzero(names == track):
                xy[frame], score[frame] = self.xy[frame][index], self.score[frame][index]
        return WholeBodyKeypoints(xy, score, self.height, self.width, self.fps)


class Detector(ABC):
    """Base class of the keypoint detectors.

    Attributes:
        name (`str`):
            Name of the method, such as `"RTMPose"`.
        providers (`dict[str, str]`):
            What each model runs on.
    """

    name: ClassVar[str]
    providers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} on {', '.join(dict.fromkeys(self.providers.values()))}"

    @abstractmethod
    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        """Detect everyone in every frame.

        Args:
            frames (`np.ndarray` of shape `(F, H, W, 3)`, or an iterable of `np.ndarray` of shape `(H, W, 3)`):
                uint8 RGB frames. An iterable is consumed batch by batch, with one batch in memory at a time.
            fps (`float`):
                Frames per second.

        Returns:
            [`DetectedPeople`]: The people of each frame; an empty frame has none.
        """

    def __call__(
        self, frames: np.ndarray | Iterable[np.ndarray], fps: float, person: Sequence[float] | None = None
    ) -> WholeBodyKeypoints:
        """Detect everyone and track one person: `detect(frames, fps).follow(person)`.

        Args:
            frames, fps:
                As for `detect`.
            person (`Sequence[float]`, *optional*):
                A box around the person; see [`DetectedPeople.follow`].
        """
        return self.detect(frames, fps).follow(person)


def frame_batches(frames: np.ndarray | Iterable[np.ndarray], fps: float, size: int) -> Iterator[Any]:
    """Check the frames `(H, W, 3)` and iterate over batches of `size`: slices of an array, or lists."""
    if isinstance(frames, np.ndarray) or not isinstance(frames, Iterable):
        _check_frames(frames, fps)
        yield from (frames[start : start + size] for start in range(0, len(frames), size))
        return
    each, height_width = iter(frames), set()
    while batch := list(itertools.islice(each, size)):
        height_width |= {np.shape(frame)[:2] for frame in batch}
        if len(height_width) > 1:
            raise ValueError(f"`frames` must be of one size, got (H, W) of {sorted(height_width)}.")
        for frame in batch:
            _check_frames(np.asarray(frame)[None], fps)
        yield batch
    if not height_width:
        raise ValueError("`frames` must contain at least one frame, got none.")


def _check_frames(frames: object, fps: object) -> None:
    shape = getattr(frames, "shape", None)
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        dtype = getattr(frames, "dtype", type(frames).__name__)
        raise ValueError(f"`frames` must be uint8 RGB of shape (F, H, W, 3), got {dtype} of shape {shape}.")
    if 0 in frames.shape:
        raise ValueError(f"`frames` must contain at least one frame and pixel, got shape {shape}.")
    checks.number("fps", fps, above=0)


def _track_at(person: Sequence[float], boxes: Sequence[np.ndarray], tracks: Sequence[np.ndarray]) -> int:
    wanted = checks.box("person", person)
    for people, names in zip(boxes, tracks, strict=True):
        overlap = overlaps(wanted[None], people)[0]
        if overlap.max(initial=0) >= MIN_OVERLAP:
            return names[overlap.argmax()]
    raise ValueError(f"`person` must be a box around a person, but nobody was detected at {wanted.tolist()}.")
