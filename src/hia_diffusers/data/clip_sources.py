# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of training samples: prepared clips, or procedural people.

Axes: n frames of a clip as loaded, H, W; hands are ordered left, right (the person's). Pixels follow the convention of
`keypoints.py`.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.regions import box_masks
from ..conditioning.whole_body import SCORE_THRESHOLD
from ..preparation.clip_index import read_index
from ..procedural.scene import ProceduralScene
from ..video.reading import read_frames


MAX_BYTES_PER_FRAME = 2**13  # of annotations; there are about 1,700


class UnreadableClipError(ValueError):
    """A clip whose files are missing, damaged or contradict each other. The message names the clip and the reason."""


@dataclass(eq=False)
class ClipFrames:
    """Frames of one clip, passed from a source to [`HIADataset`].

    Args:
        images (`np.ndarray`):
            uint8 RGB `(n, H, W, 3)`.
        keypoints (`WholeBodyKeypoints`):
            The person in these n frames; `fps` is that of the whole clip.
        face_mask (`np.ndarray`):
            bool `(n, H, W)`.
        hand_masks (`np.ndarray`):
            bool `(n, 2, H, W)`, left and right hand.
        hand_sharpness (`np.ndarray`, *optional*):
            float32 `(n, 2)` in `[0, 1]`, NaN if unknown. By default, it is measured in the images.
        previous_keypoints (`WholeBodyKeypoints`, *optional*):
            The person in the previous frame of the clip, for each of the n frames; nobody before the first frame.
    """

    images: np.ndarray
    keypoints: WholeBodyKeypoints
    face_mask: np.ndarray
    hand_masks: np.ndarray
    hand_sharpness: np.ndarray | None = None
    previous_keypoints: WholeBodyKeypoints | None = None

    def flip_horizontal(self) -> "ClipFrames":
        """Mirror the frames, which swaps the left and right hand."""
        return ClipFrames(
            self.images[:, :, ::-1],
            self.keypoints.flip_horizontal(),
            self.face_mask[..., ::-1],
            self.hand_masks[:, ::-1, :, ::-1],
            None if self.hand_sharpness is None else self.hand_sharpness[:, ::-1],
            None if self.previous_keypoints is None else self.previous_keypoints.flip_horizontal(),
        )

    def take(self, order: np.ndarray) -> "ClipFrames":
        """Select frames, in any order and possibly repeated.

        Args:
            order (`np.ndarray`):
                Positions among the n frames.
        """
        return ClipFrames(
            self.images[order],
            _take(self.keypoints, order),
            self.face_mask[order],
            self.hand_masks[order],
            None if self.hand_sharpness is None else self.hand_sharpness[order],
            None if self.previous_keypoints is None else _take(self.previous_keypoints, order),
        )


class PreparedClips:
    """The clips of a folder that `hia-diffusers prepare` wrote.

    Each is cropped to the aspect ratio of the sample, such that the person stays in the image, and resized to it; a
    small clip is enlarged. Masks are filled boxes.

    Args:
        root (`str` or `os.PathLike`):
            The folder, or its fsspec URL, such as `s3://bucket/dance`. At first, only the index is read; the files of
            a clip are opened when one of its samples is requested. `simplecache::s3://bucket/dance` caches them on the
            local disk.

    Raises:
        FileNotFoundError: If `root` has no index.
        ValueError: If the index is invalid or contains no clip.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = checks.path("root", root)
        self._rows = read_index(self.root)
        if not self._rows:
            raise ValueError(f"`root` contains no clips: {self.root}.")

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._rows)

    def name(self, clip: int) -> str:
        """Return the id of a clip in the index."""
        return self._rows[clip]["clip"]

    def num_frames(self, clip: int) -> int:
        """The length of a clip."""
        return self._rows[clip]["num_frames"]

    def choose_size(self, clip: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Choose the `(height, width)` whose aspect ratio is closest to that of the clip."""
        row = self._rows[clip]
        aspect = math.log(row["height"] / row["width"])
        return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))

    def load(
        self,
        clip: int,
        frames: Sequence[int],
        size: tuple[int, int],
        rng: np.random.Generator,
        with_previous: bool = False,
    ) -> ClipFrames:
        """Read frames of a clip.

        Args:
            clip (`int`):
                Number of the clip.
            frames (`Sequence[int]`):
                Frame numbers in the clip.
            size (`tuple[int, int]`):
                Height and width of the result.
            rng (`np.random.Generator`):
                Random generator for the position of the crop, which is the same for all frames.
            with_previous (`bool`, *optional*, defaults to `False`):
                Whether to also return `previous_keypoints`.

        Raises:
            UnreadableClipError: If a file of the clip is missing or damaged.
        """
        try:
            return self._load(self._rows[clip], frames, size, rng, with_previous)
        except Exception as error:  # damaged files raise more kinds of errors than can be listed
            reason = " ".join(str(error).split()) or "out of memory"
            if not isinstance(error, (OSError, ValueError)):
                reason = f"{type(error).__name__}: {reason}"
            raise UnreadableClipError(f"Clip {self.name(clip)!r} of {self.root} cannot be read: {reason}") from error

    def _load(
        self,
        row: dict[str, Any],
        frames: Sequence[int],
        size: tuple[int, int],
        rng: np.random.Generator,
        with_previous: bool,
    ) -> ClipFrames:
        filesystem, folder = url_to_fs(self.root)
        if isinstance(filesystem, LocalFileSystem):
            _check_files(f"{folder}/{row['annotations']}", f"{folder}/{row['file_name']}", row["num_frames"])
        annotations = _annotations(filesystem.cat_file(f"{folder}/{row['annotations']}"), row["num_frames"])
        of_clip = {name: annotations[name].item() for name in ("height", "width", "fps")}
        if any(row[name] != value for name, value in of_clip.items()):
            raise ValueError(f"its annotations state {of_clip}, its index { ({name: row[name] for name in of_clip}) }")
        with filesystem.open(f"{folder}/{row['file_name']}", "rb") as file:
            images = read_frames(file, frames)
        whole_clip = WholeBodyKeypoints(annotations["xy"], annotations["score"], **of_clip)
        keypoints = _take(whole_clip, frames)
        if images.shape[1:3] != (keypoints.height, keypoints.width):
            raise ValueError(
                f"its images are {images.shape[1:3]}, its keypoints {(keypoints.height, keypoints.width)}"
            )

        x0, y0, x1, y1 = _crop_around_person(keypoints, size, rng)
        height, width = size
        to_sample = np.array([width / (x1 - x0), height / (y1 - y0)] * 2, dtype=np.float32)
        boxes = np.concatenate([annotations["face_boxes"][:, None], annotations["hand_boxes"]], axis=1)[frames]
        masks = box_masks((boxes - np.array([x0, y0, x0, y0])) * to_sample, height, width)
        loaded = ClipFrames(
            np.stack([_resize(image[y0:y1, x0:x1], size) for image in images]),
            keypoints.crop(x0, y0, x1, y1).resize(height, width),
            masks[:, 0],
            masks[:, 1:],
            annotations["hand_sharpness"][frames],
        )
        if with_previous:
            before = _take(whole_clip.previous_frames(), frames)
            loaded.previous_keypoints = before.crop(x0, y0, x1, y1).resize(height, width)
        return loaded


