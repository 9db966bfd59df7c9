# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Preparation of the clips of one video: cut, detect the person, filter, crop, measure, encode.

A video is decoded twice, once to find the clips and once to write them, so that memory does not grow with its length.

Axes: F frames of a clip, K = 133 keypoints, H, W; hands are ordered left, right (the person's).
"""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from .. import checks
from ..checks import MAX_SIDE
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.motion_blur import MotionBlurConditioner
from ..conditioning.regions import face_boxes
from ..conditioning.retargeting import smooth_keypoints
from ..conditioning.whole_body import BODY, FACE, SCORE_THRESHOLD
from ..detection.choosing import create_detector
from ..video.frame_folders import IMAGES_FOLDER, is_frame, stream_frame_folder
from ..video.reading import read_frame_rate, stream_frames
from ..video.writing import write_video
from .clip_index import check_row
from .clip_rules import ClipMeasurements, ClipRules
from .scene_cuts import SceneCounter


# Maximum number of frames in memory at a time, and the limit for large ones.
BATCH_FRAMES, BATCH_BYTES = 16, 2**27

# Minimum height of the box of a further person, relative to that of the tallest.
MIN_RELATIVE_HEIGHT = 0.5

# Plausible values for a video of a moving person; some files state an implausible rate.
MIN_FPS, MAX_FPS = 5, 240

MIN_SIDE = 16  # of encoded frames

MAX_KEYFRAME_INTERVAL = 10_000

# Errors caused by unexpected images or keypoints; others are faults of the machine or of the program.
PROCESSING_ERRORS = (ArithmeticError, LookupError, MemoryError, ValueError, cv2.error)

# Folder of incomplete clips.
PARTIAL_FOLDER = ".partial"


@dataclass(frozen=True)
class PreparationOptions:
    """The options that determine the content of a prepared dataset.

    Args:
        size (`tuple[int, int]`, *optional*):
            Height and width of the clips, even numbers. The largest window of that aspect that stands around the
            person, one for the whole clip, is cropped and resized. The default keeps the video's size, made even.
        max_seconds (`float`, *optional*, defaults to `10.0`):
            Longer scenes are split into clips of this length.
        cut_threshold (`float`, *optional*, defaults to `27.0`):
            See [`SceneCounter`].
        smooth (`bool`, *optional*, defaults to `True`):
            Whether to smooth the keypoints of the body and fill short gaps, see [`smooth_keypoints`].
        keyframe_interval (`int`, *optional*, defaults to `12`):
            See [`write_video`]; a short interval makes random access fast, a long one files small.
        keypoints (`str`, *optional*):
            Folder with the keypoints of each video `a/b.mp4` as `a/b.safetensors` or `a/b.npz`, written by
            [`WholeBodyKeypoints.save`]. By default, keypoints are detected.
        frames_fps (`float`, *optional*):
            Frames per second, from 5 to 240, of folders of images. Without it, folders of images are not used.
        detector (`dict[str, Any]`, *optional*):
            Arguments of [`create_detector`], without `device`. Its `detector` defaults to `"rtmpose"`.
        rules ([`ClipRules`], *optional*):
            The filters of the clips.
    """

    size: tuple[int, int] | None = None
    max_seconds: float = 10.0
    cut_threshold: float = 27.0
    smooth: bool = True
    keyframe_interval: int = 12
    keypoints: str | None = None
    frames_fps: float | None = None
    detector: dict[str, Any] = field(default_factory=dict)
    rules: ClipRules = ClipRules()

    def __post_init__(self):
        if self.size is not None and not _is_size(self.size):
            raise ValueError(
                f"`size` must be an even height and width from {MIN_SIDE} to {MAX_SIDE}, got {self.size}."
            )
        checks.instance("rules", self.rules, ClipRules)
        checks.instance("detector", self.detector, dict)
        checks.flag("smooth", self.smooth)
        if checks.number("max_seconds", self.max_seconds) < self.rules.min_seconds:
            raise ValueError(f"`max_seconds` must be at least the rules' `min_seconds`, got {self.max_seconds}.")
        checks.integer("keyframe_interval", self.keyframe_interval, 1, MAX_KEYFRAME_INTERVAL)
        if self.frames_fps is not None:
            checks.number("frames_fps", self.frames_fps, MIN_FPS, MAX_FPS)
        SceneCounter(self.cut_threshold)


class UnusableVideo(Exception):
    """A video that cannot be used. `stage` is the failed step, `"decode"`, `"keypoints"` or `"process"`."""

    def __init__(self, stage: str, reason: str):
        super().__init__(reason)
        self.stage = stage


class ClipPreparer:
    """Prepare one video after another.

    The clips of a video are written to `clips/`, followed by `records/<video>.json` with the outcome: a video with a
    record is finished.

    Args:
        videos (`str`):
            Folder of the videos, or its fsspec URL.
        output (`str`):
            Root of the prepared dataset, or its fsspec URL.
        options ([`PreparationOptions`]):
            Options of the dataset.
        device (`str`, *optional*, defaults to `"cpu"`):
            Device for keypoint detection.
    """

    def __init__(self, videos: str, output: str, options: PreparationOptions, device: str = "cpu"):
        self.options = options
        self._videos, self._videos_path = url_to_fs(videos)
        self._output, self._output_path = url_to_fs(output)
        self._conditioner = MotionBlurConditioner()
        self._detector: Any = None
        if not options.keypoints:
            self._detector = create_detector(**{"detector": "rtmpose", **options.detector}, device=device)

    def __call__(self, video: str) -> str:
        """Prepare a video.

        Args:
            video (`str`):
                Path relative to the folder of the videos.

        Returns:
            `str`: `video`.
        """
        source = f"{self._videos_path}/{video}"
        is_local = isinstance(self._videos, LocalFileSystem)
        record: dict[str, Any] = {"video": video, "bytes": size_of_video(self._videos, source)}
        with self._work_folder(video) as folder:
            path = Path(source) if is_local else folder / f"video{PurePosixPath(video).suffix}"
            try:
                self._fetch(source, path)
                record |= {"failure": None, **self._prepare(video, path, folder)}
            except UnusableVideo as error:
                record |= failed(error.stage, str(error).replace(str(path), video))
            except PROCESSING_ERRORS as error:
                record |= failed("process", f"{type(error).__name__}: {error}")
            for row in record["clips"]:
                for name in (row["file_name"], row["annotations"]):
                    self._publish(folder / PurePosixPath(name).name, name)
            (folder / "record.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
            self._publish(folder / "record.json", record_name(video))
        return video

    def _prepare(self, video: str, path: Path, folder: Path) -> dict[str, Any]:
        """Write the clips of a video to a folder, and return their part of the record."""
        with _reading("decode"):
            fps = read_frame_rate(path) if path.is_file() else float(self.options.frames_fps or 0)
        if not MIN_FPS <= fps <= MAX_FPS:
            raise UnusableVideo("decode", f"it states {fps:g} frames per second, outside {MIN_FPS} to {MAX_FPS}")
        saved = _saved_keypoints(self.options.keypoints, video, fps) if self.options.keypoints else None
        counter = SceneCounter(self.options.cut_threshold, max(1, round(self.options.max_seconds * fps)))
        to_write, written = _decoded(path), 0
        dropped: Counter[str] = Counter()
        clips = []
        stop = 0
        for _, scene in itertools.groupby(_decoded(path), counter):
            start = stop
            keypoints, multi_person_ratio = self._find_person(scene, start, fps, saved)
            stop = start + len(keypoints)
            window = _choose_window(keypoints, self.options.size)
            height, width = self.options.size or (window[3] - window[1], window[2] - window[0])
            upscale_factor = height / (window[3] - window[1])
            keypoints = keypoints.crop(*window).resize(height, width)
            measurements = _measure(keypoints, multi_person_ratio, upscale_factor)
            broken = self.options.rules.first_broken(measurements)
            if broken:
                dropped[broken] += 1
                continue
            frames = itertools.islice(to_write, start - written, stop - written)
            written = stop
            name = f"{_file_stem(video)}-{start:06d}"
            hands = self._write(folder / name, _cropped(frames, window, (height, width)), keypoints)
            row = {
                "clip": name,
                "video": video,
                "file_name": f"clips/{name}.mp4",
                "annotations": f"clips/{name}.safetensors",
                "start_frame": start,
                "num_frames": len(keypoints),
                "fps": fps,
                "height": height,
                "width": width,
                "mean_score": round(measurements.mean_score, 6),
                "person_height": round(measurements.person_height, 6),
                "body_motion": round(measurements.body_motion, 6),
                "hand_motion": _mean(np.linalg.norm(hands["hand_motion"], axis=-1)),
                "hand_sharpness": _mean(hands["hand_sharpness"]),
            }
            check_row(self._output, self._output_path, row, "It has a clip with invalid values")
            clips.append(row)
        if saved is not None and len(saved) != stop:
            raise UnusableVideo("keypoints", f"the keypoints have {len(saved)} frames, the video has {stop}")
        return {"num_frames": stop, "fps": fps, "clips": clips, "dropped": dict(dropped)}

    def _find_person(
        self, frames: Iterator[np.ndarray], start: int, fps: float, saved: WholeBodyKeypoints | None
    ) -> tuple[WholeBodyKeypoints, float]:
        """Return the person in a scene, and the fraction of its frames with several people.

        The scene begins at frame `start`.
        """
        if saved is None:
            people = self._detector.detect(frames, fps)
            keypoints, multi_person_ratio = (
                people.follow(),
                float(np.mean([_is_crowd(boxes) for boxes in people.boxes])),
            )
        else:
            shapes = [frame.shape[:2] for frame in frames]
            if shapes[0] != (saved.height, saved.width) or start + len(shapes) > len(saved):
                raise UnusableVideo(
                    "keypoints",
                    f"the keypoints are of {len(saved)} frames of {saved.width}x{saved.height}, the video has more or "
                    f"others: its frames {start} to {start + len(shapes) - 1} are {shapes[0][1]}x{shapes[0][0]}",
                )
            keypoints, multi_person_ratio = saved[start : start + len(shapes)], 0.0
        return smooth_keypoints(keypoints) if self.options.smooth else keypoints, multi_person_ratio

    def _write(self, base: Path, frames: Iterator[np.ndarray], keypoints: WholeBodyKeypoints) -> dict[str, np.ndarray]:
        """Write the video and the annotations of a clip, and return the measurements of the hands."""
        hands: dict[str, list[np.ndarray]] = {"hand_boxes": [], "hand_motion": [], "hand_sharpness": []}
        frames = self._measuring_hands(frames, keypoints, hands)
        try:
            write_video(base.with_suffix(".mp4"), frames, keypoints.fps, self.options.keyframe_interval)
        except OSError as error:
            if error.errno in errno.errorcode:  # from the system, such as a full disk
                raise
            raise UnusableVideo("process", f"Its clip cannot be encoded: {error.strerror}") from error
        of_hands = {name: np.concatenate(parts) for name, parts in hands.items()}
        of_person = {name: np.asarray(getattr(keypoints, name)) for name in ("xy", "score", "height", "width", "fps")}
        annotations = {**of_person, "face_boxes": face_boxes(keypoints)}
        annotations |= {name: of_hands[name] for name in ("hand_boxes", "hand_sharpness")}
        base.with_suffix(".safetensors").write_bytes(safetensors.numpy.save(annotations))
        return of_hands

    def _measuring_hands(
        self, frames: Iterator[np.ndarray], keypoints: WholeBodyKeypoints, hands: dict[str, list[np.ndarray]]
    ) -> Iterator[np.ndarray]:
        """Pass frames on, and append the arrays of `MotionBlurCondition` that `hands` names."""
        start = 0
        before: list[np.ndarray] = []  # the last frame: motion is known from the second frame on
        for batch in _batches(frames):
            stop = start + len(batch)
            part = keypoints[start - len(before) : stop]
            condition = self._conditioner(part, np.stack([*before, *batch]))
            for name, arrays in hands.items():
                arrays.append(getattr(condition, name)[len(before) :])
            yield from batch
            start, before = stop, batch[-1:]

    def _fetch(self, source: str, path: Path) -> None:
        if isinstance(self._videos, LocalFileSystem):
            if not path.is_file() and not self._is_of_frames(source):  # opening a FIFO would block
                raise UnusableVideo("decode", f"{str(path)!r} is not a regular file.")
            return
        try:
            if self._is_of_frames(source):
                path.mkdir()
                for file in self._videos.ls(source, detail=False):
                    if is_frame(PurePosixPath(file).name):
                        self._videos.get_file(file, str(path / PurePosixPath(file).name))
            else:
                self._videos.get_file(source, str(path))
        except (FileNotFoundError, PermissionError) as error:
            raise UnusableVideo("decode", f"It cannot be read: {error}") from error

    def _is_of_frames(self, source: str) -> bool:
        return self.options.frames_fps is not None and self._videos.isdir(source)

    @contextmanager
    def _work_folder(self, video: str) -> Iterator[Path]:
        """Create an empty folder, next to the output if that is local, so that files can be moved atomically."""
        if isinstance(self._output, LocalFileSystem):
            folder = Path(self._output_path, PARTIAL_FOLDER, _file_stem(video))
            shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
            folder.mkdir(parents=True)
        else:
            folder = Path(tempfile.mkdtemp())
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, path: Path, name: str) -> None:
        target = f"{self._output_path}/{name}"
        if isinstance(self._output, LocalFileSystem):
            os.replace(path, target)
        else:
            self._output.put_file(str(path), target)


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(side, int) and MIN_SIDE <= side <= MAX_SIDE and side % 2 == 0 for side in size)
    )


def record_name(video: str) -> str:
    """Return the path of a video's record relative to the root of a prepared dataset."""
    return f"records/{_file_stem(video)}.json"


def was_interrupted(filesystem: AbstractFileSystem, output: str, video: str) -> bool:
    """Return whether a process was killed while it prepared a video. This is unknown if the output is not local."""
    return filesystem.exists(f"{output}/{PARTIAL_FOLDER}/{_file_stem(video)}")


def _file_stem(video: str) -> str:
    """Return a file name without suffix that is unique to the video."""
    path = PurePosixPath(video)
    path = path.parent if path.name == IMAGES_FOLDER else path
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:60]
    return f"{readable}-{hashlib.sha256(video.encode()).hexdigest()[:12]}"


