# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The noise schedule of HIA: linear betas whose signal-to-noise ratio is shifted (paper Sec. 3.3, Algorithm 1)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for it here

from .. import checks


# Options of the unshifted betas, and the shift.
SCHEDULE_OPTIONS = ("snr_shift_factor", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")

# Exponent for which the power of the betas is linear.
POWERS = {"linear": 1.0, "scaled_linear": 2.0}

MAX_TIMESTEPS = 100_000


def snr_shift_factor_for_resolution(height: int, width: int, base_resolution: int = 512) -> float:
    """Return the gamma that compensates for a resolution larger than that of the base model.

    Averaging over s neighbouring pixels divides the variance of independent noise by s and does not change smooth
    content. An image with s times the pixels therefore remains recognizable at timesteps at which the base resolution
    shows only noise: its noise needs s times the variance, that is, gamma = 1 / s (Hoogeboom et al., 2023, "simple
    diffusion", Sec. 3.1, where s is the squared ratio of the sides).

    Args:
        height, width (`int`):
            Size for generation or training, in pixels.
        base_resolution (`int`, *optional*, defaults to 512):
            Side of the square training images of the base model; 512 for Stable Diffusion 1.5.

    Returns:
        `float`: The ratio of the areas, at most 1. For the paper's 512 x 896 it is 4 / 7, the scheduler's default.
    """
    for name, value in (("height", height), ("width", width), ("base_resolution", base_resolution)):
        checks.integer(name, value)
    return min(1.0, base_resolution**2 / (height * width))


def shift_snr(betas: torch.Tensor, snr_shift_factor: float) -> torch.Tensor:
    """Scale the signal-to-noise ratio of a schedule by gamma at every timestep (Algorithm 1).

    | paper | here |
    | --- | --- |
    | alpha-bar_t, snr_t | `alphas_cumprod`, `snr` |
    | alpha^c_t = snr_t / (1 + snr_t) | `shifted` |
    | beta_t = 1 - alpha^c_t / alpha^c_(t-1) | the result; beta_0 = 1 - alpha^c_0 |

    Args:
        betas (`torch.Tensor` of shape `(T,)`):
            The unshifted schedule.
        snr_shift_factor (`float`):
            gamma.

    Returns:
        `torch.Tensor`: The shifted betas in float64.
    """
    alphas_cumprod = torch.cumprod(1 - betas.double(), dim=0)
    snr = snr_shift_factor * alphas_cumprod / (1 - alphas_cumprod)
    shifted = snr / (1 + snr)
    previous = torch.cat([shifted.new_ones(1), shifted[:-1]])
    return 1 - shifted / previous


class ShiftedSNRScheduler(DDIMScheduler):
    """DDIM on the shifted schedule of HIA.

    The configuration contains the shifted betas as `trained_betas`, so that another scheduler created by
    `from_config(scheduler.config)` keeps the shift.

    Args:
        snr_shift_factor (`float`, *optional*, defaults to 4 / 7):
            gamma in (0, 1], by which the signal-to-noise ratio of every timestep is multiplied; 1 disables the shift.
            The paper states no value; the default is [`snr_shift_factor_for_resolution`] for its 512 x 896.
        num_train_timesteps (`int`, *optional*, defaults to 1000):
            Number of training timesteps, T.
        beta_start (`float`, *optional*, defaults to 0.00085):
            First beta of the unshifted schedule.
        beta_end (`float`, *optional*, defaults to 0.012):
            Last beta of the unshifted schedule.
        beta_schedule (`"linear"` or `"scaled_linear"`, *optional*, defaults to `"linear"`):
            Interpolation of the unshifted betas.
        trained_betas (`list[float]`, *optional*):
            Betas of a saved configuration. They are accepted if they are a shift of the schedule above, which is then
            shifted once by `snr_shift_factor`, never a second time.
        clip_sample (`bool`, *optional*, defaults to `False`):
            As in [`~diffusers.DDIMScheduler`].
        set_alpha_to_one (`bool`, *optional*, defaults to `True`):
            As in [`~diffusers.DDIMScheduler`].
        steps_offset (`int`, *optional*, defaults to 0):
            As in [`~diffusers.DDIMScheduler`].
        prediction_type (`str`, *optional*, defaults to `"epsilon"`):
            As in [`~diffusers.DDIMScheduler`].
        thresholding (`bool`, *optional*, defaults to `False`):
            As in [`~diffusers.DDIMScheduler`].
        dynamic_thresholding_ratio (`float`, *optional*, defaults to 0.995):
            As in [`~diffusers.DDIMScheduler`].
        clip_sample_range (`float`, *optional*, defaults to 1.0):
            As in [`~diffusers.DDIMScheduler`].
        sample_max_value (`float`, *optional*, defaults to 1.0):
            As in [`~diffusers.DDIMScheduler`].
        timestep_spacing (`str`, *optional*, defaults to `"trailing"`):
            As in [`~diffusers.DDIMScheduler`]. With `"trailing"`, sampling starts at T - 1, where the shift matters.
        rescale_betas_zero_snr (`bool`, *optional*, defaults to `False`):
            As in [`~diffusers.DDIMScheduler`]; applied after the shift.

    Raises:
        TypeError: If an option has another type.
        ValueError: If an option is out of range, or `trained_betas` are not a shift of the schedule.
    """

    @checks.python_numbers
    @register_to_config
    def __init__(
        self,
        snr_shift_factor: float = 4 / 7,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: Literal["linear", "scaled_linear"] = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        clip_sample: bool = False,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: Literal["leading", "trailing", "linspace"] = "trailing",
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        checks.number("snr_shift_factor", snr_shift_factor, above=0, high=1)
        checks.integer("num_train_timesteps", num_train_timesteps, high=MAX_TIMESTEPS)
        checks.number("beta_start", beta_start, above=0, below=1)
        checks.number("beta_end", beta_end, beta_start, below=1)
        checks.one_of("beta_schedule", beta_schedule, POWERS)
        checks.one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        checks.one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        checks.integer("steps_offset", steps_offset, 0, num_train_timesteps - 1)
        checks.number("dynamic_thresholding_ratio", dynamic_thresholding_ratio, 0, 1)
        checks.number("clip_sample_range", clip_sample_range, above=0)
        checks.number("sample_max_value", sample_max_value, above=0)
        for name, value in (
            ("clip_sample", clip_sample),
            ("set_alpha_to_one", set_alpha_to_one),
            ("thresholding", thresholding),
            ("rescale_betas_zero_snr", rescale_betas_zero_snr),
        ):
            checks.flag(name, value)
        power = POWERS[beta_schedule]
        betas = torch.linspace(
            beta_start ** (1 / power), beta_end ** (1 / power), num_train_timesteps, dtype=torch.float64
        )
        betas = betas**power
        if trained_betas is not None and not _is_shift(trained_betas, betas):
            raise ValueError(
                "`trained_betas` must be a shift of the schedule that `beta_start`, `beta_end`, `beta_schedule` and"
                " `num_train_timesteps` give; omit it to compute it."
            )
        shifted_betas = shift_snr(betas, snr_shift_factor)
        if not (torch.cumprod(1 - shifted_betas, dim=0).float() < 1).all():  # also false for NaN
            raise ValueError(
                f"`beta_start` must be large enough to add noise to float32 numbers, got {beta_start} and a"
                f" `snr_shift_factor` of {snr_shift_factor}."
            )
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=shifted_betas.tolist(),
            clip_sample=clip_sample,
            set_alpha_to_one=set_alpha_to_one,
            steps_offset=steps_offset,
            prediction_type=prediction_type,
            thresholding=thresholding,
            dynamic_thresholding_ratio=dynamic_thresholding_ratio,
            clip_sample_range=clip_sample_range,
            sample_max_value=sample_max_value,
            timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )

    def register_to_config(self, **kwargs: Any) -> None:
        """Store the arguments of the constructor, with unchanged defaults among them."""
        # Unchanged defaults would not be passed to other schedulers, which have other defaults.
        kwargs.pop("_use_default_values", None)
        super().register_to_config(**kwargs)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Create a scheduler from a configuration, as in [`~diffusers.ConfigMixin.from_config`].

        Args:
            config (`dict`, *optional*):
                Configuration of this class or of another scheduler.
            return_unused_kwargs (`bool`, *optional*, defaults to `False`):
                As in [`~diffusers.DDIMScheduler`].
            kwargs:
                Options that override those of `config`. If one belongs to the schedule, the betas are computed again.

        Raises:
            ValueError: As in the constructor.
        """
        if "trained_betas" not in kwargs and not kwargs.keys().isdisjoint(SCHEDULE_OPTIONS):
            super().from_config(config)  # rejects betas that are not a shift of the configuration's own schedule
            kwargs["trained_betas"] = None
        return super().from_config(config, return_unused_kwargs, **kwargs)


def _is_shift(trained_betas: object, unshifted_betas: torch.Tensor) -> bool:
    try:
        betas = torch.as_tensor(trained_betas).double()
    except (OverflowError, RuntimeError, TypeError, ValueError):  # not a sequence of numbers
        return False
    if betas.shape != unshifted_betas.shape:
        return False
    alphas_cumprod, unshifted = (torch.cumprod(1 - b, dim=0) for b in (betas, unshifted_betas))
    factors = (alphas_cumprod / (1 - alphas_cumprod)) / (unshifted / (1 - unshifted))
    return bool(math.isfinite(factors.sum()) and (factors / factors[0] - 1).abs().max() < 1e-3)
