# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Quantised weights, by the configurations of diffusers; alone, offloaded and saved."""

import pytest
import torch
from diffusers import PipelineQuantizationConfig, TorchAoConfig
from rounding import assert_equal_up_to_rounding
from small_networks import NETWORKS, write_pipeline

from hia_diffusers import HIAPipeline


QUANTISED = ("unet", "controlnet", "appearance_encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("pipeline"), NETWORKS)


@pytest.fixture
def load_int8(folder):
    quantization = pytest.importorskip("torchao.quantization")

    def load():
        mapping = {name: TorchAoConfig(quantization.Int8WeightOnlyConfig()) for name in QUANTISED}
        config = PipelineQuantizationConfig(quant_mapping=mapping)
        return HIAPipeline.from_pretrained(folder, dtype=torch.float32, quantization_config=config)

    return load


def frames_of(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image, condition = torch.rand(3, 16, 16, generator=generator), torch.rand(4, 6, 16, 16, generator=generator)
    return pipe(image, condition, num_inference_steps=2, generator=generator, output_type="pt").frames


def linear_weights(network):
    return [module.weight for module in network.modules() if isinstance(module, torch.nn.Linear)]


def test_int8_weights(folder, load_int8):
    plain, quantised = HIAPipeline.from_pretrained(folder), load_int8()

    for name in QUANTISED:
        assert all(weight.qdata.dtype == torch.int8 for weight in linear_weights(getattr(quantised, name)))
    frames, near = frames_of(plain), frames_of(quantised)
    assert not torch.equal(frames, near)
    torch.testing.assert_close(near, frames, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "offload",
    [
        lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
        lambda pipe: pipe.enable_group_offload(
            onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
        ),
    ],
    ids=["model-offload", "group-offload"],
)
def test_int8_weights_are_offloaded(load_int8, offload):
    resident, offloaded = load_int8(), load_int8()
    offload(offloaded)
    assert_equal_up_to_rounding(frames_of(offloaded), frames_of(resident))


def test_int8_weights_are_saved(load_int8, tmp_path):
    pipe = load_int8()
    pipe.save_pretrained(tmp_path)
    loaded = HIAPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    assert_equal_up_to_rounding(frames_of(loaded), frames_of(pipe))
