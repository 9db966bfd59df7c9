# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The script itself, as its users run it, in processes forked from one that has done its imports."""

import contextlib
import copy
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from accelerate import Accelerator
from dancing_videos import BLUE, GREEN, GREY, dancer_boxes, write_dance
from forked_python import start as start_python
from safetensors.torch import load_file, save_file
from small_networks import NETWORKS, write_pipeline
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hia_diffusers import HIAPipeline
from hia_diffusers.data.dataset import SAMPLES_VERSION
from hia_diffusers.folder_lock import locked_folder
from hia_diffusers.memory.counting import on_meta
from hia_diffusers.memory.training_memory import TrainingSetup, estimate_training_memory
from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset
from hia_diffusers.training.batches import build_dataset
from hia_diffusers.training.iresnet import IResNet
from hia_diffusers.training.objective import HIALosses
from hia_diffusers.training.out_of_memory import advice
from hia_diffusers.training.regional_decoding import decode_windows
from hia_diffusers.training.stages import PARTS, STAGES, trained_parts
from hia_diffusers.training.starting_point import load_starting_point
from hia_diffusers.video.reading import read_frames


SCRIPT = Path(__file__).parents[2] / "examples" / "train_hia.py"
SCALED = Path(__file__).parents[1] / "scaled_training.py"
NUM_KILLS, KILLED_STEPS = 20, 8

# A softmax over the one token of the context is 1 whatever query and key are; and a table of sines is no parameter.
WITHOUT_GRADIENT = re.compile(r"\.attentions\..*(attn2\.to_[qk]|norm2)\.|\.pos_embed\.pe$")


