# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Atomic checkpoints of a training run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .. import checks
from ..files import sha256_of


PREFIX = "checkpoint-"
UNFINISHED = ".unfinished-"
CONTENTS_FILE = "contents.json"


def step_of(checkpoint: str | os.PathLike) -> int | None:
    """Return the step in the name of a complete checkpoint, or None for other names.

    Args:
        checkpoint (`str` or `os.PathLike`):
            A checkpoint folder.
    """
    name = Path(checkpoint).name
    digits = name.removeprefix(PREFIX)
    return int(digits) if name.startswith(PREFIX) and digits.isdecimal() else None


def damage_of(checkpoint: str | os.PathLike) -> str | None:
    """Return the damage of a checkpoint, or None if all of its files are intact.

    Args:
        checkpoint (`str` or `os.PathLike`):
            A folder written by [`CheckpointFolder.save`]. All of it is read.
    """
    folder = Path(checkpoint)
    path = folder / CONTENTS_FILE
    try:
        contents = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        contents = None
    if not isinstance(contents, dict) or not contents:
        return f"{path} is missing or damaged"
    for name, written in contents.items():
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        try:
            found = _content_of(folder / name)
        except OSError as error:
            return f"{folder / name} cannot be read ({error.strerror})"
        if found != written:
            return f"{folder / name} is damaged: its content has changed"
    return None


class CheckpointFolder:
    """The folders `checkpoint-STEP` of a run.

    A checkpoint is written under a temporary name, and renamed when all of it is on the disk; before it is deleted, it
    is renamed again. It contains the sizes and hashes of its files for [`damage_of`]. Incomplete folders of an
    interrupted run are deleted at the next save, or by [`~CheckpointFolder.delete_unfinished`] if none follows.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the checkpoints; created if it does not exist.
        total_limit (`int`, *optional*):
            Number of the newest checkpoints to keep.

    Raises:
        ValueError: If `total_limit` is less than 1.
    """

    def __init__(self, folder: str | os.PathLike, total_limit: int | None = None) -> None:
        if total_limit is not None:
            checks.integer("total_limit", total_limit)
        self.folder = Path(checks.path("folder", folder))
        self.total_limit = total_limit

    def steps(self) -> list[int]:
        """Return the steps with a complete checkpoint, in order."""
        return sorted(step for path in self.folder.glob(f"{PREFIX}*") if (step := step_of(path)) is not None)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step.

        Args:
            step (`int`):
                Number of finished optimizer steps.
        """
        return self.folder / f"{PREFIX}{step}"

    def last_whole(self, before: int) -> Path | None:
        """Return the newest checkpoint that is not damaged.

        Args:
            before (`int`):
                Only steps before this one count.
        """
        paths = (self.path(step) for step in reversed(self.steps()) if step < before)
        return next((path for path in paths if damage_of(path) is None), None)

    def save(self, step: int, write: Callable[[Path], Any], accelerator: Accelerator) -> Path:
        """Write a checkpoint, on all processes together.

        Args:
            step (`int`):
                Number of finished optimizer steps.
            write (`Callable`):
                Called on every process with the output folder.
            accelerator (`accelerate.Accelerator`):
                Accelerator of the run.

        Returns:
            `Path`: The checkpoint.

        Raises:
            FileExistsError: If the step has a checkpoint. It is not replaced, because it would be missing for a
                moment.
        """
        if self.path(step).exists():
            raise FileExistsError(f"`step` must be a step without a checkpoint, but {self.path(step)} exists.")
        unfinished = self.folder / f"{UNFINISHED}{PREFIX}{step}"
        self.delete_unfinished(accelerator)
        if accelerator.is_main_process:
            unfinished.mkdir(parents=True)
        accelerator.wait_for_everyone()
        write(unfinished)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            files = sorted(path for path in unfinished.rglob("*") if path.is_file())
            contents = {path.relative_to(unfinished).as_posix(): _content_of(path) for path in files}
            (unfinished / CONTENTS_FILE).write_text(json.dumps(contents, indent=2))
            for path in (*unfinished.rglob("*"), unfinished):
                _write_to_disk(path)
            unfinished.rename(self.path(step))
            _write_to_disk(self.folder)
            for old in self.steps()[: -self.total_limit] if self.total_limit else []:
                doomed = self.folder / f"{UNFINISHED}{PREFIX}{old}-deleted"
                self.path(old).rename(doomed)
                shutil.rmtree(doomed)
        accelerator.wait_for_everyone()
        return self.path(step)

    def delete_unfinished(self, accelerator: Accelerator) -> None:
        """Delete incomplete checkpoints, on all processes together.

        Args:
            accelerator (`accelerate.Accelerator`):
                Accelerator of the run.
        """
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for path in self.folder.glob(f"{UNFINISHED}{PREFIX}*"):
                shutil.rmtree(path)


def _content_of(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _write_to_disk(path: Path) -> None:
    """Flush a file or folder to the disk, so that it survives a failure of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
