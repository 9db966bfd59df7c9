# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The driving clip: a video of a person, keypoints or an OpenPose-style pose video, and detection of its type."""

import logging
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..conditioning import pose_files
from ..conditioning.keypoints import NotStatedError, WholeBodyKeypoints
from ..conditioning.skeleton_reading import read_skeletons
from ..conditioning.whole_body import BODY
from ..video.frame_folders import is_frame
from ..video.reading import Video, VideoFrames, read_frame_rate
from ..video.writing import check_frame_rate


# Maps that are used as they are, and clips that keypoints are known or detected of.
MAPS = ("pose", "densepose")
KINDS = ("video", "keypoints", *MAPS)
KEYPOINT_SUFFIXES = (".safetensors", *pose_files.SUFFIXES)

# Limit of `start` and `end`, which no clip reaches.
MAX_SECONDS = 10.0**6

# Pixels sampled along the shorter side of a frame.
SAMPLED_SIDE = 128

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Driving:
    """The motion that drives an image.

    Args:
        kind (`str`):
            `"video"` of a person, `"keypoints"`, `"pose"`, an OpenPose-style pose video, or `"densepose"`, a DensePose
            video.
        fps (`float`):
            Frames per second in [0.001, 1000], the range of videos.
        frames (`np.ndarray` or [`~video.reading.VideoFrames`], *optional*):
            uint8 RGB `(F, H, W, 3)` of a video or a pose video; those of a file are decoded on demand.
        keypoints (`WholeBodyKeypoints`, *optional*):
            The keypoints, if the type is `"keypoints"`.
        sound (`Path`, *optional*):
            A file whose sound, if it has any, belongs to the motion.
        sound_start (`float`, *optional*, defaults to 0.0):
            Time in `sound` of the first frame, in seconds.
    """

    kind: str
    fps: float
    frames: Any = None
    keypoints: WholeBodyKeypoints | None = None
    sound: Path | None = None
    sound_start: float = 0.0

    def __post_init__(self):
        if self.kind not in KINDS or (self.kind == "keypoints") != (self.keypoints is not None):
            given = "frames" if self.keypoints is None else "keypoints"
            raise ValueError(f"`driving_type` is {self.kind!r}, but the driving clip contains {given}")
        if isinstance(self.frames, np.ndarray):
            shape = self.frames.shape
            if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
                raise ValueError(
                    f"`driving`: its frames must be uint8 RGB of shape (F, H, W, 3), got {self.frames.dtype} {shape}"
                )
        try:
            check_frame_rate(self.fps)
        except ValueError as error:
            raise ValueError(f"`driving`: {error}") from error

    @classmethod
    def load(
        cls,
        driving: "str | os.PathLike | WholeBodyKeypoints | Video | Driving",
        driving_type: str = "auto",
        max_frames: int | None = None,
        driving_fps: float | None = None,
        driving_size: tuple[int, int] | None = None,
        start: float | None = None,
        end: float | None = None,
        every: int = 1,
    ) -> "Driving":
        """Read a driving clip.

        Args:
            driving (`str`, `os.PathLike`, `WholeBodyKeypoints`, `Video` or `Driving`):
                A video file, a folder of images in the order of the numbers in their names, keypoints (or a file or
                folder for [`WholeBodyKeypoints.load`], including pose files of other tools), decoded frames, or a
                result of this method.
            driving_type (`str`, *optional*, defaults to `"auto"`):
                Type of the clip. `"auto"` recognizes keypoints by their suffix, in upper or lower case, and pose
                videos by their colours; a DensePose video must be named.
            max_frames (`int`, *optional*):
                Maximum number of frames, as for [`~Driving.excerpt`].
            driving_fps (`float`, *optional*):
                Frames per second of a folder of images, or of a pose file that does not state them.
            driving_size (`tuple[int, int]`, *optional*):
                Height and width, in pixels, of the image that the points of a pose file lie in,
                for a file that does not state them.
            start, end, every:
                As for [`~Driving.excerpt`].

        Raises:
            TypeError: If `driving` or another argument has another type.
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read as its type or has an implausible frame rate, `driving_type` is
                unknown, or as [`~Driving.excerpt`].
        """
        checks.one_of("driving_type", driving_type, ("auto", *KINDS))
        is_path = isinstance(driving, (str, os.PathLike))
        is_keypoints = is_path and (driving_type == "keypoints" or driving_type == "auto" and _is_pose_file(driving))
        is_folder = isinstance(driving, (str, os.PathLike)) and not is_keypoints and Path(driving).is_dir()
        if driving_size is not None and not is_keypoints:
            raise ValueError("`driving_size` applies only to pose files that do not state it")
        if driving_fps is not None and not is_keypoints and not is_folder:
            raise ValueError("`driving_fps` applies only to folders of images, and to pose files that do not state it")
        if isinstance(driving, Driving):
            return driving.excerpt(start, end, every, max_frames)
        if isinstance(driving, WholeBodyKeypoints):
            clip = cls("keypoints" if driving_type == "auto" else driving_type, driving.fps, keypoints=driving)
        elif isinstance(driving, Video):
            clip = cls("video", driving.fps, frames=driving.frames)
        elif not is_path:
            raise TypeError(
                f"`driving` must be a path, WholeBodyKeypoints, a Video or a Driving, got {type(driving).__name__}."
            )
        elif is_keypoints:
            keypoints = _load_keypoints(driving, driving_fps, driving_size)
            clip = cls("keypoints", keypoints.fps, keypoints=keypoints)
        elif is_folder:
            clip = cls("video", _frame_rate_of_folder(driving, driving_fps), frames=VideoFrames(driving))
        else:
            frames = VideoFrames(driving)
            clip = cls("video", read_frame_rate(driving), frames=frames, sound=Path(driving))
        clip = clip.excerpt(start, end, every, max_frames)
        if clip.frames is None:
            return clip
        return replace(clip, kind=recognise_video(clip.frames) if driving_type == "auto" else driving_type)

    def excerpt(
        self,
        start: float | None = None,
        end: float | None = None,
        every: int = 1,
        max_frames: int | None = None,
    ) -> "Driving":
        """Select frames of the clip. Those of a file are still decoded on demand.

        Args:
            start, end (`float`, *optional*):
                Times in seconds since the first frame. The frames that a player shows in between are selected; by
                default, all of them.
            every (`int`, *optional*, defaults to 1):
                Selects every N-th of these frames, which divides `fps`. The motion of a hand is then that since the
                previous selected frame.
            max_frames (`int`, *optional*):
                Maximum number of frames.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If `start` is negative or not before the end of the clip, `end` is not after `start`, or
                `every` or `max_frames` is less than 1.
        """
        every = checks.integer("every", every)
        max_frames = None if max_frames is None else checks.integer("max_frames", max_frames)
        begin = 0.0 if start is None else checks.number("start", start, 0, MAX_SECONDS)
        # The computed time of a frame may be slightly too low or too high.
        first, stop = math.floor(begin * self.fps + 1e-6), None
        if end is not None:
            stop = math.ceil(checks.number("end", end, above=begin, high=MAX_SECONDS) * self.fps - 1e-6)

        def selected(clip: Any) -> Any:
            return None if clip is None else clip[first:stop:every][:max_frames]

        whole = self.frames if self.keypoints is None else self.keypoints.xy
        if first and next(iter(selected(whole)), None) is None:
            raise ValueError(f"`start` must be before the end of the driving clip, got {begin:g} seconds.")
        return replace(
            self,
            fps=self.fps / every,
            frames=selected(self.frames),
            keypoints=selected(self.keypoints),
            sound_start=self.sound_start + first / self.fps,
        )

    def read_keypoints(self) -> "Driving":
        """Return a pose video as keypoints, read back from its skeletons.

        Raises:
            ValueError: If its frames show no OpenPose-style skeleton, or several.
        """
        try:
            keypoints = read_skeletons(self.frames, self.fps)
        except ValueError as error:
            raise ValueError(
                f"`retarget`: {error}; pass the video that it was drawn from, or a pose file with its keypoints, as "
                "`driving`"
            ) from error
        found = (keypoints.score[:, BODY] > 0).any(axis=1).sum()
        logger.info("The skeleton was read in %d of %d frames of the pose video.", found, len(keypoints))
        return replace(self, kind="keypoints", frames=None, keypoints=keypoints)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames if self.keypoints is None else self.keypoints)

    @property
    def height(self) -> int:
        """Height of the frames in pixels."""
        return self.frames.shape[1] if self.keypoints is None else self.keypoints.height

    @property
    def width(self) -> int:
        """Width of the frames in pixels."""
        return self.frames.shape[2] if self.keypoints is None else self.keypoints.width


