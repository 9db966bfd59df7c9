# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes on the CPU, launched with the shipped configurations of accelerate, do what one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked_python
import pytest
import torch
import training_runs
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small_networks import NETWORKS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hia_diffusers import HIAPipeline
from hia_diffusers.conversion.parts import convert_parts
from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.training.launch import build_accelerator


ACCELERATE_CONFIGS = Path(__file__).parents[2] / "examples" / "configs" / "accelerate"

# Of gradients about zero, Adam with its small epsilon would make steps of either sign.
COMMON = (
    "--pretrained_model_name_or_path start --procedural_clips 12 --sizes 32x48 --max_train_steps 2 "
    "--checkpointing_steps 1 --learning_rate 1e-3 --lr_warmup_steps 0 --adam_epsilon 1e-4 --max_grad_norm 0.5 "
    "--report_to tensorboard"
)
RUNS = {
    "spatial": "--stage spatial --gradient_accumulation_steps 2 --condition_dropout 0.5",
    "unconditional": "--stage spatial --gradient_accumulation_steps 1 --condition_dropout 1",
    "regional": "--stage regional --gradient_accumulation_steps 1",
    "temporal": "--stage temporal-half --gradient_accumulation_steps 1 --num_frames 2",
}


def options(name, folder, batch_size, more=""):
    return f"{RUNS[name]} {COMMON} --train_batch_size {batch_size} --output_dir {folder} {more}".split()


def resumed(name, folder, from_folder):
    return options(name, folder, 1, f"--resume_from_checkpoint {from_folder}/checkpoint-1")


def launch(folder, name, runs):
    (folder / f"{name}.json").write_text(json.dumps(runs))
    config = ["--config_file", ACCELERATE_CONFIGS / f"{name}.yaml", "--num_processes", "2", "--mixed_precision", "no"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *config, "--main_process_port", "0"]
    command = [*launcher, training_runs.__file__, f"{name}.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    convert_parts(NETWORKS).save_pretrained(folder / "start")
    return folder


@pytest.fixture(scope="module")
def one_process(folder):
    (folder / "one.json").write_text(json.dumps([options(name, f"one/{name}", 2) for name in RUNS]))
    done = forked_python.run(training_runs.__file__, "one.json", cwd=folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "one"


@pytest.fixture(scope="module")
def ddp(folder):
    runs = [options(name, f"ddp/{name}", 1) for name in RUNS]
    launch(folder, "ddp", [*runs, resumed("spatial", "ddp/resumed", "ddp/spatial")])
    return folder / "ddp"


@pytest.fixture(scope="module")
def fsdp(folder):
    runs = [
        options("spatial", "fsdp/spatial", 1),
        resumed("spatial", "fsdp/resumed", "fsdp/spatial"),
        options("temporal", "fsdp/temporal", 1, "--gradient_checkpointing"),
    ]
    launch(folder, "fsdp", runs)
    return folder / "fsdp"


def metrics(folder):
    """What was logged at every step."""
    metrics = {}
    for path in {path.parent for path in folder.glob("logs/**/events*")}:
        events = EventAccumulator(str(path)).Reload()
        for name in events.Tags()["scalars"]:
            metrics |= {(name, event.step): event.value for event in events.Scalars(name)}
    return metrics


def weights(folder):
    return {
        f"{network}.{name}": value
        for network in ("appearance_encoder", "controlnet", "unet")
        for name, value in load_file(folder / network / "diffusion_pytorch_model.safetensors").items()
    }


def assert_same_run(folder, expected):
    ours, others = metrics(folder), metrics(expected)
    assert {("loss", 1), ("loss", 2), ("grad_norm", 2)} <= others.keys() == ours.keys()
    for key, value in others.items():
        assert ours[key] == pytest.approx(value, rel=1e-5), key
    torch.testing.assert_close(weights(folder), weights(expected), rtol=0, atol=5e-6)


@pytest.fixture(scope="module")
def initial_weights():
    pipeline = convert_parts(NETWORKS).model
    return HIADenoiser.of_pipeline(pipeline).state_dict()


@pytest.mark.parametrize("name", RUNS)
def test_ddp_is_one_process_with_the_same_batch(name, one_process, ddp, initial_weights):
    assert_same_run(ddp / name, one_process / name)
    # The tolerance is small against what training changes.
    change = max((value - initial_weights[key]).abs().max() for key, value in weights(ddp / name).items())
    assert change > 3e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spatial", "temporal"])
def test_fsdp_is_one_process_with_the_same_batch(name, one_process, fsdp):
    assert_same_run(fsdp / name, one_process / name)


@pytest.mark.slow
def test_fsdp_has_split_the_weights(fsdp, initial_weights):
    metadata = torch.distributed.checkpoint.FileSystemReader(
        fsdp / "spatial" / "checkpoint-2" / "pytorch_model_fsdp_0"
    ).read_metadata()
    name = "model.unet.down_blocks.0.resnets.0.conv1.weight"
    assert metadata.state_dict_metadata.keys() == {f"model.{name}" for name in initial_weights}
    assert len(metadata.state_dict_metadata[name].chunks) == 2


def test_ddp_resumes_exactly(ddp):
    ours, expected = weights(ddp / "resumed"), weights(ddp / "spatial")
    # Equal bits: a resumed run makes the same steps by the same kernels in as many threads.
    assert all(torch.equal(ours[name], value) for name, value in expected.items())
    assert metrics(ddp / "resumed") == {key: value for key, value in metrics(ddp / "spatial").items() if key[1] == 2}


@pytest.mark.slow
def test_fsdp_resumes(fsdp):
    # Equal bits: a resumed run makes the same steps by the same kernels in as many threads.
    torch.testing.assert_close(weights(fsdp / "resumed"), weights(fsdp / "spatial"), rtol=0, atol=0)


@pytest.mark.slow
def test_fsdp_exports_the_pipeline_of_ddp(ddp, fsdp):
    pipelines = [HIAPipeline.from_pretrained(folder / "spatial") for folder in (ddp, fsdp)]
    for name, network in pipelines[0].components.items():
        if isinstance(network, torch.nn.Module):
            ours = pipelines[1].components[name].state_dict()
            torch.testing.assert_close(ours, network.state_dict(), rtol=0, atol=5e-6)


def test_fsdp_without_gpus_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    script = training_runs.load_script()
    Accelerator(cpu=True)
    with pytest.raises(ValueError, match="FSDP between several GPUs only"):
        build_accelerator(script.parse_args(options("spatial", "refused", 1)))
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("deepspeed_zero2", "DEEPSPEED")])
def test_accelerate_reads_the_configurations(name, kind):
    config = load_config_from_file(str(ACCELERATE_CONFIGS / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, 8, "bf16")
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == 2
