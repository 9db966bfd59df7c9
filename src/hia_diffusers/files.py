# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whatever their names, and their hashes."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


# Suffix of files left by a killed process; short, because the name itself may have the maximum length.
UNFINISHED = ".hia-*.tmp"


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file that gets its name only when it is complete. An existing file is replaced atomically, or unchanged.

    Args:
        path (`str` or `os.PathLike`):
            The file, in a folder that exists.

    Returns:
        A context manager for the temporary `Path` to write to.
    """
    partial = _unfinished(Path(path))
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file that has its name only when all of it is written.

    Args:
        path (`str` or `os.PathLike`):
            The file, in a folder that exists; an existing one is replaced.
        content (`str` or `bytes`):
            What it holds; text is UTF-8.
    """
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: str | os.PathLike) -> None:
    """Check in advance whether a file can be written, by writing to its folder.

    Args:
        path (`str` or `os.PathLike`):
            The file.

    Raises:
        FileNotFoundError: If its folder does not exist.
        OSError: If nothing can be written there, or the name is not valid.
        ValueError: If it is a folder or a device.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    partial = _unfinished(path)
    try:
        partial.touch(exist_ok=False)
        partial.unlink()
        with suppress(FileNotFoundError):  # any other error means an invalid name
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ValueError(f"{str(path)!r} is not a file that can be replaced.")
    except OSError as error:
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {error.strerror}") from error


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Args:
        path (`str` or `os.PathLike`):
            The file.
    """
    from huggingface_hub.utils.sha import sha_fileobj

    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def _unfinished(path: Path) -> Path:
    return path.with_name(UNFINISHED.replace("*", f"{os.getpid()}-{secrets.token_hex(4)}"))
