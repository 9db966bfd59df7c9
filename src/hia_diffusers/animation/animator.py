# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animation of an image by a driving clip, in one call or step by step.

Axes: F frames, H, W.
"""

import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.motion_blur import MotionBlurConditioner
from ..conditioning.motion_blur_condition import MotionBlurCondition
from ..conditioning.pose_maps import DENSEPOSE
from ..conditioning.retargeting import retarget_keypoints, smooth_keypoints
from ..detection.choosing import create_detector
from ..detection.people import Detector
from ..fitting import fitted_place
from ..images import ImageInput, load_image
from ..pipelines.call_defaults import AREA, POSE_MAP, check_call_defaults
from ..pipelines.streaming import stream_frames
from ..video.reading import Video
from ..video.watermark import Watermark
from ..video.writing import check_frame_rate, check_output, write_video
from .arguments import check_arguments, check_kind, is_read_back
from .driving import MAPS, Driving
from .fitted_images import fit_image, fit_pose_map
from .image_person import detect_person, given_keypoints
from .last_estimate import LastEstimate
from .result import COMMENT, HIAAnimation
from .result_size import RequestedSize


if TYPE_CHECKING:
    from ..pipelines.pipeline_hia import HIAPipeline

# Height and width of results are multiples of this if there is no pipeline yet: the factor of Stable Diffusion's VAE.
VAE_SCALE_FACTOR = 8

# Arguments of the pipeline's call that the animator sets.
SET_BY_ANIMATOR = ("self", "image", "conditioning_frames", "height", "width", "output_type", "return_dict")

CALLBACK_ARGUMENTS = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")

logger = logging.getLogger(__name__)


class HIAAnimator:
    r"""Animate the person in an image with the motion of a driving clip.

    A driving clip is a video of another person, keypoints, or an OpenPose-style pose video; for a pipeline that reads
    DensePose maps, a DensePose video.

    ```py
    animator = HIAAnimator(pipe)
    animation = animator("person.png", "dance.mp4", output="out.mp4")
    ```

    A call runs these steps. Each is a method, and its result is an attribute of the [`HIAAnimation`], which you can
    pass to the next call instead of computing it again:

    1. `load_driving`: read a file as frames or keypoints.
    2. `detect`: detect the keypoints of the person in a video.
    3. `smooth`: remove jitter and fill short gaps.
    4. `retarget`: adapt the motion to the proportions and position of the person in the image.
    5. `condition`: create the conditioning frames for the ControlNet.
    6. `generate`: generate the frames with the pipeline.

    `prepare` runs all but the last, which takes longest, so that you can inspect their results first. Automatic
    decisions, such as the type of a clip, are logged at level INFO.

    Args:
        pipe ([`HIAPipeline`], *optional*):
            The pipeline. Only `generate` needs it; it may be set later, as `animator.pipe`.
        detector (`Detector` or `dict[str, Any]`, *optional*):
            A [`KeypointDetector`], [`MediaPipeKeypointDetector`] or [`OpenPoseKeypointDetector`], or the arguments of
            [`create_detector`], which is called on first use. By default, that chooses, and downloads the models.
            Needs the `pose` or the `mediapipe` extra.
        watermark ([`~video.watermark.Watermark`], *optional*):
            Marks every frame that is generated. The default marks none.
        call_defaults (`Mapping[str, Any]`, *optional*):
            The `call_defaults` of a pipeline that is set later; `"area"` and `"pose_map"` are used. By default, those
            of `pipe`.
    """

    def __init__(
        self,
        pipe: "HIAPipeline | None" = None,
        detector: Detector | Mapping[str, Any] | None = None,
        watermark: Watermark | None = None,
        call_defaults: Mapping[str, Any] | None = None,
    ):
        self.pipe = pipe
        self.detector = detector
        self.watermark = watermark
        self._call_defaults = None if call_defaults is None else check_call_defaults(call_defaults)

    def __call__(
        self,
        image: ImageInput,
        driving: str | os.PathLike | WholeBodyKeypoints | Video | Driving,
        output: str | os.PathLike | None = None,
        sound: bool | str | os.PathLike = True,
        **kwargs: Any,
    ) -> HIAAnimation:
        """Animate an image with a driving clip, and return frames or write a video file.

        Args:
            image, driving:
                As for [`~HIAAnimator.prepare`].
            output, sound:
                As for [`~HIAAnimator.generate`].
            kwargs:
                Further arguments of [`~HIAAnimator.prepare`], such as `sharpness`, and of [`HIAPipeline.__call__`],
                such as `num_inference_steps`, `guidance_scale` and `generator`.

        Returns:
            [`HIAAnimation`]: With `frames`, unless there is an `output`.

        Raises:
            As `prepare` and `generate`. Invalid arguments of `generate` are detected before the first step.
        """
        names = [name for step in (self.prepare, Driving.load) for name in inspect.signature(step).parameters]
        preparation = {name: kwargs.pop(name) for name in names if name in kwargs}
        self._pipe_for(output, kwargs)
        return self.generate(self.prepare(image, driving, **preparation), output, sound, **kwargs)

    def prepare(
        self,
        image: ImageInput,
        driving: str | os.PathLike | WholeBodyKeypoints | Video | Driving,
        person: Sequence[float] | None = None,
        retarget: bool | None = None,
        image_keypoints: str | os.PathLike | WholeBodyKeypoints | None = None,
        sharpness: str | float | Sequence[float] | np.ndarray = "auto",
        height: int | None = None,
        width: int | None = None,
        detected: WholeBodyKeypoints | None = None,
        keypoints: WholeBodyKeypoints | None = None,
        retargeted: WholeBodyKeypoints | None = None,
        condition: MotionBlurCondition | None = None,
        fps: float | None = None,
        area: int | None = None,
        long_side: int | None = None,
        image_person: Sequence[float] | None = None,
        **driving_options: Any,
    ) -> HIAAnimation:
        """Run every step but the last, which prepares the inputs of the pipeline.

        Args:
            image (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
                Image of the person, as for [`~images.load_image`]. If its aspect ratio differs from that of the
                result, the whole image is fitted, with bars in its border colour.
            driving (`str`, `os.PathLike`, `WholeBodyKeypoints`, `Video` or `Driving`):
                The motion: a video of a person, keypoints (or a file for [`WholeBodyKeypoints.load`], including pose
                files of other tools) or an OpenPose-style pose video.
            person (`Sequence[float]`, *optional*):
                x0, y0, x1, y1 in pixels, a box around the person to track in a video. By default, the largest person
                in the first frame.
            retarget (`bool`, *optional*):
                Whether to adapt the motion to the proportions and position of the person in the image. By default,
                this is done for a video of a person, and if `image_keypoints` or `image_person` is given. For a pose
                video, keypoints are read from its skeletons: see [`~conditioning.skeleton_reading.read_skeletons`].
            image_keypoints (`str`, `os.PathLike` or `WholeBodyKeypoints`, *optional*):
                The person in `image`, one frame, in pixels of `image`. By default, detected if needed.
            sharpness (`str`, `float`, `Sequence[float]` or `np.ndarray`, *optional*, defaults to `"auto"`):
                Sharpness of the hands. `"auto"` is the sharpness with which a camera would show them at their speed,
                `"driving"` measures it in a video of a person, `"unknown"` disables the blur condition; numbers in [0,
                1] as for [`MotionBlurConditioner.__call__`]. A pose video does not contain the positions of the hands,
                which disables the blur condition.
            height, width (`int`, *optional*):
                Size of the result in pixels, multiples of 8. By default, the size of the driving clip, rounded. A
                motion of another aspect ratio that is not retargeted is fitted whole and centred, like the image.
            detected (`WholeBodyKeypoints`, *optional*):
                The person in a driving video, which replaces the result of `detect`; with the number of frames of the
                driving clip, as the next three.
            keypoints (`WholeBodyKeypoints`, *optional*):
                The person in the driving clip, which replaces the result of `smooth`.
            retargeted (`WholeBodyKeypoints`, *optional*):
                Keypoints retargeted to the fitted image, which replace the result of `retarget`.
            condition (`MotionBlurCondition`, *optional*):
                Conditioning frames, which replace the result of `condition`; the result has their size.
            fps (`float`, *optional*):
                Frames per second at which the result is played, which changes its speed, but not that of its sound. By
                default, those of the driving clip, divided by `every`.
            area (`int`, *optional*):
                Pixels of a frame of the result, if neither `height` nor `width` is given: with the aspect ratio of the
                image if the motion is retargeted, otherwise with that of the driving clip. By default, the `"area"` in
                the pipeline's `call_defaults`.
            long_side (`int`, *optional*):
                Longer side of the result in pixels, a multiple of 8, instead of `area`; with the same aspect ratio.
            image_person (`Sequence[float]`, *optional*):
                x0, y0, x1, y1 in pixels of the upright image, a box around the person to animate. By default, the
                largest person.
            driving_options:
                Further arguments of [`~animation.driving.Driving.load`]: `driving_type`, `start`, `end`, `every`,
                `max_frames`, and for pose files `driving_fps` and `driving_size`.

        Returns:
            [`HIAAnimation`]: Without `frames`.

        Raises:
            FileNotFoundError: If there is no such file.
            ImportError: If people must be detected, and neither the `pose` nor the `mediapipe` extra is installed.
            TypeError, ValueError: If an argument is invalid by itself, for the type of the driving clip or in
                combination with a passed result, or no person is detected. Everything that can be checked before
                detection is.
        """
        step = VAE_SCALE_FACTOR if self.pipe is None else self.pipe.vae_scale_factor
        size = RequestedSize(step, height, width, area, long_side)
        if area is None and long_side is None:
            size.area = self._wanted().get(AREA)
        retarget = None if retarget is None else checks.flag("retarget", retarget)
        person = None if person is None else checks.box("person", person).tolist()
        image_person = None if image_person is None else checks.box("image_person", image_person).tolist()
        if fps is not None:
            check_frame_rate(fps)
        image = load_image(image)
        motion = self.load_driving(driving, **driving_options)
        check_kind(motion.kind, self._pose_map())
        given = {
            "person": person,
            "retarget": retarget,
            "image_keypoints": image_keypoints,
            "image_person": image_person,
            "height": height,
            "width": width,
            "long_side": long_side,
            "detected": detected,
            "keypoints": keypoints,
            "retargeted": retargeted,
            "condition": condition,
        }
        check_arguments(motion, sharpness, **given)
        if is_read_back(motion, given):
            motion, retarget = motion.read_keypoints(), True
            assert motion.keypoints is not None
            keypoints = self.smooth(motion.keypoints)
        elif motion.kind == "pose" and retarget is None and condition is None:
            logger.info(
                "The pose video is not aligned to the person in the image. Pass `retarget` to read its skeleton and "
                "align it."
            )
        if retarget is None:
            retarget = motion.kind == "video" or not (image_keypoints is image_person is None)
        if condition is None:
            shape = (image.height, image.width) if retarget else (motion.height, motion.width)
            height, width = size.of(motion, shape if retargeted is None else None)
        else:
            height, width = condition.height, condition.width
            checks.area(width, height)
        fps = motion.fps if fps is None else float(fps)
        if fps != motion.fps:
            speed = fps / motion.fps
            logger.info("The result plays at %.3g times the speed of the driving clip; sound keeps its own.", speed)
        if self.watermark is not None:
            self.watermark.check_size(width, height)
        fitted = fit_image(image, height, width)
        measured = isinstance(sharpness, str) and sharpness == "driving"

        reference = None
        if condition is None and motion.kind in MAPS:
            condition = self.condition(motion, height, width)
        elif condition is None:
            if retarget and retargeted is None:  # one frame, so it is checked before the many of the driving clip
                if image_keypoints is None:
                    reference = detect_person(image, self._detector(), image_person)
                else:
                    reference = given_keypoints(image, image_keypoints)
            if retargeted is None or measured:
                if keypoints is None and motion.keypoints is not None:
                    keypoints = motion.keypoints
                elif keypoints is None:
                    detected = self.detect(motion, person) if detected is None else detected
                    keypoints = self.smooth(detected)
                if measured:
                    sharpness = MotionBlurConditioner().measure_sharpness(keypoints, motion.frames)
                if reference is not None:
                    retargeted = self.retarget(keypoints, reference.fit(height, width))
            aligned: Any = keypoints if retargeted is None else retargeted
            condition = self.condition(aligned, height, width, sharpness)
        return HIAAnimation(fitted, motion, condition, fps, detected, keypoints, reference, retargeted)

    def load_driving(
        self, driving: str | os.PathLike | WholeBodyKeypoints | Video | Driving, **driving_options: Any
    ) -> Driving:
        """Read the driving clip: [`~animation.driving.Driving.load`].

        Args:
            driving:
                As for [`~HIAAnimator.prepare`].
            driving_options:
                Further arguments of [`~animation.driving.Driving.load`].
        """
        return Driving.load(driving, **driving_options)

    def detect(self, driving: Driving, person: Sequence[float] | None = None) -> WholeBodyKeypoints:
        """Detect the person in a driving video.

        Args:
            driving ([`~animation.driving.Driving`]):
                The clip, a video of a person.
            person (`Sequence[float]`, *optional*):
                As for [`~HIAAnimator.prepare`].
        """
        people = self._detector().detect(driving.frames, driving.fps)
        keypoints = people.follow(person)
        found = keypoints.score.any(axis=1)
        if not found.any():
            raise ValueError("`driving`: no person was detected")
        logger.info("The person was detected in %d of %d frames of the driving clip.", found.sum(), len(keypoints))
        with_others = (~found & (people.counts > 0)).sum()
        if with_others:
            logger.warning(
                "In %d frames without the person, others were detected, too far from the expected position. If this "
                "is the same person, pass `person` or split the clip.",
                with_others,
            )
        return keypoints

    def smooth(self, keypoints: WholeBodyKeypoints) -> WholeBodyKeypoints:
        """Remove jitter and fill short gaps: [`smooth_keypoints`].

        Args:
            keypoints (`WholeBodyKeypoints`):
                The detected keypoints.
        """
        return smooth_keypoints(keypoints)

    def retarget(self, keypoints: WholeBodyKeypoints, reference: WholeBodyKeypoints) -> WholeBodyKeypoints:
        """Adapt the motion to the proportions and position of the person in the image: [`retarget_keypoints`].

        Args:
            keypoints (`WholeBodyKeypoints`):
                The motion.
            reference (`WholeBodyKeypoints`):
                The person in the fitted image, one frame.
        """
        try:
            retargeted = retarget_keypoints(keypoints, reference)
        except ValueError as error:
            raise ValueError(f"`retarget`: {error}") from error
        logger.info("The motion is retargeted to the person in the image.")
        return retargeted

    def condition(
        self,
        motion: WholeBodyKeypoints | Driving,
        height: int,
        width: int,
        sharpness: str | float | Sequence[float] | np.ndarray = "auto",
    ) -> MotionBlurCondition:
        """Create the conditioning frames at the size of the result.

        Keypoints are drawn as the weights of the pipeline were trained, according to the `"pose_map"` in its
        `call_defaults`; by default as OpenPose maps whose lines have the widths of [`MotionBlurConditioner.for_size`].
        A motion of another aspect ratio is fitted whole and centred, like the image.

        Args:
            motion (`WholeBodyKeypoints` or [`~animation.driving.Driving`]):
                Keypoints, or a pose video, whose hands are unknown.
            height, width (`int`):
                Size of the result in pixels.
            sharpness (`str`, `float`, `Sequence[float]` or `np.ndarray`, *optional*, defaults to `"auto"`):
                As for [`MotionBlurConditioner.__call__`].
        """
        check_kind(motion.kind if isinstance(motion, Driving) else "keypoints", pose_map := self._pose_map())
        # A DensePose video is not drawn.
        pose_map = "openpose" if pose_map == DENSEPOSE else pose_map
        conditioner = MotionBlurConditioner.for_size(height, width, pose_map=pose_map)
        if fitted_place(motion.height, motion.width, height, width)[2:] != (width, height):
            logger.info(
                "The motion's %dx%d is fitted into %dx%d, whole and centred.",
                motion.width,
                motion.height,
                width,
                height,
            )
        if isinstance(motion, WholeBodyKeypoints):
            return conditioner(motion.fit(height, width), sharpness=sharpness)
        logger.info("A pose video does not contain the positions of the hands: the blur condition is disabled.")
        pose = np.empty((len(motion), height, width, 3), np.uint8)
        for index, frame in enumerate(motion.frames):  # at their own size, one at a time
            pose[index] = np.asarray(fit_pose_map(PIL.Image.fromarray(frame), height, width))
        return conditioner.from_pose_video(pose)

    def generate(
        self,
        animation: HIAAnimation,
        output: str | os.PathLike | None = None,
        sound: bool | str | os.PathLike = True,
        keep_frames: bool = False,
        **kwargs: Any,
    ) -> HIAAnimation:
        """Run the pipeline.

        Args:
            animation ([`HIAAnimation`]):
                The result of `prepare`.
            output (`str` or `os.PathLike`, *optional*):
                An `.mp4`, `.webm`, `.gif` or `.webp` file, or a folder, to which each frame is written as it is
                decoded, instead of keeping the frames; an existing one is replaced. After an error or Ctrl-C, the
                frames until then are kept: see [`~video.writing.write_video`]. After Ctrl-C during denoising, which
                finishes all frames in its last step, the frames as the last step estimates them are kept in the same
                way; a second Ctrl-C keeps those that are decoded until then.
            sound (`bool`, `str` or `os.PathLike`, *optional*, defaults to `True`):
                As for [`HIAAnimation.save`].
            keep_frames (`bool`, *optional*, defaults to `False`):
                Whether to keep the frames although there is an `output`.
            kwargs:
                Arguments of [`HIAPipeline.__call__`].

        Returns:
            [`HIAAnimation`]: The same with `frames`, unless there is an `output` and they are not kept.

        Raises:
            TypeError: If the pipeline has no such argument.
            ValueError: If there is no pipeline, or it cannot use an argument.
            FileNotFoundError, OSError, ValueError: As [`~video.writing.write_video`]. What can be known of
                `output` and of `sound` before the pipeline runs is.
        """
        pipe = self._pipe_for(output, kwargs)
        check_kind(animation.driving.kind, pipe.config.call_defaults.get(POSE_MAP, "openpose"))
        if output is None:
            return replace(animation, frames=list(self.stream(animation, **kwargs)))
        check_output(output, animation.condition.height, animation.condition.width, animation.fps)
        audio = animation.sound_arguments(output, sound)
        kept: list[PIL.Image.Image] = []

        def keep(frame: PIL.Image.Image) -> PIL.Image.Image:
            kept.append(frame)
            return frame

        frames = self._stream_until_stopped(animation, kwargs)
        frames = map(keep, frames) if keep_frames else frames
        write_video(output, frames, animation.fps, comment=COMMENT, keep_unfinished=True, **audio)
        return replace(animation, frames=kept) if keep_frames else animation

    def stream(self, animation: HIAAnimation, **kwargs: Any) -> Iterator[PIL.Image.Image]:
        """Run the pipeline and yield the frames one by one, with the watermark: [`HIAPipeline.stream`].

        Args:
            animation ([`HIAAnimation`]):
                The result of `prepare`.
            kwargs:
                Arguments of [`HIAPipeline.__call__`].

        Returns:
            `Iterator[PIL.Image.Image]`: The F frames. Denoising is complete when this returns.

        Raises:
            TypeError: If the pipeline has no such argument.
            ValueError: If there is no pipeline, or it cannot use an argument.
        """
        pipe = self._pipe_for(None, kwargs)
        height, width = animation.condition.height, animation.condition.width
        return self.mark(pipe.stream(animation.image, animation.condition, height=height, width=width, **kwargs))

    def mark(self, frames: Iterable[PIL.Image.Image]) -> Iterator[PIL.Image.Image]:
        """Return frames with the watermark, if there is one.

        Args:
            frames (`Iterable[PIL.Image.Image]`):
                RGB frames.
        """
        return iter(frames) if self.watermark is None else map(self.watermark, frames)

    def _stream_until_stopped(self, animation: HIAAnimation, kwargs: Mapping[str, Any]) -> Iterator[PIL.Image.Image]:
        """Return the frames or, after Ctrl-C during denoising, frames as far as they are estimated, then Ctrl-C."""
        callback = LastEstimate(*(kwargs[name] for name in CALLBACK_ARGUMENTS if name in kwargs))
        others = {name: value for name, value in kwargs.items() if name not in CALLBACK_ARGUMENTS}
        try:
            return self.stream(animation, callback_on_step_end=callback, **others)
        except KeyboardInterrupt as stopped:
            if callback.latents is None:
                logger.warning("No denoising step was completed, so there are no frames to keep.")
                raise
            pipe: Any = self.pipe
            logger.warning(
                "Stopped after %d of %d denoising steps. The frames are decoded as the last step estimates them, with "
                "less detail than at the end.",
                callback.num_steps,
                pipe.num_timesteps,
            )
            chunk = others.get("decode_chunk_size") or pipe.call_default("decode_chunk_size")
            return _then_raise(self.mark(stream_frames(pipe, callback.latents, "pil", chunk)), stopped)

    def _pipe_for(self, output: str | os.PathLike | None, kwargs: Mapping[str, Any]) -> "HIAPipeline":
        """Return the pipeline, after checking that it exists, accepts the arguments, and the output can be written."""
        if self.pipe is None:
            raise ValueError("`pipe` must be an HIAPipeline to generate frames, got None.")
        known = inspect.signature(type(self.pipe).__call__).parameters.keys() - set(SET_BY_ANIMATOR)
        unknown = sorted(kwargs.keys() - known)
        if unknown:
            raise TypeError(f"`{unknown[0]}` is an argument of neither HIAAnimator nor its pipeline.")
        if output is not None:
            check_output(output)
        # With the smallest possible inputs: checks that depend on the actual ones follow later.
        smallest = PIL.Image.new("RGB", (self.pipe.vae_scale_factor,) * 2)
        given = {name: value for name, value in kwargs.items() if name != "latents"}
        self.pipe.check_inputs(smallest, [smallest], None, None, **given)
        return self.pipe

    def _wanted(self) -> Mapping[str, Any]:
        """Return the `call_defaults` of the pipeline, which say what its weights were trained on."""
        if self._call_defaults is not None:
            return self._call_defaults
        return {} if self.pipe is None else self.pipe.config.call_defaults

    def _pose_map(self) -> str:
        return self._wanted().get(POSE_MAP, "openpose")

    def _detector(self) -> Detector:
        if self.detector is None or isinstance(self.detector, Mapping):
            try:
                self.detector = create_detector(**(self.detector or {}))
            except ValueError as error:
                raise ValueError(f"keypoint detector: {error}") from error
            logger.info("Keypoints are detected with %s.", self.detector)
        return self.detector


def _then_raise(frames: Iterator[PIL.Image.Image], error: BaseException) -> Iterator[PIL.Image.Image]:
    yield from frames
    raise error
