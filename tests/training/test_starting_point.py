# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json
import shutil

import pytest
import torch
from published_weights import write_stable_diffusion
from small_networks import NETWORKS, write_pipeline

from hia_diffusers import HIAControlNetModel, HIAPipeline
from hia_diffusers.training.starting_point import load_starting_point


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("start"), NETWORKS)


def test_all_is_float32_on_the_cpu_in_evaluation_mode(folder, tmp_path):
    HIAPipeline.from_pretrained(folder, dtype=torch.float16).save_pretrained(tmp_path)
    pipeline = load_starting_point(tmp_path)
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert len(networks) == 5
    for network in networks:
        kinds = {(value.dtype, value.device.type, value.requires_grad) for value in network.parameters()}
        assert kinds == {(torch.float32, "cpu", True)} and not network.training


def test_a_controlnet_of_three_channels_is_widened(folder, tmp_path):
    pipeline = HIAPipeline.from_pretrained(folder)
    options = {**pipeline.controlnet.config, "conditioning_channels": 3}
    pipeline.controlnet = HIAControlNetModel.from_config(options)
    pipeline.save_pretrained(tmp_path)
    weights = load_starting_point(tmp_path).controlnet.controlnet_cond_embedding.conv_in.weight
    assert torch.equal(weights[:, :3], pipeline.controlnet.controlnet_cond_embedding.conv_in.weight)
    assert weights.shape[1] == 6 and not weights[:, 3:].any()


def test_what_training_does_not_start_from_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^`pretrained_model_name_or_path`: {tmp_path} cannot be read: "):
        load_starting_point(tmp_path)
    write_stable_diffusion(tmp_path / "sd")
    with pytest.raises(ValueError, match="must be an HIAPipeline, got StableDiffusionPipeline; `hia-"):
        load_starting_point(tmp_path / "sd")
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]}))
    with pytest.raises(ValueError, match="must have a ShiftedSNRScheduler, got DDIMScheduler"):
        load_starting_point(tmp_path / "other")
    shutil.copytree(folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"^`pretrained_model_name_or_path`: {tmp_path / 'broken'} cannot be read: "):
        load_starting_point(tmp_path / "broken")
