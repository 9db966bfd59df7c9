# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-body keypoints from video: the people in every frame, and one of them followed through the clip.

`KeypointDetector` runs RTMPose through rtmlib and onnxruntime, `OpenPoseKeypointDetector` runs OpenPose through
controlnet-aux; both give `DetectedPeople`.

The detectors count from the centre of the first pixel. What comes out here is half a pixel more, in the convention of
`keypoints.py`.

Axes: F frames, P people in a frame, K = 133 keypoints, N crops in a batch, H, W.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download

from .. import checks
from .keypoints import FEET, NUM_KEYPOINTS, WholeBodyKeypoints
from .tracking import MIN_OVERLAP, follow_boxes, largest_track, overlaps


# Of boxes that the person detector keeps: rtmlib's threshold for models that suppress doubles themselves.
_MIN_PERSON_SCORE = 0.3

# The side to which controlnet-aux brings the shorter side of a picture before OpenPose sees it.
_OPENPOSE_RESOLUTION = 512
_OPENPOSE_FILES = {"body": "body_pose_model.pth", "hand": "hand_pose_model.pth", "face": "facenet.pth"}


@dataclass(frozen=True)
class OnnxModel:
    """
    A model that rtmlib downloads.

    Args:
        url (`str`):
            Address of the zip file that holds it.
        height (`int`):
            Height of its input in pixels.
        width (`int`):
            Width of its input in pixels.
        score_scale (`float`, *optional*, defaults to `1.0`):
            For pose models, the peak of the network's output that counts as score 1. RTMW was trained with another
            loss than RTMPose and DWPose: its peaks are 3 to 8 for visible points, theirs about 1.
    """

    url: str
    height: int
    width: int
    score_scale: float = 1.0


_PROJECTS = "https://download.openmmlab.com/mmpose/v1/projects"

PERSON_DETECTORS = {
    "yolox-m": OnnxModel(f"{_PROJECTS}/rtmposev1/onnx_sdk/yolox_m_8xb8-300e_humanart-c2c7a14a.zip", 640, 640),
    "yolox-tiny": OnnxModel(f"{_PROJECTS}/rtmposev1/onnx_sdk/yolox_tiny_8xb8-300e_humanart-6f3252f9.zip", 416, 416),
}
POSE_MODELS = {
    "rtmw-l-384x288": OnnxModel(
        f"{_PROJECTS}/rtmw/onnx_sdk/rtmw-dw-x-l_simcc-cocktail14_270e-384x288_20231122.zip", 384, 288, score_scale=6.0
    ),
    "rtmw-m-256x192": OnnxModel(
        f"{_PROJECTS}/rtmw/onnx_sdk/rtmw-dw-l-m_simcc-cocktail14_270e-256x192_20231122.zip", 256, 192, score_scale=6.0
    ),
    "dwpose-l-384x288": OnnxModel(
        f"{_PROJECTS}/rtmposev1/onnx_sdk/rtmpose-l_simcc-ucoco_dw-ucoco_270e-384x288-2438fd99_20230728.zip", 384, 288
    ),
    "dwpose-m-256x192": OnnxModel(
        f"{_PROJECTS}/rtmposev1/onnx_sdk/rtmpose-m_simcc-ucoco_dw-ucoco_270e-256x192-c8b76419_20230728.zip", 256, 192
    ),
}


