# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-body keypoints of one person over the frames of a clip.

Axes: F frames, K = 133 keypoints in COCO-WholeBody order, P people.

Pixel convention, used by the whole package: coordinates are continuous, the image covers `[0, width] x [0, height]`,
and pixel `(i, j)` is the unit square whose centre is `(i + 0.5, j + 0.5)`. A point is drawn at `(int(x), int(y))`, a
mirrored point is at `width - x`, and a resized one at `x * new_width / width`.
"""

import io
import logging
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from .. import checks
from ..files import written_whole
from ..fitting import fitted_place
from . import pose_files
from .tracking import follow_boxes, largest_track


NUM_KEYPOINTS = 133

# Maximum number of frames in a file, two and a half hours at 30 per second: reading it takes at most a gigabyte.
MAX_FRAMES = 2**18

# Points with a score of at most this are taken for missing where nothing else is said.
SCORE_THRESHOLD = 0.3

BODY = slice(0, 17)
FEET = slice(17, 23)
FACE = slice(23, 91)
LEFT_HAND = slice(91, 112)
RIGHT_HAND = slice(112, 133)

NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = range(5, 11)
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = range(11, 17)

# For each COCO body point, its index in OpenPose's 18-point and 25-point bodies. Neck and mid-hip have no counterpart.
_BODY_IN_OPENPOSE = {
    18: [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10],
    25: [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11],
}
_FEET_IN_OPENPOSE_25 = slice(19, 25)
_OPENPOSE_NECK = 1

# The arrays of a file with the largest shape of each, their kinds of numbers, and their prefix in npz.
_LARGEST_SHAPES = {
    "xy": (MAX_FRAMES, NUM_KEYPOINTS, 2),
    "score": (MAX_FRAMES, NUM_KEYPOINTS),
    **dict.fromkeys(("height", "width", "fps"), ()),
}
_SAFETENSORS_DTYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
_LARGEST_NPY_HEADER = 2**14

_PART_SIZES = {
    **{"body": (18, 25), "coco_body": (17,), "feet": (6,)},
    **{"left_hand": (21,), "right_hand": (21,), "face": (68, 70)},
}

# In a larger image, coordinates that never exceed this value are fractions of the image.
_GREATEST_FRACTION = 2.0

logger = logging.getLogger(__name__)


def _mirror_permutation() -> np.ndarray:
    """Return, for each keypoint, the index of the keypoint that replaces it when the image is mirrored."""
    face_68 = [
        *reversed(range(0, 17)),  # jaw
        *reversed(range(17, 27)),  # brows
        *range(27, 31),  # nose bridge
        *reversed(range(31, 36)),  # nostrils
        *(45, 44, 43, 42, 47, 46),  # the eye on the right of the image, corner to corner, then its lower lid
        *(39, 38, 37, 36, 41, 40),
        *reversed(range(48, 55)),  # outer lip, upper then lower
        *reversed(range(55, 60)),
        *reversed(range(60, 65)),  # inner lip, upper then lower
        *reversed(range(65, 68)),
    ]
    order = np.arange(NUM_KEYPOINTS)
    body = [NOSE, *(index + 1 if index % 2 else index - 1 for index in range(LEFT_EYE, RIGHT_ANKLE + 1))]
    parts = [order[BODY][body], np.roll(order[FEET], 3), order[FACE][face_68], order[RIGHT_HAND], order[LEFT_HAND]]
    return np.concatenate(parts)


_MIRROR = _mirror_permutation()


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
        path = Path(checks.path("path", path))
        if len(self) > MAX_FRAMES:
            raise ValueError(f"`path`: a file can contain at most {MAX_FRAMES} frames, got {len(self)}.")
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
        if _checked_suffix(path) == ".safetensors":
            content = safetensors.numpy.save(arrays)
        else:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **arrays)
            content = buffer.getvalue()
        with written_whole(path) as partial:
            partial.write_bytes(content)

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
        if path.suffix.lower() == ".safetensors" or path.suffix.lower() == ".npz" and _holds_own_arrays(path):
            keypoints = cls._load_own(path)
        else:
            frames, stated_fps = pose_files.read_pose_file(path)
            size = _size_of(frames, path)
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
        suffix = _checked_suffix(path)
        if not path.is_file():
            raise FileNotFoundError(f"`path` is not a file: {path}.")
        try:
            arrays = _read_safetensors(path) if suffix == ".safetensors" else _read_npz(path)
        except MemoryError:
            raise
        except Exception as error:  # damaged files raise many kinds of errors
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(f"`path` cannot be read as a {suffix} file of keypoints: {path} ({reason}).") from error
        absent = [name for name in cls.__dataclass_fields__ if name not in arrays]
        if absent:
            raise ValueError(f"`path` contains no {', '.join(absent)}: {path}.")
        try:
            return cls(arrays["xy"], arrays["score"], *(arrays[name].item() for name in ("height", "width", "fps")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"`path` contains invalid keypoints: {path}. {error}") from error

    def flip_horizontal(self) -> "WholeBodyKeypoints":
        """Mirror the image: `x` becomes `width - x`, and left and right points are swapped."""
        xy = self.xy[:, _MIRROR].copy()
        xy[..., 0] = self.width - xy[..., 0]
        return replace(self, xy=xy, score=self.score[:, _MIRROR])

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
            if not (_is_int(start) and _is_int(stop) and 0 <= start < stop <= size):
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
        xy[:, _BODY_IN_OPENPOSE[18]] = self.xy[:, BODY]
        score[:, _BODY_IN_OPENPOSE[18]] = self.score[:, BODY]
        shoulders = [LEFT_SHOULDER, RIGHT_SHOULDER]
        xy[:, _OPENPOSE_NECK] = self.xy[:, shoulders].mean(axis=1)
        score[:, _OPENPOSE_NECK] = self.score[:, shoulders].min(axis=1)
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
            _join_parts(
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
        people = [np.reshape([_join_parts(one) for one in frame.people], (-1, NUM_KEYPOINTS, 3)) for frame in frames]
        return cls._from_people(people, height, width, fps, person, [frame.canvas for frame in frames])

    @classmethod
    def _from_people(
        cls,
        frames: Sequence[np.ndarray],
        height: Any,
        width: Any,
        fps: float,
        person: int | None,
        canvases: Sequence[tuple[float, float] | None] = (),
    ) -> "WholeBodyKeypoints":
        """Select one person from the people of each frame.

        A frame has x, y, score `(P, 133, 3)`, in pixels of its canvas if there is one.
        """
        height, width = checks.side("height", height), checks.side("width", width)
        fps = checks.number("fps", fps, above=0)
        if _are_fractions(frames, height, width):
            scales = [(width, height)] * len(frames)
        else:
            scales = [(width / canvas[1], height / canvas[0]) if canvas else (1.0, 1.0) for canvas in canvases]
        for people, scale in zip(frames, scales, strict=False):
            people[..., :2] *= scale
        points = _select_person(frames, person, fps)
        return cls(points[..., :2], points[..., 2], height, width, fps)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


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


def _checked_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"`path` must end in .safetensors or .npz, got {path}.")
    return suffix


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of keypoints in the file, and no others."""
    arrays = {}
    with safetensors.safe_open(path, framework="np") as file:
        for name in _LARGEST_SHAPES.keys() & file.keys():
            stored = file.get_slice(name)
            if stored.get_dtype() not in _SAFETENSORS_DTYPES:
                raise ValueError(f"{name} is stored as {stored.get_dtype()}; save it as F32")
            _check_shape(name, stored.get_shape())
            arrays[name] = file.get_tensor(name)
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of keypoints in the file, and no others."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in _LARGEST_SHAPES.keys() & {member.removesuffix(".npy") for member in archive.namelist()}:
            largest = 8 * math.prod(_LARGEST_SHAPES[name]) + _LARGEST_NPY_HEADER
            arrays[name] = pose_files.read_npz_member(archive, name, largest)
            _check_shape(name, arrays[name].shape)
    return arrays


