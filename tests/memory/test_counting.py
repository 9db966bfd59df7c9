# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Counting bytes without data."""

import torch
from torch import nn

from hia_diffusers.memory.counting import GPUOperators, LiveBytes


def test_casting_is_that_of_autocast_without_cache():
    twice = nn.Linear(5, 5)
    half = nn.Linear(5, 5).requires_grad_(False).bfloat16()
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(2), nn.Linear(36, 5))
    layers.extend([twice, nn.SiLU(), twice, nn.SiLU(), half])
    layers[3].requires_grad_(False)
    image = torch.zeros(2, 3, 8, 8)

    def count(cast):
        layers.zero_grad()
        with LiveBytes([image, *layers.parameters()]) as memory:
            with cast:
                loss = layers(image).float().sum()
            kept = memory.live
            loss.backward()
        return kept, memory.peak

    own = count(GPUOperators(torch.bfloat16))
    assert own == count(torch.autocast("cpu", torch.bfloat16, cache_enabled=False))
    assert own != count(torch.autocast("cpu", torch.bfloat16))


def test_norms_stay_in_float32_under_mixed_precision():
    states = torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16)
    with GPUOperators(torch.bfloat16):
        assert nn.GroupNorm(2, 8)(states).dtype == torch.float32
        assert nn.functional.layer_norm(states, (4,)).dtype == torch.float32
    with GPUOperators(None):
        assert nn.GroupNorm(2, 8).bfloat16()(states).dtype == torch.bfloat16
