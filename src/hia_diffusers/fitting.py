# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Fitting of images to another size: whole, centred and never stretched. Axes: N images, C channels, H, W."""

import logging

import numpy as np
import torch


logger = logging.getLogger(__name__)


def fitted_place(height: int, width: int, new_height: int, new_width: int) -> tuple[int, int, int, int]:
    """Return the largest centred position of an image, at least one pixel wide and high.

    Args:
        height, width (`int`):
            Size of the image in pixels.
        new_height, new_width (`int`):
            Target size in pixels.

    Returns:
        `tuple[int, int, int, int]`: x, y, width and height in pixels.
    """
    scale = min(new_height / height, new_width / width)
    placed_height = min(max(1, round(height * scale)), new_height)
    placed_width = min(max(1, round(width * scale)), new_width)
    return (new_width - placed_width) // 2, (new_height - placed_height) // 2, placed_width, placed_height


def warn_of_bars(name: str, height: int, width: int, new_height: int, new_width: int) -> None:
    """Log a warning if an image does not fill its target size.

    Args:
        name (`str`):
            Name of the argument.
        height, width, new_height, new_width (`int`):
            As for [`fitted_place`].
    """
    if fitted_place(height, width, new_height, new_width)[2:] != (new_width, new_height):
        logger.warning(
            "`%s` of %dx%d is fitted into %dx%d, whole and centred.", name, width, height, new_width, new_height
        )


def border_colour(pixels: np.ndarray, place: tuple[int, int, int, int], width: int) -> np.ndarray:
    """Return the median colour of the edges of an image that are adjacent to bars.

    Args:
        pixels (`np.ndarray` of shape `(H, W, C)`):
            The image.
        place (`tuple[int, int, int, int]`):
            Position of the image, from [`fitted_place`].
        width (`int`):
            Width in pixels of the target.

    Returns:
        `np.ndarray` of shape `(C,)`.
    """
    edges = pixels[[0, -1]] if place[2] == width else pixels[:, [0, -1]]
    return np.median(edges, axis=(0, 1))


def fit_images(images: torch.Tensor, height: int, width: int, border: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Fit images to another size, with antialiasing.

    Args:
        images (`torch.Tensor` of shape `(N, C, H, W)`):
            Pixels in [0, 1].
        height, width (`int`):
            Target size in pixels.
        border (`torch.Tensor` or `float`, *optional*, defaults to 0):
            Values of the bars, a number or a tensor that broadcasts to `(N, C, height, width)`.

    Returns:
        `torch.Tensor` of shape `(N, C, height, width)`.
    """
    if images.shape[-2:] == (height, width):
        return images
    x, y, placed_width, placed_height = fitted_place(images.shape[-2], images.shape[-1], height, width)
    size = (placed_height, placed_width)
    resized = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    fitted = images.new_empty(*images.shape[:2], height, width)
    fitted[:] = border
    fitted[..., y : y + placed_height, x : x + placed_width] = resized
    return fitted


def fit_reference(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Fit a reference image to the size of the video.

    If its aspect ratio differs, the bars have its border colour, and a warning is logged.

    Args:
        image (`torch.Tensor` of shape `(C, H, W)`):
            Pixels in [0, 1].
        height, width (`int`):
            Target size in pixels.

    Returns:
        `torch.Tensor` of shape `(C, height, width)`.
    """
    warn_of_bars("image", image.shape[1], image.shape[2], height, width)
    place = fitted_place(image.shape[1], image.shape[2], height, width)
    colour = border_colour(image.movedim(0, -1).cpu().numpy(), place, width)
    return fit_images(image[None], height, width, torch.from_numpy(colour)[:, None, None].to(image))[0]
