# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The conditioning frames of a call, in any form that a user may pass.

Axes: B clips, F frames, C channels, H, W.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch

from ..fitting import fit_images
from ..images import number_tensor
from .motion_blur import MotionBlurConditioner
from .motion_blur_condition import MotionBlurCondition


# Channels of the conditioning frames; the first of them are the pose.
CHANNELS, POSE_CHANNELS = 6, 3


@dataclass(frozen=True)
class ConditioningClips:
    """Clips of equal length and size, converted to tensors window by window.

    A long clip is never in memory as a whole.

    Args:
        clips (`tuple`):
            B clips, each a `MotionBlurCondition` or a tensor `(F, 3 or C, H, W)` in [0, 1].
        channels (`int`):
            C, the channels of the ControlNet. Pose maps with 3 channels are extended to 6 with unknown blur. Of 6
            channels, a ControlNet with 3 channels uses those of the pose.
        height, width (`int`):
            Size of the frames that are read, in pixels. Clips of another size are resized; clips of another aspect
            ratio are fitted whole and centred.
    """

    clips: tuple[MotionBlurCondition | torch.Tensor, ...]
    channels: int
    height: int
    width: int

    @classmethod
    def from_any(cls, conditioning_frames: Any, channels: int) -> "ConditioningClips":
        """Create the clips of a call.

        Args:
            conditioning_frames:
                As for [`HIAPipeline.__call__`](hia_diffusers.HIAPipeline).
            channels (`int`):
                C, the channels of the ControlNet.

        Raises:
            TypeError, ValueError: If they have another form, different shapes, or values outside [0, 1].
        """
        if isinstance(conditioning_frames, cls):
            return conditioning_frames
        if isinstance(conditioning_frames, torch.Tensor) and conditioning_frames.ndim == 5:
            clips = tuple(number_tensor(conditioning_frames, "conditioning_frames"))
        else:
            is_batch = isinstance(conditioning_frames, list) and not all(
                isinstance(frame, PIL.Image.Image) for frame in conditioning_frames
            )
            clips = tuple(_as_clip(clip) for clip in (conditioning_frames if is_batch else [conditioning_frames]))
        shapes = {_shape(clip) for clip in clips}
        if len(shapes) > 1:
            raise ValueError(
                "`conditioning_frames` of a batch must have equal shapes (F, C, H, W), got "
                f"{', '.join(map(str, sorted(shapes)))}."
            )
        if not clips or 0 in next(iter(shapes)) or not all(map(_is_in_range, clips)):
            raise ValueError("`conditioning_frames` must contain at least one frame with finite values in [0, 1].")
        _, found, height, width = next(iter(shapes))
        if found != channels and {found, channels} != {POSE_CHANNELS, CHANNELS}:
            raise ValueError(
                f"`conditioning_frames` must have the {channels} channels of the ControlNet, got {found}."
            )
        return cls(clips, channels, height, width)

    def __len__(self) -> int:
        """Number of clips, B."""
        return len(self.clips)

    @property
    def num_frames(self) -> int:
        """Number of frames of each clip."""
        return len(self.clips[0])

    def resize(self, height: int, width: int) -> "ConditioningClips":
        """Return the clips, read at another size."""
        return replace(self, height=height, width=width)

    def repeat_to(self, batch_size: int) -> "ConditioningClips":
        """Repeat each clip to a total of `batch_size` clips, with repetitions of one clip next to each other."""
        repeats = batch_size // len(self)
        return replace(self, clips=tuple(clip for clip in self.clips for _ in range(repeats)))

    def read(self, frames: Sequence[int]) -> torch.Tensor:
        """Read some frames of all clips.

        Args:
            frames (`Sequence[int]`):
                Frame numbers, from 0.

        Returns:
            `torch.Tensor` of shape `(B, len(frames), C, height, width)`: float32 in [0, 1].
        """
        numbers = list(frames)
        read = [clip[numbers] for clip in self.clips]
        batch = torch.stack([clip if isinstance(clip, torch.Tensor) else clip.to_tensor() for clip in read]).float()
        # With a pose map only, the blur is unknown, as in MotionBlurConditioner.from_pose_video. Excess channels are
        # cut.
        batch = torch.nn.functional.pad(batch, (0, 0, 0, 0, 0, self.channels - batch.shape[2]))
        fitted = fit_images(batch.flatten(0, 1), self.height, self.width)
        return fitted.unflatten(0, batch.shape[:2])


def _shape(clip: MotionBlurCondition | torch.Tensor) -> tuple[int, ...]:
    """(F, C, H, W)."""
    return tuple(clip.shape) if isinstance(clip, torch.Tensor) else (len(clip), CHANNELS, clip.height, clip.width)


def _is_in_range(clip: MotionBlurCondition | torch.Tensor) -> bool:
    if isinstance(clip, torch.Tensor):
        low, high = clip.aminmax()
        return bool(low >= 0 and high <= 1)  # NaN is its own minimum and maximum, and fails both comparisons
    sharpness = clip.hand_sharpness
    return bool((np.isnan(sharpness) | ((sharpness >= 0) & (sharpness <= 1))).all())


def _as_clip(conditioning_frames: object) -> MotionBlurCondition | torch.Tensor:
    if isinstance(conditioning_frames, MotionBlurCondition):
        return conditioning_frames
    if isinstance(conditioning_frames, list) and conditioning_frames:
        if all(isinstance(frame, PIL.Image.Image) for frame in conditioning_frames):
            if len({frame.size for frame in conditioning_frames}) > 1:
                raise ValueError("`conditioning_frames` must be images of one size.")
            return MotionBlurConditioner().from_pose_video(conditioning_frames)
    if isinstance(conditioning_frames, torch.Tensor):
        if conditioning_frames.ndim == 4 or conditioning_frames.is_nested:  # rejected there
            return number_tensor(conditioning_frames, "conditioning_frames")
        raise ValueError(
            "`conditioning_frames` must have the shape (F, C, H, W), or (B, F, C, H, W) for a batch, got"
            f" {tuple(conditioning_frames.shape)}."
        )
    if isinstance(conditioning_frames, list) and not conditioning_frames:
        raise ValueError("`conditioning_frames` must contain at least one frame, got none.")
    raise TypeError(
        "`conditioning_frames` must be a MotionBlurCondition, a list of PIL images, a tensor (F, C, H, W), or a list"
        f" of those for a batch, got {type(conditioning_frames).__name__}."
    )
