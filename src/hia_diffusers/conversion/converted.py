# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Results of conversions: the model, a report of all keys, and saving that leaves no incomplete folder."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessor

from .key_tables import ComponentKeys


SHOWN_KEYS = 3  # new or unused keys per row of the table


@dataclass(frozen=True)
class ConversionReport:
    """Report of all keys that were used, initialized or left unused.

    `str` returns a table with the first new and unused keys.

    Args:
        rows (`tuple[ComponentKeys, ...]`):
            One for each component and source.
        left_over (`tuple[str, ...]`, *optional*, defaults to `()`):
            Whole files and components of the sources that are not part of the result.
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
    """Result of the functions of this package.

    Args:
        model ([`HIAPipeline`] or the type of the source):
            The model, on the CPU, in evaluation mode.
        report ([`ConversionReport`]):
            Report of all keys.
        feature_extractor (`CLIPImageProcessor`, *optional*):
            Feature extractor of a `model` that is an image encoder.
    """

    model: Any
    report: ConversionReport
    feature_extractor: CLIPImageProcessor | None = None

    def save_pretrained(self, folder: str | os.PathLike, **kwargs: Any) -> None:
        """Save the result as safetensors.

        It is first saved under another name, so a folder of this name is always complete.

        Args:
            folder (`str` or `os.PathLike`):
                The folder, which must not exist yet.
            kwargs:
                Options of `save_pretrained` of the model, such as `variant`.

        Raises:
            FileExistsError: If `folder` exists.
            FileNotFoundError: If the parent folder does not exist.
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
    """Check that a folder can be created.

    Args:
        argument (`str`):
            Name of the argument for it, for error messages.
        folder (`Path`):
            The folder.

    Raises:
        FileExistsError: If it exists.
        FileNotFoundError: If its parent folder does not exist.
    """
    if folder.exists():
        raise FileExistsError(f"`{argument}` must be a new folder, but {folder} exists.")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"`{argument}` must be in an existing folder, but {folder.parent} does not exist.")


def _shortened(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
