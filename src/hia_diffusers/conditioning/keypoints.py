# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-body keypoints of one person over the frames of a clip.

Axes: F frames, K = 133 keypoints in COCO-WholeBody order, P people.

Pixel convention, used by the whole package: coordinates are continuous, the image covers `[0, width] x [0, height]`,
and pixel `(i, j)` is the unit square whose centre is `(i + 0.5, j + 0.5)`. A point is drawn at `(int(x), int(y))`, a
mirrored point is at `width - x`, and a resized one at `x * new_width / width`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checks
from ..fitting import fitted_place
from . import pose_files
from .keypoint_files import holds_own_arrays, read_arrays, write_arrays
from .pose_people import are_fractions, join_parts, select_person, size_of
from .whole_body import (
    BODY,
    BODY_IN_OPENPOSE,
    LEFT_SHOULDER,
    MIRROR,
    NUM_KEYPOINTS,
    OPENPOSE_NECK,
    RIGHT_SHOULDER,
)


class NotStatedError(ValueError):
    """A pose file does not state a size or frame rate that is needed to use it.

    Args:
        path (`Path`):
            The file.
        what (`str`):
            What the file does not state.
        arguments (`str`):
            The arguments that provide it instead.
    """

    def __init__(self, path: Path, what: str, arguments: str):
        super().__init__(f"`path`: {path} does not state {what}; pass {arguments}.")
        self.what = what


