# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Lock of a folder against simultaneous runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


LOCK_FILE = ".lock"


class FolderInUseError(RuntimeError):
    """Another run is writing to the folder."""


@contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a folder against other runs while a block of code runs. The lock ends with the process, for any reason.

    Args:
        folder (`str` or `os.PathLike`):
            A local folder. It is created if it does not exist, and deleted if it stays empty.

    Raises:
        OSError: If the folder cannot be written to.
        FolderInUseError: If another run, or this process, has locked the folder.
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
        with suppress(OSError):  # Windows does not delete open files; there, the lock deletes it
            path.unlink()
        lock.release()
        if is_new:
            with suppress(OSError):  # it is not empty
                path.parent.rmdir()