def size_of_video(filesystem: AbstractFileSystem, path: str) -> int:
    """Return the size in bytes, 0 if there is no such file; for a folder, the total size of its files."""
    if not filesystem.exists(path):
        return 0
    return filesystem.du(path, maxdepth=1) if filesystem.isdir(path) else filesystem.size(path)


def failed(stage: str, reason: str) -> dict[str, Any]:
    """Return the record of a video that cannot be used."""
    return {"failure": {"stage": stage, "reason": " ".join(reason.split())}, "clips": [], "dropped": {}}


@contextmanager
def _reading(stage: str) -> Iterator[None]:
    """Attribute every error while a file is read to the file; there are too many kinds to list."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnusableVideo(stage, str(error)) from error
    except Exception as error:
        raise UnusableVideo(stage, f"{type(error).__name__}: {error}") from error


def _saved_keypoints(folder: str, video: str, fps: float) -> WholeBodyKeypoints:
    path = Path(folder, video).with_suffix(".safetensors")
    with _reading("keypoints"):
        keypoints = WholeBodyKeypoints.load(path if path.is_file() else path.with_suffix(".npz"))
    return replace(keypoints, fps=fps)  # one per frame, regardless of the rate they were saved with


def _decoded(path: Path) -> Iterator[np.ndarray]:
    with _reading("decode"):
        frames = stream_frame_folder(path) if path.is_dir() else stream_frames(path)
    while True:
        with _reading("decode"):
            frame = next(frames, None)
        if frame is None:
            return
        height, width = frame.shape[:2]
        if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
            raise UnusableVideo("decode", f"it has frames of {width}x{height} pixels")
        yield frame


def _batches(frames: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Group frames into batches of one size."""
    frames = iter(frames)
    for frame in frames:
        number = min(BATCH_FRAMES, max(1, BATCH_BYTES // frame.nbytes))
        yield [frame, *itertools.islice(frames, number - 1)]


def _is_crowd(boxes: np.ndarray) -> bool:
    heights = boxes[:, 3] - boxes[:, 1]
    return len(boxes) > 1 and bool((heights >= MIN_RELATIVE_HEIGHT * heights.max()).sum() > 1)


def _choose_window(keypoints: WholeBodyKeypoints, size: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of the largest crop with the aspect ratio of `size`, centred on the person if possible."""
    if size is None:
        return 0, 0, keypoints.width // 2 * 2, keypoints.height // 2 * 2
    scale = min(keypoints.height / size[0], keypoints.width / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    points = keypoints.xy[:, BODY][keypoints.score[:, BODY] > SCORE_THRESHOLD]
    x, y = np.median(points, axis=0) if len(points) else (keypoints.width / 2, keypoints.height / 2)
    x0 = int(np.clip(round(x - width / 2), 0, keypoints.width - width))
    y0 = int(np.clip(round(y - height / 2), 0, keypoints.height - height))
    return x0, y0, x0 + width, y0 + height


def _cropped(
    frames: Iterator[np.ndarray], window: tuple[int, int, int, int], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    x0, y0, x1, y1 = window
    height, width = size
    interpolation = cv2.INTER_AREA if height < y1 - y0 else cv2.INTER_CUBIC
    for frame in frames:
        yield cv2.resize(np.ascontiguousarray(frame[y0:y1, x0:x1]), (width, height), interpolation=interpolation)


def _measure(keypoints: WholeBodyKeypoints, multi_person_ratio: float, upscale_factor: float) -> ClipMeasurements:
    score, xy = keypoints.score[:, BODY], keypoints.xy[:, BODY]
    visible = score > SCORE_THRESHOLD
    is_found = (score > 0).any(axis=1)
    points, height = xy[visible], _person_height(keypoints)
    is_outside = ((points < 0) | (points > (keypoints.width, keypoints.height))).any(axis=1)
    steps = np.linalg.norm(np.diff(xy, axis=0), axis=-1)[visible[1:] & visible[:-1]]
    return ClipMeasurements(
        seconds=len(keypoints) / keypoints.fps,
        person_visible_ratio=float(is_found.mean()),
        multi_person_ratio=multi_person_ratio,
        person_height=height / keypoints.height,
        mean_score=float(score[is_found].mean()) if is_found.any() else 0.0,
        outside_ratio=float(is_outside.mean()) if len(points) else 0.0,
        body_motion=float(steps.mean()) * keypoints.fps / height if len(steps) and height else 0.0,
        upscale_factor=upscale_factor,
    )


def _person_height(keypoints: WholeBodyKeypoints) -> float:
    """Return the median extent in pixels from the highest to the lowest point of body, feet and face."""
    visible = keypoints.score[:, : FACE.stop] > SCORE_THRESHOLD
    y = keypoints.xy[:, : FACE.stop, 1]
    extent = np.where(visible, y, -np.inf).max(axis=1) - np.where(visible, y, np.inf).min(axis=1)
    extent = extent[np.isfinite(extent)]
    return float(np.median(extent)) if len(extent) else 0.0


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return round(float(known.mean()), 6) if len(known) else None
