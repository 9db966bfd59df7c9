# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hia_diffusers.conversion.parts import convert_parts
from hia_diffusers.training.stages import STAGES


EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_NETWORKS = EXAMPLES / "configs" / "hia-tiny-networks.yaml"
CONFIGS = sorted(path for path in EXAMPLES.glob("configs/*.yaml") if not path.stem.endswith("-networks"))


def load_script():
    specification = importlib.util.spec_from_file_location("example_train_hia", EXAMPLES / "train_hia.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


train = load_script()


def parse(config, stage, *arguments):
    """As examples/train_all_stages.sh calls it; a config without data needs some."""
    given = ["--stage", stage, "--config", str(config), "--output_dir", f"runs/{stage}"]
    given += [] if "procedural_clips" in config.read_text() else ["--train_data_dir", "dataset"]
    given += [] if stage == "spatial" else ["--pretrained_model_name_or_path", "runs/before"]
    return train.parse_args([*given, *arguments])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_gives_every_stage_its_options(config, stage):
    args = parse(config, stage)
    content = yaml.safe_load(config.read_text())
    given = {**content, **(content["stages"].get(stage) or {})}
    del given["stages"]
    for name, value in given.items():
        assert getattr(args, name) == value, name
    for name in ("max_timestep", "num_frames", "resolution_scale", "max_train_steps", "gradient_accumulation_steps"):
        if name not in given:
            assert getattr(args, name) == getattr(STAGES[stage], name)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_sizes_fit_an_autoencoder_in_every_stage(config, stage):
    args = parse(config, stage)
    for side in (side for size in args.frame_sizes for side in size):
        assert side * args.resolution_scale % 8 == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_only_the_first_stage_has_a_starting_point(config):
    """Later stages start from the pipeline of the one before."""
    content = yaml.safe_load(config.read_text())
    assert "pretrained_model_name_or_path" in content["stages"]["spatial"]
    assert "pretrained_model_name_or_path" not in content
    for stage, options in content["stages"].items():
        assert stage in STAGES
        assert stage == "spatial" or "pretrained_model_name_or_path" not in options


@pytest.mark.parametrize(("name", "processes"), [("hia-paper", 8), ("hia-24gb", 1)])
def test_batches_are_those_of_the_paper(name, processes):
    for stage, samples in {"spatial": 32, "regional": 32, "temporal-half": 8, "temporal-full": 8}.items():
        args = parse(EXAMPLES / "configs" / f"{name}.yaml", stage)
        assert processes * args.train_batch_size * args.gradient_accumulation_steps == samples


def test_the_command_line_comes_before_the_config():
    args = parse(EXAMPLES / "configs" / "hia-paper.yaml", "spatial", "--learning_rate", "3e-6", "--sizes", "256x448")
    assert args.learning_rate == 3e-6
    assert args.frame_sizes == [(448, 256)]


def test_the_tiny_networks_fit_a_cpu():
    pipeline = convert_parts(TINY_NETWORKS).model
    networks = ("unet", "appearance_encoder", "controlnet")
    millions = {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) / 1e6 for name in networks}
    motion = [p.numel() for name, p in pipeline.unet.named_parameters() if ".motion_modules." in name]
    assert 2 < millions["unet"] - sum(motion) / 1e6 < 3.5
    assert 2 < millions["appearance_encoder"] < 3.5
    assert 1 < millions["controlnet"] < 1.6
    assert 0.5 < sum(motion) / 1e6 < 1
    parts = (getattr(pipeline, name) for name in (*networks, "vae", "image_encoder"))
    assert 2 * sum(p.numel() for part in parts for p in part.parameters()) <= 16e6  # bytes in half precision
    latents = pipeline.vae.config.latent_channels
    assert latents == pipeline.unet.config.in_channels == 56
    stride = 2 ** (len(pipeline.controlnet.config.conditioning_embedding_out_channels) - 1)
    assert stride == pipeline.vae_scale_factor


class TestAllStages:
    """examples/train_all_stages.sh with a launcher that trains nothing and says what it was asked for."""

    script = EXAMPLES / "train_all_stages.sh"

    @pytest.fixture
    def run(self, tmp_path):
        launcher = tmp_path / "launch.py"
        launcher.write_text(
            "import pathlib, sys\n"
            "arguments = sys.argv[2:]\n"
            "output = pathlib.Path(arguments[arguments.index('--output_dir') + 1])\n"
            "print('launched', *arguments)\n"
            "if (output.parent / 'fails').exists() and output.name == (output.parent / 'fails').read_text():\n"
            "    sys.exit(143)\n"
            "output.mkdir(parents=True)\n"
            "(output / 'model_index.json').touch()\n"
        )

        def run(*options):
            environment = {**os.environ, "LAUNCH": f"{sys.executable} {launcher}"}
            command = ["bash", self.script, tmp_path / "runs", "config.yaml", *options]
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        return run

    def launched(self, result):
        return [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("launched ")]

    def test_each_stage_starts_from_the_one_before(self, run, tmp_path):
        stages = self.launched(run("--train_data_dir", "data", "--seed=3"))
        assert [arguments[1] for arguments in stages] == list(STAGES)
        previous = []
        for stage, arguments in zip(STAGES, stages, strict=True):
            output = str(tmp_path / "runs" / stage)
            own = ["--stage", stage, "--config", "config.yaml", "--output_dir", output]
            resume = ["--resume_from_checkpoint", "latest"]
            assert arguments == [*own, *resume, *previous, "--train_data_dir", "data", "--seed=3"]
            previous = ["--pretrained_model_name_or_path", output]

    def test_it_stops_where_a_stage_fails_and_goes_on_there(self, run, tmp_path):
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "fails").write_text("temporal-half")
        first = run()
        assert first.returncode == 143
        assert [arguments[1] for arguments in self.launched(first)] == ["spatial", "regional", "temporal-half"]
        (tmp_path / "runs" / "fails").unlink()
        second = run()
        assert second.returncode == 0
        assert [arguments[1] for arguments in self.launched(second)] == ["temporal-half", "temporal-full"]

    @pytest.mark.parametrize(
        "option",
        [
            *("--pretrained_model_name_or_path=x", "--pretrained_model_name_or_path", "--stage"),
            *("--output_dir=runs", "--output_dir", "--resume_from_checkpoint", "--config"),
        ],
    )
    def test_options_that_would_break_the_chain_are_refused(self, run, option):
        result = run(option, "x")
        assert result.returncode == 2
        assert option.split("=")[0] in result.stderr
        assert not self.launched(result)

    def test_it_can_be_run(self):
        assert self.script.stat().st_mode & stat.S_IXUSR
