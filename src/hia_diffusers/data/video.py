# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Video files to and from arrays. Axes: F frames, H, W."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image


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
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no video file {str(path)!r}.")
    try:
        with av.logging.Capture():  # some releases of PyAV let FFmpeg print beside the error
            frames, rate = _decode(path, max_frames)
    except av.FFmpegError as error:
        raise ValueError(f"{str(path)!r} cannot be decoded as a video: {error.strerror}.") from error
    if not frames:
        raise ValueError(f"{str(path)!r} holds no video frame.")
    if not rate:
        raise ValueError(f"{str(path)!r} does not say its frame rate.")
    return Video(np.stack(frames), float(rate))


def write_video(path: str | os.PathLike, frames: np.ndarray | Sequence, fps: float) -> None:
    """
    Encodes frames as H.264 in an MP4 file (yuv420p, BT.709). The file appears under its name only when it is complete.

    Args:
        path (`str` or `os.PathLike`):
            The `.mp4` file to write, in a folder that exists. An existing file is replaced.
        frames (`np.ndarray` or a list of `np.ndarray` or `PIL.Image.Image`):
            RGB frames `(F, H, W, 3)`: uint8, or floating point in [0, 1]. yuv420p holds even sizes only: an odd height
            or width grows by one pixel, a copy of the last row or column.
        fps (`float`):
            Frames per second in [0.001, 1000], kept exactly. The rounded NTSC rates mean the true ones: 29.97 is
            written as 30000/1001.

    Raises:
        `ValueError`: if `frames` or `fps` are not as above, or if `path` does not end in `.mp4`.
        `FileNotFoundError`: if the folder of `path` does not exist.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"`path` must end in '.mp4', got {str(path)!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    rate = _exact_rate(fps)
    if len(frames) == 0:
        raise ValueError("`frames` must hold at least one frame, got none.")

    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _encode(partial, frames, rate)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _decode(path: str | os.PathLike, max_frames: int | None) -> tuple[list[np.ndarray], Fraction | None]:
    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        # FFmpeg renders plain text (.txt, .nfo) as a terminal screen; nobody means that as a video.
        if container.format.name == "tty" or not container.streams.video:
            raise ValueError(f"{str(path)!r} holds no video stream.")
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            picture = frame.to_ndarray(format="rgb24")
            frames.append(np.rot90(picture, round(frame.rotation / 90)))
            if frames[-1].shape != frames[0].shape:
                raise ValueError(f"{str(path)!r} changes its frame size at frame {len(frames) - 1}.")
            if len(frames) == max_frames:
                break
        return frames, stream.average_rate or stream.guessed_rate


def _encode(path: Path, frames: np.ndarray | Sequence, rate: Fraction) -> None:
    first = _as_uint8(frames[0], 0)
    height, width = first.shape[:2]
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = height + height % 2, width + width % 2
        # Untagged colours are read as BT.601 by some players and as BT.709 by others.
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for index in range(len(frames)):
            pixels = _as_uint8(frames[index], index)
            if pixels.shape != first.shape:
                raise ValueError(f"`frames` must be of one size, got {pixels.shape} after {first.shape}.")
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _as_uint8(frame: np.ndarray | Image.Image, index: int) -> np.ndarray:
    pixels = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
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
    if not 0.001 <= fps <= 1000:
        raise ValueError(f"`fps` must lie in [0.001, 1000], got {fps}.")
    ntsc = Fraction(round(fps) * 1000, 1001)
    if ntsc and abs(fps / ntsc - 1) < 2e-4:
        return ntsc
    return Fraction(fps).limit_denominator(1001)
