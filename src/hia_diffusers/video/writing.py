# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Writing of frames to video files. Axes: F frames, H, W."""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from .. import checks
from ..files import check_writable, written_whole
from ..images import load_image
from .display import CONVERSION
from .sound import Sound, open_sound


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray | Iterable,
    fps: float,
    keyframe_interval: int | None = None,
    audio_from: str | os.PathLike | None = None,
    comment: str | None = None,
) -> None:
    """Encode frames as H.264 in an MP4 file (yuv420p, BT.709), optionally with the sound of another file.

    The file appears under its name only when it is complete.

    Args:
        path (`str` or `os.PathLike`):
            The `.mp4` file to write, in a folder that exists. An existing file is replaced.
        frames (`np.ndarray` or an iterable of `np.ndarray` or `PIL.Image.Image`):
            RGB frames `(F, H, W, 3)`: uint8, or floating point in [0, 1]. They are consumed one at a time. yuv420p
            supports only even sizes: an odd height or width is extended by a copy of the last row or column.
        fps (`float`):
            Frames per second in [0.001, 1000], stored exactly. Rounded NTSC rates are replaced by the exact ones:
            29.97 is written as 30000/1001.
        keyframe_interval (`int`, *optional*):
            Maximum number of frames from one keyframe to the next, which bounds the frames that [`read_frames`]
            decodes in vain. The default is the encoder's, 250, which gives the smallest file.
        audio_from (`str` or `os.PathLike`, *optional*):
            A video or audio file whose sound is added, starting at its first frame and trimmed to the length of
            `frames`; sound that starts later also starts later in the result. AAC, AC-3, E-AC-3, ALAC, FLAC, MP3 and
            Opus are copied; other codecs are encoded as AAC. A file without sound adds none.
        comment (`str`, *optional*):
            Comment in the metadata of the file; [`read_comment`] reads it.

    Raises:
        ValueError: If `frames`, `fps` or `keyframe_interval` are not as above, `path` does not end in `.mp4`, or the
            sound cannot be read.
        FileNotFoundError: If `audio_from` or the folder of `path` does not exist.
        OSError: If the file cannot be written, as on a full disk.
    """
    path = Path(checks.path("path", path))
    check_output(path)
    try:
        images = iter(frames)
    except TypeError as error:  # also raised for an array without axes
        raise TypeError(f"`frames` must contain frames (H, W, 3), got {checks.shown(frames)}.") from error
    rate = _exact_rate(fps)
    comment = None if comment is None else checks.instance("comment", comment, str)
    # The same frames give the same bytes. Without this, the output of x264 depends on the CPU, on some even on the
    # run.
    options = {"crf": "16", "x264-params": "cpu-independent=1"}
    if keyframe_interval is not None:
        options["g"] = str(checks.integer("keyframe_interval", keyframe_interval))
    if audio_from is not None:
        checks.instance("audio_from", audio_from, (str, os.PathLike))
    sound_file = nullcontext() if audio_from is None else open_sound(audio_from)
    try:
        with written_whole(path) as partial, sound_file as sound:
            _encode(partial, images, rate, options, sound, comment)
    except av.FFmpegError as error:
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {error.strerror}") from error


def check_output(path: str | os.PathLike, height: int | None = None, width: int | None = None) -> None:
    """Check an output file of [`write_video`] in advance, including whether its folder is writable.

    Args:
        path (`str` or `os.PathLike`):
            The `.mp4` file to write, in a folder that exists.
        height, width (`int`, *optional*):
            Size of the frames in pixels, if known.

    Raises:
        ValueError: If `path` does not end in `.mp4`, is a folder or a device, or frames are too large for H.264.
        FileNotFoundError: If the folder of `path` does not exist.
        OSError: If no file with this name can be written there.
    """
    if Path(checks.path("path", path)).suffix.lower() != ".mp4":
        raise ValueError(f"`path` must end in '.mp4', got {str(path)!r}.")
    check_writable(path)
    if height is not None and width is not None:
        check_frame_size(height, width)


def check_frame_rate(fps: float) -> None:
    """Check a frame rate for [`write_video`].

    Args:
        fps (`float`):
            Frames per second.

    Raises:
        TypeError, ValueError: If it is not a number in [0.001, 1000].
    """
    checks.number("fps", fps, 0.001, 1000)


def check_frame_size(height: int, width: int) -> None:
    """Check the size of frames for [`write_video`].

    Args:
        height, width (`int`):
            Size in pixels.

    Raises:
        ValueError: If they are too large for H.264.
    """
    even = height + height % 2, width + width % 2
    # FFmpeg counts in signed 32 bits with a margin.
    if max(even) > checks.MAX_SIDE or (even[0] + 128) * (even[1] + 128) >= 2**28:
        raise ValueError(
            f"`frames` of {width}x{height} pixels are too large for H.264: sides may have up to "
            f"{checks.MAX_SIDE} pixels, and the product at most 16384x16128."
        )


def _encode(
    path: Path, frames: Iterator, rate: Fraction, options: dict[str, str], sound: Sound | None, comment: str | None
) -> None:
    first = next(frames, None)
    if first is None:
        raise ValueError("`frames` must contain at least one frame, got none.")
    shape = _as_uint8(first, 0).shape
    height, width = shape[:2]
    check_frame_size(height, width)
    # A name with a colon would be interpreted as a URL.
    with av.open(f"file:{path.absolute()}", "w", format="mp4", options={"movflags": "faststart"}) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = height + height % 2, width + width % 2
        # Some players interpret untagged colours as BT.601, others as BT.709.
        context = stream.codec_context
        context.thread_count = 1  # the number of threads changes the bytes, and so would the number of cores
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if sound is not None:
            sound.add_to(container)
        for index, image in enumerate(itertools.chain([first], frames)):
            pixels = _as_uint8(image, index)
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
    if np.ma.is_masked(frame):
        raise ValueError(f"`frames` must not be masked arrays; frame {index} is partly masked.")
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
