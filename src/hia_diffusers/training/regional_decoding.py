# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding latents with gradient, as the regional stage needs it (paper Sec. 3.3): whole, or only around the regions.

Backpropagation through the VAE's decoder keeps gigabytes for one picture. Face and hands are a small part of it, but
latents cut out around them and decoded alone give other pixels: each GroupNorm takes its mean and variance from the
whole picture, and the attention in the middle looks at all of it, so no margin is wide enough.

[`decode_windows`] therefore decodes the whole picture without gradient first and takes the statistics of every
GroupNorm from there. With gradient, the layers at the latents' own resolution, attention among them, run on the whole
picture too. The others, which cost most, run on windows with a margin for the convolutions that are still to come.
The pixels are those of the whole picture. So is the gradient, but for the part that flows through the statistics.
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
    """
    R equally large windows in each of N pictures, in latent pixels. [`region_windows`] makes them.

    Args:
        corners (`torch.Tensor` of shape `(N, R, 2)`):
            Top and left of each window, int64.
        height, width (`int`):
            Size of every window.
        picture_height, picture_width (`int`):
            Size of the pictures' latents.
    """

    corners: Tensor
    height: int
    width: int
    picture_height: int
    picture_width: int

    def cut(self, pictures: Tensor) -> Tensor:
        """
        The windows of pictures, of latents, or of anything else that has a whole number of pixels per latent pixel.

        Args:
            pictures (`torch.Tensor` of shape `(N, C, H, W)` or `(N, R, C, H, W)`):
                What to cut from; with five axes, each window has a picture of its own, such as its mask.

        Returns:
            `torch.Tensor` of shape `(N, R, C, height, width)`, in pixels of `pictures`.

        Raises:
            `ValueError`: `pictures` are not of that shape.
        """
        num_pictures, num_windows, _ = self.corners.shape
        scale = pictures.shape[-1] // self.picture_width
        size = (scale * self.picture_height, scale * self.picture_width)
        axes = {4: (num_pictures,), 5: (num_pictures, num_windows)}.get(pictures.ndim)
        if axes is None or pictures.shape[: len(axes)] != axes or pictures.shape[-2:] != size:
            raise ValueError(
                f"`pictures` must be of shape ({num_pictures}, C, H, W) or ({num_pictures}, {num_windows}, C, H, W), "
                f"H, W a multiple of {self.picture_height}, {self.picture_width}, got {tuple(pictures.shape)}."
            )
        device = pictures.device
        top, left = (scale * self.corners.to(device, non_blocking=True)).unbind(-1)
        rows = top[..., None, None] + torch.arange(scale * self.height, device=device)[:, None]
        columns = left[..., None, None] + torch.arange(scale * self.width, device=device)
        picture = torch.arange(num_pictures, device=device)[:, None, None, None]
        if pictures.ndim == 4:
            windows = pictures[picture, :, rows, columns]
        else:
            window = torch.arange(num_windows, device=device)[:, None, None]
            windows = pictures[picture, window, :, rows, columns]
        return windows.movedim(-1, 2).contiguous()

    def widened(self, margin: int) -> "RegionWindows":
        """These windows with a margin on all sides; at the border of the picture they have more on the other side."""
        height = min(self.height + 2 * margin, self.picture_height)
        width = min(self.width + 2 * margin, self.picture_width)
        corners = _inside(self.corners - margin, self.picture_height - height, self.picture_width - width)
        return RegionWindows(corners, height, width, self.picture_height, self.picture_width)

    def within(self, outer: "RegionWindows") -> "RegionWindows":
        """Where these windows are in wider ones, whose windows `(N * R, C, H, W)` are the pictures to cut from."""
        corners = (self.corners - outer.corners).flatten(0, 1)[:, None]
        return RegionWindows(corners, self.height, self.width, outer.height, outer.width)


