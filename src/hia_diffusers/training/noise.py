# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The random numbers of a step, which depend on the seed and on the number of batch and sample, not on processes."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def sample_generators(seed: int, batch_number: int, rank: int, batch_size: int) -> list[torch.Generator]:
    """
    A generator for each sample of a process's batch.

    Args:
        seed (`int`):
            Of the run.
        batch_number (`int`):
            Number of the batch since the run began.
        rank (`int`):
            Number of the process.
        batch_size (`int`):
            Samples of a batch of one process.

    Returns:
        `list[torch.Generator]`: on the CPU.
    """
    generators = []
    for position in range(rank * batch_size, (rank + 1) * batch_size):
        state = np.random.SeedSequence([seed, batch_number, position]).generate_state(1, np.uint64)
        generators.append(torch.Generator().manual_seed(int(state[0])))
    return generators


def draw_noise(
    generators: Sequence[torch.Generator], shape: Sequence[int], max_timestep: int, noise_offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """
    Noise and timesteps of a batch.

    Args:
        generators (`Sequence[torch.Generator]`):
            One for each of B samples, from [`sample_generators`].
        shape (`Sequence[int]`):
            Shape `(C, ..., h, w)` of a sample.
        max_timestep (`int`):
            Timesteps are from 0 to this one.
        noise_offset (`float`, *optional*, defaults to 0.0):
            As `offset` of [`offset_noise`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: float32 noise of shape `(B, C, ..., h, w)`, int64 timesteps of shape
        `(B,)`.
    """
    noise, timesteps = [], []
    for generator in generators:
        timesteps.append(torch.randint(max_timestep + 1, (), generator=generator))
        noise.append(offset_noise(torch.randn((1, *shape), generator=generator), noise_offset, generator))
    return torch.cat(noise), torch.stack(timesteps)


def offset_noise(noise: Tensor, offset: float, generator: torch.Generator | list[torch.Generator]) -> Tensor:
    """
    Noise that also moves the mean of each channel, so that very dark and very bright pictures are learnt (diffusers'
    training examples have it as `--noise_offset`). A clip's frames move together. HIA's paper has none.

    Args:
        noise (`torch.Tensor` of shape `(B, C, ..., h, w)`):
            Normal noise.
        offset (`float`):
            Standard deviation of the means; 0.1 is usual.
        generator (`torch.Generator` or a list of B of them):
            For the means.

    Returns:
        `torch.Tensor`: of the noise's shape and dtype.
    """
    shape = (*noise.shape[:2], *[1] * (noise.ndim - 2))
    return noise + offset * randn_tensor(shape, generator=generator, device=noise.device, dtype=noise.dtype)
