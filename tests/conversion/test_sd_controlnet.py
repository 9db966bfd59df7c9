# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from diffusers import ControlNetModel
from published_weights import SMALL_SIZE, draw, draw_weights, original_unet_key, shapes_of, write_component
from rounding import assert_equal_up_to_rounding

from hia_diffusers import HIAControlNetModel
from hia_diffusers.conversion.sd_controlnet import convert_controlnet


WEIGHTS = draw_weights(shapes_of(ControlNetModel, **SMALL_SIZE), "controlnet")


@pytest.fixture(scope="module")
def plain():
    model = ControlNetModel(**SMALL_SIZE)
    model.load_state_dict(WEIGHTS)
    return model


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "openpose"
    plain.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def single_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "control_v11p_sd15_openpose.pth"
    torch.save({f"control_model.{original_unet_key(key)}": tensor for key, tensor in WEIGHTS.items()}, path)
    return path


@torch.no_grad()
def outputs(model, channels):
    condition = draw("conditioning", 2, 6, 64, 48, uniform=True)[:, :channels]
    inputs = (draw("latents", 2, 4, 8, 6), 7, draw("context", 2, 3, 32), condition)
    down, mid = model.eval()(*inputs, return_dict=False)
    return torch.cat([tensor.flatten() for tensor in (*down, mid)])


@pytest.fixture(scope="module")
def expected(plain):
    return outputs(plain, channels=3)


@pytest.mark.parametrize("layout", ["folder", "single_file"])
def test_widening_leaves_the_outputs_unchanged(layout, folder, request, expected, tmp_path):
    conversion = convert_controlnet(request.getfixturevalue(layout), config=folder)
    assert_equal_up_to_rounding(outputs(conversion.model, channels=6), expected)
    taken, new = conversion.report.rows
    assert len(taken.taken) == 340 and taken.left == () and taken.made == ()
    assert new.made == ("controlnet_cond_embedding.conv_in.weight[:, 3:]",)
    conversion.save_pretrained(tmp_path / "made")
    reloaded = HIAControlNetModel.from_pretrained(tmp_path / "made")
    assert_equal_up_to_rounding(outputs(reloaded, 6), outputs(conversion.model, 6))


def test_as_many_channels_as_before(folder, expected):
    conversion = convert_controlnet(folder, conditioning_channels=3)
    assert_equal_up_to_rounding(outputs(conversion.model, channels=3), expected)
    assert len(conversion.report.rows) == 1
    with pytest.raises(ValueError, match="`conditioning_channels` must be at least the 3 channels"):
        convert_controlnet(folder, conditioning_channels=2)


def test_keys_of_a_single_file_are_accounted_for(single_file, folder, tmp_path):
    weights = torch.load(single_file)

    def convert(changed, **options):
        torch.save(changed, tmp_path / "other.pth")
        return convert_controlnet(tmp_path / "other.pth", config=folder, **options)

    with pytest.raises(ValueError, match="keys that start with control_model., but has 1 others"):
        convert({**weights, "stray": torch.ones(1)})
    assert convert({**weights, "stray": torch.ones(1)}, allow=["stray"]).report.rows[0].left == ("stray",)
    with pytest.raises(ValueError, match="must contain the 340 tensors of the controlnet that `config` describes"):
        convert({key: tensor for key, tensor in weights.items() if key != "control_model.zero_convs.3.0.weight"})
    with pytest.raises(ValueError, match="keys that start with control_model."):
        convert({"a": torch.ones(1)})


def test_other_channel_orders_are_refused(tmp_path):
    config = {**SMALL_SIZE, "controlnet_conditioning_channel_order": "bgr"}
    write_component(tmp_path / "bgr", config, WEIGHTS)
    with pytest.raises(ValueError, match="`controlnet_conditioning_channel_order` must be 'rgb'"):
        convert_controlnet(tmp_path / "bgr")
