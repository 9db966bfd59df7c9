# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from published_weights import single_file_weights, stable_diffusion, write_stable_diffusion

from hia_diffusers.conversion.stable_diffusion import convert_stable_diffusion


NETWORKS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return stable_diffusion(tmp_path_factory.mktemp("vocabulary") / "vocabulary")


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "sd"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def single_file(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "v1-5-pruned-emaonly.safetensors"
    weights = {key: tensor.contiguous() for key, tensor in single_file_weights(pipeline).items()}
    safetensors.torch.save_file(weights, path)
    return path


def check_equal(converted, pipeline):
    for name in NETWORKS:
        expected = getattr(pipeline, name).state_dict()
        found = getattr(converted, name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_layout_of_diffusers(pipeline, folder, tmp_path):
    conversion = convert_stable_diffusion(folder)
    check_equal(conversion.model, pipeline)
    assert {row.component: len(row.taken) for row in conversion.report.rows} == {
        name: len(getattr(pipeline, name).state_dict()) for name in NETWORKS
    }
    conversion.save_pretrained(tmp_path / "converted")
    check_equal(StableDiffusionPipeline.from_pretrained(tmp_path / "converted"), pipeline)


def test_pickles_names_of_old_and_a_safety_checker(pipeline, tmp_path):
    """As Stable Diffusion 1.5 was first published."""
    folder = write_stable_diffusion(tmp_path / "sd")
    for name in ("unet", "vae"):
        weights = safetensors.torch.load_file(folder / name / "diffusion_pytorch_model.safetensors")
        (folder / name / "diffusion_pytorch_model.safetensors").unlink()
        weights = {key.replace(".to_q.", ".query.") if name == "vae" else key: value for key, value in weights.items()}
        torch.save(weights, folder / name / "diffusion_pytorch_model.bin")
    weights = pipeline.text_encoder.state_dict()
    weights = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in weights.items()}
    (folder / "text_encoder" / "model.safetensors").unlink()
    positions = {"text_model.embeddings.position_ids": torch.arange(5)[None]}
    torch.save({**weights, **positions}, folder / "text_encoder" / "pytorch_model.bin")
    (folder / "safety_checker").mkdir()
    conversion = convert_stable_diffusion(folder)
    check_equal(conversion.model, pipeline)
    assert conversion.report.left_over == (str(folder / "safety_checker"),)
    assert {row.component: row.left for row in conversion.report.rows}["text_encoder"] == (*positions,)


def test_single_file(pipeline, folder, single_file):
    conversion = convert_stable_diffusion(single_file, config=folder)
    check_equal(conversion.model, pipeline)
    rows = {row.component: row for row in conversion.report.rows}
    assert all(len(rows[name].taken) == len(getattr(pipeline, name).state_dict()) for name in NETWORKS)
    assert rows["text_encoder"].left == ("cond_stage_model.transformer.text_model.embeddings.position_ids",)
    assert set(rows["none"].left) == {"betas", "sqrt_alphas_cumprod", "posterior_mean_coef1"}


def test_single_file_in_half_precision(folder, single_file):
    model = convert_stable_diffusion(single_file, config=folder, dtype=torch.float16).model
    assert {getattr(model, name).dtype for name in NETWORKS} == {torch.float16}


def test_keys_of_a_single_file_are_accounted_for(pipeline, folder, tmp_path):
    weights = single_file_weights(pipeline)

    def convert(changed, **options):
        torch.save(changed, tmp_path / "model.ckpt")
        return convert_stable_diffusion(tmp_path / "model.ckpt", config=folder, **options)

    with pytest.raises(
        ValueError, match="1 of its keys belong to no component: control_model.zero; list keys that may be unused"
    ):
        convert({**weights, "control_model.zero": torch.ones(1)})
    assert convert({**weights, "control_model.zero": torch.ones(1)}, allow=["control_model.zero"])
    assert convert({**weights, "model_ema.decay": torch.ones(1)})
    with pytest.raises(ValueError, match="must contain the 686 tensors of the unet that `config` describes"):
        convert({**weights, "model.diffusion_model.lora": torch.ones(1)})
    for key in (
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.input_blocks.1.0.in_layers.0.bias",
    ):
        with pytest.raises(ValueError, match="must contain the 686 tensors of the unet"):
            convert({name: tensor for name, tensor in weights.items() if name != key})
    with pytest.raises(ValueError, match="no keys start with first_stage_model"):
        convert({key: tensor for key, tensor in weights.items() if not key.startswith("first_stage_model.")})


@pytest.mark.parametrize("lost", ["unet/config.json", "vae/config.json", "tokenizer/tokenizer_config.json"])
def test_a_folder_that_lacks_a_file_is_refused(pipeline, tmp_path, lost):
    pipeline.save_pretrained(tmp_path / "sd")
    for path in (tmp_path / "sd" / lost).parent.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"`weights`: there is no file .*{lost.split('/')[0]}"):
        convert_stable_diffusion(tmp_path / "sd")


def test_a_configuration_that_is_no_json_is_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "config.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(ValueError, match="`weights`: .*config.json is not JSON of a configuration"):
        convert_stable_diffusion(tmp_path / "sd")


def test_a_place_where_there_is_nothing_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`weights` must be a local folder, but there is none at"):
        convert_stable_diffusion(tmp_path / "none")


def test_a_configuration_that_is_not_there_is_refused_before_weights_are_read(single_file, tmp_path, monkeypatch):
    monkeypatch.setattr("hia_diffusers.conversion.stable_diffusion.read_state_dict", None)
    with pytest.raises(FileNotFoundError, match="`config` must be a local folder or a Hub id .* cannot be read"):
        convert_stable_diffusion(single_file, config=tmp_path)
