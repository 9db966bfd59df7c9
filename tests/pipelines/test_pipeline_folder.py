# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Folders that are damaged, hostile or do not fit together are refused before weights are read, in one sentence."""

import itertools
import json
import shutil
import sys

import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from random_tiny import random_tiny_pipeline

from hia_diffusers import HIAModularPipeline, HIAPipeline, HIAUNetMotionModel
from hia_diffusers.pipelines import pipeline_folder


WEIGHTS = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "image_encoder": "image_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
}


def in_turn(components, faults):
    """Each fault in one component and each component with a fault, for which they are as many."""
    return list(zip(itertools.cycle(components), faults))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "hia"
    random_tiny_pipeline(seed=0).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "hia")


@pytest.fixture
def no_weights(monkeypatch):
    """Fails where the loading of weights begins."""

    def reached(*args, **kwargs):
        raise AssertionError("weights are read")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", reached)


def edit_weights(path, edit):
    tensors = safetensors.torch.load_file(path)
    edit(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_networks_of_diffusers_are_checked_without_loading_them(folder, monkeypatch):
    """Where keys and shapes are those of the network; else their library is asked what is wrong, or renames keys."""
    load, loaded = pipeline_folder.load_without_mismatch, []

    def record(component_class, *args, **options):
        loaded.append(component_class.__name__)
        return load(component_class, *args, **options)

    monkeypatch.setattr(pipeline_folder, "load_without_mismatch", record)
    HIAPipeline.from_pretrained(folder)
    assert loaded == ["CLIPVisionModelWithProjection"]

    def rename(tensors):
        for key in [key for key in tensors if ".to_q." in key]:
            tensors[key.replace(".to_q.", ".query.")] = tensors.pop(key)

    edit_weights(folder / WEIGHTS["vae"], rename)
    HIAPipeline.from_pretrained(folder)
    assert loaded[1:] == ["AutoencoderKL", "CLIPVisionModelWithProjection"]


def refused(folder, match, errors=ValueError, **options):
    with pytest.raises(errors, match=match) as raised:
        HIAPipeline.from_pretrained(folder, **options)
    assert "\n" not in str(raised.value)


# Weights


@pytest.mark.parametrize(
    ("component", "option"),
    in_turn(WEIGHTS, [{"device_map": None}, {"quantization_config": None}, {"device_map": "cpu"}]),
)
def test_no_option_switches_the_look_at_keys_off(folder, no_weights, component, option):
    edit_weights(folder / WEIGHTS[component], lambda tensors: tensors.pop(sorted(tensors)[3]))
    refused(folder, "1 missing keys: ", **option)


@pytest.mark.parametrize(
    ("component", "dtype"), in_turn(WEIGHTS, [torch.int64, torch.uint8, torch.bool, torch.complex64])
)
def test_weights_are_floating_point_numbers(folder, no_weights, component, dtype):
    edit_weights(
        folder / WEIGHTS[component], lambda tensors: tensors.update({k: tensors[k].to(dtype) for k in [*tensors][:1]})
    )
    refused(folder, "must contain floating-point weights only, but .* is of another dtype")


def test_one_network_alone_is_looked_at_likewise(folder):
    for edit, match in (
        (
            lambda tensors: tensors.update({"conv_in.bias": tensors["conv_in.bias"].long()}),
            "floating-point weights only",
        ),
        (
            lambda tensors: tensors.update({"conv_in.bias": torch.full((16,), torch.nan)}),
            "not finite, in conv_in.bias",
        ),
    ):
        edit_weights(folder / WEIGHTS["unet"], edit)
        with pytest.raises(ValueError, match=match):
            HIAUNetMotionModel.from_pretrained(folder / "unet")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_other_floating_point_numbers_become_the_dtype_that_is_asked_for(folder, dtype):
    stored = {}
    for path in WEIGHTS.values():
        edit_weights(folder / path, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
        stored[path.split("/")[0]] = safetensors.torch.load_file(folder / path)
    pipe = HIAPipeline.from_pretrained(folder)
    for name, tensors in stored.items():
        weights = pipe.components[name].state_dict()
        assert all(
            weights[key].dtype is torch.float32 and torch.equal(weights[key], t.float()) for key, t in tensors.items()
        )


@pytest.mark.parametrize(
    ("component", "value"), in_turn(["vae", "image_encoder", "controlnet"], [torch.nan, torch.inf, -torch.inf])
)
def test_weights_are_finite(folder, component, value):
    path = WEIGHTS.get(component, f"{component}/diffusion_pytorch_model.safetensors")
    edit_weights(
        folder / path, lambda tensors: next(t for t in tensors.values() if t.ndim == 4).view(-1)[7].fill_(value)
    )
    refused(folder, "has weights that are not finite, in ")


@pytest.mark.parametrize("component", WEIGHTS)
def test_a_file_that_was_cut_off_is_named(folder, no_weights, component):
    path = folder / WEIGHTS[component]
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, f"{path} is damaged or truncated")
    path.write_bytes(b"")
    refused(folder, f"{path} is damaged or truncated")


@pytest.mark.parametrize(
    ("component", "name"),
    in_turn(WEIGHTS, ["../stolen.safetensors", "/stolen.safetensors", "..\\stolen.safetensors", "a/b.safetensors"]),
)
def test_shards_lie_in_their_folder(folder, no_weights, component, name):
    path = folder / WEIGHTS[component]
    keys = safetensors.torch.load_file(path)
    path.unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, name)}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))
    refused(folder, "must name files of its own folder only, got ")


