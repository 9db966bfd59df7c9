# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Operations of schedulers on some frames at a time, to save memory.

Axes: B clips, C channels, F frames, H, W.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DDIMScheduler, SchedulerMixin


FRAMES_AT_A_TIME = 16


def add_noise(
    scheduler: SchedulerMixin, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Diffuse clips to a timestep.

    Args:
        scheduler (`SchedulerMixin`):
            The scheduler whose noise schedule is used.
        clean (`torch.Tensor` that expands to `(B, C, F, H, W)`):
            Clean latents.
        noise (`torch.Tensor` of shape `(B, C, F, H, W)`):
            Standard normal noise.
        timestep (`torch.Tensor`):
            The timestep of all clips.

    Returns:
        `torch.Tensor` of shape `(B, C, F, H, W)`.
    """
    noisy, timesteps = torch.empty_like(noise), timestep.reshape(1).expand(len(noise))
    for *parts, into in _parts(clean.expand_as(noise), noise, noisy):
        into.copy_(scheduler.add_noise(*parts, timesteps))
    return noisy


def step(
    scheduler: SchedulerMixin, noise_pred: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    """Run one step of a scheduler.

    If the scheduler processes frames independently, as DDIM without noise does, the prediction is overwritten.

    Args:
        scheduler (`SchedulerMixin`):
            The scheduler, with its timesteps set.
        noise_pred (`torch.Tensor` of shape `(B, C, F, H, W)`):
            The prediction.
        timestep (`torch.Tensor`):
            The current timestep.
        latents (`torch.Tensor` of shape `(B, C, F, H, W)`):
            The latents for which the prediction was made.
        kwargs:
            Other arguments of the scheduler's `step`.

    Returns:
        `torch.Tensor` of shape `(B, C, F, H, W)`: The latents of the next step.
    """
    if not isinstance(scheduler, DDIMScheduler) or scheduler.config.thresholding or kwargs.get("eta"):
        return scheduler.step(noise_pred, timestep, latents, **kwargs).prev_sample
    noise_pred = noise_pred.to(latents.dtype)
    for predicted, part in _parts(noise_pred, latents):
        predicted.copy_(scheduler.step(predicted, timestep, part, **kwargs).prev_sample)
    return noise_pred


def _parts(*clips: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*(clip.split(FRAMES_AT_A_TIME, dim=2) for clip in clips), strict=True)
