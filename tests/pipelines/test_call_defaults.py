# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a call takes for arguments that are left out."""

import numpy as np
import pytest
import torch
from random_tiny import random_tiny_pipeline

from hia_diffusers import HIAModularPipeline, HIAPipeline
from hia_diffusers.pipelines.call_defaults import CALL_DEFAULTS


WANTED = {"num_inference_steps": 2, "guidance_scale": 2.0, "shared_noise": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    pipe = random_tiny_pipeline(seed=0)
    pipe.register_to_config(call_defaults=WANTED)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = HIAPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    frames = torch.rand(3, 6, 32, 32, generator=torch.Generator().manual_seed(1))
    return {"image": image, "conditioning_frames": frames, "generator": generator, "output_type": "latent"}


def test_they_are_saved_and_used_where_the_caller_gives_nothing(pipe):
    assert pipe.config.call_defaults == WANTED
    left_out, given = pipe(**inputs()).frames, pipe(**inputs(), **WANTED).frames
    assert torch.equal(left_out, given)
    for name, value in {"num_inference_steps": 3, "guidance_scale": 3.0, "shared_noise": 0.0}.items():
        assert not torch.equal(pipe(**inputs(), **{name: value}).frames, left_out), name
    assert pipe.call_default("num_inference_steps") == 2 and pipe.call_default("context_frames") == 16


def test_they_count_for_streams_and_blocks(pipe, folder):
    options = inputs() | {"output_type": "pt"}
    expected = pipe(**options).frames[0]
    streamed = torch.stack(list(pipe.stream(**inputs() | {"output_type": "pt"})))
    assert torch.equal(streamed, expected)
    blocks = HIAModularPipeline.from_pretrained(folder)
    blocks.load_components(dtype=torch.float32)
    assert torch.equal(blocks(**inputs() | {"output_type": "pt"}, output="frames")[0], expected)


def test_given_latents_are_the_noise(pipe):
    latents = torch.randn(1, pipe.unet.config.in_channels, 3, *pipe(**inputs()).frames.shape[-2:])
    assert torch.equal(
        pipe(**inputs(), latents=latents).frames, pipe(**inputs(), latents=latents, shared_noise=0).frames
    )


def test_only_arguments_that_weights_can_want_are_defaults(pipe):
    with pytest.raises(
        ValueError, match="`call_defaults` must name arguments of num_inference_steps, .*, got 'steps'"
    ):
        HIAPipeline(**pipe.components, call_defaults={"steps": 2})
    with pytest.raises(TypeError, match="`call_defaults` must be a"):
        HIAPipeline(**pipe.components, call_defaults=[2])
    wrong = HIAPipeline(**pipe.components, call_defaults={"guidance_scale": "much"})
    with pytest.raises(TypeError, match="`guidance_scale` must be"):
        wrong(**inputs())
    assert HIAPipeline(**pipe.components).config.call_defaults == {}
    assert set(WANTED) <= set(CALL_DEFAULTS)
