# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Preparation of a dataset from a folder of videos.

```
root/
  index.parquet                 one row per clip, sorted by `clip`, see `clip_index`
  clips/<clip>.mp4              the clip, a keyframe at least every `keyframe_interval` frames
  clips/<clip>.safetensors      xy (F, 133, 2), score (F, 133), height, width, fps as `WholeBodyKeypoints.save` writes
                                them; hand_boxes (F, 2, 4), hand_sharpness (F, 2) as in `MotionBlurCondition`;
                                face_boxes (F, 4) x0, y0, x1, y1; float32, NaN where unknown
  README.md, statistics.json, plots/*.png, report.json, failures.jsonl
  options.json                  the options that determine the content
  records/<video>.json          the outcome for each video; a video with a record is finished
```
"""

import dataclasses
import functools
import json
import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub.utils import tqdm

from .. import checks
from ..folder_lock import LOCK_FILE, locked_folder
from .clip_index import SCHEMA_VERSION, check_row, encode_index, import_pyarrow
from .clip_preparation import (
    PARTIAL_FOLDER,
    ClipPreparer,
    PreparationOptions,
    failed,
    record_name,
    size_of_video,
    was_interrupted,
)
from .clip_rules import RULE_NAMES
from .dataset_card import draw_plots, summarize, write_card
from .engines import run_local, run_ray
from .video_lists import list_videos


logger = logging.getLogger(__name__)


def prepare_dataset(
    videos: str | os.PathLike,
    output: str | os.PathLike,
    options: PreparationOptions,
    engine: str = "local",
    workers: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Create training clips from videos. Needs the `train` extra, and `pose` to detect or smooth keypoints.

    An interrupted run resumes when it is started again, and a finished run prepares videos that were added since. A
    video that cannot be used is recorded with the reason, and the others are prepared. The result depends only on the
    videos and on `options`.

    Args:
        videos (`str` or `os.PathLike`):
            The videos, see [`list_videos`].
        output (`str` or `os.PathLike`):
            Output folder, which is new, empty or from an earlier run, or its fsspec URL. With the engine `"ray"`, all
            machines must be able to access it and the videos by the same names.
        options ([`PreparationOptions`]):
            The options that determine the content.
        engine (`str`, *optional*, defaults to `"local"`):
            `"local"` for processes on this machine, `"ray"` for actors of a Ray cluster.
        workers (`int`, *optional*, defaults to `1`):
            Number of processes or actors.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device for keypoint detection: `"cpu"`, `"cuda"`, `"cuda:1"` and so on.

    Returns:
        `dict[str, Any]`: The content of `report.json`: numbers of `videos`, `failed_videos` and `clips`, `seconds` of
        clips, and `dropped`, the number of clips rejected by each filter.

    Raises:
        FileNotFoundError: If a video or the folder of keypoints does not exist.
        ImportError: If an extra is not installed.
        OSError: If a file cannot be written, for example on a full disk.
        RuntimeError: If another run is writing to `output` (`FolderInUseError`), or worker processes cannot start.
        ValueError: If an argument is invalid, a path leaves its folder, or `output` contains other files or damaged
            state, or was created with other options or from other videos.
    """
    checks.one_of("engine", engine, ("local", "ray"))
    checks.integer("workers", workers)
    import_pyarrow()
    folder, names = list_videos(videos, options.frames_fps)
    if options.keypoints is not None:
        _check_keypoints_folder(options.keypoints, names)
    root = checks.path("output", output)
    filesystem, path = url_to_fs(root)
    _check_place(filesystem, path, videos)
    with locked_folder(path) if isinstance(filesystem, LocalFileSystem) else nullcontext():
        _open_output(filesystem, path, options)
        finished = _finished_videos(filesystem, path, folder, names)
        remaining = [name for name in names if name not in finished]
        if remaining:
            make = functools.partial(ClipPreparer, folder, root, options, device)
            suspects = {name for name in remaining if was_interrupted(filesystem, path, name)}
            on_killed = functools.partial(_record_killed, filesystem, path, folder)
            if engine == "local":
                done = run_local(make, remaining, workers, suspects, on_killed)
            else:
                done = run_ray(make, remaining, workers, suspects, on_killed, use_gpu=device != "cpu")
            for _ in tqdm(done, total=len(remaining), unit="video"):
                pass
        return _write_summary(filesystem, path, _finished_videos(filesystem, path, folder, names).values())


