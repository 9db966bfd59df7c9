# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA training, as its users run it: what is saved, resumed and refused, and LoRA of a converted checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as FILE_NAME
from forked_python import run
from huggingface_hub import ModelCard
from published_weights import write_moore
from rounding import assert_equal_up_to_rounding
from safetensors.torch import load_file
from small_networks import NETWORKS, write_pipeline

from hia_diffusers import HIAPipeline, HIAPoseGuider
from hia_diffusers.conversion.moore_animate_anyone import convert_moore_animate_anyone
from hia_diffusers.conversion.parts import convert_parts
from hia_diffusers.memory.counting import on_meta
from hia_diffusers.memory.training_memory import TrainingSetup, estimate_training_memory
from hia_diffusers.models.attachments import lora_layers
from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.training.lora import add_lora
from hia_diffusers.training.stages import STAGES, train_only, trained_parts
from hia_diffusers.training.starting_point import load_starting_point


SCRIPT = Path(__file__).parents[2] / "examples" / "train_hia.py"


def train(folder, *arguments, status=0):
    result = run(SCRIPT, *arguments, "--output_dir", folder)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def options(stage="spatial", **more):
    """Of a run of four steps, with a checkpoint half way."""
    values = {
        "stage": stage,
        "procedural_clips": 4,
        "sizes": "32x48",
        "max_train_steps": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 1,
        "checkpointing_steps": 2,
        "lora_rank": 2,
        **more,
    }
    if stage.startswith("temporal"):
        values["num_frames"] = 3
    return [word for name, value in values.items() for word in (f"--{name}", *str(value).split())]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("base"), NETWORKS)


@pytest.fixture(scope="module")
def person(base, tmp_path_factory):
    """A run that trains LoRA of both networks with averaged weights; and its options."""
    folder = tmp_path_factory.mktemp("person") / "run"
    more = {"lora_networks": "unet appearance_encoder", "lora_alpha": 6}
    arguments = [*options(**more), "--pretrained_model_name_or_path", base, "--use_ema"]
    train(folder, *arguments)
    return folder, arguments


def animate(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image, condition = torch.rand(1, 3, 64, 64, generator=generator), torch.rand(3, 6, 64, 64, generator=generator)
    arguments = {"num_inference_steps": 2, "generator": generator, "output_type": "latent"}
    return pipe(image, condition, **arguments).frames


def test_a_run_writes_a_lora_that_the_pipeline_loads(base, person):
    folder, _ = person
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoint-2", "checkpoint-4", "options.json", FILE_NAME, "README.md")
    }
    weights = load_file(folder / FILE_NAME)
    assert {name.split(".")[0] for name in weights} == {"unet", "appearance_encoder"}
    assert all(".to_" in name and ".motion_modules." not in name for name in weights)
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert any(value.any() for name, value in weights.items() if ".lora_B." in name)  # zeros before training

    pipe = HIAPipeline.from_pretrained(base)
    before = animate(pipe)
    pipe.load_lora_weights(folder)
    after = animate(pipe)
    assert (after - before).abs().max() > 1e-3
    assert (
        pipe.unet.peft_config["default_0"].lora_alpha
        == pipe.appearance_encoder.peft_config["default_0"].lora_alpha
        == 6
    )
    pipe.unload_lora_weights()
    pipe.load_lora_weights({name: 3 * value if ".lora_B." in name else value for name, value in weights.items()})
    assert_equal_up_to_rounding(animate(pipe), after)  # alpha 6 of rank 2


def test_the_model_card_is_one_that_the_hub_reads(base, person):
    card = ModelCard.load(person[0] / "README.md")
    assert card.data.base_model == str(base) and "lora" in card.data.tags
    assert "| `lora_alpha` | 6.0 |" in card.text and "use_motion_modules" not in card.text


