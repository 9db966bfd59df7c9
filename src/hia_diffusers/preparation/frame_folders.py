# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of numbered images in place of videos. Axes: H, W."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..images import load_image
from ..natural_order import natural_order


FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# Of the folders beside each other in that of a clip, the one with its frames; others hold masks and the like.
IMAGES_FOLDER = "images"


def in_order(paths: Iterable[Path]) -> list[Path]:
    """
    Frames by the numbers in their names, 2 before 10.

    Args:
        paths (`Iterable[Path]`):
            The files.

    Raises:
        `ValueError`: two of them have the same name or number, as 2 and 02 have.
    """
    ordered = sorted(paths, key=lambda path: natural_order(path.stem))
    for path, following in itertools.pairwise(ordered):
        if natural_order(path.stem)[0] == natural_order(following.stem)[0]:
            raise ValueError(f"{str(path)!r} and {str(following)!r} have the same name or number")
    return ordered


def stream_frame_folder(folder: str | os.PathLike) -> Iterator[np.ndarray]:
    """
    The images of a folder, one at a time.

    Args:
        folder (`str` or `os.PathLike`):
            Its files with a suffix of `FRAME_SUFFIXES` are the frames. Others, and names that begin with a dot, are
            not looked at.

    Returns:
        An iterator over uint8 RGB frames `(H, W, 3)`, as [`load_image`] gives them. The `ValueError` of an image that
        cannot be read comes while iterating.

    Raises:
        `ValueError`: there are no frames, or two have the same number.
    """
    paths = in_order(path for path in Path(folder).iterdir() if is_frame(path.name))
    if not paths:
        raise ValueError(f"{str(folder)!r} holds no frames ({', '.join(FRAME_SUFFIXES)})")
    return (np.asarray(load_image(path, path.name)) for path in paths)


def is_frame(name: str) -> bool:
    """Whether a file of this name is a frame."""
    return not name.startswith(".") and Path(name).suffix.lower() in FRAME_SUFFIXES
