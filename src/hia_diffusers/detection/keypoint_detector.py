# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whole-body keypoints with RTMPose, using rtmlib and onnxruntime.

rtmlib counts from the centre of the first pixel. The results here are shifted by half a pixel, to follow the
convention of `conditioning/keypoints.py`.

Axes: P people in a frame, K = 133 keypoints, N crops in a batch, H, W.
"""

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..conditioning.whole_body import FEET, NUM_KEYPOINTS
from .model_files import (
    PERSON_DETECTORS,
    POSE_MODELS,
    DamagedModelError,
    OnnxModel,
    checked_digests,
    download_folder,
    download_model,
    file_digest,
    find_model,
)
from .people import DetectedPeople, Detector, frame_batches


# Minimum score of person boxes: rtmlib's threshold for models that include non-maximum suppression.
_MIN_PERSON_SCORE = 0.3


class KeypointDetector(Detector):
    """Detect whole-body keypoints with RTMPose.

    YOLOX detects the people, a pose model their 133 points, and a second pose model replaces the six points of the
    feet (paper, A.4). Needs the `pose` extra.

    A model is a name, which rtmlib downloads once into torch's hub folder, or the path of an ONNX file. A file must
    expect the inputs of mmdeploy's exports: BGR for YOLOX, normalized RGB for the pose models. A local file with the
    name of a downloaded one is treated as that model; for other files, the input size is read from the file.

    Args:
        detector_model (`str` or `os.PathLike`, *optional*, defaults to `"yolox-m"`):
            A name in `PERSON_DETECTORS`, or an ONNX file of YOLOX with or without non-maximum suppression. Class 0 is
            a person.
        pose_model (`str` or `os.PathLike`, *optional*, defaults to `"rtmw-l-384x288"`):
            A name in `POSE_MODELS`, or an ONNX file that outputs SimCC for 133 keypoints (RTMPose, RTMW, DWPose).
        feet_model (`str`, `os.PathLike` or `None`, *optional*, defaults to `"dwpose-l-384x288"`):
            As `pose_model`. `None` keeps the feet of `pose_model`.
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"`, `"cuda"` or `"cuda:1"` and so on.
        batch_size (`int`, *optional*, defaults to `8`):
            Number of frames, or crops of people, per model call, if the file has a dynamic batch axis.
        score_scale (`float`, *optional*):
            Scores of `pose_model` are divided by this and clipped to [0, 1]. The default is the model's in
            `POSE_MODELS`, and 1 for other files.
        sha256 (`Mapping[str, str]`, *optional*):
            Expected SHA-256 of the files of `"detector"`, `"pose"` and `"feet"`, or of some of them.

    Attributes:
        providers (`dict[str, str]`):
            The actual execution provider of onnxruntime for `"detector"`, `"pose"` and `"feet"`.
        sha256 (`dict[str, str]`):
            The SHA-256 of each model's file.

    Raises:
        ImportError: If the `pose` extra is not installed.
        TypeError: If a model is neither a name nor a path.
        FileNotFoundError: If a model is neither a known name nor a file.
        ConnectionError: If a model cannot be downloaded.
        ValueError: If a file is not a model of this kind or has another SHA-256, or `device` is not available.
    """

    name = "RTMPose"

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
        expected = checked_digests(sha256, models)
        _check_device(device)
        found = {
            role: find_model(role, model, PERSON_DETECTORS if role == "detector" else POSE_MODELS)
            for role, model in models.items()
        }
        self.sha256 = {role: file_digest(role, path, expected) for role, (path, _) in found.items()}
        self._networks = {}
        for role, (path, known) in found.items():
            try:
                self._networks[role] = _OnnxNetwork(role, path, known, device)
            except DamagedModelError:
                if known is None or path.parent != download_folder(str(models[role])):
                    raise
                path.unlink()
                path = download_model(role, str(models[role]), known)
                self.sha256[role] = file_digest(role, path, expected)
                self._networks[role] = _OnnxNetwork(role, path, known, device)
        self.providers = {role: network.provider for role, network in self._networks.items()}
        self._batch_size = batch_size
        self._score_scale = {role: known.score_scale if known else 1.0 for role, (_, known) in found.items()}
        if score_scale is not None:
            self._score_scale["pose"] = score_scale

    def detect(self, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> DetectedPeople:
        """Detect everyone in every frame, as described at [`Detector.detect`]."""
        xy, score, boxes = [], [], []
        for batch in frame_batches(frames, fps, self._batch_size):
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
        """Return the boxes `(P, 4)` of each frame."""
        network = self._networks["detector"]
        images, ratios = zip(*(network.tool.preprocess(frame[..., ::-1]) for frame in frames), strict=True)
        boxes = []
        for (found, *labels), ratio in zip(network.run(images), ratios, strict=True):
            if found.shape[-1] == 5:  # boxes and scores after non-maximum suppression
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
        """Return the concatenated points `(N, 133, 2)` and scores `(N, 133)` of the people of all frames."""
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
                f"The scores of the {role} model reach {score.max():.1f} and are clipped to 1, which makes them "
                "uninformative; set `score_scale`.",
                stacklevel=3,
            )
        missing = score <= 0
        xy[missing] = np.nan
        return xy, score.clip(0, 1)


class _OnnxNetwork:
    """One of rtmlib's networks, run on as many images at once as its file supports."""

    def __init__(self, role: str, path: Path, known: OnnxModel | None, device: str):
        _, rtmlib = _import_rtmlib()
        tool_class = rtmlib.YOLOX if role == "detector" else rtmlib.RTMPose
        try:
            with contextlib.redirect_stdout(None):  # rtmlib prints the path of every file it loads
                self.tool = tool_class(str(path), backend="onnxruntime", device=device)
        except Exception as error:  # onnxruntime's exceptions share no base class
            kind = DamagedModelError if type(error).__name__ == "InvalidProtobuf" else ValueError
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
                raise ValueError(f"`detector_model` must have the outputs of YOLOX, got {shapes}: {path}.")
            self.tool.model_input_size = (height, width)
            self.tool.score_thr = _MIN_PERSON_SCORE
            self.tool.det_mode = "human" if boxes[-1] == 5 else "multiclass"
        else:
            if shapes != [(1, NUM_KEYPOINTS, 2 * width), (1, NUM_KEYPOINTS, 2 * height)]:
                raise ValueError(f"`{role}_model` must output SimCC for 133 keypoints, got {shapes}: {path}.")
            self.tool.model_input_size = (width, height)

    def run(self, images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Return the network's outputs for each image `(H, W, 3)`, each with a batch axis of one."""
        batch = np.stack(images).astype(np.float32).transpose(0, 3, 1, 2)
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
    """Return the provider, which is the CPU if CUDA does not start."""
    provider = session.get_providers()[0]
    if provider != ("CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"):
        raise ValueError(f"`device` is {device!r} but onnxruntime could only start {provider}.")
    return provider


def _fixed_size(role: str, path: Path, shape: Sequence) -> tuple[int, int]:
    if len(shape) != 4 or not all(isinstance(side, int) for side in shape[2:]):
        raise ValueError(f"`{role}_model` must take images of one size, got an input of shape {shape}: {path}.")
    return shape[2], shape[3]
