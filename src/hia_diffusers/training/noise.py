# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The random numbers of a step, which depend on the seed and the numbers of batch and sample, not on processes."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def sample_generators(seed: int, batch_number: int, rank: int, batch_size: int) -> list[torch.Generator]:
    """Create a generator for each sample of a process's batch.

    Args:
        seed (`int`):
            Seed of the run.
        batch_number (`int`):
            Number of the batch since the run began.
        rank (`int`):
            Number of the process.
        batch_size (`int`):
            Number of samples in a batch of one process.

    Returns:
        `list[torch.Generator]`: Generators on the CPU.
    """
    generators = []
    for position in range(rank * batch_size, (rank + 1) * batch_size):
        state = np.random.SeedSequence([seed, batch_number, position]).generate_state(1, np.uint64)
        generators.append(torch.Generator().manual_seed(int(state[0])))
    return generators


def draw_noise(
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    max_timestep: int,
    noise_offset: float = 0.0,
    shared_noise_probability: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw noise and timesteps of a batch.

    Args:
        generators (`Sequence[torch.Generator]`):
            One for each of B samples, from [`sample_generators`].
        shape (`Sequence[int]`):
            Shape `(C, F, h, w)` of a sample.
        max_timestep (`int`):
            Maximum timestep.
        noise_offset (`float`, *optional*, defaults to 0.0):
            As `offset` in [`offset_noise`].
        shared_noise_probability (`float`, *optional*, defaults to 0.0):
            Probability that all frames of a sample have the noise of its first frame.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: float32 noise of shape `(B, C, F, h, w)`, int64 timesteps of shape
        `(B,)`.
    """
    noise, timesteps = [], []
    for generator in generators:
        timesteps.append(torch.randint(max_timestep + 1, (), generator=generator))
        sample_noise = torch.randn((1, *shape), generator=generator)
        if shared_noise_probability and torch.rand((), generator=generator) < shared_noise_probability:
            sample_noise = sample_noise[:, :, :1].expand_as(sample_noise)
        noise.append(offset_noise(sample_noise, noise_offset, generator))
    return torch.cat(noise), torch.stack(timesteps)


def offset_noise(noise: Tensor, offset: float, generator: torch.Generator | list[torch.Generator]) -> Tensor:
    """Add noise that shifts the mean of each channel, so that very dark and very bright images are learned.

    It is `--noise_offset` in diffusers' training examples. All frames of a clip are shifted together. HIA's paper does
    not use it.

    Args:
        noise (`torch.Tensor` of shape `(B, C, ..., h, w)`):
            Normal noise.
        offset (`float`):
            Standard deviation of the means; 0.1 is usual.
        generator (`torch.Generator` or a list of B of them):
            Generators of the means.

    Returns:
        `torch.Tensor`: Noise of the same shape and dtype.
    """
    shape = (*noise.shape[:2], *[1] * (noise.ndim - 2))
    return noise + offset * randn_tensor(shape, generator=generator, device=noise.device, dtype=noise.dtype)
