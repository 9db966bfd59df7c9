# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of latents with gradients, for the regional stage (paper Sec. 3.3): whole, or only around the regions.

Backpropagation through the VAE's decoder keeps gigabytes for one image. Face and hands are a small part of it, but
latents cropped around them and decoded separately give different pixels: each GroupNorm uses the mean and variance of
the whole image, and the attention in the middle block covers all of it, so no margin is wide enough.

[`decode_windows`] therefore first decodes the whole image without gradients and keeps the statistics of every
GroupNorm. With gradients, the layers at latent resolution, including attention, also run on the whole image. The other
layers, which cost most, run on windows with a margin for the remaining convolutions. The pixels equal those of the
whole image. So does the gradient, except for the part that flows through the statistics.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from torch import Tensor, nn

from ..models.autoencoder import Autoencoder, decode_latents, unscale_latents


@dataclass(frozen=True)
class RegionWindows:
    """R windows of equal size in each of N images, in latent pixels. Created by [`region_windows`].

    Args:
        corners (`torch.Tensor` of shape `(N, R, 2)`):
            Top and left of each window, int64.
        height, width (`int`):
            Size of every window.
        image_height, image_width (`int`):
            Size of the images' latents.
    """

    corners: Tensor
    height: int
    width: int
    image_height: int
    image_width: int

    def cut(self, images: Tensor) -> Tensor:
        """Cut the windows from images, latents, or any tensor with an integer number of pixels per latent pixel.

        Args:
            images (`torch.Tensor` of shape `(N, C, H, W)` or `(N, R, C, H, W)`):
                Images; with five axes, each window has its own image, such as its mask.

        Returns:
            `torch.Tensor` of shape `(N, R, C, height, width)`, in pixels of `images`.

        Raises:
            ValueError: If `images` have another shape.
        """
        num_images, num_windows, _ = self.corners.shape
        scale = images.shape[-1] // self.image_width
        size = (scale * self.image_height, scale * self.image_width)
        axes = {4: (num_images,), 5: (num_images, num_windows)}.get(images.ndim)
        if axes is None or images.shape[: len(axes)] != axes or images.shape[-2:] != size:
            raise ValueError(
                f"`images` must be of shape ({num_images}, C, H, W) or ({num_images}, {num_windows}, C, H, W), "
                f"H, W a multiple of {self.image_height}, {self.image_width}, got {tuple(images.shape)}."
            )
        device = images.device
        top, left = (scale * self.corners.to(device, non_blocking=True)).unbind(-1)
        rows = top[..., None, None] + torch.arange(scale * self.height, device=device)[:, None]
        columns = left[..., None, None] + torch.arange(scale * self.width, device=device)
        image = torch.arange(num_images, device=device)[:, None, None, None]
        if images.ndim == 4:
            windows = images[image, :, rows, columns]
        else:
            window = torch.arange(num_windows, device=device)[:, None, None]
            windows = images[image, window, :, rows, columns]
        return windows.movedim(-1, 2).contiguous()

    def widened(self, margin: int) -> "RegionWindows":
        """Add a margin on all sides; at the border of the image, the opposite margin is larger."""
        height = min(self.height + 2 * margin, self.image_height)
        width = min(self.width + 2 * margin, self.image_width)
        corners = _inside(self.corners - margin, self.image_height - height, self.image_width - width)
        return RegionWindows(corners, height, width, self.image_height, self.image_width)

    def within(self, outer: "RegionWindows") -> "RegionWindows":
        """Return the positions of these windows in wider ones, given as images `(N * R, C, H, W)`."""
        corners = (self.corners - outer.corners).flatten(0, 1)[:, None]
        return RegionWindows(corners, self.height, self.width, outer.height, outer.width)


