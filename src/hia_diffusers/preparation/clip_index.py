# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The index of a prepared dataset: its columns, their valid values, reading and writing."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from .. import checks


SCHEMA_VERSION = 1
VERSION_KEY = b"hia_schema_version"

# Columns of the index. Means are over the frames of the clip, and null if nothing could be measured.
COLUMNS = {
    "clip": "string",  # id, sorted
    "video": "string",  # path of the video, relative to the folder of the videos
    "file_name": "string",  # path of the clip, relative to the root
    "annotations": "string",  # path of its annotations, relative to the root
    "start_frame": "int64",  # first frame in the video
    "num_frames": "int64",
    "fps": "float64",
    "height": "int64",
    "width": "int64",
    "mean_score": "float64",  # of the body points
    "person_height": "float64",  # median, as a fraction of the image's
    "body_motion": "float64",  # of the body points, in body heights per second
    "hand_motion": "float64",  # in hand boxes per frame at 30 frames per second
    "hand_sharpness": "float64",
}

# Type and range of each number in the index.
LIMITS: dict[str, tuple[type, float, float]] = {
    "start_frame": (int, 0, 2**53),
    "num_frames": (int, 1, 10**6),
    "fps": (float, 0.001, 1000),
    "height": (int, 1, checks.MAX_SIDE),
    "width": (int, 1, checks.MAX_SIDE),
    "mean_score": (float, 0, 1),
    "person_height": (float, 0, 10**6),
    "body_motion": (float, 0, 10**6),
    "hand_motion": (float, 0, 10**6),
    "hand_sharpness": (float, 0, 1),
}
NULLABLE = {"mean_score", "person_height", "body_motion", "hand_motion", "hand_sharpness"}


def read_index(root: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the index of a prepared dataset. Needs the `train` extra.

    Args:
        root (`str` or `os.PathLike`):
            The folder of the dataset, or its fsspec URL.

    Returns:
        `list[dict[str, Any]]`: The rows, see `COLUMNS`, sorted by `clip`.

    Raises:
        FileNotFoundError: If there is no index.
        ImportError: If the `train` extra is not installed.
        ValueError: If the index is damaged, has another version or lacks a column, or a row contains invalid values or
            a path that leaves the folder.
    """
    pyarrow, parquet = import_pyarrow()
    filesystem, path = url_to_fs(checks.path("root", root))
    if not filesystem.isfile(f"{path}/index.parquet"):
        raise FileNotFoundError(f"`root` contains no index.parquet: {root}.")
    content = filesystem.cat_file(f"{path}/index.parquet")
    try:
        # A few bytes can encode any number of equal rows, but no two rows of an index are equal.
        if parquet.read_metadata(io.BytesIO(content)).num_rows > len(content):
            raise ValueError("it states more rows than it can contain")
        table = parquet.read_table(io.BytesIO(content))
        version = (table.schema.metadata or {}).get(VERSION_KEY, b"none").decode()
        rows = table.to_pylist()
    except (OSError, MemoryError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"`root` contains an index.parquet that cannot be read: {root} ({error}).") from error
    if version != str(SCHEMA_VERSION):
        raise ValueError(f"`root` must contain an index of version {SCHEMA_VERSION}, got version {version}: {root}.")
    if not table.schema.equals(_schema(pyarrow)):
        raise ValueError(
            f"`root` must contain an index with the columns {', '.join(COLUMNS)}, with their types: {root}."
        )
    for number, row in enumerate(rows):
        check_row(filesystem, path, row, f"`root` ({root}): row {number} of index.parquet")
    return rows


def encode_index(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return the content of index.parquet."""
    pyarrow, parquet = import_pyarrow()
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, _schema(pyarrow)), content)
    return content.getvalue()


def check_row(filesystem: AbstractFileSystem, root: str, row: object, where: str) -> None:
    """Raise an error for a row of an index or of a record with invalid values.

    Args:
        filesystem (`AbstractFileSystem`):
            Filesystem of the dataset.
        root (`str`):
            Path of the dataset.
        row (`dict[str, Any]`):
            The row, see `COLUMNS`.
        where (`str`):
            Location of the row for the error message.

    Raises:
        ValueError: If a value is missing, has another type or is out of range, or a path leaves the folder.
    """
    if not isinstance(row, dict) or row.keys() != COLUMNS.keys():
        raise ValueError(f"{where} must contain {', '.join(COLUMNS)}.")
    where = f"{where} (clip {row['clip']!r}): column"
    for name in ("clip", "video", "file_name", "annotations"):
        if not isinstance(row[name], str) or not row[name]:
            raise ValueError(f"{where} {name} must contain text, got {row[name]!r}.")
    for name, (kind, least, greatest) in LIMITS.items():
        value = row[name]
        is_kind = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not (value is None and name in NULLABLE) and not (is_kind and least <= value <= greatest):
            whole = "whole " if kind is int else ""
            raise ValueError(f"{where} {name} must contain a {whole}number from {least} to {greatest}, got {value!r}.")
    for name in ("file_name", "annotations"):
        check_inside(filesystem, root, row[name], f"{where} {name}")


def check_inside(filesystem: AbstractFileSystem, root: str, name: str, where: str) -> None:
    """Raise an error for a path that is not relative to `root` or leaves it, also by a symbolic link."""
    path = PurePosixPath(name.replace("\\", "/"))
    is_plain = not path.is_absolute() and ".." not in path.parts and "\0" not in name
    is_plain = is_plain and not re.match(r"[^/]*://", name)
    if is_plain and isinstance(filesystem, LocalFileSystem):
        is_plain = Path(os.path.realpath(Path(root, name))).is_relative_to(os.path.realpath(root))
    if not is_plain:
        raise ValueError(f"{where} names a path that leaves its folder: {name!r}.")


def import_pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`, or raise an error that names the extra."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("The index needs the `train` extra: pip install 'hia-diffusers[train]'.") from error
    return pyarrow, parquet


def _schema(pyarrow: Any) -> Any:
    return pyarrow.schema(list(COLUMNS.items()), metadata={VERSION_KEY: str(SCHEMA_VERSION)})
