# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of videos to a prepared dataset, and the index of one.

```
root/
  index.parquet                 one row per clip, sorted by `clip`, see `COLUMNS`; its metadata has the schema version
  clips/<clip>.mp4              the clip, a keyframe at least every `keyframe_interval` frames
  clips/<clip>.safetensors      xy (F, 133, 2), score (F, 133), height, width, fps as `WholeBodyKeypoints.save` writes
                                them; hand_boxes (F, 2, 4), hand_sharpness (F, 2) as in `MotionBlurCondition`;
                                face_boxes (F, 4) x0, y0, x1, y1; float32, NaN where unknown
  README.md, statistics.json, plots/*.png, report.json, failures.jsonl
  options.json                  what decided about the content
  records/<video>.json          what became of each video; one that has a record is finished
```
"""

import dataclasses
import functools
import io
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub.utils import tqdm

from .clip_preparation import PARTIAL_FOLDER, ClipPreparer, PreparationOptions, record_name
from .clip_rules import RULE_NAMES
from .dataset_card import draw_plots, summarize, write_card
from .engines import run_local, run_ray


SCHEMA_VERSION = 1
VERSION_KEY = b"hia_schema_version"

# Columns of the index. Means are over the frames of the clip, and null where nothing could be measured.
COLUMNS = {
    "clip": "string",  # id, sorted
    "video": "string",  # path of the video, relative to the folder of the videos
    "file_name": "string",  # path of the clip, relative to the root
    "annotations": "string",  # path of its annotations, relative to the root
    "start_frame": "int64",  # where it begins in the video
    "num_frames": "int64",
    "fps": "float64",
    "height": "int64",
    "width": "int64",
    "mean_score": "float64",  # of the body points
    "person_height": "float64",  # median, as a fraction of the picture's
    "body_motion": "float64",  # of the body points, in heights of the person per second
    "hand_motion": "float64",  # in hand boxes per frame at 30 frames per second
    "hand_sharpness": "float64",
}

VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
    *(".webm", ".wmv"),
}


def read_index(root: str | os.PathLike) -> list[dict[str, Any]]:
    """
    The index of a prepared dataset. Needs the `train` extra.

    Args:
        root (`str` or `os.PathLike`):
            The folder of the dataset, or an fsspec URL of it.

    Returns:
        `list[dict[str, Any]]`: its rows, see `COLUMNS`, sorted by `clip`.

    Raises:
        `FileNotFoundError`: there is no index.
        `ImportError`: the `train` extra is not installed.
        `ValueError`: the index is damaged, of another version or lacks a column, or a path in it leaves the folder.
    """
    pyarrow, parquet = _import_pyarrow()
    filesystem, path = url_to_fs(os.fspath(root))
    if not filesystem.isfile(f"{path}/index.parquet"):
        raise FileNotFoundError(f"`root` holds no index.parquet: {root}.")
    try:
        table = parquet.read_table(io.BytesIO(filesystem.cat_file(f"{path}/index.parquet")))
    except pyarrow.ArrowException as error:
        raise ValueError(f"`root` holds an index.parquet that cannot be read: {root} ({error}).") from error
    version = (table.schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ValueError(f"`root` must hold an index of version {SCHEMA_VERSION}, got version {version}: {root}.")
    if not table.schema.equals(_schema(pyarrow)):
        raise ValueError(f"`root` must hold an index with the columns {', '.join(COLUMNS)} and their types: {root}.")
    rows = table.to_pylist()
    for row in rows:
        for name in ("file_name", "annotations"):
            check_inside(filesystem, path, row[name], f"`root` ({root}): column {name}")
    return rows


def list_videos(videos: str | os.PathLike) -> tuple[str, list[str]]:
    """
    Find the videos of a folder or of a list.

    Args:
        videos (`str` or `os.PathLike`):
            A folder, whose files with a suffix of `VIDEO_SUFFIXES` are taken, also from folders in it; or a text file
            (UTF-8) with a path per line, relative to its own folder. Either may be an fsspec URL.

    Returns:
        `tuple[str, list[str]]`: the folder, and the paths of the videos relative to it, sorted.

    Raises:
        `FileNotFoundError`: there is no such folder or list, or a file that it names does not exist.
        `ValueError`: there are no videos, one is named twice, a path leaves the folder or is not UTF-8, or the list is
            no text.
    """
    videos = os.fspath(videos)
    filesystem, path = url_to_fs(videos)
    if filesystem.isdir(path):
        folder = videos
        found = {posixpath.relpath(file, path): info for file, info in filesystem.find(path, detail=True).items()}
        for name, info in found.items():
            if info.get("islink") and filesystem.isdir(info["name"]):
                raise ValueError(f"`videos` holds a link to a folder, which is not followed: {name}.")
        names = [name for name in found if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
    elif filesystem.isfile(path):
        folder = videos.rpartition("/")[0] or "."
        try:
            lines = filesystem.read_text(path, encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"`videos` must be a folder or a text file with a path per line, got {videos}."
            ) from error
        names = [str(PurePosixPath(line.strip())) for line in lines if line.strip()]
        path = path.rpartition("/")[0]
    else:
        raise FileNotFoundError(f"`videos` is neither a folder nor a list of videos: {videos}.")
    if not names:
        raise ValueError(f"`videos` holds no videos: {videos}.")
    doubles = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubles:
        raise ValueError(f"`videos` names a video twice: {doubles[0]}.")
    for name in names:
        if name != name.encode("utf-8", "replace").decode("utf-8"):
            raise ValueError(f"`videos` holds a file whose name is not UTF-8: {name!r}.")
        check_inside(filesystem, path, name, f"`videos` ({videos})")
        if not filesystem.isfile(f"{path}/{name}"):
            raise FileNotFoundError(f"`videos` names a file that does not exist: {name}.")
    return folder, sorted(names)


def prepare_dataset(
    videos: str | os.PathLike,
    output: str | os.PathLike,
    options: PreparationOptions,
    engine: str = "local",
    workers: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """
    Make training clips of videos. Needs the `train` extra, and `pose` to detect or smooth keypoints.

    A run that was interrupted, in whatever way, goes on where it was when it is started again, and so does a finished
    one whose folder of videos has grown. The result depends on the videos and on `options` only.

    Args:
        videos (`str` or `os.PathLike`):
            See [`list_videos`].
        output (`str` or `os.PathLike`):
            Folder to write to, new, empty or from an earlier run; or an fsspec URL of it. Where `engine` is `"ray"`,
            every machine must reach it and the videos by this name.
        options ([`PreparationOptions`]):
            What decides about the content.
        engine (`str`, *optional*, defaults to `"local"`):
            `"local"` for processes of this machine, `"ray"` for actors of a Ray cluster.
        workers (`int`, *optional*, defaults to `1`):
            Number of processes or actors.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where keypoints are detected: `"cpu"`, `"cuda"` or `"cuda:1"` and so on.

    Returns:
        `dict[str, Any]`: the content of `report.json`: numbers of `videos`, `failed_videos` and `clips`, `seconds` of
        clips, and `dropped`, the number of clips that broke each rule.

    Raises:
        `FileNotFoundError`: a video or the folder of keypoints does not exist.
        `ImportError`: an extra is not installed.
        `OSError`: something cannot be written, as on a full disk.
        `ValueError`: an argument is invalid, a path leaves its folder, or `output` holds something else, or was made
            with other options or of other videos.
    """
    if engine not in ("local", "ray"):
        raise ValueError(f"`engine` must be 'local' or 'ray', got {engine!r}.")
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}.")
    _import_pyarrow()
    folder, names = list_videos(videos)
    if options.keypoints is not None:
        _check_keypoints_folder(options.keypoints, names)
    root = os.fspath(output)
    filesystem, path = url_to_fs(root)
    _check_apart(filesystem, path, videos)
    _open_output(filesystem, path, options)
    finished = _read_records(filesystem, path)
    _check_finished(folder, names, finished)

    make = functools.partial(ClipPreparer, folder, root, options, device)
    remaining = [name for name in names if name not in finished]
    if remaining:
        if engine == "local":
            done = run_local(make, remaining, min(workers, len(remaining)))
        else:
            done = run_ray(make, remaining, min(workers, len(remaining)), use_gpu=device != "cpu")
        for _ in tqdm(done, total=len(remaining), unit="video"):
            pass
    return _write_summary(filesystem, path, _read_records(filesystem, path).values())


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("The index needs the `train` extra: pip install 'hia-diffusers[train]'.") from error
    return pyarrow, parquet


def _schema(pyarrow: Any) -> Any:
    return pyarrow.schema(list(COLUMNS.items()), metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def check_inside(filesystem: AbstractFileSystem, root: str, name: str, where: str) -> None:
    """Refuses a path that is not relative to `root` or leaves it, also by a symbolic link."""
    path = PurePosixPath(name)
    is_plain = not path.is_absolute() and ".." not in path.parts and "\\" not in name
    is_plain = is_plain and not re.match(r"[A-Za-z]:|[^/]*://", name)  # a drive of Windows, a URL
    if is_plain and isinstance(filesystem, LocalFileSystem):
        is_plain = (Path(root) / name).resolve().is_relative_to(Path(root).resolve())
    if not is_plain:
        raise ValueError(f"{where} names a path that leaves its folder: {name!r}.")


def _check_keypoints_folder(keypoints: str, names: Iterable[str]) -> None:
    if not Path(keypoints).is_dir():
        raise FileNotFoundError(f"`options.keypoints` is no folder: {keypoints}.")
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
    doubles = sorted(stem for stem, count in stems.items() if count > 1)
    if doubles:
        raise ValueError(f"`videos` must differ in more than the suffix for `options.keypoints`: {doubles[0]}.*.")


def _check_apart(filesystem: AbstractFileSystem, path: str, videos: str | os.PathLike) -> None:
    """A run that is given again would take the clips of the one before for videos."""
    _, videos_path = url_to_fs(os.fspath(videos))
    folders = [path, videos_path]
    if isinstance(filesystem, LocalFileSystem):
        folders = [os.path.realpath(folder) for folder in folders]
    if f"{folders[0]}/".startswith(f"{folders[1]}/"):
        raise ValueError(f"`output` must not lie in the folder of the videos, got {path}.")


def _open_output(filesystem: AbstractFileSystem, path: str, options: PreparationOptions) -> None:
    """Makes the folder, or checks that what is in it was made with the same options."""
    wanted = {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(dataclasses.asdict(options)))}
    if filesystem.isfile(f"{path}/options.json"):
        found = json.loads(filesystem.cat_file(f"{path}/options.json"))
        changed = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        if changed and any(filesystem.find(f"{path}/{folder}") for folder in ("clips", "records")):
            differences = "; ".join(f"{name} was {found.get(name)}, is {wanted.get(name)}" for name in changed)
            raise ValueError(f"`output` was made with other options ({differences}); choose another folder.")
    elif filesystem.isfile(path) or (filesystem.isdir(path) and _names(filesystem, path) - {PARTIAL_FOLDER}):
        raise ValueError(f"`output` must be an empty folder or one of an earlier run, got {path}.")
    _write(filesystem, path, "options.json", json.dumps(wanted, indent=1).encode())
    for folder in ("clips", "records", "plots"):
        filesystem.makedirs(f"{path}/{folder}", exist_ok=True)


def _names(filesystem: AbstractFileSystem, path: str) -> set[str]:
    return {posixpath.basename(name) for name in filesystem.ls(path, detail=False)}


def _read_records(filesystem: AbstractFileSystem, path: str) -> dict[str, dict[str, Any]]:
    filesystem.invalidate_cache()
    files = [file for file in filesystem.find(f"{path}/records") if file.endswith(".json")]
    records = [json.loads(filesystem.cat_file(file)) for file in files]
    return {record["video"]: record for record in records}


def _check_finished(folder: str, names: list[str], finished: dict[str, dict[str, Any]]) -> None:
    filesystem, path = url_to_fs(folder)
    given = set(names)
    for name, record in sorted(finished.items()):
        advice = f"choose another `output`, or delete {record_name(name)} in it if the video failed before."
        if name not in given:
            raise ValueError(f"`output` was made of other videos: {name} is not in `videos`; {advice}")
        if filesystem.size(f"{path}/{name}") != record["bytes"]:
            raise ValueError(f"`videos` holds {name}, which has changed since it was prepared; {advice}")


def _write_summary(filesystem: AbstractFileSystem, path: str, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Writes everything that is about the whole dataset, the index last."""
    pyarrow, parquet = _import_pyarrow()
    records = sorted(records, key=lambda record: record["video"])
    rows = sorted((row for record in records for row in record["clips"]), key=lambda row: row["clip"])
    failures = [{"video": record["video"], **record["failure"]} for record in records if record["failure"]]
    report = {
        "videos": len(records),
        "failed_videos": len(failures),
        "clips": len(rows),
        "seconds": round(sum(row["num_frames"] / row["fps"] for row in rows), 3),
        "dropped": {rule: sum(record["dropped"].get(rule, 0) for record in records) for rule in RULE_NAMES},
    }
    index = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, _schema(pyarrow)), index)

    for name, content in draw_plots(rows).items():
        _write(filesystem, path, f"plots/{name}", content)
    _write(filesystem, path, "failures.jsonl", "".join(f"{json.dumps(line)}\n" for line in failures).encode())
    _write(filesystem, path, "statistics.json", json.dumps(summarize(rows), indent=1).encode())
    _write(filesystem, path, "report.json", json.dumps(report, indent=1).encode())
    _write(filesystem, path, "README.md", write_card(rows, report).encode())
    _write(filesystem, path, "index.parquet", index.getvalue())
    if filesystem.exists(f"{path}/{PARTIAL_FOLDER}"):
        filesystem.rm(f"{path}/{PARTIAL_FOLDER}", recursive=True)
    return report


def _write(filesystem: AbstractFileSystem, path: str, name: str, content: bytes) -> None:
    """Object stores show a file only when it is complete; a local one has to be moved to its name."""
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(f"{path}/{name}", content)
        return
    temporary = Path(path, PARTIAL_FOLDER, PurePosixPath(name).name)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    os.replace(temporary, Path(path, name))