def _is_pose_file(path: Any) -> bool:
    """Return whether the file contains keypoints. Pickles count too, so that the error message is about them."""
    if Path(path).is_dir():
        return next(Path(path).glob("*.json"), None) is not None
    return Path(path).suffix.lower() in (*KEYPOINT_SUFFIXES, *pose_files.PICKLES)


def _frame_rate_of_folder(folder: str | os.PathLike, fps: float | None) -> float:
    if not any(is_frame(path.name) for path in Path(folder).iterdir()):
        raise ValueError(f"`driving`: {folder} contains neither images nor .json files.")
    if fps is None:
        raise ValueError(f"`driving`: {folder} does not state its frame rate; pass `driving_fps`.")
    return checks.number("driving_fps", fps, 0.001, 1000)


def _load_keypoints(path: str | os.PathLike, fps: float | None, size: tuple[int, int] | None) -> WholeBodyKeypoints:
    height, width = (None, None) if size is None else size
    try:
        return WholeBodyKeypoints.load(path, height, width, fps)
    except NotStatedError as error:
        missing = [f"`driving_{name}`" for name, what in (("size", "size"), ("fps", "rate")) if what in error.what]
        raise ValueError(f"`driving`: {path} does not state {error.what}; pass {' and '.join(missing)}.") from error
    except ValueError as error:
        names = {"path": "driving", "height": "driving_size", "width": "driving_size", "fps": "driving_fps"}
        raise ValueError(re.sub(r"^`(\w+)`", lambda name: f"`{names.get(name[1], name[1])}`", str(error))) from error


def recognise_video(frames: Iterable[np.ndarray]) -> str:
    """Distinguish `"pose"`, with vivid or white lines on black, from `"video"`, and log the reason.

    Args:
        frames (`Iterable[np.ndarray]`):
            uint8 RGB `(H, W, 3)` each.
    """
    counts = np.zeros(4)
    for frame in frames:
        step = max(2, min(frame.shape[:2]) // SAMPLED_SIDE)
        sample = frame[::step, ::step]
        brightest, darkest = sample.max(axis=-1), sample.min(axis=-1)
        drawn = brightest >= 48
        is_vivid = drawn & ((brightest - darkest > 0.6 * brightest) | (darkest >= 160))
        counts += brightest.size, (brightest < 16).sum(), drawn.sum(), is_vivid.sum()
    black, vivid = counts[1] / counts[0], counts[3] / max(counts[2], 1)
    kind, meaning = "video", "a video of a person"
    if black >= 0.5 and vivid >= 0.7:
        kind, meaning = "pose", "an OpenPose-style pose video"
    logger.info(
        f"The driving clip is treated as {meaning}: {black:.0%} of its pixels are black, and {vivid:.0%} of the "
        "bright ones vivid or white. If this is wrong, set `driving_type`."
    )
    return kind
