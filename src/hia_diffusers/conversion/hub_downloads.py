# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints on the Hub: only the required files are downloaded, and kept together with the result."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

from ..folder_lock import locked_folder
from .published import PUBLISHED, PublishedCheckpoint, check_can_animate


CONVERTED_FOLDER = "hia-diffusers"
DEFAULT_REVISION = "main"


def download_checkpoint(
    checkpoint: PublishedCheckpoint,
    cache_dir: str | os.PathLike | None = None,
    revision: str | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Path]:
    """Return the files of a published checkpoint, from the cache or the Hub. An interrupted download resumes.

    Args:
        checkpoint ([`PublishedCheckpoint`]):
            The checkpoint.
        cache_dir (`str` or `os.PathLike`, *optional*):
            The cache of `huggingface_hub`. Its default depends on `HF_HOME` and `HF_HUB_CACHE`.
        revision (`str`, *optional*):
            Branch, tag or commit of the checkpoint's own repository. The default is its main branch.
        notify (`Callable[[str], None]`, *optional*):
            Called with the size and the license before anything is downloaded.

    Returns:
        `dict[str, Path]`: The folders, by the names of the converter's arguments.

    Raises:
        ConnectionError: If the Hub cannot be reached, or a download is interrupted.
        FileNotFoundError: If a repository, a revision or a file does not exist.
        OSError: If there is not enough space on the disk.
        PermissionError: If a repository requires agreeing to its terms first.
    """
    wanted = [
        (name, files.repo_id, file, {"cache_dir": cache_dir, "revision": revision if name == "weights" else None})
        for name, files in checkpoint.sources.items()
        for file in files.sizes
    ]
    sizes = [
        _from_hub(repo_id, file, dry_run=True, **options).file_size or 0
        for _, repo_id, file, options in wanted
        if _cached(repo_id, file, **options) is None
    ]
    if sizes:
        _check_space(Path(cache_dir or constants.HF_HUB_CACHE), sum(sizes))
        notify(f"{checkpoint.title}: downloading {sum(sizes) / 1e9:.2f} GB. License: {checkpoint.license}.")
    folders = {}
    for name, repo_id, file, options in wanted:
        path = _cached(repo_id, file, **options) or _from_hub(repo_id, file, **options)
        folders[name] = Path(path).parents[file.count("/")] / checkpoint.sources[name].folder
    return folders


def converted_checkpoint(
    name: str,
    dtype: torch.dtype = torch.float32,
    cache_dir: str | os.PathLike | None = None,
    revision: str | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Path:
    """Return the folder of a published checkpoint as a pipeline.

    It is downloaded and converted the first time, and kept.

    Args:
        name (`str`):
            A name in `PUBLISHED`.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights; each has its own folder.
        cache_dir, revision, notify (*optional*):
            As in [`download_checkpoint`]. The result is kept in `hia-diffusers` under `cache_dir` or `HF_HOME`.

    Raises:
        ValueError: If there is no checkpoint of that name, or it needs training first.
        ConnectionError, FileNotFoundError, OSError, PermissionError: As in [`download_checkpoint`].
    """
    check_can_animate(name)
    folder = converted_folder(name, dtype, cache_dir, revision)
    if not folder.is_dir():
        with locked_folder(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                folders = download_checkpoint(PUBLISHED[name], cache_dir, revision, notify)
                notify(f"Converting {PUBLISHED[name].title}; the result is kept in {folder}.")
                PUBLISHED[name].convert(folders, dtype=dtype).save_pretrained(folder)
    return folder


def converted_folder(
    name: str, dtype: torch.dtype, cache_dir: str | os.PathLike | None = None, revision: str | None = None
) -> Path:
    """Return the folder in which [`converted_checkpoint`] keeps its result; the arguments are the same."""
    label = (revision or DEFAULT_REVISION).replace("/", "--")
    return _converted_root(cache_dir) / f"{name}-{label}-{str(dtype).removeprefix('torch.')}"


def converted_folders(name: str, cache_dir: str | os.PathLike | None = None) -> list[Path]:
    """Return the existing results of [`converted_checkpoint`], for all revisions and dtypes."""
    return [path for path in _converted_root(cache_dir).glob(f"{name}-*-*") if not path.name.endswith(".lock")]


def _converted_root(cache_dir: str | os.PathLike | None) -> Path:
    return Path(constants.HF_HOME if cache_dir is None else cache_dir, CONVERTED_FOLDER)


def is_downloaded(checkpoint: PublishedCheckpoint, cache_dir: str | Path | None = None) -> bool:
    """Return whether all files of a checkpoint are in the cache, without using the network."""
    return all(
        _cached(files.repo_id, file, cache_dir=cache_dir) is not None
        for files in checkpoint.sources.values()
        for file in files.sizes
    )


def _cached(repo_id: str, file: str, **options: Any) -> str | None:
    path = try_to_load_from_cache(repo_id, file, **options)
    return path if isinstance(path, str) else None  # otherwise, it is missing or known not to exist


def _from_hub(repo_id: str, file: str, **options: Any) -> Any:
    """Call `hf_hub_download`, with error messages of one sentence."""
    address = f"{constants.ENDPOINT}/{repo_id}"
    try:
        return hf_hub_download(repo_id, file, **options)
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{address} requires agreeing to its terms: agree on that page, then log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{address} does not exist, or is private and needs `hf auth login`.") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"`revision`: {address} has none named {options['revision']!r}.") from error
    except errors.RemoteEntryNotFoundError as error:
        raise FileNotFoundError(f"{address} has no file {file}.") from error
    except Exception as error:  # network errors of huggingface_hub, httpx and the operating system
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # such as a full disk
        reason = "downloads are switched off" if constants.HF_HUB_OFFLINE else " ".join(str(error).split())
        raise ConnectionError(
            f"{file} of {address} cannot be downloaded ({reason}). What has arrived is kept; try again."
        ) from error


def _check_space(cache_dir: Path, size: int) -> None:
    folder = next(parent for parent in (cache_dir, *cache_dir.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(f"{folder} has {free / 1e9:.2f} GB of free space; the files need {size / 1e9:.2f} GB.")
