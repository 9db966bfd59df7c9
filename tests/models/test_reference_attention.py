# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import copy
import math

import pytest
import torch
from diffusers import UNetMotionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from rounding import assert_equal_up_to_rounding
from torch import nn

from hia_diffusers import HIAAppearanceEncoder, ReferenceFeatures


B, F = 2, 3


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return {"sample": draw(B, 4, F, 8, 6), "context": draw(B, 2, 32), "latents": draw(B, 4, 8, 6)}


@pytest.fixture
def features(pipe, inputs):
    with torch.no_grad():
        return pipe.appearance_encoder(inputs["latents"], 0, inputs["context"]).reference_features


class SlowFrameNorm(nn.Module):
    """Group norm of (B, C, F, H, W), frame by frame."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return torch.stack(
            [
                nn.functional.group_norm(
                    x[:, :, f], self.norm.num_groups, self.norm.weight, self.norm.bias, self.norm.eps
                )
                for f in range(x.shape[2])
            ],
            dim=2,
        )


class SlowReferenceProcessor:
    """Attention over own and reference tokens: concatenated before the projections, one frame and head at a time."""

    def __init__(self, reference):
        self.reference = reference  # (B, tokens, C)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        num_frames = len(hidden_states) // len(self.reference)
        frames = []
        for n, own in enumerate(hidden_states):
            tokens = torch.cat([own, self.reference[n // num_frames]])
            q, k, v = attn.to_q(own), attn.to_k(tokens), attn.to_v(tokens)
            size = q.shape[-1] // attn.heads
            heads = []
            for h in range(attn.heads):
                part = slice(h * size, (h + 1) * size)
                scores = q[:, part] @ k[:, part].T / size**0.5
                heads.append(scores.softmax(-1) @ v[:, part])
            frames.append(attn.to_out[0](torch.cat(heads, -1)))
        return torch.stack(frames)


def slow_unet(unet, features):
    """diffusers' own UNetMotionModel with the weights of `unet` and the slow attention."""
    names = UNetMotionModel.__init__.__wrapped__.__code__.co_varnames
    slow = UNetMotionModel.from_config({k: v for k, v in unet.config.items() if k in names})
    slow.load_state_dict(unet.state_dict())
    for module in slow.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm = SlowFrameNorm(module.norm)
    processors = {name: AttnProcessor() for name in slow.attn_processors}
    for name, reference in (features or {}).items():
        processors[f"{name}.attn1.processor"] = SlowReferenceProcessor(reference)
    slow.set_attn_processor(processors)
    return slow.eval()


@torch.no_grad()
@pytest.mark.parametrize("blocks", ["full", "midup"])
def test_conditional_branch_equals_the_slow_implementation(pipe, inputs, features, blocks):
    unet = pipe.unet
    if blocks == "midup":
        config = {**unet.config, "reference_attention_blocks": "midup"}
        unet = type(unet).from_config(config)
        unet.load_state_dict(pipe.unet.state_dict())
        unet.eval()
    seen = {name: f for name, f in features.items() if blocks == "full" or not name.startswith("down")}
    slow = slow_unet(unet, seen)(inputs["sample"], 7, inputs["context"].repeat_interleave(F, 0)).sample
    for reference in (features, ReferenceFeatures(features)):
        fast = unet(inputs["sample"], 7, inputs["context"], reference_features=reference).sample
        assert_equal_up_to_rounding(fast, slow)
    plain = unet(inputs["sample"], 7, inputs["context"]).sample
    assert (plain - slow).abs().max() > 1e-3


@torch.no_grad()
def test_unconditional_branch_equals_the_plain_unet(pipe, inputs):
    slow = slow_unet(pipe.unet, None)(inputs["sample"], 7, inputs["context"].repeat_interleave(F, 0)).sample
    assert_equal_up_to_rounding(pipe.unet(inputs["sample"], 7, inputs["context"]).sample, slow)


class SlowPositions(nn.Module):
    """A norm, and the position of each token one by one."""

    def __init__(self, norm, sizes):
        super().__init__()
        self.norm, self.sizes = norm, sizes

    def forward(self, x):
        height, width = self.sizes[x.shape[1]]
        count = x.shape[-1] // 4
        frequencies = [math.pi * 2 ** (5 * k / count) for k in range(count)]
        places = []
        for row in range(height):
            for column in range(width):
                y, x_ = (row + 0.5) / height, (column + 0.5) / width
                waves = [[wave(f * place) for f in frequencies] for place in (y, x_) for wave in (math.sin, math.cos)]
                places.append(sum(waves, []))
        return self.norm(x) + torch.tensor(places)


@torch.no_grad()
@pytest.mark.parametrize("with_reference", [True, False])
def test_positions_are_added_to_the_normed_input_of_self_attention(pipe, inputs, with_reference):
    positioned = {
        name: type(network).from_config({**network.config, "spatial_position_embedding": True}).eval()
        for name, network in (("unet", pipe.unet), ("appearance_encoder", pipe.appearance_encoder))
    }
    for name, network in positioned.items():
        network.load_state_dict(getattr(pipe, name).state_dict())
    context, latents = inputs["context"], inputs["latents"]
    features = positioned["appearance_encoder"](latents, 0, context).reference_features if with_reference else None
    output = positioned["unet"](inputs["sample"], 7, context, reference_features=features).sample

    sizes = {8 * 6: (8, 6), 4 * 3: (4, 3), 2 * 2: (2, 2), 1: (1, 1)}
    if with_reference:
        slow_encoder = copy.deepcopy(pipe.appearance_encoder)
        for name in slow_encoder.reference_names:
            block = slow_encoder.get_submodule(name)
            block.norm1 = SlowPositions(block.norm1, sizes)
        slow_features = slow_encoder(latents, 0, context).reference_features
        for name, feature in features.items():
            assert_equal_up_to_rounding(feature, slow_features[name])
    slow = slow_unet(pipe.unet, features)
    for name in pipe.unet.reference_names:
        block = slow.get_submodule(name)
        block.norm1 = SlowPositions(block.norm1, sizes)
    assert_equal_up_to_rounding(output, slow(inputs["sample"], 7, context.repeat_interleave(F, 0)).sample)
    plain = pipe.unet(inputs["sample"], 7, context, reference_features=features).sample
    assert (output - plain).abs().max() > 1e-3


