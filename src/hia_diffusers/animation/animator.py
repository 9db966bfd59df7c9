# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""An image and a driving clip to a video, in one call or step by step.

Axes: F frames, H, W.
"""

import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from .. import checks
from ..conditioning.keypoints import NotStatedError, WholeBodyKeypoints
from ..conditioning.motion_blur import MotionBlurCondition, MotionBlurConditioner
from ..conditioning.retargeting import retarget_keypoints, smooth_keypoints
from ..detection.keypoint_detector import KeypointDetector
from ..fitting import fitted_place
from ..images import load_image
from ..video.reading import Video
from ..video.watermark import Watermark
from ..video.writing import check_frame_rate, check_output, write_video
from .arguments import check_arguments
from .driving import Driving
from .fitted_images import fit_image, fit_pose_map
from .result import COMMENT, HIAAnimation


if TYPE_CHECKING:
    from ..pipelines.pipeline_hia import HIAPipeline

# Height and width of results are multiples of this if there is no pipeline yet: the factor of Stable Diffusion's VAE.
VAE_SCALE_FACTOR = 8

# Arguments of the pipeline's call that the animator sets.
SET_BY_ANIMATOR = ("self", "image", "conditioning_frames", "height", "width", "output_type", "return_dict")

logger = logging.getLogger(__name__)


class HIAAnimator:
    r"""
    Animates the person in an image with the motion of a driving clip, which may be a video of another person,
    keypoints or an OpenPose-style pose video.

    ```py
    animator = HIAAnimator(pipe)
    animation = animator("person.png", "dance.mp4", output="out.mp4")
    ```

    A call runs these steps; each is a method, and what each returns is an attribute of the [`HIAAnimation`] and can be
    given to the next call in place of being computed:

    1. `load_driving`: a file becomes frames or keypoints.
    2. `detect`: the keypoints of the person in a video.
    3. `smooth`: those without jitter and short gaps.
    4. `retarget`: the motion gets the proportions and the place of the person in the image.
    5. `condition`: keypoints become what the ControlNet reads.
    6. `generate`: the pipeline makes the frames.

    `prepare` runs all but the last, so that they can be looked at before it, which takes long. What the animator
    decides by itself, such as which kind of clip a file is, it logs at the level INFO.

    Args:
        pipe ([`HIAPipeline`], *optional*):
            The pipeline. All steps but `generate` do without; it may be set later, as `animator.pipe`.
        detector (`KeypointDetector`, `OpenPoseKeypointDetector` or `dict[str, Any]`, *optional*):
            What finds people, or the arguments of a [`KeypointDetector`], which is made when it is first needed. The
            default is one with its default models, which are downloaded then. Needs the `pose` extra.
        watermark ([`~video.watermark.Watermark`], *optional*):
            Marks every frame that is generated. The default marks none.
    """

    def __init__(self, pipe: "HIAPipeline | None" = None, detector: Any = None, watermark: Watermark | None = None):
        self.pipe = pipe
        self.detector = detector
        self.watermark = watermark

    def __call__(
        self,
        image: Any,
        driving: str | os.PathLike | WholeBodyKeypoints | Video | Driving,
        output: str | os.PathLike | None = None,
        sound: bool | str | os.PathLike = True,
        **kwargs: Any,
    ) -> HIAAnimation:
        """
        From an image and a driving clip to frames, or to a video file.

        Args:
            image, driving:
                As for [`~HIAAnimator.prepare`].
            output, sound:
                As for [`~HIAAnimator.generate`].
            kwargs:
                Further arguments of [`~HIAAnimator.prepare`], such as `sharpness`, and of [`HIAPipeline.__call__`],
                such as `num_inference_steps`, `guidance_scale` and `generator`.

        Returns:
            [`HIAAnimation`]: with `frames`, unless there is an `output`.

        Raises:
            As `prepare` and `generate`. Arguments of `generate` that cannot be used are known before the first step.
        """
        names = inspect.signature(self.prepare).parameters
        preparation = {name: kwargs.pop(name) for name in names if name in kwargs}
        self._pipe_for(output, kwargs)
        return self.generate(self.prepare(image, driving, **preparation), output, sound, **kwargs)

    def prepare(
        self,
        image: Any,
        driving: str | os.PathLike | WholeBodyKeypoints | Video | Driving,
        driving_type: str = "auto",
        max_frames: int | None = None,
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
        driving_fps: float | None = None,
        driving_size: tuple[int, int] | None = None,
        area: int | None = None,
    ) -> HIAAnimation:
        """
        Every step but the last: what the pipeline is called with.

        Args:
            image (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
                Image of the person, as [`~images.load_image`] takes it. Where its aspect is not that of the result,
                it is fitted into it whole, with bars in the colour of its border.
            driving (`str`, `os.PathLike`, `WholeBodyKeypoints`, `Video` or `Driving`):
                The motion: a video of a person, keypoints (also a file of them, or a pose file of another tool, as
                [`WholeBodyKeypoints.load`] reads them) or an OpenPose-style pose video.
            driving_type (`str`, *optional*, defaults to `"auto"`):
                `"video"`, `"keypoints"` or `"pose"`; `"auto"` tells them apart by the suffix and the colours.
            max_frames (`int`, *optional*):
                Use only the beginning of the motion, of so many frames.
            person (`Sequence[float]`, *optional*):
                x0, y0, x1, y1 in pixels, a box around the person to follow in a video. The default follows the largest
                in the first frame.
            retarget (`bool`, *optional*):
                Whether to give the motion the proportions and the place of the person in the image. The default
                does so for a video of a person, and where `image_keypoints` are given.
            image_keypoints (`str`, `os.PathLike` or `WholeBodyKeypoints`, *optional*):
                The person in `image`, one frame, in pixels of `image`. Detected by default, where needed.
            sharpness (`str`, `float`, `Sequence[float]` or `np.ndarray`, *optional*, defaults to `"auto"`):
                How sharp the hands shall be. `"auto"` is as sharp as a camera would show them at their speed,
                `"driving"` measures it on a video of a person, `"unknown"` switches the blur condition off; numbers in
                [0, 1] as [`MotionBlurConditioner.__call__`] takes them. A pose video does not say where the hands are:
                with it the blur condition is off.
            height, width (`int`, *optional*):
                Size of the result in pixels, multiples of 8. By default the driving's, rounded. A motion of another
                aspect that is not aligned to the image is fitted into it as the image is, whole and centred.
            detected (`WholeBodyKeypoints`, *optional*):
                The person in a driving video, in place of what `detect` finds; one per frame of the driving, as the
                next three.
            keypoints (`WholeBodyKeypoints`, *optional*):
                The person in the driving clip, in place of what `smooth` makes.
            retargeted (`WholeBodyKeypoints`, *optional*):
                Keypoints aligned to the fitted image, in place of what `retarget` makes.
            condition (`MotionBlurCondition`, *optional*):
                In place of what the step `condition` makes; the result has its size.
            fps (`float`, *optional*):
                Frames per second of the result, in place of the driving's.
            driving_fps (`float`, *optional*):
                Frames per second of a pose file that does not state them.
            driving_size (`tuple[int, int]`, *optional*):
                Height and width of the image that a pose file's points lie in, where the file does not state it.
            area (`int`, *optional*):
                Pixels of a frame of the result, if neither `height` nor `width` is given: in the aspect of the image
                if the motion is aligned to it, else in that of the driving. By default the `"area"` in the
                pipeline's `call_defaults`.

        Returns:
            [`HIAAnimation`]: without `frames`.

        Raises:
            `FileNotFoundError`: there is no such file.
            `ImportError`: people must be found, and the `pose` extra is not installed.
            `TypeError`, `ValueError`: an argument cannot be used, alone, with the kind of clip that the driving is or
                beside what is given in place of a step, or nobody is found. What can be known before people are looked
                for is.
        """
        step = VAE_SCALE_FACTOR if self.pipe is None else self.pipe.vae_scale_factor
        height = None if height is None else checks.side("height", height, step)
        width = None if width is None else checks.side("width", width, step)
        if height is not None and width is not None:
            checks.area(width, height)
        if area is not None:
            area = checks.integer("area", area)
        elif self.pipe is not None:
            area = self.pipe.config.call_defaults.get("area")
        retarget = None if retarget is None else checks.flag("retarget", retarget)
        person = None if person is None else checks.box("person", person).tolist()
        if fps is not None:
            check_frame_rate(fps)
        image = load_image(image)
        motion = self.load_driving(driving, driving_type, max_frames, driving_fps, driving_size)
        check_arguments(
            motion,
            sharpness,
            person=person,
            retarget=retarget,
            image_keypoints=image_keypoints,
            height=height,
            width=width,
            detected=detected,
            keypoints=keypoints,
            retargeted=retargeted,
            condition=condition,
        )
        if condition is not None:
            height, width = condition.height, condition.width
        if height is None and width is None and area is not None and retargeted is None:
            is_aligned = retarget or (retarget is None and (motion.kind == "video" or image_keypoints is not None))
            shape = (image.height, image.width) if is_aligned else (motion.height, motion.width)
            height, width = _size_of_area(area, shape, step)
        height, width = _result_size(motion, height, width, step)
        fps = motion.fps if fps is None else float(fps)
        if self.watermark is not None:
            self.watermark.check_size(width, height)
        fitted = fit_image(image, height, width)
        measured = isinstance(sharpness, str) and sharpness == "driving"

        reference = None
        if condition is None and motion.kind == "pose":
            condition = self.condition(motion, height, width)
        elif condition is None:
            if retarget is None:
                retarget = motion.kind == "video" or image_keypoints is not None
            if retarget and retargeted is None:  # one frame, so it goes before the many of the driving
                reference = self._image_keypoints(image, image_keypoints)
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
        self,
        driving: str | os.PathLike | WholeBodyKeypoints | Video | Driving,
        driving_type: str = "auto",
        max_frames: int | None = None,
        driving_fps: float | None = None,
        driving_size: tuple[int, int] | None = None,
    ) -> Driving:
        """
        Read the driving clip: [`~animation.driving.Driving.load`].

        Args:
            driving, driving_type, max_frames, driving_fps, driving_size:
                As for [`~HIAAnimator.prepare`].
        """
        return Driving.load(driving, driving_type, max_frames, driving_fps, driving_size)

    def detect(self, driving: Driving, person: Sequence[float] | None = None) -> WholeBodyKeypoints:
        """
        The person in a driving video.

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
            raise ValueError("`driving`: nobody is found in it")
        logger.info("The person is found in %d of %d frames of the driving.", found.sum(), len(found))
        with_others = (~found & (people.counts > 0)).sum()
        if with_others:
            logger.warning(
                "In %d frames without the person others are found, too far from where the person was or would be; "
                "where that is the same person, give `person` or cut the clip.",
                with_others,
            )
        return keypoints

    def smooth(self, keypoints: WholeBodyKeypoints) -> WholeBodyKeypoints:
        """
        The motion without jitter and short gaps: [`smooth_keypoints`].

        Args:
            keypoints (`WholeBodyKeypoints`):
                As detected.
        """
        return smooth_keypoints(keypoints)

    def retarget(self, keypoints: WholeBodyKeypoints, reference: WholeBodyKeypoints) -> WholeBodyKeypoints:
        """
        The motion with the proportions and the place of the person in the image: [`retarget_keypoints`].

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
        logger.info("The motion is aligned to the person in the image.")
        return retargeted

    def condition(
        self,
        motion: WholeBodyKeypoints | Driving,
        height: int,
        width: int,
        sharpness: str | float | Sequence[float] | np.ndarray = "auto",
    ) -> MotionBlurCondition:
        """
        The condition in the size of the result, with lines as wide as [`MotionBlurConditioner.for_size`] has them. A
        motion of another aspect is fitted into it whole and centred, as the image is.

        Args:
            motion (`WholeBodyKeypoints` or [`~animation.driving.Driving`]):
                Keypoints, or a pose video, whose hands are unknown.
            height, width (`int`):
                Size of the result in pixels.
            sharpness (`str`, `float`, `Sequence[float]` or `np.ndarray`, *optional*, defaults to `"auto"`):
                As [`MotionBlurConditioner.__call__`] takes it.
        """
        conditioner = MotionBlurConditioner.for_size(height, width)
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
        logger.info("A pose video does not say where the hands are: the blur condition is off.")
        pose = np.empty((len(motion), height, width, 3), np.uint8)
        for index, frame in enumerate(motion.frames):  # at its own size, one at a time
            pose[index] = np.asarray(fit_pose_map(PIL.Image.fromarray(frame), height, width))
        return conditioner.from_pose_video(pose)

    def generate(
        self,
        animation: HIAAnimation,
        output: str | os.PathLike | None = None,
        sound: bool | str | os.PathLike = True,
        **kwargs: Any,
    ) -> HIAAnimation:
        """
        Run the pipeline.

        Args:
            animation ([`HIAAnimation`]):
                What `prepare` returned.
            output (`str` or `os.PathLike`, *optional*):
                A `.mp4` file to write each frame to as it is decoded, in place of keeping them; an existing one is
                replaced.
            sound (`bool`, `str` or `os.PathLike`, *optional*, defaults to `True`):
                As for [`HIAAnimation.save`].
            kwargs:
                Arguments of [`HIAPipeline.__call__`].

        Returns:
            [`HIAAnimation`]: the same with `frames`, unless there is an `output`.

        Raises:
            `TypeError`: the pipeline has no such argument.
            `ValueError`: there is no pipeline, or it cannot use an argument.
            `FileNotFoundError`, `OSError`, `ValueError`: as [`~video.writing.write_video`]. What can be known of
                `output` and of `sound` before the pipeline runs is.
        """
        self._pipe_for(output, kwargs)
        if output is not None:
            check_frame_rate(animation.fps)
            check_output(output, animation.condition.height, animation.condition.width)
        audio = None if output is None else animation.sound_file(sound)
        frames = self.stream(animation, **kwargs)
        if output is None:
            return replace(animation, frames=list(frames))
        write_video(output, frames, animation.fps, audio_from=audio, comment=COMMENT)
        return animation

    def stream(self, animation: HIAAnimation, **kwargs: Any) -> Iterator[PIL.Image.Image]:
        """
        Run the pipeline and hand out the frames one by one, with the watermark: [`HIAPipeline.stream`].

        Args:
            animation ([`HIAAnimation`]):
                What `prepare` returned.
            kwargs:
                Arguments of [`HIAPipeline.__call__`].

        Returns:
            `Iterator[PIL.Image.Image]`: the F frames. Denoising is done when this returns.

        Raises:
            `TypeError`: the pipeline has no such argument.
            `ValueError`: there is no pipeline, or it cannot use an argument.
        """
        pipe = self._pipe_for(None, kwargs)
        height, width = animation.condition.height, animation.condition.width
        frames = pipe.stream(animation.image, animation.condition, height=height, width=width, **kwargs)
        return frames if self.watermark is None else map(self.watermark, frames)

    def _pipe_for(self, output: str | os.PathLike | None, kwargs: Mapping[str, Any]) -> "HIAPipeline":
        """The pipeline, once it is there and knows the arguments, and the output can be written."""
        if self.pipe is None:
            raise ValueError("`pipe` must be a HIAPipeline to generate frames, got None.")
        known = inspect.signature(type(self.pipe).__call__).parameters.keys() - set(SET_BY_ANIMATOR)
        unknown = sorted(kwargs.keys() - known)
        if unknown:
            raise TypeError(f"`{unknown[0]}` is an argument of neither HIAAnimator nor its pipeline.")
        if output is not None:
            check_output(output)
        # On the smallest inputs there are: what depends on the true ones is checked with them.
        smallest = PIL.Image.new("RGB", (self.pipe.vae_scale_factor,) * 2)
        given = {name: value for name, value in kwargs.items() if name != "latents"}
        self.pipe.check_inputs(smallest, [smallest], None, None, **given)
        return self.pipe

    def _detector(self) -> Any:
        if self.detector is None or isinstance(self.detector, Mapping):
            try:
                self.detector = KeypointDetector(**(self.detector or {}))
            except ValueError as error:
                raise ValueError(f"keypoint detector: {error}") from error
            logger.info("Keypoints are detected with onnxruntime's %s.", self.detector.providers["pose"])
        return self.detector

    def _image_keypoints(
        self, image: PIL.Image.Image, image_keypoints: str | os.PathLike | WholeBodyKeypoints | None
    ) -> WholeBodyKeypoints:
        """The keypoints of the person in the image, given or detected."""
        if image_keypoints is None:
            keypoints = self._detector()(np.asarray(image)[None], fps=1)
            if not keypoints.score.any():
                raise ValueError("`image`: nobody is found in it; give `image_keypoints` or `retarget=False`")
            return keypoints
        if isinstance(image_keypoints, WholeBodyKeypoints):
            keypoints = image_keypoints
        else:
            try:
                keypoints = _load_in(image, checks.path("image_keypoints", image_keypoints))
            except ValueError as error:
                raise ValueError(f"`image_keypoints`: {str(error).removeprefix('`path` ')}") from error
        if len(keypoints) != 1 or (keypoints.width, keypoints.height) != image.size:
            raise ValueError(
                f"`image_keypoints`: must be one frame of the image's {image.width}x{image.height}, "
                f"got {len(keypoints)} of {keypoints.width}x{keypoints.height}"
            )
        return keypoints


def _load_in(image: PIL.Image.Image, path: str | os.PathLike) -> WholeBodyKeypoints:
    """Keypoints of a file, in pixels of the image where the file does not say of which."""
    try:
        return WholeBodyKeypoints.load(path)
    except NotStatedError:
        return WholeBodyKeypoints.load(path, image.height, image.width)


def _size_of_area(area: int, shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Height and width in the aspect of `shape`, of about this area, in multiples of `step`."""
    height, width = shape
    scale = (area / (height * width)) ** 0.5
    return max(step, round(height * scale / step) * step), max(step, round(width * scale / step) * step)


def _result_size(driving: Driving, height: int | None, width: int | None, step: int) -> tuple[int, int]:
    rounded = [max(step, round(side / step) * step) for side in (driving.height, driving.width)]
    if height is None and width is None and rounded != [driving.height, driving.width]:
        logger.info("The driving's %dx%d is rounded to %dx%d.", driving.width, driving.height, *rounded[::-1])
    height, width = height or rounded[0], width or rounded[1]
    checks.area(width, height)
    return height, width
