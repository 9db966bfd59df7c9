# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of videos to a prepared dataset.

```
root/
  index.parquet                 one row per clip, sorted by `clip`, see `clip_index`
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
    """
    Make training clips of videos. Needs the `train` extra, and `pose` to detect or smooth keypoints.

    A run that was interrupted, in whatever way, goes on where it was when it is started again, and so does a finished
    one whose folder of videos has grown. A video that cannot be used is recorded with the reason, whatever is wrong
    with it, and the others are prepared. The result depends on the videos and on `options` only.

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
        `RuntimeError`: another run is writing to `output` (`FolderInUseError`), or worker processes cannot start.
        `ValueError`: an argument is invalid, a path leaves its folder, or `output` holds something else or damaged
            state, or was made with other options or of other videos.
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
        raise FileNotFoundError(f"`options.keypoints` is no folder: {keypoints}.")
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
    doubles = sorted(stem for stem, count in stems.items() if count > 1)
    if doubles:
        raise ValueError(f"`videos` must differ in more than the suffix for `options.keypoints`: {doubles[0]}.*.")


def _check_place(filesystem: AbstractFileSystem, path: str, videos: str | os.PathLike) -> None:
    """A run that is given again would take the clips of the one before for videos."""
    _, videos_path = url_to_fs(os.fspath(videos))
    folders = [path, videos_path]
    if isinstance(filesystem, LocalFileSystem):
        folders = [os.path.realpath(folder) for folder in folders]
    if f"{folders[0]}/".startswith(f"{folders[1]}/"):
        raise ValueError(f"`output` must not lie in the folder of the videos, got {path}.")
    if filesystem.exists(path) and not filesystem.isdir(path):
        raise ValueError(f"`output` must be an empty folder or one of an earlier run, got {path}.")


def _open_output(filesystem: AbstractFileSystem, path: str, options: PreparationOptions) -> None:
    """Makes the folder, or checks that what is in it was made with the same options."""
    wanted = {"schema_version": SCHEMA_VERSION, **json.loads(json.dumps(dataclasses.asdict(options)))}
    if filesystem.isfile(f"{path}/options.json"):
        found = _load_json(filesystem, f"{path}/options.json")
        is_used = any(filesystem.find(f"{path}/{folder}") for folder in ("clips", "records"))
        if is_used and not isinstance(found, dict):
            raise ValueError(
                f"`output` holds a damaged options.json, and nothing else says what its clips were made with: {path}; "
                "choose another folder."
            )
        changed = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)] if is_used else []
        if changed:
            differences = "; ".join(f"{name} was {found.get(name)}, is {wanted.get(name)}" for name in changed)
            raise ValueError(f"`output` was made with other options ({differences}); choose another folder.")
    elif filesystem.isdir(path) and _names(filesystem, path) - {PARTIAL_FOLDER, LOCK_FILE}:
        raise ValueError(f"`output` must be an empty folder or one of an earlier run, got {path}.")
    _write(filesystem, path, "options.json", json.dumps(wanted, indent=1).encode())
    for folder in ("clips", "records", "plots"):
        filesystem.makedirs(f"{path}/{folder}", exist_ok=True)


def _names(filesystem: AbstractFileSystem, path: str) -> set[str]:
    return {posixpath.basename(name) for name in filesystem.ls(path, detail=False)}


def _load_json(filesystem: AbstractFileSystem, path: str) -> Any:
    """What a file holds; `None` where it is damaged."""
    if isinstance(filesystem, LocalFileSystem) and not filesystem.isfile(path):  # to open a FIFO would wait for ever
        return None
    try:
        return json.loads(filesystem.cat_file(path))
    except (ValueError, RecursionError):
        return None


def _finished_videos(
    filesystem: AbstractFileSystem, path: str, folder: str, names: list[str]
) -> dict[str, dict[str, Any]]:
    """The records of those of the videos that are finished: not where the record or a clip is damaged or missing."""
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
                    f"{error} It is of no video in `videos`: delete it, or choose another `output`."
                ) from error
            logger.warning("%s The video is prepared anew: %s", error, video_of[name])
            continue
        if _is_as_prepared(folder, record, name in video_of):
            finished[record["video"]] = record
    return finished


def _check_record(filesystem: AbstractFileSystem, path: str, name: str, record: Any, files: set[str]) -> None:
    where = f"`output`: {name} is damaged"
    kinds: dict[str, Any] = {"video": str, "bytes": int, "failure": (dict, type(None)), "clips": list, "dropped": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{where}: it must hold {', '.join(kinds)}.")
    if record_name(record["video"]) != name:
        raise ValueError(f"{where}: it is the record of another video, {record['video']!r}.")
    failure = record["failure"]
    if failure is not None and not all(isinstance(failure.get(key), str) for key in ("stage", "reason")):
        raise ValueError(f"{where}: `failure` must hold stage and reason.")
    if any(not isinstance(count, int) for count in record["dropped"].values()):
        raise ValueError(f"{where}: `dropped` must hold numbers of clips.")
    for row in record["clips"]:
        check_row(filesystem, path, row, where)
        for file in (row["file_name"], row["annotations"]):
            if file not in files:
                raise ValueError(f"`output`: {file} is missing.")


def _is_as_prepared(folder: str, record: dict[str, Any], is_given: bool) -> bool:
    """Whether the video is still the one that was prepared. One that failed may have been replaced since."""
    filesystem, path = url_to_fs(folder)
    name = record["video"]
    advice = f"choose another `output`, or delete {record_name(name)} in it if the video failed before."
    if not is_given:
        raise ValueError(f"`output` was made of other videos: {name} is not in `videos`; {advice}")
    if size_of_video(filesystem, f"{path}/{name}") == record["bytes"]:
        return True
    if record["failure"] is None:
        raise ValueError(f"`videos` holds {name}, which has changed since it was prepared; choose another `output`.")
    return False


def _record_killed(filesystem: AbstractFileSystem, path: str, folder: str, name: str) -> str:
    videos, videos_path = url_to_fs(folder)
    reason = "The process that worked on it was killed again, as the system does when memory runs out."
    record = {"video": name, "bytes": size_of_video(videos, f"{videos_path}/{name}"), **failed("process", reason)}
    _write(filesystem, path, record_name(name), json.dumps(record, indent=1).encode())
    return name


def _write_summary(filesystem: AbstractFileSystem, path: str, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Writes everything that is about the whole dataset, the index last."""
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
    """Object stores show a file only when it is complete; a local one has to be moved to its name."""
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(f"{path}/{name}", content)
        return
    temporary = Path(path, PARTIAL_FOLDER, PurePosixPath(name).name)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    os.replace(temporary, Path(path, name))
