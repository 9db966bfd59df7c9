# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The `.safetensors` and `.npz` files of keypoints: their arrays, read without trusting them."""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from ..files import written_whole
from .pose_files import read_npz_member
from .whole_body import NUM_KEYPOINTS


# Maximum number of frames in a file, two and a half hours at 30 per second: reading it takes at most a gigabyte.
MAX_FRAMES = 2**18

# The arrays of a file with the largest shape of each, their kinds of numbers, and their prefix in npz.
_LARGEST_SHAPES = {
    "xy": (MAX_FRAMES, NUM_KEYPOINTS, 2),
    "score": (MAX_FRAMES, NUM_KEYPOINTS),
    **dict.fromkeys(("height", "width", "fps"), ()),
}
_SAFETENSORS_DTYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
_LARGEST_NPY_HEADER = 2**14


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of keypoints; an existing file is replaced at once.

    Args:
        path (`Path`):
            The file, `.safetensors` or `.npz`.
        arrays (`dict[str, np.ndarray]`):
            `xy`, `score`, `height`, `width` and `fps`.

    Raises:
        ValueError: If the suffix is another one, or there are more than 2**18 frames.
    """
    suffix, num_frames = _checked_suffix(path), len(arrays["xy"])
    if num_frames > MAX_FRAMES:
        raise ValueError(f"`path`: a file can contain at most {MAX_FRAMES} frames, got {num_frames}.")
    if suffix == ".safetensors":
        content = safetensors.numpy.save(arrays)
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        content = buffer.getvalue()
    with written_whole(path) as partial:
        partial.write_bytes(content)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of keypoints.

    Args:
        path (`Path`):
            The file, `.safetensors` or `.npz`.

    Returns:
        `dict[str, np.ndarray]`: `xy`, `score`, `height`, `width` and `fps`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is another one, the file is damaged, or an array is missing.
    """
    suffix = _checked_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` is not a file: {path}.")
    try:
        arrays = _read_safetensors(path) if suffix == ".safetensors" else _read_npz(path)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise many kinds of errors
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"`path` cannot be read as a {suffix} file of keypoints: {path} ({reason}).") from error
    absent = [name for name in _LARGEST_SHAPES if name not in arrays]
    if absent:
        raise ValueError(f"`path` contains no {', '.join(absent)}: {path}.")
    return arrays


def holds_own_arrays(path: Path) -> bool:
    """Return whether an .npz file is one of ours; a damaged one is, so that reading it raises the error."""
    if not path.is_file():  # opening a FIFO would block
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return "xy.npy" in archive.namelist() or not archive.namelist()
    except Exception:
        return True


def _checked_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"`path` must end in .safetensors or .npz, got {path}.")
    return suffix


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of keypoints in the file, and no others."""
    arrays = {}
    with safetensors.safe_open(path, framework="np") as file:
        for name in _LARGEST_SHAPES.keys() & file.keys():
            stored = file.get_slice(name)
            if stored.get_dtype() not in _SAFETENSORS_DTYPES:
                raise ValueError(f"{name} is stored as {stored.get_dtype()}; save it as F32")
            _check_shape(name, stored.get_shape())
            arrays[name] = file.get_tensor(name)
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of keypoints in the file, and no others."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in _LARGEST_SHAPES.keys() & {member.removesuffix(".npy") for member in archive.namelist()}:
            largest = 8 * math.prod(_LARGEST_SHAPES[name]) + _LARGEST_NPY_HEADER
            arrays[name] = read_npz_member(archive, name, largest)
            _check_shape(name, arrays[name].shape)
    return arrays


def _check_shape(name: str, shape: Sequence[int]) -> None:
    largest = _LARGEST_SHAPES[name]
    if len(shape) != len(largest) or any(side > most for side, most in zip(shape, largest, strict=True)):
        raise ValueError(f"{name} has the shape {tuple(shape)}, expected at most {largest}")
