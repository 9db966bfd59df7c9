# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import copy
import itertools

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from small_networks import autoencoder_dc
from torch import nn

from hia_diffusers.models.autoencoder import decode_latents
from hia_diffusers.training.losses import regional_loss
from hia_diffusers.training.regional_decoding import RegionWindows, decode_windows, region_windows


LATENT_HEIGHT, LATENT_WIDTH = 32, 24
HEIGHT, WIDTH = 8 * LATENT_HEIGHT, 8 * LATENT_WIDTH

# Per image and region: top, bottom, left, right in pixels; in the middle, at borders and in a corner, and none.
REGIONS = [[(100, 140, 70, 110), (0, 20, 160, 192)], [(236, 256, 0, 30), (0, 0, 0, 0)]]


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def latents():
    return random(1, 2, 4, LATENT_HEIGHT, LATENT_WIDTH)


def region_masks(regions):
    """(N, R, H, W)"""
    masks = torch.zeros(len(regions), len(regions[0]), HEIGHT, WIDTH)
    for image, boxes in zip(masks, regions, strict=True):
        for mask, (top, bottom, left, right) in zip(image, boxes, strict=True):
            mask[top:bottom, left:right] = 1
    return masks


def autoencoder(num_blocks=4, **config):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num_blocks,
        up_block_types=("UpDecoderBlock2D",) * num_blocks,
        block_out_channels=(8, 16, 16, 16)[:num_blocks],
        norm_num_groups=4,
        latent_channels=4,
        **{"layers_per_block": 2} | config,
    )
    # As trained ones, no norm is the identity, and no image is grey.
    for norm in (layer for layer in vae.decoder.modules() if isinstance(layer, nn.GroupNorm)):
        nn.init.normal_(norm.weight, mean=1, std=0.3)
        nn.init.normal_(norm.bias, std=0.3)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    return autoencoder(layers_per_block=1)


def relative_difference(values, truth):
    return ((values - truth).norm() / truth.norm()).item()


# Windows


def test_windows_hold_the_whole_region_and_are_no_larger_than_the_largest_needs():
    masks = region_masks(REGIONS)
    windows = region_windows(masks, size_step=2)
    # The tallest goes from latent row 12 to 18, the widest from latent column 8 to 14.
    assert (windows.height, windows.width) == (6, 6)
    assert windows.corners.tolist()[0] == [[12, 8], [0, 18]]
    assert windows.corners.tolist()[1][0] == [26, 0]
    inside = windows.cut(masks[:, :, None])
    assert torch.equal(inside.sum(dim=(2, 3, 4)), masks.sum(dim=(2, 3)))


def test_windows_are_centred_where_the_image_allows():
    windows = region_windows(region_masks(REGIONS), size_step=12)
    assert (windows.height, windows.width) == (12, 12)
    assert windows.corners.tolist()[0] == [[9, 5], [0, 12]]


def test_windows_of_every_region_hold_it():
    random_sizes = torch.Generator().manual_seed(0)
    for _ in range(50):
        top, left = (int(torch.randint(side - 1, (), generator=random_sizes)) for side in (HEIGHT, WIDTH))
        bottom = int(torch.randint(top + 1, HEIGHT + 1, (), generator=random_sizes))
        right = int(torch.randint(left + 1, WIDTH + 1, (), generator=random_sizes))
        masks = region_masks([[(top, bottom, left, right)]])
        windows = region_windows(masks)
        assert windows.cut(masks).sum() == masks.sum()
        assert windows.height in (4, 8, 12, 16, 20, 24, 28, 32) and windows.width in (4, 8, 12, 16, 20, 24)
        assert windows.height < (bottom - top) / 8 + 6 and windows.width < (right - left) / 8 + 6


def test_a_window_may_be_the_whole_image():
    windows = region_windows(torch.ones(1, 1, 72, 40), size_step=4)
    assert (windows.height, windows.width) == (9, 5)
    assert windows.corners.tolist() == [[[0, 0]]]


