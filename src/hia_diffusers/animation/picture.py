# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures in the size of the video."""

import logging

import numpy as np
from PIL import Image

from ..fitting import border_colour, fitted_place


logger = logging.getLogger(__name__)


def fit_picture(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """
    The whole picture in a size, centred. Where its aspect differs, bars in the median colour of the edges that they
    join.

    Args:
        picture (`PIL.Image.Image`):
            An RGB picture.
        size (`tuple[int, int]`):
            Width and height in pixels.

    Raises:
        `ValueError`: not even a pixel would be left of its shorter side.
    """
    if min(size[0] * picture.height / picture.width, size[1] * picture.width / picture.height) < 1:
        raise ValueError(
            f"`image`: {picture.width}x{picture.height} pixels are too thin to be fitted into {size[0]}x{size[1]}"
        )
    place = fitted_place(picture.height, picture.width, size[1], size[0])
    if place[2:] == size:
        return picture.resize(size, Image.Resampling.LANCZOS)
    logger.info("The picture's %dx%d is fitted into %dx%d with bars in its border colour.", *picture.size, *size)
    colour = border_colour(np.asarray(picture), place, size).round().astype(int)
    return _placed(picture, place, size, tuple(colour.tolist()))


def fit_pose_map(pose_map: Image.Image, size: tuple[int, int]) -> Image.Image:
    """
    The whole pose map in a size, on black, which says nothing.

    Args:
        pose_map (`PIL.Image.Image`):
            An RGB picture.
        size (`tuple[int, int]`):
            Width and height in pixels.
    """
    return _placed(pose_map, fitted_place(pose_map.height, pose_map.width, size[1], size[0]), size, (0, 0, 0))


def _placed(
    picture: Image.Image, place: tuple[int, int, int, int], size: tuple[int, int], colour: tuple[int, ...]
) -> Image.Image:
    placed = Image.new("RGB", size, colour)
    placed.paste(picture.resize(place[2:], Image.Resampling.LANCZOS), place[:2])
    return placed
