# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of video files into arrays. Axes: F frames, H, W."""

import bisect
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from .. import checks
from .animations import animation_comment, animation_frames, animation_rate, open_animation
from .containers import file_name, open_container
from .display import Display
from .frame_folders import stream_frame_folder


# In lower case, of files that are treated as videos.
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"),
    *(".webm", ".wmv"),
)

# Plausible frames per second of a video of people. Some files state an implausible rate, such as their time base.
MIN_RATE, MAX_RATE = 1.0, 240.0

# Fraction of the frames that a video should have at its stated rate.
LEAST_SHARE = 0.97

# FFmpeg's own decoders ignore the alpha channel of these.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass
class Video:
    """A decoded video.

    Args:
        frames (`np.ndarray`):
            Frames of shape `(F, H, W, 3)`, uint8 RGB.
        fps (`float`):
            Frames per second.
    """

    frames: np.ndarray
    fps: float


class VideoFrames:
    """The frames of a video file or of a folder of images.

    Every iteration decodes them again, so that memory does not grow with their number.

    Args:
        path (`str` or `os.PathLike`):
            The file, as for [`read_video`], or the folder, as for [`~video.frame_folders.stream_frame_folder`].
        max_frames (`int`, *optional*):
            Maximum number of frames to decode; all by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: During iteration, as [`read_video`], or if the file has changed since the first iteration.
    """

    def __init__(self, path: str | os.PathLike, max_frames: int | None = None):
        self.path = path
        self._selected = slice(0, None if max_frames is None else checks.integer("max_frames", max_frames), 1)
        self._shape: tuple[int, int, int, int] | None = None
        if not Path(checks.path("path", path)).is_dir():
            _check_file(path)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Iterate over uint8 RGB frames `(H, W, 3)`."""
        count, size = 0, None
        read: Any = stream_frame_folder if Path(self.path).is_dir() else _stream_frames
        for frame in read(self.path, self._selected):
            size = size or frame.shape
            if frame.shape != size:
                raise ValueError(f"{str(self.path)!r} changes its frame size at frame {count}.")
            count += 1
            yield frame
        shape = (count, *(size or (0, 0, 3)))
        if self._shape not in (None, shape):
            raise ValueError(f"{str(self.path)!r} has changed since it was first read.")
        self._shape = shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape `(F, H, W, 3)`. The first access decodes the whole video."""
        if self._shape is None:
            for _ in self:
                pass
        assert self._shape is not None
        return self._shape

    def __len__(self) -> int:
        """Number of frames."""
        return self.shape[0]

    def __getitem__(self, frames: slice) -> "VideoFrames":
        """Select a range of frames. The others are decoded, but neither converted nor kept."""
        if not isinstance(frames, slice):
            raise TypeError(
                f"`frames` of a file supports iteration and slices such as frames[10:20:2], got {frames!r}."
            )
        start, step = frames.start or 0, frames.step or 1
        if min(start, frames.stop or 0, step - 1) < 0:
            raise ValueError(f"`frames` of a file must be a slice of numbers from 0 on, got {frames!r}.")
        whole = self._selected
        stops = [whole.stop, None if frames.stop is None else whole.start + frames.stop * whole.step]
        stop = min((stop for stop in stops if stop is not None), default=None)
        selected = slice(whole.start + start * whole.step, stop, whole.step * step)
        if selected == whole:
            return self
        part = VideoFrames(self.path)
        part._selected = selected
        return part


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> Video:
    """Decode a video file as a player displays it: see [`~video.display.Display`].

    Args:
        path (`str` or `os.PathLike`):
            The file: a video that FFmpeg decodes, in one of the formats of [`~video.containers`], or a GIF, PNG or
            WebP.
        max_frames (`int`, *optional*):
            Maximum number of frames to decode; all by default.

    Returns:
        [`Video`]: uint8 RGB frames and the frame rate.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `path` cannot be decoded (up to `max_frames`), contains no video stream or contains no frame.
    """
    frames = VideoFrames(path, max_frames)
    fps = read_frame_rate(path)
    pixels = bytearray()  # grows in place: a list of frames would be copied into an array
    for frame in frames:
        pixels += frame.data
    return Video(np.frombuffer(pixels, np.uint8).reshape(frames.shape), fps)


def stream_frames(path: str | os.PathLike | BinaryIO) -> Iterator[np.ndarray]:
    """Decode a video frame by frame as a player displays it, with memory independent of its length.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file, as for [`read_video`]. A binary file must be seekable.

    Returns:
        An iterator over uint8 RGB frames `(H, W, 3)`. Their size changes where the video's does. The `ValueError` of a
        file that is damaged, contains no video stream or contains no frame comes while iterating.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    _check_file(path)
    return _stream_frames(path)


def read_frames(path: str | os.PathLike | BinaryIO, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Decode selected frames of a video as a player displays it, starting at the keyframes before them.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file: a video with time stamps that FFmpeg decodes, in one of the formats of [`~video.containers`]. A
            binary file must be seekable.
        indices (`Sequence[int]` or `np.ndarray`):
            Frame numbers, counted from 0 as in [`read_video`], in any order and possibly repeated.

    Returns:
        `np.ndarray`: uint8 RGB frames `(len(indices), H, W, 3)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `indices` are empty or not frames of the video, the file cannot be decoded or sought in, or the
            frames differ in size.
    """
    try:
        wanted = np.asarray(indices)
    except ValueError:  # nested lists
        wanted = np.asarray(None)
    if wanted.ndim != 1 or len(wanted) == 0 or not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(f"`indices` must be a non-empty list of integers, got {checks.shown(indices)}.")
    with _opened(path) as (container, stream):
        times: list[int] = []
        keyframes: list[tuple[int, int]] = []  # display time and decoding time
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                raise ValueError(f"{file_name(path)!r} stores no time stamps, which are needed to find a frame.")
            times.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if wanted.min() < 0 or wanted.max() >= len(times):
            raise ValueError(
                f"`indices` must be frames of {file_name(path)!r}, from 0 to {len(times) - 1}, got {indices}."
            )
        if not keyframes:
            raise ValueError(f"{file_name(path)!r} contains no keyframe to decode from.")
        times.sort()
        decoded = dict(_decode_at(container, stream, sorted(keyframes), sorted({times[index] for index in wanted})))
    if len({frame.shape for frame in decoded.values()}) > 1:
        raise ValueError(f"{file_name(path)!r} changes its frame size between the frames of `indices`.")
    return np.stack([decoded[times[index]] for index in wanted])