@dataclass(eq=False)
class DetectedPeople:
    """
    Everyone found in the frames of a clip. Each list has one array per frame, with that frame's people in the same
    order.

    Args:
        xy (`list[np.ndarray]`):
            Keypoints `(P, 133, 2)` in pixels, float32, NaN where a point is missing.
        score (`list[np.ndarray]`):
            Confidence `(P, 133)` in [0, 1], float32, 0 where a point is missing.
        boxes (`list[np.ndarray]`):
            Boxes `(P, 4)` as x0, y0, x1, y1 in pixels, float32. They may reach over the border of the picture.
        height (`int`):
            Height of the picture in pixels.
        width (`int`):
            Width of the picture in pixels.
        fps (`float`):
            Frames per second.
    """

    xy: list[np.ndarray]
    score: list[np.ndarray]
    boxes: list[np.ndarray]
    height: int
    width: int
    fps: float

    @property
    def counts(self) -> np.ndarray:
        """Number of people in every frame, `(F,)`."""
        return np.array([len(people) for people in self.boxes])

    def follow(self, person: Sequence[float] | None = None) -> WholeBodyKeypoints:
        """
        One person through the clip. Everyone is followed from frame to frame, so that a neighbour's box stays the
        neighbour's also where this person is missed: by the overlap of boxes with the places where people are
        expected, if they move on as they did, and then by distance, of at most 6 sides of a box per second. A person
        who is missed continues with a box that overlaps his last one and that is nobody else's. A person who is alone
        may move as fast as he likes, and be missed for up to a second.

        Two people whose boxes merge and part again may be exchanged, and a person who comes back elsewhere, later or
        beside others, is a new one.

        Args:
            person (`Sequence[float]`, *optional*):
                x0, y0, x1, y1 in pixels: follow the person whose box overlaps this one most, in the first frame where
                one overlaps it by an intersection over union of at least 0.2. The default follows the person with the
                largest box in the first frame with someone.

        Returns:
            [`WholeBodyKeypoints`]: F frames, of missing points where the person is not found; all of them where nobody
            is found at all.

        Raises:
            `ValueError`: `person` is no box, or nobody is found there.
        """
        tracks = follow_boxes(self.boxes, self.fps)
        track = largest_track(self.boxes, tracks) if person is None else _track_at(person, self.boxes, tracks)
        xy = np.full((len(self.xy), NUM_KEYPOINTS, 2), np.nan, dtype=np.float32)
        score = np.zeros(xy.shape[:2], dtype=np.float32)
        for frame, names in enumerate(tracks):
            for index in np.flatnonzero(names == track):
                xy[frame], score[frame] = self.xy[frame][index], self.score[frame][index]
        return WholeBodyKeypoints(xy, score, self.height, self.width, self.fps)


class _Detector(ABC):
    @abstractmethod
    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        """
        Find everyone in every frame.

        Args:
            frames (`np.ndarray` of shape `(F, H, W, 3)`, or an iterable of `np.ndarray` of shape `(H, W, 3)`):
                uint8 RGB frames. Of an iterable, no more than a batch is in memory at a time.
            fps (`float`):
                Frames per second.

        Returns:
            [`DetectedPeople`]: the people of each frame; an empty frame has none.
        """

    def __call__(
        self, frames: np.ndarray | Iterable[np.ndarray], fps: float, person: Sequence[float] | None = None
    ) -> WholeBodyKeypoints:
        """
        Find everyone and follow one: `detect(frames, fps).follow(person)`.

        Args:
            frames, fps:
                As for `detect`.
            person (`Sequence[float]`, *optional*):
                A box around the person, see [`DetectedPeople.follow`].
        """
        return self.detect(frames, fps).follow(person)