def load_script():
    spec = importlib.util.spec_from_file_location("example_train_hia", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def printed_by(folder):
    return folder.with_name(f"{folder.name}.txt")


def start(folder, *arguments, script=SCRIPT, memory=None):
    """The script in the background; what it prints goes to a file beside its folder."""
    return start_python([script, *arguments, "--output_dir", folder], printed_by(folder), memory=memory)


def train(folder, *arguments, status=0, **options):
    """Run the script to its end; returns what it printed."""
    process = start(folder, *arguments, **options)
    process.join()
    printed = printed_by(folder).read_text()
    assert process.exitcode == status, printed
    return printed


def options(stage="spatial", steps=4, batches=2, **more):
    """Of a small run; batches are those of an optimizer step."""
    values = {
        "stage": stage,
        "procedural_clips": 4,
        "sizes": "32x48",
        "max_train_steps": steps,
        "train_batch_size": 1,
        "gradient_accumulation_steps": batches,
        "learning_rate": 1e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 1,
        "checkpointing_steps": 2,
        **more,
    }
    if stage.startswith("temporal"):
        values["num_frames"] = 3
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", value)]


def tensors_of(folder, pattern="*"):
    """Every tensor in the safetensors files below a folder."""
    files = sorted(path for path in folder.rglob(pattern) if path.suffix == ".safetensors")
    return {f"{file.relative_to(folder)}:{name}": value for file in files for name, value in load_file(file).items()}


def assert_same(state, other):
    """Equal bit for bit, whatever they are nested in."""
    assert type(state) is type(other)
    if isinstance(state, dict):
        assert state.keys() == other.keys()
        for name in state:
            assert_same(state[name], other[name])
    elif isinstance(state, (list, tuple)):
        assert len(state) == len(other)
        for one, another in zip(state, other, strict=True):
            assert_same(one, another)
    elif isinstance(state, torch.Tensor):
        assert state.dtype == other.dtype and torch.equal(state, other)
    elif isinstance(state, np.ndarray):
        np.testing.assert_array_equal(state, other)
    else:
        assert state == other


def training_state(checkpoint):
    """Weights, optimizer, learning rate, averages, and where the run is."""
    return {
        "weights": load_file(checkpoint / "model.safetensors"),
        "optimizer": torch.load(checkpoint / "optimizer.bin", weights_only=True),
        "run": torch.load(checkpoint / "run.pt", weights_only=True),
    }


def assert_same_run(folder, other, step):
    # Equal bits: a resumed run makes the same steps by the same kernels in as many threads.
    assert_same(training_state(folder / f"checkpoint-{step}"), training_state(other / f"checkpoint-{step}"))
    assert_same(pipeline_tensors(folder), pipeline_tensors(other))


def pipeline_tensors(folder):
    tensors = tensors_of(folder)
    assert (folder / "model_index.json").is_file()
    return {name: value for name, value in tensors.items() if not name.startswith("checkpoint-")}


def logged(folder):
    """What a run has told tensorboard: the value of each step by name."""
    events = EventAccumulator(str(folder / "logs" / "hia")).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def wait_until(process, condition):
    """Whether the process lived to see it."""
    while process.is_alive():
        if condition():
            return True
        time.sleep(0.005)
    return False


def entries(folder):
    """What lies in a folder, and since when."""
    found = set()
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def wait_for_new(process, folder, beginning, before):
    wait_until(process, lambda: any(name.startswith(beginning) for name, _ in entries(folder) - before))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The networks that most runs start from."""
    return write_pipeline(tmp_path_factory.mktemp("base"), NETWORKS)


@pytest.fixture(scope="module")
def coarse_base(tmp_path_factory):
    """Networks for larger images, whose latents are an eighth as wide and high."""
    networks = copy.deepcopy(NETWORKS)
    networks["controlnet"]["conditioning_embedding_out_channels"] = [4, 4, 4, 8]
    networks["vae"] |= {
        "block_out_channels": [4, 4, 4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    return write_pipeline(tmp_path_factory.mktemp("coarse"), networks)


@pytest.fixture(scope="module")
def spatial(base, tmp_path_factory):
    """A run from its beginning to its end, with averaged weights; and its options."""
    folder = tmp_path_factory.mktemp("spatial") / "run"
    arguments = [*options(), "--pretrained_model_name_or_path", base, "--use_ema"]
    train(folder, *arguments)
    return folder, arguments


@pytest.fixture(scope="module")
def temporal(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporal") / "run"
    arguments = [*options("temporal-half"), "--pretrained_model_name_or_path", base]
    train(folder, *arguments, "--dataloader_num_workers", 2)
    return folder, arguments


def test_a_run_that_is_told_to_stop_writes_a_checkpoint_and_goes_on_exactly(spatial, tmp_path):
    whole, arguments = spatial
    folder = tmp_path / "run"
    process = start(folder, *arguments, "--checkpointing_steps", 100, "--dataloader_num_workers", 2)
    assert wait_until(process, lambda: "1/4" in printed_by(folder).read_text())
    assert len(psutil.Process(process.pid).children()) == 2
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    printed = printed_by(folder).read_text()
    assert process.exitcode == 128 + signal.SIGTERM == 143, printed
    (checkpoint,) = folder.glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 1 <= step < 4 and f"Stopped by SIGTERM at step {step};" in printed
    assert not (folder / "model_index.json").exists()

    printed = train(folder, *arguments, "--resume_from_checkpoint", "latest", "--dataloader_num_workers", 2)
    assert f"Resuming from {checkpoint}, step {step}." in printed
    assert_same_run(folder, whole, 4)


@pytest.mark.parametrize("stage", ["spatial", pytest.param("regional", marks=pytest.mark.slow)])
def test_a_cache_gives_the_same_samples(base, stage, tmp_path):
    arguments = [*options(stage), "--pretrained_model_name_or_path", base, "--report_to", "tensorboard"]
    train(tmp_path / "drawn", *arguments)
    cache = ["--cache_latents", tmp_path / "cache", "--cached_epochs", 2]  # two epochs of four clips
    printed = train(tmp_path / "cached", *arguments, *cache)
    assert "missing=0" in printed
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 8
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["samples_version"] == str(SAMPLES_VERSION)
    drawn, cached = logged(tmp_path / "drawn"), logged(tmp_path / "cached")
    assert drawn.keys() == cached.keys()
    for name, values in drawn.items():
        assert cached[name] == pytest.approx(values, rel=1e-4), name

    assert "missing" not in train(tmp_path / "again", *arguments, *cache)
    # Equal bits: the same run from the same files.
    assert_same(pipeline_tensors(tmp_path / "again"), pipeline_tensors(tmp_path / "cached"))
    printed = train(tmp_path / "other", *arguments, *cache, "--seed", 1, status=2)
    assert "--cache_latents: `folder` contains samples with other options: seed was 0, is 1." in printed


def test_a_temporal_run_goes_on_exactly_with_other_workers(temporal, tmp_path):
    whole, arguments = temporal
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(whole / "checkpoint-2", folder / "checkpoint-2")
    shutil.copy(whole / "options.json", folder)
    train(folder, *arguments, "--resume_from_checkpoint", "latest")
    assert_same_run(folder, whole, 4)


def test_a_run_with_muon_goes_on_exactly(base, spatial, tmp_path):
    arguments = [*spatial[1], "--use_muon"]
    train(tmp_path / "whole", *arguments)
    (tmp_path / "run").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    shutil.copy(tmp_path / "whole" / "options.json", tmp_path / "run")
    train(tmp_path / "run", *arguments, "--resume_from_checkpoint", "latest")
    assert_same_run(tmp_path / "run", tmp_path / "whole", 4)
    before, adam, muon = (tensors_of(run, "diffusion_*") for run in (base, spatial[0], tmp_path / "whole"))
    assert before.keys() == adam.keys() == muon.keys() and len(before) > 100
    moved = [name for name in before if not torch.equal(before[name], muon[name])]
    assert len(moved) > 100
    matrices = [name for name in moved if before[name].ndim >= 2]
    assert not any(torch.equal(adam[name], muon[name]) for name in matrices)


def test_the_state_of_a_run_is_more_than_its_beginning(spatial):
    """What the tests above compare does change, all of it."""
    whole, _ = spatial
    early, late = (training_state(whole / f"checkpoint-{step}") for step in (2, 4))
    progress = {"step": 4, "batches": 8, "skipped_steps": 0, "skipped_in_a_row": 0}
    assert late["run"]["progress"] == {**progress, "unreadable": {}}
    for name in early["weights"]:
        assert WITHOUT_GRADIENT.search(name) or not torch.equal(early["weights"][name], late["weights"][name]), name
    assert early["run"]["lr_scheduler"]["_last_lr"] != late["run"]["lr_scheduler"]["_last_lr"]
    averages = late["run"]["ema"]["shadow_params"]
    exported = pipeline_tensors(whole).values()
    assert all(any(torch.equal(average, value) for value in exported) for average in averages)
    assert early["optimizer"]["state"][0]["step"] == 2 and late["optimizer"]["state"][0]["step"] == 4
    assert early["optimizer"]["state"].keys() == set(range(len(averages)))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(base, tmp_path):
    arguments = [
        *options(steps=KILLED_STEPS, batches=1, checkpointing_steps=1, checkpoints_total_limit=2),
        *("--pretrained_model_name_or_path", base, "--resume_from_checkpoint", "latest"),
    ]
    whole = tmp_path / "whole"
    process = start(whole, *arguments)
    wait_for_new(process, whole, "checkpoint-", set())
    first = time.monotonic()
    wait_for_new(process, whole, ".unfinished-pipeline", set())
    export = time.monotonic()
    process.join()
    assert process.exitcode == 0
    step_duration, export_duration = (export - first) / (KILLED_STEPS - 1), time.monotonic() - export

    rng = random.Random(0)
    kills = {"checkpoint": 0, "pipeline": 0, "step": 0}
    number = 0
    folder = tmp_path / "0"

    while sum(kills.values()) < NUM_KILLS or min(kills.values()) < 2:
        before = entries(folder)
        process = start(folder, *arguments)
        if (folder / f"checkpoint-{KILLED_STEPS}").exists():
            beginning, longest = ".unfinished-pipeline", (1.2 if kills["pipeline"] >= 2 else 0.3) * export_duration
        elif rng.random() < 0.5:
            beginning, longest = ".unfinished-checkpoint-", (0.5 if kills["checkpoint"] >= 2 else 0.1) * step_duration
        else:
            beginning, longest = "checkpoint-", 2 * step_duration
        wait_for_new(process, folder, beginning, before)
        time.sleep(rng.uniform(0, longest))
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert_same_run(folder, whole, KILLED_STEPS)
            number += 1
            folder = tmp_path / str(number)
            continue
        assert process.exitcode == -signal.SIGKILL, printed_by(folder).read_text()
        in_pipeline = (folder / ".unfinished-pipeline").exists()
        in_checkpoint = any(folder.glob(".unfinished-checkpoint-*"))
        kills["pipeline" if in_pipeline else "checkpoint" if in_checkpoint else "step"] += 1
        for checkpoint in folder.glob("checkpoint-*"):
            training_state(checkpoint)
    train(folder, *arguments)
    assert_same_run(folder, whole, KILLED_STEPS)
    assert not any(folder.glob(".unfinished-*"))


# Which parameters change


def changed_parts(before, after):
    """The parts of the denoiser that changed, all that was compared, and every name of a part that did not change."""
    changed, unchanged = set(), set()
    for name, value in before.items():
        component = name.split("/")[0]
        part = "motion_modules" if ".motion_modules." in name else component
        (unchanged if torch.equal(value, after[name]) else changed).add((part, name))
    return changed, unchanged


@pytest.mark.parametrize(
    ("stage", "more", "trained"),
    [
        ("spatial", {}, {"appearance_encoder", "controlnet", "unet"}),
        ("spatial", {"spatial_trainable": "conditions"}, {"appearance_encoder", "controlnet"}),
        ("regional", {}, {"appearance_encoder"}),
        ("regional", {"regional_trainable": "all"}, {"appearance_encoder", "controlnet", "unet"}),
        ("temporal-half", {}, {"motion_modules"}),
        ("temporal-full", {}, {"motion_modules"}),
    ],
)
def test_a_stage_changes_its_own_parameters_and_no_others(request, base, tmp_path, stage, more, trained):
    if stage in ("spatial", "temporal-half") and not more:
        folder, _ = request.getfixturevalue(stage.removesuffix("-half"))
    else:
        folder = tmp_path / "run"
        train(folder, *options(stage, steps=1, lr_warmup_steps=0, **more), "--pretrained_model_name_or_path", base)
    before, after = tensors_of(base), pipeline_tensors(folder)
    assert before.keys() == after.keys()
    changed, unchanged = changed_parts(before, after)
    assert {part for part, _ in changed} == trained
    unchanged = {(part, name) for part, name in unchanged if part not in trained or not WITHOUT_GRADIENT.search(name)}
    assert {part for part, _ in unchanged} == {*PARTS, "vae", "image_encoder"} - trained, unchanged
    defaults = HIAPipeline.load_config(folder)["call_defaults"]
    frames = {"context_frames": 3, "context_overlap": 1} if stage.startswith("temporal") else {}
    assert defaults == {"area": 32 * 48, **frames}
    assert all(torch.isfinite(value).all() for value in after.values())


# The identity loss


@pytest.fixture(scope="module")
def arcface(tmp_path_factory):
    path = tmp_path_factory.mktemp("arcface") / "arcface.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(IResNet((1, 1, 1, 1), widths=(4, 4, 4, 4, 4), num_features=8).state_dict(), path)
    return path


@pytest.mark.parametrize("stage", ["spatial", pytest.param("regional", marks=pytest.mark.slow)])
def test_motion_modules_take_no_part_before_the_temporal_stages(base, stage, tmp_path):
    """Neither in training nor in validation nor in the pipeline that comes out, whatever their weights."""
    pipeline = load_starting_point(base)
    for name, parameter in pipeline.unet.named_parameters():
        if ".motion_modules." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    pipeline.save_pretrained(tmp_path / "other")
    more = {"validation_steps": 1, "validation_clips": 1, "validation_frames": 3, "num_inference_steps": 2}
    arguments = options(stage, steps=1, lr_warmup_steps=0, report_to="tensorboard", **more)
    starts = {"one": base, "another": tmp_path / "other"}
    for run, start in starts.items():
        train(tmp_path / run, *arguments, "--pretrained_model_name_or_path", start)
    # Equal bits: the modules are not run, and all else is the same.
    assert_same(logged(tmp_path / "one"), logged(tmp_path / "another"))
    state, one, another = (tensors_of(folder, "diffusion_*") for folder in (base, *map(tmp_path.joinpath, starts)))
    motion = {name for name in state if ".motion_modules." in name}
    assert_same(*({name: run[name] for name in state.keys() - motion} for run in (one, another)))
    assert_same(*({name: run[name] for name in motion} for run in (state, one)))
    config = json.loads((tmp_path / "another" / "unet" / "config.json").read_text())
    assert config["use_motion_modules"] is False
    assert "motion modules of this pipeline are disabled" in (tmp_path / "another" / "README.md").read_text()

    then = options("temporal-half", steps=1, lr_warmup_steps=0)
    train(tmp_path / "temporal", *then, "--pretrained_model_name_or_path", tmp_path / "another")
    assert json.loads((tmp_path / "temporal" / "unet" / "config.json").read_text())["use_motion_modules"] is True
    trained = tensors_of(tmp_path / "temporal", "diffusion_*")
    assert not any(torch.equal(trained[name], another[name]) for name in motion if not WITHOUT_GRADIENT.search(name))


def test_the_identity_loss_trains_the_appearance_encoder(coarse_base, arcface, tmp_path):
    more = {"lr_warmup_steps": 0, "condition_dropout": 0, "report_to": "tensorboard", "identity_weight": 100}
    arguments = options("regional", steps=1, batches=1, sizes="224x384", **more)  # faces are large enough
    off = "No --arcface: the identity loss (Eq. 2) is off."
    printed = train(tmp_path / "without", *arguments, "--pretrained_model_name_or_path", coarse_base)
    assert printed.count(off) == 1
    printed = train(
        tmp_path / "with", *arguments, "--pretrained_model_name_or_path", coarse_base, "--arcface", arcface
    )
    assert off not in printed

    without, values = (
        {tag: steps[1] for tag, steps in logged(tmp_path / name).items()} for name in ("without", "with")
    )
    assert values.keys() - without.keys() == {"loss/identity"}
    assert 1e-4 < values["loss/identity"] <= 2
    parts = {name: values[f"loss/{name}"] for name in ("noise", "face", "hands", "identity")}
    assert values["loss"] == pytest.approx(sum(parts.values()) + 99 * parts["identity"])
    before, *after = (
        load_file(folder / "appearance_encoder" / "diffusion_pytorch_model.safetensors")
        for folder in (coarse_base, tmp_path / "without", tmp_path / "with")
    )
    one, other = (torch.cat([(state[name] - before[name]).flatten() for name in before]) for state in after)
    # The first step of Adam is as long for every weight; only its direction tells the gradients apart.
    assert (one * other < 0).float().mean() > 0.1


def test_weights_of_no_face_network_are_one_sentence(base, arcface, tmp_path, stopped):
    arguments = [*options("regional"), "--pretrained_model_name_or_path", base, "--arcface"]
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(arcface.read_bytes()[:1000])
    other = base / "unet" / "diffusion_pytorch_model.safetensors"
    for path in (tmp_path / "none.safetensors", broken, other):
        message = stopped(tmp_path / "run", *arguments, path)
        assert str(path) in message
    assert not (tmp_path / "run").exists()


# What goes wrong


def test_losses_that_are_not_finite_stop_the_run_and_leave_finite_weights(base, tmp_path):
    arguments = options(steps=9, learning_rate=1e30, checkpointing_steps=1, lr_warmup_steps=0, max_skipped_steps=3)
    printed = train(tmp_path / "run", *arguments, "--pretrained_model_name_or_path", base, status=2)
    assert printed.count("skipped: loss or gradient is not finite") == 3
    (message,) = re.findall("The loss or its gradient was not finite .*", printed)
    assert message.startswith("The loss or its gradient was not finite 3 times in a row, last with ")
    assert message.count(", frames [") == 2, "both batches of the step are named"
    assert "Lower --learning_rate" in message
    checkpoints = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        state = training_state(checkpoint)
        assert all(torch.isfinite(weight).all() for weight in state["weights"].values())
    assert not (tmp_path / "run" / "model_index.json").exists()


def test_a_run_whose_gradients_always_overflow_in_fp16_stops(base, tmp_path):
    arguments = options(steps=9, checkpointing_steps=1, max_skipped_steps=3)
    more = ["--pretrained_model_name_or_path", base, "--use_ema"]
    printed = train(tmp_path / "run", SCRIPT, 2.0**127, *arguments, *more, script=SCALED, status=2)
    assert printed.count("Step 1 skipped: loss or gradient is not finite") == 3
    assert "The loss or its gradient was not finite 3 times in a row" in printed and "bf16" in printed
    assert not any((tmp_path / "run").glob("checkpoint-*")) and not (tmp_path / "run" / "model_index.json").exists()


def test_a_step_that_the_scaler_skips_is_none(base, tmp_path):
    """Neither to the schedule nor to the averages nor to the count."""
    arguments = [*options(batches=1, report_to="tensorboard"), "--pretrained_model_name_or_path", base, "--use_ema"]
    printed = train(tmp_path / "run", SCRIPT, 2.0**24, *arguments, "--max_skipped_steps", 30, script=SCALED)
    skipped = printed.count("Step 1 skipped: loss or gradient is not finite")
    assert 1 <= skipped < 30, "the scaler halves its scale until gradients fit"
    state = training_state(tmp_path / "run" / "checkpoint-4")
    assert state["run"]["progress"]["step"] == 4 and state["run"]["progress"]["batches"] == 4 + skipped
    assert state["run"]["progress"]["skipped_steps"] == skipped
    assert state["run"]["lr_scheduler"]["last_epoch"] == state["run"]["ema"]["optimization_step"] == 4
    assert all(moments["step"] == 4 for moments in state["optimizer"]["state"].values())
    assert logged(tmp_path / "run")["skipped_steps"] == dict.fromkeys((1, 2, 3, 4), skipped)


def start_and_wait_for_skipped_steps(folder, *arguments):
    process = start(folder, *arguments, "--max_skipped_steps", 10**6)
    skipped = "skipped: loss or gradient is not finite"
    assert wait_until(process, lambda: printed_by(folder).read_text().count(skipped) >= 2), printed_by(
        folder
    ).read_text()
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    return printed_by(folder).read_text()


def test_a_run_is_told_to_stop_before_its_first_step_that_counts(base, tmp_path):
    folder = tmp_path / "run"
    arguments = [*options(batches=1, noise_offset=1e30), "--pretrained_model_name_or_path", base]
    assert "Stopped by SIGTERM at step 0;" in start_and_wait_for_skipped_steps(folder, *arguments)
    assert not any(folder.glob("checkpoint-*")) and not any(folder.glob(".unfinished-*"))


def test_a_run_is_told_to_stop_while_it_skips_steps_and_goes_on_where_it_was(base, tmp_path):
    folder = tmp_path / "run"
    arguments = [
        *options(batches=1, learning_rate=1e30, lr_warmup_steps=0, checkpointing_steps=100),
        *("--pretrained_model_name_or_path", base),
    ]
    printed = start_and_wait_for_skipped_steps(folder, *arguments)
    (checkpoint,) = folder.glob("checkpoint-*")
    state = training_state(checkpoint)
    assert all(torch.isfinite(weight).all() for weight in state["weights"].values())
    step, skipped = (state["run"]["progress"][name] for name in ("step", "skipped_steps"))
    assert checkpoint.name == f"checkpoint-{step}" and f"Stopped by SIGTERM at step {step};" in printed
    assert skipped == printed.count("skipped: loss or gradient is not finite") >= 2

    more = ["--resume_from_checkpoint", "latest", "--max_skipped_steps", 1]
    printed = train(folder, *arguments, *more, status=2)
    assert f"Resuming from {checkpoint}, step {step}." in printed
    assert f"The loss or its gradient was not finite {skipped + 1} times in a row" in printed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three prepared clips, and one of them again whose video ends too early."""
    folder = tmp_path_factory.mktemp("prepared")
    for index, color in enumerate((BLUE, GREEN, GREY)):
        write_dance(
            folder / "videos" / f"{index}.mp4", [(dancer_boxes(12, x=30 + 5 * index), color)], folder / "points"
        )
    rules = ClipRules(min_seconds=0, min_person_height=0, min_score=0, max_outside_ratio=1, min_motion=0)
    whole = PreparationOptions(cut_threshold=255.0, smooth=False, keypoints=str(folder / "points"), rules=rules)
    assert prepare_dataset(folder / "videos", folder / "data", whole)["clips"] == 3
    (broken,) = (folder / "data" / "clips").glob("1-*.mp4")
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 3])
    return folder / "data", broken


