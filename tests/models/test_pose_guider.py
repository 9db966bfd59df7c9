# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pose guider as a network of diffusers, and folders in which it is still a ControlNet."""

import json

import pytest
import torch
from diffusers import AutoModel
from torch import nn

from hia_diffusers import HIAControlNetModel, HIAModularPipeline, HIAPipeline, HIAPoseGuider


CHANNELS = (8, 8, 16, 16)


@pytest.fixture
def pose_guider():
    torch.manual_seed(0)
    network = HIAPoseGuider(6, CHANNELS, out_channels=16).eval()
    nn.init.normal_(network.controlnet_cond_embedding.conv_out.weight)
    return network


@pytest.fixture
def guided_pipe(pipe, pose_guider):
    return HIAPipeline(**{**pipe.components, "controlnet": pose_guider})


def make_old(folder):
    """A pipeline's folder as versions wrote it that had no class for pose guiders."""
    index = json.loads((folder / "model_index.json").read_text())
    index["controlnet"] = ["hia_diffusers", "HIAControlNetModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    config_file = folder / "controlnet" / "config.json"
    config = json.loads(config_file.read_text())
    old = {"_class_name": "HIAControlNetModel", "embedding_only": True, "in_channels": 4, "act_fn": "silu"}
    old |= {"block_out_channels": [config.pop("out_channels"), 32, 32, 32]}
    config_file.write_text(json.dumps(config | old))
    return folder


@torch.no_grad()
def test_each_layer_but_the_first_halves_the_frames_and_the_scale_is_a_factor(pose_guider, condition):
    features = pose_guider(condition).pose_features
    assert features.shape == (3, 16, 8, 6) and features.any()
    (half,) = pose_guider(condition, conditioning_scale=0.5, return_dict=False)
    assert torch.equal(half, features * 0.5)
    assert not HIAPoseGuider(6, CHANNELS, out_channels=16)(condition).pose_features.any()  # new ones add nothing


def test_a_saved_pipeline_names_its_class(guided_pipe, animate, tmp_path):
    frames = animate(guided_pipe)
    guided_pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["controlnet"] == ["hia_diffusers", "HIAPoseGuider"]
    config = json.loads((tmp_path / "controlnet" / "config.json").read_text())
    assert {name: value for name, value in config.items() if not name.startswith("_")} == {
        "conditioning_channels": 6,
        "conditioning_embedding_out_channels": list(CHANNELS),
        "out_channels": 16,
    }
    assert torch.equal(animate(HIAPipeline.from_pretrained(tmp_path)), frames)
    assert type(AutoModel.from_pretrained(str(tmp_path), subfolder="controlnet")) is HIAPoseGuider


def test_folders_without_its_class_still_load(guided_pipe, animate, tmp_path):
    frames = animate(guided_pipe)
    guided_pipe.save_pretrained(tmp_path)
    folder = make_old(tmp_path)
    pipeline = HIAPipeline.from_pretrained(folder)
    assert type(pipeline.controlnet) is HIAPoseGuider and torch.equal(animate(pipeline), frames)
    pipeline.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["controlnet"][1] == "HIAPoseGuider"

    for load in (HIAControlNetModel.from_pretrained, HIAPoseGuider.from_pretrained, AutoModel.from_pretrained):
        network = load(str(folder), subfolder="controlnet")
        assert type(network) is HIAPoseGuider and network.config.out_channels == 16
    modular = HIAModularPipeline.from_pretrained(folder)
    modular.load_components()
    assert type(modular.controlnet) is HIAPoseGuider


def test_missing_keys_of_such_a_folder_are_errors(guided_pipe, pose_guider, tmp_path):
    guided_pipe.save_pretrained(tmp_path)
    pose_guider.controlnet_cond_embedding.conv_out = nn.Identity()
    pose_guider.save_pretrained(tmp_path / "controlnet")
    with pytest.raises(ValueError, match=r"`controlnet` .* 2 missing keys: controlnet_cond_embedding.conv_out.bias"):
        HIAPipeline.from_pretrained(make_old(tmp_path))


def test_a_controlnet_of_such_a_version_loads_without_a_word(pipe, tmp_path, caplog):
    pipe.controlnet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"embedding_only": False}))
    controlnet = HIAControlNetModel.from_pretrained(tmp_path)
    assert type(controlnet) is HIAControlNetModel and "embedding_only" not in controlnet.config
    assert "embedding_only" not in caplog.text


@torch.no_grad()
def test_widening_leaves_the_output_unchanged(pose_guider, condition):
    wide = HIAPoseGuider.from_pose_guider(pose_guider, conditioning_channels=8)
    more = torch.cat([condition, condition[:, :2]], dim=1)
    torch.testing.assert_close(wide(more).pose_features, pose_guider(condition).pose_features)
    assert wide.config.conditioning_channels == 8 and pose_guider.config.conditioning_channels == 6
    with pytest.raises(ValueError, match="`conditioning_channels` must be at least the 6 channels of `pose_guider`"):
        HIAPoseGuider.from_pose_guider(pose_guider, conditioning_channels=3)
    with pytest.raises(TypeError, match="`pose_guider` must be an HIAPoseGuider, got Linear"):
        HIAPoseGuider.from_pose_guider(nn.Linear(1, 1))


def test_gradient_checkpointing_computes_it_again_and_gives_the_same_gradients(pose_guider, condition):
    calls, gradients = [], []
    pose_guider.controlnet_cond_embedding.conv_in.register_forward_hook(lambda *_: calls.append(1))
    for checkpoint in (False, True):
        pose_guider.zero_grad()
        if checkpoint:
            pose_guider.enable_gradient_checkpointing()
        pose_guider(condition).pose_features.square().mean().backward()
        gradients.append([parameter.grad for parameter in pose_guider.parameters()])
    assert len(calls) == 3
    torch.testing.assert_close(*gradients)


def test_it_may_be_compiled_in_its_pipeline(guided_pipe, animate):
    frames = animate(guided_pipe)
    guided_pipe.controlnet = torch.compile(guided_pipe.controlnet, backend="eager")
    torch.testing.assert_close(animate(guided_pipe), frames)