def test_a_resumed_run_ends_with_the_same_bits(person, tmp_path):
    whole, arguments = person
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(whole / "checkpoint-2", folder / "checkpoint-2")
    shutil.copy(whole / "options.json", folder)
    assert f"Resuming from {folder / 'checkpoint-2'}, step 2." in train(
        folder, *arguments, "--resume_from_checkpoint", "latest"
    )
    for name in (FILE_NAME, "checkpoint-4/model.safetensors"):
        ours, theirs = load_file(folder / name), load_file(whole / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    early = load_file(whole / "checkpoint-2" / "model.safetensors")
    assert any(not torch.equal(value, theirs[key]) for key, value in early.items())
    assert (whole / "checkpoint-4" / "model.safetensors").stat().st_size < 1e5  # the LoRA alone


def test_a_temporal_stage_trains_lora_of_motion_modules(base, tmp_path):
    arguments = options("temporal-full", max_train_steps=1, lora_target_modules="to_q to_v")
    train(tmp_path / "run", *arguments, "--pretrained_model_name_or_path", base, "--mixed_precision", "bf16")
    weights = load_file(tmp_path / "run" / FILE_NAME)
    assert all(name.startswith("unet.") and ".motion_modules." in name for name in weights)
    assert {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[1] for name in weights} == {"to_q", "to_v"}
    HIAPipeline.from_pretrained(base).load_lora_weights(tmp_path / "run")


def lora_denoiser(base, stage="spatial", **options):
    config = STAGES[stage].__class__(stage=stage, output_dir="run", lora_rank=2, **options)
    denoiser = HIADenoiser.of_pipeline(load_starting_point(base))
    add_lora(denoiser, config)
    return denoiser, config


def test_at_first_lora_has_no_effect_and_its_weights_depend_on_the_seed_alone(base):
    state = torch.get_rng_state()
    drawn = [lora_denoiser(base, seed=seed)[0].state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    factors = [[value for name, value in weights.items() if ".lora_A." in name] for weights in drawn]
    assert all(map(torch.equal, factors[0], factors[1])) and not any(map(torch.equal, factors[0], factors[2]))
    pipe = HIAPipeline.from_pretrained(base)
    before = animate(pipe)
    pipe.unet = lora_denoiser(base)[0].unet
    assert_equal_up_to_rounding(animate(pipe), before)


def test_lora_needs_less_memory_than_the_weights(base):
    denoiser, config = lora_denoiser(base)
    parameters = train_only(denoiser, trained_parts(config))
    assert parameters and sum(map(torch.numel, parameters)) < 0.1 * sum(map(torch.numel, denoiser.parameters()))
    assert len(lora_layers(denoiser)) == len(parameters) / 2
    setup = TrainingSetup(trained_parts(config), 48, 32, mixed_precision="bf16", gradient_checkpointing=True)
    lora = estimate_training_memory(on_meta(denoiser), setup)
    full = estimate_training_memory(HIADenoiser.of_pipeline(load_starting_point(base)), setup)
    assert lora.optimizer == 2 * sum(parameter.nbytes for parameter in parameters) < 0.1 * full.optimizer
    assert lora.weights < 0.8 * full.weights  # frozen ones are kept in half precision


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora_rank", "0"], "--lora_rank must be an integer from 1"),
        (["--lora_networks", "vae"], '--lora_networks must be one of "unet", "appearance_encoder", got \'vae\'.'),
        (["--lora_target_modules", "to_x"], "--lora_target_modules must be layers of the unet, got to_x."),
        (["--stage", "regional"], "--lora_rank is for the spatial and the temporal stages."),
        (["--stage", "temporal-half", "--lora_networks", "unet"], "--lora_networks is for the spatial stage;"),
        (["--spatial_trainable", "conditions"], "give either --lora_rank or --spatial_trainable conditions."),
    ],
)
def test_what_does_not_fit_is_refused(base, tmp_path, arguments, message):
    arguments = [*options(), "--pretrained_model_name_or_path", base, *arguments]
    assert message in train(tmp_path / "run", *arguments, status=2).splitlines()[-1]
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize("option", ["--lora_alpha=1", "--lora_networks=unet", "--lora_target_modules=to_q"])
def test_options_of_lora_need_its_rank(base, tmp_path, option):
    arguments = [*options()[:-2], "--pretrained_model_name_or_path", base, option]
    assert f"{option.split('=')[0]} needs --lora_rank." in train(tmp_path / "run", *arguments, status=2)