def test_a_clip_that_cannot_be_read_is_replaced_and_listed(base, prepared, tmp_path):
    data, broken = prepared
    arguments = options(steps=3, batches=1, checkpointing_steps=1, procedural_clips=None, train_data_dir=data)
    printed = train(tmp_path / "run", *arguments, "--pretrained_model_name_or_path", base)
    count, listed = printed.split(" samples replaced clips that cannot be read:\n")
    assert count.splitlines()[-1] == "1"
    assert broken.stem in listed.splitlines()[0] and listed.splitlines()[0].endswith("(1 times)")
    unreadable = training_state(tmp_path / "run" / "checkpoint-3")["run"]["progress"]["unreadable"]
    assert list(unreadable.values()) == [1]


# Reports


def test_without_a_tracker_nothing_is_logged(spatial):
    folder, _ = spatial
    assert not (folder / "logs").exists() and not (folder / "validation").exists()


# Options


def parsed(*arguments):
    return script.parse_args([*map(str, arguments)])


def refusal(capsys, *arguments):
    """What parsing prints when it exits."""
    with pytest.raises(SystemExit) as stopped:
        parsed(*arguments)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1
    return printed.removeprefix("train_hia.py: error: ").strip()


def write_config(tmp_path, **values):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


NEEDED = ("--procedural_clips", 2, "--pretrained_model_name_or_path", "start", "--output_dir", "run")