class KeypointDetector(_Detector):
    """
    Whole-body keypoints by RTMPose: YOLOX finds the people, a pose model their 133 points, and a second pose model
    replaces the six points of the feet (paper, A.4). Needs the `pose` extra.

    A model is a name, which rtmlib downloads once into torch's hub folder, or the path of an ONNX file. A file is
    expected to take pictures as mmdeploy exports them: BGR for YOLOX, normalised RGB for the pose models. A local file
    that has the name of a downloaded one is known by it; of others, the size of the input is read from the file.

    Args:
        detector_model (`str` or `os.PathLike`, *optional*, defaults to `"yolox-m"`):
            A name in `PERSON_DETECTORS`, or an ONNX file of YOLOX, with its non-maximum suppression or without. Class
            0 is a person.
        pose_model (`str` or `os.PathLike`, *optional*, defaults to `"rtmw-l-384x288"`):
            A name in `POSE_MODELS`, or an ONNX file that gives the SimCC of 133 keypoints (RTMPose, RTMW, DWPose).
        feet_model (`str`, `os.PathLike` or `None`, *optional*, defaults to `"dwpose-l-384x288"`):
            As `pose_model`. `None` keeps the feet of `pose_model`.
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"`, `"cuda"` or `"cuda:1"` and so on.
        batch_size (`int`, *optional*, defaults to `8`):
            Frames, and crops of people, that a model takes at once, where its file leaves that open.
        score_scale (`float`, *optional*):
            Scores of `pose_model` are divided by this and clipped to [0, 1]. The default is the model's in
            `POSE_MODELS`, and 1 for other files.
        sha256 (`Mapping[str, str]`, *optional*):
            The SHA-256 that the files of `"detector"`, `"pose"` and `"feet"`, or some of them, must have.

    Attributes:
        providers (`dict[str, str]`):
            onnxruntime's execution provider that each of `"detector"`, `"pose"` and `"feet"` really runs on.
        sha256 (`dict[str, str]`):
            The SHA-256 of each model's file.

    Raises:
        `ImportError`: the `pose` extra is not installed.
        `TypeError`: a model is neither a name nor a path.
        `FileNotFoundError`: a model is neither a known name nor a file.
        `ConnectionError`: a model cannot be downloaded.
        `ValueError`: a file is no such model or has another SHA-256, or `device` is not available.
    """

    def __init__(
        self,
        detector_model: str | os.PathLike = "yolox-m",
        pose_model: str | os.PathLike = "rtmw-l-384x288",
        feet_model: str | os.PathLike | None = "dwpose-l-384x288",
        device: str = "cpu",
        batch_size: int = 8,
        score_scale: float | None = None,
        sha256: Mapping[str, str] | None = None,
    ):
        checks.integer("batch_size", batch_size)
        if score_scale is not None:
            checks.number("score_scale", score_scale, above=0)
        models = {"detector": detector_model, "pose": pose_model}
        if feet_model is not None:
            models["feet"] = feet_model
        expected = _checked_digests(sha256, models)
        _check_device(device)
        found = {
            role: _find_model(role, model, PERSON_DETECTORS if role == "detector" else POSE_MODELS)
            for role, model in models.items()
        }
        self.sha256 = {role: _file_digest(role, path, expected) for role, (path, _) in found.items()}
        self._networks = {}
        for role, (path, known) in found.items():
            try:
                self._networks[role] = _OnnxNetwork(role, path, known, device)
            except _DamagedModelError:
                if known is None or path.parent != _download_folder(str(models[role])):
                    raise
                path.unlink()
                path = _download(role, str(models[role]), known)
                self.sha256[role] = _file_digest(role, path, expected)
                self._networks[role] = _OnnxNetwork(role, path, known, device)
        self.providers = {role: network.provider for role, network in self._networks.items()}
        self._batch_size = batch_size
        self._score_scale = {role: known.score_scale if known else 1.0 for role, (_, known) in found.items()}
        if score_scale is not None:
            self._score_scale["pose"] = score_scale

    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        xy, score, boxes = [], [], []
        for batch in _batches(frames, fps, self._batch_size):
            height, width = batch[0].shape[:2]
            batch_boxes = self._find_people(batch)
            batch_xy, batch_score = self._find_keypoints("pose", batch, batch_boxes)
            if "feet" in self._networks:
                feet_xy, feet_score = self._find_keypoints("feet", batch, batch_boxes)
                batch_xy[:, FEET], batch_score[:, FEET] = feet_xy[:, FEET], feet_score[:, FEET]
            ends = np.cumsum([len(people) for people in batch_boxes])[:-1]
            boxes += batch_boxes
            xy += np.split(batch_xy, ends)
            score += np.split(batch_score, ends)
        return DetectedPeople(xy, score, boxes, height, width, fps)

    def _find_people(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Boxes `(P, 4)` of each frame."""
        network = self._networks["detector"]
        pictures, ratios = zip(*(network.tool.preprocess(frame[..., ::-1]) for frame in frames), strict=True)
        boxes = []
        for (found, *labels), ratio in zip(network.run(pictures), ratios, strict=True):
            if found.shape[-1] == 5:  # boxes and their scores, doubles suppressed
                found = found[:, labels[0][0] == 0] if labels else found
                people = network.tool.postprocess(found, ratio)
            else:
                people, classes = network.tool.postprocess(found, ratio)
                people = people[classes == 0]
            people = np.asarray(people, dtype=np.float32).reshape(-1, 4)
            boxes.append(people[(people[:, 2:] > people[:, :2]).all(axis=1)])
        return boxes

    def _find_keypoints(
        self, role: str, frames: Sequence[np.ndarray], boxes: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points `(N, 133, 2)` and scores `(N, 133)` of the people of all frames, one after the other."""
        network = self._networks[role]
        people = [(frame, box) for frame, frame_boxes in zip(frames, boxes, strict=True) for box in frame_boxes]
        xy = np.full((len(people), NUM_KEYPOINTS, 2), np.nan, dtype=np.float32)
        score = np.zeros((len(people), NUM_KEYPOINTS), dtype=np.float32)
        for start in range(0, len(people), self._batch_size):
            batch = slice(start, start + self._batch_size)
            crops, centers, scales = zip(*(network.tool.preprocess(*person) for person in people[batch]), strict=True)
            simcc = [np.concatenate(outputs) for outputs in zip(*network.run(crops), strict=True)]
            points, peaks = network.tool.postprocess(simcc, np.stack(centers)[:, None], np.stack(scales)[:, None])
            xy[batch], score[batch] = points + 0.5, peaks / self._score_scale[role]
        if score.max(initial=0) > 2:
            warnings.warn(
                f"The scores of the {role} model reach {score.max():.1f} and are clipped to 1, which makes them say "
                "little; choose a `score_scale`.",
                stacklevel=3,
            )
        missing = score <= 0
        xy[missing] = np.nan
        return xy, score.clip(0, 1)


class OpenPoseKeypointDetector(_Detector):
    """
    Whole-body keypoints by OpenPose, through controlnet-aux: the points that most OpenPose ControlNets were trained
    on. It finds no feet, gives no scores (1 where a point is found), and runs frame by frame. Its authors license it
    for non-commercial use. Needs the `pose` extra.

    Args:
        model (`str` or `os.PathLike`, *optional*, defaults to `"lllyasviel/Annotators"`):
            Id on the Hub, or local folder, with the files `body_pose_model.pth`, `hand_pose_model.pth` and
            `facenet.pth`. They are read without running code from them.
        device (`str`, *optional*, defaults to `"cpu"`):
            A device of torch.
        sha256 (`Mapping[str, str]`, *optional*):
            The SHA-256 that the files of `"body"`, `"hand"` and `"face"`, or some of them, must have.

    Attributes:
        providers (`dict[str, str]`):
            The device that each of `"body"`, `"hand"` and `"face"` really runs on.
        sha256 (`dict[str, str]`):
            The SHA-256 of each file.

    Raises:
        `ImportError`: the `pose` extra is not installed.
        `FileNotFoundError`: a file is not in the folder.
        `ValueError`: a file is no such model or has another SHA-256, or `device` is not available.
    """

    def __init__(
        self,
        model: str | os.PathLike = "lllyasviel/Annotators",
        device: str = "cpu",
        sha256: Mapping[str, str] | None = None,
    ):
        expected = _checked_digests(sha256, _OPENPOSE_FILES)
        try:
            torch.zeros(1, device=device)
        except Exception as error:  # each backend has its own way to say that it is not there
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"`device` cannot be used here: {device!r} ({reason}).") from error
        paths = {role: _find_openpose_file(model, name) for role, name in _OPENPOSE_FILES.items()}
        self.sha256 = {role: _file_digest(role, path, expected) for role, path in paths.items()}
        openpose = _import_openpose()
        estimators = {"body": openpose.Body, "hand": openpose.Hand, "face": openpose.Face}
        loaded = {}
        for role, estimator in estimators.items():
            try:
                loaded[role] = estimator(str(paths[role]))
            except Exception as error:  # unpickling and load_state_dict have many ways to fail
                raise ValueError(f"`model` holds a file that is no {role} model: {paths[role]} ({error}).") from error
        self._openpose = openpose.OpenposeDetector(*loaded.values()).to(device)
        self.providers = {role: str(next(net.model.parameters()).device) for role, net in loaded.items()}

    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        from controlnet_aux.util import resize_image

        xy, score, boxes = [], [], []
        for (frame,) in _batches(frames, fps, 1):
            height, width = frame.shape[:2]
            picture = resize_image(frame, _OPENPOSE_RESOLUTION)
            poses = self._openpose.detect_poses(picture, include_hand=True, include_face=True)
            frame_xy, frame_score = _openpose_points(poses, picture.shape[:2])
            frame_xy *= np.array([width / picture.shape[1], height / picture.shape[0]], dtype=np.float32)
            xy.append(frame_xy)
            score.append(frame_score)
            boxes.append(np.concatenate([np.nanmin(frame_xy, axis=1), np.nanmax(frame_xy, axis=1)], axis=1))
        return DetectedPeople(xy, score, boxes, height, width, fps)


