# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a conversion gives: the result, a report of all keys, and a way to save it that leaves no half of it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessor

from .key_tables import ComponentKeys


SHOWN_KEYS = 3  # of those that are made or left, in the table


@dataclass(frozen=True)
class ConversionReport:
    """Every key that was taken, made or left; `str` makes it a table with the first of those made and left.

    Args:
        rows (`tuple[ComponentKeys, ...]`):
            One for each component and source.
        left_over (`tuple[str, ...]`, *optional*, defaults to `()`):
            Whole files and components of the sources that have no place in the result.
    """

    rows: tuple[ComponentKeys, ...]
    left_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        cells = [("component", "taken", "made", "left", "from")]
        for row in self.rows:
            counts = (str(len(row.taken)), str(len(row.made)), str(len(row.left)))
            cells.append((row.component, *counts, row.source))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            f"{component:<{widths[0]}}  {taken:>{widths[1]}}  {made:>{widths[2]}}  {left:>{widths[3]}}  {source}"
            for component, taken, made, left, source in cells
        ]
        made_keys = [f"  {row.component}: {_shortened(row.made)}" for row in self.rows if row.made]
        left_keys = [f"  {row.component}: {_shortened(row.left)}" for row in self.rows if row.left]
        if made_keys:
            lines += ["Made:", *made_keys]
        if left_keys or self.left_over:
            lines += ["Left:", *left_keys, *(f"  {name}" for name in self.left_over)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Conversion:
    """What the functions of this package return.

    Args:
        model ([`HIAPipeline`] or what else the source has):
            On the CPU, in evaluation mode.
        report ([`ConversionReport`]):
            What became of every key.
        feature_extractor (`CLIPImageProcessor`, *optional*):
            What belongs to a `model` that is an image encoder.
    """

    model: Any
    report: ConversionReport
    feature_extractor: CLIPImageProcessor | None = None

    def save_pretrained(self, folder: str | os.PathLike, **kwargs: Any) -> None:
        """Save the result, as safetensors, under another name first: a folder of this name is whole.

        Args:
            folder (`str` or `os.PathLike`):
                Where to; must not be there.
            kwargs:
                Options of `save_pretrained` of the model, such as `variant`.

        Raises:
            FileExistsError: If `folder` is there.
            FileNotFoundError: If there is no folder to make it in.
        """
        folder = Path(folder)
        check_new_folder("folder", folder)
        outer = folder.with_name(f".unfinished-{folder.name}-{os.getpid()}")
        unfinished = outer / folder.name  # the model card takes its title from the folder's name
        try:
            self.model.save_pretrained(unfinished, **kwargs)
            if self.feature_extractor is not None:
                self.feature_extractor.save_pretrained(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(outer, ignore_errors=True)


def check_new_folder(argument: str, folder: Path) -> None:
    """Whether a folder can be made.

    Args:
        argument (`str`):
            Name of the argument that leads to it, for errors.
        folder (`Path`):
            The folder.

    Raises:
        FileExistsError: If it is there.
        FileNotFoundError: If there is no folder to make it in.
    """
    if folder.exists():
        raise FileExistsError(f"`{argument}` must be a new folder, but {folder} is there.")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"`{argument}` must lie in a folder that is there, but {folder.parent} is none.")


def _shortened(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
