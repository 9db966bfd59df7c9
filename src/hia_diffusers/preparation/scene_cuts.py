# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Streaming detection of scene changes."""

from collections import deque

import cv2
import numpy as np

from .. import checks


THUMBNAIL_WIDTH = 64

# A cut stands out from the previous frames; in a fast pan or dance, all frames differ similarly.
MIN_RATIO_TO_RECENT = 3.0
RECENT_FRAMES = 8


class SceneCounter:
    """Number the scenes of a video.

    Called with each frame in turn, it returns the number of the frame's scene, so that `itertools.groupby(frames,
    SceneCounter())` splits a video while streaming it.

    A scene begins when hue, saturation and brightness (0-255) of a thumbnail differ from the previous frame by at
    least `threshold` on average, as in PySceneDetect's ContentDetector, and by at least three times as much as the
    frames before; when the size of the frame changes; and after `max_frames`.

    Args:
        threshold (`float`, *optional*, defaults to `27.0`):
            Minimum mean difference of a cut.
        max_frames (`int`, *optional*):
            Maximum length of a scene; unlimited by default.
    """

    def __init__(self, threshold: float = 27.0, max_frames: int | None = None):
        checks.number("threshold", threshold, above=0, high=255)
        if max_frames is not None:
            checks.integer("max_frames", max_frames)
        self.threshold = threshold
        self.max_frames = max_frames
        self._scene = 0
        self._length = 0
        self._size: tuple[int, ...] | None = None
        self._thumbnail: np.ndarray = np.empty(0)
        self._recent: deque[float] = deque(maxlen=RECENT_FRAMES)

    def __call__(self, frame: np.ndarray) -> int:
        """Return the scene number of the next frame, from 0.

        Args:
            frame (`np.ndarray`):
                uint8 RGB `(H, W, 3)`.
        """
        height = max(1, round(THUMBNAIL_WIDTH * frame.shape[0] / frame.shape[1]))
        small = cv2.resize(frame, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
        thumbnail = cv2.cvtColor(small, cv2.COLOR_RGB2HSV_FULL).astype(np.int16)
        if self._size is not None:
            is_full = self._length == self.max_frames
            if is_full or frame.shape != self._size or self._is_cut(thumbnail):
                self._scene += 1
                self._length = 0
        self._size, self._thumbnail = frame.shape, thumbnail
        self._length += 1
        return self._scene

    def _is_cut(self, thumbnail: np.ndarray) -> bool:
        difference = np.abs(thumbnail - self._thumbnail)
        hue = difference[..., 0]
        hue[:] = np.minimum(hue, 256 - hue)  # the scale is cyclic
        score = float(difference.mean())
        is_cut = score >= self.threshold and score >= MIN_RATIO_TO_RECENT * np.mean(self._recent or [0.0])
        self._recent.append(score)
        return bool(is_cut)