@dataclass(eq=False)
class WholeBodyKeypoints:
    r"""The 133 COCO-WholeBody keypoints of one person in every frame of a clip.

    They are 17 body points, 6 foot points, 68 face points, and 21 points of each hand. Left and right are the
    person's.

    A missing point has score 0 and coordinates NaN. Points given with a score that is zero, negative or not finite, or
    with a coordinate that is not finite, are converted to this form. Scores above 1, which RTMPose can give, are
    clipped to 1.

    Args:
        xy (`np.ndarray`, `torch.Tensor` or nested lists of shape `(F, 133, 2)`):
            Coordinates in pixels, stored as float32. Pixel `(i, j)` has its centre at `(i + 0.5, j + 0.5)`. They may
            lie outside the image.
        score (`np.ndarray`, `torch.Tensor` or nested lists of shape `(F, 133)`):
            Confidence in `[0, 1]`, stored as float32.
        height (`int`):
            Height of the image in pixels.
        width (`int`):
            Width of the image in pixels.
        fps (`float`):
            Frames per second.

    Raises:
        TypeError: If `xy` or `score` is not an array of numbers, or a size is not an integer.
        ValueError: If a shape is wrong, there are no frames, a size is not from 1 to 16384, or `fps` is not positive
            and finite.
    """

    xy: np.ndarray
    score: np.ndarray
    height: int
    width: int
    fps: float

    def __post_init__(self):
        xy, score = _float_array("xy", self.xy), _float_array("score", self.score)
        if xy.ndim != 3 or xy.shape[1:] != (NUM_KEYPOINTS, 2) or len(xy) == 0:
            raise ValueError(f"`xy` must have shape (F, {NUM_KEYPOINTS}, 2) with F >= 1, got {xy.shape}.")
        if score.shape != xy.shape[:2]:
            raise ValueError(f"`score` must have shape {xy.shape[:2]} to match `xy`, got {score.shape}.")
        missing = ~(np.isfinite(score) & (score > 0) & np.isfinite(xy).all(axis=-1))
        xy[missing] = np.nan
        score[missing] = 0
        self.xy, self.score = xy, np.minimum(score, 1)
        self.height, self.width = checks.side("height", self.height), checks.side("width", self.width)
        self.fps = checks.number("fps", self.fps, above=0)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.xy)

    def __getitem__(self, frames: slice) -> "WholeBodyKeypoints":
        """Select a range of frames. A step also divides `fps`."""
        if not isinstance(frames, slice):
            raise TypeError(f"`frames` must be a slice such as keypoints[4:20], got {frames!r}.")
        xy = self.xy[frames]
        if len(xy) == 0:
            raise ValueError(f"`frames` selects nothing: {frames} of {len(self)} frames.")
        return replace(self, xy=xy, score=self.score[frames], fps=self.fps / abs(frames.step or 1))

    def previous_frames(self) -> "WholeBodyKeypoints":
        """Return, for each frame, the points of the previous frame; the first frame has none."""
        xy, score = (np.concatenate([values[:1], values[:-1]]) for values in (self.xy, self.score))
        score[0] = 0
        return replace(self, xy=xy, score=score)

    def save(self, path: str | os.PathLike) -> None:
        """Write the keypoints to a file.

        Args:
            path (`str` or `os.PathLike`):
                Output file; the suffix, `.safetensors` or `.npz`, selects the format. An existing file is replaced
                atomically.

        Raises:
            ValueError: If the suffix is another one, or there are more than 2**18 frames.
        """
        arrays = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
        write_arrays(Path(checks.path("path", path)), arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        person: int | None = None,
    ) -> "WholeBodyKeypoints":
        """Read keypoints saved by [`~WholeBodyKeypoints.save`], or a pose file of another tool.

        Suffixes are not case-sensitive. The following formats of other tools are supported:

        - OpenPose's JSON: a file with one frame, a file with a list of frames as saved by ComfyUI, or a folder with
          one file per frame, sorted by their numbers;
        - the JSON of MMPose, and of AlphaPose and others in the format of COCO results, with 17 or 133 points;
        - `.npz` and `.npy` arrays of RTMPose and DWPose: `keypoints` `(F, P, 133, 2)` with `scores` `(F, P, 133)`, or
          x, y, score in one array, with 133 points or DWPose's 134, or DWPose's `bodies`, `hands` and `faces` of one
          person.

        Pickles are not opened.

        Coordinates given as fractions of the image are recognized and converted to pixels.

        Args:
            path (`str` or `os.PathLike`):
                The file: `.safetensors` or `.npz` with the arrays `xy`, `score`, `height`, `width` and `fps`,
                or one of the formats above.
            height, width (`int`, *optional*):
                Size of the image in pixels, for files that do not state it.
            fps (`float`, *optional*):
                Frames per second, for files that do not state them. For a single frame it defaults to 1.
            person (`int`, *optional*):
                Index of the person in every frame, if there are several. By default, the largest person is
                tracked as in [`DetectedPeople.follow`], with a warning.

        Raises:
            FileNotFoundError: If there is no such file.
            NotStatedError: If a size or a frame rate that the file does not state is not given.
            ValueError: If the file is of another kind or damaged, an array is missing or invalid, or a given
                size or frame rate differs from that in the file.
        """
        path = Path(checks.path("path", path))
        if path.suffix.lower() == ".safetensors" or path.suffix.lower() == ".npz" and holds_own_arrays(path):
            keypoints = cls._load_own(path)
        else:
            frames, stated_fps = pose_files.read_pose_file(path)
            size = size_of(frames, path)
            if stated_fps is None:
                stated_fps = 1.0 if len(frames) == 1 and fps is None else fps
            missing = {}
            if size is None and (height is None or width is None):
                missing["the size of its image"] = "`height` and `width`"
            if stated_fps is None:
                missing["its frame rate"] = "`fps`"
            if stated_fps is None or missing:
                raise NotStatedError(path, " or ".join(missing), " and ".join(missing.values()))
            try:
                keypoints = cls._from_pose_frames(frames, *(size or (height, width)), stated_fps, person)
            except (TypeError, ValueError) as error:
                raise ValueError(f"`path` contains invalid keypoints: {path}. {error}") from error
        for name, given in (("height", height), ("width", width), ("fps", fps)):
            stated = getattr(keypoints, name)
            if given is not None and given != stated:
                raise ValueError(f"`{name}` must be omitted or {stated:g}, as {path} states, got {given!r}.")
        return keypoints

    @classmethod
    def _load_own(cls, path: Path) -> "WholeBodyKeypoints":
        arrays = read_arrays(path)
        try:
            return cls(arrays["xy"], arrays["score"], *(arrays[name].item() for name in ("height", "width", "fps")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"`path` contains invalid keypoints: {path}. {error}") from error

    def flip_horizontal(self) -> "WholeBodyKeypoints":
        """Mirror the image: `x` becomes `width - x`, and left and right points are swapped."""
        xy = self.xy[:, MIRROR].copy()
        xy[..., 0] = self.width - xy[..., 0]
        return replace(self, xy=xy, score=self.score[:, MIRROR])

    def resize(self, height: int, width: int) -> "WholeBodyKeypoints":
        """Resize the image without changing its aspect ratio. [`~WholeBodyKeypoints.fit`] accepts any size.

        Args:
            height (`int`):
                New height in pixels.
            width (`int`):
                New width in pixels.

        Raises:
            ValueError: If the aspect ratio differs by more than the rounding to whole pixels, which would stretch the
                person.
        """
        height, width = checks.side("height", height), checks.side("width", width)
        if not _is_same_aspect(self.height, self.width, height, width):
            raise ValueError(
                f"`height` and `width`: {self.width}x{self.height} would be stretched to {width}x{height}; "
                "use `fit` to fit the whole image, centred, or `crop` to cut out a part."
            )
        scale = np.array([width / self.width, height / self.height], dtype=np.float32)
        return replace(self, xy=self.xy * scale, height=height, width=width)

    def fit(self, height: int, width: int) -> "WholeBodyKeypoints":
        """Fit the whole image into another size, centred, in the same way as the reference image.

        Args:
            height (`int`):
                New height in pixels.
            width (`int`):
                New width in pixels.
        """
        height, width = checks.side("height", height), checks.side("width", width)
        x, y, placed_width, placed_height = fitted_place(self.height, self.width, height, width)
        scale = np.array([placed_width / self.width, placed_height / self.height], dtype=np.float32)
        offset = np.array([x, y], dtype=np.float32)
        return replace(self, xy=self.xy * scale + offset, height=height, width=width)

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> "WholeBodyKeypoints":
        """Crop the image. Points outside are kept, with coordinates outside the new image.

        Args:
            x0 (`int`):
                First column of the crop.
            y0 (`int`):
                First row of the crop.
            x1 (`int`):
                Column after the last, `x0 < x1 <= width`.
            y1 (`int`):
                Row after the last, `y0 < y1 <= height`.
        """
        for name, start, stop, size in (("x", x0, x1, self.width), ("y", y0, y1, self.height)):
            if not (checks.is_integer(start) and checks.is_integer(stop) and 0 <= start < stop <= size):
                raise ValueError(
                    f"`{name}0` and `{name}1` must be integers with 0 <= {name}0 < {name}1 <= {size}, "
                    f"got {start!r} and {stop!r}."
                )
        return replace(
            self, xy=self.xy - np.array([x0, y0], dtype=np.float32), height=int(y1 - y0), width=int(x1 - x0)
        )

    def openpose_body(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the 18 body points of OpenPose.

        The neck, which COCO does not have, is the midpoint of the shoulders, with the lower of their scores.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: float32 coordinates `(F, 18, 2)` and scores `(F, 18)`; a missing point is
            NaN with score 0.
        """
        xy = np.empty((len(self), 18, 2), dtype=np.float32)
        score = np.empty((len(self), 18), dtype=np.float32)
        xy[:, BODY_IN_OPENPOSE[18]] = self.xy[:, BODY]
        score[:, BODY_IN_OPENPOSE[18]] = self.score[:, BODY]
        shoulders = [LEFT_SHOULDER, RIGHT_SHOULDER]
        xy[:, OPENPOSE_NECK] = self.xy[:, shoulders].mean(axis=1)
        score[:, OPENPOSE_NECK] = self.score[:, shoulders].min(axis=1)
        return xy, score

    @classmethod
    def from_openpose_points(
        cls,
        body: Sequence,
        left_hand: Sequence | None = None,
        right_hand: Sequence | None = None,
        face: Sequence | None = None,
        *,
        height: int,
        width: int,
        fps: float,
    ) -> "WholeBodyKeypoints":
        """Create keypoints from OpenPose points, frame by frame.

        Each of `body`, `left_hand`, `right_hand` and `face` has one entry per frame: `None` if the part was not
        detected, otherwise its points, each `None`, `(x, y)` (score 1) or `(x, y, score)` in pixels.

        Args:
            body (`Sequence`):
                18 or 25 points per frame. The neck and the mid-hip are dropped; only the 25 points include feet.
            left_hand (`Sequence`, *optional*):
                21 points per frame.
            right_hand (`Sequence`, *optional*):
                21 points per frame.
            face (`Sequence`, *optional*):
                68 points per frame, or 70 with the pupils, which are dropped.
            height (`int`):
                Height of the image in pixels.
            width (`int`):
                Width of the image in pixels.
            fps (`float`):
                Frames per second.
        """
        _checked_frames("body", body)
        parts = {"body": body, "left_hand": left_hand, "right_hand": right_hand, "face": face}
        given = {name: _checked_frames(name, frames) for name, frames in parts.items() if frames is not None}
        for name, frames in given.items():
            if len(frames) != len(body):
                raise ValueError(f"`{name}` must have one entry per frame of `body` ({len(body)}), got {len(frames)}.")
        frames = [
            join_parts(
                {name: _point_array(name, part[index]) for name, part in given.items() if part[index] is not None}
            )
            for index in range(len(body))
        ]
        return cls._from_people([points[None] for points in frames], height, width, fps, person=0)

    @classmethod
    def from_openpose_json(
        cls,
        source: str | os.PathLike | Sequence[str | os.PathLike | dict[str, Any]],
        height: int,
        width: int,
        fps: float,
        person: int | None = None,
    ) -> "WholeBodyKeypoints":
        """Create keypoints from OpenPose's JSON, as files or already parsed.

        Args:
            source (`str`, `os.PathLike` or `Sequence`):
                A file with one frame or a list of frames; a folder with `*.json` files, which are sorted by the
                numbers in their names; or a list of files and parsed dictionaries. Bodies have 18 or 25 points, faces
                68 or 70. A frame without people becomes a frame of missing points. If a frame states `canvas_width`
                and `canvas_height`, its coordinates are scaled from that canvas to `width` and `height`. Fractions of
                the image are recognized.
            height (`int`):
                Height of the image in pixels.
            width (`int`):
                Width of the image in pixels.
            fps (`float`):
                Frames per second.
            person (`int`, *optional*):
                Index into `people` in every frame. By default, the largest person is tracked as in
                [`DetectedPeople.follow`].

        Raises:
            FileNotFoundError: If the folder or a file does not exist.
            ValueError: If a file is not an OpenPose JSON, or no frame has that `person`.
        """
        return cls._from_pose_frames(pose_files.read_json(source, "source"), height, width, fps, person)

    @classmethod
    def from_rtmlib(
        cls,
        keypoints: Sequence | np.ndarray,
        scores: Sequence | np.ndarray,
        height: int,
        width: int,
        fps: float,
        person: int | None = 0,
    ) -> "WholeBodyKeypoints":
        """Create keypoints from the results of rtmlib's `Wholebody(to_openpose=False)` for each frame.

        Args:
            keypoints (`Sequence[np.ndarray]` or `np.ndarray`):
                `(P, 133, 2)` per frame with any number of people P, including none, or `(133, 2)`; in pixels.
            scores (`Sequence[np.ndarray]` or `np.ndarray`):
                `(P, 133)` or `(133,)` per frame. Scores above 1 are clipped to 1.
            height (`int`):
                Height of the image in pixels.
            width (`int`):
                Width of the image in pixels.
            fps (`float`):
                Frames per second.
            person (`int`, *optional*, defaults to `0`):
                Index of the person in every frame; `None` tracks the largest person as in [`DetectedPeople.follow`].
                Frames without that person become frames of missing points.
        """
        if len(_checked_frames("keypoints", keypoints)) != len(_checked_frames("scores", scores)):
            raise ValueError(f"`scores` must have one entry per frame ({len(keypoints)}), got {len(scores)}.")
        frames = []
        for index, (xy, score) in enumerate(zip(keypoints, scores, strict=True)):
            xy, score = _float_array("keypoints", xy), _float_array("scores", score)
            if xy.size == 0:
                frames.append(np.empty((0, NUM_KEYPOINTS, 3), dtype=np.float32))
                continue
            if xy.shape[-2:] != (NUM_KEYPOINTS, 2) or xy.ndim not in (2, 3):
                raise ValueError(f"`keypoints` must be (P, 133, 2) in every frame, got {xy.shape} in frame {index}.")
            if score.shape != xy.shape[:-1]:
                raise ValueError(f"`scores` must be {xy.shape[:-1]} in frame {index}, got {score.shape}.")
            frames.append(np.concatenate([xy, score[..., None]], axis=-1).reshape(-1, NUM_KEYPOINTS, 3))
        return cls._from_people(frames, height, width, fps, person)

    @classmethod
    def _from_pose_frames(
        cls, frames: Sequence[pose_files.PoseFrame], height: object, width: object, fps: float, person: int | None
    ) -> "WholeBodyKeypoints":
        people = [np.reshape([join_parts(one) for one in frame.people], (-1, NUM_KEYPOINTS, 3)) for frame in frames]
        return cls._from_people(people, height, width, fps, person, [frame.canvas for frame in frames])

    @classmethod
    def _from_people(
        cls,
        frames: Sequence[np.ndarray],
        height: object,
        width: object,
        fps: float,
        person: int | None,
        canvases: Sequence[tuple[float, float] | None] = (),
    ) -> "WholeBodyKeypoints":
        """Select one person from the people of each frame.

        A frame has x, y, score `(P, 133, 3)`, in pixels of its canvas if there is one.
        """
        height, width = checks.side("height", height), checks.side("width", width)
        fps = checks.number("fps", fps, above=0)
        if are_fractions(frames, height, width):
            scales = [(float(width), float(height))] * len(frames)
        else:
            scales = [(width / canvas[1], height / canvas[0]) if canvas else (1.0, 1.0) for canvas in canvases]
        for people, scale in zip(frames, scales, strict=False):
            people[..., :2] *= scale
        points = select_person(frames, person, fps)
        return cls(points[..., :2], points[..., 2], height, width, fps)


def _is_same_aspect(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Return whether a size is that of the resized image, up to rounding of a side of either."""
    return 2 * abs(height * new_width - width * new_height) <= max(height, width, new_height, new_width)


def _float_array(name: str, value: Any) -> np.ndarray:
    """Copy an array, tensor or nested list as float32."""
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = (value if value.is_complex() else value.double()).numpy()
        if np.iscomplexobj(value):
            raise TypeError("it is complex")
        if isinstance(value, np.ma.MaskedArray):
            value = np.ma.filled(value.astype(np.float64), np.nan)
        return np.array(value, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"`{name}` must be an array of numbers, got {type(value).__name__}: {error}.") from error


def _checked_frames(name: str, frames: object) -> Any:
    if not isinstance(frames, (Sequence, np.ndarray)) or isinstance(frames, str) or len(frames) == 0:
        raise ValueError(f"`{name}` must be a sequence with one entry for each of at least one frame, got {frames!r}.")
    return frames


def _point_array(name: str, points: object) -> np.ndarray:
    """Convert points `None`, `(x, y)` or `(x, y, score)` to x, y, score `(n, 3)`, with NaN for `None`."""
    if not isinstance(points, (Sequence, np.ndarray)):
        raise TypeError(f"`{name}` must contain a sequence of points per frame, got {points!r}.")
    array = np.full((len(points), 3), np.nan, dtype=np.float32)
    for row, point in zip(array, points, strict=True):
        if point is not None:
            point = _float_array(name, point)
            if point.shape not in ((2,), (3,)):
                raise ValueError(f"`{name}` must contain points None, (x, y) or (x, y, score), got {point.tolist()}.")
            row[:] = (*point, 1.0)[:3]
    return array
