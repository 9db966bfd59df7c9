# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The noise schedule of HIA: linear betas whose signal-to-noise ratio is shifted (paper Sec. 3.3, Algorithm 1)."""

import math
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  diffusers looks for it here

from .. import checks


# What the unshifted betas are made of, and the shift.
SCHEDULE_OPTIONS = ("snr_shift_factor", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")

# Of whose power a schedule of betas is linear.
POWERS = {"linear": 1.0, "scaled_linear": 2.0}

MAX_TIMESTEPS = 100_000


def snr_shift_factor_for_resolution(height: int, width: int, base_resolution: int = 512) -> float:
    """The gamma that gives a larger picture the noise that the base model was trained with.

    Averaging over s neighbouring pixels divides the variance of independent noise by s and leaves smooth content as it
    is. A picture of s times the pixels thus still shows, at a timestep where the base resolution shows nothing, what a
    viewer of the downsampled picture would see: its noise must have s times the variance, that is, gamma = 1 / s
    (Hoogeboom et al., 2023, "simple diffusion", Sec. 3.1, for the side ratio squared).

    Args:
        height, width (`int`):
            Size to generate or train at, in pixels.
        base_resolution (`int`, *optional*, defaults to 512):
            Side of the square that the base model was trained at; 512 for Stable Diffusion 1.5.

    Returns:
        `float`: the ratio of the areas, at most 1. For the paper's 512 x 896 it is 4 / 7, the scheduler's default.
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
        `torch.Tensor`: the shifted betas in float64.
    """
    alphas_cumprod = torch.cumprod(1 - betas.double(), dim=0)
    snr = snr_shift_factor * alphas_cumprod / (1 - alphas_cumprod)
    shifted = snr / (1 + snr)
    previous = torch.cat([shifted.new_ones(1), shifted[:-1]])
    return 1 - shifted / previous


class ShiftedSNRScheduler(DDIMScheduler):
    """DDIM on the shifted schedule of HIA.

    The shifted betas are published in the configuration as `trained_betas`, so that another scheduler made with
    `from_config(scheduler.config)` keeps the shift.

    Args:
        snr_shift_factor (`float`, *optional*, defaults to 4 / 7):
            gamma in (0, 1], by which the signal-to-noise ratio of every timestep is multiplied; 1 shifts nothing. The
            paper gives no value; the default is [`snr_shift_factor_for_resolution`] at its 512 x 896.
        num_train_timesteps (`int`, *optional*, defaults to 1000):
            T.
        beta_start (`float`, *optional*, defaults to 0.00085):
            First beta of the unshifted schedule.
        beta_end (`float`, *optional*, defaults to 0.012):
            Last beta of the unshifted schedule.
        beta_schedule (`"linear"` or `"scaled_linear"`, *optional*, defaults to `"linear"`):
            How the unshifted betas run between the two.
        trained_betas (`list[float]`, *optional*):
            Read back from a saved configuration: accepted where it is a shift of the schedule above, which is then
            shifted by `snr_shift_factor` from the start, never a second time.
        clip_sample (`bool`, *optional*, defaults to `False`):
            As in [`~diffusers.DDIMScheduler`], like all that follow.
        set_alpha_to_one (`bool`, *optional*, defaults to `True`):
            See there.
        steps_offset (`int`, *optional*, defaults to 0):
            See there.
        prediction_type (`str`, *optional*, defaults to `"epsilon"`):
            See there.
        thresholding (`bool`, *optional*, defaults to `False`):
            See there.
        dynamic_thresholding_ratio (`float`, *optional*, defaults to 0.995):
            See there.
        clip_sample_range (`float`, *optional*, defaults to 1.0):
            See there.
        sample_max_value (`float`, *optional*, defaults to 1.0):
            See there.
        timestep_spacing (`str`, *optional*, defaults to `"trailing"`):
            See there. Sampling starts at T - 1, where the shift matters.
        rescale_betas_zero_snr (`bool`, *optional*, defaults to `False`):
            See there; applied after the shift.

    Raises:
        TypeError: If an option is of another kind.
        ValueError: If an option is out of its range, or `trained_betas` are not a shift of the schedule.
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
                " `num_train_timesteps` give; leave it out to have it computed."
            )
        shifted_betas = shift_snr(betas, snr_shift_factor)
        if not (torch.cumprod(1 - shifted_betas, dim=0).float() < 1).all():  # and NaN is not
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
        # Untouched defaults would not be handed on to other schedulers, which have other ones.
        kwargs.pop("_use_default_values", None)
        super().register_to_config(**kwargs)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Make a scheduler of a configuration, as [`~diffusers.ConfigMixin.from_config`] does.

        Args:
            config (`dict`):
                Of this class or of another scheduler.
            return_unused_kwargs (`bool`, *optional*, defaults to `False`):
                See there.
            kwargs:
                Options that go before those of `config`. If one belongs to the schedule, the betas are computed anew.

        Raises:
            ValueError: As of the constructor.
        """
        if "trained_betas" not in kwargs and not kwargs.keys().isdisjoint(SCHEDULE_OPTIONS):
            super().from_config(config)  # refuses betas that are not even a shift of the configuration's own schedule
            kwargs["trained_betas"] = None
        return super().from_config(config, return_unused_kwargs, **kwargs)


def _is_shift(trained_betas: Any, unshifted_betas: torch.Tensor) -> bool:
    try:
        betas = torch.as_tensor(trained_betas).double()
    except (OverflowError, RuntimeError, TypeError, ValueError):  # no numbers, or not in one row
        return False
    if betas.shape != unshifted_betas.shape:
        return False
    alphas_cumprod, unshifted = (torch.cumprod(1 - b, dim=0) for b in (betas, unshifted_betas))
    factors = (alphas_cumprod / (1 - alphas_cumprod)) / (unshifted / (1 - unshifted))
    return bool(math.isfinite(factors.sum()) and (factors / factors[0] - 1).abs().max() < 1e-3)
