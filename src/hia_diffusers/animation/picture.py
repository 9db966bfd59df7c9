# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The reference picture: any picture file brought to the size of the video, and the keypoints in it likewise."""

import logging
import os
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from ..conditioning.keypoints import WholeBodyKeypoints


logger = logging.getLogger(__name__)


def load_picture(image: str | os.PathLike | Image.Image) -> Image.Image:
    """
    Any picture that Pillow reads as 8-bit RGB: upright, 16-bit greys scaled down, transparency on white.

    Args:
        image (`str`, `os.PathLike` or `PIL.Image.Image`):
            The file, or a picture of any mode.

    Raises:
        `TypeError`: `image` is neither.
        `ValueError`: the file cannot be read as a picture, or its values are beyond 16 bits.
    """
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        raise TypeError(f"`image` must be a path or a PIL picture, got {type(image).__name__}.")
    name = "the picture" if isinstance(image, Image.Image) else repr(str(image))
    try:
        picture = ImageOps.exif_transpose(image if isinstance(image, Image.Image) else Image.open(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"`image`: {name} cannot be read as a picture ({error})") from error
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = np.asarray(picture)
        if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"`image`: {name} is not 8-bit or 16-bit")
        picture = Image.fromarray((grey / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def fit_picture(picture: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """
    The whole picture in a size. Where its aspect differs, bars in the median colour of the edges that they join.

    Args:
        picture (`PIL.Image.Image`):
            An RGB picture.
        size (`tuple[int, int]`):
            Width and height in pixels.

    Returns:
        `tuple`: the fitted picture, and the place of the picture in it: x, y, width, height in pixels.
    """
    fitted = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
    place = ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2, *fitted.size)
    if fitted.size == size:
        return fitted, place
    logger.info("The picture's %dx%d is fitted into %dx%d with bars in its border colour.", *picture.size, *size)
    pixels = np.asarray(picture)
    edges = pixels[[0, -1]] if fitted.width == size[0] else pixels[:, [0, -1]]
    padded = Image.new("RGB", size, tuple(np.median(edges, axis=(0, 1)).astype(int).tolist()))
    padded.paste(fitted, place[:2])
    return padded, place


def fit_keypoints(
    keypoints: WholeBodyKeypoints, place: tuple[int, int, int, int], size: tuple[int, int]
) -> WholeBodyKeypoints:
    """
    The picture's keypoints after [`fit_picture`].

    Args:
        keypoints (`WholeBodyKeypoints`):
            Those in the picture before.
        place (`tuple[int, int, int, int]`):
            What [`fit_picture`] returned.
        size (`tuple[int, int]`):
            Width and height that it was given.
    """
    x, y, width, height = place
    fitted = keypoints.resize(height, width)
    offset = np.array([x, y], dtype=np.float32)
    return replace(fitted, xy=fitted.xy + offset, width=size[0], height=size[1])
