# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import torch
from forked_python import run
from PIL import Image

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.procedural.scene import ProceduralScene


SCRIPT = Path(__file__).parents[2] / "examples" / "widen_networks.py"


def widened(network, channels):
    """A network of random weights that has more channels."""
    groups = network.config.norm_num_groups * channels // network.config.block_out_channels[0]
    options = {"block_out_channels": [channels] * len(network.config.block_out_channels), "norm_num_groups": groups}
    return type(network).from_config({**network.config, **options})


def save_random(folder, channels):
    torch.manual_seed(0)
    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    networks = {name: widened(getattr(pipe, name), channels) for name in ("unet", "appearance_encoder", "controlnet")}
    pipe.register_modules(**networks)
    pipe.save_pretrained(folder)


def frames_of_one_step(folder):
    pipe = HIAPipeline.from_pretrained(folder, dtype=torch.float32)
    for name, parameter in pipe.unet.named_parameters():
        if "motion_modules" in name and ".proj_out." in name:
            parameter.detach().zero_()
    clip = ProceduralScene("test", identity=0, motion=0, setting=0).render([0, 30, 60], 160, 96)
    condition = MotionBlurConditioner.for_size(160, 96)(clip.keypoints[1:], clip.frames[1:])
    generator = torch.Generator().manual_seed(0)
    return pipe(
        Image.fromarray(clip.frames[0]),
        condition,
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=generator,
        output_type="np",
    ).frames


def test_wide_networks_predict_almost_the_same(tmp_path):
    channels = HIAPipeline.from_pretrained(HIA_TINY).unet.config.block_out_channels[0]
    save_random(tmp_path / "random", channels + 16)
    result = run(SCRIPT, "--model", HIA_TINY, "--wide", tmp_path / "random", "--output", tmp_path / "wide")
    assert result.returncode == 0, result.stderr
    expected = frames_of_one_step(HIA_TINY)
    errors = [np.square(frames_of_one_step(tmp_path / name) - expected).mean() for name in ("random", "wide")]
    assert errors[1] < 0.001 < 0.02 < errors[0]


def test_networks_that_are_not_wider_are_named(tmp_path):
    result = run(SCRIPT, "--model", HIA_TINY, "--wide", HIA_TINY, "--output", tmp_path / "wide")
    assert result.returncode == 2 and "`--wide`: its HIAUNetMotionModel must have" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "wide").exists()