def test_windows_of_nothing_are_small_and_in_the_image():
    masks = torch.zeros(2, 1, HEIGHT, WIDTH)
    windows = region_windows(masks)
    assert (windows.height, windows.width) == (4, 4)
    assert windows.cut(masks).shape == (2, 1, 1, 32, 32)


def test_cutting_is_slicing_at_every_resolution():
    windows = RegionWindows(torch.tensor([[[3, 1], [0, 2]], [[4, 0], [2, 3]]]), 4, 2, LATENT_HEIGHT, LATENT_WIDTH)
    for scale in (1, 2, 8):
        images = random(0, 2, 3, scale * LATENT_HEIGHT, scale * LATENT_WIDTH)
        own_images = random(1, 2, 2, 3, scale * LATENT_HEIGHT, scale * LATENT_WIDTH)
        cut, cut_own = windows.cut(images), windows.cut(own_images)
        for image, window in itertools.product(range(2), range(2)):
            top, left = (scale * corner for corner in windows.corners[image, window].tolist())
            place = (..., slice(top, top + scale * 4), slice(left, left + scale * 2))
            assert torch.equal(cut[image, window], images[image][place])
            assert torch.equal(cut_own[image, window], own_images[image, window][place])


def test_wider_windows_hold_the_windows_and_stay_in_the_image():
    windows = region_windows(region_masks(REGIONS))
    images = random(0, 2, 1, LATENT_HEIGHT, LATENT_WIDTH)
    for margin in (0, 1, 5, 40):
        outer = windows.widened(margin)
        assert outer.height == min(windows.height + 2 * margin, LATENT_HEIGHT)
        assert outer.width == min(windows.width + 2 * margin, LATENT_WIDTH)
        again = windows.within(outer).cut(outer.cut(images).flatten(0, 1))
        assert torch.equal(again[:, 0].unflatten(0, (2, 2)), windows.cut(images))


# Whole images


def test_decoding_is_that_of_diffusers_with_gradient(vae):
    scaled = latents().requires_grad_()
    images = decode_latents(vae, scaled)
    # Equal bits: the same calls on the same latents.
    assert torch.equal(images, vae.decode(scaled / vae.config.scaling_factor).sample)
    images.sum().backward()
    assert scaled.grad.abs().min() > 0


def test_decoding_undoes_scale_and_shift_of_encoding():
    vae = autoencoder(scaling_factor=0.3611, shift_factor=0.1159)
    encoded = latents()
    images = decode_latents(vae, (encoded - 0.1159) * 0.3611)
    torch.testing.assert_close(images, vae.decode(encoded).sample, rtol=1e-3, atol=1e-3)


def test_a_half_precision_decoder_gives_float32_and_a_float32_gradient():
    scaled = random(1, 1, 4, 8, 8).requires_grad_()
    windows = RegionWindows(torch.tensor([[[2, 3]]]), 4, 4, 8, 8)
    truth = windows.cut(decode_latents(autoencoder(layers_per_block=1), scaled))
    half = autoencoder(layers_per_block=1).bfloat16()
    whole, (parts,) = windows.cut(decode_latents(half, scaled)), decode_windows(half, scaled, [windows])
    assert whole.dtype == parts.dtype == torch.float32
    # Both are off by the rounding of bfloat16, and the windows by no more.
    assert relative_difference(parts, truth) < 1.5 * relative_difference(whole, truth)
    parts.sum().backward()
    assert scaled.grad.dtype == torch.float32 and scaled.grad.isfinite().all()


# Windows of decoded images


@pytest.mark.parametrize(
    "config",
    [{}, {"num_blocks": 2}, {"num_blocks": 1}, {"layers_per_block": 1, "mid_block_add_attention": False}],
)
def test_windows_have_the_pixels_of_the_whole_image(config):
    vae = autoencoder(**config)
    scale = 2 ** (config.get("num_blocks", 4) - 1)
    masks = region_masks(REGIONS)[:, :, : scale * LATENT_HEIGHT, : scale * LATENT_WIDTH]
    groups = [region_windows(masks[:, :1], scale), region_windows(masks, scale)]
    images = decode_latents(vae, latents())
    for decoded, windows in zip(decode_windows(vae, latents(), groups), groups, strict=True):
        assert decoded.shape[:3] == (2, windows.corners.shape[1], 3)
        assert relative_difference(decoded, windows.cut(images)) < 1e-4


