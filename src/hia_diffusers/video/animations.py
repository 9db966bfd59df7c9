# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animated GIF, PNG and WebP images, read by Pillow and interpreted as in browsers."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from ..images import load_image


FORMATS = ("GIF", "PNG", "WEBP")

# In milliseconds: browsers show frames with a duration below the first value for the second.
LEAST_DURATION, USUAL_DURATION = 11, 100

# Frames per second of a still image, as in FFmpeg.
STILL_RATE = 25.0


@contextmanager
def open_animation(path: str | os.PathLike | BinaryIO) -> Iterator[Image.Image | None]:
    """Open the image in a file.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file.

    Returns:
        A context manager for a `PIL.Image.Image`, or for `None` if the format is not in `FORMATS`.
    """
    try:
        image = Image.open(path, formats=FORMATS)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        image = None
        if not isinstance(path, (str, os.PathLike)):
            path.seek(0)
    with image or nullcontext():
        yield image


def animation_frames(image: Image.Image, name: str, selected: slice = slice(None)) -> Iterator[np.ndarray]:
    """Decode an animated image.

    Args:
        image (`PIL.Image.Image`):
            Result of [`open_animation`].
        name (`str`):
            Name of the file in error messages.
        selected (`slice`, *optional*):
            Which frames; all by default.

    Returns:
        An iterator over uint8 RGB frames `(H, W, 3)`, on white.

    Raises:
        ValueError: If it is damaged.
    """
    for frame in itertools.islice(_decoded(image, name), selected.start, selected.stop, selected.step):
        yield np.array(load_image(frame))


def animation_rate(image: Image.Image, name: str) -> float:
    """Return the mean frames per second of an animated image without its last frame, which often lasts longer.

    Args:
        image (`PIL.Image.Image`):
            Result of [`open_animation`].
        name (`str`):
            Name of the file in error messages.

    Raises:
        ValueError: If it is damaged.
    """
    durations = [frame.info.get("duration", 0) for frame in _decoded(image, name)]
    if len(durations) < 2:
        return STILL_RATE
    shown = [duration if duration >= LEAST_DURATION else USUAL_DURATION for duration in durations[:-1]]
    return 1000 * len(shown) / sum(shown)


def animation_comment(image: Image.Image) -> str | None:
    """Return the comment in the metadata of an image, or the description in that of a WebP.

    Args:
        image (`PIL.Image.Image`):
            Result of [`open_animation`].
    """
    comment = image.info.get("comment", image.info.get("Comment"))
    if image.format == "WEBP" and ExifTags.Base.ImageDescription in image.getexif():
        comment = image.getexif()[ExifTags.Base.ImageDescription].encode("latin-1")  # as Pillow decodes it
    return comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment


def _decoded(image: Image.Image, name: str) -> Iterator[Image.Image]:
    """Iterate over the frames, without a first frame that serves only programs without support for animation."""
    try:
        for index in range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            yield image
    except Exception as error:  # each of Pillow's decoders raises its own kind of error
        raise ValueError(f"{name!r} cannot be decoded as a video: {error}.") from error
