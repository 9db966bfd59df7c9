# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The yardsticks of `benchmarks/inference.py` make the clips that this package makes."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def inference(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inference

    monkeypatch.setitem(inference.WIDTHS, "middle", ((32, 32, 64, 64), (32,) * 4, 32))
    monkeypatch.setattr(inference, "CLIPVisionConfig", small_image_encoder)
    yield inference
    for name in ("inference", "peers", "flops", "training_memory"):
        sys.modules.pop(name, None)


def small_image_encoder(projection_dim):
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPVisionConfig(projection_dim=projection_dim, **sizes)


@pytest.mark.parametrize(
    ("function", "networks"),
    [("hia", "hia-tiny"), ("hia", "middle"), ("magic-animate", "middle"), ("moore-animate-anyone", "middle")],
)
def test_the_peers_ways(inference, function, networks):
    args = argparse.Namespace(
        networks=networks,
        function=function,
        size="64x64",
        num_frames=3,
        num_inference_steps=2,
        guidance_scale=2.0,
        dtype="float64",  # in float32 these random networks amplify rounding to 0.09
        device="cpu",
        ways=["hia", "magic-animate", "moore-animate-anyone"],
    )
    frames = {way: call() for way, call in inference.ways(inference.make_pipeline(args, function), args).items()}
    own = frames.pop("hia")
    assert frames.keys() == ({function} if function != "hia" else {"magic-animate", "moore-animate-anyone"})
    assert own.shape == (1, 3, 3, 64, 64) and own.std() > 0.01
    for way in frames.values():
        torch.testing.assert_close(way, own, rtol=0, atol=1e-6)
