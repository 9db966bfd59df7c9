# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The model bundles of MediaPipe's tasks: published ones, and those built from the models in a wheel of MediaPipe.

Up to 0.10.21, MediaPipe's wheels contain the models as plain TFLite files. To become bundles of the tasks, three of
them need additional data: the range of their input pixels, which the files do not state, and space for the ten points
of the irises, which newer face models return.
"""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .model_files import download_folder


_PUBLISHED = "https://storage.googleapis.com/mediapipe-models"
PUBLISHED_BUNDLES = {
    "pose": f"{_PUBLISHED}/pose_landmarker/pose_landmarker_full/float16/1/pose_landmarker_full.task",
    "holistic": f"{_PUBLISHED}/holistic_landmarker/holistic_landmarker/float16/1/holistic_landmarker.task",
}

# The files of each bundle, and their paths in a wheel.
_POSE_FILES = {
    "pose_detector.tflite": "pose_detection/pose_detection.tflite",
    "pose_landmarks_detector.tflite": "pose_landmark/pose_landmark_full.tflite",
}
_WHEEL_FILES = {
    "pose": _POSE_FILES,
    "holistic": {
        **_POSE_FILES,
        "face_detector.tflite": "face_detection/face_detection_short_range.tflite",
        "face_landmarks_detector.tflite": "face_landmark/face_landmark.tflite",
        "hand_landmarks_detector.tflite": "hand_landmark/hand_landmark_full.tflite",
        "hand_roi_refinement.tflite": "holistic_landmark/hand_recrop.tflite",
    },
}
_WHEEL_FOLDER = "mediapipe/modules"

_FACE_NUMBERS, _FACE_NUMBERS_WITH_IRISES = 3 * 468, 3 * 478


def read_bundles(models: str | os.PathLike | None) -> dict[str, bytes]:
    """Return the content of the bundles of `PUBLISHED_BUNDLES`, from a folder, a wheel or, for `None`, downloads."""
    if models is None:
        return {name: _download(url).read_bytes() for name, url in PUBLISHED_BUNDLES.items()}
    if not isinstance(models, (str, os.PathLike)):
        raise TypeError(f"`pose_model` must be a folder or a wheel of MediaPipe, got {models!r}.")
    path = Path(models)
    names = {name: url.rsplit("/", 1)[1] for name, url in PUBLISHED_BUNDLES.items()}
    if path.is_dir():
        missing = [name for name in names.values() if not (path / name).is_file()]
        if missing:
            raise FileNotFoundError(f"`pose_model` is a folder without {' and '.join(missing)}: {path}.")
        return {name: (path / file).read_bytes() for name, file in names.items()}
    if not path.is_file():
        raise FileNotFoundError(
            f"`pose_model` must be a folder with {' and '.join(names.values())}, or a wheel of MediaPipe 0.10.21, "
            f"got {str(models)!r}."
        )
    try:
        with zipfile.ZipFile(path) as wheel:
            return {name: _bundle(wheel, files) for name, files in _WHEEL_FILES.items()}
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"`pose_model` must be a wheel of MediaPipe that contains its models, such as 0.10.21, got {path} "
            f"({error})."
        ) from error


def _download(url: str) -> Path:
    """Download a bundle once, next to the models of the other detectors. Processes take turns."""
    from filelock import FileLock

    path = download_folder("mediapipe") / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        if not path.is_file():
            partial = path.with_suffix(".partial")
            try:
                torch.hub.download_url_to_file(url, str(partial))
                if not zipfile.is_zipfile(partial):
                    raise OSError("the download was truncated")
                partial.replace(path)
            except OSError as error:  # including those of urllib
                partial.unlink(missing_ok=True)
                raise ConnectionError(
                    f"MediaPipe's models cannot be downloaded from {url} ({error}); try again, or pass a folder or a "
                    "wheel with them as `pose_model`."
                ) from error
    return path


def _bundle(wheel: zipfile.ZipFile, files: dict[str, str]) -> bytes:
    models = {name: wheel.read(f"{_WHEEL_FOLDER}/{file}") for name, file in files.items()}

    from mediapipe.tasks.python.metadata.metadata_writers.model_asset_bundle_utils import create_model_asset_bundle

    for name in {"pose_landmarks_detector.tflite", "hand_roi_refinement.tflite"} & models.keys():
        models[name] = _changed(models[name], _add_pixel_range)
    if "face_landmarks_detector.tflite" in models:
        models["face_landmarks_detector.tflite"] = _changed(models["face_landmarks_detector.tflite"], _add_irises)
    bundle = io.BytesIO()
    create_model_asset_bundle(models, bundle)
    return bundle.getvalue()


def _changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    import flatbuffers
    from mediapipe.tasks.metadata import schema_py_generated as tflite

    model = tflite.ModelT.InitFromObj(tflite.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _add_pixel_range(model: Any) -> None:
    """State that the model takes pixels in [0, 1]."""
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata
    from mediapipe.tasks.metadata import schema_py_generated as tflite

    divided = metadata.NormalizationOptionsT(mean=[0.0], std=[255.0])
    unit = metadata.ProcessUnitT(optionsType=metadata.ProcessUnitOptions.NormalizationOptions, options=divided)
    rgb = metadata.ImagePropertiesT(colorSpace=metadata.ColorSpaceType.RGB)
    content = metadata.ContentT(
        contentPropertiesType=metadata.ContentProperties.ImageProperties, contentProperties=rgb
    )
    image = metadata.TensorMetadataT(name="image", content=content, processUnits=[unit])
    graph = metadata.SubGraphMetadataT(inputTensorMetadata=[image])
    builder = flatbuffers.Builder()
    builder.Finish(metadata.ModelMetadataT(subgraphMetadata=[graph]).Pack(builder), b"M001")
    model.buffers.append(tflite.BufferT(data=np.frombuffer(builder.Output(), np.uint8)))
    entry = tflite.MetadataT(name="TFLITE_METADATA", buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]


def _add_irises(model: Any) -> None:
    """Pad the first output, the coordinates of the face, with zeros for the irises."""
    from mediapipe.tasks.metadata import schema_py_generated as tflite

    graph = model.subgraphs[0]
    face = graph.outputs[0]
    rank = len(graph.tensors[face].shape)
    padding = np.zeros((rank, 2), np.int32)
    padding[-1, 1] = _FACE_NUMBERS_WITH_IRISES - _FACE_NUMBERS
    model.buffers.append(tflite.BufferT(data=np.frombuffer(padding.tobytes(), np.uint8)))
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    added = len(graph.tensors)
    graph.tensors += [
        tflite.TensorT(name="padding", shape=[rank, 2], type=tflite.TensorType.INT32, buffer=len(model.buffers) - 1),
        tflite.TensorT(
            name="face_with_irises",
            shape=[*graph.tensors[face].shape[:-1], _FACE_NUMBERS_WITH_IRISES],
            type=tflite.TensorType.FLOAT32,
        ),
    ]
    pad = tflite.OperatorT(
        opcodeIndex=codes.index(tflite.BuiltinOperator.PAD),
        inputs=[face, added],
        outputs=[added + 1],
        builtinOptionsType=tflite.BuiltinOptions.PadOptions,
        builtinOptions=tflite.PadOptionsT(),
    )
    graph.operators.append(pad)
    graph.outputs = [added + 1, *graph.outputs[1:]]
