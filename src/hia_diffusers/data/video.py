# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Video files to and from arrays. Axes: F frames, H, W."""

import bisect
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.logging
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from ..images import load_image
from .sound import ANY_METADATA, Sound, open_sound


# Flags of FFmpeg's libswscale, which not every release of PyAV names: bicubic, full chroma interpolation and accurate
# rounding. Its default rounds down: a video would come back a level darker than it was.
CONVERSION = 0x4 | 0x2000 | 0x40000


@dataclass
class Video:
    """
    A decoded video.

    Args:
        frames (`np.ndarray`):
            Frames of shape `(F, H, W, 3)`, uint8 RGB.
        fps (`float`):
            Frames per second.
    """

    frames: np.ndarray
    fps: float


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> Video:
    """
    Decodes a video file, upright: a rotation stored beside the pixels (as phones do) is applied.

    Args:
        path (`str` or `os.PathLike`):
            The file, in any container and codec that FFmpeg decodes.
        max_frames (`int`, *optional*):
            Stop after this many frames. The default decodes all of them.

    Returns:
        [`Video`]: uint8 RGB frames and the frame rate.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if `path` cannot be decoded (up to `max_frames`), holds no video stream or holds no frame.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"`max_frames` must be at least 1, got {max_frames}.")
    fps = read_frame_rate(path)
    frames: list[np.ndarray] = []
    for frame in itertools.islice(stream_frames(path), max_frames):
        if frames and frame.shape != frames[0].shape:
            raise ValueError(f"{str(path)!r} changes its frame size at frame {len(frames)}.")
        frames.append(frame)
    return Video(np.stack(frames), fps)


def stream_frames(path: str | os.PathLike | BinaryIO) -> Iterator[np.ndarray]:
    """
    Decodes a video frame by frame, upright, in memory that does not grow with its length.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file, in any container and codec that FFmpeg decodes. A binary file must be seekable.

    Returns:
        An iterator over uint8 RGB frames `(H, W, 3)`. Their size changes where the video's does. The `ValueError` of a
        file that is damaged, holds no video stream or holds no frame comes while iterating.

    Raises:
        `FileNotFoundError`: if there is no such file.
    """
    _check_file(path)
    return _stream_frames(path)


def read_frames(path: str | os.PathLike | BinaryIO, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """
    Decodes some frames of a video, upright, without decoding what lies before the keyframes in front of them.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file, in any container and codec that FFmpeg decodes and that stores time stamps. A binary file must be
            seekable.
        indices (`Sequence[int]` or `np.ndarray`):
            Which frames, counted from 0 as [`read_video`] returns them; in any order, also repeatedly.

    Returns:
        `np.ndarray`: uint8 RGB frames `(len(indices), H, W, 3)`.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if `indices` are none or not frames of the video, if the file cannot be decoded or sought in, or
            if the frames are not of one size.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or len(wanted) == 0 or not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(f"`indices` must be a list of whole numbers with at least one, got {indices!r}.")
    with _opened(path) as (container, stream):
        times: list[int] = []
        keyframes: list[tuple[int, int]] = []  # when each is shown and when it is decoded
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                raise ValueError(f"{_name(path)!r} stores no time stamps to find a frame by.")
            times.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if wanted.min() < 0 or wanted.max() >= len(times):
            raise ValueError(
                f"`indices` must be frames of {_name(path)!r}, from 0 to {len(times) - 1}, got {indices}."
            )
        if not keyframes:
            raise ValueError(f"{_name(path)!r} stores no keyframe to decode from.")
        times.sort()
        decoded = dict(_decode_at(container, stream, sorted(keyframes), sorted({times[index] for index in wanted})))
    if len({frame.shape for frame in decoded.values()}) > 1:
        raise ValueError(f"{_name(path)!r} changes its frame size between the frames of `indices`.")
    return np.stack([decoded[times[index]] for index in wanted])


