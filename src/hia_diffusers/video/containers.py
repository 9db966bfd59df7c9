# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How files are handed to FFmpeg: as files, whatever their names look like, and of known formats only."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import av
import av.logging


# PyAV before 19 must be told to open a file whose metadata is not UTF-8; 19 always does, and knows no such argument.
ANY_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

# FFmpeg's names of what holds its content itself. Playlists, scripts and patterns, which name other files and
# addresses to read, and text, which it renders as a film, are none of these.
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
    """
    Opens a file for its pictures or its sound.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file. A binary file must be seekable.
        formats (`Sequence[str]`, *optional*):
            FFmpeg's names of those that are taken. The default are all that hold their content themselves.

    Returns:
        A context manager that gives PyAV's `InputContainer`.

    Raises:
        `ValueError`: the file is of none of the formats that are read.
        `av.FFmpegError`: FFmpeg cannot open it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(formats)}
    # A name alone would be an address where it has a colon.
    source = f"file:{os.path.abspath(path)}" if isinstance(path, (str, os.PathLike)) else path
    with av.logging.Capture():  # some releases of PyAV let FFmpeg print beside the error
        try:
            container = av.open(source, options=options, **ANY_METADATA)
        except av.ArgumentError as error:
            raise ValueError(f"{file_name(path)!r} is of no format of videos or sound that is read.") from error
        with container:
            yield container


def file_name(path: str | os.PathLike | BinaryIO) -> str:
    """What messages call a file."""
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else str(getattr(path, "name", path))
