# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of samples of one size, for one of several ranks."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from .. import checks
from .dataset import HIADataset


class AspectBucketBatchSampler(torch.utils.data.Sampler[list[int]]):
    r"""Batches of samples of one size, in random order, for one of several ranks.

    At every step, all ranks have batches of the same size, and together the batch that a single rank with
    `num_replicas * batch_size` would have. Every epoch contains every sample of the dataset; if the samples of a size
    do not fill their last batch, some are repeated.

    ```python
    sampler = AspectBucketBatchSampler(dataset, batch_size=4, num_replicas=world_size, rank=rank, seed=0)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, num_workers=2, persistent_workers=True)
    epoch, position = divmod(finished_steps, len(sampler))
    sampler.set_epoch(epoch, position)
    for batch in loader:
        ...
    ```

    Args:
        dataset (`HIADataset`):
            The dataset.
        batch_size (`int`):
            Number of samples in a batch of one rank.
        num_replicas (`int`, *optional*, defaults to `1`):
            Number of ranks.
        rank (`int`, *optional*, defaults to `0`):
            Rank of this process.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the order, the same on all ranks.

    Raises:
        TypeError: If `dataset` is not an `HIADataset`, or a number is not an integer.
        ValueError: If a number is out of range.
    """

    def __init__(self, dataset: HIADataset, batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0):
        if not isinstance(dataset, HIADataset):
            raise TypeError(f"`dataset` must be an HIADataset, got {dataset!r}.")
        self.dataset = dataset
        self.batch_size = checks.integer("batch_size", batch_size)
        self.num_replicas = checks.integer("num_replicas", num_replicas)
        self.rank = checks.integer("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(f"`rank` must be less than `num_replicas` ({num_replicas}), got {rank}.")
        self.seed = checks.integer("seed", seed, 0, checks.MAX_SEED)
        self.position = 0
        indices_of_size: dict[tuple[int, int], list[int]] = {}
        for index in range(len(dataset)):
            indices_of_size.setdefault(dataset.size(index), []).append(index)
        self._buckets = [np.array(indices_of_size[size]) for size in sorted(indices_of_size)]

    def __len__(self) -> int:
        """Number of batches of each rank in an epoch."""
        return sum(math.ceil(len(bucket) / self._global_batch_size) for bucket in self._buckets)

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Choose the epoch of this sampler and of its dataset.

        Args:
            epoch (`int`):
                Number of the epoch, from 0.
            position (`int`, *optional*, defaults to `0`):
                Number of batches to skip at the beginning, to resume an interrupted run.
        """
        if not 0 <= checks.integer("position", position, 0) < len(self):
            raise ValueError(f"`position` must be less than the number of batches ({len(self)}), got {position}.")
        self.dataset.set_epoch(epoch)
        self.position = position

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.dataset.epoch])
        batches: list[np.ndarray] = []
        for bucket in self._buckets:
            order = rng.permutation(bucket)
            num_batches = math.ceil(len(order) / self._global_batch_size)
            batches.extend(np.resize(order, (num_batches, self.num_replicas, self.batch_size)))
        for position in rng.permutation(len(batches))[self.position :]:
            yield batches[position][self.rank].tolist()

    @property
    def _global_batch_size(self) -> int:
        return self.num_replicas * self.batch_size
