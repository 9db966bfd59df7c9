# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The autoencoders of diffusers that HIA runs on, and all in which they differ."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from torch import Tensor


Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny | AutoencoderDC
AUTOENCODERS = (AutoencoderKL, AutoencoderTiny, AutoencoderDC)


def vae_scale_factor(vae: Autoencoder) -> int:
    """
    How many pixels a latent pixel stands for, along each side.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The autoencoder.
    """
    # An AutoencoderKL has the same stages on both sides, and one name for them.
    stages = vae.config.get("encoder_block_out_channels") or vae.config.block_out_channels
    return 2 ** (len(stages) - 1)


def encode_pictures(vae: Autoencoder, pictures: Tensor) -> Tensor:
    """
    Latents as the UNet knows them: the mean of the posterior, or what an autoencoder without one gives, shifted and
    scaled as its configuration says.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The autoencoder.
        pictures (`torch.Tensor` of shape `(N, 3, H, W)`):
            In [-1, 1], on its device, in any dtype. The frames of a clip are pictures.

    Returns:
        `torch.Tensor` of shape `(N, C, h, w)`: float32.

    Raises:
        ValueError: If `pictures` do not have four axes, or sides that are no multiples of [`vae_scale_factor`].
    """
    factor = vae_scale_factor(vae)
    if pictures.ndim != 4 or pictures.shape[-2] % factor or pictures.shape[-1] % factor:
        raise ValueError(
            f"`pictures` must be of shape (N, 3, H, W), H, W multiples of {factor}, got {tuple(pictures.shape)}."
        )
    with _precision(vae, pictures.device):
        encoded = vae.encode(pictures.to(vae.dtype), return_dict=False)[0]
    latents = encoded if isinstance(encoded, Tensor) else encoded.mode()
    return (latents.float() - _shift_factor(vae)) * vae.config.scaling_factor


def decode_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """
    Pictures of latents, with gradient. `vae.enable_gradient_checkpointing()`, which an `AutoencoderDC` does not have,
    lets the backward pass keep less and take longer.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The autoencoder. Where a gradient is wanted, parameters that require none need half of the memory.
        latents (`torch.Tensor` of shape `(N, C, h, w)`):
            Clean latents, scaled as the UNet knows them, on its device, in any dtype. The frames of a clip are
            pictures.

    Returns:
        `torch.Tensor` of shape `(N, 3, H, W)`: float32, around [-1, 1], not clamped.

    Raises:
        ValueError: If `latents` do not have four axes.
    """
    with _precision(vae, latents.device):
        return vae.decode(unscale_latents(vae, latents)).sample.float()


def unscale_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """
    What the decoder takes: latents without the shift and scale that the UNet knows them with, in the VAE's dtype.

    Args:
        vae, latents:
            As for [`decode_latents`].

    Raises:
        ValueError: If `latents` do not have four axes.
    """
    if latents.ndim != 4:
        raise ValueError(f"`latents` must be of shape (N, C, h, w), got {tuple(latents.shape)}.")
    return (latents / vae.config.scaling_factor + _shift_factor(vae)).to(vae.dtype)


def _precision(vae: Autoencoder, device: torch.device) -> AbstractContextManager:
    """Attention of an `AutoencoderDC` adds up all pixels, in float32. Autocast would undo that: float16 overflows."""
    if isinstance(vae, AutoencoderDC) and torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _shift_factor(vae: Autoencoder) -> float:
    """An `AutoencoderDC` has none, and an `AutoencoderKL` may have None."""
    return vae.config.get("shift_factor") or 0.0
