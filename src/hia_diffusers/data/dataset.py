# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Training samples from prepared clips or from procedural people.

Axes: F frames of a sample, n frames of a clip as loaded, C, H, W; hands are ordered left, right (the person's).
Pixels follow the convention of `keypoints.py`.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.motion_blur import MotionBlurConditioner
from ..conditioning.whole_body import FACE
from .clip_sources import ClipFrames, PreparedClips, ProceduralClips, UnreadableClipError


# Incremented when the same options lead to different samples, so that older cached samples are not used.
SAMPLES_VERSION = 3

# A sample replaces at most this many unreadable clips in a row; more indicate a systematic problem.
MAX_SKIPPED = 8

# Random streams of a sample: its content, and the dropped conditions.
CONTENT_DRAW, DROPOUT_DRAW = 0, 1


class HIADataset(torch.utils.data.Dataset):
    r"""Training samples of HIA (Sec. 3.3, A.5 of https://arxiv.org/abs/2409.19580).

    A sample has a reference image of a person, and one or more other frames of the same clip with their conditioning
    frames.

    The content of sample `index` depends only on `seed`, the epoch, `index` and the options, not on the worker, the
    rank or previous samples. A sample is a dictionary:

    | key | type | content |
    | --- | --- | --- |
    | `reference_pixel_values` | float32 `(3, H, W)` | the reference image in `[-1, 1]` |
    | `pixel_values` | float32 `(F, 3, H, W)` | the target frames in `[-1, 1]` |
    | `conditioning` | float32 `(F, 6, H, W)` | conditioning frames, see [`MotionBlurCondition.to_tensor`] |
    | `face_mask` | float32 `(F, 1, H, W)` | 1 in the face, 0 elsewhere |
    | `hand_masks` | float32 `(F, 2, H, W)` | 1 in the left and right hand, 0 elsewhere |
    | `face_landmarks` | float32 `(F, 68, 3)` | x, y in pixels and score of the face points; zeros if missing |
    | `reference_face_landmarks` | float32 `(68, 3)` | the same in the reference image |
    | `drop_conditions` | bool `()` | whether to train this sample without reference and ControlNet |
    | `clip` | `str` | name of the clip |
    | `frames` | int64 `(F,)` | the target frames' numbers in the clip |
    | `reference_frame` | int64 `()` | the reference image's number in the clip |
    | `skipped` | `str` | one line for each unreadable clip that this sample replaces, usually empty |

    The motion of a hand is relative to the previous frame of the clip, however far apart the frames of the sample are.
    It is unknown in the first frame of the clip, and zero in still images.

    Args:
        source ([`PreparedClips`] or [`ProceduralClips`]):
            Source of the clips.
        sizes (`Sequence[tuple[int, int]]`):
            One or more `(height, width)` of the samples. The source chooses the size of each clip, and
            [`AspectBucketBatchSampler`] forms batches of one size.
        num_frames (`int`, *optional*, defaults to `1`):
            Target frames F of a sample; 1 is the single-frame mode of the spatial and regional stages. Clips that are
            too short are excluded with a warning.
        frame_stride (`int` or `tuple[int, int]`, *optional*, defaults to `1`):
            Distance of the target frames in the clip, or its minimum and maximum. Distances that do not fit into a
            clip are not drawn for it.
        resolution_scale (`float`, *optional*, defaults to `1.0`):
            Factor on `sizes`, such as 0.5 for the half-resolution temporal stage. The results must be integers.
        samples_per_clip (`int`, *optional*, defaults to `1`):
            Number of samples per clip in an epoch.
        static_clip_probability (`float`, *optional*, defaults to `0.0`):
            Probability that a sample is one frame F times, without motion: the full-resolution temporal stage also
            trains on still images.
        horizontal_flip_probability (`float`, *optional*, defaults to `0.0`):
            Probability of mirroring images, motion, masks and landmarks, which swaps left and right.
        condition_dropout (`float`, *optional*, defaults to `0.0`):
            Probability of `drop_conditions`. The training loop then omits reference features and ControlNet residuals,
            to train the unconditional branch of animation-CFG (Eq. 4).
        blur_condition_dropout (`float`, *optional*, defaults to `0.0`):
            Probability of zeros in channels 3-5 of the conditioning frames, which mean unknown.
        allow_same_frame (`bool`, *optional*, defaults to `False`):
            Whether the reference image may be one of the target frames.
        conditioner (`MotionBlurConditioner`, *optional*):
            Creates the conditioning frames. By default, a conditioner with default values, but thinner lines if the
            shorter side is below 512 pixels.
        on_error (`str`, *optional*, defaults to `"raise"`):
            Treatment of unreadable clips: `"raise"` an [`UnreadableClipError`], or `"skip"` them: another clip of the
            same size, drawn by `seed`, epoch and `index`, replaces an unreadable one and lists it in `skipped`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all random numbers.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range, or all clips are too short.
    """

    def __init__(
        self,
        source: PreparedClips | ProceduralClips,
        sizes: Sequence[tuple[int, int]],
        num_frames: int = 1,
        frame_stride: int | tuple[int, int] = 1,
        resolution_scale: float = 1.0,
        samples_per_clip: int = 1,
        static_clip_probability: float = 0.0,
        horizontal_flip_probability: float = 0.0,
        condition_dropout: float = 0.0,
        blur_condition_dropout: float = 0.0,
        allow_same_frame: bool = False,
        conditioner: MotionBlurConditioner | None = None,
        on_error: str = "raise",
        seed: int = 0,
    ):
        if not isinstance(source, (PreparedClips, ProceduralClips)):
            raise TypeError(f"`source` must be PreparedClips or ProceduralClips, got {source!r}.")
        if not isinstance(sizes, Sequence) or not sizes:
            raise ValueError(f"`sizes` must contain at least one (height, width), got {sizes!r}.")
        resolution_scale = checks.number("resolution_scale", resolution_scale, above=0)
        if not (conditioner is None or isinstance(conditioner, MotionBlurConditioner)):
            raise TypeError(f"`conditioner` must be a MotionBlurConditioner, got {conditioner!r}.")
        self.source = source
        self.num_frames = checks.integer("num_frames", num_frames)
        self.frame_strides = _checked_strides(frame_stride)
        self.samples_per_clip = checks.integer("samples_per_clip", samples_per_clip)
        self.static_clip_probability = checks.number("static_clip_probability", static_clip_probability, 0, 1)
        self.horizontal_flip_probability = checks.number(
            "horizontal_flip_probability", horizontal_flip_probability, 0, 1
        )
        self.condition_dropout = checks.number("condition_dropout", condition_dropout, 0, 1)
        self.blur_condition_dropout = checks.number("blur_condition_dropout", blur_condition_dropout, 0, 1)
        self.allow_same_frame = checks.flag("allow_same_frame", allow_same_frame)
        self.on_error = checks.one_of("on_error", on_error, ("raise", "skip"))
        self.seed = checks.integer("seed", seed, 0, checks.MAX_SEED)
        self.sizes = [_scaled_size(size, resolution_scale) for size in sizes]
        self._conditioners = {size: conditioner or MotionBlurConditioner.for_size(*size) for size in self.sizes}
        # Shared memory, so that persistent workers see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

        self._clips = [clip for clip in range(len(source)) if self._fitting_strides(source.num_frames(clip))]
        if not self._clips:
            raise ValueError(
                f"`num_frames` must fit into a clip, but all {len(source)} are too short for {num_frames} "
                f"with a stride of {self.frame_strides[0]}."
            )
        if len(self._clips) < len(source):
            left_out = len(source) - len(self._clips)
            warnings.warn(
                f"{left_out} of {len(source)} clips are too short for {num_frames} frames and excluded.",
                stacklevel=2,
            )

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return len(self._clips) * self.samples_per_clip

    @property
    def epoch(self) -> int:
        """The epoch whose samples are drawn, initially 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the samples of another epoch, in running workers too.

        Args:
            epoch (`int`):
                Number of the epoch, from 0.
        """
        self._epoch.fill_(checks.integer("epoch", epoch, 0))

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width of a sample, which are the same in every epoch.

        Args:
            index (`int`):
                Number of the sample.
        """
        return self.source.choose_size(self._clip(index), self.sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a sample, as described above.

        Raises:
            IndexError: If there is no such sample.
            UnreadableClipError: If the clip cannot be read and, with `on_error="skip"`, neither can its replacements.
        """
        return self.drop_conditions(self.complete_sample(index), index)

    def drop_conditions(self, sample: dict[str, Any], index: int) -> dict[str, Any]:
        """Drop conditions of a complete sample, as drawn for this sample in this epoch.

        Args:
            sample (`dict[str, Any]`):
                The result of [`~HIADataset.complete_sample`] in this epoch or, from a cache, in another one.
            index (`int`):
                Number of the sample.
        """
        rng = np.random.default_rng([self.seed, self.epoch, index, DROPOUT_DRAW])
        drop_all, drop_blur = rng.random(2) < [self.condition_dropout, self.blur_condition_dropout]
        conditioning = sample["conditioning"]
        if drop_blur:
            conditioning = conditioning.clone()
            conditioning[:, 3:] = 0
        return {**sample, "conditioning": conditioning, "drop_conditions": torch.tensor(bool(drop_all))}

    def complete_sample(self, index: int) -> dict[str, Any]:
        """Return a sample without dropped conditions and without `drop_conditions`.

        Args:
            index (`int`):
                Number of the sample.

        Raises:
            IndexError, UnreadableClipError: As above.
        """
        clip, size = self._clip(index), self.size(index)
        unreadable: dict[int, UnreadableClipError] = {}
        while True:
            rng = np.random.default_rng([self.seed, self.epoch, index, CONTENT_DRAW, len(unreadable)])
            if unreadable:
                clip = self._replacement(size, unreadable, rng)
            try:
                sample = self._draw_sample(clip, size, rng)
            except UnreadableClipError as error:
                if self.on_error == "raise":
                    raise
                unreadable[clip] = error
            else:
                return {**sample, "skipped": "\n".join(map(str, unreadable.values()))}

    def _clip(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must lie in [0, {len(self)}), got {index}.")
        return self._clips[index % len(self._clips)]

    def _replacement(
        self, size: tuple[int, int], unreadable: dict[int, UnreadableClipError], rng: np.random.Generator
    ) -> int:
        others = [
            clip
            for clip in self._clips
            if clip not in unreadable and self.source.choose_size(clip, self.sizes) == size
        ]
        if not others or len(unreadable) == MAX_SKIPPED:
            *_, last = unreadable.values()
            raise UnreadableClipError(f"{len(unreadable)} clips in a row cannot be read. {last}")
        return int(rng.choice(others))

    def _draw_sample(self, clip: int, size: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
        # Both are drawn for every sample, so that neither depends on the probability of the other.
        is_static, is_flipped = rng.random(2) < [self.static_clip_probability, self.horizontal_flip_probability]
        clip_length = self.source.num_frames(clip)
        stride = int(rng.choice(self._fitting_strides(clip_length)))
        first = int(rng.integers(clip_length - stride * (self.num_frames - 1)))
        step = 0 if is_static else stride
        frames = [first + step * position for position in range(self.num_frames)]
        other_frames = np.setdiff1d(np.arange(clip_length), [] if self.allow_same_frame else frames)
        reference = int(rng.choice(other_frames))

        moments, order = np.unique([reference, *frames], return_inverse=True)
        loaded = self.source.load(clip, moments.tolist(), size, rng, with_previous=True)
        if is_flipped:
            loaded = loaded.flip_horizontal()
        targets = loaded.take(order[1:])
        if is_static:
            targets.previous_keypoints = targets.keypoints
        return {
            **_reference_tensors(loaded.take(order[:1])),
            **_target_tensors(targets),
            "conditioning": self._conditioning(targets, size),
            "clip": self.source.name(clip),
            "frames": torch.tensor(frames),
            "reference_frame": torch.tensor(reference),
        }

    def _fitting_strides(self, clip_length: int) -> list[int]:
        if clip_length <= self.num_frames and not (self.allow_same_frame and clip_length == self.num_frames):
            return []
        least, greatest = self.frame_strides
        return [stride for stride in range(least, greatest + 1) if stride * (self.num_frames - 1) < clip_length]

    def _conditioning(self, clip: ClipFrames, size: tuple[int, int]) -> torch.Tensor:
        previous = {"previous_keypoints": clip.previous_keypoints}
        if clip.hand_sharpness is None:
            condition = self._conditioners[size](clip.keypoints, clip.images, **previous)
        else:
            condition = self._conditioners[size](clip.keypoints, sharpness=clip.hand_sharpness, **previous)
        return condition.to_tensor()


def _reference_tensors(clip: ClipFrames) -> dict[str, torch.Tensor]:
    return {
        "reference_pixel_values": _pixel_values(clip.images)[0],
        "reference_face_landmarks": _face_landmarks(clip.keypoints)[0],
    }


def _target_tensors(clip: ClipFrames) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": _pixel_values(clip.images),
        "face_mask": torch.from_numpy(clip.face_mask[:, None].astype(np.float32)),
        "hand_masks": torch.from_numpy(clip.hand_masks.astype(np.float32)),
        "face_landmarks": _face_landmarks(clip.keypoints),
    }


def _pixel_values(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.divide(images.transpose(0, 3, 1, 2), np.float32(127.5), order="C")).sub_(1)


def _face_landmarks(keypoints: WholeBodyKeypoints) -> torch.Tensor:
    xy, score = np.nan_to_num(keypoints.xy[:, FACE]), keypoints.score[:, FACE, None]
    return torch.from_numpy(np.concatenate([xy, score], axis=-1))


def _scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"`sizes` must contain pairs (height, width), got {size!r}.")
    height, width = (checks.integer("sizes", side) * scale for side in size)
    # 100 * 0.55 is not quite 55 in floating point.
    if not all(1 <= side < math.inf and abs(side - round(side)) < 1e-6 for side in (height, width)):
        raise ValueError(f"`sizes` times `resolution_scale` must be positive integers, got {size!r} times {scale}.")
    return round(height), round(width)


def _checked_strides(frame_stride: int | tuple[int, int]) -> tuple[int, int]:
    strides = frame_stride if isinstance(frame_stride, Sequence) else (frame_stride, frame_stride)
    if len(strides) != 2:
        raise ValueError(f"`frame_stride` must be a stride or (minimum, maximum), got {frame_stride!r}.")
    least, greatest = (checks.integer("frame_stride", stride) for stride in strides)
    if least > greatest:
        raise ValueError(f"`frame_stride` must be a stride or (minimum, maximum), got {frame_stride!r}.")
    return least, greatest
