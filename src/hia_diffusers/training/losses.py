# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Noise prediction on the shifted schedule and the regional loss (paper Sec. 3.3, Eq. 1).

Losses are per clip or image. The caller takes the mean over a global batch, so that several processes get the same
result as one. Everything is computed and returned in float32: in half precision, the first timesteps of the schedule,
at which the regional stage trains, would have no noise at all.

Latents are clips `(B, C, F, h, w)` as in the UNet, or images `(B, C, h, w)`; every clip has one timestep.
"""

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from .. import checks


def noisy_latents(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The forward process: `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps`.

    Args:
        scheduler ([`ShiftedSNRScheduler`]):
            The scheduler, or a scheduler of diffusers with `add_noise`, `get_velocity` and `alphas_cumprod`. Its
            schedule is permanently moved to the latents' device.
        latents (`torch.Tensor` of shape `(B, C, ..., h, w)`):
            Clean latents.
        noise (`torch.Tensor` of the same shape):
            Normal noise.
        timesteps (`torch.Tensor` of shape `(B,)`):
            Integers in `[0, T)`, on the latents' device.

    Returns:
        `torch.Tensor`: float32, of the latents' shape.

    Raises:
        ValueError: If the shapes do not match.
    """
    _check_shapes(timesteps, latents=latents, noise=noise)
    return scheduler.add_noise(latents.float(), noise.float(), timesteps)


