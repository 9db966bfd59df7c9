# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Which arguments of an animation go together."""

from collections.abc import Mapping
from typing import Any

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.motion_blur_condition import MotionBlurCondition
from ..conditioning.pose_maps import DENSEPOSE
from ..conditioning.sharpness import sharpness_array
from .driving import MAPS, Driving


# Results of steps that can be passed, and the arguments that are unused in this case.
UNREAD_BESIDE = {
    "detected": {"person"},
    "keypoints": {"person", "detected"},
    "retargeted": {
        *("person", "detected", "keypoints", "retarget", "image_keypoints", "image_person", "long_side"),
    },
}
UNREAD_BESIDE["condition"] = {*UNREAD_BESIDE["retargeted"], "retargeted", "sharpness", "height", "width"}


def check_kind(kind: str, pose_map: str) -> None:
    """Raise an error if the network does not read what a driving clip shows.

    Args:
        kind (`str`):
            Type of the driving clip.
        pose_map (`str`):
            What the network reads.
    """
    if pose_map == DENSEPOSE and kind != "densepose":
        raise ValueError(
            "`driving_type` must be densepose and `driving` a DensePose video, since the pipeline reads DensePose maps"
        )
    if pose_map != DENSEPOSE and kind == "densepose":
        raise ValueError(
            "`driving_type`: the pipeline reads skeletons, not DensePose maps; pass a video of a person, keypoints or "
            "an OpenPose-style pose video"
        )


def is_read_back(driving: Driving, arguments: Mapping[str, Any]) -> bool:
    """Return whether keypoints are read from a pose video, since its motion is to be retargeted.

    Args:
        driving ([`~animation.driving.Driving`]):
            The driving clip.
        arguments (`Mapping[str, Any]`):
            Arguments of [`HIAAnimator.prepare`] by name.
    """
    given = {name for name, value in arguments.items() if value is not None}
    wanted = bool(arguments.get("retarget")) or bool(given & {"image_keypoints", "image_person"})
    return driving.kind == "pose" and wanted and not given & {"keypoints", "retargeted", "condition"}


def check_arguments(driving: Driving, sharpness: object, **arguments: Any) -> None:
    """Raise an error for arguments without effect for the type of the driving clip or with a passed result."""
    given = {name: value for name, value in arguments.items() if value is not None}
    kind = "keypoints" if is_read_back(driving, arguments) else driving.kind
    word = sharpness if isinstance(sharpness, str) else None
    if word not in (None, "auto", "driving", "unknown"):
        raise ValueError(f"`sharpness` must be auto, driving, unknown or numbers in [0, 1], got {checks.shown(word)}.")
    if word is None:
        sharpness_array(sharpness, len(driving))
    if kind in MAPS and word not in ("auto", "unknown"):
        raise ValueError("`sharpness`: a pose video has no positions of the hands; use keypoints or omit it")
    if kind != "video" and word == "driving":
        raise ValueError("`sharpness`: it can be measured only if `driving` is a video of a person")
    if kind in MAPS and (given.get("retarget") or given.keys() & {"image_keypoints", "image_person"}):
        raise ValueError(
            "`retarget`: a DensePose video has no keypoints that could be retargeted; pass one of a person who is "
            "placed as in the image"
        )
    if kind != "video" and "person" in given:
        raise ValueError("`person`: only a video of a person can show several")
    if kind != "video" and "detected" in given:
        raise ValueError("`detected`: people are detected only in a video of a person")
    if kind in MAPS and given.keys() & {"keypoints", "retargeted"}:
        raise ValueError("`keypoints` and `retargeted`: a pose video has no keypoints; pass them as `driving`")
    for name in ("image_keypoints", "image_person"):
        if name in given and given.get("retarget") is False:
            raise ValueError(f"`{name}` has no effect with `retarget=False`")
    if "image_keypoints" in given and "image_person" in given:
        raise ValueError("`image_person` has no effect with `image_keypoints`")

    if word != "auto":
        given["sharpness"] = sharpness
    for step in [step for step in UNREAD_BESIDE if step in given]:
        wanted = MotionBlurCondition if step == "condition" else WholeBodyKeypoints
        if not isinstance(given[step], wanted) or len(given[step]) != len(driving):
            got = len(given[step]) if isinstance(given[step], wanted) else type(given[step]).__name__
            number = len(driving)
            raise ValueError(f"`{step}` must be a {wanted.__name__} of the driving's {number} frames, got {got}.")
        unread = UNREAD_BESIDE[step] & given.keys()
        if step == "retargeted" and word == "driving":  # the keypoints locate the hands in the video
            unread -= {"person", "detected", "keypoints"}
        if unread:
            raise ValueError(f"`{min(unread)}` has no effect with `{step}`")