def read_frame_rate(path: str | os.PathLike | BinaryIO) -> float:
    """Return the frame rate of a video file.

    This is the stated rate or, if it is missing, implausible or higher than the number of frames allows, the mean rate
    of the time stamps.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file. A binary file must be seekable.

    Returns:
        `float`: Mean frames per second, from `MIN_RATE` to `MAX_RATE`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a video, or its frame rate is missing or implausible for a video of people.
    """
    _check_file(path)
    with open_animation(path) as animation:
        rate = None if animation is None else animation_rate(animation, file_name(path))
    if rate is None:
        with _opened(path) as (container, stream):
            rate = float(stream.average_rate or 0)
            count, span = _time_stamps(container, stream)
            # Some files state the rate of the camera or the screen, but lack dropped or repeated frames.
            if span and (not MIN_RATE <= rate <= MAX_RATE or MIN_RATE <= count / span < LEAST_SHARE * rate):
                rate = (count - 1) / span
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(
            f"{file_name(path)!r} has {rate:g} frames per second; a video must have {MIN_RATE:g} to {MAX_RATE:g}."
        )
    return rate


def read_comment(path: str | os.PathLike) -> str | None:
    """Return the comment in the metadata of a video file, a GIF, a WebP or a PNG.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Returns:
        `str`, *optional*: The comment; `None` if there is none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a video.
    """
    _check_file(path)
    with open_animation(path) as animation:
        if animation is not None:
            return animation_comment(animation)
    with _opened(path) as (container, _):
        return {name.lower(): value for name, value in container.metadata.items()}.get("comment")


def _check_file(path: str | os.PathLike | BinaryIO) -> None:
    if hasattr(path, "read"):
        return
    if not Path(checks.path("path", path)).is_file():
        raise FileNotFoundError(f"There is no video file {str(path)!r}.")


@contextmanager
def _opened(path: str | os.PathLike | BinaryIO) -> Iterator[tuple[Any, Any]]:
    """Open the PyAV container, and select the video stream that a player would choose."""
    _check_file(path)
    try:
        with open_container(path) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{file_name(path)!r} contains no video stream.")
            if stream.codec_context is None:
                raise ValueError(f"{file_name(path)!r} is in a codec that FFmpeg does not know.")
            yield container, stream
    except av.FFmpegError as error:
        raise ValueError(f"{file_name(path)!r} cannot be decoded as a video: {error.strerror}.") from error


def _stream_frames(path: str | os.PathLike | BinaryIO, selected: slice = slice(None)) -> Iterator[np.ndarray]:
    with open_animation(path) as animation:
        if animation is not None:
            yield from animation_frames(animation, file_name(path), selected)
            return
    frame = None
    with _opened(path) as (container, stream):
        show = Display(file_name(path), stream.sample_aspect_ratio)
        for frame in itertools.islice(_decoded(container, stream), selected.start, selected.stop, selected.step):
            yield show(frame)
    if frame is None and not selected.start:
        raise ValueError(f"{file_name(path)!r} contains no video frame.")


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[Any]:
    """Iterate over the frames from the current position of the container."""
    metadata = {name.lower(): value for name, value in stream.metadata.items()}
    codec = stream.codec_context.name
    if metadata.get("alpha_mode") != "1" or codec not in ALPHA_DECODERS:
        yield from container.decode(stream)
        return
    decoder: Any = av.CodecContext.create(ALPHA_DECODERS[codec], "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet if packet.size else None)


def _time_stamps(container: av.container.InputContainer, stream: Any) -> tuple[int, float]:
    """Return the number of time stamps, and the seconds from the first to the last."""
    times = [packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None]
    return len(times), float((max(times) - min(times)) * stream.time_base) if times else 0.0


def _decode_at(
    container: av.container.InputContainer, stream: av.VideoStream, keyframes: list[tuple[int, int]], times: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over ascending times and the frames displayed at them."""
    show = Display(container.name, stream.sample_aspect_ratio)
    now = None
    for time in times:
        shown, decoded = keyframes[max(0, bisect.bisect_right(keyframes, time, key=lambda keyframe: keyframe[0]) - 1)]
        if now is None or now < shown:
            # Not to the display time: by then, decoding may have reached the next keyframe.
            container.seek(decoded, stream=stream)
            frames = _decoded(container, stream)
        frame = next((frame for frame in frames if frame.pts >= time), None)
        if frame is None or frame.pts != time:
            raise ValueError(f"{container.name!r} cannot be sought in: its time stamps do not lead to its frames.")
        now = time
        yield time, show(frame)