def test_latents_decoded_by_themselves_are_far_off_whatever_the_margin(vae):
    """Which is why windows take the statistics and the attention of the whole image."""
    windows = region_windows(region_masks(REGIONS)[:, :1])
    truth = windows.cut(decode_latents(vae, latents()))
    differences = []
    for margin in (0, 4, 8):
        outer = windows.widened(margin)
        decoded = decode_latents(vae, outer.cut(latents()).flatten(0, 1))
        differences.append(relative_difference(windows.within(outer).cut(decoded), truth))
    assert differences[0] > differences[1] > differences[2] > 0.01


def test_windows_are_those_of_each_image_alone(vae):
    masks = region_masks(REGIONS)
    windows = region_windows(masks)
    (together,) = decode_windows(vae, latents(), [windows])
    for image in range(2):
        own = RegionWindows(windows.corners[image : image + 1], *(windows.height, windows.width), *(32, 24))
        (alone,) = decode_windows(vae, latents()[image : image + 1], [own])
        torch.testing.assert_close(alone[0], together[image], rtol=1e-4, atol=1e-4)


def regional_gradients(vae, masks):
    """Of the loss in a region, by the latents: decoded whole, and in windows."""
    target = random(2, len(masks), 3, HEIGHT, WIDTH)
    windows = region_windows(masks)
    gradients, losses = [], []
    for in_windows in (False, True):
        scaled = latents()[: len(masks)].requires_grad_()
        if in_windows:
            (decoded,) = decode_windows(vae, scaled, [windows])
            loss = regional_loss(decoded, windows.cut(target), windows.cut(masks[:, :, None]))
        else:
            loss = regional_loss(decode_latents(vae, scaled), target, masks.sum(dim=1, keepdim=True))
        loss.sum().backward()
        gradients.append(scaled.grad)
        losses.append(loss.detach())
    return gradients, losses


def test_the_loss_of_windows_is_that_of_the_whole_image_and_so_is_its_gradient(vae):
    """The gradient lacks what flows through the statistics, which is thin and everywhere."""
    (whole, in_windows), losses = regional_gradients(vae, region_masks(REGIONS))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    assert torch.cosine_similarity(whole.flatten(), in_windows.flatten(), dim=0) > 0.97
    assert relative_difference(in_windows, whole) < 0.25
    near = region_windows(region_masks(REGIONS))
    assert relative_difference(near.cut(in_windows)[0], near.cut(whole)[0]) < 0.15


class ConstantStatistics(nn.GroupNorm):
    """A GroupNorm whose mean and variance have no gradient."""

    def forward(self, features):
        groups = features.unflatten(1, (self.num_groups, -1))
        with torch.no_grad():
            mean = groups.mean(dim=(2, 3, 4), keepdim=True)
            deviation = (groups.var(dim=(2, 3, 4), keepdim=True, correction=0) + self.eps).sqrt()
        normed = ((groups - mean) / deviation).flatten(1, 2)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


def test_the_gradient_is_that_of_the_whole_image_with_the_late_statistics_constant(vae):
    constant = copy.deepcopy(vae)
    for late in (*constant.decoder.up_blocks[1:], constant.decoder.conv_norm_out):
        for layer in late.modules():
            if isinstance(layer, nn.GroupNorm):
                layer.__class__ = ConstantStatistics
    windows = region_windows(region_masks(REGIONS))
    scaled = latents().requires_grad_()
    whole, (parts,) = windows.cut(decode_latents(constant, scaled)), decode_windows(vae, scaled, [windows])
    direction = random(3, *whole.shape)
    expected, gradient = (torch.autograd.grad((pixels * direction).sum(), scaled)[0] for pixels in (whole, parts))
    assert relative_difference(gradient, expected) < 1e-4


