# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The videos of a folder, or of a list in one of the formats of other projects."""

import csv
import io
import json
import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from .. import checks
from ..natural_order import natural_order
from ..video.frame_folders import IMAGES_FOLDER, is_frame
from ..video.reading import VIDEO_SUFFIXES
from .clip_index import check_inside


logger = logging.getLogger(__name__)

# Keys of list entries, or columns of a table, that contain the path of the video.
VIDEO_KEYS = ("video_path", "video", "file_name", "path")


def list_videos(videos: str | os.PathLike, frames_fps: float | None = None) -> tuple[str, list[str]]:
    """Find the videos of a folder or of a list.

    Args:
        videos (`str` or `os.PathLike`):
            A folder, searched recursively for files with a suffix in `VIDEO_SUFFIXES`; or a list in UTF-8: a `.json`
            or `.jsonl` file of paths or objects, a `.csv` file with a header, or a text file with one path per line.
            In objects and tables, the path is under the first of `VIDEO_KEYS` that is present. Paths are relative to
            the folder of the list; absolute ones must lie in it. Folder or list may be an fsspec URL.
        frames_fps (`float`, *optional*):
            If given, folders of images also count as videos: folders that contain images and no videos, among siblings
            only the one named `images`, and folders in the list.

    Returns:
        `tuple[str, list[str]]`: The folder, and the paths of the videos relative to it, sorted by the numbers in their
        names.

    Raises:
        FileNotFoundError: If there is no such folder or list, or a file that it names does not exist.
        ValueError: If there are no videos, one is named twice, a path leaves the folder or is not UTF-8, the list is
            damaged or names no videos, or `frames_fps` is missing for folders of images, or given without any.
    """
    videos = checks.path("videos", videos)
    filesystem, path = url_to_fs(videos)
    if filesystem.isdir(path):
        folder = videos
        found = _files_in(filesystem, path)
        names = [name for name in found if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES]
        of_frames = _frame_folders(found, names)
        if frames_fps is not None:
            if not of_frames:
                raise ValueError(f"`videos` contains no folders of images, which `frames_fps` requires: {videos}.")
            names += of_frames
        elif of_frames and not names:
            raise ValueError(
                f"`videos` contains no videos but folders of images, such as {of_frames[0]}: give their frame rate as "
                "`frames_fps`, which they do not state."
            )
        elif not names and any(map(is_frame, found)):
            raise ValueError(
                f"`videos` contains images: move the frames of each clip to a folder of its own: {videos}."
            )
    elif filesystem.isfile(path):
        folder = videos.rpartition("/")[0] or "."
        named = _named_in(filesystem, path, videos)
        path = path.rpartition("/")[0]
        names = [_relative(filesystem, path, name) for name in named]
    else:
        raise FileNotFoundError(f"`videos` is neither a folder nor a list of videos: {videos}.")
    if not names:
        raise ValueError(f"`videos` contains no videos: {videos}.")
    doubles = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubles:
        raise ValueError(f"`videos` names a video twice: {doubles[0]}.")
    for name in names:
        if name != name.encode("utf-8", "replace").decode("utf-8"):
            raise ValueError(f"`videos` contains a file whose name is not UTF-8: {name!r}.")
        check_inside(filesystem, path, name, f"`videos` ({videos})")
    if folder != videos:
        _check_named(filesystem, path, names, frames_fps)
    return folder, sorted(names, key=natural_order)


def _files_in(filesystem: AbstractFileSystem, path: str) -> list[str]:
    """Return the paths of all files below a folder, relative to it."""
    if not isinstance(filesystem, LocalFileSystem):
        return [posixpath.relpath(file, path) for file in filesystem.find(path)]
    found = []
    for folder, folders, files in os.walk(path, onerror=_raise):
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                name = Path(folder, name).relative_to(path).as_posix()
                raise ValueError(f"`videos` contains a link to a folder, which is not followed: {name}.")
        found += [Path(folder, name).relative_to(path).as_posix() for name in files]
    return found


def _raise(error: OSError) -> None:
    raise error


def _frame_folders(files: Iterable[str], videos: Iterable[str]) -> list[str]:
    """Return the folders that contain images and no videos; next to videos, images are their posters."""
    parents = {str(PurePosixPath(name).parent) for name in files if is_frame(PurePosixPath(name).name)}
    folders = parents - {str(PurePosixPath(name).parent) for name in videos} - {"."}
    of_clips = {str(PurePosixPath(name).parent) for name in folders if PurePosixPath(name).name == IMAGES_FOLDER}
    of_clips -= {"."}

    def is_beside_images(name: str) -> bool:
        path = PurePosixPath(name)
        return str(path.parent) in of_clips and path.name != IMAGES_FOLDER

    return sorted(name for name in folders if not is_beside_images(name))


def _named_in(filesystem: AbstractFileSystem, path: str, videos: str) -> list[str]:
    suffix = PurePosixPath(path).suffix.lower()
    try:
        text = filesystem.read_text(path, encoding="utf-8-sig", newline="")
        if suffix == ".json":
            entries = json.loads(text)
        elif suffix == ".jsonl":
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif suffix == ".csv":
            entries = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        else:
            entries = [line.strip() for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`videos` must be a folder, or a list as text, .csv, .json or .jsonl in UTF-8, got {videos}."
        ) from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"`videos` cannot be read as a {suffix} file: {videos} ({error}).") from error
    if not isinstance(entries, list):
        raise ValueError(f"`videos` must contain a list of paths or objects: {videos}.")
    names = []
    for number, entry in enumerate(entries):
        key = next((key for key in VIDEO_KEYS if key in entry), None) if isinstance(entry, dict) else None
        name = entry if key is None else entry[key]
        if not isinstance(name, str) or not name.strip():
            keys = ", ".join(VIDEO_KEYS)
            raise ValueError(
                f"`videos` ({videos}): entry {number} must be a path, or contain one as one of {keys}, got "
                f"{_short(entry)}."
            )
        names.append(name)
    unread = sorted({str(key) for entry in entries if isinstance(entry, dict) for key in entry} - set(VIDEO_KEYS))
    if unread:
        logger.warning("From %s, only the videos are read, not %s; pass keypoints separately.", videos, unread)
    return names


def _short(entry: object) -> str:
    text = repr(entry)
    return text if len(text) < 100 else f"{text[:100]}..."


def _relative(filesystem: AbstractFileSystem, folder: str, name: str) -> str:
    path = PurePosixPath(name)
    if isinstance(filesystem, LocalFileSystem) and path.is_absolute() and path.is_relative_to(folder):
        path = path.relative_to(folder)
    return str(path)


def _check_named(filesystem: AbstractFileSystem, path: str, names: list[str], frames_fps: float | None) -> None:
    folders = []
    for name in names:
        if not filesystem.exists(f"{path}/{name}"):
            raise FileNotFoundError(f"`videos` names a file that does not exist: {name}.")
        if filesystem.isdir(f"{path}/{name}"):
            folders.append(name)
    if folders and frames_fps is None:
        raise ValueError(
            f"`videos` names folders of images, such as {folders[0]}: pass their frame rate as `frames_fps`, "
            "which they do not state."
        )
    if frames_fps is not None and not folders:
        raise ValueError("`videos` names no folders of images, which `frames_fps` requires.")
