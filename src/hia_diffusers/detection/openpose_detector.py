# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-body keypoints with OpenPose, using controlnet-aux.

controlnet-aux counts from the centre of the first pixel. The results here are shifted by half a pixel, to follow the
convention of `conditioning/keypoints.py`.

Axes: P people in a frame, K = 133 keypoints, H, W.
"""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download

from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.whole_body import NUM_KEYPOINTS
from .model_files import checked_digests, file_digest
from .people import DetectedPeople, Detector, frame_batches


# controlnet-aux resizes the shorter side of an image to this before it runs OpenPose.
_OPENPOSE_RESOLUTION = 512
_OPENPOSE_FILES = {"body": "body_pose_model.pth", "hand": "hand_pose_model.pth", "face": "facenet.pth"}


class OpenPoseKeypointDetector(Detector):
    """Detect whole-body keypoints with OpenPose, using controlnet-aux.

    Most OpenPose ControlNets were trained on these points. OpenPose detects no feet, gives no scores (1 for every
    detected point), and runs frame by frame. Its authors license it for non-commercial use. Needs the `pose` extra.

    Args:
        model (`str` or `os.PathLike`, *optional*, defaults to `"lllyasviel/Annotators"`):
            Id on the Hub or local folder, with the files `body_pose_model.pth`, `hand_pose_model.pth` and
            `facenet.pth`. Reading them runs no code from them.
        device (`str`, *optional*, defaults to `"cpu"`):
            A device of torch.
        sha256 (`Mapping[str, str]`, *optional*):
            Expected SHA-256 of the files of `"body"`, `"hand"` and `"face"`, or of some of them.

    Attributes:
        providers (`dict[str, str]`):
            The actual device of `"body"`, `"hand"` and `"face"`.
        sha256 (`dict[str, str]`):
            The SHA-256 of each file.

    Raises:
        ImportError: If the `pose` extra is not installed.
        FileNotFoundError: If a file is not in the folder.
        ValueError: If a file is not a model of this kind or has another SHA-256, or `device` is not available.
    """

    name = "OpenPose"

    def __init__(
        self,
        model: str | os.PathLike = "lllyasviel/Annotators",
        device: str = "cpu",
        sha256: Mapping[str, str] | None = None,
    ):
        expected = checked_digests(sha256, _OPENPOSE_FILES)
        try:
            torch.zeros(1, device=device)
        except Exception as error:  # each backend raises its own kind of error
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"`device` cannot be used here: {device!r} ({reason}).") from error
        paths = {role: _find_openpose_file(model, name) for role, name in _OPENPOSE_FILES.items()}
        self.sha256 = {role: file_digest(role, path, expected) for role, path in paths.items()}
        openpose = import_openpose()
        estimators = {"body": openpose.Body, "hand": openpose.Hand, "face": openpose.Face}
        loaded = {}
        for role, estimator in estimators.items():
            try:
                loaded[role] = estimator(str(paths[role]))
            except Exception as error:  # unpickling and load_state_dict raise many kinds of errors
                raise ValueError(
                    f"`model` contains a file that is no {role} model: {paths[role]} ({error})."
                ) from error
        self._openpose = openpose.OpenposeDetector(*loaded.values()).to(device)
        self.providers = {role: str(next(net.model.parameters()).device) for role, net in loaded.items()}

    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        """Detect everyone in every frame, as described at [`Detector.detect`]."""
        from controlnet_aux.util import resize_image

        xy, score, boxes = [], [], []
        for (frame,) in frame_batches(frames, fps, 1):
            height, width = frame.shape[:2]
            image = resize_image(frame, _OPENPOSE_RESOLUTION)
            poses = self._openpose.detect_poses(image, include_hand=True, include_face=True)
            frame_xy, frame_score = _openpose_points(poses, image.shape[:2])
            frame_xy *= np.array([width / image.shape[1], height / image.shape[0]], dtype=np.float32)
            xy.append(frame_xy)
            score.append(frame_score)
            boxes.append(np.concatenate([np.nanmin(frame_xy, axis=1), np.nanmax(frame_xy, axis=1)], axis=1))
        return DetectedPeople(xy, score, boxes, height, width, fps)


@contextmanager
def _without_mediapipe() -> Iterator[None]:
    """Hide mediapipe: controlnet-aux can be imported without it, but not with a version that lacks `solutions`."""
    name, imported = "mediapipe", sys.modules.get("mediapipe")
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if imported is not None:
            sys.modules[name] = imported


def import_openpose() -> Any:
    """Import controlnet-aux's OpenPose."""
    try:
        with warnings.catch_warnings(), _without_mediapipe():
            warnings.simplefilter("ignore")  # about the other detectors
            from controlnet_aux import open_pose
    except ImportError as error:
        raise ImportError(
            "`OpenPoseKeypointDetector` needs the `pose` extra: pip install 'hia-diffusers[pose]'."
        ) from error
    return open_pose


def _find_openpose_file(model: str | os.PathLike, name: str) -> Path:
    if Path(model).is_dir():
        path = Path(model, name)
        if not path.is_file():
            raise FileNotFoundError(f"`model` is a folder without {name}: {str(model)!r}.")
        return path
    try:
        return Path(hf_hub_download(str(model), name))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"`model` is not a folder, and {name} is not on the Hub in {str(model)!r}.") from error


def _openpose_points(poses: Sequence, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Convert people from controlnet-aux to points `(P, 133, 2)` in pixels and scores `(P, 133)`."""
    if not poses:
        return np.empty((0, NUM_KEYPOINTS, 2), dtype=np.float32), np.empty((0, NUM_KEYPOINTS), dtype=np.float32)
    height, width = size

    def points(part: Sequence | None) -> list | None:
        if part is None:
            return None
        return [  # a missing hand or face point has a negative coordinate
            None if point is None or min(point.x, point.y) < 0 else (point.x * width + 0.5, point.y * height + 0.5)
            for point in part
        ]

    # The face network outputs 70 points and the background. If it outputs fewer, it does not say which.
    faces = [pose.face[:70] if pose.face and len(pose.face) == 71 else None for pose in poses]
    keypoints = WholeBodyKeypoints.from_openpose_points(
        [points(pose.body.keypoints) for pose in poses],
        [points(pose.left_hand) for pose in poses],
        [points(pose.right_hand) for pose in poses],
        [points(face) for face in faces],
        height=height,
        width=width,
        fps=1,
    )
    return keypoints.xy, keypoints.score