def read_frame_rate(path: str | os.PathLike | BinaryIO) -> float:
    """
    The frame rate that a video file states.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file. A binary file must be seekable.

    Returns:
        `float`: mean frames per second.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it is no video or does not say its frame rate.
    """
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise ValueError(f"{_name(path)!r} does not say its frame rate.")
    return float(rate)


def read_comment(path: str | os.PathLike) -> str | None:
    """
    The comment in a video file's metadata.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Returns:
        `str`, *optional*: `None` where there is none.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it is no video.
    """
    with _opened(path) as (container, _):
        return container.metadata.get("comment")


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray | Iterable,
    fps: float,
    keyframe_interval: int | None = None,
    audio_from: str | os.PathLike | None = None,
    comment: str | None = None,
) -> None:
    """
    Encodes frames as H.264 in an MP4 file (yuv420p, BT.709), where wanted with the sound of another file. The file
    appears under its name only when it is complete.

    Args:
        path (`str` or `os.PathLike`):
            The `.mp4` file to write, in a folder that exists. An existing file is replaced.
        frames (`np.ndarray` or an iterable of `np.ndarray` or `PIL.Image.Image`):
            RGB frames `(F, H, W, 3)`: uint8, or floating point in [0, 1]. They are taken one at a time. yuv420p holds
            even sizes only: an odd height or width grows by one pixel, a copy of the last row or column.
        fps (`float`):
            Frames per second in [0.001, 1000], kept exactly. The rounded NTSC rates mean the true ones: 29.97 is
            written as 30000/1001.
        keyframe_interval (`int`, *optional*):
            At most this many frames from one keyframe to the next: [`read_frames`] decodes fewer than that in vain.
            The default is the encoder's, 250, which gives the smallest file.
        audio_from (`str` or `os.PathLike`, *optional*):
            A video or audio file whose sound is added, from its first picture on and cut to the length of `frames`;
            sound that begins later begins later here, too. AAC, AC-3, E-AC-3, ALAC, FLAC, MP3 and Opus are copied,
            anything else is encoded as AAC. A file without sound adds none.
        comment (`str`, *optional*):
            Is stored as the comment in the file's metadata; [`read_comment`] reads it.

    Raises:
        `ValueError`: if `frames`, `fps` or `keyframe_interval` are not as above, `path` does not end in `.mp4`, or the
            sound cannot be read.
        `FileNotFoundError`: if `audio_from` or the folder of `path` does not exist.
        `OSError`: if the file cannot be written, as on a full disk.
    """
    path = Path(path)
    check_output(path)
    rate = _exact_rate(fps)
    # The same frames give the same bytes. Without this x264 gives others on other CPUs, and from run to run on some.
    options = {"crf": "16", "x264-params": "cpu-independent=1"}
    if keyframe_interval is not None:
        if keyframe_interval < 1:
            raise ValueError(f"`keyframe_interval` must be at least 1, got {keyframe_interval}.")
        options["g"] = str(keyframe_interval)

    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with nullcontext() if audio_from is None else open_sound(audio_from) as sound:
            _encode(partial, iter(frames), rate, options, sound, comment)
        os.replace(partial, path)
    except av.FFmpegError as error:
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_output(path: str | os.PathLike) -> None:
    """
    What [`write_video`] asks of a file before it takes the first frame.

    Args:
        path (`str` or `os.PathLike`):
            The `.mp4` file to write, in a folder that exists.

    Raises:
        `ValueError`: if `path` does not end in `.mp4`.
        `FileNotFoundError`: if the folder of `path` does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"`path` must end in '.mp4', got {str(path)!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")


def check_frame_rate(fps: float) -> None:
    """
    What [`write_video`] asks of a frame rate.

    Args:
        fps (`float`):
            Frames per second.

    Raises:
        `ValueError`: it is not in [0.001, 1000].
    """
    if not 0.001 <= fps <= 1000:
        raise ValueError(f"`fps` must lie in [0.001, 1000], got {fps}.")


def _name(path: str | os.PathLike | BinaryIO) -> str:
    return str(path) if isinstance(path, (str, os.PathLike)) else str(getattr(path, "name", path))


def _check_file(path: str | os.PathLike | BinaryIO) -> None:
    if isinstance(path, (str, os.PathLike)) and not Path(path).is_file():
        raise FileNotFoundError(f"There is no video file {str(path)!r}.")


@contextmanager
def _opened(path: str | os.PathLike | BinaryIO) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first video stream."""
    _check_file(path)
    source = str(path) if isinstance(path, os.PathLike) else path
    try:
        # Some releases of PyAV let FFmpeg print beside the error.
        with av.logging.Capture(), av.open(source, **ANY_METADATA) as container:
            # FFmpeg renders plain text (.txt, .nfo) as a terminal screen; nobody means that as a video.
            if container.format.name == "tty" or not container.streams.video:
                raise ValueError(f"{_name(path)!r} holds no video stream.")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise ValueError(f"{_name(path)!r} cannot be decoded as a video: {error.strerror}.") from error