def test_positions_need_channels_in_fours():
    config = {"block_out_channels": (18, 36), "norm_num_groups": 2, "cross_attention_dim": 32, "sample_size": 8}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    with pytest.raises(ValueError, match="must be multiples of 4 .* got 18"):
        HIAAppearanceEncoder(**config, **blocks, attention_head_dim=2, spatial_position_embedding=True)


@torch.no_grad()
def test_features_are_matched_by_name_not_by_order(pipe, inputs, features):
    straight = pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=features).sample
    shuffled = dict(reversed(features.items()))
    # Equal bits: the same tensors under the same names.
    assert torch.equal(straight, pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=shuffled).sample)
    a, b = "up_blocks.1.attentions.0.transformer_blocks.0", "up_blocks.1.attentions.1.transformer_blocks.0"
    swapped = features | {a: features[b], b: features[a]}
    assert not torch.allclose(
        straight, pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=swapped).sample
    )


def test_missing_blocks_and_wrong_batch_are_errors(pipe, inputs, features):
    name = "mid_block.attentions.0.transformer_blocks.0"
    with pytest.raises(ValueError, match=f"reference_features.*{name}"):
        pipe.unet(
            inputs["sample"],
            7,
            inputs["context"],
            reference_features={k: v for k, v in features.items() if k != name},
        )
    with pytest.raises(ValueError, match="reference_features.*per clip"):
        pipe.unet(inputs["sample"], 7, inputs["context"], reference_features={k: v[:1] for k, v in features.items()})
    with pytest.raises(ValueError, match="attention_mask"):
        pipe.unet(
            inputs["sample"],
            7,
            inputs["context"],
            attention_mask=torch.ones(B * F, 48),
            reference_features=features,
        )


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
        lambda unet: unet.set_attn_processor(AttnProcessor()),
        lambda unet: unet.set_default_attn_processor(),
        lambda unet: unet.fuse_qkv_projections(),
        lambda unet: unet.set_attention_backend("native"),
        lambda unet: unet.enable_forward_chunking(chunk_size=1, dim=1),
        lambda unet: unet.enable_freeu(0.9, 0.2, 1.1, 1.2),
    ],
    ids=["processor-2.0", "processor", "default", "fused-qkv", "backend", "forward-chunking", "freeu"],
)
def test_the_reference_survives_what_replaces_attention(pipe, inputs, features, change):
    unet = copy.deepcopy(pipe.unet)
    before = unet(inputs["sample"], 7, inputs["context"], reference_features=features).sample
    change(unet)
    after = unet(inputs["sample"], 7, inputs["context"], reference_features=features).sample
    without = unet(inputs["sample"], 7, inputs["context"]).sample
    assert (after - without).abs().max() > 1e-3
    if not getattr(unet.up_blocks[0], "s1", None):  # FreeU changes the result, the others do not
        assert_equal_up_to_rounding(after, before)


@torch.no_grad()
def test_a_global_attention_backend_is_used(pipe, inputs, features, monkeypatch):
    from diffusers.models import attention_dispatch

    used = []
    registry = attention_dispatch._AttentionBackendRegistry
    native = registry._backends[attention_dispatch.AttentionBackendName._NATIVE_MATH]
    monkeypatch.setitem(
        registry._backends,
        attention_dispatch.AttentionBackendName._NATIVE_MATH,
        lambda *args, **kwargs: used.append(1) or native(*args, **kwargs),
    )
    with attention_dispatch.attention_backend("_native_math"):
        pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=features)
    assert len(used) == sum(isinstance(module, Attention) for module in pipe.unet.modules())


def test_a_dropped_clip_sees_no_reference_and_gives_it_gradients_of_zero(pipe, inputs, features):
    with_reference = pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=features).sample
    plain = pipe.unet(inputs["sample"], 7, inputs["context"]).sample
    features = {name: value.clone().requires_grad_() for name, value in features.items()}
    reference = ReferenceFeatures(features, dropped=torch.tensor([True, False]))
    mixed = pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=reference).sample
    assert_equal_up_to_rounding(mixed[0], plain[0])
    assert_equal_up_to_rounding(mixed[1], with_reference[1])
    assert (plain[1] - with_reference[1]).abs().max() > 1e-3
    mixed.square().mean().backward()
    for name in pipe.unet.reference_names:
        assert not features[name].grad[0].any() and features[name].grad[1].any(), name


def test_dropped_has_one_entry_per_clip(pipe, inputs, features):
    with pytest.raises(ValueError, match="reference_features.*`dropped` per clip"):
        reference = ReferenceFeatures(features, dropped=torch.tensor([True]))
        pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=reference)


def test_xformers_processors_choose_the_xformers_backend(pipe, inputs, features, monkeypatch):
    from hia_diffusers.models import attention

    chosen = []

    def record(query, key, value, attn_mask, scale, backend):
        chosen.append(backend)
        return query

    monkeypatch.setattr(attention, "dispatch_attention_fn", record)
    pipe.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.processor = XFormersAttnProcessor()
    pipe.unet(inputs["sample"], 7, inputs["context"], reference_features=features)
    assert [backend and backend.value for backend in chosen].count("xformers") == 1
