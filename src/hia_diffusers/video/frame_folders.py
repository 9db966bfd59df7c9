# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of numbered images instead of videos. Axes: H, W."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..images import load_image
from ..natural_order import natural_order


FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# Among sibling folders of a clip, the one with its frames; others contain masks and the like.
IMAGES_FOLDER = "images"


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort frames by the numbers in their names, 2 before 10.

    Args:
        paths (`Iterable[Path]`):
            The files.

    Raises:
        ValueError: If two of them have the same name or number, such as 2 and 02.
    """
    ordered = sorted(paths, key=lambda path: natural_order(path.stem))
    for path, following in itertools.pairwise(ordered):
        if natural_order(path.stem)[0] == natural_order(following.stem)[0]:
            raise ValueError(f"{str(path)!r} and {str(following)!r} have the same name or number")
    return ordered


def stream_frame_folder(folder: str | os.PathLike, selected: slice = slice(None)) -> Iterator[np.ndarray]:
    """Iterate over the images of a folder.

    Args:
        folder (`str` or `os.PathLike`):
            The folder. Files with a suffix in `FRAME_SUFFIXES` are the frames. Other files, and names that begin with
            a dot, are ignored.
        selected (`slice`, *optional*):
            Which frames, in the order of [`in_order`]; all by default.

    Returns:
        An iterator over uint8 RGB frames `(H, W, 3)`, read by [`load_image`]. Iteration raises a `ValueError` if an
        image cannot be read.

    Raises:
        ValueError: If there are no frames, or two have the same number.
    """
    paths = in_order(path for path in Path(folder).iterdir() if is_frame(path.name))
    if not paths:
        raise ValueError(f"{str(folder)!r} contains no frames ({', '.join(FRAME_SUFFIXES)})")
    return (np.asarray(load_image(path, path.name)) for path in paths[selected])


def is_frame(name: str) -> bool:
    """Return whether a file of this name is a frame."""
    return not name.startswith(".") and Path(name).suffix.lower() in FRAME_SUFFIXES
