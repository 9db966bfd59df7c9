# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""An animation with the result of every step. Axes: F frames."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.motion_blur_condition import MotionBlurCondition
from ..video.sound import has_sound
from ..video.writing import WITH_SOUND, output_kind, write_video
from .driving import Driving


# In the metadata of every result. The word in brackets is the IPTC term for media created by a trained model.
COMMENT = "AI-generated with hia-diffusers (trainedAlgorithmicMedia)"

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class HIAAnimation:
    """The result of [`HIAAnimator`], with that of every step. Use `dataclasses.replace` to replace parts of it.

    Args:
        image (`PIL.Image.Image`):
            The reference image, fitted to the size of the result.
        driving ([`~animation.driving.Driving`]):
            The driving clip.
        condition (`MotionBlurCondition`):
            The conditioning frames, F frames at the size of the result.
        fps (`float`):
            Frames per second of the result.
        detected (`WholeBodyKeypoints`, *optional*):
            The person in a driving video, as detected. `None` without detection.
        keypoints (`WholeBodyKeypoints`, *optional*):
            The person in the driving clip, smoothed after detection. `None` for a pose video.
        image_keypoints (`WholeBodyKeypoints`, *optional*):
            The person in the original image, one frame. `None` if the motion is not retargeted.
        retargeted (`WholeBodyKeypoints`, *optional*):
            `keypoints` retargeted to the person in `image`. `None` if they are not retargeted.
        frames (`list[PIL.Image.Image]`, *optional*):
            The F frames of the result. `None` before they are generated, and if they were written to a file instead.
    """

    image: PIL.Image.Image
    driving: Driving
    condition: MotionBlurCondition
    fps: float
    detected: WholeBodyKeypoints | None = None
    keypoints: WholeBodyKeypoints | None = None
    image_keypoints: WholeBodyKeypoints | None = None
    retargeted: WholeBodyKeypoints | None = None
    frames: Sequence[Any] | None = None

    def save(self, path: str | os.PathLike, sound: bool | str | os.PathLike = True) -> None:
        """Write the frames to a file or a folder, with a comment that discloses that they are generated.

        Args:
            path (`str` or `os.PathLike`):
                An `.mp4`, `.webm`, `.gif` or `.webp` file, or a folder, as for [`~video.writing.write_video`]; an
                existing one is replaced.
            sound (`bool`, `str` or `os.PathLike`, *optional*, defaults to `True`):
                Whether to add the sound of the driving clip, if it has any, or another file whose sound to add. Only
                `.mp4` and `.webm` files have sound.

        Raises:
            FileNotFoundError, OSError, ValueError: As [`~video.writing.write_video`], or there are no frames.
        """
        if self.frames is None:
            raise ValueError("`frames` is None: the frames were not generated, or written to a file instead.")
        write_video(path, self.frames, self.fps, comment=COMMENT, **self.sound_arguments(path, sound))

    def preview(self) -> list[PIL.Image.Image]:
        """Image, condition and, if they are there, frames side by side.

        Returns:
            `list[PIL.Image.Image]`: F RGB images, two or three times as wide as the frames.
        """
        columns = [[self.image] * len(self.condition), self.condition.preview()]
        if self.frames is not None:
            columns.append(list(self.frames))
        return [PIL.Image.fromarray(np.hstack(row)) for row in zip(*columns, strict=True)]

    def sound_arguments(self, output: str | os.PathLike, sound: bool | str | os.PathLike = True) -> dict[str, Any]:
        """Return the arguments of [`~video.writing.write_video`] for the sound, after checking that it is readable.

        Args:
            output (`str` or `os.PathLike`):
                The file or folder to write.
            sound (`bool`, `str` or `os.PathLike`, *optional*, defaults to `True`):
                As for [`~HIAAnimation.save`].

        Raises:
            FileNotFoundError, ValueError: As [`~video.sound.has_sound`].
        """
        file: Any = self.driving.sound if sound is True else None
        if not isinstance(sound, (bool, np.bool_)):
            file = checks.path("sound", sound)
        kind = output_kind(output)
        if kind in WITH_SOUND:
            start = self.driving.sound_start if sound is True else 0.0
            is_there = file is not None and has_sound(file, len(self.condition) / self.fps, start, kind)
            return {"audio_from": file if is_there else None, "audio_start": start}
        if file is not None and has_sound(file, 0):
            logger.warning("%s is without the sound of %s: only .mp4 and .webm files have sound.", output, file)
        return {"audio_from": None}
