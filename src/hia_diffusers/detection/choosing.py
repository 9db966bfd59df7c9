# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of a keypoint detector by name, or by what is installed and downloaded."""

import importlib.util
import inspect
import os
from pathlib import Path
from typing import Any

from .. import checks
from .keypoint_detector import KeypointDetector
from .mediapipe_detector import MediaPipeKeypointDetector
from .model_files import PERSON_DETECTORS, POSE_MODELS, is_downloaded
from .openpose_detector import OpenPoseKeypointDetector
from .people import Detector


DETECTORS: dict[str, type[Detector]] = {
    "rtmpose": KeypointDetector,
    "mediapipe": MediaPipeKeypointDetector,
    "openpose": OpenPoseKeypointDetector,
}


def create_detector(detector: str = "auto", **arguments: Any) -> Detector:
    """Create a keypoint detector.

    Args:
        detector (`str`, *optional*, defaults to `"auto"`):
            `"rtmpose"` for a [`KeypointDetector`], `"mediapipe"` for a [`MediaPipeKeypointDetector`], `"openpose"` for
            an [`OpenPoseKeypointDetector`], or `"auto"`; see [`choose_detector`].
        arguments:
            Arguments of the detector.

    Raises:
        ValueError: If `detector` is unknown.
        Exception: As in the detector's constructor.
    """
    return DETECTORS[choose_detector(detector, **arguments)](**arguments)


def choose_detector(detector: str = "auto", **arguments: Any) -> str:
    """Return the name of the detector that [`create_detector`] creates.

    `"auto"` is MediaPipe if its extra is installed and RTMPose is not ready, with the `pose` extra and its models
    downloaded, or if `pose_model` is a folder or a wheel, which RTMPose does not accept. Otherwise, and with a
    `device` or another argument that only RTMPose accepts, it is RTMPose.

    Args:
        detector, arguments:
            As for [`create_detector`].

    Raises:
        ValueError: If `detector` is unknown.
    """
    if checks.one_of("detector", detector, ("auto", *DETECTORS)) != "auto":
        return detector
    if arguments.keys() <= {"pose_model", "device"} and _is_folder_or_wheel(arguments.get("pose_model")):
        return "mediapipe"
    wants_rtmpose = arguments.get("device", "cpu") != "cpu" or bool(arguments.keys() - {"device"})
    if wants_rtmpose or not _is_installed("mediapipe") or _is_rtmpose_ready():
        return "rtmpose"
    return "mediapipe"


def _is_folder_or_wheel(model: object) -> bool:
    return isinstance(model, (str, os.PathLike)) and (Path(model).suffix == ".whl" or Path(model).is_dir())


def _is_rtmpose_ready() -> bool:
    defaults = inspect.signature(KeypointDetector).parameters
    tables = {"detector_model": PERSON_DETECTORS, "pose_model": POSE_MODELS, "feet_model": POSE_MODELS}
    models = {defaults[argument].default: table for argument, table in tables.items()}
    is_installed = _is_installed("rtmlib") and _is_installed("onnxruntime")
    return is_installed and all(is_downloaded(name, table[name]) for name, table in models.items())


def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
