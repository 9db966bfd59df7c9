# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of replaced layers: each row is for layers that there are, and nothing else is touched."""

import re

import pytest
from diffusers import ControlNetModel, UNet2DConditionModel, UNetMotionModel
from torch import nn

from hia_diffusers.models import appearance_encoder, controlnet, unet_motion
from hia_diffusers.models.layers import replace_layers


UNET = (
    *unet_motion.LAYERS,
    *unet_motion.FRAME_NORM_LAYERS,
    *unet_motion.CLIP_NORM_LAYERS,
    *unet_motion.POSITION_LAYERS,
)
APPEARANCE_ENCODER = (*appearance_encoder.LAYERS, *appearance_encoder.POSITION_LAYERS)


@pytest.fixture
def unet():
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    )


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (lambda unet: UNetMotionModel.from_unet2d(unet), UNET),
        (lambda unet: unet, APPEARANCE_ENCODER),
        (lambda unet: ControlNetModel.from_unet(unet), controlnet.LAYERS),
    ],
    ids=["unet", "appearance-encoder", "controlnet"],
)
def test_each_row_is_for_layers_that_there_are(unet, make, table):
    network = make(unet)
    before = {name: type(layer) for name, layer in network.named_modules()}
    keys = list(network.state_dict())
    replace_layers(network, table)
    after = {name: type(layer) for name, layer in network.named_modules()}
    assert before.keys() == after.keys() and list(network.state_dict()) == keys
    for names, old_class, new_class in table:
        assert issubclass(new_class, old_class)
        of_row = [name for name in before if before[name] is old_class and re.fullmatch(names, name)]
        assert of_row and all(after[name] is new_class for name in of_row)
    rows = [(names, old_class) for names, old_class, _ in table]
    for name in before:
        in_table = any(before[name] is old_class and re.fullmatch(names, name) for names, old_class in rows)
        assert (after[name] is not before[name]) == in_table


def test_names_count_whole_and_classes_exactly():
    class Other(nn.Linear):
        pass

    class New(nn.Linear):
        pass

    network = nn.ModuleDict({"a": nn.Linear(1, 1), "ab": nn.Linear(1, 1), "b": Other(1, 1)})
    replace_layers(network, [("a|b", nn.Linear, New)])
    assert [type(layer) for layer in network.values()] == [New, nn.Linear, Other]