def region_windows(masks: Tensor, vae_scale_factor: int = 8, size_step: int = 4) -> RegionWindows:
    """
    Windows around regions: as small as the largest region of the batch allows, so that none is cut off, and of few
    sizes, so that shapes seldom change.

    Regions that differ in size, such as faces and hands, better have windows of their own, from a call for each. An
    empty region has a window too, somewhere in the picture.

    Args:
        masks (`torch.Tensor` of shape `(N, R, H, W)`):
            Positive in the region. Give them on the host, before they go to the device: the size is a number that has
            to be known, and a device would be waited for.
        vae_scale_factor (`int`, *optional*, defaults to 8):
            Pixels per latent pixel.
        size_step (`int`, *optional*, defaults to 4):
            Heights and widths are multiples of it, in latent pixels, or those of the picture.

    Returns:
        [`RegionWindows`]: of R windows per picture.

    Raises:
        `ValueError`: the masks do not have four axes, or their size is not a multiple of `vae_scale_factor`.
    """
    if masks.ndim != 4 or masks.shape[-2] % vae_scale_factor or masks.shape[-1] % vae_scale_factor:
        raise ValueError(
            f"`masks` must be of shape (N, R, H, W), H, W multiples of {vae_scale_factor}, got {tuple(masks.shape)}."
        )
    inside = masks > 0
    picture_height, picture_width = (side // vae_scale_factor for side in masks.shape[-2:])
    (top, region_height), (left, region_width) = (
        _extent(inside.any(dim=across).unflatten(-1, (-1, vae_scale_factor)).any(dim=-1)) for across in (-1, -2)
    )
    height, width = (
        min(max(math.ceil(int(extents.max()) / size_step), 1) * size_step, limit)
        for extents, limit in ((region_height, picture_height), (region_width, picture_width))
    )
    centred = torch.stack([top - (height - region_height) // 2, left - (width - region_width) // 2], dim=-1)
    corners = _inside(centred, picture_height - height, picture_width - width)
    return RegionWindows(corners, height, width, picture_height, picture_width)


def decode_windows(vae: Autoencoder, latents: Tensor, windows: Sequence[RegionWindows]) -> list[Tensor]:
    """
    What [`RegionWindows.cut`] gives of whole decoded pictures, with little memory.

    The gradient takes the mean and variance of the decoder's later GroupNorms as constants, and reaches all latents
    through the earlier layers. Only an [`~diffusers.AutoencoderKL`] has such norms. The others decode whole pictures:
    an [`~diffusers.AutoencoderTiny`] needs little memory for it, and in an [`~diffusers.AutoencoderDC`] attention may
    see the whole picture at several resolutions.

    ```python
    faces, hands = region_windows(face_masks), region_windows(hand_masks)
    face_pixels, hand_pixels = decode_windows(vae, latents, [faces, hands])
    face_loss = regional_loss(face_pixels, faces.cut(pixel_values), faces.cut(face_masks[:, :, None]))

    # Pixels that are in both hands count once.
    left, right = hand_masks.unbind(1)
    own_masks = torch.stack([left, right * (1 - left)], dim=1)[:, :, None]
    hand_loss = regional_loss(hand_pixels, hands.cut(pixel_values), hands.cut(own_masks))
    ```

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            Frozen: parameters that require no gradient need half of the memory.
        latents (`torch.Tensor` of shape `(N, C, h, w)`):
            Clean latents, scaled as the UNet knows them.
        windows (sequence of [`RegionWindows`]):
            What to decode, for example the windows of faces, and those of hands.

    Returns:
        list of `torch.Tensor` of shape `(N, R, 3, height, width)`: float32, around [-1, 1], not clamped, one per item
        of `windows`.

    Raises:
        `ValueError`: the latents do not have four axes, the windows are those of pictures of another size, or the
            decoder of an `AutoencoderKL` has attention in other places than its middle.
    """
    if not isinstance(vae, AutoencoderKL):
        pictures = decode_latents(vae, latents)
        return [group.cut(pictures) for group in windows]
    decoder = vae.decoder
    if not all(type(block) is UpDecoderBlock2D for block in decoder.up_blocks):
        raise ValueError("`vae` must have `up_block_types` of UpDecoderBlock2D only to be decoded in windows.")

    for group in windows:
        if (len(group.corners), group.picture_height, group.picture_width) != (len(latents), *latents.shape[-2:]):
            raise ValueError(
                f"`windows` must be those of {len(latents)} pictures of {tuple(latents.shape[-2:])} latent pixels, "
                f"got {len(group.corners)} of {(group.picture_height, group.picture_width)}."
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
    """What a GroupNorm multiplies these features by and adds to them, each float32 `(N, C, 1, 1)`."""
    groups = features.float().unflatten(1, (norm.num_groups, -1)).flatten(2)
    variance, mean = torch.var_mean(groups, dim=2, correction=0)
    channels_per_group = norm.num_channels // norm.num_groups
    deviation = (variance + norm.eps).sqrt().repeat_interleave(channels_per_group, dim=1)
    scale = norm.weight.float() / deviation
    shift = norm.bias.float() - mean.repeat_interleave(channels_per_group, dim=1) * scale
    return scale[..., None, None], shift[..., None, None]


def _margins(up_blocks: Sequence[UpDecoderBlock2D]) -> list[int]:
    """How many latent pixels around its result the decoder reads from the output of each block."""
    needed = 2.0 ** (1 - len(up_blocks))  # one pixel, by the last convolution
    margins = [math.ceil(needed)]
    for index in range(len(up_blocks) - 1, 0, -1):
        upsampling = 0 if up_blocks[index].upsamplers is None else 0.5
        needed += (2 * len(up_blocks[index].resnets) + upsampling) / 2**index
        margins.insert(0, math.ceil(needed))
    return margins


def _extent(inside: Tensor) -> tuple[Tensor, Tensor]:
    """First true position along the last axis, and the distance from there to behind the last one; 0 where none is."""
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
