# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The modular blocks against the pipeline whose stages they are, in Python and from the command line of diffusers."""

import inspect
import json
import shutil
import weakref
from pathlib import Path

import forked_python
import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, ModularPipeline, ModularPipelineBlocks, SequentialPipelineBlocks
from diffusers.guiders import ClassifierFreeGuidance
from modular_tiny import modular_of, random_keypoints
from published_adapters import write_ip_adapter

from hia_diffusers import (
    HIA_TINY,
    HIAAnimator,
    HIABlocks,
    HIAModularPipeline,
    HIAPipeline,
    MotionBlurConditioner,
)
from hia_diffusers.animation.driving import Driving
from hia_diffusers.models.deep_cache import DeepCacheConfig
from hia_diffusers.pipelines.call_defaults import CALL_DEFAULTS
from hia_diffusers.pipelines.modular.decoders import HIADecodeStep


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def inputs(image, condition):
    return {"image": image, "conditioning_frames": condition, "num_inference_steps": 2, "output_type": "pt"}


# Bit for bit: blocks and pipeline run the same functions on the same inputs.


# The same frames


@pytest.mark.parametrize(
    "configs, changes",
    [
        ({}, {}),
        ({"reference_timestep": "current", "unconditional_controlnet": True}, {"reference_noise": False, "eta": 0.5}),
        ({}, {"context_frames": 2, "context_overlap": 1, "batch_guidance": True}),
        ({}, {"num_videos_per_prompt": 2, "height": 72, "width": 40, "output_type": "latent"}),
    ],
)
def test_blocks_give_the_frames_of_the_pipeline_bit_for_bit(pipe, inputs, configs, changes):
    pipe.register_to_config(**configs)
    arguments = inputs | changes
    expected = pipe(**arguments, generator=seeded()).frames
    assert torch.equal(modular_of(pipe)(**arguments, generator=seeded(), output="frames"), expected)


def test_the_guider_is_a_component(pipe, inputs):
    modular = modular_of(pipe)
    assert modular.guider.guidance_scale is None
    assert not any("guider" in name for name in modular.pretrained_component_names)
    modular.update_components(guider=ClassifierFreeGuidance(2.0, stop=0.5))
    frames = modular(**inputs, generator=seeded(), output="frames")
    assert torch.equal(frames, pipe(**inputs, guider=ClassifierFreeGuidance(2.0, stop=0.5), generator=seeded()).frames)
    frames = modular(**inputs, guidance_scale=3.0, generator=seeded(), output="frames")
    assert torch.equal(frames, pipe(**inputs, guider=ClassifierFreeGuidance(3.0, stop=0.5), generator=seeded()).frames)
    assert modular.guider.guidance_scale == 2.0


def test_networks_reuse_blocks_as_in_the_pipeline(pipe, inputs):
    inputs["num_inference_steps"] = 4
    whole = pipe(**inputs, generator=seeded()).frames
    for network in (pipe.unet, pipe.controlnet):
        network.enable_cache(DeepCacheConfig(interval=2))
    expected = pipe(**inputs, generator=seeded()).frames
    assert torch.equal(modular_of(pipe)(**inputs, generator=seeded(), output="frames"), expected)
    assert not torch.equal(expected, whole)


def test_an_ip_adapter_acts_in_blocks_as_in_the_pipeline(pipe, inputs, tmp_path):
    base = pipe(**inputs, generator=seeded()).frames
    write_ip_adapter(tmp_path, pipe.unet)
    pipe.load_ip_adapter(tmp_path, subfolder="models", weight_name="ip-adapter_sd15.safetensors")
    inputs["ip_adapter_image"] = PIL.Image.new("RGB", (40, 40), "red")
    expected = pipe(**inputs, generator=seeded()).frames
    assert torch.equal(modular_of(pipe)(**inputs, generator=seeded(), output="frames"), expected)
    assert not torch.equal(expected, base)


def test_components_with_attachments_are_not_saved(pipe, tmp_path):
    pipe.vae.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"`vae` has fused projections .* `unfuse_qkv_projections\(\)`"):
        modular_of(pipe).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    pipe.vae.unfuse_qkv_projections()
    modular_of(pipe).save_pretrained(tmp_path / "saved")
    AutoencoderKL.from_pretrained(tmp_path / "saved", subfolder="vae")


