# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Makes two video files from the request of a user."""

import math
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import checks
from ..animation.animator import HIAAnimator
from ..animation.driving import KINDS, MAPS
from ..animation.result import COMMENT, HIAAnimation
from ..fitting import fitted_place
from ..pipelines.preview import PreviewCallback, write_side_by_side
from ..video.writing import check_frame_size, write_video
from .decoding import Decoder
from .example_motions import MOTIONS, ExampleMotions
from .jobs import Job
from .limits import Limits


MAX_STEPS = 100
MAX_GUIDANCE = 20.0
MAX_SEED = 2**31 - 1

# Previews of one animation.
PREVIEWS = 5


@dataclass(frozen=True)
class AnimationRequest:
    """The request of a user, with values that the browser may have sent unchecked.

    Args:
        image (`Path`):
            An uploaded file.
        motion (`str` or `Path`):
            A key of [`~app.example_motions.MOTIONS`], or an uploaded file.
        num_frames (`int`):
            The length of the result, unless the motion is shorter.
        sharpness (`float` or `None`):
            The sharpness of the hands in [0, 1]; `None` for that of a camera at their speed.
        steps (`int`):
            The number of denoising steps.
        guidance (`float`):
            The guidance scale, at least 1.
        seed (`int`):
            The seed of the noise.
        fit (`bool`):
            Whether uploaded keypoints and included motions are retargeted to the person in the image.
        kind (`str`, *optional*, defaults to `"auto"`):
            What an uploaded motion is: `driving_type` of [`~animation.driving.Driving.load`].
    """

    image: Path
    motion: str | Path
    num_frames: int
    sharpness: float | None
    steps: int
    guidance: float
    seed: int
    fit: bool
    kind: str = "auto"

    def check(self, limits: Limits) -> None:
        """Check all values but the files.

        Args:
            limits ([`~app.limits.Limits`]):
                The limits, with the maximum of `num_frames`.

        Raises:
            ValueError: If a value is out of range.
        """
        if isinstance(self.motion, str) and self.motion not in MOTIONS:
            raise ValueError(f"There is no motion {self.motion!r}.")
        if self.kind not in ("auto", *KINDS):
            raise ValueError(f"There is no kind of motion {self.kind!r}.")
        _check_number("Number of frames", self.num_frames, 1, limits.max_frames, int)
        _check_number("Steps", self.steps, 1, MAX_STEPS, int)
        _check_number("Guidance", self.guidance, 1, MAX_GUIDANCE, (int, float))
        _check_number("Seed", self.seed, 0, MAX_SEED, int)
        if self.sharpness is not None:
            _check_number("Sharpness of the hands", self.sharpness, 0, 1, (int, float))


@dataclass(frozen=True)
class Result:
    """The files of an animation.

    Args:
        video (`Path`):
            The animation.
        preview (`Path`):
            The image, the conditioning frames and the animation side by side.
        about (`str`):
            A description of length and size.
    """

    video: Path
    preview: Path
    about: str


