# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Opening of files with FFmpeg, as local files regardless of their names, and in known formats only."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import av
import av.logging


# PyAV before 19 needs an argument to open files with metadata that are not UTF-8. PyAV 19 has no such argument.
ANY_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

# FFmpeg's names of formats that contain their own content. They exclude playlists, scripts and patterns, which refer
# to other files and addresses, and text, which FFmpeg renders as a video.
VIDEO_FORMATS = (
    *(
        "mov",
        "mp4",
        "m4a",
        "3gp",
        "3g2",
        "mj2",
        "matroska",
        "webm",
        "avi",
        "flv",
        "mpeg",
        "mpegts",
        "mpegvideo",
        "asf",
    ),
    *("ogg", "mxf", "nut", "dv", "ivf", "obu", "h264", "hevc", "vvc", "m4v", "h263", "mjpeg", "jpeg_pipe", "bmp_pipe"),
    *("rm", "yuv4mpegpipe"),
)
SOUND_FORMATS = (
    *("wav", "w64", "aiff", "caf", "au", "mp3", "flac", "aac", "ac3", "eac3", "dts", "amr", "ape", "tta", "wv"),
)


@contextmanager
def open_container(
    path: str | os.PathLike | BinaryIO, formats: Sequence[str] = VIDEO_FORMATS + SOUND_FORMATS
) -> Iterator[Any]:
    """Open a file to read its images or its sound.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file. A binary file must be seekable.
        formats (`Sequence[str]`, *optional*):
            FFmpeg's names of the accepted formats. By default, all formats that contain their own content.

    Returns:
        A context manager for PyAV's `InputContainer`.

    Raises:
        ValueError: If the file has none of these formats.
        av.FFmpegError: If FFmpeg cannot open it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}
    # A name with a colon would be interpreted as a URL.
    source = f"file:{os.path.abspath(path)}" if isinstance(path, (str, os.PathLike)) else path
    with av.logging.Capture():  # in some releases of PyAV, FFmpeg also prints the error
        try:
            container = av.open(source, options=options, **ANY_METADATA)
        except av.ArgumentError as error:
            raise ValueError(f"{file_name(path)!r} has no supported video or sound format.") from error
        with container:
            yield container


def file_name(path: str | os.PathLike | BinaryIO) -> str:
    """Return the name of a file for messages."""
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else str(getattr(path, "name", path))
