# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from hia_diffusers.models.context_attention import ContextAttention


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


def as_context_attention(attention):
    attention.__class__ = ContextAttention
    return attention


@torch.no_grad()
def test_one_token_gives_all_what_the_kernel_would(attention, hidden_states, monkeypatch):
    context = torch.randn(6, 1, 12)
    expected = attention(hidden_states, context)
    monkeypatch.setattr(AttnProcessor2_0, "__call__", None)  # not run at all
    found = as_context_attention(attention)(hidden_states, context)
    assert found.shape == (6, 1, 16)
    torch.testing.assert_close(found.expand_as(expected), expected)


@torch.no_grad()
@pytest.mark.parametrize("processor", [ScaledProcessor(3.0), OtherProcessor()])
def test_processors_that_do_more_are_run(attention, hidden_states, processor):
    attention.set_processor(processor)
    context = torch.randn(6, 1, 12)
    expected = attention(hidden_states, context)
    torch.testing.assert_close(as_context_attention(attention)(hidden_states, context), expected)


@torch.no_grad()
def test_more_tokens_and_masks_are_attended_to(attention, hidden_states):
    context, mask = torch.randn(6, 3, 12), torch.zeros(6, 1, 3)
    mask[..., 0] = -1e4
    expected = [attention(hidden_states, context), attention(hidden_states, context, mask)]
    as_context_attention(attention)
    found = [attention(hidden_states, context), attention(hidden_states, context, mask)]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(*found)


def test_all_weights_have_gradients_in_training(attention, hidden_states):
    as_context_attention(attention)(hidden_states, torch.randn(6, 1, 12)).sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())
