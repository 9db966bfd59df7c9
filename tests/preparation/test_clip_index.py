# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import os

import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.local import LocalFileSystem

from hia_diffusers.data.clip_sources import PreparedClips
from hia_diffusers.preparation.clip_index import COLUMNS, LIMITS, NULLABLE, SCHEMA_VERSION, check_inside, read_index


ROW = {
    **{"clip": "x", "video": "x.mp4", "file_name": "clips/x.mp4", "annotations": "clips/x.safetensors"},
    **{"start_frame": 0, "num_frames": 20, "fps": 29.97, "height": 160, "width": 96},
    **dict.fromkeys(NULLABLE),
}


def write_index(root, *rows, version=SCHEMA_VERSION, drop=()):
    schema = pyarrow.schema(
        [(name, kind) for name, kind in COLUMNS.items() if name not in drop],
        metadata=None if version is None else {"hia_schema_version": str(version)},
    )
    root.mkdir(exist_ok=True)
    table = pyarrow.Table.from_pylist([ROW | row for row in rows], schema)
    pyarrow.parquet.write_table(table, root / "index.parquet")


def test_rows_come_as_they_were_written(tmp_path):
    rows = [{}, {"clip": "y", "num_frames": 10**6, "fps": 1000.0, "mean_score": 0.25, "hand_motion": 0.0}]
    write_index(tmp_path, *rows)
    assert read_index(tmp_path) == [ROW | row for row in rows]


@pytest.mark.parametrize("column", ["file_name", "annotations"])
@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "clips/../../x", "s3://bucket/x", "..\\x", "clips\\..\\..\\x", "link/x", "x\0y"]
)
def test_a_path_in_an_index_that_leaves_its_folder_is_refused(tmp_path, column, name):
    root = tmp_path / "root"
    write_index(root, {})
    (root / "link").symlink_to(tmp_path)
    write_index(root, {column: name})
    with pytest.raises(ValueError, match=f"column {column} names a path that leaves its folder"):
        read_index(root)


@pytest.mark.parametrize("name", ["a:b.mp4", "VID 12:30.mp4", "-rf.mp4", "%03d.mp4", "100%.mp4", "舞.mp4", "loop.mp4"])
def test_odd_names_are_inside(tmp_path, name):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    check_inside(LocalFileSystem(), str(tmp_path), name, "`videos`")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("num_frames", value) for value in (0, -1, 10**6 + 1, 10**9, None)),
        *((side, value) for side in ("height", "width") for value in (0, -160, 2**40, None)),
        *(("fps", value) for value in (0.0, -30.0, 1e9, float("nan"), float("inf"), None)),
        *(("start_frame", value) for value in (-1, 2**62, None)),
        *(("mean_score", value) for value in (-0.1, 1.1, float("nan"))),
        *(("hand_motion", value) for value in (-1.0, 1e300, float("inf"))),
        *((name, value) for name in ("clip", "video", "file_name", "annotations") for value in ("", None)),
    ],
)
def test_a_row_that_no_clip_can_have_is_refused_and_named(tmp_path, column, value):
    write_index(tmp_path, {}, {}, {"clip": "third", column: value})
    with pytest.raises(ValueError, match=rf"row 2 of index.parquet \(clip .*\): column {column} must contain .*, got"):
        PreparedClips(tmp_path)


def test_every_number_has_a_range():
    assert {name for name, kind in COLUMNS.items() if kind != "string"} == LIMITS.keys() >= NULLABLE


def test_indices_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="`root` contains no index.parquet"):
        read_index(tmp_path)
    for version in (SCHEMA_VERSION + 1, None):
        write_index(tmp_path, {}, version=version)
        with pytest.raises(ValueError, match=f"must contain an index of version {SCHEMA_VERSION}, got version"):
            read_index(tmp_path)
    write_index(tmp_path, {}, drop=["fps"])
    with pytest.raises(ValueError, match="must contain an index with the columns"):
        read_index(tmp_path)
    os.unlink(tmp_path / "index.parquet")
    os.mkfifo(tmp_path / "index.parquet")
    with pytest.raises(FileNotFoundError, match="`root` contains no index.parquet"):
        read_index(tmp_path)


def test_a_damaged_index_is_refused_wherever_the_damage_is(tmp_path):
    write_index(tmp_path, *({"clip": f"{number}"} for number in range(3)))
    whole = (tmp_path / "index.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    damaged = [b"", b"PAR1" * 10, whole[: len(whole) // 2], whole[:-1]]
    damaged += [
        whole[: -8 - footer] + bytes(byte ^ mask for byte in whole[-8 - footer : -8]) + whole[-8:] for mask in (1, 255)
    ]
    for position in range(0, len(whole), 97):
        damaged.append(whole[:position] + b"\xff" * 16 + whole[position + 16 :])
    refused = 0
    for content in damaged:
        (tmp_path / "index.parquet").write_bytes(content)
        try:
            read_index(tmp_path)  # a changed letter in a name is not noticed
        except ValueError as error:
            assert "`root`" in str(error)
            refused += 1
    assert refused > len(damaged) // 2


def test_a_few_bytes_do_not_stand_for_millions_of_rows(tmp_path):
    arrays = [pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10**6, "int32"), [ROW["clip"]])]
    pyarrow.parquet.write_table(pyarrow.table(arrays, ["clip"]), tmp_path / "index.parquet")
    assert (tmp_path / "index.parquet").stat().st_size < 10**4
    with pytest.raises(ValueError, match="cannot be read: .*states more rows than it can contain"):
        read_index(tmp_path)
