# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Images at the size of the video."""

import logging

import numpy as np
from PIL import Image

from ..fitting import border_colour, fitted_place


logger = logging.getLogger(__name__)


def fit_image(image: Image.Image, height: int, width: int) -> Image.Image:
    """Fit the whole image into a size, centred.

    If the aspect ratios differ, the bars have the median colour of the edges that they adjoin.

    Args:
        image (`PIL.Image.Image`):
            RGB.
        height, width (`int`):
            The size in pixels.

    Raises:
        ValueError: If the shorter side would be less than one pixel.
    """
    if min(width * image.height / image.width, height * image.width / image.height) < 1:
        raise ValueError(
            f"`image`: {image.width}x{image.height} pixels are too thin to be fitted into {width}x{height}"
        )
    place = fitted_place(image.height, image.width, height, width)
    if place[2:] == (width, height):
        return image.resize((width, height), Image.Resampling.LANCZOS)
    logger.info("The image's %dx%d is fitted into %dx%d with bars in its border colour.", *image.size, width, height)
    colour = border_colour(np.asarray(image), place, width).round().astype(int)
    return _placed(image, Image.new("RGB", (width, height), tuple(colour.tolist())), place)


def fit_pose_map(pose_map: Image.Image, height: int, width: int) -> Image.Image:
    """Fit the whole pose map to a size, on black, which contains no pose.

    Args:
        pose_map (`PIL.Image.Image`):
            RGB.
        height, width (`int`):
            The size in pixels.
    """
    place = fitted_place(pose_map.height, pose_map.width, height, width)
    return _placed(pose_map, Image.new("RGB", (width, height)), place)


def _placed(image: Image.Image, ground: Image.Image, place: tuple[int, int, int, int]) -> Image.Image:
    ground.paste(image.resize(place[2:], Image.Resampling.LANCZOS), place[:2])
    return ground