@pytest.mark.parametrize(
    ("name", "steps", "timestep", "frames", "scale", "accumulated", "static", "dropout"),
    [
        ("spatial", 35_000, 999, 1, 1.0, 4, 0.0, 0.1),
        ("regional", 4_000, 124, 1, 1.0, 4, 0.0, 0.0),
        ("temporal-half", 20_000, 999, 16, 0.5, 1, 0.0, 0.1),
        ("temporal-full", 1_000, 999, 16, 1.0, 1, 0.2, 0.1),
    ],
)
def test_each_stage_has_the_papers_values(name, steps, timestep, frames, scale, accumulated, static, dropout):
    args = parsed("--stage", name, *NEEDED)
    assert (args.stage, args.max_train_steps, args.max_timestep) == (name, steps, timestep)
    assert (args.num_frames, args.resolution_scale) == (frames, scale)
    assert args.gradient_accumulation_steps == accumulated
    assert (args.static_clip_probability, args.condition_dropout) == (static, dropout)
    assert (args.learning_rate, args.lr_warmup_steps, args.frame_sizes) == (1e-5, 500, [(896, 512)])
    assert not args.use_ema and args.snr_gamma is None and args.noise_offset == 0
    needed = {"procedural_clips": 2, "pretrained_model_name_or_path": "start", "output_dir": "run"}
    assert args == replace(STAGES[name], **needed), "in Python as on the command line"