def test_a_driving_clip_is_prepared_as_the_animator_does(pipe, image, tmp_path):
    random_keypoints().save(tmp_path / "motion.safetensors")
    animation = HIAAnimator().prepare(image, random_keypoints(), sharpness=0.8, height=80, width=48)
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "pt"}
    expected = pipe(animation.image, animation.condition, generator=seeded(), **arguments).frames
    driving = {"driving": str(tmp_path / "motion.safetensors"), "sharpness": 0.8, "height": 80, "width": 48}
    state = modular_of(pipe)(image=image, generator=seeded(), **driving, **arguments)
    assert torch.equal(state.frames, expected)
    assert state.fps == 25.0


def test_a_pose_file_drives_with_what_it_does_not_state(pipe, image, tmp_path):
    people = [{"pose_keypoints_2d": [20, 30, 1] * 18}]
    (tmp_path / "pose.json").write_text(json.dumps([{"people": people}] * 2))
    stated = {"driving_fps": 24.0, "driving_size": (80, 48), "num_inference_steps": 1, "output_type": "pt"}
    state = modular_of(pipe)(image=image, driving=str(tmp_path / "pose.json"), **stated)
    assert state.fps == 24.0 and state.frames.shape == (1, 2, 3, 80, 48)


def test_stages_run_apart_from_each_other(pipe, inputs):
    expected = pipe(**inputs, generator=seeded()).frames
    blocks = HIABlocks()
    decode = SequentialPipelineBlocks.from_blocks_dict({"decode": blocks.sub_blocks.pop("decode")})
    state = modular_of(pipe, blocks)(**inputs, generator=seeded())
    assert "frames" not in state.values

    decoder = HIAModularPipeline(decode)
    assert list(decoder.components) == ["vae", "video_processor"]
    decoder.update_components(vae=pipe.vae)
    assert torch.equal(decoder(clean_latents=state.clean_latents, output_type="pt", output="frames"), expected)


def test_a_block_can_be_put_between(pipe, inputs):
    class Darken(HIADecodeStep):
        """Halves what has been decoded."""

        uses = ()
        takes = ("frames",)

        def run(self, pipe, values):
            values.frames = values.frames / 2

    blocks = HIABlocks()
    blocks.sub_blocks["darken"] = Darken()
    frames = modular_of(pipe, blocks)(**inputs, generator=seeded(), output="frames")
    assert torch.equal(frames, pipe(**inputs, generator=seeded()).frames / 2)


def test_a_state_is_gone_on_from_with_other_values(pipe, inputs):
    modular = modular_of(pipe)
    state = modular(**inputs, generator=seeded())
    expected = pipe(**inputs | {"guidance_scale": 2.0}, generator=seeded()).frames
    assert torch.equal(modular(state=state, guidance_scale=2.0, generator=seeded(), output="frames"), expected)


def test_a_block_of_the_loop_sees_every_step_and_may_change_the_latents(pipe, inputs):
    seen = []

    class Halve(ModularPipelineBlocks):
        def __call__(self, components, block_state, i, t):
            seen.append((i, int(t)))
            block_state.clean_latents = block_state.clean_latents / 2
            return components, block_state

    blocks = HIABlocks()
    blocks.sub_blocks["denoise"].sub_blocks["halve"] = Halve()
    frames = modular_of(pipe, blocks)(**inputs, generator=seeded(), output="frames")
    halve = {"callback_on_step_end": lambda pipe, i, t, tensors: {"latents": tensors["latents"] / 2}}
    assert torch.equal(frames, pipe(**inputs, **halve, generator=seeded()).frames)
    assert seen == list(enumerate(pipe.scheduler.timesteps.tolist()))


def test_no_block_makes_a_pipeline(pipe, inputs, monkeypatch):
    modular = modular_of(pipe)
    monkeypatch.setattr(HIAPipeline, "__init__", lambda *_, **__: pytest.fail("a pipeline is made"))
    modular(**inputs)


def test_the_progress_bar_is_that_of_the_loop(pipe, inputs, capfd):
    modular = modular_of(pipe)
    capfd.readouterr()
    modular(**inputs)
    assert capfd.readouterr().err == ""
    modular.set_progress_bar_config(desc="denoising")
    modular(**inputs)
    assert "denoising" in capfd.readouterr().err


# As diffusers tests the modular pipelines of its own


def test_a_clip_of_a_batch_is_what_it_is_alone(pipe, inputs, image):
    modular = modular_of(pipe)
    batch = modular(**inputs | {"image": [image] * 2}, generator=[seeded(0), seeded(1)], output="frames")
    assert len(batch) == 2
    assert (batch[:1] - modular(**inputs, generator=seeded(0), output="frames")).abs().max() < 1e-4


