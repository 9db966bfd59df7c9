# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The reference picture brought to the size of the video, and the keypoints in it likewise."""

import logging
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from ..conditioning.keypoints import WholeBodyKeypoints


logger = logging.getLogger(__name__)


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

    Raises:
        `ValueError`: not even a pixel would be left of its shorter side.
    """
    if min(size[0] * picture.height / picture.width, size[1] * picture.width / picture.height) < 1:
        raise ValueError(
            f"`image`: {picture.width}x{picture.height} pixels are too thin to be fitted into {size[0]}x{size[1]}"
        )
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
