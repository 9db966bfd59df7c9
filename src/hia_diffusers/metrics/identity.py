# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Face embeddings of ArcFace. Axes: N frames, H, W, E the size of an embedding.

Pixel convention: coordinates are continuous, and the pixel `(i, j)` has its centre at `(i + 0.5, j + 0.5)`.
"""

import os

import cv2
import numpy as np
import torch
from torch import Tensor

from ..files import sha256_of
from .weights import local_file


FACE_SIDE = 112

# Positions (x, y) of the eyes, the tip of the nose and the corners of the mouth in the faces that ArcFace was trained
# on, from left to right in the image. InsightFace defines them for pixel centres at integers.
FACE_TEMPLATE = 0.5 + np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

# The same points among the 68 of a face: the six around each eye, the tip of the nose, the corners of the mouth.
FACE_POINTS = (range(36, 42), range(42, 48), [30], [48], [54])


class ArcFace:
    """Embed the faces of frames with an ArcFace network in ONNX format.

    One such network is InsightFace's `w600k_r50.onnx`, whose licence allows only non-commercial research.

    Args:
        weights (`str` or `os.PathLike`):
            The `.onnx` file: a local path or `hf://owner/name/file`. It maps faces `(N, 3, 112, 112)`, RGB in [-1, 1],
            to embeddings `(N, E)`.

    Attributes:
        name (`str`): "ArcFace".
        sha256 (`str`): of the file.

    Raises:
        ImportError: If onnxruntime is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an ONNX network with that input and output.
    """

    name = "ArcFace"

    def __init__(self, weights: str | os.PathLike):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("ArcFace needs the `pose` extra: pip install 'hia-diffusers[pose]'") from error

        path = local_file(weights)
        self.sha256 = sha256_of(path)
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no public base class
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"`weights`: {str(path)!r} cannot be read as an ONNX network: {reason}") from error
        face, embedding = self._session.get_inputs()[0], self._session.get_outputs()[0]
        if face.shape[1:] != [3, FACE_SIDE, FACE_SIDE] or len(embedding.shape) != 2:
            raise ValueError(
                f"`weights`: {str(path)!r} must map (N, 3, 112, 112) to (N, E), got {face.shape} to {embedding.shape}."
            )
        self._input_name, self._num_features = face.name, embedding.shape[1]

    def __call__(self, frames: Tensor, landmarks: np.ndarray) -> Tensor:
        """Align each face by its eyes, nose and mouth, and embed it.

        Args:
            frames (`torch.Tensor` of shape `(N, 3, H, W)`):
                Floating point RGB in [0, 1].
            landmarks (`np.ndarray` of shape `(N, 68, 2)`):
                Face points in pixels, NaN if missing.

        Returns:
            `torch.Tensor`: float32 `(N, E)`, NaN if a required point is missing.

        Raises:
            ValueError: If a shape is wrong.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"`frames` must be of shape (N, 3, H, W), got {tuple(frames.shape)}.")
        if landmarks.shape != (len(frames), 68, 2):
            raise ValueError(f"`landmarks` must be of shape ({len(frames)}, 68, 2), got {landmarks.shape}.")
        embeddings = torch.full((len(frames), self._num_features), torch.nan)
        for index, (image, points) in enumerate(zip(frames, _five_points(landmarks), strict=True)):
            if np.isfinite(points).all():
                face = 2 * _aligned_face(image.permute(1, 2, 0).float().cpu().numpy(), points) - 1
                output = self._session.run(None, {self._input_name: face.transpose(2, 0, 1)[None]})[0]
                embeddings[index] = torch.from_numpy(output[0])
        return embeddings


def _five_points(landmarks: np.ndarray) -> np.ndarray:
    """Return the points `(N, 5, 2)` in the order of the template."""
    return np.stack([landmarks[:, points].mean(axis=1) for points in FACE_POINTS], axis=1)


def _aligned_face(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Rotate, scale and shift the face to `(112, 112, 3)`, so that the points are closest to the template."""
    # The transform (x, y) -> (a x - b y + c, b x + a y + d) is linear in its parameters.
    x, y = points.T
    one, zero = np.ones(5), np.zeros(5)
    equations = np.concatenate([np.stack([x, -y, one, zero], axis=1), np.stack([y, x, zero, one], axis=1)])
    a, b, c, d = np.linalg.lstsq(equations, FACE_TEMPLATE.T.ravel(), rcond=None)[0]
    # OpenCV counts from the centre of the first pixel.
    shift = np.array([[a, -b], [b, a]]) @ [0.5, 0.5] + [c, d] - 0.5
    return cv2.warpAffine(image, np.array([[a, -b, shift[0]], [b, a, shift[1]]]), (FACE_SIDE, FACE_SIDE))