@pytest.mark.parametrize(
    ("component", "content"),
    in_turn(WEIGHTS, [None, [], {}, {"weight_map": None}, {"weight_map": {"conv_in.bias": 5}}]),
)
def test_an_index_of_shards_of_another_form_is_named(folder, no_weights, component, content):
    path = folder / WEIGHTS[component]
    index = path.with_name(f"{path.name}.index.json")
    path.unlink()
    index.write_text(json.dumps(content))
    refused(folder, f"{index} must (contain a JSON object|have a `weight_map`)")


@pytest.mark.parametrize("component", WEIGHTS)
def test_a_folder_of_another_variant_says_so(folder, no_weights, component):
    path = folder / WEIGHTS[component]
    path.rename(path.with_suffix(".fp16.safetensors"))
    refused(folder, f"{component} contains weights of the variant fp16: give `variant`", FileNotFoundError)


def test_a_shard_that_is_missing_is_named(folder, no_weights):
    path = folder / WEIGHTS["unet"]
    index = {"metadata": {}, "weight_map": {"conv_in.bias": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))
    refused(
        folder, "00001-of-00002.safetensors, which does not exist: the checkpoint is incomplete", FileNotFoundError
    )


def test_transformers_is_not_led_to_other_weights(folder, no_weights):
    edit_json(folder / "image_encoder" / "config.json", transformers_weights="../stolen.safetensors")
    refused(folder, "must not name its weights by `transformers_weights`")
    edit_json(folder / "image_encoder" / "config.json")
    (folder / "image_encoder" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/stolen"}))
    refused(folder, "`transformers_weights`|adapter_config.json makes it an adapter of another")


# Configurations


@pytest.mark.parametrize(
    ("name", "content"),
    in_turn(
        ["model_index.json", "unet/config.json", "image_encoder/config.json", "scheduler/scheduler_config.json"],
        ["[]", "null", "5", '"text"', "{", "[" * 100_000, "\x00"],
    ),
)
def test_a_configuration_of_another_form_is_named(folder, no_weights, name, content):
    (folder / name).write_text(content)
    refused(folder, f"{folder / name} (must contain a JSON object|is not a JSON file)")


@pytest.mark.parametrize(
    "entry",
    [
        *([], 5, "text", {"a": 1}, ["diffusers"], [None, "AutoencoderKL"], ["diffusers", 5], [["diffusers"], "x"]),
        *(["diffusers", "nosuch"], ["diffusers", "UNet2DConditionModel"], ["transformers", "AutoModel"]),
        *(["builtins", "eval"], ["os", "system"], ["stable_diffusion", "StableDiffusionSafetyChecker"]),
    ],
)
def test_an_index_names_a_class_that_fits(folder, no_weights, entry):
    edit_json(folder / "model_index.json", vae=entry)
    if entry == []:
        return refused(folder, "model_index.json .*must name a class as its `vae`, got none")
    refused(folder, "model_index.json must name .*`vae`")


@pytest.mark.parametrize("load", [HIAPipeline.from_pretrained, DiffusionPipeline.from_pretrained])
def test_an_index_imports_nothing(folder, load, tmp_path, monkeypatch):
    (tmp_path / "hostile_library.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    edit_json(folder / "model_index.json", vae=["hostile_library", "AutoencoderKL"])
    options = {"custom_pipeline": "pipeline", "trust_remote_code": True} if load != HIAPipeline.from_pretrained else {}
    with pytest.raises(ValueError, match="importing it would run its code"):
        load(folder, **options)
    with pytest.raises(ValueError, match="importing it would run its code"):
        HIAPipeline.extract_init_dict(json.loads((folder / "model_index.json").read_text()))
    assert "hostile_library" not in sys.modules


def test_an_index_of_a_modular_pipeline_imports_nothing_either(folder, tmp_path, monkeypatch):
    (tmp_path / "hostile_library.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    hostile = ["hostile_library", "AutoencoderKL"]
    edit_json(folder / "model_index.json", vae=hostile)
    with pytest.raises(ValueError, match="^model_index.json .*importing it would run its code"):
        HIAModularPipeline.from_pretrained(folder)
    for entry in (hostile + [{"type_hint": hostile}], [None, None, {"type_hint": hostile}]):
        (folder / "modular_model_index.json").write_text(json.dumps({"vae": entry}))
        with pytest.raises(ValueError, match="^modular_model_index.json .*importing it would run its code"):
            HIAModularPipeline.from_pretrained(folder)
    (folder / "modular_model_index.json").write_text(json.dumps({"vae": [None, None, {}]}))
    with pytest.raises(ValueError, match="modular_model_index.json must name .* as the `type_hint`"):
        HIAModularPipeline.from_pretrained(folder)
    assert "hostile_library" not in sys.modules


def test_a_component_whose_folder_is_gone_is_named(folder, no_weights):
    shutil.rmtree(folder / "vae")
    refused(folder, f"there is no folder {folder / 'vae'}, where the `vae` must be", FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("vae/config.json", {"latent_channels": 8}, "cannot be used|8 latent channels"),
        ("image_encoder/config.json", {"projection_dim": "many"}, "the `image_encoder` in .* cannot be used"),
        ("unet/config.json", {"block_out_channels": 5}, "the `unet` in .* cannot be used"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "`prediction_type` must be one of"),
        (
            "feature_extractor/preprocessor_config.json",
            {"crop_size": {"height": 8, "width": 8}},
            "its `image_size`, 32",
        ),
        ("model_index.json", {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "`scheduler`"),
        ("model_index.json", {"reference_timestep": "sometimes"}, "`reference_timestep` must be"),
    ],
)
def test_what_does_not_fit_together_is_refused(folder, name, options, match):
    edit_json(folder / name, **options)
    refused(folder, match)


def test_a_component_that_is_given_must_fit_what_is_loaded(folder, no_weights, pristine_pipe):
    with torch.device("meta"):
        vae = type(pristine_pipe.vae).from_config(pristine_pipe.vae.config, latent_channels=8)
    refused(folder, "`unet` takes 4 channels but `vae` has 8 latent channels", vae=vae)
