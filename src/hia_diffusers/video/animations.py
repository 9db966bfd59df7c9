# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Images that move, GIF, PNG and WebP, read by Pillow as browsers show them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..images import load_image


FORMATS = ("GIF", "PNG", "WEBP")

# Milliseconds: browsers show a frame that is to last less as long as the second.
LEAST_DURATION, USUAL_DURATION = 11, 100

# Frames per second of an image that does not move, as FFmpeg has it.
STILL_RATE = 25.0


@contextmanager
def open_animation(path: str | os.PathLike | BinaryIO) -> Iterator[Image.Image | None]:
    """
    The image in a file.

    Args:
        path (`str`, `os.PathLike` or a binary file):
            The file.

    Returns:
        A context manager that gives a `PIL.Image.Image`, or `None` where the file is none of `FORMATS`.
    """
    try:
        image = Image.open(path, formats=FORMATS)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        image = None
        if not isinstance(path, (str, os.PathLike)):
            path.seek(0)
    with image or nullcontext():
        yield image


def animation_frames(image: Image.Image, name: str) -> Iterator[np.ndarray]:
    """
    Decodes an image that moves.

    Args:
        image (`PIL.Image.Image`):
            From [`open_animation`].
        name (`str`):
            Of the file, for errors.

    Returns:
        An iterator over uint8 RGB frames `(H, W, 3)`, on white.

    Raises:
        `ValueError`: it is damaged.
    """
    for frame in _decoded(image, name):
        yield np.array(load_image(frame))


def animation_rate(image: Image.Image, name: str) -> float:
    """
    Frames per second of an image that moves, in the mean up to its last frame, which often lasts longer.

    Args:
        image (`PIL.Image.Image`):
            From [`open_animation`].
        name (`str`):
            Of the file, for errors.

    Raises:
        `ValueError`: it is damaged.
    """
    durations = [frame.info.get("duration", 0) for frame in _decoded(image, name)]
    if len(durations) < 2:
        return STILL_RATE
    shown = [duration if duration >= LEAST_DURATION else USUAL_DURATION for duration in durations[:-1]]
    return 1000 * len(shown) / sum(shown)


def _decoded(image: Image.Image, name: str) -> Iterator[Image.Image]:
    """The image at each of its frames, without a first one that is there only for what cannot show it move."""
    try:
        for index in range(int(getattr(image, "default_image", False)), getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            yield image
    except Exception as error:  # each of Pillow's decoders has its own
        raise ValueError(f"{name!r} cannot be decoded as a video: {error}.") from error
