# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-body keypoints with MediaPipe.

Axes: P people in a frame, K = 133 keypoints, H, W.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import checks
from ..conditioning.whole_body import (
    BODY,
    FACE,
    LEFT_EYE,
    LEFT_HAND,
    NOSE,
    NUM_KEYPOINTS,
    RIGHT_EYE,
    RIGHT_HAND,
    SCORE_THRESHOLD,
)
from .mediapipe_models import read_bundles
from .people import DetectedPeople, Detector, frame_batches


# For each of COCO's body points, its index among the 33 of MediaPipe's pose.
BODY_IN_POSE = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
# COCO-WholeBody's big toes and heels. MediaPipe's pose has no small toes.
FEET_IN_POSE = {17: 31, 19: 29, 20: 32, 22: 30}
# For each of the 68 face points, the two points of MediaPipe's face mesh whose middle it is, as published at
# https://github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks.
FACE_IN_MESH = [
    *((127, 127), (234, 234), (93, 93), (132, 58), (58, 172), (136, 136), (150, 150), (176, 176)),  # jaw
    *((152, 152), (400, 400), (379, 379), (365, 365), (397, 288), (361, 361), (323, 323), (454, 454), (356, 356)),
    *((70, 70), (63, 63), (105, 105), (66, 66), (107, 107)),  # right brow
    *((336, 336), (296, 296), (334, 334), (293, 293), (300, 300)),  # left brow
    *((168, 6), (197, 195), (5, 5), (4, 4), (75, 75), (97, 97), (2, 2), (326, 326), (305, 305)),  # nose
    *((33, 33), (160, 160), (158, 158), (133, 133), (153, 153), (144, 144)),  # right eye
    *((362, 362), (385, 385), (387, 387), (263, 263), (373, 373), (380, 380)),  # left eye
    *((61, 61), (39, 39), (37, 37), (0, 0), (267, 267), (269, 269), (291, 291)),  # outer lips
    *((321, 321), (314, 314), (17, 17), (84, 84), (91, 91)),
    *((78, 78), (82, 82), (13, 13), (312, 312), (308, 308), (317, 317), (14, 14), (87, 87)),  # inner lips
]

# Margin around a person, as a fraction of the longer side of their points in the frame, since fingers and hair have no
# points.
_MARGIN = 0.25

# Maximum median distance of a person's visible points in the image from those in their crop, as a fraction of the
# longer side. If the crop also shows somebody else, that person may be detected instead.
_SAME_PERSON = 0.1


class MediaPipeKeypointDetector(Detector):
    """Detect whole-body keypoints with MediaPipe.

    The pose model finds the people, and the holistic model finds face and hands in a crop around each. Nose and eyes
    are those of the face, if it is found; small toes are never found. The scores of body and feet are MediaPipe's
    visibility; those of a detected face or hand are 1. Runs frame by frame, on the CPU. Needs the `mediapipe` extra.

    Args:
        pose_model (`str` or `os.PathLike`, *optional*):
            A folder with `pose_landmarker_full.task` and `holistic_landmarker.task`, or a wheel of MediaPipe that
            contains the models, such as 0.10.21. By default, the two files are downloaded once into torch's hub
            folder.
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"`.
        max_people (`int`, *optional*, defaults to `4`):
            Maximum number of people in a frame.
        min_confidence (`float`, *optional*, defaults to `0.5`):
            People, faces and hands of a lower confidence, in [0, 1], are not detected.

    Attributes:
        providers (`dict[str, str]`):
            The device of `"pose"` and `"holistic"`.

    Raises:
        ImportError: If the `mediapipe` extra is not installed.
        TypeError: If `pose_model` is not a path.
        FileNotFoundError: If `pose_model` does not exist, or is a folder without the files.
        ConnectionError: If a model cannot be downloaded.
        ValueError: If `pose_model` does not contain models of this kind, or another argument is invalid.
    """

    name = "MediaPipe"

    def __init__(
        self,
        pose_model: str | os.PathLike | None = None,
        device: str = "cpu",
        max_people: int = 4,
        min_confidence: float = 0.5,
    ):
        max_people = checks.integer("max_people", max_people)
        min_confidence = checks.number("min_confidence", min_confidence, low=0, high=1)
        if device != "cpu":
            raise ValueError(f"`device` must be 'cpu', where MediaPipe runs, got {device!r}.")
        try:
            from mediapipe.tasks.python import BaseOptions
            from mediapipe.tasks.python.vision import (
                HolisticLandmarker,
                HolisticLandmarkerOptions,
                PoseLandmarker,
                PoseLandmarkerOptions,
            )
        except ImportError as error:
            raise ImportError(
                "`MediaPipeKeypointDetector` needs the `mediapipe` extra: pip install 'hia-diffusers[mediapipe]'."
            ) from error

        bundles = read_bundles(pose_model)
        options = {name: {"base_options": BaseOptions(model_asset_buffer=bundle)} for name, bundle in bundles.items()}
        thresholds = ["min_pose_detection_confidence", "min_pose_presence_confidence"]
        options["pose"] |= {"num_poses": max_people, **dict.fromkeys(thresholds, min_confidence)}
        thresholds += ["min_face_detection_confidence", "min_face_presence_confidence"]
        thresholds += ["min_hand_landmarks_confidence"]
        options["holistic"] |= dict.fromkeys(thresholds, min_confidence)
        self._options = {
            PoseLandmarker: PoseLandmarkerOptions(**options["pose"]),
            HolisticLandmarker: HolisticLandmarkerOptions(**options["holistic"]),
        }
        self.providers = dict.fromkeys(bundles, "CPU")
        try:
            with self._landmarkers():
                pass
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"`pose_model` cannot be loaded by MediaPipe: {pose_model} ({error}).") from error

    @contextlib.contextmanager
    def _landmarkers(self) -> Iterator[tuple[Any, Any]]:
        """Load the two models. They must be closed before the interpreter exits."""
        with contextlib.ExitStack() as stack:
            with _without_stderr():
                pose, holistic = (
                    stack.enter_context(landmarker.create_from_options(options))
                    for landmarker, options in self._options.items()
                )
                pose.detect(_nobody())  # warns once
            try:
                yield pose, holistic
            finally:
                with _without_stderr():
                    stack.close()

    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        """Detect everyone in every frame, as described at [`Detector.detect`]."""
        xy, score, boxes = [], [], []
        with self._landmarkers() as (pose, holistic):
            for (frame,) in frame_batches(frames, fps, 1):
                height, width = frame.shape[:2]
                people = pose.detect(_image(frame)).pose_landmarks
                frame_xy = np.full((len(people), NUM_KEYPOINTS, 2), np.nan, dtype=np.float32)
                frame_score = np.zeros((len(people), NUM_KEYPOINTS), dtype=np.float32)
                frame_boxes = np.empty((len(people), 4), dtype=np.float32)
                for index, landmarks in enumerate(people):
                    points = _points(landmarks, width, height)
                    visibility = np.array([point.visibility for point in landmarks])
                    parts = _find_face_and_hands(frame, points, visibility > SCORE_THRESHOLD, holistic)
                    frame_xy[index], frame_score[index] = _whole_body(points, visibility, parts)
                    frame_boxes[index] = *points.min(axis=0), *points.max(axis=0)
                frame_xy[frame_score <= 0] = np.nan
                xy.append(frame_xy)
                score.append(frame_score)
                boxes.append(frame_boxes.clip(0, (width, height, width, height)))
        return DetectedPeople(xy, score, boxes, height, width, fps)


