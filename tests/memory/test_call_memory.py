# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How many windows fit a memory budget, against real calls on the CPU."""

import pytest
import torch

from hia_diffusers.memory.call_memory import context_batch_size_within
from hia_diffusers.memory.counting import GPUOperators, LiveBytes


SIZE = {"height": 64, "width": 48, "context_frames": 4}


@pytest.mark.parametrize("options", [{"guidance_scale": 1.0}, {"guidance_scale": 2.0, "batch_guidance": True}])
def test_a_further_window_takes_what_real_tensors_take(pipe, animate, options):
    networks = (pipe.vae, pipe.image_encoder, pipe.unet, pipe.appearance_encoder, pipe.controlnet)
    known = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]

    def real_peak(num_windows):
        with LiveBytes(known) as memory, GPUOperators(None):
            animate(
                pipe,
                conditioning_frames=torch.zeros(16, 6, 64, 48),
                context_frames=4,
                context_overlap=0,
                context_shift=False,
                context_batch_size=num_windows,
                output_type="latent",
                num_inference_steps=1,
                **options,
            )
        return memory.peak

    budget = real_peak(4)
    further = budget - real_peak(3)
    fitting = context_batch_size_within(budget, pipe, **SIZE, **options)
    assert fitting >= 4  # as the budget does not pay for latents and embeddings of the clip
    assert context_batch_size_within(budget + 5 * further, pipe, **SIZE, **options) == fitting + 5


def test_counting_leaves_an_offloaded_pipeline_as_it_is(pipe):
    unhooked = context_batch_size_within(2**27, pipe, **SIZE)
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    timesteps = pipe.scheduler.timesteps.clone()
    assert context_batch_size_within(2**27, pipe, **SIZE) == unhooked > 1
    assert pipe.unet.device.type == "cpu"
    assert torch.equal(pipe.scheduler.timesteps, timesteps)


def test_two_clips_take_twice_the_memory(pipe):
    one, two = (context_batch_size_within(2**28, pipe, num_clips=number, **SIZE) for number in (1, 2))
    assert two in (one // 2, one // 2 + 1)


def test_a_budget_below_one_window_is_an_error(pipe):
    with pytest.raises(ValueError, match=r"`memory_budget` must be at least 0\.\d+ GiB, for one window, got 0\.001"):
        context_batch_size_within(2**20, pipe, **SIZE)
