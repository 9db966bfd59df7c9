# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal with a few numbers that finds out whether a scheduler suits HIA's networks, before any network runs.

Diffusers has about fifty schedulers, a third of which are suitable. Neither the name nor the base class of a scheduler
shows that it is for another kind of model, or that a schedule has gaps. A rehearsal does: with correct predictions,
each step must be approximately as noisy as its timestep states, and the last one must end at the clean sample.
"""

import copy
import inspect

import torch
from diffusers import SchedulerMixin
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

from .clean_estimate import signal_at


NEEDED = ("set_timesteps", "scale_model_input", "add_noise", "step", "alphas_cumprod", "init_noise_sigma", "order")

# If the error is as large as the noise, the sample was not denoised at all.
MOST_ERROR = 0.5
# Some spacings of diffusers are off by a factor of 20 if there are two steps.
MOST_EXCESS_NOISE = 50.0


def check_kind(scheduler: object) -> None:
    """Refuse a scheduler that is not for the noise of Stable Diffusion.

    Args:
        scheduler (`SchedulerMixin`):
            Any scheduler.

    Raises:
        ValueError: If it is for another kind of noise.
    """
    lacking = [name for name in NEEDED if not hasattr(scheduler, name)]
    if lacking:
        raise ValueError(
            "`scheduler` must be one for the noise of Stable Diffusion, such as DDIMScheduler, EulerDiscreteScheduler"
            f" or DPMSolverMultistepScheduler, got {type(scheduler).__name__}, which has no `{lacking[0]}`."
        )


def rehearse(scheduler: object, num_inference_steps: int, schedule: dict[str, list], eta: float = 0.0) -> None:
    """Run a scheduler with correct predictions.

    Args:
        scheduler (`SchedulerMixin`):
            A scheduler that passed [`check_kind`]; it is not modified.
        num_inference_steps (`int`):
            Number of denoising steps.
        schedule (`dict[str, list]`):
            `timesteps` or `sigmas` that replace the scheduler's spacing, or empty.
        eta (`float`, *optional*, defaults to 0.0):
            Parameter of DDIM; other schedulers ignore it.

    Raises:
        ValueError: If the scheduler cannot run, or does not end at the clean sample.
    """
    name = type(scheduler).__name__
    given = next(iter(schedule), None)
    where = f"`{given}`" if given else f"`scheduler` with `num_inference_steps={num_inference_steps}`"
    try:
        with torch.random.fork_rng(devices=[]):  # some use the global generator
            torch.default_generator.manual_seed(0)
            excess, error = _run(copy.copy(scheduler), num_inference_steps, schedule, eta=eta)
    except Exception as failure:  # schedulers raise different errors
        reason = str(failure).strip().split("\n")[0]
        raise ValueError(f"{where}: {name} cannot run it ({type(failure).__name__}: {reason}).") from failure
    if not (error <= MOST_ERROR and excess <= MOST_EXCESS_NOISE):
        raise ValueError(f"{where}: {name} does not end at a clean sample even if all predictions are right.")


def _run(
    scheduler: SchedulerMixin, num_inference_steps: int, schedule: dict[str, list], eta: float
) -> tuple[float, float]:
    """Return the largest noise of a step, relative to what its timestep states, and the root mean square error."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.linspace(-0.9, 0.9, 64, dtype=torch.float32).reshape(1, 4, 1, 4, 4)
    timesteps, _ = retrieve_timesteps(scheduler, num_inference_steps, "cpu", **schedule)
    accepted = inspect.signature(scheduler.step).parameters
    arguments = {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in accepted}
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    sample = scheduler.add_noise(clean, noise, timesteps[:1])
    most = 0.0
    for timestep in timesteps:
        seen = scheduler.scale_model_input(sample, timestep)
        signal = signal_at(scheduler, timestep)
        epsilon = (seen - signal.sqrt() * clean) / (1 - signal).sqrt()
        prediction = {
            "epsilon": epsilon,
            "v_prediction": signal.sqrt() * epsilon - (1 - signal).sqrt() * clean,
            "sample": clean,
        }[scheduler.config.get("prediction_type", "epsilon")]
        most = max(most, float(epsilon.std()))
        sample = scheduler.step(prediction, timestep, sample, **arguments).prev_sample
    return most, float((sample - clean).square().mean().sqrt())
