# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps two runs from writing to one folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


LOCK_FILE = ".lock"


class FolderInUseError(RuntimeError):
    """Another run is writing to the folder."""


@contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """
    Keeps other runs out of a folder while a block of code runs. The lock ends with the process, however that ends.

    Args:
        folder (`str` or `os.PathLike`):
            A local folder. It is made if it is not there, and deleted if nothing was put into it.

    Raises:
        `OSError`: the folder cannot be written to.
        `FolderInUseError`: another run, or this process, holds the folder.
    """
    from filelock import FileLock, Timeout

    path = Path(folder, LOCK_FILE)
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"Another run is writing to {os.fspath(folder)}; wait for its end, or stop it."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file; there the lock does it
            path.unlink()
        lock.release()
        if is_new:
            with suppress(OSError):  # it holds something
                path.parent.rmdir()
