# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The driving clip: a video of a person, keypoints or an OpenPose-style pose video, and which of them a file is."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..conditioning.keypoints import WholeBodyKeypoints
from ..data.video import Video, check_frame_rate, read_video


KINDS = ("video", "keypoints", "pose")
KEYPOINT_SUFFIXES = (".safetensors", ".npz")

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Driving:
    """
    The motion that drives a picture.

    Args:
        kind (`str`):
            `"video"` of a person, `"keypoints"` or `"pose"`, an OpenPose-style pose video.
        fps (`float`):
            Frames per second in [0.001, 1000], as videos can have.
        frames (`np.ndarray`, *optional*):
            uint8 RGB `(F, H, W, 3)` of a video or a pose video.
        keypoints (`WholeBodyKeypoints`, *optional*):
            The keypoints, where they drive.
        sound (`Path`, *optional*):
            A file whose sound, if it has any, belongs to the motion.
    """

    kind: str
    fps: float
    frames: Any = None
    keypoints: WholeBodyKeypoints | None = None
    sound: Path | None = None

    def __post_init__(self):
        if self.kind not in KINDS or (self.kind == "keypoints") != (self.keypoints is not None):
            given = "frames" if self.keypoints is None else "keypoints"
            raise ValueError(f"`driving_type` is {self.kind!r}, but the driving holds {given}")
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
    ) -> "Driving":
        """
        Read a driving clip.

        Args:
            driving (`str`, `os.PathLike`, `WholeBodyKeypoints`, `Video` or `Driving`):
                A video file, keypoints (also a `.safetensors` or `.npz` file of them), decoded frames, or what this
                method returned.
            driving_type (`str`, *optional*, defaults to `"auto"`):
                Which kind it is. `"auto"` tells keypoints by their suffix, and pose videos by their colours.
            max_frames (`int`, *optional*):
                Use only the beginning, of so many frames.

        Raises:
            `TypeError`: `driving` is none of these.
            `FileNotFoundError`: there is no such file.
            `ValueError`: the file cannot be read as the kind that it is or has a frame rate that no video can have,
                `driving_type` is unknown, or `max_frames` is less than 1.
        """
        if driving_type not in ("auto", *KINDS):
            raise ValueError(f"`driving_type` must be auto, {', '.join(KINDS)}, got {driving_type!r}.")
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"`max_frames` must be at least 1, got {max_frames}.")
        if isinstance(driving, Driving):
            frames, keypoints = driving.frames, driving.keypoints
            return replace(
                driving,
                frames=None if frames is None else frames[:max_frames],
                keypoints=None if keypoints is None else keypoints[:max_frames],
            )
        if isinstance(driving, WholeBodyKeypoints):
            kind = "keypoints" if driving_type == "auto" else driving_type
            return cls(kind, driving.fps, keypoints=driving[:max_frames])
        if isinstance(driving, Video):
            video, sound = Video(driving.frames[:max_frames], driving.fps), None
        elif not isinstance(driving, (str, os.PathLike)):
            raise TypeError(
                f"`driving` must be a path, WholeBodyKeypoints, a Video or a Driving, got {type(driving).__name__}."
            )
        elif driving_type == "keypoints" or driving_type == "auto" and Path(driving).suffix in KEYPOINT_SUFFIXES:
            keypoints = WholeBodyKeypoints.load(driving)[:max_frames]
            return cls("keypoints", keypoints.fps, keypoints=keypoints)
        else:
            video, sound = read_video(driving, max_frames), Path(driving)
        kind = recognise_video(video.frames) if driving_type == "auto" else driving_type
        return cls(kind, video.fps, frames=video.frames, sound=sound)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames if self.keypoints is None else self.keypoints)

    @property
    def height(self) -> int:
        return self.frames.shape[1] if self.keypoints is None else self.keypoints.height

    @property
    def width(self) -> int:
        return self.frames.shape[2] if self.keypoints is None else self.keypoints.width


def recognise_video(frames: np.ndarray) -> str:
    """
    Tells `"pose"`, which has vivid or white lines on black, from `"video"`, and logs why.

    Args:
        frames (`np.ndarray`):
            uint8 RGB `(F, H, W, 3)`.
    """
    sample = frames[:: -(-len(frames) // 16), ::2, ::2]
    brightest, darkest = sample.max(axis=-1), sample.min(axis=-1)
    black = (brightest < 16).mean()
    drawn = brightest >= 48
    vivid = ((brightest - darkest > 0.6 * brightest) | (darkest >= 160))[drawn].mean() if drawn.any() else 0.0
    kind, meaning = "video", "a video of a person"
    if black >= 0.5 and vivid >= 0.7:
        kind, meaning = "pose", "an OpenPose-style pose video"
    logger.info(
        f"The driving is taken as {meaning}: {black:.0%} of its pixels are black, and {vivid:.0%} of the bright ones "
        "vivid or white. Where that is wrong, say so with `driving_type`."
    )
    return kind
