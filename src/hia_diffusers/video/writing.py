# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Writing of frames to video files, animated images and folders of images. Axes: F frames, H, W."""

import itertools
import logging
import os
from collections.abc import Iterable
from contextlib import closing, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from .. import checks
from ..files import check_folder_writable, check_writable, rename, written_whole
from ..images import load_image
from .sound import Sound, open_sound
from .writers import FRAME_PATTERN, AnimationWriter, Clip, FrameFolderWriter, FrameWriter, VideoWriter


# By suffix, in lower case; "" is a folder.
KINDS = {".mp4": "mp4", ".webm": "webm", ".gif": "gif", ".webp": "webp", "": "folder"}
WITH_SOUND = ("mp4", "webm")

# Frames per second of animated images: browsers slow down shorter frames, and GIF files store durations in 16 bits.
RATES = {"gif": (0.01, 50), "webp": (0.01, 80)}

# Maximum width and height of a WebP.
MAX_WEBP_SIDE = 16383

logger = logging.getLogger(__name__)


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray | Iterable,
    fps: float,
    keyframe_interval: int | None = None,
    audio_from: str | os.PathLike | None = None,
    audio_start: float = 0.0,
    comment: str | None = None,
    keep_unfinished: bool = False,
) -> None:
    """Write frames to a file or a folder, which appears under its name only when it is complete.

    An existing one is replaced. The suffix, in upper or lower case, selects the kind:

    - `.mp4`: H.264 and AAC, which all players support;
    - `.webm`: VP9 and Opus;
    - `.gif` and `.webp`: animated images that repeat endlessly, without sound, of at most 50 and 80 frames per second.
      A GIF has 256 colours per frame. All frames are in memory until they are written;
    - no suffix, or a name that ends in `/`: a folder of PNG files `frame_000001.png`, without sound and frame rate.

    Videos are encoded in yuv420p and BT.709, with even sizes: an odd height or width is extended by a copy of the last
    row or column.

    Args:
        path (`str` or `os.PathLike`):
            The file or folder to write, in a folder that exists. A folder is replaced only if it contains nothing but
            such frames.
        frames (`np.ndarray` or an iterable of `np.ndarray` or `PIL.Image.Image`):
            RGB frames `(F, H, W, 3)`: uint8, or floating point in [0, 1]. They are consumed one at a time.
        fps (`float`):
            Frames per second in [0.001, 1000], stored exactly in videos. Rounded NTSC rates are replaced by the exact
            ones: 29.97 is written as 30000/1001.
        keyframe_interval (`int`, *optional*):
            Maximum number of frames of a video from one keyframe to the next, which bounds the frames that
            [`read_frames`] decodes in vain. The default is the encoder's, which gives the smallest file.
        audio_from (`str` or `os.PathLike`, *optional*):
            A video or audio file whose sound is added to a video, trimmed to the length of `frames`; sound that starts
            later also starts later in the result. AAC is copied to MP4 files, and Opus to WebM files; other codecs are
            encoded. A file without sound adds none.
        audio_start (`float`, *optional*, defaults to 0.0):
            Time in `audio_from` at which the sound of the first frame begins, in seconds since its first frame.
        comment (`str`, *optional*):
            Comment in the metadata of the file, or of each file of a folder; [`read_comment`] reads it.
        keep_unfinished (`bool`, *optional*, defaults to `False`):
            Whether to keep the frames before an error or Ctrl-C, in a complete file or a folder with `.unfinished`
            before its suffix. A warning that names it is logged.

    Raises:
        ValueError: If `frames`, `fps` or `keyframe_interval` are not as above, `path` has another suffix, or the sound
            cannot be read or added to this kind.
        FileNotFoundError: If `audio_from` or the folder of `path` does not exist.
        OSError: If the file cannot be written, as on a full disk.
    """
    path = checks.path("path", path)
    check_output(path)
    kind, path = output_kind(path), Path(path)
    try:
        images = iter(frames)
    except TypeError as error:  # also raised for an array without axes
        raise TypeError(f"`frames` must contain frames (H, W, 3), got {checks.shown(frames)}.") from error
    check_frame_rate(fps, kind)
    rate = _exact_rate(fps)
    comment = None if comment is None else checks.instance("comment", comment, str)
    if keyframe_interval is not None:
        checks.integer("keyframe_interval", keyframe_interval)
    audio_start = checks.number("audio_start", audio_start, 0)
    if audio_from is not None:
        checks.instance("audio_from", audio_from, (str, os.PathLike))
        if kind not in WITH_SOUND:
            raise ValueError(f"`audio_from`: {str(path)!r} can have no sound; files that can end in .mp4 or .webm.")
    sound_file: Any = nullcontext() if audio_from is None else open_sound(audio_from, audio_start, kind)
    try:
        with written_whole(path) as partial, sound_file as sound:
            first = next(images, None)
            if first is None:
                raise ValueError("`frames` must contain at least one frame, got none.")
            height, width = _as_uint8(first, 0).shape[:2]
            check_frame_size(height, width, kind)
            clip = Clip(height, width, rate, keyframe_interval, comment)
            with closing(_writer(kind, partial, clip, sound)) as writer:
                try:
                    for image in itertools.chain([first], images):
                        writer.add(_of_shape((height, width, 3), image, writer.count))
                except BaseException:
                    if keep_unfinished and writer.count:
                        writer.finish()
                        unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
                        rename(partial, unfinished)
                        logger.warning("%s kept in %s.", _first(writer.count), unfinished)
                    raise
                writer.finish()
    except av.FFmpegError as error:
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {error.strerror}") from error