def _check_keypoints_folder(keypoints: str, names: Iterable[str]) -> None:
    if not Path(keypoints).is_dir():
        raise FileNotFoundError(f"`options.keypoints` is not a folder: {keypoints}.")
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
    doubles = sorted(stem for stem, count in stems.items() if count > 1)
    if doubles:
        raise ValueError(f"`videos` must differ in more than the suffix for `options.keypoints`: {doubles[0]}.*.")


def _check_place(filesystem: AbstractFileSystem, path: str, videos: str | os.PathLike) -> None:
    """Check that the output is not among the videos, where a repeated run would find its own clips."""
    _, videos_path = url_to_fs(os.fspath(videos))
    folders = [path, videos_path]
    if isinstance(filesystem, LocalFileSystem):
        folders = [os.path.realpath(folder) for folder in folders]
    if f"{folders[0]}/".startswith(f"{folders[1]}/"):
        raise ValueError(f"`output` must not lie in the folder of the videos, got {path}.")
    if filesystem.exists(path) and not filesystem.isdir(path):
        raise ValueError(f"`output` must be an empty folder or one of an earlier run, got {path}.")


def _open_output(filesystem: AbstractFileSystem, path: str, options: PreparationOptions) -> None:
    """Create the folder, or check that its content was created with the same options."""
    wanted = {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(dataclasses.asdict(options)))}
    if filesystem.isfile(f"{path}/options.json"):
        found = _load_json(filesystem, f"{path}/options.json")
        is_used = any(filesystem.find(f"{path}/{folder}") for folder in ("clips", "records"))
        if is_used and not isinstance(found, dict):
            raise ValueError(
                f"`output` contains a damaged options.json, so the options of its clips are unknown: {path}; choose "
                "another folder."
            )
        changed = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)] if is_used else []
        if changed:
            differences = "; ".join(f"{name} was {found.get(name)}, is {wanted.get(name)}" for name in changed)
            raise ValueError(f"`output` was created with other options ({differences}); choose another folder.")
    elif filesystem.isdir(path) and _names(filesystem, path) - {PARTIAL_FOLDER, LOCK_FILE}:
        raise ValueError(f"`output` must be an empty folder or one of an earlier run, got {path}.")
    _write(filesystem, path, "options.json", json.dumps(wanted, indent=1).encode())
    for folder in ("clips", "records", "plots"):
        filesystem.makedirs(f"{path}/{folder}", exist_ok=True)


def _names(filesystem: AbstractFileSystem, path: str) -> set[str]:
    return {posixpath.basename(name) for name in filesystem.ls(path, detail=False)}


def _load_json(filesystem: AbstractFileSystem, path: str) -> Any:
    """Read a JSON file; `None` if it is damaged."""
    if isinstance(filesystem, LocalFileSystem) and not filesystem.isfile(path):  # opening a FIFO would block
        return None
    try:
        return json.loads(filesystem.cat_file(path))
    except (ValueError, RecursionError):
        return None


