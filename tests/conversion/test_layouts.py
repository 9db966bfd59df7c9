# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The published files at their true size, on the meta device: every key has its place, in the shape that it has."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, MotionAdapter, UNetMotionModel
from published_weights import (
    TRUE_SIZE,
    empty_weights,
    magic_animate_shapes,
    moore_shapes,
    motion_shapes,
    shapes_of,
    split,
)

from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel, HIAPoseGuider
from hia_diffusers.conversion import animatediff, magic_animate, moore_animate_anyone
from hia_diffusers.conversion.key_tables import fill
from hia_diffusers.conversion.stable_diffusion import empty_motion_unet
from hia_diffusers.state_dicts import StateDict


def fill_all(component, model, *weights_and_tables):
    """Where everything must be taken; returns how many keys of each source were."""
    sources = [(StateDict("weights", Path("file"), weights), table) for weights, table in weights_and_tables]
    rows = fill(component, model, sources)
    assert all(row.left == row.made == () for row in rows)
    return [len(row.taken) for row in rows]


def shapes(model):
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def millions(weights):
    """Of numbers."""
    return sum(tensor.numel() for tensor in weights.values()) / 1e6


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"):
        yield


def test_magic_animate():
    weights = {name: empty_weights(part) for name, part in magic_animate_shapes(TRUE_SIZE).items()}
    spatial, motion = split(weights["unet"])
    tables = magic_animate.TABLES
    unet = empty_motion_unet(
        TRUE_SIZE, motion_max_seq_length=24, use_motion_mid_block=False, **magic_animate.UNET_OPTIONS
    )
    taken = fill_all("unet", unet, (spatial, tables["spatial"]), (motion, tables["temporal_attention"]))
    assert taken == [686, 560] and millions(motion) == pytest.approx(417.98, abs=0.01)
    options = {"cross_attention_dim": 768, "num_attention_heads": 8, "use_motion_mid_block": False}
    assert shapes(unet) == shapes_of(UNetMotionModel, motion_max_seq_length=24, **options)

    encoder = HIAAppearanceEncoder.from_config(TRUE_SIZE)
    taken = fill_all("appearance_encoder", encoder, (weights["appearance_encoder"], tables["appearance_encoder"]))
    assert taken == [662] and millions(weights["appearance_encoder"]) == pytest.approx(857.07, abs=0.01)
    controlnet = HIAControlNetModel.from_config({**TRUE_SIZE, "conditioning_channels": 3})
    assert fill_all("controlnet", controlnet, (weights["controlnet"], tables["controlnet"])) == [340]
    assert shapes(controlnet) == shapes_of(ControlNetModel, **TRUE_SIZE)


def test_moore_animate_anyone():
    weights = {name: empty_weights(part) for name, part in moore_shapes(TRUE_SIZE).items()}
    spatial, motion = split(weights["unet"])
    tables = moore_animate_anyone.TABLES
    unet = empty_motion_unet(
        TRUE_SIZE, motion_max_seq_length=32, use_motion_mid_block=True, **moore_animate_anyone.UNET_OPTIONS
    )
    taken = fill_all("unet", unet, (motion, tables["motion_module"]), (spatial, tables["denoising_unet"]))
    assert taken == [588, 686]
    assert (millions(motion), millions(spatial)) == pytest.approx((454.42, 859.52), abs=0.01)

    encoder = HIAAppearanceEncoder.from_config(TRUE_SIZE)
    source = StateDict("weights", Path("reference_unet.pth"), weights["appearance_encoder"])
    (row,) = fill("appearance_encoder", encoder, [(source, tables["reference_unet"])])
    assert len(row.taken) == 662 and len(row.left) == 20 and not row.made

    pose_guider = HIAPoseGuider(conditioning_channels=3)
    assert fill_all("controlnet", pose_guider, (weights["pose_guider"], tables["pose_guider"])) == [16]
    assert millions(weights["pose_guider"]) == pytest.approx(1.09, abs=0.01)


@pytest.mark.parametrize(
    ("version", "length", "mid_block", "expected"), [(1, 24, False, 560), (2, 32, True, 588), (3, 32, False, 560)]
)
def test_motion_adapters_of_animatediff(version, length, mid_block, expected):
    weights = empty_weights(motion_shapes(TRUE_SIZE, length, mid_block))
    adapter = MotionAdapter(motion_max_seq_length=length, use_motion_mid_block=mid_block)
    assert fill_all("motion_adapter", adapter, (weights, animatediff.MOTION_TABLE)) == [expected]