def test_components_are_unloaded_and_loaded_again():
    pipe = HIAModularPipeline.from_pretrained(HIA_TINY)
    pipe.load_components(["unet", "scheduler"])
    released = weakref.ref(pipe.unet)
    pipe.unload_components(["unet", "scheduler"])
    assert released() is None and pipe.unet is pipe.scheduler is None
    pipe.load_components("unet")
    assert pipe.unet is not None and pipe.scheduler is None


# Inputs


def test_the_inputs_are_the_arguments_of_the_call_and_a_driving_clip():
    inputs = {entry.name: entry for entry in HIABlocks().inputs}
    call = dict(inspect.signature(HIAPipeline.__call__).parameters)
    for name in ("self", "return_dict", "guider", "callback_on_step_end", "callback_on_step_end_tensor_inputs"):
        del call[name]
    driving = dict(inspect.signature(Driving.load).parameters)
    prepare = inspect.signature(HIAAnimator.prepare).parameters
    driving |= {name: prepare[name] for name in ("person", "retarget", "image_keypoints", "image_person", "sharpness")}
    assert inputs.keys() == call.keys() | driving.keys()
    for name, parameter in (call | driving).items():
        found_later = parameter.default is parameter.empty or name in CALL_DEFAULTS  # the latter in the configuration
        assert inputs[name].default == (None if found_later else parameter.default)
    for block in HIABlocks().sub_blocks.values():  # which may also run without the first ones
        for entry in block.inputs:
            if entry.name in CALL_DEFAULTS and entry.default is not None:
                assert entry.default == call[entry.name].default
    assert [name for name, entry in inputs.items() if entry.required] == ["image"]
    assert all(len(entry.description) > 10 and entry.type_hint is not None for entry in inputs.values())
    assert all(len(spec.description) > 10 for spec in HIABlocks().expected_components)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"guidance_scale": float("nan")}, "`guidance_scale`"),
        ({"conditioning_frames": None}, "Pass either `conditioning_frames` or a `driving`"),
        ({"driving": "motion.safetensors"}, "`conditioning_frames` or `driving`, not both"),
        ({"conditioning_frames": None, "driving": "missing.safetensors"}, "missing.safetensors"),
        ({"image": None}, "'image' is missing"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_network_runs(pipe, inputs, changes, message):
    for network in (pipe.vae, pipe.image_encoder, pipe.unet, pipe.appearance_encoder, pipe.controlnet):
        network.to("meta")
    with pytest.raises((FileNotFoundError, TypeError, ValueError), match=message):
        modular_of(pipe)(**inputs | changes)


def test_a_component_that_is_missing_is_named(pipe, inputs):
    modular = modular_of(pipe)
    modular.update_components(unet=None)
    with pytest.raises(ValueError, match="`unet` is missing: call `load_components`"):
        modular(**inputs)


# Saved folders


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """hia-tiny as a modular pipeline; an image, and a motion of two frames, beside it."""
    folder = tmp_path_factory.mktemp("modular")
    pipe = HIAModularPipeline.from_pretrained(HIA_TINY)
    pipe.load_components()
    pipe.save_pretrained(folder / "hia-tiny")
    pixels = np.random.default_rng(0).integers(0, 256, (160, 96, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "person.png")
    random_keypoints().save(folder / "motion.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(saved):
    """The pipeline's own frames of the image and the motion."""
    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    condition = MotionBlurConditioner.for_size(160, 96)(random_keypoints(), sharpness=0.8)
    with PIL.Image.open(saved / "person.png") as image:
        frames = pipe(image, condition, num_inference_steps=1, guidance_scale=1.0, generator=seeded()).frames[0]
    return np.stack([np.asarray(frame) for frame in frames])


def diffusers_cli(saved, *arguments):
    return forked_python.run("-m", "diffusers.commands.diffusers_cli", *arguments, cwd=saved)


SOURCE = "pretrained_model_name_or_path"
RUN_INPUTS = {"image": "person.png", "driving": "motion.safetensors", "sharpness": 0.8}
RUN = (
    *("run", "-m", "hia-tiny", "--output-key", "frames", "--seed", "0", "--device-map", "cpu", "--output", "out.mp4"),
    *("--pipeline-kwargs", json.dumps(RUN_INPUTS | {"num_inference_steps": 1, "guidance_scale": 1.0})),
)


def test_the_code_in_a_saved_folder_is_an_import(saved):
    assert [path.name for path in (saved / "hia-tiny").rglob("*.py")] == ["modular_blocks_hia.py"]
    lines = (saved / "hia-tiny" / "modular_blocks_hia.py").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["from hia_diffusers import HIABlocks"]


def test_the_index_names_what_is_loaded(saved):
    index = json.loads((saved / "hia-tiny" / "modular_model_index.json").read_text())
    pipe = HIAModularPipeline.from_pretrained(saved / "hia-tiny")
    pipe.load_components()
    named = {name for name, entry in index.items() if isinstance(entry, list) and entry[2].get(SOURCE)}
    assert named == {name for name in pipe.pretrained_component_names if getattr(pipe, name) is not None}
    assert "guider" not in index


def test_the_command_schema_lists_the_inputs(saved):
    result = diffusers_cli(saved, "--format", "json", "schema", "-m", "hia-tiny", "--trust-remote-code")
    assert result.returncode == 0, result.stderr
    schema = json.loads(result.stdout)
    assert schema["pipeline_class"] == "HIABlocks"
    assert [entry["name"] for entry in schema["inputs"]] == [entry.name for entry in HIABlocks().inputs]


def test_the_command_run_writes_the_frames_of_the_pipeline(saved, expected):
    result = diffusers_cli(saved, *RUN, "--trust-remote-code")
    assert result.returncode == 0, result.stderr
    written = [np.asarray(PIL.Image.open(path)) for path in sorted((saved / "out-frames").iterdir())]
    assert len(written) == 2
    # Another process, which may use another number of threads: one level of rounding.
    assert np.abs(np.int16(written) - np.int16(expected)).max() <= 1


@pytest.mark.parametrize("arguments", [("schema", "-m", "hia-tiny"), RUN], ids=["schema", "run"])
def test_neither_command_runs_the_code_untrusted(saved, arguments):
    result = diffusers_cli(saved, *arguments)
    assert result.returncode != 0
    assert "trust_remote_code=True" in result.stderr


def drop(tensors):
    del tensors[sorted(tensors)[0]]


def spoil(tensors):
    tensors[sorted(tensors)[0]] *= float("nan")


@pytest.mark.parametrize("edit, match", [(drop, "has 1 missing keys"), (spoil, "not finite|cannot be loaded")])
@pytest.mark.parametrize(
    "name, file",
    [
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("image_encoder", "model.safetensors"),
        ("unet", "diffusion_pytorch_model.safetensors"),
    ],
)
def test_weights_that_do_not_match_are_an_error(tmp_path, name, file, edit, match):
    folder = shutil.copytree(HIA_TINY, tmp_path / "hia-tiny")
    tensors = safetensors.torch.load_file(folder / name / file)
    edit(tensors)
    safetensors.torch.save_file(tensors, folder / name / file, metadata={"format": "pt"})
    pipe = HIAModularPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match=match):
        pipe.load_components([name])
    assert getattr(pipe, name) is None


def test_weights_in_other_folders_are_not_loaded(tmp_path):
    folder = shutil.copytree(HIA_TINY, tmp_path / "hia-tiny")
    weights = folder / "image_encoder" / "model.safetensors"
    keys = safetensors.torch.load_file(weights)
    weights.rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, "../../elsewhere.safetensors")}
    Path(f"{weights}.index.json").write_text(json.dumps(index))
    pipe = HIAModularPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="must name files of its own folder only"):
        pipe.load_components()


@pytest.mark.parametrize("source", ["own", "moved", "plain", "diffusers"])
def test_whatever_reads_a_folder_gives_the_same_frames(saved, expected, source, tmp_path, monkeypatch, caplog):
    folder = saved / "hia-tiny"
    if source == "moved":
        folder = tmp_path / "moved"
        (saved / "hia-tiny").rename(folder)
    try:
        if source == "diffusers":
            monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
            pipe = ModularPipeline.from_pretrained(folder, trust_remote_code=True)
        else:
            pipe = HIAModularPipeline.from_pretrained(HIA_TINY if source == "plain" else folder)
        pipe.load_components()
    finally:
        if source == "moved":
            folder.rename(saved / "hia-tiny")
    assert not [record for record in caplog.records if "Failed" in record.getMessage()]
    with PIL.Image.open(saved / "person.png") as image:
        inputs = {"image": image, "driving": saved / "motion.safetensors", "sharpness": 0.8}
        arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "generator": seeded(), "output": "frames"}
        frames = pipe(**inputs, **arguments)[0]
    assert np.array_equal([np.asarray(frame) for frame in frames], expected)
