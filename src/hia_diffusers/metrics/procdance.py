# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a pipeline, or of a baseline, on ProcDance-v1.

Axes: F frames, H, W; hands are ordered left, right (the person's).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from .. import checks
from ..conditioning.motion_blur import MotionBlurConditioner
from ..conditioning.motion_blur_condition import MotionBlurCondition
from ..conditioning.retargeting import retarget_keypoints
from ..conditioning.whole_body import FACE
from ..finite_results import check_finite
from ..models.autoencoder import decode_latents, encode_images
from ..procedural.procdance import DANCE_FRAMES, REFERENCE_SIZE, ProcDanceClip, proc_dance_v1
from .evaluation import EvaluationClip


@dataclass(frozen=True, eq=False)
class ProcDanceSample:
    """The data from which the frames of a clip are predicted.

    Args:
        reference (`np.ndarray` of shape `(H, W, 3)`):
            The reference image, uint8 RGB.
        condition (`MotionBlurCondition`):
            The motion of F frames, with the requested sharpness of the hands.
        targets (`np.ndarray` of shape `(F, H, W, 3)`):
            The ground truth, uint8 RGB.
        seed (`int`):
            Seed of the random numbers for this clip.
    """

    reference: np.ndarray
    condition: MotionBlurCondition
    targets: np.ndarray
    seed: int


# Returns the predicted frames of a sample, uint8 `(F, H, W, 3)`.
Predict = Callable[[ProcDanceSample], np.ndarray]


def procdance_clips(
    predict: Predict,
    num_frames: int = DANCE_FRAMES,
    size: tuple[int, int] = REFERENCE_SIZE,
    seed: int = 0,
    cross_identity: bool = False,
    exchanged: str | None = None,
    max_clips: int | None = None,
) -> list[EvaluationClip]:
    """Return the clips of ProcDance-v1, which are rendered and predicted when they are loaded.

    Args:
        predict (`Callable`):
            Returns the predicted frames for a [`ProcDanceSample`], uint8 `(F, H, W, 3)`: [`generate`] or
            [`through_autoencoder`] with a pipeline, or one of `BASELINES`.
        num_frames (`int`, *optional*, defaults to 32):
            Number of frames of each clip.
        size (`tuple[int, int]`, *optional*, defaults to `(160, 96)`):
            Height and width in pixels.
        seed (`int`, *optional*, defaults to 0):
            Clip i is predicted with `seed + i`.
        cross_identity (`bool`, *optional*, defaults to `False`):
            Whether to drive with the same motion of another person, retargeted to the reference.
        exchanged (`str`, *optional*):
            `"pose"` uses the motion, and `"reference"` the reference image, of the next clip: a model that depends on
            them then scores much worse.
        max_clips (`int`, *optional*):
            Number of clips to use, from the first on; all by default.
    """
    num_frames = checks.integer("num_frames", num_frames)
    if exchanged is not None:
        checks.one_of("exchanged", exchanged, ("pose", "reference"))
    clips = [replace(clip, frames=range(num_frames)) for clip in proc_dance_v1()]
    options: dict[str, Any] = {"size": size, "cross_identity": cross_identity, "exchanged": exchanged}
    return [
        EvaluationClip(
            clip.name,
            num_frames,
            functools.partial(_load, predict, clip, clips[(index + 1) % len(clips)], seed=seed + index, **options),
        )
        for index, clip in enumerate(clips[:max_clips])
    ]


def _load(
    predict: Predict,
    clip: ProcDanceClip,
    following: ProcDanceClip,
    *,
    seed: int,
    size: tuple[int, int],
    cross_identity: bool,
    exchanged: str | None,
) -> dict[str, np.ndarray]:
    """Return the arguments of `VideoEvaluation.add`."""
    truth = clip.target.render(clip.frames, *size, clip.fps)
    reference = clip.target.render([clip.reference_frame], *size, clip.fps)
    conditioner = MotionBlurConditioner.for_size(*size)
    if cross_identity:
        driving = clip.driving.render(clip.frames, *size, clip.fps)
        keypoints = retarget_keypoints(driving.keypoints, reference.keypoints)
        sharpness = conditioner(driving.keypoints, driving.frames).hand_sharpness
        condition = conditioner(keypoints, sharpness=sharpness)
    else:
        keypoints = truth.keypoints
        condition = conditioner(keypoints, truth.frames)
    if exchanged == "pose":
        other = following.target.render(following.frames, *size, following.fps)
        condition = conditioner(other.keypoints, other.frames)
    elif exchanged == "reference":
        reference = following.target.render([following.reference_frame], *size, following.fps)
    predictions = predict(ProcDanceSample(reference.frames[0], condition, truth.frames, seed))
    return {
        "predictions": predictions,
        "targets": truth.frames,
        "face_masks": truth.face_mask,
        "hand_masks": truth.hand_masks,
        "wanted_sharpness": condition.hand_sharpness,
        "measured_sharpness": conditioner(keypoints, predictions).hand_sharpness,
        "face_landmarks": truth.keypoints.xy[:, FACE],
    }


# Predictions


BASELINES: dict[str, Predict] = {
    "copy": lambda sample: np.repeat(sample.reference[None], len(sample.targets), axis=0),
    "truth": lambda sample: sample.targets,
    "noise": lambda sample: np.random.default_rng(sample.seed).integers(0, 256, sample.targets.shape, dtype=np.uint8),
}


def generate(
    pipe: DiffusionPipeline,
    sample: ProcDanceSample,
    blur_condition: bool = True,
    reversed_motion: bool = False,
    **kwargs: Any,
) -> np.ndarray:
    """Generate the frames of a sample with a pipeline.

    Args:
        pipe ([`HIAPipeline`]):
            The pipeline.
        sample ([`ProcDanceSample`]):
            Reference, motion and seed.
        blur_condition (`bool`, *optional*, defaults to `True`):
            Whether the condition includes the motion and the sharpness of the hands, in addition to the pose.
        reversed_motion (`bool`, *optional*, defaults to `False`):
            Whether the hands are said to move in the opposite direction.
        kwargs:
            Other arguments of the call.

    Returns:
        `np.ndarray` of shape `(F, H, W, 3)`: uint8.
    """
    condition = sample.condition
    if reversed_motion:
        condition = replace(condition, hand_motion=-condition.hand_motion)
    if not blur_condition:
        condition = replace(condition, hand_sharpness=np.full_like(condition.hand_sharpness, np.nan))
    frames = pipe(
        image=Image.fromarray(sample.reference),
        conditioning_frames=condition,
        generator=torch.Generator("cpu").manual_seed(sample.seed),
        output_type="np",
        **kwargs,
    ).frames[0]
    return (frames * 255).round().astype(np.uint8)


@torch.no_grad()
def through_autoencoder(pipe: DiffusionPipeline, sample: ProcDanceSample) -> np.ndarray:
    """Encode and decode the ground truth with a pipeline's autoencoder, an upper bound for its results.

    Args:
        pipe ([`HIAPipeline`]):
            The pipeline.
        sample ([`ProcDanceSample`]):
            The sample, whose targets are encoded.

    Returns:
        `np.ndarray` of shape `(F, H, W, 3)`: uint8.
    """
    images = torch.from_numpy(sample.targets).movedim(-1, 1).to(pipe.device) / 127.5 - 1
    decoded = decode_latents(pipe.vae, encode_images(pipe.vae, images))
    check_finite("The frames", [decoded], pipe.components)
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