def _stream_frames(path: str | os.PathLike | BinaryIO) -> Iterator[np.ndarray]:
    frame = None
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            yield _upright(frame)
    if frame is None:
        raise ValueError(f"{_name(path)!r} holds no video frame.")


def _decode_at(
    container: Any, stream: Any, keyframes: list[tuple[int, int]], times: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each time, which ascend, and the frame that is shown then."""
    now = None
    for time in times:
        shown, decoded = keyframes[max(0, bisect.bisect_right(keyframes, time, key=lambda keyframe: keyframe[0]) - 1)]
        if now is None or now < shown:
            # Not to when it is shown: by then the decoding of the next keyframe may have begun.
            container.seek(decoded, stream=stream)
            frames = container.decode(stream)
        frame = next((frame for frame in frames if frame.pts >= time), None)
        if frame is None or frame.pts != time:
            raise ValueError(f"{container.name!r} cannot be sought in: its time stamps do not lead to its frames.")
        now = time
        yield time, _upright(frame)


def _upright(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24", interpolation=CONVERSION), round(frame.rotation / 90))


def _encode(
    path: Path, frames: Iterator, rate: Fraction, options: dict[str, str], sound: Sound | None, comment: str | None
) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("`frames` must hold at least one frame, got none.")
    shape = _as_uint8(first, 0).shape
    height, width = shape[:2]
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = height + height % 2, width + width % 2
        # Untagged colours are read as BT.601 by some players and as BT.709 by others.
        context = stream.codec_context
        context.thread_count = 1  # the number of threads changes the bytes, and so would that of cores
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if sound is not None:
            sound.add_to(container)
        for index, picture in enumerate(itertools.chain([first], frames)):
            pixels = _as_uint8(picture, index)
            if pixels.shape != shape:
                raise ValueError(f"`frames` must be of one size, got {pixels.shape} after {shape}.")
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=CONVERSION,
            )
            container.mux(stream.encode(frame))
            if sound is not None:
                sound.write_until(index / rate)
        container.mux(stream.encode())
        if sound is not None:
            sound.finish((index + 1) / rate)


def _as_uint8(frame: np.ndarray | Image.Image, index: int) -> np.ndarray:
    pixels = np.asarray(load_image(frame, "frames") if isinstance(frame, Image.Image) else frame)
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"`frames` must be of shape (F, H, W, 3), got a frame of shape {pixels.shape}.")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"`frames` of floating point must lie in [0, 1]; frame {index} does not.")
        return np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"`frames` must be uint8 or floating point, got {pixels.dtype}.")
    return pixels


def _exact_rate(fps: float) -> Fraction:
    check_frame_rate(fps)
    ntsc = Fraction(round(fps) * 1000, 1001)
    if ntsc and abs(fps / ntsc - 1) < 2e-4:
        return ntsc
    return Fraction(fps).limit_denominator(1001)