class Animations:
    """Makes animations.

    Args:
        animator ([`HIAAnimator`]):
            An animator with a pipeline.
        size (`tuple[int, int]`):
            Width and height of all results.
        limits ([`~app.limits.Limits`]):
            The limits of what is read and made.
        folder (`Path`):
            The folder for results, each in a folder of a name that cannot be guessed.
    """

    def __init__(self, animator: HIAAnimator, size: tuple[int, int], limits: Limits, folder: Path):
        check_frame_size(size[1], 3 * size[0])  # of the preview
        self.animator, self.size, self.limits, self.folder = animator, size, limits, folder
        self.decoder = Decoder(limits)
        self.examples = ExampleMotions(*size)

    def make(self, request: AnimationRequest, job: Job, show: Callable[[Path], Any] = lambda preview: None) -> Result:
        """Make an animation and save it.

        Args:
            request ([`AnimationRequest`]):
                What to make.
            job ([`~app.jobs.Job`]):
                The job that progress is reported to, and that may be cancelled.
            show (`Callable[[Path], Any]`, *optional*):
                Takes an image of what some frames will look like, now and then while they are denoised.

        Raises:
            ValueError: If the request cannot be used.
            ImportError: If a person must be detected and the `pose` extra is not installed.
            Cancelled: If the job was cancelled.
        """
        request.check(self.limits)
        job.reached("Reading the image", 0, 1)
        image = self.decoder.image(request.image)
        animation = self.prepare(image, request, job)
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()

        def show_frames(frames: list[Image.Image]) -> None:
            path = folder / f"{secrets.token_hex(8)}.jpg"  # browsers would keep an image of the same name
            write_side_by_side(path, self.animator.mark(frames))
            show(path)

        try:
            frames = list(self._frames(animation, request, job, show_frames))
        except BaseException:
            shutil.rmtree(folder)
            raise
        result = replace(animation, frames=frames)
        video, preview = folder / "animation.mp4", folder / "preview.mp4"
        result.save(video)
        write_video(preview, result.preview(), result.fps, comment=COMMENT)
        width, height = self.size
        about = (
            f"{checks.counted(len(result.condition), 'frame')} of {width}x{height} at {result.fps:g} frames per second"
        )
        motion = result.driving
        if result.retargeted is None and fitted_place(motion.height, motion.width, height, width)[2:] != self.size:
            about += f"; the motion's {motion.width}x{motion.height} is fitted into it, whole and centred"
        return Result(video, preview, about)

    def prepare(self, image: Image.Image, request: AnimationRequest, job: Job) -> HIAAnimation:
        """Read the motion and prepare what the pipeline needs.

        Args:
            image (`PIL.Image.Image`):
                The image of the request.
            request ([`AnimationRequest`]):
                What to make.
            job ([`~app.jobs.Job`]):
                The job that progress is reported to.
        """
        job.reached("Reading the motion", 0, 1)
        driving: Any
        if isinstance(request.motion, str):
            driving = self.examples.motion(request.motion, request.num_frames, image)
        else:
            driving = self.decoder.motion(request.motion, request.num_frames)
        kind = "auto" if isinstance(request.motion, str) else request.kind
        driving = self.animator.load_driving(driving, driving_type=kind, max_frames=request.num_frames)
        job.reached("Preparing the motion", 0, 1)
        known = self.examples.keypoints(image)
        options: dict[str, Any] = {}
        if driving.kind not in MAPS and known is not None and not isinstance(request.motion, str):
            options = {"image_keypoints": known}
        elif driving.kind == "keypoints" and known is None and request.fit:
            options = {"retarget": True}
        sharpness = "auto" if request.sharpness is None else request.sharpness
        width, height = self.size
        return self.animator.prepare(image, driving, sharpness=sharpness, width=width, height=height, **options)

    def _frames(
        self, animation: HIAAnimation, request: AnimationRequest, job: Job, show: Callable[[list[Image.Image]], Any]
    ) -> Iterator[Image.Image]:
        preview = PreviewCallback(show, math.ceil(request.steps / (PREVIEWS + 1)))

        def step_done(pipe: Any, step: int, timestep: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
            job.reached("Denoising", step + 1, request.steps)
            return preview(pipe, step, timestep, tensors)

        job.reached("Denoising", 0, request.steps)
        frames = self.animator.stream(
            animation,
            num_inference_steps=request.steps,
            guidance_scale=float(request.guidance),
            generator=torch.Generator("cpu").manual_seed(request.seed),
            callback_on_step_end=step_done,
            callback_on_step_end_tensor_inputs=preview.tensor_inputs,
        )
        for done, frame in enumerate(frames):
            job.reached("Decoding", done, len(animation.condition))
            yield frame


def _check_number(name: str, value: Any, low: float, high: float, kinds: type | tuple[type, ...]) -> None:
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):
        whole = "whole " if kinds is int else ""
        raise ValueError(f"{name} must be a {whole}number from {low} to {high:g}, got {value!r}.")