def _whole_body(
    points: np.ndarray, visibility: np.ndarray, parts: list[tuple[slice, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 133 points and scores of a person with 33 points of the pose, and the detected face and hands."""
    xy = np.full((NUM_KEYPOINTS, 2), np.nan, dtype=np.float32)
    score = np.zeros(NUM_KEYPOINTS, dtype=np.float32)
    xy[BODY], score[BODY] = points[BODY_IN_POSE], visibility[BODY_IN_POSE]
    for foot, index in FEET_IN_POSE.items():
        xy[foot], score[foot] = points[index], visibility[index]
    for part, part_xy in parts:
        xy[part], score[part] = part_xy, 1
    if score[FACE].any():  # nearer than those of the pose
        face = xy[FACE]
        xy[[NOSE, LEFT_EYE, RIGHT_EYE]] = face[30], face[42:48].mean(axis=0), face[36:42].mean(axis=0)
    return xy, score


def _find_face_and_hands(
    frame: np.ndarray, points: np.ndarray, is_visible: np.ndarray, holistic: Any
) -> list[tuple[slice, np.ndarray]]:
    """Return the detected parts of the person with the 33 `points`, each with its slice of the 133 points."""
    in_frame = points.clip(0, (frame.shape[1], frame.shape[0]))
    low, high = in_frame.min(axis=0), in_frame.max(axis=0)
    side = (high - low).max()
    crop, origin = _square_crop(frame, (low + high) / 2, (1 + 2 * _MARGIN) * side)
    holistic.detect(_nobody())  # otherwise, it would search where it last detected somebody, even in other images
    found = holistic.detect(_image(crop))
    parts = {
        part: _points(landmarks, len(crop), len(crop)) + origin
        for part, landmarks in vars(found).items()
        if part in ("pose_landmarks", "face_landmarks", "left_hand_landmarks", "right_hand_landmarks") and landmarks
    }
    pose = parts.get("pose_landmarks")
    if pose is None or not np.median(np.linalg.norm(pose - points, axis=1)[is_visible]) <= _SAME_PERSON * side:
        return []
    if "face_landmarks" in parts:
        parts["face_landmarks"] = parts["face_landmarks"][FACE_IN_MESH].mean(axis=1)
    places = {"face_landmarks": FACE, "left_hand_landmarks": LEFT_HAND, "right_hand_landmarks": RIGHT_HAND}
    return [(place, parts[part]) for part, place in places.items() if part in parts]


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Hide the messages that MediaPipe's native library writes for every model. Errors are still raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _image(frame: np.ndarray) -> Any:
    import mediapipe

    return mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(frame))


def _nobody() -> Any:
    return _image(np.zeros((64, 64, 3), dtype=np.uint8))


def _points(landmarks: Sequence, width: int, height: int) -> np.ndarray:
    return np.array([(point.x * width, point.y * height) for point in landmarks], dtype=np.float32)


def _square_crop(frame: np.ndarray, center: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the square around a point, black outside the frame, and the position of its first pixel."""
    size = max(1, round(float(side)))
    x0, y0 = np.round(center - size / 2).astype(int)
    inside = frame[max(y0, 0) : max(y0 + size, 0), max(x0, 0) : max(x0 + size, 0)]
    crop = np.zeros((size, size, 3), dtype=np.uint8)
    top, left = max(-y0, 0), max(-x0, 0)
    crop[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return crop, np.array([x0, y0], dtype=np.float32)
