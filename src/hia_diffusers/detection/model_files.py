# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The model files of the detectors: known names, downloads and checksums."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import sha256_of


@dataclass(frozen=True)
class OnnxModel:
    """A model that rtmlib downloads.

    Args:
        url (`str`):
            URL of the zip file that contains it.
        height (`int`):
            Height of its input in pixels.
        width (`int`):
            Width of its input in pixels.
        score_scale (`float`, *optional*, defaults to `1.0`):
            For pose models, the peak of the network's output that corresponds to score 1. RTMW was trained with a
            different loss than RTMPose and DWPose: its peaks are 3 to 8 for visible points, theirs about 1.
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


class DamagedModelError(ValueError):
    """A file is not a whole ONNX model."""


def find_model(role: str, model: str | os.PathLike, table: Mapping[str, OnnxModel]) -> tuple[Path, OnnxModel | None]:
    """Return the file of a model, and its properties if it is a known model."""
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"`{role}_model` must be a name or a path, got {model!r}.")
    if isinstance(model, str) and model in table:
        return download_model(role, model, table[model]), table[model]
    path = Path(model)
    if not path.is_file():
        names = ", ".join(table)
        raise FileNotFoundError(f"`{role}_model` must be one of {names}, or an ONNX file, got {str(model)!r}.")
    return path, next((known for known in table.values() if Path(known.url).stem == path.stem), None)


def download_model(role: str, name: str, model: OnnxModel) -> Path:
    """Download a model. rtmlib unpacks next to the download, so each model has a folder, and processes take turns."""
    from filelock import FileLock
    from rtmlib.tools.file import download_checkpoint

    folder = download_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / model.url.rsplit("/", 1)[1]
    with FileLock(folder / ".lock"):
        for is_last_try in (False, True):
            try:
                return Path(download_checkpoint(model.url, dst_dir=str(folder)))
            except Exception as error:  # from the network, the mirror or the zip file
                is_damaged = archive.exists()  # rtmlib deletes an archive that it has unpacked
                archive.unlink(missing_ok=True)
                shutil.rmtree(folder / "tmp", ignore_errors=True)
                if is_last_try or not is_damaged:
                    what = f"{archive} was truncated or damaged, and is deleted" if is_damaged else str(error)
                    raise ConnectionError(
                        f"`{role}_model` {name!r} cannot be downloaded from {model.url} to {folder} ({what}); "
                        "try again, pass the path of an ONNX file instead, or use MediaPipe, the extra `mediapipe`."
                    ) from error
    raise AssertionError("one of the tries returns or raises")


def is_downloaded(name: str, model: OnnxModel) -> bool:
    """Return whether a model has been downloaded."""
    return (download_folder(name) / f"{Path(model.url).stem}.onnx").is_file()


def download_folder(name: str) -> Path:
    """Return the folder into which the files of a model are downloaded."""
    return Path(torch.hub.get_dir(), "hia_diffusers", name)


def checked_digests(sha256: Mapping[str, str] | None, roles: Iterable[str]) -> dict[str, str]:
    """Return the expected SHA-256 of each role's file.

    Raises:
        ValueError: If a role is unknown, or a digest is not SHA-256 in hexadecimal digits.
    """
    expected = dict(sha256 or {})
    for role, digest in expected.items():
        if role not in roles:
            raise ValueError(f"`sha256` must name models among {', '.join(roles)}, got {role!r}.")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(f"`sha256` must contain 64 hexadecimal digits for {role!r}, got {digest!r}.")
    return expected


def file_digest(role: str, path: Path, expected: Mapping[str, str]) -> str:
    """Return the SHA-256 of a role's file.

    Raises:
        ValueError: If it is not the expected one.
    """
    found = sha256_of(path)
    if expected.get(role, found).lower() != found:
        raise ValueError(f"`sha256` of the {role} model must be {expected[role]}, got {found}: {path}.")
    return found