def test_the_options_are_recorded(person):
    recorded = json.loads((person[0] / "options.json").read_text())
    assert recorded["lora_rank"] == 2 and recorded["lora_networks"] == ["unet", "appearance_encoder"]


CONFIGS = SCRIPT.parent / "configs"
SMALL = [
    *("--procedural_clips", "2", "--sizes", "64x64", "--num_frames", "2", "--max_train_steps", "1"),
    *("--gradient_accumulation_steps", "1", "--dataloader_num_workers", "0"),
]


@pytest.fixture(scope="module")
def one_person(tmp_path_factory):
    """Every stage of both configs, in one process, from a converted checkpoint."""
    folder = tmp_path_factory.mktemp("one_person")
    published = write_moore(tmp_path_factory.mktemp("published"))
    paths = (published / "weights", published / "base", published / "variations")
    convert_moore_animate_anyone(*paths).model.save_pretrained(folder / "runs" / "moore")
    runs = []
    for name, stages in (("finetune-24gb", STAGES), ("lora-12gb", ("spatial", "temporal-half", "temporal-full"))):
        previous = "runs/moore"
        for stage in stages:
            output = f"runs/{name}/{stage}"
            run_options = [*SMALL, "--no_use_8bit_adam"] if name == "finetune-24gb" else SMALL
            runs.append(
                ["--stage", stage, "--config", str(CONFIGS / f"{name}.yaml"), "--output_dir", output]
                + ([] if stage == "spatial" else ["--pretrained_model_name_or_path", previous])
                + run_options
            )
            previous = output if name == "finetune-24gb" else previous
    (folder / "runs.json").write_text(json.dumps(runs))
    script = Path(__file__).parents[1] / "training_runs.py"
    result = run(script, folder / "runs.json", cwd=folder, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "runs"


def test_fine_tuning_keeps_the_pose_guider_of_a_converted_checkpoint(one_person):
    before = HIAPipeline.from_pretrained(one_person / "moore")
    assert isinstance(before.controlnet, HIAPoseGuider) and before.controlnet.config.conditioning_channels == 3
    for stage in STAGES:
        pipe = HIAPipeline.from_pretrained(one_person / "finetune-24gb" / stage)
        assert isinstance(pipe.controlnet, HIAPoseGuider) and pipe.controlnet.config.conditioning_channels == 6
        assert pipe.unet.config.use_motion_modules is stage.startswith("temporal")
    # One step of a warm-up moves the weights little: they are those of the checkpoint.
    weights = [part.controlnet.controlnet_cond_embedding.conv_in.weight for part in (before, pipe)]
    torch.testing.assert_close(weights[1][:, :3], weights[0], atol=1e-4, rtol=0)
    assert pipe.config.call_defaults["pose_map"] == before.config.call_defaults["pose_map"]
    animate(pipe)


def test_lora_are_used_together_with_the_converted_checkpoint(one_person):
    pipe = HIAPipeline.from_pretrained(one_person / "moore")
    for stage in ("spatial", "temporal-full"):
        pipe.load_lora_weights(one_person / "lora-12gb" / stage, adapter_name=stage)
        assert not (one_person / "lora-12gb" / stage / "model_index.json").exists()
    pipe.set_adapters(["spatial", "temporal-full"], [1.0, 0.5])
    assert pipe.unet.peft_config["spatial"].r == 16
    assert pipe.get_active_adapters() == ["spatial", "temporal-full"]
    animate(pipe)


def test_parts_never_replace_a_pose_guider(one_person):
    with pytest.raises(ValueError, match="got HIAPoseGuider"):
        convert_parts(one_person / "moore")