def test_help_shows_the_defaults_of_the_stage(capsys):
    for stage, steps in (("regional", 4_000), ("temporal-half", 20_000)):
        with pytest.raises(SystemExit, match="0"):
            parsed("--stage", stage, "--help")
        printed = " ".join(capsys.readouterr().out.split())
        assert f"optimizer steps (default: {steps})" in printed and "after the warm-up (default: 1e-05)" in printed


def test_a_file_holds_options_for_all_stages_and_the_command_line_comes_first(tmp_path):
    stages = {"regional": {"learning_rate": 2e-5, "use_ema": False}, "spatial": {"max_train_steps": 7}}
    config = write_config(
        tmp_path,
        learning_rate=1e-4,
        use_ema=True,
        sizes=["512x896", "896x512"],
        snr_gamma=None,
        noise_offset=0.1,
        stages=stages,
    )
    spatial = parsed("--config", config, "--stage", "spatial", *NEEDED, "--noise_offset", 0)
    assert (spatial.learning_rate, spatial.max_train_steps, spatial.use_ema) == (1e-4, 7, True)
    assert spatial.frame_sizes == [(896, 512), (512, 896)] and spatial.snr_gamma is None and spatial.noise_offset == 0
    regional = parsed(*NEEDED, "--stage", "regional", "--config", config)
    assert (regional.learning_rate, regional.max_train_steps, regional.use_ema) == (2e-5, 4000, False)
    assert parsed("--config", config, "--stage", "regional", *NEEDED, "--use_ema").use_ema
    assert not parsed("--config", config, "--stage", "spatial", *NEEDED, "--no_use_ema").use_ema


