# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Procedural people: any number of dancers rendered at any size.

They come with ground-truth motion blur, exact keypoints and masks.

Axes: F frames, T times (the frames' middles, then their sub-frames), H, W, K = 133 keypoints; hands are ordered left,
right (the person's). Pixels follow the convention of `conditioning/keypoints.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from .figure import Figure
from .motion import Dance
from .person import Person
from .setting import Setting, cut_background
from .shapes import SUBPIXEL_BITS, Layer, fixed_point


SPLITS = ("train", "test", "validation")

# Minimum height at which images are drawn before they are downscaled.
MIN_CANVAS_HEIGHT = 320

# Maximum motion between two sub-frames, in pixels of an image with height 160; it grows with the fourth root of the
# height. The second value limits the sub-frames of a frame.
SUBFRAME_STEP = 1.25
MAX_SUBFRAMES = 32

FRAMES_PER_BLOCK = 16

BACKGROUND = 255  # label of pixels that show no part of the person

SCORE_VISIBLE, SCORE_HIDDEN = 1.0, 0.5

# The parts that carry a group of keypoints: anything closer than all of them occludes the points.
CARRIERS = (
    (range(133), ("face", "hair")),
    *(
        carrier
        for side in (0, 1)
        for carrier in (
            ([3 + side], (f"ear {side}",)),
            ([5 + side], ("torso", f"upper arm {side}")),
            ([7 + side], (f"upper arm {side}", f"forearm {side}")),
            ([9 + side], (f"forearm {side}", f"hand {side}")),
            ([11 + side], ("torso", "skirt", "pelvis", f"leg {side}")),
            ([13 + side], ("skirt", f"leg {side}")),
            ([15 + side], (f"leg {side}", f"foot {side}")),
            (range(17 + 3 * side, 20 + 3 * side), (f"foot {side}",)),
            (range(91 + 21 * side, 112 + 21 * side), (f"hand {side}",)),
        )
    ),
)


@dataclass(eq=False)
class ProceduralClip:
    """Rendered frames with their ground truth.

    Args:
        frames (`np.ndarray`):
            uint8 RGB `(F, H, W, 3)`, with motion blur.
        sharp_frames (`np.ndarray` or `None`):
            uint8 RGB `(F, H, W, 3)`: the middles of the exposures, without motion blur. `None` unless requested.
        keypoints (`WholeBodyKeypoints`):
            The person at the middle of each exposure. Scores are 1 for visible points, 0.5 for points occluded by
            another part of the person, and 0 (missing) outside the image.
        face_mask (`np.ndarray`):
            bool `(F, H, W)`: pixels that show the face (skin and features, no hair) at the middle of the exposure.
        hand_masks (`np.ndarray`):
            bool `(F, 2, H, W)`: pixels that show the left and right hand at the middle of the exposure.
        shutter (`np.ndarray`):
            float32 `(F,)`: exposure as a fraction of the frame interval, in `(0, 1]`.
    """

    frames: np.ndarray
    sharp_frames: np.ndarray | None
    keypoints: WholeBodyKeypoints
    face_mask: np.ndarray
    hand_masks: np.ndarray
    shutter: np.ndarray


class ProceduralScene:
    r"""A person who dances in front of a camera, for any duration and at any size.

    Frame `i` shows the time `i / fps` and does not depend on which other frames are rendered. The splits share no
    random numbers: no person, dance or setting of one occurs in another.

    Args:
        split (`str`):
            `"train"`, `"test"` or `"validation"`.
        identity (`int`):
            Number of the person, at least 0.
        motion (`int`):
            Number of the dance, at least 0.
        setting (`int`):
            Number of the setting (place, light, camera and shutter), at least 0.

    Raises:
        TypeError: If an index is not an integer.
        ValueError: If `split` is unknown, or an index is negative.
    """

    def __init__(self, split: str, identity: int, motion: int, setting: int):
        self.split = checks.one_of("split", split, SPLITS)
        self.identity = checks.integer("identity", identity, 0, checks.MAX_SEED)
        self.motion = checks.integer("motion", motion, 0, checks.MAX_SEED)
        self.setting = checks.integer("setting", setting, 0, checks.MAX_SEED)
        self.person = Person.random(_generator(split, "identity", self.identity))
        self.dance = Dance(_generator(split, "motion", self.motion))
        self.place = Setting(_generator(split, "setting", self.setting))

    def __repr__(self) -> str:
        return (
            f"ProceduralScene(split={self.split!r}, identity={self.identity}, motion={self.motion}, "
            f"setting={self.setting})"
        )

    def render(
        self, frames: Sequence[int], height: int, width: int, fps: float = 30.0, with_sharp: bool = False
    ) -> ProceduralClip:
        """Render frames.

        Args:
            frames (`Sequence[int]`):
                Frame numbers from 0, at least one, in any order.
            height (`int`):
                Height of the frames in pixels, at least 16.
            width (`int`):
                Width of the frames in pixels, at least 16.
            fps (`float`, *optional*, defaults to `30.0`):
                Frames per second.
            with_sharp (`bool`, *optional*, defaults to `False`):
                Whether to also return the frames without motion blur.

        Returns:
            [`ProceduralClip`]: Frames, keypoints and masks. The keypoints have the frame rate `fps`, whichever frames
            were requested.

        Raises:
            TypeError: If a frame or a size is not an integer, or `fps` is not a number.
            ValueError: If there are no frames, one is negative, a size is below 16, or `fps` is not positive.
        """
        numbers = _checked_frames(frames, height, width, fps)
        blocks = [
            self._render_block(numbers[start : start + FRAMES_PER_BLOCK], int(height), int(width), fps, with_sharp)
            for start in range(0, len(numbers), FRAMES_PER_BLOCK)
        ]
        images, sharp, xy, score, masks = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return ProceduralClip(
            frames=images,
            sharp_frames=sharp if with_sharp else None,
            keypoints=WholeBodyKeypoints(xy, score, height, width, fps),
            face_mask=masks[:, 0],
            hand_masks=masks[:, 1:],
            shutter=self.place.exposure(numbers).astype(np.float32),
        )

    def keypoints(self, frames: Sequence[int], height: int, width: int, fps: float = 30.0) -> WholeBodyKeypoints:
        """Return only the keypoints of [`~ProceduralScene.render`], in a fraction of the time.

        Args:
            frames, height, width, fps:
                As in [`~ProceduralScene.render`].

        Raises:
            TypeError, ValueError: As in [`~ProceduralScene.render`].
        """
        numbers = _checked_frames(frames, height, width, fps)
        supersampling = _supersampling(height)
        figure = self._figure(numbers / fps, height * supersampling, width * supersampling)
        brush = _Brush(figure.layers(), self.place)
        xy = figure.keypoints() / supersampling
        labels = (brush.labels(frame, height, width, supersampling) for frame in range(len(numbers)))
        score = np.stack([brush.scores(frame, shown, xy[frame]) for frame, shown in enumerate(labels)])
        return WholeBodyKeypoints(xy, score, height, width, fps)

    def _figure(self, seconds: np.ndarray, height: int, width: int) -> Figure:
        skeleton = self.dance.skeleton(seconds, self.person.proportions)
        view = self.place.view(seconds, height, width)
        return Figure(self.person, skeleton, view, self.place.light_from_left)

    def _render_block(
        self, numbers: np.ndarray, height: int, width: int, fps: float, with_sharp: bool
    ) -> tuple[np.ndarray, ...]:
        """Return frames, sharp frames (none unless requested), keypoints, scores, and face and hand masks."""
        middles, exposures = numbers / fps, self.place.exposure(numbers) / fps
        counts = self._count_subframes(middles, exposures, height, width)
        subframes = [
            middle + ((np.arange(count) + 0.5) / count - 0.5) * exposure
            for middle, count, exposure in zip(middles, counts, exposures, strict=True)
        ]
        supersampling = _supersampling(height)
        canvas_size = height * supersampling, width * supersampling
        figure = self._figure(np.concatenate([middles, *subframes]), *canvas_size)
        brush = _Brush(figure.layers(), self.place)
        painted = _painted_background(self.split, self.setting, *canvas_size)
        xy = figure.keypoints()[: len(numbers)] / supersampling

        images = np.empty((len(numbers), height, width, 3), dtype=np.uint8)
        sharp = np.empty((len(numbers) * with_sharp, height, width, 3), dtype=np.uint8)
        score = np.empty(xy.shape[:2], dtype=np.float32)
        masks = np.empty((len(numbers), 3, height, width), dtype=bool)
        last_times = len(numbers) + np.cumsum(counts)
        for frame, (count, last) in enumerate(zip(counts, last_times, strict=True)):
            background = cut_background(painted, figure.view, frame, *canvas_size)
            total = np.zeros((height, width, 3), dtype=np.float32)
            for time in range(last - count, last):
                cv2.accumulate(_reduced(brush.draw(background.copy(), time), height, width), total)
            images[frame] = np.rint(total / count)
            if with_sharp:
                sharp[frame] = _reduced(brush.draw(background, frame), height, width)
            labels = brush.labels(frame, height, width, supersampling)
            masks[frame] = [brush.shows(labels, part) for part in ("face", "hand 0", "hand 1")]
            score[frame] = brush.scores(frame, labels, xy[frame])
        return images, sharp, xy, score, masks

    def _count_subframes(self, middles: np.ndarray, exposures: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the number of sub-frames `(F,)` for the motion during each exposure."""
        times = np.stack([middles - exposures / 2, middles, middles + exposures / 2], axis=1)
        xy = self._figure(times.ravel(), height, width).keypoints().reshape(len(middles), 3, -1, 2)
        path = np.linalg.norm(np.diff(xy, axis=1), axis=-1).sum(axis=1).max(axis=-1)
        step = SUBFRAME_STEP * (height / 160) ** 0.25
        return np.ceil(path / step).clip(1, MAX_SUBFRAMES).astype(int)


class _Brush:
    """Draw the layers of a figure from back to front."""

    def __init__(self, layers: list[Layer], setting: Setting):
        layers = [layer for layer in layers if layer.polygons]
        self.parts = [layer.part for layer in layers]
        self.order = np.argsort(np.stack([layer.depth for layer in layers], axis=1), axis=1, kind="stable")
        self.shapes = [
            [(fixed_point(shape.points), setting.tint(shape.color), not shape.detail) for shape in layer.polygons]
            for layer in layers
        ]
        self.carriers = [
            (list(points), [index for index, part in enumerate(self.parts) if part in parts])
            for points, parts in CARRIERS
        ]

    def draw(self, canvas: np.ndarray, time: int) -> np.ndarray:
        for layer in self.order[time]:
            for points, color, _ in self.shapes[layer]:
                cv2.fillPoly(canvas, [points[time]], color, cv2.LINE_AA, SUBPIXEL_BITS)
        return canvas

    def labels(self, time: int, height: int, width: int, supersampling: int) -> np.ndarray:
        """Return the layer visible at the centre of each pixel, uint8 `(H, W)`."""
        canvas = np.full((height * supersampling, width * supersampling), BACKGROUND, dtype=np.uint8)
        # The centre of an even number of canvas pixels lies between two of them: shift it to the centre of the second.
        shift = 0 if supersampling % 2 else 2 ** (SUBPIXEL_BITS - 1)
        for layer in self.order[time]:
            for points, _, is_outline in self.shapes[layer]:
                if is_outline:
                    cv2.fillPoly(canvas, [points[time] + shift], int(layer), cv2.LINE_8, SUBPIXEL_BITS)
        return canvas[supersampling // 2 :: supersampling, supersampling // 2 :: supersampling]

    def shows(self, labels: np.ndarray, part: str) -> np.ndarray:
        """Return where a part is visible."""
        table = np.zeros(256, dtype=bool)
        table[: len(self.parts)] = [name == part for name in self.parts]
        return table[labels]

    def scores(self, time: int, labels: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Return the score of each keypoint `(K,)`, depending on whether it is inside the image and visible there."""
        height, width = labels.shape
        rank = np.full(256, -1)
        rank[self.order[time]] = np.arange(len(self.parts))
        own = np.full(len(xy), -1)
        for points, layers in self.carriers:
            own[points] = rank[layers].max(initial=-1)
        columns, rows = np.floor(xy).astype(int).T
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        shown = rank[labels[rows.clip(0, height - 1), columns.clip(0, width - 1)]]
        return np.where(inside, np.where(shown <= own, SCORE_VISIBLE, SCORE_HIDDEN), 0.0)


@lru_cache(maxsize=32)
def _painted_background(split: str, setting: int, height: int, width: int) -> np.ndarray:
    painted = Setting(_generator(split, "setting", setting)).paint(height, width)
    painted.flags.writeable = False
    return painted


def _supersampling(height: int) -> int:
    """Return the factor by which the canvas is larger than the image."""
    return -(-MIN_CANVAS_HEIGHT // height)


def _reduced(canvas: np.ndarray, height: int, width: int) -> np.ndarray:
    if canvas.shape[:2] == (height, width):
        return canvas
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def _generator(split: str, kind: str, index: int) -> np.random.Generator:
    kinds = ("identity", "motion", "setting")
    return np.random.default_rng(np.random.SeedSequence([SPLITS.index(split), kinds.index(kind), index]))


def _checked_frames(frames: Sequence[int], height: int, width: int, fps: float) -> np.ndarray:
    if not isinstance(frames, Iterable):
        raise TypeError(f"`frames` must contain frame numbers, got {checks.shown(frames)}.")
    numbers = np.array([checks.integer("frames", frame, 0) for frame in frames])
    if len(numbers) == 0:
        raise ValueError("`frames` must contain at least one frame number, got none.")
    for name, size in (("height", height), ("width", width)):
        checks.integer(name, size, 16, checks.MAX_SIDE)
    checks.number("fps", fps, above=0)
    return numbers
