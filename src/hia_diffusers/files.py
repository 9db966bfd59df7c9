# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whatever their names, and their hashes."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


# What is left over by a process that was killed; short, as the name that is written may be as long as names can be.
UNFINISHED = ".hia-*.tmp"


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """
    A file that takes its name when it is complete. An existing one is replaced in one step, or stays as it was.

    Args:
        path (`str` or `os.PathLike`):
            The file, in a folder that exists.

    Returns:
        A context manager that gives the `Path` to write to; it is gone afterwards.
    """
    partial = _unfinished(Path(path))
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """
    Write a file that has its name only when all of it is written.

    Args:
        path (`str` or `os.PathLike`):
            The file, in a folder that exists; an existing one is replaced.
        content (`str` or `bytes`):
            What it holds; text is UTF-8.
    """
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: str | os.PathLike) -> None:
    """
    Whether a file can be written, as far as that is known before: its folder is tried.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Raises:
        `FileNotFoundError`: its folder does not exist.
        `OSError`: nothing can be written there, or the name is none that a file can have.
        `ValueError`: it is a folder or a device.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    partial = _unfinished(path)
    try:
        partial.touch(exist_ok=False)
        partial.unlink()
        with suppress(FileNotFoundError):  # any other error is that of a name that cannot be
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ValueError(f"{str(path)!r} is no file that can be replaced.")
    except OSError as error:
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {error.strerror}") from error


def sha256_of(path: str | os.PathLike) -> str:
    """
    The SHA-256 of a file, in hexadecimal.

    Args:
        path (`str` or `os.PathLike`):
            The file.
    """
    from huggingface_hub.utils.sha import sha_fileobj

    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def _unfinished(path: Path) -> Path:
    return path.with_name(UNFINISHED.replace("*", f"{os.getpid()}-{secrets.token_hex(4)}"))