def test_an_empty_region_gives_the_latents_no_gradient(vae):
    masks = region_masks([[(0, 0, 0, 0)], [(100, 140, 70, 110)]])
    (whole, in_windows), losses = regional_gradients(vae, masks)
    assert losses[1][0] == 0 and losses[1][1] > 0
    assert not in_windows[0].any() and in_windows[1].any() and in_windows.isfinite().all()


def test_the_gradient_of_a_region_is_greatest_in_its_window(vae):
    masks = region_masks(REGIONS)[:1, :1]
    (_, gradient), _ = regional_gradients(vae, masks)
    window = region_windows(masks).widened(2).cut(gradient)
    assert window.square().sum() > 0.8 * gradient.square().sum()


def test_windows_leave_the_autoencoder_as_it_was(vae):
    before = decode_latents(vae, latents())
    parameters = {name: parameter.clone() for name, parameter in vae.named_parameters()}
    scaled = latents().requires_grad_()
    (decoded,) = decode_windows(vae, scaled, [region_windows(region_masks(REGIONS))])
    decoded.sum().backward()
    with pytest.raises(ValueError):
        decode_windows(vae, latents(), [region_windows(torch.zeros(2, 1, 64, 64))])
    assert torch.equal(decode_latents(vae, latents()), before)
    assert all(torch.equal(parameter, parameters[name]) for name, parameter in vae.named_parameters())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert not any(layer._forward_hooks for layer in vae.modules())


def test_windows_keep_less_for_the_backward_pass(vae):
    masks = region_masks(REGIONS)[:, :1]
    windows = region_windows(masks)
    kept = []

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for decode in (decode_latents, lambda *args: decode_windows(*args, [windows])[0]):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            decode(vae, latents().requires_grad_())
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.6 * kept[0]


def tiny_autoencoder():
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )


def deep_compression_autoencoder():
    """With attention to whole images at the two lowest resolutions of its decoder."""
    blocks = ["ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"]
    return AutoencoderDC(**autoencoder_dc(decoder_block_types=blocks, attention_head_dim=8, scaling_factor=0.5))


@pytest.mark.parametrize("autoencoder", [tiny_autoencoder, deep_compression_autoencoder])
def test_other_autoencoders_give_windows_of_whole_images(autoencoder):
    torch.manual_seed(0)
    vae = autoencoder().requires_grad_(False)
    windows = region_windows(region_masks(REGIONS))
    scaled = latents().requires_grad_()
    images, (decoded,) = decode_latents(vae, scaled), decode_windows(vae, scaled, [windows])
    assert images.shape == (2, 3, HEIGHT, WIDTH)
    # Equal bits: these autoencoders decode the whole images in both ways, and cutting computes nothing.
    assert torch.equal(decoded, windows.cut(images))
    decoded.sum().backward()
    assert scaled.grad.any()


# Bad input


def test_what_does_not_fit_is_refused(vae):
    with pytest.raises(ValueError, match=r"`latents` must be of shape \(N, C, h, w\), got \(2, 4, 1, 32, 24\)"):
        decode_latents(vae, latents()[:, :, None])
    with pytest.raises(ValueError, match=r"`masks` must be of shape \(N, R, H, W\), H, W multiples of 8"):
        region_windows(torch.zeros(2, 1, 60, 64))
    windows = region_windows(region_masks(REGIONS))
    with pytest.raises(ValueError, match=r"`images`.*got \(2, 3, 256, 200\)"):
        windows.cut(torch.zeros(2, 3, HEIGHT, WIDTH + 8))
    with pytest.raises(ValueError, match=r"`images`.*got \(1, 3, 256, 192\)"):
        windows.cut(torch.zeros(1, 3, HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"`windows` must be those of 1 images of \(32, 24\) latent pixels, got 2"):
        decode_windows(vae, latents()[:1], [windows])


def test_attention_outside_of_the_middle_is_refused():
    torch.manual_seed(0)
    vae = AutoencoderKL(up_block_types=("AttnUpDecoderBlock2D",), block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(ValueError, match="`vae` must have only UpDecoderBlock2D"):
        decode_windows(vae, latents(), [region_windows(region_masks(REGIONS))])