class ProceduralClips:
    """Procedural people, rendered on the fly at the size of the sample, with exact keypoints and masks.

    Every clip has its own dance and setting, and its own person unless one is chosen for all.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"test"` or `"validation"`; they share no person, dance or setting.
        num_clips (`int`, *optional*, defaults to `1000`):
            Number of clips.
        num_frames (`int`, *optional*, defaults to `300`):
            Number of frames of each.
        fps (`float`, *optional*, defaults to `30.0`):
            Frames per second.
        identity (`int`, *optional*):
            Number of the person in all clips.
    """

    def __init__(
        self,
        split: str = "train",
        num_clips: int = 1000,
        num_frames: int = 300,
        fps: float = 30.0,
        identity: int | None = None,
    ):
        ProceduralScene(split=split, identity=0, motion=0, setting=0)  # raises an error for an unknown split
        self.split = split
        self.num_clips = checks.integer("num_clips", num_clips)
        self.clip_length = checks.integer("num_frames", num_frames)
        self.fps = checks.number("fps", fps, above=0)
        self.identity = None if identity is None else checks.integer("identity", identity, 0, checks.MAX_SEED)

    def __len__(self) -> int:
        """Number of clips."""
        return self.num_clips

    def name(self, clip: int) -> str:
        """Return the split and number of a clip."""
        person = "" if self.identity is None else f"-of-person-{self.identity}"
        return f"procedural-{self.split}-{clip}{person}"

    def num_frames(self, clip: int) -> int:
        """The length of a clip."""
        return self.clip_length

    def choose_size(self, clip: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Choose a `(height, width)`, each for the same number of clips."""
        return sizes[clip % len(sizes)]

    def load(
        self,
        clip: int,
        frames: Sequence[int],
        size: tuple[int, int],
        rng: np.random.Generator,
        with_previous: bool = False,
    ) -> ClipFrames:
        """Render frames of a clip.

        Args:
            clip, frames, size:
                As in [`PreparedClips.load`].
            rng (`np.random.Generator`):
                Unused: the frames depend only on the clip.
            with_previous:
                As in [`PreparedClips.load`].
        """
        height, width = size
        person = clip if self.identity is None else self.identity
        scene = ProceduralScene(split=self.split, identity=person, motion=clip, setting=clip)
        rendered = scene.render(frames=frames, height=height, width=width, fps=self.fps)
        loaded = ClipFrames(rendered.frames, rendered.keypoints, rendered.face_mask, rendered.hand_masks)
        if with_previous:
            before = scene.keypoints([max(frame - 1, 0) for frame in frames], height, width, self.fps)
            score = before.score * (np.array(frames) > 0)[:, None]
            loaded.previous_keypoints = replace(before, score=score)
        return loaded


def _check_files(annotations: str, video: str, num_frames: int) -> None:
    """Check that both are regular files of plausible size.

    Opening a FIFO would block, and reading an unlimited number of bytes would need unlimited memory.
    """
    for path in (annotations, video):
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError(f"{path} is not a regular file")
    if os.path.exists(annotations) and os.path.getsize(annotations) > num_frames * MAX_BYTES_PER_FRAME + 2**20:
        raise ValueError(f"{annotations} is too large for the annotations of {num_frames} frames")


def _annotations(content: bytes, num_frames: int) -> dict[str, np.ndarray]:
    """Read the arrays of an annotation file."""
    arrays = safetensors.numpy.load(content)
    shapes = {"xy": (133, 2), "score": (133,), "hand_boxes": (2, 4), "hand_sharpness": (2,), "face_boxes": (4,)}
    absent = {*shapes, "height", "width", "fps"} - arrays.keys()
    if absent:
        raise ValueError(f"its annotations contain no {', '.join(sorted(absent))}")
    for name, shape in shapes.items():
        if arrays[name].shape != (num_frames, *shape):
            raise ValueError(f"`{name}` must have shape {(num_frames, *shape)}, got {arrays[name].shape}")
        if arrays[name].dtype.kind != "f":
            raise ValueError(f"`{name}` must contain floating-point numbers, got {arrays[name].dtype}")
    if (arrays["hand_sharpness"] < 0).any() or (arrays["hand_sharpness"] > 1).any():
        raise ValueError("`hand_sharpness` must be in [0, 1] or NaN")
    return arrays


def _take(keypoints: WholeBodyKeypoints, order: Sequence[int] | np.ndarray) -> WholeBodyKeypoints:
    return replace(keypoints, xy=keypoints.xy[order], score=keypoints.score[order])


def _crop_around_person(
    keypoints: WholeBodyKeypoints, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return `x0, y0, x1, y1` of the largest crop with the aspect ratio of `size`.

    Its position is random, among those that keep the person in all frames.
    """
    image = np.array([keypoints.width, keypoints.height])
    scale = (image / size[::-1]).min()
    part = np.minimum(np.rint(scale * np.array(size[::-1])).astype(int), image)
    free = image - part
    points = keypoints.xy[keypoints.score > SCORE_THRESHOLD].clip(0, image)
    if len(points) == 0:
        start = rng.integers(free, endpoint=True)
    else:
        low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        least, greatest = (high - part).clip(0, free).astype(int), low.clip(0, free).astype(int)
        centered = ((low + high - part) / 2).clip(0, free).astype(int)
        least, greatest = np.where(least <= greatest, [least, greatest], centered)
        start = rng.integers(least, greatest, endpoint=True)
    x0, y0 = start.tolist()
    x1, y1 = (start + part).tolist()
    return x0, y0, x1, y1


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = image.shape[0] > size[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