def region_windows(masks: Tensor, vae_scale_factor: int = 8, size_step: int = 4) -> RegionWindows:
    """Create windows around regions.

    They are as small as possible without cutting off the largest region of the batch, but have few different sizes, so
    that shapes rarely change. Use separate calls for regions of different sizes, such as faces and hands. An empty
    region also has a window, somewhere in the image.

    Args:
        masks (`torch.Tensor` of shape `(N, R, H, W)`):
            Positive in the region. Pass them on the CPU, because their content determines the size of the windows, and
            reading it from another device would synchronize.
        vae_scale_factor (`int`, *optional*, defaults to 8):
            Pixels per latent pixel.
        size_step (`int`, *optional*, defaults to 4):
            Heights and widths are multiples of this, in latent pixels, or those of the image.

    Returns:
        [`RegionWindows`]: R windows per image.

    Raises:
        ValueError: If the masks do not have four axes, or their size is not a multiple of `vae_scale_factor`.
    """
    if masks.ndim != 4 or masks.shape[-2] % vae_scale_factor or masks.shape[-1] % vae_scale_factor:
        raise ValueError(
            f"`masks` must be of shape (N, R, H, W), H, W multiples of {vae_scale_factor}, got {tuple(masks.shape)}."
        )
    inside = masks > 0
    image_height, image_width = (side // vae_scale_factor for side in masks.shape[-2:])
    (top, region_height), (left, region_width) = (
        _extent(inside.any(dim=across).unflatten(-1, (-1, vae_scale_factor)).any(dim=-1)) for across in (-1, -2)
    )
    height, width = (
        min(max(math.ceil(int(extents.max()) / size_step), 1) * size_step, limit)
        for extents, limit in ((region_height, image_height), (region_width, image_width))
    )
    centred = torch.stack([top - (height - region_height) // 2, left - (width - region_width) // 2], dim=-1)
    corners = _inside(centred, image_height - height, image_width - width)
    return RegionWindows(corners, height, width, image_height, image_width)


def decode_windows(vae: Autoencoder, latents: Tensor, windows: Sequence[RegionWindows]) -> list[Tensor]:
    """Return the result of [`RegionWindows.cut`] on whole decoded images, with little memory.

    The gradient treats the mean and variance of the decoder's later GroupNorms as constants, and reaches all latents
    through the earlier layers. Only an [`~diffusers.AutoencoderKL`] has such norms. The others decode whole images: an
    [`~diffusers.AutoencoderTiny`] needs little memory for this, and the attention of an [`~diffusers.AutoencoderDC`]
    may cover the whole image at several resolutions.

    ```python
    faces, hands = region_windows(face_masks), region_windows(hand_masks)
    face_pixels, hand_pixels = decode_windows(vae, latents, [faces, hands])
    face_loss = regional_loss(face_pixels, faces.cut(pixel_values), faces.cut(face_masks[:, :, None]))

    # Pixels in both hands count once.
    left, right = hand_masks.unbind(1)
    own_masks = torch.stack([left, right * (1 - left)], dim=1)[:, :, None]
    hand_loss = regional_loss(hand_pixels, hands.cut(pixel_values), hands.cut(own_masks))
    ```

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            The frozen autoencoder: without parameter gradients, it needs half of the memory.
        latents (`torch.Tensor` of shape `(N, C, h, w)`):
            Clean latents, scaled as for the UNet.
        windows (sequence of [`RegionWindows`]):
            Windows to decode, for example those of faces and those of hands.

    Returns:
        list of `torch.Tensor` of shape `(N, R, 3, height, width)`: float32, approximately in [-1, 1], not clamped, one
        per item of `windows`.

    Raises:
        ValueError: If the latents do not have four axes, the windows belong to images of another size, or the decoder
            of an `AutoencoderKL` has attention outside its middle block.
    """
    if not isinstance(vae, AutoencoderKL):
        images = decode_latents(vae, latents)
        return [group.cut(images) for group in windows]
    decoder = vae.decoder
    if not all(type(block) is UpDecoderBlock2D for block in decoder.up_blocks):
        raise ValueError("`vae` must have only UpDecoderBlock2D as `up_block_types` for decoding in windows.")

    for group in windows:
        if (len(group.corners), group.image_height, group.image_width) != (len(latents), *latents.shape[-2:]):
            raise ValueError(
                f"`windows` must be those of {len(latents)} images of {tuple(latents.shape[-2:])} latent pixels, "
                f"got {len(group.corners)} of {(group.image_height, group.image_width)}."
            )
    unscaled = unscale_latents(vae, latents)
    if vae.post_quant_conv is not None:
        unscaled = vae.post_quant_conv(unscaled)
    first_block, *late_blocks = decoder.up_blocks
    features = first_block(decoder.mid_block(decoder.conv_in(unscaled)))

    norms = [layer for block in late_blocks for layer in block.modules() if isinstance(layer, nn.GroupNorm)]
    norms.append(decoder.conv_norm_out)
    statistics: dict[nn.GroupNorm, tuple[Tensor, Tensor]] = {}

    def note_statistics(norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> None:
        statistics[norm] = _scale_and_shift(norm, inputs[0])

    def apply_statistics(norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        num_windows = len(output) // len(latents)
        scale, shift = (values.repeat_interleave(num_windows, dim=0) for values in statistics[norm])
        return torch.addcmul(shift, inputs[0].float(), scale).to(output.dtype)

    with torch.no_grad(), _forward_hooks(norms, note_statistics):
        whole = features
        for layer in (*late_blocks, decoder.conv_norm_out):
            whole = layer(whole)
        del whole

    margin, *margins = _margins(decoder.up_blocks)
    decoded = []
    with _forward_hooks(norms, apply_statistics):
        for group in windows:
            outer = group.widened(margin)
            parts = outer.cut(features).flatten(0, 1)
            for block, smaller_margin in zip(late_blocks, margins, strict=True):
                inner = group.widened(smaller_margin)
                parts = inner.within(outer).cut(block(parts)).flatten(0, 1)
                outer = inner
            parts = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(parts)))
            parts = group.within(outer).cut(parts).flatten(0, 1)
            decoded.append(parts.unflatten(0, (len(latents), -1)).float())
    return decoded


def _scale_and_shift(norm: nn.GroupNorm, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and shift that a GroupNorm applies to these features, each float32 `(N, C, 1, 1)`."""
    groups = features.float().unflatten(1, (norm.num_groups, -1)).flatten(2)
    variance, mean = torch.var_mean(groups, dim=2, correction=0)
    channels_per_group = norm.num_channels // norm.num_groups
    deviation = (variance + norm.eps).sqrt().repeat_interleave(channels_per_group, dim=1)
    scale = norm.weight.float() / deviation
    shift = norm.bias.float() - mean.repeat_interleave(channels_per_group, dim=1) * scale
    return scale[..., None, None], shift[..., None, None]


def _margins(up_blocks: Sequence[UpDecoderBlock2D]) -> list[int]:
    """Return the margin in latent pixels that the decoder reads from the output of each block."""
    needed = 2.0 ** (1 - len(up_blocks))  # one pixel, for the last convolution
    margins = [math.ceil(needed)]
    for index in range(len(up_blocks) - 1, 0, -1):
        upsampling = 0 if up_blocks[index].upsamplers is None else 0.5
        needed += (2 * len(up_blocks[index].resnets) + upsampling) / 2**index
        margins.insert(0, math.ceil(needed))
    return margins


def _extent(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first true position along the last axis, and the distance to the position after the last one.

    Both are 0 if there is none.
    """
    length = inside.shape[-1]
    present = inside.to(torch.uint8)
    first = present.argmax(dim=-1)
    last = length - 1 - present.flip(-1).argmax(dim=-1)
    return first, (last + 1 - first) * inside.any(dim=-1)


def _inside(corners: Tensor, greatest_top: int, greatest_left: int) -> Tensor:
    top, left = corners.unbind(-1)
    return torch.stack([top.clamp(0, greatest_top), left.clamp(0, greatest_left)], dim=-1)


@contextmanager
def _forward_hooks(layers: list[nn.GroupNorm], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