class _DamagedModelError(ValueError):
    """A file is no whole ONNX model."""


class _OnnxNetwork:
    """One of rtmlib's networks, run on as many pictures at once as its file takes."""

    def __init__(self, role: str, path: Path, known: OnnxModel | None, device: str):
        _, rtmlib = _import_rtmlib()
        tool_class = rtmlib.YOLOX if role == "detector" else rtmlib.RTMPose
        try:
            with contextlib.redirect_stdout(None):  # rtmlib prints the path of every file it loads
                self.tool = tool_class(str(path), backend="onnxruntime", device=device)
        except Exception as error:  # onnxruntime's exceptions share no base class
            kind = _DamagedModelError if type(error).__name__ == "InvalidProtobuf" else ValueError
            raise kind(f"`{role}_model` cannot be loaded by onnxruntime: {path} ({error}).") from error
        self.provider = _checked_provider(self.tool.session, device)
        self._input = self.tool.session.get_inputs()[0]
        height, width = (known.height, known.width) if known else _fixed_size(role, path, self._input.shape)
        try:
            (outputs,) = self.run([np.zeros((height, width, 3))])
        except Exception as error:
            raise ValueError(f"`{role}_model` does not run on {width}x{height} pixels: {path} ({error}).") from error
        shapes = [output.shape for output in outputs]
        if role == "detector":
            cells = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
            boxes = shapes[0]
            if len(boxes) != 3 or not (boxes[-1] == 5 or boxes[-1] > 5 and boxes[1] == cells):
                raise ValueError(f"`detector_model` must give what YOLOX gives, got {shapes}: {path}.")
            self.tool.model_input_size = (height, width)
            self.tool.score_thr = _MIN_PERSON_SCORE
            self.tool.det_mode = "human" if boxes[-1] == 5 else "multiclass"
        else:
            if shapes != [(1, NUM_KEYPOINTS, 2 * width), (1, NUM_KEYPOINTS, 2 * height)]:
                raise ValueError(f"`{role}_model` must give the SimCC of 133 keypoints, got {shapes}: {path}.")
            self.tool.model_input_size = (width, height)

    def run(self, pictures: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """For each picture `(H, W, 3)` the network's outputs, each with a batch axis of one."""
        batch = np.stack(pictures).astype(np.float32).transpose(0, 3, 1, 2)
        size = 1 if isinstance(self._input.shape[0], int) else len(batch)
        results = []
        for start in range(0, len(batch), size):
            outputs = self.tool.session.run(
                None, {self._input.name: np.ascontiguousarray(batch[start : start + size])}
            )
            results += [[output[index : index + 1] for output in outputs] for index in range(size)]
        return results


def _import_rtmlib() -> tuple[Any, Any]:
    try:
        import onnxruntime
        import rtmlib
    except ImportError as error:
        raise ImportError("`KeypointDetector` needs the `pose` extra: pip install 'hia-diffusers[pose]'.") from error
    return onnxruntime, rtmlib


def _import_openpose() -> Any:
    try:
        with warnings.catch_warnings():  # about the detectors beside this one
            warnings.simplefilter("ignore")
            from controlnet_aux import open_pose
    except ImportError as error:
        raise ImportError(
            "`OpenPoseKeypointDetector` needs the `pose` extra: pip install 'hia-diffusers[pose]'."
        ) from error
    return open_pose


def _check_device(device: str) -> None:
    onnxruntime, _ = _import_rtmlib()
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"`device` must be 'cpu', 'cuda' or 'cuda:N', got {device!r}.")
    available = onnxruntime.get_available_providers()
    if device != "cpu" and "CUDAExecutionProvider" not in available:
        raise ValueError(
            f"`device` is {device!r} but this onnxruntime has only {', '.join(available)}: remove onnxruntime and "
            "install the `gpu` extra: pip install 'hia-diffusers[gpu]'."
        )