def _check_shape(name: str, shape: Sequence[int]) -> None:
    largest = _LARGEST_SHAPES[name]
    if len(shape) != len(largest) or any(side > most for side, most in zip(shape, largest, strict=True)):
        raise ValueError(f"{name} has the shape {tuple(shape)}, expected at most {largest}")


def _holds_own_arrays(path: Path) -> bool:
    """Return whether an .npz file is one of ours. Damaged files count as ours, and reading them raises the error."""
    if not path.is_file():  # opening a FIFO would block
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return "xy.npy" in archive.namelist() or not archive.namelist()
    except Exception:
        return True


def _size_of(frames: Sequence[pose_files.PoseFrame], path: Path) -> tuple[int, int] | None:
    """Return the height and width that all frames of a file state."""
    canvases = {frame.canvas for frame in frames if frame.people or frame.canvas}
    if len(canvases) > 1:
        raise ValueError(f"`path`: the frames of {path} state several sizes of their images, or some state none.")
    canvas = next(iter(canvases), None)
    return None if canvas is None else (round(canvas[0]), round(canvas[1]))


def _are_fractions(frames: Sequence[np.ndarray], height: int, width: int) -> bool:
    """Return whether coordinates are fractions of the image."""
    found = [people[(people[..., 2] > 0) & np.isfinite(people).all(axis=-1)][:, :2] for people in frames]
    xy = np.concatenate([np.empty((0, 2)), *found])
    if not len(xy) or min(height, width) <= 2 * _GREATEST_FRACTION or np.abs(xy).max() > _GREATEST_FRACTION:
        return False
    if xy.min() < -0.5:
        raise ValueError("The coordinates are neither pixels nor fractions of the image from 0 to 1: save pixels.")
    return True


def _select_person(frames: Sequence[np.ndarray], person: int | None, fps: float) -> np.ndarray:
    """Select the points of one person `(F, 133, 3)` from x, y, score `(P, 133, 3)` of each frame; NaN if absent."""
    most_people = max((len(people) for people in frames), default=0)
    if person is not None and not (_is_int(person) and 0 <= person < max(most_people, 1)):
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


def _join_parts(parts: dict[str, np.ndarray]) -> np.ndarray:
    """Join parts as named by `pose_files`, each x, y, score `(n, 3)`, in COCO-WholeBody order `(133, 3)`."""
    for name, points in parts.items():
        if len(points) not in _PART_SIZES[name]:
            accepted = " or ".join(str(size) for size in _PART_SIZES[name])
            raise ValueError(f"`{name}` must have {accepted} points, got {len(points)}.")
    joined = np.full((NUM_KEYPOINTS, 3), np.nan, dtype=np.float32)
    if "body" in parts:
        body = parts["body"]
        joined[BODY] = body[_BODY_IN_OPENPOSE[len(body)]]
        if len(body) == 25:
            joined[FEET] = body[_FEET_IN_OPENPOSE_25]
    if "face" in parts:
        joined[FACE] = parts["face"][:68]
    for name, place in (("coco_body", BODY), ("feet", FEET), ("left_hand", LEFT_HAND), ("right_hand", RIGHT_HAND)):
        if name in parts:
            joined[place] = parts[name]
    return joined