def test_a_file_may_name_the_stage(tmp_path):
    config = write_config(tmp_path, stage="regional", stages={"regional": {"max_train_steps": 3}})
    args = parsed("--config", config, *NEEDED)
    assert (args.stage, args.max_train_steps) == ("regional", 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "--config: {} has the unknown options learning_rat."),
        ({"stages": {"spatial": {"use_emo": True}}}, "--config: {} has the unknown options use_emo."),
        ({"config": "other.yaml"}, "--config: {} has the unknown options config."),
        (
            {"stages": {"temporal_half": {}}},
            "--config: {} has the unknown stages temporal_half; valid ones are spatial, regional, temporal-half, "
            "temporal-full.",
        ),
        (
            {"mixed_precision": False},
            "--config: mixed_precision in {} is False; put words that YAML reads as true or false in quotes.",
        ),
        ({"use_ema": "on and off"}, "--config: use_ema in {} must be true or false, got 'on and off'."),
        ({"sizes": [["96x160"]]}, "--config: sizes in {} must be a value or a list of values."),
        ({"seed": {"a": 1}}, "--config: seed in {} must be a value or a list of values."),
        ({"stages": {"spatial": [1]}}, "--config: {} must contain options under each of `stages`."),
        ({"seed": -1}, "--seed must be an integer from 0 to 18446744073709551615, got -1."),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, capsys, values, message):
    config = write_config(tmp_path, **values)
    assert refusal(capsys, "--config", config, "--stage", "spatial", *NEEDED) == message.format(config)


def test_anchors_do_not_make_much_of_little(tmp_path, capsys):
    path, width = tmp_path / "config.yaml", 10
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, 12)]
    path.write_text("\n".join(["a0: &a0 [x]", *levels, "sizes: *a11"]))
    assert refusal(capsys, "--config", path, *NEEDED).startswith(f"--config: {path} has the unknown options a0, a1")
    inside = "[" * 3 + ", ".join(["&a0 x"]) + "]" * 3
    for level in range(1, 12):
        inside = f"[&a{level} {inside}, {', '.join([f'*a{level}'] * width)}]"
    path.write_text(f"sizes: {inside}")
    assert (
        refusal(capsys, "--config", path, *NEEDED) == f"--config: sizes in {path} must be a value or a list of values."
    )
    path.write_text("sizes: " + "[" * 10**5)
    assert refusal(capsys, "--config", path, *NEEDED).startswith(f"--config: {path} cannot be read: ")