def _checked_provider(session: Any, device: str) -> str:
    """onnxruntime falls back to the CPU where CUDA does not start."""
    provider = session.get_providers()[0]
    if provider != ("CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"):
        raise ValueError(f"`device` is {device!r} but onnxruntime could only start {provider}.")
    return provider


def _find_model(role: str, model: str | os.PathLike, table: Mapping[str, OnnxModel]) -> tuple[Path, OnnxModel | None]:
    """The model's file, and what is known about it."""
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"`{role}_model` must be a name or a path, got {model!r}.")
    if isinstance(model, str) and model in table:
        return _download(role, model, table[model]), table[model]
    path = Path(model)
    if not path.is_file():
        names = ", ".join(table)
        raise FileNotFoundError(f"`{role}_model` must be one of {names}, or an ONNX file, got {str(model)!r}.")
    return path, next((known for known in table.values() if Path(known.url).stem == path.stem), None)


def _download(role: str, name: str, model: OnnxModel) -> Path:
    """rtmlib unpacks next to what it downloads: one folder per model, and one process at a time."""
    from filelock import FileLock
    from rtmlib.tools.file import download_checkpoint

    folder = _download_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / model.url.rsplit("/", 1)[1]
    with FileLock(folder / ".lock"):
        for is_last_try in (False, True):
            try:
                return Path(download_checkpoint(model.url, dst_dir=str(folder)))
            except Exception as error:  # of the network, the mirror or the zip file
                is_damaged = archive.exists()  # what could be unpacked is gone by now
                archive.unlink(missing_ok=True)
                shutil.rmtree(folder / "tmp", ignore_errors=True)
                if is_last_try or not is_damaged:
                    what = f"{archive} was cut off or damaged, and is deleted" if is_damaged else str(error)
                    raise ConnectionError(
                        f"`{role}_model` {name!r} cannot be downloaded from {model.url} to {folder} ({what}); "
                        "try again, or give the path of an ONNX file instead."
                    ) from error
    raise AssertionError("one of the tries returns or raises")


