# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a call is counted to need, and what is chosen for a device, against real calls on the CPU."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from hia_diffusers.memory.counting import GPUOperators, LiveBytes, num_bytes
from hia_diffusers.memory.fitting import MODES, apply_plan, count_call, plan_memory


SIZE = {"height": 64, "width": 48}
GPU = torch.device("cuda")  # plans need none
NETWORKS = ("vae", "image_encoder", "unet", "appearance_encoder", "controlnet")


def plan(pipe, available, num_frames=6, mode="auto", device=GPU):
    return plan_memory(pipe, 64, 48, num_frames, device, available, mode)


@pytest.fixture(scope="module")
def needs(pristine_pipe):
    """What each mode needs when frames are decoded one by one."""
    return {mode: count_call(pristine_pipe, **SIZE, num_frames=6, mode=mode).peak(1) for mode in MODES}


def test_what_is_counted_is_what_a_real_call_takes(pipe, animate):
    frames = torch.zeros(6, 6, 64, 48)
    networks = [getattr(pipe, name) for name in NETWORKS]
    known = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    with LiveBytes(known) as memory, GPUOperators(None):
        animate(pipe, conditioning_frames=frames, decode_chunk_size=1, output_type="latent")
    counted = count_call(pipe, **SIZE, num_frames=6)
    computing = counted.peak(1) - sum(map(num_bytes, networks))
    # The CPU has the whole clip as well, of which another device has a window.
    assert memory.peak == pytest.approx(computing + frames.nbytes, rel=0.1)


def test_smaller_parts_need_less(needs):
    assert needs["none"] > needs["model"] > needs["group"] > needs["sequential"]


def test_the_first_mode_that_fits_is_chosen(pipe, needs):
    for mode in MODES:
        chosen = plan(pipe, needs[mode])
        assert chosen.fits and (chosen.mode, chosen.needed) == (mode, needs[mode])


def test_what_needs_least_is_chosen_where_nothing_fits(pipe, needs, caplog):
    chosen = plan(pipe, needs["sequential"] - 1)
    assert (chosen.mode, chosen.fits) == ("sequential", False)
    with caplog.at_level(logging.INFO, "hia_diffusers.memory.fitting"):
        apply_plan(replace(chosen, mode="none", device=torch.device("cpu")), pipe)
    assert caplog.records[-1].levelname == "WARNING" and "may run out" in caplog.text


def test_windows_are_denoised_together_where_there_is_room(pipe):
    pipe.register_to_config(call_defaults={"context_frames": 4, "context_overlap": 1})
    need = count_call(pipe, **SIZE, num_frames=40)
    room = need.latents + need.weights["unet"] + need.computing["unet"] + 5 * need.further_window
    assert plan(pipe, room, num_frames=40).context_batch_size == 6
    assert need.num_windows == 14
    assert plan(pipe, 2**40, num_frames=40, device=torch.device("cpu")).context_batch_size == 1


@pytest.mark.parametrize("mode", ["none", "model", "group"])
def test_an_offloaded_pipeline_makes_the_same_frames(pipe, animate, mode):
    expected = animate(pipe)
    chosen = plan(pipe, 2**40, mode=mode)
    apply_plan(replace(chosen, device=torch.device("cpu")), pipe)
    assert torch.equal(animate(pipe), expected)  # the same operations


def test_fit_memory_sets_what_a_call_decodes_at_a_time(pipe, animate, monkeypatch):
    chunks = []
    decode = type(pipe.vae).decode
    monkeypatch.setattr(type(pipe.vae), "decode", lambda vae, z, *args: chunks.append(len(z)) or decode(vae, z, *args))
    frames = torch.zeros(3, 6, 64, 48)
    need = count_call(pipe, **SIZE, num_frames=3)
    chosen = pipe.fit_memory(int(need.peak(2) / 0.9) + 2, **SIZE, num_frames=3, device="cpu")
    assert (chosen.mode, chosen.decode_chunk_size) == ("none", 2)
    chunks.clear()
    animate(pipe, conditioning_frames=frames, output_type="np")
    assert chunks == [2, 1]
    chunks.clear()
    list(pipe.stream(np.zeros((64, 48, 3), np.uint8), frames, num_inference_steps=1))
    assert chunks == [2, 1]
    chunks.clear()
    animate(pipe, conditioning_frames=frames, output_type="np", decode_chunk_size=3)
    assert chunks == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_memory": 0}, "`max_memory` must be"),
        ({"max_memory": "much"}, "`size` .* not in a valid format|`max_memory`"),
        ({"mode": "model"}, '`mode` must be "auto" or "none" on the CPU'),
        ({"mode": "disk"}, "`mode` must be one of"),
        ({"height": 63}, "`height` must be"),
        ({"num_frames": 0}, "`num_frames` must be"),
    ],
)
def test_bad_arguments_are_named(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.fit_memory(**{**SIZE, "device": "cpu", **arguments})
