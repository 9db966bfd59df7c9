# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The motion blur condition: an OpenPose map, and the motion and sharpness of each hand drawn in its box.

Axes: F frames, H, W; hands are ordered left, right (the person's). Pixels follow the convention of `keypoints.py`.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import PushToHubMixin

from .. import checks
from ..images import LUMA
from .arrays import float_array, image_array
from .keypoints import WholeBodyKeypoints
from .motion_blur_condition import MotionBlurCondition
from .openpose import MAX_COORDINATE
from .pose_maps import POSE_MAPS, draw_pose_map
from .sharpness import MIN_VISIBLE_SIDE, laplacian_variance, sharpness_array, visible_parts
from .whole_body import LEFT_ELBOW, LEFT_HAND, LEFT_WRIST, RIGHT_ELBOW, RIGHT_HAND, RIGHT_WRIST, SCORE_THRESHOLD


NOMINAL_FPS = 30

# The shorter side at which the lines of the OpenPose map have the width that pretrained ControlNets expect.
OPENPOSE_SIDE = 512

# A box around fewer points, or smaller than a pixel, does not locate the hand.
MIN_HAND_POINTS = 3
MIN_BOX_SIDE = 1.0

# If the hand points are missing: distance of the hand's centre from the wrist and size of its box, in forearm lengths.
HAND_CENTER_BEYOND_WRIST = 0.35
HAND_SIDE_PER_FOREARM = 0.9

# The frames of a clip.
VideoFrames = Iterable[PIL.Image.Image | np.ndarray] | np.ndarray | torch.Tensor

# Points, wrist and elbow of the left and right hand.
HANDS = ((LEFT_HAND, LEFT_WRIST, LEFT_ELBOW), (RIGHT_HAND, RIGHT_WRIST, RIGHT_ELBOW))


class MotionBlurConditioner(ConfigMixin, PushToHubMixin):
    r"""Create the six-channel conditioning frames of HIA (Sec. 3.2 of https://arxiv.org/abs/2409.19580).

    They consist of an OpenPose map, and the motion and sharpness of each hand in its box.

    A hand's box is a square around its visible points. If fewer than 3 of the 21 are visible, it is estimated from
    wrist and elbow. If these are missing too, or the box lies outside the image, there is no box.

    Motion is the mean displacement, since the previous frame, of the hand's points that are visible in both frames (of
    the wrist, if the box is estimated from wrist and elbow), divided by the side of the hand's box and converted to 30
    frames per second. It depends neither on resolution nor on frame rate.

    Sharpness is based on the variance of the Laplacian (Eq. 3) of the hand's grey values (0-255). The box is first
    resized to `sharpness_side` pixels and slightly smoothed, so that the variance does not depend on the size of the
    hand as long as the box has at least this size. It is normalized to `variance / (variance + sharpness_scale)`.

    By default, a hand is as sharp as a camera would show it at its speed `|v|`. The relation is fitted to the
    ground-truth motion blur of procedural people: `variance = still / (1 + (|v| / blurring_motion) ** blur_exponent)`,
    where `still = rest_variance * min(1, side / sharpness_side) ** small_box_exponent`.

    Args:
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Keypoints are visible when their score is above this, in `[0, 1)`.
        max_motion (`float`, *optional*, defaults to `1.0`):
            Motion, in hand-box sides per frame at 30 frames per second, that is stored as 1; faster motion is clipped.
        sharpness_scale (`float`, *optional*, defaults to `40.0`):
            Variance of the Laplacian that is stored as 0.5.
        sharpness_side (`int`, *optional*, defaults to `32`):
            Side in pixels at which sharpness is measured, from 12 to 1024.
        rest_variance (`float`, *optional*, defaults to `350.0`):
            Expected variance of the Laplacian of a hand at rest.
        blurring_motion (`float`, *optional*, defaults to `0.2`):
            Motion that halves the expected variance, in hand-box sides per frame at 30 frames per second.
        blur_exponent (`float`, *optional*, defaults to `1.3`):
            How fast the expected variance decreases with faster motion.
        small_box_exponent (`float`, *optional*, defaults to `1.65`):
            How fast the expected variance decreases with the side of a box smaller than `sharpness_side`.
        hand_box_margin (`float`, *optional*, defaults to `0.2`):
            Margin around the hand's points on each side, in units of their extent.
        line_scale (`float`, *optional*, defaults to `1.0`):
            Factor on the line widths of the OpenPose map, for images much smaller than 512 pixels.
        pose_map (`str`, *optional*, defaults to `"openpose"`):
            How the pose is drawn: `"openpose"`, as pretrained OpenPose ControlNets expect it, or as the authors of a
            published checkpoint draw it: `"moore-animate-anyone"`, `"musepose"` or `"dynamicpose"`.
    """

    config: Any
    config_name: Any = "conditioner_config.json"

    @checks.python_numbers
    @register_to_config
    def __init__(
        self,
        score_threshold: float = SCORE_THRESHOLD,
        max_motion: float = 1.0,
        sharpness_scale: float = 40.0,
        sharpness_side: int = 32,
        rest_variance: float = 350.0,
        blurring_motion: float = 0.2,
        blur_exponent: float = 1.3,
        small_box_exponent: float = 1.65,
        hand_box_margin: float = 0.2,
        line_scale: float = 1.0,
        pose_map: str = "openpose",
    ):
        checks.number("score_threshold", score_threshold, 0, below=1)
        checks.number("max_motion", max_motion, above=0)
        checks.number("sharpness_scale", sharpness_scale, above=0)
        checks.integer("sharpness_side", sharpness_side, 12, 1024)
        checks.number("rest_variance", rest_variance, above=0)
        checks.number("blurring_motion", blurring_motion, above=0)
        checks.number("blur_exponent", blur_exponent, above=0, high=100)
        checks.number("small_box_exponent", small_box_exponent, 0, 100)
        checks.number("hand_box_margin", hand_box_margin, 0, 100)
        checks.number("line_scale", line_scale, above=0, high=100)
        checks.one_of("pose_map", pose_map, tuple(POSE_MAPS))

    @classmethod
    def for_size(cls, height: int, width: int, **kwargs: Any) -> "MotionBlurConditioner":
        """Create a conditioner for images of a given size.

        Below 512 pixels, the lines of the OpenPose map get thinner in proportion to the shorter side, so that fingers
        and faces remain distinct.

        Args:
            height (`int`):
                Height of the images in pixels.
            width (`int`):
                Width of the images in pixels.
            kwargs (`dict[str, Any]`, *optional*):
                Other arguments of the conditioner.
        """
        height, width = checks.side("height", height), checks.side("width", width)
        return cls(line_scale=min(1.0, min(height, width) / OPENPOSE_SIDE), **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, subfolder: str | None = None, **kwargs: Any
    ) -> "MotionBlurConditioner":
        """Load a conditioner from a local folder or from the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A folder with a `conditioner_config.json`, or the id of a repository on the Hub.
            subfolder (`str`, *optional*):
                The folder inside the folder or repository.
            kwargs (`dict[str, Any]`, *optional*):
                Hub options (`cache_dir`, `force_download`, `proxies`, `local_files_only`, `token`, `revision`) and
                arguments of the conditioner that replace the stored ones.
        """
        config, kwargs = cls.load_config(
            pretrained_model_name_or_path, subfolder=subfolder, return_unused_kwargs=True, **kwargs
        )
        conditioner: Any = cls.from_config(config, **kwargs)
        return conditioner

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `conditioner_config.json`, which [`~MotionBlurConditioner.from_pretrained`] reads.

        Args:
            save_directory (`str` or `os.PathLike`):
                Output folder; it is created if it does not exist.
            push_to_hub (`bool`, *optional*, defaults to `False`):
                Whether to upload the folder to the Hub afterwards.
            kwargs (`dict[str, Any]`, *optional*):
                Arguments of [`~utils.PushToHubMixin.push_to_hub`].
        """
        self.save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def __call__(
        self,
        keypoints: WholeBodyKeypoints,
        frames: VideoFrames | None = None,
        sharpness: str | float | Sequence[float] | np.ndarray = "auto",
        previous_keypoints: WholeBodyKeypoints | None = None,
    ) -> MotionBlurCondition:
        """Create the conditioning frames of a clip.

        Args:
            keypoints (`WholeBodyKeypoints`):
                The person in each of the F frames.
            frames (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`, *optional*):
                The video frames in which the keypoints were detected, of the keypoints' height and width: PIL images,
                uint8 or float `[0, 1]` arrays `(F, H, W, 3)`, a float tensor `(F, 3, H, W)` in `[0, 1]`, or
                [`~video.reading.VideoFrames`], which are measured as they are decoded.
            sharpness (`str`, `float`, `Sequence[float]` or `np.ndarray`, *optional*, defaults to `"auto"`):
                `"auto"` measures it in `frames`; without frames it is [`~MotionBlurConditioner.expected_sharpness`]. A
                number in `[0, 1]` applies to both hands, two numbers to the left and right hand, and an array `(F, 2)`
                to each hand in each frame, where NaN means unknown. `"unknown"` disables the blur condition: channels
                3-5 are zero, an input that models are also trained on.
            previous_keypoints (`WholeBodyKeypoints`, *optional*):
                The person one frame before each of the F frames, from which motion is measured. By default, the frames
                are consecutive, and the first has no motion. Pass this for frames selected from a clip, so that motion
                is relative to the previous frame of the clip, however far apart they are.

        Returns:
            `MotionBlurCondition`: The maps, boxes, motion and sharpness of the clip.

        Raises:
            TypeError: If `keypoints` or `previous_keypoints` are not `WholeBodyKeypoints`, `frames` are not images, or
                `sharpness` is not numeric.
            ValueError: If `frames` or `previous_keypoints` do not match the keypoints, or the shape or range of
                `sharpness` is wrong.
        """
        if not isinstance(keypoints, WholeBodyKeypoints):
            raise TypeError(f"`keypoints` must be WholeBodyKeypoints, got {type(keypoints).__name__}.")
        previous = keypoints.previous_frames() if previous_keypoints is None else previous_keypoints
        if not isinstance(previous, WholeBodyKeypoints):
            raise TypeError(f"`previous_keypoints` must be WholeBodyKeypoints, got {type(previous).__name__}.")
        wanted_sharpness = sharpness_array(sharpness, len(keypoints))
        images = None if frames is None else _images_of(keypoints, frames)
        clip_shape = (len(keypoints), keypoints.height, keypoints.width)
        previous_shape = (len(previous), previous.height, previous.width)
        if previous_shape != clip_shape:
            raise ValueError(
                f"`previous_keypoints` must match `keypoints`: (F, H, W) is {previous_shape}, not {clip_shape}."
            )
        boxes, from_points = self._hand_boxes(keypoints)
        motion = self._hand_motion(keypoints, boxes, from_points, previous)
        if wanted_sharpness is not None:
            hand_sharpness = wanted_sharpness
        elif images is not None:
            hand_sharpness = self._sharpness(images, boxes)
        else:
            is_visible = visible_parts(boxes, (keypoints.width, keypoints.height)).min(axis=-1) >= MIN_VISIBLE_SIDE
            expected = self.expected_sharpness(_speed(motion), boxes[..., 2] - boxes[..., 0])
            hand_sharpness = np.where(is_visible, expected, np.nan)
        return MotionBlurCondition(
            pose=draw_pose_map(keypoints, self.config.pose_map, self.config.score_threshold, self.config.line_scale),
            hand_boxes=boxes.astype(np.float32),
            hand_motion=motion.astype(np.float32),
            hand_sharpness=np.where(np.isnan(boxes[..., 0]), np.nan, hand_sharpness).astype(np.float32),
            max_motion=self.config.max_motion,
        )

    def measure_sharpness(self, keypoints: WholeBodyKeypoints, frames: VideoFrames) -> np.ndarray:
        """Measure the sharpness of the hands in a clip.

        Args:
            keypoints, frames:
                As for a call.

        Returns:
            `np.ndarray` of shape `(F, 2)`: float32 in [0, 1] for the left and right hand, NaN without a hand.

        Raises:
            TypeError, ValueError: As a call.
        """
        sharpness = self._sharpness(_images_of(keypoints, frames), self._hand_boxes(keypoints)[0])
        return sharpness.astype(np.float32)

    def from_pose_video(self, frames: Sequence[PIL.Image.Image] | np.ndarray | torch.Tensor) -> MotionBlurCondition:
        """Create conditioning frames from an OpenPose-style video. Its hands are unknown: channels 3-5 are zero.

        Args:
            frames (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`):
                PIL images, uint8 or float `[0, 1]` arrays `(F, H, W, 3)`, or a float tensor `(F, 3, H, W)` in
                `[0, 1]`.
        """
        pose = image_array(frames)
        unknown = np.full((len(pose), 2, 4), np.nan, dtype=np.float32)
        return MotionBlurCondition(pose, unknown, unknown[..., :2], unknown[..., 0], self.config.max_motion)

    def squash_sharpness(self, variance: float | np.ndarray) -> np.ndarray:
        """Map a variance of the Laplacian to `[0, 1)`: `variance / (variance + sharpness_scale)`.

        Args:
            variance (`float` or `np.ndarray`):
                Variances, not negative, for intensities 0-255; NaN stays NaN.
        """
        variance = float_array("variance", variance)
        if (variance < 0).any():
            raise ValueError(f"`variance` must not be negative, got {variance.min()}.")
        return variance / (variance + self.config.sharpness_scale)

    def unsquash_sharpness(self, sharpness: float | np.ndarray) -> np.ndarray:
        """Map a sharpness to a variance of the Laplacian, the inverse of [`~MotionBlurConditioner.squash_sharpness`].

        Args:
            sharpness (`float` or `np.ndarray`):
                Values in `[0, 1)`; NaN stays NaN.
        """
        sharpness = float_array("sharpness", sharpness)
        if ((sharpness < 0) | (sharpness >= 1)).any():
            raise ValueError(f"`sharpness` must be in [0, 1), got {checks.shown(sharpness)}.")
        return self.config.sharpness_scale * sharpness / (1 - sharpness)

    def expected_sharpness(self, speed: float | np.ndarray, side: float | np.ndarray) -> np.ndarray:
        """Return the sharpness in `[0, 1)` with which a camera would show hands at a given speed.

        It follows from the relation between speed and blur that the description of the class gives.

        Args:
            speed (`float` or `np.ndarray`):
                Magnitudes of motion, in hand-box sides per frame at 30 frames per second; NaN stays NaN.
            side (`float` or `np.ndarray`):
                Sides of the boxes in pixels, broadcastable with `speed`.
        """
        side = np.asarray(side, dtype=np.float64)
        of_size = np.minimum(side / self.config.sharpness_side, 1) ** self.config.small_box_exponent
        of_speed = 1 + (np.asarray(speed, dtype=np.float64) / self.config.blurring_motion) ** self.config.blur_exponent
        return self.squash_sharpness(self.config.rest_variance * of_size / of_speed)

    def _hand_boxes(self, keypoints: WholeBodyKeypoints) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes `(F, 2, 4)`, NaN without a hand, and whether each is based on hand points `(F, 2)`."""
        boxes = np.full((len(keypoints), 2, 4), np.nan)
        from_points = np.zeros((len(keypoints), 2), dtype=bool)
        image = np.array([keypoints.width, keypoints.height])
        xy = np.where(self._visible(keypoints)[..., None], keypoints.xy.astype(np.float64), np.nan)
        for frame, hand in np.ndindex(from_points.shape):
            points, wrist, elbow = HANDS[hand]
            box = self._box_of_points(xy[frame, points])
            from_points[frame, hand] = box is not None
            if box is None:
                box = _box_beyond_wrist(xy[frame, wrist], xy[frame, elbow])
            if box is not None and (box[2:] > 0).all() and (box[:2] < image).all():
                boxes[frame, hand] = box
        return boxes, from_points

    def _box_of_points(self, points: np.ndarray) -> np.ndarray | None:
        points = points[np.isfinite(points).all(axis=-1)]
        if len(points) < MIN_HAND_POINTS:
            return None
        low, high = points.min(axis=0), points.max(axis=0)
        return _square((low + high) / 2, (high - low).max() * (1 + 2 * self.config.hand_box_margin))

    def _hand_motion(
        self, keypoints: WholeBodyKeypoints, boxes: np.ndarray, from_points: np.ndarray, previous: WholeBodyKeypoints
    ) -> np.ndarray:
        """Return motion `(F, 2, 2)` in box sides per frame at the nominal frame rate, NaN if unknown."""
        motion = np.full((len(keypoints), 2, 2), np.nan)
        previous_boxes, previous_from_points = self._hand_boxes(previous)
        both_have_boxes = np.isfinite(boxes[..., 0]) & np.isfinite(previous_boxes[..., 0])
        visible = self._visible(keypoints) & self._visible(previous)
        for frame, hand in np.argwhere(both_have_boxes):
            points, wrist, _ = HANDS[hand]
            if not (from_points[frame, hand] and previous_from_points[frame, hand]):
                points = slice(wrist, wrist + 1)
            in_both = visible[frame, points]
            if in_both.any():
                displacement = (keypoints.xy[frame, points] - previous.xy[frame, points])[in_both].mean(axis=0)
                side = boxes[frame, hand, 2] - boxes[frame, hand, 0]
                motion[frame, hand] = displacement / side * (keypoints.fps / NOMINAL_FPS)
        return motion

    def _sharpness(self, images: Iterable[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        """Return the normalized variance of the Laplacian in each box `(F, 2)`.

        It is NaN if there is no box, or if too little of it lies in the image.
        """
        variance = np.full(boxes.shape[:2], np.nan)
        for frame, image in enumerate(images):
            grey = PIL.Image.fromarray(image.astype(np.float32) @ np.array(LUMA, dtype=np.float32))
            for hand in range(2):
                if np.isfinite(boxes[frame, hand]).all():
                    variance[frame, hand] = laplacian_variance(grey, boxes[frame, hand], self.config.sharpness_side)
        return self.squash_sharpness(variance)

    def _visible(self, keypoints: WholeBodyKeypoints) -> np.ndarray:
        is_near = (np.abs(keypoints.xy) < MAX_COORDINATE).all(axis=-1)  # as the map is drawn
        return (keypoints.score > self.config.score_threshold) & is_near


def _box_beyond_wrist(wrist: np.ndarray, elbow: np.ndarray) -> np.ndarray | None:
    forearm = wrist - elbow
    if np.isnan(forearm).any():
        return None
    return _square(wrist + HAND_CENTER_BEYOND_WRIST * forearm, HAND_SIDE_PER_FOREARM * float(np.linalg.norm(forearm)))


def _square(center: np.ndarray, side: float) -> np.ndarray | None:
    return np.concatenate([center - side / 2, center + side / 2]) if side >= MIN_BOX_SIDE else None


def _speed(motion: np.ndarray) -> np.ndarray:
    """Return the magnitude of motion `(F, 2)`.

    If it is unknown, as in the first frame, it is that of the motion to the next frame; if that is unknown as well,
    the hand is taken to be at rest, as it is drawn.
    """
    speed = np.linalg.norm(motion, axis=-1)
    following = np.append(speed[1:], np.full_like(speed[:1], np.nan), axis=0)
    return np.nan_to_num(np.where(np.isnan(speed), following, speed))


def _images_of(keypoints: WholeBodyKeypoints, frames: Any) -> Any:
    """Convert the video frames of the keypoints, in any accepted form, to an iterable of uint8 frames."""
    is_array = isinstance(frames, (np.ndarray, torch.Tensor))
    is_stream = not is_array and isinstance(frames, Iterable) and len(getattr(frames, "shape", ())) == 4
    images = frames if is_stream else image_array(frames)
    clip_shape = (len(keypoints), keypoints.height, keypoints.width)
    if images.shape[:3] != clip_shape:
        raise ValueError(
            f"`frames` must match `keypoints`: (F, H, W) is {images.shape[:3]} for the frames and {clip_shape} "
            "for the keypoints."
        )
    return images