def output_kind(path: str | os.PathLike) -> str:
    """Return what [`write_video`] writes to a path: `"mp4"`, `"webm"`, `"gif"`, `"webp"` or `"folder"`.

    Args:
        path (`str` or `os.PathLike`):
            The path. A `Path` has no `/` at its end.

    Raises:
        ValueError: If it has another suffix.
    """
    text = checks.path("path", path)
    is_folder = text.endswith(("/", os.sep))
    kind = "folder" if is_folder else KINDS.get(Path(text).suffix.lower())
    if kind is None:
        raise ValueError(
            f"`path` must end in .mp4, .webm, .gif or .webp, or be a folder, without a suffix or with / at its end, "
            f"got {text!r}."
        )
    return kind


def check_output(
    path: str | os.PathLike, height: int | None = None, width: int | None = None, fps: float | None = None
) -> None:
    """Check an output of [`write_video`] in advance, including whether its folder is writable.

    Args:
        path (`str` or `os.PathLike`):
            The file or folder to write, in a folder that exists.
        height, width (`int`, *optional*):
            Size of the frames in pixels, if known.
        fps (`float`, *optional*):
            Frames per second, if known.

    Raises:
        TypeError: If `fps` is not a number.
        ValueError: If `path` has another suffix or is something that cannot be replaced, or its kind cannot have
            frames of this size or rate.
        FileNotFoundError: If the folder of `path` does not exist.
        OSError: If nothing with this name can be written there.
    """
    kind = output_kind(path)
    if kind == "folder":
        check_folder_writable(path, FRAME_PATTERN)
    else:
        check_writable(path)
    if height is not None and width is not None:
        check_frame_size(height, width, kind)
    if fps is not None:
        check_frame_rate(fps, kind)


def check_frame_rate(fps: float, kind: str = "mp4") -> None:
    """Check a frame rate for [`write_video`].

    Args:
        fps (`float`):
            Frames per second.
        kind (`str`, *optional*, defaults to `"mp4"`):
            Result of [`output_kind`].

    Raises:
        TypeError, ValueError: If it is not a number in [0.001, 1000], or in [0.01, 50] for a GIF or [0.01, 80] for a
            WebP.
    """
    checks.number("fps", fps, 0.001, 1000)
    low, high = RATES.get(kind, (0, 1000))
    if not low <= fps <= high:
        raise ValueError(f"`fps` of a .{kind} file must be from {low} to {high}, got {fps:g}.")


def check_frame_size(height: int, width: int, kind: str = "mp4") -> None:
    """Check the size of frames for [`write_video`].

    Args:
        height, width (`int`):
            Size in pixels.
        kind (`str`, *optional*, defaults to `"mp4"`):
            Result of [`output_kind`].

    Raises:
        ValueError: If they are too large for H.264, or for a WebP.
    """
    if kind == "webp" and max(height, width) > MAX_WEBP_SIDE:
        raise ValueError(
            f"`frames` of {width}x{height} pixels are too large for WebP: sides may have up to {MAX_WEBP_SIDE} pixels."
        )
    even = height + height % 2, width + width % 2
    # FFmpeg counts in signed 32 bits with a margin.
    if max(even) > checks.MAX_SIDE or (even[0] + 128) * (even[1] + 128) >= 2**28:
        raise ValueError(
            f"`frames` of {width}x{height} pixels are too large for H.264: sides may have up to "
            f"{checks.MAX_SIDE} pixels, and the product at most 16384x16128."
        )


def _writer(kind: str, path: Path, clip: Clip, sound: Sound | None) -> FrameWriter:
    if kind in WITH_SOUND:
        return VideoWriter(path, clip, kind, sound)
    return FrameFolderWriter(path, clip) if kind == "folder" else AnimationWriter(path, clip, kind.upper())


def _first(count: int) -> str:
    return "The first frame is" if count == 1 else f"The first {count} frames are"


def _of_shape(shape: tuple[int, ...], frame: np.ndarray | Image.Image, index: int) -> np.ndarray:
    pixels = _as_uint8(frame, index)
    if pixels.shape != shape:
        raise ValueError(f"`frames` must be of one size, got {pixels.shape} after {shape}.")
    return pixels


def _as_uint8(frame: np.ndarray | Image.Image, index: int) -> np.ndarray:
    if np.ma.is_masked(frame):
        raise ValueError(f"`frames` must not be masked arrays; frame {index} is partly masked.")
    pixels = np.asarray(load_image(frame, "frames") if isinstance(frame, Image.Image) else frame)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.size == 0:
        raise ValueError(f"`frames` must be of shape (F, H, W, 3), got a frame of shape {pixels.shape}.")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"`frames` of floating point must lie in [0, 1]; frame {index} does not.")
        return np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"`frames` must be uint8 or floating point, got {pixels.dtype}.")
    return pixels


def _exact_rate(fps: float) -> Fraction:
    ntsc = Fraction(round(fps) * 1000, 1001)
    if ntsc and abs(fps / ntsc - 1) < 2e-4:
        return ntsc
    return Fraction(fps).limit_denominator(1001)