def _finished_videos(
    filesystem: AbstractFileSystem, path: str, folder: str, names: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the records of the finished videos, excluding those with a damaged or missing record or clip."""
    filesystem.invalidate_cache()
    files = {
        posixpath.relpath(file, path) for part in ("clips", "records") for file in filesystem.find(f"{path}/{part}")
    }
    video_of = {record_name(name): name for name in names}
    finished = {}
    for name in sorted(file for file in files if file.startswith("records/") and file.endswith(".json")):
        record = _load_json(filesystem, f"{path}/{name}")
        try:
            _check_record(filesystem, path, name, record, files)
        except ValueError as error:
            if name not in video_of:
                raise ValueError(
                    f"{error} It belongs to no video in `videos`: delete it, or choose another `output`."
                ) from error
            logger.warning("%s The video is prepared again: %s", error, video_of[name])
            continue
        if _is_as_prepared(folder, record, name in video_of):
            finished[record["video"]] = record
    return finished


def _check_record(filesystem: AbstractFileSystem, path: str, name: str, record: object, files: set[str]) -> None:
    where = f"`output`: {name} is damaged"
    kinds: dict[str, Any] = {"video": str, "bytes": int, "failure": (dict, type(None)), "clips": list, "dropped": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{where}: it must contain {', '.join(kinds)}.")
    if record_name(record["video"]) != name:
        raise ValueError(f"{where}: it is the record of another video, {record['video']!r}.")
    failure = record["failure"]
    if failure is not None and not all(isinstance(failure.get(key), str) for key in ("stage", "reason")):
        raise ValueError(f"{where}: `failure` must contain stage and reason.")
    if any(not isinstance(count, int) for count in record["dropped"].values()):
        raise ValueError(f"{where}: `dropped` must contain numbers of clips.")
    for row in record["clips"]:
        check_row(filesystem, path, row, where)
        for file in (row["file_name"], row["annotations"]):
            if file not in files:
                raise ValueError(f"`output`: {file} is missing.")


def _is_as_prepared(folder: str, record: dict[str, Any], is_given: bool) -> bool:
    """Return whether the video is unchanged since it was prepared. A failed video may have been replaced."""
    filesystem, path = url_to_fs(folder)
    name = record["video"]
    advice = f"choose another `output`, or delete {record_name(name)} in it if the video failed before."
    if not is_given:
        raise ValueError(f"`output` was created from other videos: {name} is not in `videos`; {advice}")
    if size_of_video(filesystem, f"{path}/{name}") == record["bytes"]:
        return True
    if record["failure"] is None:
        raise ValueError(f"`videos` contains {name}, which changed after it was prepared; choose another `output`.")
    return False


def _record_killed(filesystem: AbstractFileSystem, path: str, folder: str, name: str) -> str:
    videos, videos_path = url_to_fs(folder)
    reason = "The process that worked on it was killed again, possibly because memory ran out."
    record = {"video": name, "bytes": size_of_video(videos, f"{videos_path}/{name}"), **failed("process", reason)}
    _write(filesystem, path, record_name(name), json.dumps(record, indent=1).encode())
    return name


def _write_summary(filesystem: AbstractFileSystem, path: str, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write the files about the whole dataset, the index last."""
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
    for name, content in draw_plots(rows).items():
        _write(filesystem, path, f"plots/{name}", content)
    _write(filesystem, path, "failures.jsonl", "".join(f"{json.dumps(line)}\n" for line in failures).encode())
    _write(filesystem, path, "statistics.json", json.dumps(summarize(rows), indent=1).encode())
    _write(filesystem, path, "report.json", json.dumps(report, indent=1).encode())
    _write(filesystem, path, "README.md", write_card(rows, report).encode())
    _write(filesystem, path, "index.parquet", encode_index(rows))
    if filesystem.exists(f"{path}/{PARTIAL_FOLDER}"):
        filesystem.rm(f"{path}/{PARTIAL_FOLDER}", recursive=True)
    return report


def _write(filesystem: AbstractFileSystem, path: str, name: str, content: bytes) -> None:
    """Write a file. Object stores show a file only when it is complete; a local file must be renamed."""
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(f"{path}/{name}", content)
        return
    temporary = Path(path, PARTIAL_FOLDER, PurePosixPath(name).name)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    os.replace(temporary, Path(path, name))
