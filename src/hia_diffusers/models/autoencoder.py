# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The autoencoders of diffusers that HIA supports, and everything in which they differ."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from torch import Tensor


Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny | AutoencoderDC
AUTOENCODERS = (AutoencoderKL, AutoencoderTiny, AutoencoderDC)


def vae_scale_factor(vae: Autoencoder) -> int:
    """Return the factor by which an autoencoder reduces height and width.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The autoencoder.
    """
    # An AutoencoderKL has one option for both encoder and decoder.
    stages = vae.config.get("encoder_block_out_channels") or vae.config.block_out_channels
    return 2 ** (len(stages) - 1)


def encode_images(vae: Autoencoder, images: Tensor) -> Tensor:
    """Encode images to latents, shifted and scaled for the UNet.

    They are the mean of the posterior or, if the autoencoder has none, its output.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The autoencoder.
        images (`torch.Tensor` of shape `(N, 3, H, W)`):
            Images or video frames in [-1, 1], on the autoencoder's device, in any dtype.

    Returns:
        `torch.Tensor` of shape `(N, C, h, w)`: float32.

    Raises:
        ValueError: If `images` does not have four axes, or a side is not a multiple of [`vae_scale_factor`].
    """
    factor = vae_scale_factor(vae)
    if images.ndim != 4 or images.shape[-2] % factor or images.shape[-1] % factor:
        raise ValueError(
            f"`images` must be of shape (N, 3, H, W), H, W multiples of {factor}, got {tuple(images.shape)}."
        )
    with _precision(vae, images.device):
        encoded = vae.encode(images.to(vae.dtype), return_dict=False)[0]
    latents = encoded if isinstance(encoded, Tensor) else encoded.mode()
    return (latents.float() - _shift_factor(vae)) * vae.config.scaling_factor


def decode_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Decode latents to images, with gradients.

    `vae.enable_gradient_checkpointing()` reduces the memory of the backward pass at the cost of time; an
    `AutoencoderDC` does not support it.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The autoencoder. If gradients are needed, freezing its parameters halves the memory.
        latents (`torch.Tensor` of shape `(N, C, h, w)`):
            Clean latents of images or video frames, scaled for the UNet, on the autoencoder's device, in any dtype.

    Returns:
        `torch.Tensor` of shape `(N, 3, H, W)`: float32, approximately in [-1, 1], not clamped.

    Raises:
        ValueError: If `latents` does not have four axes.
    """
    with _precision(vae, latents.device):
        return vae.decode(unscale_latents(vae, latents)).sample.float()


def unscale_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Return the input of the decoder: latents without the shift and scale of the UNet, in the dtype of the VAE.

    Args:
        vae, latents:
            As in [`decode_latents`].

    Raises:
        ValueError: If `latents` does not have four axes.
    """
    if latents.ndim != 4:
        raise ValueError(f"`latents` must be of shape (N, C, h, w), got {tuple(latents.shape)}.")
    return (latents / vae.config.scaling_factor + _shift_factor(vae)).to(vae.dtype)


def _precision(vae: Autoencoder, device: torch.device) -> AbstractContextManager:
    """Disable autocast for an `AutoencoderDC`.

    Its attention sums over all pixels in float32, which overflows in float16.
    """
    if isinstance(vae, AutoencoderDC) and torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _shift_factor(vae: Autoencoder) -> float:
    """Return the shift of the latents. An `AutoencoderDC` has none, and that of an `AutoencoderKL` may be None."""
    return vae.config.get("shift_factor") or 0.0
