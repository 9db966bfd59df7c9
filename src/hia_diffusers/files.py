# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear under their name only when they are complete, and hashes of files."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


# Suffix of files left by a killed process; short, because the name itself may have the maximum length.
UNFINISHED = ".hia-*.tmp"


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file or a folder that gets its name only when it is complete.

    An existing file is replaced atomically, or unchanged.

    Args:
        path (`str` or `os.PathLike`):
            The file or folder, in a folder that exists.

    Returns:
        A context manager for the temporary `Path` to write to.
    """
    partial = _unfinished(Path(path))
    try:
        yield partial
        rename(partial, path)
    finally:
        _remove(partial)


def rename(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Rename a file or a folder, replacing an existing one of the same kind.

    Args:
        source (`str` or `os.PathLike`):
            The file or folder.
        path (`str` or `os.PathLike`):
            The new name, on the same file system.
    """
    if not Path(source).is_dir() or not Path(path).is_dir():
        os.replace(source, path)
        return
    previous = _unfinished(Path(path))  # a folder cannot be replaced by another in one step
    os.rename(path, previous)
    os.rename(source, path)
    _remove(previous)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file that appears under its name only when it is complete.

    Args:
        path (`str` or `os.PathLike`):
            The file, in a folder that exists; an existing one is replaced.
        content (`str` or `bytes`):
            Content of the file; text is UTF-8.
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
    mode = _mode_where_writable(Path(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(f"{str(path)!r} is not a file that can be replaced.")


def check_folder_writable(path: str | os.PathLike, replaceable: str) -> None:
    """Check in advance whether a folder can be written, by writing to the folder that it is in.

    Args:
        path (`str` or `os.PathLike`):
            The folder.
        replaceable (`str`):
            Pattern of the names in a folder that may be replaced, for `Path.match`.

    Raises:
        FileNotFoundError: If the folder that it is in does not exist.
        OSError: If nothing can be written there, or the name is not valid.
        ValueError: If it is a file, or a folder with other content.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise ValueError(f"{str(path)!r} is not the name of a new folder.")
    mode = _mode_where_writable(path)
    if mode is None:
        return
    if path.is_symlink() or not stat.S_ISDIR(mode):
        raise ValueError(f"{str(path)!r} is not a folder that can be replaced.")
    others = sorted(entry.name for entry in path.iterdir() if not entry.match(replaceable))
    if others:
        raise ValueError(f"{str(path)!r} is a folder with other content, such as {others[0]!r}; name a new one.")


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Args:
        path (`str` or `os.PathLike`):
            The file.
    """
    from huggingface_hub.utils.sha import sha_fileobj

    with open(path, "rb") as file:
        return sha_fileobj(file).hex()


def _mode_where_writable(path: Path) -> int | None:
    """Return the mode of an existing file, or `None`, after writing a temporary file next to it."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    partial = _unfinished(path)
    try:
        partial.touch(exist_ok=False)
        partial.unlink()
        with suppress(FileNotFoundError):  # any other error means an invalid name
            return os.stat(path).st_mode
    except OSError as error:
        raise OSError(error.errno, f"{str(path)!r} cannot be written: {error.strerror}") from error
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(UNFINISHED.replace("*", f"{os.getpid()}-{secrets.token_hex(4)}"))
