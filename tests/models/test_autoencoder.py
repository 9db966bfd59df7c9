# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The autoencoders against what they themselves compute."""

import copy
from typing import get_args

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from small_networks import autoencoder_dc

from hia_diffusers.models.autoencoder import (
    AUTOENCODERS,
    Autoencoder,
    decode_latents,
    encode_images,
    unscale_latents,
    vae_scale_factor,
)


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures():
    return random(0, 2, 3, 32, 24).clamp(-1, 1)


def latents():
    return random(1, 2, 4, 8, 6)


def kl(num_stages=3, **options):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num_stages,
        up_block_types=("UpDecoderBlock2D",) * num_stages,
        block_out_channels=(8,) * num_stages,
        norm_num_groups=4,
        **{"scaling_factor": 0.5, "shift_factor": 0.3} | options,
    )


def tiny(num_stages=3, **options):
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * num_stages,
        decoder_block_out_channels=(8,) * num_stages,
        num_encoder_blocks=(1,) * num_stages,
        num_decoder_blocks=(1,) * num_stages,
        **{"scaling_factor": 0.5, "shift_factor": 0.3} | options,
    )


def dc(num_stages=3, **options):
    return AutoencoderDC(**{**autoencoder_dc(num_stages), "scaling_factor": 0.5, **options})


def make(autoencoder, *args, **options):
    torch.manual_seed(0)
    return autoencoder(*args, **options).eval().requires_grad_(False)


@pytest.fixture(params=[kl, tiny, dc])
def vae(request):
    return make(request.param)


def shift_of(vae):
    return 0.0 if isinstance(vae, AutoencoderDC) else 0.3


def raw_latents(vae, pictures):
    """What the encoder says, before shift and scale."""
    encoded = vae.encoder(pictures)
    return vae.quant_conv(encoded)[:, :4] if isinstance(vae, AutoencoderKL) else encoded


def test_the_tuple_and_the_type_name_the_same_classes():
    assert get_args(Autoencoder) == AUTOENCODERS


@torch.no_grad()
@pytest.mark.parametrize("num_stages", [2, 4])
@pytest.mark.parametrize("autoencoder", [kl, tiny, dc])
def test_the_factor_is_that_of_real_sizes(autoencoder, num_stages):
    vae = make(autoencoder, num_stages)
    factor = vae_scale_factor(vae)
    assert factor == 2 ** (num_stages - 1)
    encoded = encode_images(vae, pictures())
    assert encoded.shape == (2, 4, 32 // factor, 24 // factor)
    assert decode_latents(vae, encoded).shape == (2, 3, 32, 24)


@torch.no_grad()
def test_latents_are_shifted_and_scaled_one_way_and_back(vae):
    raw = raw_latents(vae, pictures())
    encoded = encode_images(vae, pictures())
    assert raw.std() > 1e-3
    assert torch.allclose(encoded, (raw - shift_of(vae)) * 0.5, atol=1e-6)
    assert torch.equal(encode_images(vae, pictures()), encoded)
    assert torch.allclose(unscale_latents(vae, encoded), raw, atol=1e-6)
    assert torch.allclose(decode_latents(vae, encoded), vae.decode(raw).sample, atol=1e-5)


@torch.no_grad()
def test_a_shift_of_none_is_no_shift():
    vae, unshifted = make(kl, shift_factor=None), make(kl, shift_factor=0.0)
    # Equal bits: x - 0 and x + 0 are x.
    assert torch.equal(encode_images(vae, pictures()), encode_images(unshifted, pictures()))
    assert torch.equal(decode_latents(vae, latents()), decode_latents(unshifted, latents()))


@torch.no_grad()
def test_pictures_are_not_clamped(vae):
    assert decode_latents(vae, 1000 * latents()).abs().max() > 1


def test_decoding_has_the_decoders_gradient(vae):
    scaled = latents().requires_grad_()
    decode_latents(vae, scaled).square().sum().backward()
    raw = (latents() / 0.5 + shift_of(vae)).requires_grad_()
    vae.decode(raw).sample.square().sum().backward()
    assert torch.count_nonzero(scaled.grad) > 0.9 * scaled.numel()
    assert torch.allclose(scaled.grad, raw.grad / 0.5, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in vae.parameters())


@torch.no_grad()
def test_any_dtype_goes_in_and_float32_comes_out(vae):
    half = torch.nn.Module.to(copy.deepcopy(vae), torch.bfloat16)
    assert unscale_latents(half, latents()).dtype == torch.bfloat16
    for function, inputs in ((encode_images, pictures()), (decode_latents, latents())):
        expected = function(vae, inputs)
        for network, given in ((half, inputs), (half, inputs.bfloat16()), (vae, inputs.bfloat16())):
            values = function(network, given)
            assert values.dtype == torch.float32
            assert 0 < (values - expected).norm() < 0.05 * expected.norm()


def with_attention():
    """Its linear attention adds up 4096 pixels, which goes beyond what float16 holds."""
    blocks = ["ResBlock", "EfficientViTBlock"]
    vae = make(dc, 2, attention_head_dim=8, encoder_block_types=blocks, decoder_block_types=blocks)
    for layer in vae.modules():
        if hasattr(layer, "to_k"):
            layer.to_k.weight.mul_(8)
            layer.to_q.weight.mul_(8)
    return torch.nn.Module.to(vae, torch.float16)


@torch.no_grad()
def test_linear_attention_does_not_overflow_under_autocast():
    vae = with_attention()
    large = random(0, 1, 3, 128, 128).clamp(-1, 1)
    encoded = encode_images(vae, large)
    decoded = decode_latents(vae, encoded)
    with torch.autocast("cpu", torch.float16):
        assert not vae.decode(unscale_latents(vae, encoded)).sample.isfinite().all()
        # Equal bits: autocast is off inside, so the kernels are the same.
        assert torch.equal(encode_images(vae, large), encoded)
        assert torch.equal(decode_latents(vae, encoded), decoded)
    assert encoded.isfinite().all() and decoded.isfinite().all()


def test_what_does_not_fit_is_refused(vae):
    for shape in ((3, 32, 24), (1, 3, 30, 24), (1, 3, 32, 22)):
        with pytest.raises(ValueError, match=r"`images` must be of shape \(N, 3, H, W\), H, W multiples of 4, got"):
            encode_images(vae, torch.zeros(shape))
    for function in (decode_latents, unscale_latents):
        with pytest.raises(ValueError, match=r"`latents` must be of shape \(N, C, h, w\), got \(2, 4, 1, 8, 6\)"):
            function(vae, latents()[:, :, None])
