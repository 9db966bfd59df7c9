# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The memory that the table of published checkpoints states, counted with networks of true size and no data."""

import functools

import pytest
import torch
from diffusers import AutoencoderKL
from published_weights import TRUE_SIZE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel, HIAPipeline, HIAPoseGuider, ShiftedSNRScheduler
from hia_diffusers.conversion import magic_animate, moore_animate_anyone
from hia_diffusers.conversion.published import PUBLISHED
from hia_diffusers.conversion.stable_diffusion import empty_motion_unet
from hia_diffusers.memory.fitting import count_call


def networks(unet, controlnet, **encoders):
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    appearance_encoder = HIAAppearanceEncoder.from_config(TRUE_SIZE)
    return {"unet": unet, "controlnet": controlnet, "vae": vae, "appearance_encoder": appearance_encoder, **encoders}


def moore(length=32):
    options = {"motion_max_seq_length": length, "use_motion_mid_block": True, **moore_animate_anyone.UNET_OPTIONS}
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=768,
    )
    return networks(
        empty_motion_unet(TRUE_SIZE, **options),
        HIAPoseGuider(conditioning_channels=3),
        image_encoder=CLIPVisionModelWithProjection(vision),
    )


def magic():
    options = {"motion_max_seq_length": 24, "use_motion_mid_block": False, **magic_animate.UNET_OPTIONS}
    return networks(
        empty_motion_unet(TRUE_SIZE, **options),
        HIAControlNetModel.from_config({**TRUE_SIZE, "conditioning_channels": 3}),
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build", "call_defaults", "size"),
    [
        ("moore-animate-anyone", moore, moore_animate_anyone.CALL_DEFAULTS, (784, 512)),
        ("musepose", functools.partial(moore, 128), moore_animate_anyone.MUSEPOSE_DEFAULTS, (768, 768)),
        ("magic-animate", magic, magic_animate.CALL_DEFAULTS, (512, 512)),
    ],
)
def test_the_stated_memory_is_what_is_counted(name, build, call_defaults, size):
    with torch.device("meta"):
        parts = {"image_encoder": None, **build()}
    parts = {part: network and network.half() for part, network in parts.items()}
    pipe = HIAPipeline(**parts, scheduler=ShiftedSNRScheduler(), call_defaults=call_defaults)
    num_frames = pipe.call_default("context_frames")
    counted = [count_call(pipe, *size, num_frames, mode).peak(1) / 2**30 for mode in ("none", "sequential")]
    assert PUBLISHED[name].memory == pytest.approx(counted, abs=0.1)
