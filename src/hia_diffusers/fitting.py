# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Where a picture goes in another size: whole, centred and never stretched. Axes: N images, C channels, H, W."""

import logging

import numpy as np
import torch


logger = logging.getLogger(__name__)


def fitted_place(height: int, width: int, new_height: int, new_width: int) -> tuple[int, int, int, int]:
    """
    The largest place for a picture, at least a pixel wide and high.

    Args:
        height, width (`int`):
            Its size in pixels.
        new_height, new_width (`int`):
            The size to fit it into.

    Returns:
        `tuple[int, int, int, int]`: x, y, width and height of the place in pixels.
    """
    scale = min(new_height / height, new_width / width)
    placed_height = min(max(1, round(height * scale)), new_height)
    placed_width = min(max(1, round(width * scale)), new_width)
    return (new_width - placed_width) // 2, (new_height - placed_height) // 2, placed_width, placed_height


def warn_of_bars(name: str, height: int, width: int, new_height: int, new_width: int) -> None:
    """
    A warning where a picture does not fill the size that it is fitted into.

    Args:
        name (`str`):
            Of the argument that it is given by.
        height, width, new_height, new_width (`int`):
            As for [`fitted_place`].
    """
    if fitted_place(height, width, new_height, new_width)[2:] != (new_width, new_height):
        logger.warning(
            "`%s` of %dx%d is fitted into %dx%d, whole and centred.", name, width, height, new_width, new_height
        )


def border_colour(pixels: np.ndarray, place: tuple[int, int, int, int], width: int) -> np.ndarray:
    """
    The median colour of the edges of a picture that bars beside it join.

    Args:
        pixels (`np.ndarray` of shape `(H, W, C)`):
            The picture.
        place (`tuple[int, int, int, int]`):
            Where it goes, as [`fitted_place`] says.
        width (`int`):
            Width in pixels of what it is fitted into.

    Returns:
        `np.ndarray` of shape `(C,)`.
    """
    edges = pixels[[0, -1]] if place[2] == width else pixels[:, [0, -1]]
    return np.median(edges, axis=(0, 1))


def fit_images(images: torch.Tensor, height: int, width: int, border: torch.Tensor | float = 0.0) -> torch.Tensor:
    """
    Images in another size, resized with antialiasing.

    Args:
        images (`torch.Tensor` of shape `(N, C, H, W)`):
            In [0, 1].
        height, width (`int`):
            The size to fit them into.
        border (`torch.Tensor` or `float`, *optional*, defaults to 0):
            What is beside them, a number or one that broadcasts to `(N, C, height, width)`.

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
    """
    A reference image in the size of the video; where its aspect differs, with bars in its border colour and a warning.

    Args:
        image (`torch.Tensor` of shape `(C, H, W)`):
            In [0, 1].
        height, width (`int`):
            The size to fit it into.

    Returns:
        `torch.Tensor` of shape `(C, height, width)`.
    """
    warn_of_bars("image", image.shape[1], image.shape[2], height, width)
    place = fitted_place(image.shape[1], image.shape[2], height, width)
    colour = border_colour(image.movedim(0, -1).cpu().numpy(), place, width)
    return fit_images(image[None], height, width, torch.from_numpy(colour)[:, None, None].to(image))[0]