def prediction_target(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the training target of the UNet for [`noisy_latents`].

    Depending on the scheduler's `prediction_type`, it is the noise (`"epsilon"`), the velocity `sqrt(abar_t) eps -
    sqrt(1 - abar_t) x_0` (`"v_prediction"`) or the clean latents (`"sample"`).

    Args:
        scheduler ([`ShiftedSNRScheduler`]):
            As in [`noisy_latents`].
        latents (`torch.Tensor` of shape `(B, C, ..., h, w)`):
            Clean latents.
        noise (`torch.Tensor` of the same shape):
            The noise that was added.
        timesteps (`torch.Tensor` of shape `(B,)`):
            Integers in `[0, T)`, on the latents' device.

    Returns:
        `torch.Tensor`: float32, of the latents' shape.

    Raises:
        ValueError: If the shapes do not match, or the prediction type is unknown.
    """
    _check_shapes(timesteps, latents=latents, noise=noise)
    prediction_type = _prediction_type(scheduler)
    if prediction_type == "epsilon":
        return noise.float()
    if prediction_type == "v_prediction":
        return scheduler.get_velocity(latents.float(), noise.float(), timesteps)
    return latents.float()


def predicted_latents(
    scheduler: SchedulerMixin, model_output: Tensor, noisy_latents: Tensor, timesteps: Tensor
) -> Tensor:
    """The clean latents `x0'` implied by the output of the UNet, in one step: the inverse of [`noisy_latents`].

    Args:
        scheduler ([`ShiftedSNRScheduler`]):
            As in [`noisy_latents`].
        model_output (`torch.Tensor` of shape `(B, C, ..., h, w)`):
            Output of the UNet, of the scheduler's `prediction_type`.
        noisy_latents (`torch.Tensor` of the same shape):
            Input of the UNet.
        timesteps (`torch.Tensor` of shape `(B,)`):
            Integers in `[0, T)`, on the latents' device.

    Returns:
        `torch.Tensor`: float32, of the latents' shape.

    Raises:
        ValueError: If the shapes do not match, the prediction type is unknown, or it is `"epsilon"` on a schedule that
            ends in pure noise.
    """
    _check_shapes(timesteps, model_output=model_output, noisy_latents=noisy_latents)
    prediction_type = _prediction_type(scheduler)
    if prediction_type == "sample":
        return model_output.float()
    alphas_cumprod = _alphas_cumprod(scheduler, timesteps).reshape(-1, *[1] * (model_output.ndim - 1))
    signal, noise_level = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    if prediction_type == "v_prediction":
        return signal * noisy_latents.float() - noise_level * model_output.float()
    _check_signal(scheduler)
    return (noisy_latents.float() - noise_level * model_output.float()) / signal


def min_snr_weights(scheduler: SchedulerMixin, timesteps: Tensor, gamma: float) -> Tensor:
    """Weights of [`noise_prediction_loss`] that prevent easy timesteps from dominating the training.

    They are `min(snr_t, gamma)`, divided by the implicit weight of the prediction type, `snr_t` for `"epsilon"` and
    `snr_t + 1` for `"v_prediction"` (Hang et al., 2023, "Efficient diffusion training via Min-SNR weighting
    strategy"). HIA's paper does not use them.

    Args:
        scheduler ([`ShiftedSNRScheduler`]):
            As in [`noisy_latents`]; the signal-to-noise ratio is that of its shifted schedule.
        timesteps (`torch.Tensor` of shape `(B,)`):
            Integers in `[0, T)`.
        gamma (`float`):
            Maximum ratio, positive; 5 is usual. This is not the scheduler's gamma.

    Returns:
        `torch.Tensor`: float32 `(B,)`.

    Raises:
        ValueError: If `gamma` is not positive, or the prediction type is unknown.
    """
    checks.number("gamma", gamma, above=0)
    prediction_type = _prediction_type(scheduler)
    alphas_cumprod = _alphas_cumprod(scheduler, timesteps)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)  # also valid for a ratio of 0
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return snr.clamp(max=gamma)


def sample_weights(scheduler: SchedulerMixin, timesteps: Tensor) -> Tensor:
    """Weights with which [`noise_prediction_loss`] is the squared error of the clean latents for any prediction type.

    They are `1` for `"sample"`, `1 / (snr_t + 1)` for `"v_prediction"` and `1 / snr_t` for `"epsilon"` (Salimans and
    Ho, 2022, "Progressive distillation for fast sampling of diffusion models", section 4). HIA's paper does not use
    them. They suit small networks trained from scratch to predict v: no timestep dominates, and the network can return
    a clean input without loss.

    Args:
        scheduler ([`ShiftedSNRScheduler`]):
            As in [`noisy_latents`]; the signal-to-noise ratio is that of its shifted schedule.
        timesteps (`torch.Tensor` of shape `(B,)`):
            Integers in `[0, T)`.

    Returns:
        `torch.Tensor`: float32 `(B,)`.

    Raises:
        ValueError: If the prediction type is unknown, or the schedule has a timestep without signal, where the noise
            contains no information about the clean latents.
    """
    prediction_type = _prediction_type(scheduler)
    alphas_cumprod = _alphas_cumprod(scheduler, timesteps)
    if prediction_type == "sample":
        return torch.ones_like(alphas_cumprod)
    if prediction_type == "v_prediction":
        return 1 - alphas_cumprod
    _check_signal(scheduler)
    return 1 / alphas_cumprod - 1


def noise_prediction_loss(model_output: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of each clip.

    Args:
        model_output (`torch.Tensor` of shape `(B, C, ..., h, w)`):
            Output of the UNet.
        target (`torch.Tensor` of the same shape):
            Result of [`prediction_target`].
        weights (`torch.Tensor` of shape `(B,)`, *optional*):
            Factors by which the result is multiplied, such as those of [`min_snr_weights`] or [`sample_weights`].

    Returns:
        `torch.Tensor`: float32 `(B,)`.

    Raises:
        ValueError: If the shapes do not match.
    """
    if model_output.shape != target.shape:
        raise ValueError(
            f"`model_output` and `target` must have one shape, got {tuple(model_output.shape)} and "
            f"{tuple(target.shape)}."
        )
    if weights is not None and weights.shape != target.shape[:1]:
        raise ValueError(f"`weights` must be of shape {tuple(target.shape[:1])}, got {tuple(weights.shape)}.")
    losses = (model_output.float() - target.float()).square().flatten(1).mean(dim=1)
    return losses if weights is None else losses * weights.float()


def regional_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared error in a region of each image (Eq. 1): `sum(||(target - predicted) * mask||^2) / sum(mask)`.

    The norm is over a pixel's three channels, and the sums are over pixels: a region with error `d` in each channel
    has a loss of `3 d^2`, independent of its size. An image with an empty region has a loss of 0 and no gradient.

    Several regions may count as one, such as both hands: pass the sum of their masks, clamped to 1, or one window per
    region from [`decode_windows`], with masks that do not overlap.

    Args:
        predicted (`torch.Tensor` of shape `(N, 3, H, W)` or `(N, R, 3, H, W)`):
            Predicted images in [-1, 1], or R windows of each.
        target (`torch.Tensor` of the same shape):
            Ground-truth images or windows.
        mask (`torch.Tensor` of shape `(N, 1, H, W)` or `(N, R, 1, H, W)`):
            1 in the region, 0 elsewhere.

    Returns:
        `torch.Tensor`: float32 `(N,)`.

    Raises:
        ValueError: If the shapes do not match.
    """
    if predicted.shape != target.shape or predicted.ndim not in (4, 5):
        raise ValueError(
            "`predicted` and `target` must have one shape, (N, 3, H, W) or (N, R, 3, H, W), got "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}."
        )
    expected = (*target.shape[:-3], 1, *target.shape[-2:])
    if mask.shape != expected:
        raise ValueError(f"`mask` must be of shape {expected}, got {tuple(mask.shape)}.")
    mask = mask.float()
    error = ((target.float() - predicted.float()) * mask).square().flatten(1).sum(dim=1)
    area = mask.flatten(1).sum(dim=1)
    return error / area.where(area > 0, 1)


def _alphas_cumprod(scheduler: SchedulerMixin, timesteps: Tensor) -> Tensor:
    # Moved permanently, as in the scheduler's own methods, so that a step waits for no copy.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(timesteps.device)
    return scheduler.alphas_cumprod[timesteps].float()


def _prediction_type(scheduler: SchedulerMixin) -> str:
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            '`scheduler` must have the `prediction_type` "epsilon", "v_prediction" or "sample", '
            f"got {prediction_type!r}."
        )
    return prediction_type


def _check_signal(scheduler: SchedulerMixin) -> None:
    if scheduler.config.get("rescale_betas_zero_snr"):
        raise ValueError(
            '`scheduler` must have another `prediction_type` than "epsilon" with `rescale_betas_zero_snr`, '
            "as the latents cannot be computed from the noise alone."
        )


def _check_shapes(timesteps: Tensor, **tensors: Tensor) -> None:
    (first, one), (second, other) = tensors.items()
    if one.shape != other.shape:
        raise ValueError(
            f"`{first}` and `{second}` must have one shape, got {tuple(one.shape)} and {tuple(other.shape)}."
        )
    if timesteps.shape != one.shape[:1]:
        raise ValueError(f"`timesteps` must be of shape {tuple(one.shape[:1])}, got {tuple(timesteps.shape)}.")
