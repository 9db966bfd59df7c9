# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A cache of training samples, which are drawn and encoded once and then read from a folder."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .. import checks
from ..data.dataset import HIADataset
from ..files import write_whole, written_whole


KEY_FILE = "cache.json"

END_OF_ZIP, END_OF_ZIP_BYTES = b"PK\5\6", 22

Sample = dict[str, Any]

logger = logging.getLogger(__name__)


class DamagedSampleError(ValueError):
    """A cached sample cannot be read. The message names its file."""


class SampleCache(Dataset):
    """The first epochs of a dataset, cached in a folder; later epochs repeat them with new condition dropout.

    A sample is a compressed file of arrays (`.npz`, read without pickle) that gets its name only when it is complete:
    filling resumes after an interruption, and several processes may fill the cache together.

    Args:
        dataset ([`~hia_diffusers.HIADataset`]):
            Dataset of the samples. Its epoch is also that of the cache.
        folder (`str` or `os.PathLike`):
            Folder of the cache; created if it does not exist.
        num_epochs (`int`):
            Number of cached epochs. Each draws its own frames and flips.
        key (`dict[str, str]`):
            Everything that determines samples and their encoding, except the length of the dataset.

    Raises:
        ValueError: If the folder contains samples with another or damaged key, or `num_epochs` is less than 1.
    """

    def __init__(self, dataset: HIADataset, folder: str | os.PathLike, num_epochs: int, key: dict[str, str]) -> None:
        checks.integer("num_epochs", num_epochs)
        self.dataset, self.folder, self.num_epochs = dataset, Path(checks.path("folder", folder)), num_epochs
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / KEY_FILE
        if not path.exists():
            write_whole(path, json.dumps(key, indent=2))
        try:
            kept = json.loads(path.read_text()) if path.is_file() else None
        except (ValueError, RecursionError):
            kept = None
        if not isinstance(kept, dict):
            raise ValueError(
                f"`folder` contains a damaged {path}, without which the options of its samples are unknown."
            )
        changed = [name for name in {**kept, **key} if kept.get(name) != key.get(name)]
        if changed:
            listed = ", ".join(f"{name} was {kept.get(name)}, is {key.get(name)}" for name in changed)
            raise ValueError(f"`folder` contains samples with other options: {listed}.")

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample of the dataset's epoch.

        Raises:
            DamagedSampleError: If its file is damaged.
            FileNotFoundError: If it is not in the cache.
        """
        path = self._path(self.dataset.epoch % self.num_epochs, index)
        if not path.is_file():
            raise FileNotFoundError(f"The cache contains no sample {path}.")
        try:
            with np.load(path) as arrays:
                sample = {name: _from_array(arrays[name]) for name in arrays.files}
        except Exception as error:  # damaged archives raise errors of many classes
            reason = " ".join(str(error).split())
            raise DamagedSampleError(
                f"The cached sample {path} is damaged ({reason}); delete it, and the next run draws it again."
            ) from error
        return self.dataset.drop_conditions(sample, index)

    def fill(
        self, encode: Callable[[Sample], Sample], rank: int = 0, num_ranks: int = 1, num_workers: int = 0
    ) -> Iterator[int]:
        """Draw, encode and store missing or truncated samples. Afterwards, the dataset is in its first epoch.

        Args:
            encode (callable):
                Encodes a collated batch of one sample.
            rank (`int`, *optional*, defaults to 0):
                Rank of the process, which fills every `num_ranks`-th sample.
            num_ranks (`int`, *optional*, defaults to 1):
                Number of processes.
            num_workers (`int`, *optional*, defaults to 0):
                Processes that draw samples.

        Yields:
            `int`: Number of missing samples, after each sample.
        """
        epochs = range(self.num_epochs)
        mine = range(rank, len(self), num_ranks)
        missing = {epoch: [index for index in mine if not _is_kept(self._path(epoch, index))] for epoch in epochs}
        still_missing = sum(map(len, missing.values()))
        for epoch, indices in missing.items():
            self.dataset.set_epoch(epoch)
            batches = DataLoader(_CompleteSamples(self.dataset), sampler=indices, num_workers=num_workers)
            for index, batch in zip(indices, batches, strict=True):
                arrays = {name: np.asarray(values[0]) for name, values in encode(batch).items()}
                path = self._path(epoch, index)
                path.parent.mkdir(exist_ok=True)
                with written_whole(path) as unfinished, open(unfinished, "wb") as file:
                    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
                still_missing -= 1
                yield still_missing
        self.dataset.set_epoch(0)

    def _path(self, epoch: int, index: int) -> Path:
        return self.folder / f"epoch-{epoch}" / f"{index:07d}.npz"


def _is_kept(path: Path) -> bool:
    """Return whether a file is complete; damage inside it is detected when it is read."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - END_OF_ZIP_BYTES))
        is_whole = file.read(len(END_OF_ZIP)) == END_OF_ZIP
    if not is_whole:
        logger.warning("%s is damaged and drawn again.", path)
    return is_whole


class _CompleteSamples(Dataset):
    def __init__(self, dataset: HIADataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample:
        return self.dataset.complete_sample(index)


def _from_array(array: np.ndarray) -> Any:
    return str(array) if array.dtype.kind == "U" else torch.from_numpy(array)