def test_a_file_that_holds_no_options_is_refused(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    assert refusal(capsys, "--config", path, "--stage", "spatial", *NEEDED).startswith(
        f"--config: {path} cannot be read: [Errno 2]"
    )
    path.write_text("- learning_rate")
    assert refusal(capsys, "--config", path, "--stage", "spatial", *NEEDED) == (
        f"--config: {path} must contain options, and under `stages` those of stages."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_batch_size", 0], "--train_batch_size must be an integer from 1 to 2147483647, got 0."),
        (["--train_batch_size", 1.5], "argument --train_batch_size: invalid int value: '1.5'"),
        (["--max_train_steps", -1], "--max_train_steps must be an integer from 1 to 2147483647, got -1."),
        (["--lr_warmup_steps", -1], "--lr_warmup_steps must be an integer from 0 to 2147483647, got -1."),
        (["--learning_rate", 0], "--learning_rate must be a finite number, above 0, got 0.0."),
        (["--learning_rate", "nan"], "--learning_rate must be a finite number, above 0, got nan."),
        (["--learning_rate", "inf"], "--learning_rate must be a finite number, above 0, got inf."),
        (["--face_weight", -1], "--face_weight must be a finite number, at least 0, got -1.0."),
        (["--adam_beta1", 1], "--adam_beta1 must be a finite number, at least 0 and below 1, got 1.0."),
        (["--condition_dropout", 1.5], "--condition_dropout must be a finite number, at least 0 and at most 1, got "
         "1.5."),
        (["--max_timestep", 1000], "--max_timestep must be an integer from 0 to 999, got 1000."),
        (["--frame_stride", 1], "--frame_stride must be two integers, got [1]."),
        (["--sizes", "512"], "--sizes must be WIDTHxHEIGHT, such as 512x896, got '512'."),
        (["--sizes", "0x8"], "--sizes must be WIDTHxHEIGHT, such as 512x896, got '0x8'."),
        (["--use_ema", "perhaps"], "argument --use_ema: Truthy value expected: got perhaps "),
        (["--report_to", "paper"], "--report_to must be one of all, "),
        (["--report_to", "wandb"], "--report_to: wandb is not installed."),
        (["--train_data_dir", "data"], "give either --train_data_dir or --procedural_clips."),
        (["--snr_gamma", 5, "--loss_on", "sample"], "give either --snr_gamma or --loss_on sample: both weigh "
         "timesteps."),
        (["--pretrained_model_name_or_path", "./run"], "--output_dir must differ from "
         "--pretrained_model_name_or_path, which the run reads until its end."),
        (["--from_scratch", "net.yaml"], "unrecognized arguments: --from_scratch net.yaml"),
        (["--learning_rat", 1], "unrecognized arguments: --learning_rat 1"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence(capsys, arguments, message):
    if "wandb" in arguments and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    assert refusal(capsys, "--stage", "spatial", *NEEDED, *arguments).startswith(message)


@pytest.fixture
def stopped(capsys):
    """What the script says when it refuses to begin; without another process, as nothing has begun."""

    def run(folder, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            script.main([*map(str, arguments), "--output_dir", str(folder)])
        assert error.value.code == 2
        return capsys.readouterr().err.splitlines()[-1].removeprefix("train_hia.py: error: ")

    return run


def test_what_cannot_be_found_is_one_sentence(base, tmp_path, stopped):
    arguments = [*options(procedural_clips=None, train_data_dir=tmp_path), "--pretrained_model_name_or_path", base]
    assert str(tmp_path) in stopped(tmp_path / "run", *arguments)
    message = stopped(tmp_path / "run", *options(), "--pretrained_model_name_or_path", tmp_path / "none")
    assert message.startswith("--pretrained_model_name_or_path: ")
    assert str(tmp_path / "none") in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sizes": "33x48"}, "--sizes must be multiples of 2 times --resolution_scale 1, got 33x48."),
        ({"num_frames": 33}, "--num_frames must be at most 32, the maximum of the motion modules, got 33."),
    ],
)
def test_what_the_networks_cannot_take_is_one_sentence(base, tmp_path, more, message, stopped):
    assert stopped(tmp_path / "run", *options(**more), "--pretrained_model_name_or_path", base) == message


def test_a_folder_with_checkpoints_is_not_written_over(spatial, stopped):
    folder, arguments = spatial
    assert stopped(folder, *arguments) == (
        f"--output_dir: {folder} contains checkpoints of a run; resume with --resume_from_checkpoint latest, or "
        "use another folder."
    )


def keep_one_state_less(path):
    state = torch.load(path, weights_only=True)
    del state["state"][0]
    torch.save(state, path)


def change_step(path):
    state = torch.load(path, weights_only=True)
    state["progress"]["step"] = 3
    torch.save(state, path)


def change_shapes(path):
    save_file({name: value[..., None] for name, value in load_file(path).items()}, path)


CHECKPOINT_FILES = ("model.safetensors", "optimizer.bin", "run.pt", "random_states_0.pkl")


@pytest.fixture
def damaged(spatial, tmp_path, stopped):
    """A copy of the run to damage, and what resuming it says."""
    whole, arguments = spatial
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(whole / name, folder / name)
    shutil.copy(whole / "options.json", folder)
    return folder, lambda: stopped(folder, *arguments, "--resume_from_checkpoint", "latest")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, lambda path: path.write_bytes(b"")) for name in CHECKPOINT_FILES),
        *((name, lambda path: os.truncate(path, path.stat().st_size // 2)) for name in CHECKPOINT_FILES),
        *((name, lambda path: path.unlink()) for name in (*CHECKPOINT_FILES, "contents.json")),
        *((name, lambda path: path.write_text("{}")) for name in ("run.pt", "contents.json")),
        ("optimizer.bin", keep_one_state_less),
        ("run.pt", change_step),
        ("model.safetensors", change_shapes),
        ("optimizer.bin", lambda path: [path.unlink(), os.mkfifo(path)]),
    ],
)
def test_a_damaged_checkpoint_is_named_and_so_is_the_last_whole_one(damaged, name, damage):
    folder, resume = damaged
    damage(folder / "checkpoint-4" / name)
    before = entries(folder)
    message = resume()
    assert message.startswith(f"--resume_from_checkpoint: {folder / 'checkpoint-4' / name} is ")
    assert f"{folder / 'checkpoint-2'} is the last intact one." in message and "\n" not in message
    assert entries(folder) == before


def test_that_no_earlier_checkpoint_is_whole_is_said(damaged):
    folder, resume = damaged
    for step in (2, 4):
        (folder / f"checkpoint-{step}" / "run.pt").unlink()
    assert resume().endswith("no earlier one is intact.")


@pytest.mark.parametrize("content", [None, "", "[]", "{", "5", "null"])
def test_damaged_options_of_a_run_are_named(damaged, content):
    folder, resume = damaged
    (folder / "options.json").unlink()
    if content is not None:
        (folder / "options.json").write_text(content)
    path, whole = folder / "options.json", folder / "checkpoint-4"
    assert resume() == (
        f"--resume_from_checkpoint: {path}, which contains the run's options, is missing or damaged. The last intact "
        f"checkpoint is {whole}."
    )


def test_a_whole_checkpoint_of_another_step_or_of_other_networks_is_refused(damaged, coarse_base, spatial, stopped):
    folder, resume = damaged
    (folder / "checkpoint-4").rename(folder / "checkpoint-3")
    assert resume() == f"--resume_from_checkpoint: {folder / 'checkpoint-3' / 'run.pt'} belongs to step 4."
    base = spatial[1][spatial[1].index("--pretrained_model_name_or_path") + 1]
    arguments = [coarse_base if word == base else word for word in spatial[1]]
    options = json.loads((folder / "options.json").read_text())
    options["pretrained_model_name_or_path"] = str(coarse_base)
    (folder / "options.json").write_text(json.dumps(options))
    message = stopped(folder, *arguments, "--resume_from_checkpoint", "latest")
    assert message.startswith(f"--resume_from_checkpoint: {folder / 'checkpoint-3'} ") and "\n" not in message


def test_two_runs_do_not_write_to_one_folder(damaged):
    folder, resume = damaged
    with locked_folder(folder):
        assert resume() == f"--output_dir: Another run is writing to {folder}; wait for its end, or stop it."


def test_options_that_changed_are_named(spatial, stopped):
    folder, arguments = spatial
    more = ["--learning_rate", 0.5, "--seed", 3, "--resume_from_checkpoint", "latest"]
    assert stopped(folder, *arguments, *more) == (
        f"--resume_from_checkpoint: the run in {folder} had other options: --seed was 0, is 3, --learning_rate was "
        "0.001, is 0.5."
    )


def test_options_of_a_checkpoint_elsewhere_count_too(spatial, tmp_path, stopped):
    folder, arguments = spatial
    resume = ["--resume_from_checkpoint", folder / "checkpoint-2", "--seed", 3]
    assert "--seed was 0, is 3." in stopped(tmp_path / "run", *arguments, *resume)


def test_what_is_no_checkpoint_is_refused(spatial, tmp_path, stopped):
    folder, arguments = spatial
    for path in (folder / "checkpoint-3", folder / "unet"):
        message = stopped(tmp_path / "run", *arguments, "--resume_from_checkpoint", path)
        assert message == f"--resume_from_checkpoint: there is no checkpoint {path}."


def test_a_run_does_not_go_back(spatial, stopped):
    folder, arguments = spatial
    assert stopped(folder, *arguments, "--resume_from_checkpoint", folder / "checkpoint-2") == (
        f"--resume_from_checkpoint: {folder} contains a later checkpoint, of step 4; use another --output_dir to "
        "resume from an earlier one."
    )
    more = ["--resume_from_checkpoint", "latest", "--max_train_steps", 3]
    assert stopped(folder, *arguments, *more) == (
        f"--max_train_steps must be at least 4, the step of {folder / 'checkpoint-4'}, got 3."
    )


def test_scalars_videos_and_metrics_are_written(base, tmp_path):
    folder = tmp_path / "run"
    printed = train(
        folder,
        *options(steps=2, batches=1, validation_steps=2, validation_clips=1, validation_frames=3),
        *("--num_inference_steps", 2, "--report_to", "tensorboard", "--pretrained_model_name_or_path", base),
    )
    scalars = logged(folder)
    for tag in ("loss", "loss/noise", "lr", "grad_norm", "skipped_steps"):
        assert scalars[tag].keys() == {1, 2}
    (metrics,) = [json.loads(line) for line in printed.splitlines() if line.startswith('{"step": 2')]
    assert scalars["validation/psnr"] == {2: pytest.approx(metrics["psnr"])}
    assert {name for name in metrics if "hand" in name} and {name for name in metrics if "face" in name}
    frames = read_frames(folder / "validation" / "step-2" / "0.mp4", [0, 1, 2])
    assert frames.shape == (3, 48, 4 * 32, 3)


def test_out_of_memory_is_one_sentence_of_advice(base, tmp_path):
    arguments = options(steps=1, batches=1, sizes="256x384", train_batch_size=4)
    printed = train(
        tmp_path / "run", *arguments, "--pretrained_model_name_or_path", base, status=2, memory=400_000_000
    )
    assert "Traceback" not in printed, printed[-3500:]
    (message,) = [line for line in printed.splitlines() if "memory" in line]
    assert "--" in message, message


@pytest.mark.parametrize("stage", ["spatial", "regional", "temporal-half"])
def test_the_advice_counts_the_memory_of_the_stage(stage, coarse_base, arcface):
    """The very sentence that the estimate gives for what the batch holds."""
    regional = stage == "regional"
    more = {"sizes": "224x384", "train_batch_size": 2, "arcface": arcface if regional else None}
    args = parsed(*options(stage, **more), "--pretrained_model_name_or_path", coarse_base, "--output_dir", "run")
    pipeline = load_starting_point(coarse_base)
    networks = on_meta(HIADenoiser.of_pipeline(pipeline))
    face_network = IResNet.from_weights(arcface) if regional else None
    compute_losses = HIALosses(args, Accelerator(cpu=True), None, pipeline, face_network)
    dataset = build_dataset(args)
    batch = torch.utils.data.default_collate([dataset[0], dataset[1]])

    height, width = batch["pixel_values"].shape[-2:]
    shapes = ()
    if regional:
        latents = torch.zeros(batch["face_mask"].shape[0], 4, height // 8, width // 8)
        decoded = decode_windows(pipeline.vae, latents, compute_losses.windows(batch))
        shapes = tuple((images.shape[1], *images.shape[-2:]) for images in decoded)
        assert [number for number, _, _ in shapes] == [1, 2]
    setup = TrainingSetup(trained_parts(args), height, width, args.num_frames, batch_size=2, windows=shapes)
    decoder, frozen = (pipeline.vae, [face_network]) if regional else (None, [pipeline.vae])
    memory = estimate_training_memory(networks, setup, decoder, [*frozen, pipeline.image_encoder])
    assert advice(compute_losses, networks, batch).startswith(f"Out of memory: a step needs about {memory} and ")
    if regional:
        whole = estimate_training_memory(networks, replace(setup, windows=()), decoder, frozen)
        assert memory.activations < 0.9 * whole.activations
