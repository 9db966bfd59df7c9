# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The clean sample that a prediction of the networks implies, for any scheduler."""

from typing import Any

import torch


def clean_estimate(scheduler: Any, sample: torch.Tensor, prediction: torch.Tensor, timestep: Any) -> torch.Tensor:
    """Return the clean sample that a prediction implies, which diffusers' schedulers call `pred_original_sample`.

    Args:
        scheduler (`SchedulerMixin`):
            The scheduler, of which only the noise schedule and the type of predictions are used.
        sample (`torch.Tensor`):
            The input of the networks, as the scheduler scales it.
        prediction (`torch.Tensor`):
            Their output, of the same shape.
        timestep (`torch.Tensor` or `float`):
            The timestep.

    Returns:
        `torch.Tensor`: Of the same shape and the dtype of `sample`.
    """
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    if prediction_type == "sample":
        return prediction.to(sample.dtype, copy=True)
    signal = float(signal_at(scheduler, timestep))
    if prediction_type == "v_prediction":
        estimate = signal**0.5 * sample - (1 - signal) ** 0.5 * prediction
    else:
        estimate = (sample - (1 - signal) ** 0.5 * prediction) / signal**0.5
    return estimate.to(sample.dtype)


def signal_at(scheduler: Any, timestep: Any) -> torch.Tensor:
    """Return the cumulative alpha of a timestep, interpolated linearly since some schedulers have fractional ones.

    Args:
        scheduler (`SchedulerMixin`):
            The scheduler.
        timestep (`torch.Tensor` or `float`):
            The timestep.

    Returns:
        `torch.Tensor`: A float32 scalar on the CPU.
    """
    signals, time = scheduler.alphas_cumprod.float().cpu(), float(timestep)
    below = int(time)
    return torch.lerp(signals[below], signals[min(below + 1, len(signals) - 1)], time - below)
