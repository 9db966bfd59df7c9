# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Attention layers compute what diffusers' would, with less work or by another back end."""

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, dispatch_attention_fn
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0

from hia_diffusers.models.attention import CrossAttention, DispatchedAttention, MotionAttention


class ScaledProcessor(AttnProcessor2_0):
    """What a user may put there: it does more than attend."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def __call__(self, *args, **kwargs):
        return self.factor * super().__call__(*args, **kwargs)


class OtherProcessor:
    def __call__(self, attention, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return 2 * AttnProcessor2_0()(attention, hidden_states, encoder_hidden_states, attention_mask)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return Attention(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8).eval()


@pytest.fixture
def hidden_states():
    return torch.randn(6, 5, 16)


def as_cross_attention(attention):
    attention.__class__ = CrossAttention
    return attention


@torch.no_grad()
def test_one_token_gives_all_what_the_kernel_would(attention, hidden_states, monkeypatch):
    context = torch.randn(6, 1, 12)
    expected = attention(hidden_states, context)
    monkeypatch.setattr(AttnProcessor2_0, "__call__", None)  # not run at all
    found = as_cross_attention(attention)(hidden_states, context)
    assert found.shape == (6, 1, 16)
    torch.testing.assert_close(found.expand_as(expected), expected)


@torch.no_grad()
@pytest.mark.parametrize("processor", [ScaledProcessor(3.0), OtherProcessor()])
def test_processors_that_do_more_are_run(attention, hidden_states, processor):
    attention.set_processor(processor)
    context = torch.randn(6, 1, 12)
    expected = attention(hidden_states, context)
    torch.testing.assert_close(as_cross_attention(attention)(hidden_states, context), expected)


@torch.no_grad()
def test_more_tokens_and_masks_are_attended_to(attention, hidden_states):
    context, mask = torch.randn(6, 3, 12), torch.zeros(6, 1, 3)
    mask[..., 0] = -1e4
    expected = [attention(hidden_states, context), attention(hidden_states, context, mask)]
    as_cross_attention(attention)
    found = [attention(hidden_states, context), attention(hidden_states, context, mask)]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(*found)


def test_all_weights_have_gradients_in_training(attention, hidden_states):
    as_cross_attention(attention)(hidden_states, torch.randn(6, 1, 12)).sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


# Back ends


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("source", ["itself", "others", "masked"])
def test_dispatched_attention_computes_what_the_processor_does(attention, hidden_states, source, fused):
    """To the bit: the back end of torch is the kernel that the processor calls."""
    context = None if source == "itself" else torch.randn(6, 3, 12)
    mask = None if source != "masked" else torch.randn(6, 1, 3)
    if source == "itself":
        torch.manual_seed(0)
        attention = Attention(query_dim=16, heads=2, dim_head=8).eval()
    if fused:
        attention.fuse_projections()
        attention.set_processor(FusedAttnProcessor2_0())
    expected = attention(hidden_states, context, mask)
    attention.__class__ = DispatchedAttention
    assert torch.equal(attention(hidden_states, context, mask), expected)


@torch.no_grad()
def test_projections_that_are_fused_no_more_are_left(attention, hidden_states):
    """`unfuse_qkv_projections` of diffusers leaves their matrices behind."""
    attention.__class__ = DispatchedAttention
    context = torch.randn(6, 3, 12)
    expected = attention(hidden_states, context)
    attention.fuse_projections()
    attention.to_kv.weight.zero_()
    assert torch.equal(attention(hidden_states, context), expected)


@pytest.fixture
def used_backends(monkeypatch):
    """The back end of each call of attention, and the number of its queries."""
    calls = []

    def dispatch(query, *args, backend=None, **kwargs):
        calls.append((backend, query.shape[1]))
        return dispatch_attention_fn(query, *args, backend=backend, **kwargs)

    monkeypatch.setattr("hia_diffusers.models.attention.dispatch_attention_fn", dispatch)
    return calls


@pytest.fixture
def active_backend():
    """Setting the back end of a network makes it the active one of diffusers."""
    before = _AttentionBackendRegistry._active_backend
    yield
    _AttentionBackendRegistry.set_active_backend(before)


@torch.no_grad()
@pytest.mark.parametrize("with_reference", [False, True])
def test_a_back_end_reaches_every_attention(pipe, used_backends, active_backend, with_reference):
    frames, latents, states = torch.rand(2, 6, 64, 48), torch.randn(1, 4, 2, 8, 6), torch.randn(1, 3, 32)
    features = pipe.appearance_encoder(latents[:, :, 0], 0, states).reference_features
    calls = {
        "unet": lambda: pipe.unet(latents, 7, states, reference_features=features if with_reference else None),
        "appearance_encoder": lambda: pipe.appearance_encoder(latents[:, :, 0], 0, states),
        "controlnet": lambda: pipe.controlnet(latents[0].transpose(0, 1), 7, states.repeat(2, 1, 1), frames),
    }
    for name, call in calls.items():
        network = getattr(pipe, name)
        attentions = [module for module in network.modules() if isinstance(module, Attention)]
        network.set_attention_backend("_native_math")
        used_backends.clear()
        call()
        assert [backend for backend, _ in used_backends] == ["_native_math"] * len(attentions), name
        network.reset_attention_backend()
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)  # which diffusers leaves as it was
        used_backends.clear()
        call()
        assert {backend for backend, _ in used_backends} <= {None, "native"}, name


@torch.no_grad()
def test_networks_keep_their_back_ends_apart(pipe, used_backends, active_backend):
    pipe.appearance_encoder.set_attention_backend("_native_math")
    pipe.unet.set_attention_backend("native")
    pipe.appearance_encoder(torch.randn(1, 4, 8, 6), 0, torch.randn(1, 3, 32))
    assert {backend for backend, _ in used_backends} == {"_native_math"}


@pytest.mark.parametrize("how", ["set", "active"])
@pytest.mark.parametrize(("backend", "used"), [("xformers", "native"), ("_native_math", "_native_math")])
def test_attention_along_time_stays_off_xformers(how, backend, used, active_backend):
    """Its kernels do not take a sequence for each pixel of each clip."""
    attention = Attention(query_dim=16, heads=2, dim_head=8)
    attention.__class__ = MotionAttention
    if how == "set":
        attention.backend = AttentionBackendName(backend)
    else:
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName(backend))
    assert attention.used_backend == used


@torch.no_grad()
def test_processors_of_diffusers_come_and_go(pipe, animate, used_backends):
    """Slicing computes by itself; what follows it is dispatched again."""
    expected = animate(pipe)
    dispatched = len(used_backends)
    pipe.enable_attention_slicing(1)
    used_backends.clear()
    torch.testing.assert_close(animate(pipe), expected, rtol=0, atol=1e-3)
    assert len(used_backends) < dispatched
    pipe.disable_attention_slicing()
    used_backends.clear()
    assert torch.equal(animate(pipe), expected) and len(used_backends) == dispatched
