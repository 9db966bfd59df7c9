# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reads uploaded files. Only a process that may be killed does so: see [`~app.decoding`]."""

import itertools
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
from ..video.reading import read_frame_rate, stream_frames
from .limits import Limits


# Other formats of Pillow start programs, as EPS does, or are read by code that few have looked at.
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")

# Pictures are scaled down to this; it is more than results are made in.
MAX_PICTURE_SIDE = 2048

# Videos, of which only the motion is used, to this. Detectors of people look at less.
MAX_VIDEO_SIDE = 1280

# FFmpeg's names of what browsers and phones make.
VIDEO_FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi")

Answer = tuple[dict[str, float], dict[str, np.ndarray]]


def read_picture(path: Path, limits: Limits) -> Answer:
    """A picture as `pixels`, uint8 `(H, W, 3)`."""
    Image.MAX_IMAGE_PIXELS = None  # the check below is the stricter one
    unreadable = f"{path.name!r} cannot be read as a JPEG, PNG or WebP picture."
    try:
        image = Image.open(path, formats=PICTURE_FORMATS)
    except (OSError, SyntaxError) as error:
        raise ValueError(unreadable) from error
    with image:
        _check_pixels(image.width, image.height, limits.max_picture_pixels)
        try:
            picture = load_image(image)
        except ValueError as error:
            raise ValueError(unreadable) from error
    picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE), Image.Resampling.LANCZOS)
    return {}, {"pixels": np.asarray(picture)}


def read_video(path: Path, limits: Limits) -> Answer:
    """The beginning of a video as `frames`, uint8 `(F, H, W, 3)`, and `fps`."""
    _check_container(path, limits)
    fps = read_frame_rate(path)
    pixels = bytearray()  # grows in place, with what there is: a list of frames would be copied into an array
    for count, frame in enumerate(itertools.islice(stream_frames(path), limits.max_frames)):
        if not count:
            shape = frame.shape
            _check_pixels(shape[1], shape[0], limits.max_video_pixels)
        if frame.shape != shape:
            raise ValueError(f"{path.name!r} changes its frame size at frame {count}.")
        picture = Image.fromarray(frame)
        picture.thumbnail((MAX_VIDEO_SIDE, MAX_VIDEO_SIDE), Image.Resampling.BILINEAR)  # twice as fast as LANCZOS
        pixels += picture.tobytes()
    return {"fps": fps}, {"frames": np.frombuffer(pixels, np.uint8).reshape(-1, picture.height, picture.width, 3)}


def read_keypoints(path: Path, limits: Limits) -> Answer:
    """The beginning of the keypoints of any pose file, as [`WholeBodyKeypoints`] has them."""
    try:
        keypoints = WholeBodyKeypoints.load(path)[: limits.max_frames]
    except NotStatedError as error:
        raise ValueError(
            f"{path.name!r} does not state {error.what}: give that to WholeBodyKeypoints.load, and upload what its "
            "method save writes."
        ) from error
    numbers = {name: getattr(keypoints, name) for name in ("height", "width", "fps")}
    return numbers, {"xy": keypoints.xy, "score": keypoints.score}


READERS = {"picture": read_picture, "video": read_video, "keypoints": read_keypoints}


def answer(connection: Connection, kind: str, path: Path, limits: Limits) -> None:
    """
    What the process does: reads a file, and sends what it holds, or one sentence on why it cannot be used.

    Args:
        connection (`Connection`):
            Takes one JSON text with `error`, or with `numbers` and the name, dtype and shape of each of `arrays`; then
            the bytes of these.
        kind (`str`):
            A key of `READERS`.
        path (`Path`):
            The file.
        limits ([`~app.limits.Limits`]):
            What it may hold and take.
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
    """No more time, memory or file than reading takes, where the platform can say so, and no way back."""
    if sys.platform == "win32":
        return
    import resource

    seconds = int(limits.seconds) + 1  # SIGXCPU comes then, and SIGKILL, which does not say why, a second later
    bounds = {resource.RLIMIT_CPU: (seconds, seconds + 1), resource.RLIMIT_FSIZE: (0, 0), resource.RLIMIT_CORE: (0, 0)}
    if sys.platform == "linux":  # elsewhere it is unknown what the libraries take
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * os.sysconf("SC_PAGE_SIZE") + limits.memory_bytes
        bounds[resource.RLIMIT_AS] = memory, memory
    for bound, (soft, hard) in bounds.items():
        ours = resource.getrlimit(bound)[1]
        if ours != resource.RLIM_INFINITY:
            soft, hard = min(soft, ours), min(hard, ours)
        resource.setrlimit(bound, (soft, hard))
