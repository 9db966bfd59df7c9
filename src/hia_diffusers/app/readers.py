# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of uploaded files, which only run in a process that may be killed: see [`~app.decoding`]."""

import json
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ..conditioning.keypoints import NotStatedError, WholeBodyKeypoints
from ..images import load_image
from ..video.containers import open_container
from ..video.reading import VideoFrames, read_frame_rate
from .limits import Limits


# Other formats of Pillow start programs, such as EPS, or are read by code that is rarely reviewed.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")

# The longer side that images are scaled down to, which is more than results have.
MAX_IMAGE_SIDE = 2048

# The same for videos, of which only the motion is used. Person detectors use less.
MAX_VIDEO_SIDE = 1280

# FFmpeg's names of the formats that browsers and phones write.
VIDEO_FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi")

Answer = tuple[dict[str, float], dict[str, np.ndarray]]


def read_image(path: Path, limits: Limits) -> Answer:
    """Read an image.

    Args:
        path (`Path`):
            The file.
        limits ([`~app.limits.Limits`]):
            The limits.

    Returns:
        `Answer`: No numbers, and `pixels`, a uint8 array of shape `(H, W, 3)`.

    Raises:
        ValueError: If it is no image or too large.
    """
    Image.MAX_IMAGE_PIXELS = None  # the check below is the stricter one
    unreadable = f"{path.name!r} cannot be read as a JPEG, PNG or WebP image."
    try:
        opened = Image.open(path, formats=IMAGE_FORMATS)
    except OSError as error:
        raise ValueError(unreadable) from error
    with opened:
        _check_pixels(opened.width, opened.height, limits.max_image_pixels)
        try:
            image = load_image(opened)
        except ValueError as error:
            raise ValueError(unreadable) from error
    image.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE), Image.Resampling.LANCZOS)
    return {}, {"pixels": np.asarray(image)}


def read_video(path: Path, limits: Limits) -> Answer:
    """Read the beginning of a video.

    Args:
        path (`Path`):
            The file.
        limits ([`~app.limits.Limits`]):
            The limits.

    Returns:
        `Answer`: `fps`, and `frames`, a uint8 array of shape `(F, H, W, 3)`.

    Raises:
        ValueError: If it is no video or too large.
    """
    _check_container(path, limits)
    fps = read_frame_rate(path)
    pixels = bytearray()  # grows in place, whereas a list of frames would be copied into an array
    for frame in VideoFrames(path, limits.max_frames):
        image = Image.fromarray(frame)
        image.thumbnail((MAX_VIDEO_SIDE, MAX_VIDEO_SIDE), Image.Resampling.BILINEAR)  # twice as fast as LANCZOS
        pixels += image.tobytes()
    return {"fps": fps}, {"frames": np.frombuffer(pixels, np.uint8).reshape(-1, image.height, image.width, 3)}


def read_keypoints(path: Path, limits: Limits) -> Answer:
    """Read the beginning of a pose file of any supported format.

    Args:
        path (`Path`):
            The file.
        limits ([`~app.limits.Limits`]):
            The limits.

    Returns:
        `Answer`: `height`, `width` and `fps`, and the arrays `xy` and `score` of [`WholeBodyKeypoints`].

    Raises:
        ValueError: If it contains no keypoints, or does not state what is needed.
    """
    try:
        keypoints = WholeBodyKeypoints.load(path)[: limits.max_frames]
    except NotStatedError as error:
        raise ValueError(
            f"{path.name!r} does not state {error.what}: give that to WholeBodyKeypoints.load, and upload what its "
            "method save writes."
        ) from error
    numbers = {name: getattr(keypoints, name) for name in ("height", "width", "fps")}
    return numbers, {"xy": keypoints.xy, "score": keypoints.score}


READERS = {"image": read_image, "video": read_video, "keypoints": read_keypoints}


def answer(connection: Connection, kind: str, path: Path, limits: Limits) -> None:
    """Read a file in a process of its own and send its content, or one sentence that says why it cannot be used.

    Args:
        connection (`Connection`):
            Takes one JSON text with `error`, or with `numbers` and the name, dtype and shape of each of `arrays`, then
            the bytes of the arrays.
        kind (`str`):
            A key of `READERS`.
        path (`Path`):
            The file.
        limits ([`~app.limits.Limits`]):
            The limits of its content, and of the memory for reading it.
    """
    _limit_resources(limits)
    try:
        numbers, arrays = READERS[kind](path, limits)
    except MemoryError:
        message = f"{path.name!r} takes too much memory to read."
    except (OSError, ValueError) as error:
        message = str(error).replace(str(path), path.name)
    else:
        about = [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
        connection.send_bytes(json.dumps({"numbers": numbers, "arrays": about}).encode())
        for array in arrays.values():
            connection.send_bytes(np.ascontiguousarray(array).data.cast("B"))
        return
    connection.send_bytes(json.dumps({"error": message}).encode())


def _check_container(path: Path, limits: Limits) -> None:
    try:
        with open_container(path, VIDEO_FORMATS) as container:
            stream = container.streams.best("video")
            width, height = (0, 0) if stream is None else (stream.width, stream.height)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"{path.name!r} cannot be read as an MP4, MOV, MKV, WebM or AVI video.") from error
    _check_pixels(width, height, limits.max_video_pixels)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} is too large: at most {max_pixels / 1e6:.3g} million pixels are taken.")


def _limit_resources(limits: Limits) -> None:
    """Allow no writing of files and, on Linux, not more memory than reading takes, without a way back."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":  # elsewhere it is unknown how much the libraries take
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * os.sysconf("SC_PAGE_SIZE") + limits.memory_bytes
        allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
        if allowed == resource.RLIM_INFINITY or memory < allowed:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
