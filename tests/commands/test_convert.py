# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import re
from pathlib import Path

import pytest
import torch
import yaml
from published_weights import SMALL_SIZE, draw_weights, motion_shapes, write_image_encoder, write_magic_animate
from small_networks import NETWORKS

from hia_diffusers import HIAPipeline
from hia_diffusers.commands import convert
from hia_diffusers.conversion.parts import convert_parts


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_magic_animate(tmp_path_factory.mktemp("published"))


def mistake(capsys, *arguments):
    """The one line that a refused command prints."""
    with pytest.raises(SystemExit) as exit_:
        convert.main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_pipeline_is_written_and_its_keys_are_reported(published, tmp_path, capsys):
    output = tmp_path / "converted"
    options = ["--dtype", "float16", "--variant", "fp16"]
    convert.main(
        ["magic-animate", "--weights", str(published / "weights"), "--base", str(published / "base")]
        + ["--output", str(output), *options]
    )
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"unet +560 +0 +0 +.*temporal_attention.ckpt", lines[2])
    assert lines[-1] == f"Written to {output}."
    pipeline = HIAPipeline.from_pretrained(output, variant="fp16", dtype=torch.float16)
    assert pipeline.unet.dtype is torch.float16
    assert "# converted" in (output / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


def test_allowed_keys(tmp_path, capsys):
    weights = draw_weights(motion_shapes(SMALL_SIZE, 32, True), "unet")
    lost = "mid_block.motion_modules.0.temporal_transformer.proj_in.bias"
    weights.pop(lost)
    torch.save({**weights, "stray": torch.ones(1)}, tmp_path / "mm.ckpt")
    command = ["motion-adapter", "--weights", tmp_path / "mm.ckpt", "--output", tmp_path / "adapter"]
    assert "stray is none" in mistake(capsys, *command)
    missing = "mid_block.motion_modules.0.proj_in.bias"
    assert f"{missing} is missing" in mistake(capsys, *command, "--allow", "stray")
    convert.main([str(part) for part in (*command, "--allow", "stray", missing)])
    printed = capsys.readouterr().out
    assert f"Made:\n  motion_adapter: {missing}\nLeft:\n  motion_adapter: stray\n" in printed


def test_mistakes_are_one_line_and_leave_nothing(published, tmp_path, capsys):
    output = tmp_path / "converted"
    common = ["magic-animate", "--weights", published / "weights", "--output", output]
    assert "--base must be a local folder" in mistake(capsys, *common, "--base", tmp_path / "none")
    assert "--revision: cannot be combined with --weights" in mistake(capsys, *common, "--revision", "v1")
    assert "invalid choice" in mistake(capsys, "magic", *common[1:])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "mm.ckpt").write_bytes(b"PK\x03\x04")
    damaged = ["motion-adapter", "--weights", tmp_path / "bad" / "mm.ckpt", "--output", output]
    assert "cannot be read: it is damaged or truncated" in mistake(capsys, *damaged)
    assert not output.exists()
    output.mkdir()
    assert f"--output must be a new folder, but {output} exists" in mistake(capsys, *damaged)


def test_other_sources_are_wired(tmp_path, capsys):
    folder = write_image_encoder(tmp_path / "variations")
    convert.main(["image-encoder", "--weights", str(folder), "--output", str(tmp_path / "encoder")])
    assert (tmp_path / "encoder" / "preprocessor_config.json").is_file()
    capsys.readouterr()
    for source in ("moore-animate-anyone", "champ"):
        command = [source, "--weights", tmp_path, "--base", tmp_path, "--image_encoder", folder]
        assert "--weights: there is no file" in mistake(capsys, *command, "--output", tmp_path / "out")
    for source, options in (
        ("stable-diffusion", ["--config", tmp_path]),
        ("controlnet", ["--config", tmp_path, "--conditioning_channels", 6]),
    ):
        command = [source, "--weights", tmp_path / "none", *options, "--output", tmp_path / "out"]
        assert "--weights must be a local folder" in mistake(capsys, *command)


def test_parts_become_a_pipeline_to_train(tmp_path, capsys):
    (tmp_path / "networks.yaml").write_text(yaml.safe_dump(NETWORKS))
    options = ["--prediction_type", "sample", "--snr_shift_factor", "0.5", "--seed", "3"]
    command = ["parts", "--base", tmp_path / "networks.yaml", *options, "--output", tmp_path / "start"]
    convert.main([str(word) for word in command])
    printed = capsys.readouterr().out
    assert re.search(r"^unet +0 +208 +0 +new$", printed, re.MULTILINE)
    assert "scheduler: linear betas, gamma 0.5, sample" in printed
    pipeline = HIAPipeline.from_pretrained(tmp_path / "start")
    assert (pipeline.scheduler.config.prediction_type, pipeline.scheduler.config.snr_shift_factor) == ("sample", 0.5)
    expected = convert_parts(NETWORKS, seed=3).model.unet.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in pipeline.unet.state_dict().items())

    # Another schedule for the same weights.
    command = ["parts", "--base", tmp_path / "start", "--snr_shift_factor", 1, "--output", tmp_path / "other"]
    convert.main([str(word) for word in command])
    assert "scheduler: snr_shift_factor 1.0 in place of 0.5" in capsys.readouterr().out
    other = HIAPipeline.from_pretrained(tmp_path / "other")
    assert (other.scheduler.config.prediction_type, other.scheduler.config.snr_shift_factor) == ("sample", 1.0)
    assert all(torch.equal(value, expected[name]) for name, value in other.unet.state_dict().items())
    capsys.readouterr()
    command = ["parts", "--base", tmp_path / "none", "--output", tmp_path / "third"]
    assert f"--base: {tmp_path / 'none'} cannot be read" in mistake(capsys, *command)


def test_the_commands_of_the_docs_are_commands():
    text = (ROOT / "docs" / "conversion.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^hia-diffusers convert (.*)$", text, re.MULTILINE)
    assert {command.split()[0] for command in commands} == {*convert.SOURCES, "parts"}
    for command in commands:
        convert.make_parser().parse_args(command.split())