def _download_folder(name: str) -> Path:
    return Path(torch.hub.get_dir(), "hia_diffusers", name)


def _find_openpose_file(model: str | os.PathLike, name: str) -> Path:
    if Path(model).is_dir():
        path = Path(model, name)
        if not path.is_file():
            raise FileNotFoundError(f"`model` is a folder without {name}: {str(model)!r}.")
        return path
    try:
        return Path(hf_hub_download(str(model), name))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"`model` is no folder, and {name} is not on the Hub in {str(model)!r}.") from error


def _checked_digests(sha256: Mapping[str, str] | None, roles: Iterable[str]) -> dict[str, str]:
    expected = dict(sha256 or {})
    for role, digest in expected.items():
        if role not in roles:
            raise ValueError(f"`sha256` must name models among {', '.join(roles)}, got {role!r}.")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(f"`sha256` must hold 64 hexadecimal digits for {role!r}, got {digest!r}.")
    return expected


def _file_digest(role: str, path: Path, expected: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    if expected.get(role, found).lower() != found:
        raise ValueError(f"`sha256` of the {role} model must be {expected[role]}, got {found}: {path}.")
    return found


def _fixed_size(role: str, path: Path, shape: Sequence) -> tuple[int, int]:
    if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]):
        raise ValueError(f"`{role}_model` must take pictures of one size, got an input of shape {shape}: {path}.")
    return shape[2], shape[3]


def _batches(frames: Any, fps: Any, size: int) -> Iterator[Any]:
    """Checked frames `(H, W, 3)`, so many at a time: parts of an array, or lists."""
    if isinstance(frames, np.ndarray) or not isinstance(frames, Iterable):
        _check_frames(frames, fps)
        yield from (frames[start : start + size] for start in range(0, len(frames), size))
        return
    each, height_width = iter(frames), set()
    while batch := list(itertools.islice(each, size)):
        height_width |= {np.shape(frame)[:2] for frame in batch}
        if len(height_width) > 1:
            raise ValueError(f"`frames` must be of one size, got (H, W) of {sorted(height_width)}.")
        for frame in batch:
            _check_frames(np.asarray(frame)[None], fps)
        yield batch
    if not height_width:
        raise ValueError("`frames` must hold at least one frame, got none.")


def _check_frames(frames: Any, fps: Any) -> None:
    shape = getattr(frames, "shape", None)
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        dtype = getattr(frames, "dtype", type(frames).__name__)
        raise ValueError(f"`frames` must be uint8 RGB of shape (F, H, W, 3), got {dtype} of shape {shape}.")
    if 0 in frames.shape:
        raise ValueError(f"`frames` must hold at least one frame and pixel, got shape {shape}.")
    checks.number("fps", fps, above=0)


def _openpose_points(poses: Sequence, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """controlnet-aux's people as points `(P, 133, 2)` in pixels and scores `(P, 133)`."""
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

    # The face network gives 70 points and the background. Where it gives fewer, it does not say which.
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


def _track_at(person: Sequence[float], boxes: Sequence[np.ndarray], tracks: Sequence[np.ndarray]) -> int:
    wanted = checks.box("person", person)
    for people, names in zip(boxes, tracks, strict=True):
        overlap = overlaps(wanted[None], people)[0]
        if overlap.max(initial=0) >= MIN_OVERLAP:
            return names[overlap.argmax()]
    raise ValueError(f"`person` must be a box around someone, nobody is found at {wanted.tolist()}.")
