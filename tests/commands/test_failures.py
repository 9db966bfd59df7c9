# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a command computes is one line, too."""

import json
import shutil

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from hia_diffusers import HIA_TINY
from hia_diffusers.commands import animate, app, convert, evaluate, prepare
from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.commands.running import run
from hia_diffusers.data.clip_sources import UnreadableClipError
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video


@pytest.fixture
def calls(person_and_dance):
    """Of commands that run hia-tiny."""
    common = ["--model", str(HIA_TINY), "--num_inference_steps", "1", "--device", "cpu", "--output"]
    return {
        animate: [*person_and_dance, *common, "out.mp4"],
        evaluate: ["--dataset", "procdance-v1", "--size", "32x48", *common, "out.json"],
    }


@pytest.mark.parametrize("command", [animate, evaluate])
@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "hia-diffusers {}: error: CUDA out of memory.\n"),
        (MemoryError(), 2, "hia-diffusers {}: error: there is not enough memory\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (KeyError("BF16"), 2, ": 'BF16' (PYTHONDEVMODE=1 shows the traceback)\n"),
    ],
    ids=["GPU memory", "memory", "interrupt", "unexpected"],
)
def test_failures_while_the_model_runs(calls, tmp_path, capsys, command, failure, status, said):
    def fail(module, inputs):
        raise failure

    hook = register_module_forward_pre_hook(fail)
    try:
        with pytest.raises(SystemExit) as exit:
            command.main(calls[command])
    finally:
        hook.remove()
    assert exit.value.code == status
    assert capsys.readouterr().err.endswith(said.format(command.__name__.split(".")[-1]))
    assert not list(tmp_path.glob("*out*"))


def test_what_is_written_before_ctrl_c_is_kept(calls, tmp_path, caplog):
    ProceduralScene("test", 4, 1, 1).keypoints(range(20), height=160, width=96).save("dance.npz")

    def interrupt(module, inputs):
        if type(module).__name__ == "Decoder":
            decoded.append(len(inputs[0]))
            if len(decoded) == 2:
                raise KeyboardInterrupt

    decoded, hook = [], register_module_forward_pre_hook(interrupt)
    try:
        with pytest.raises(SystemExit) as exit:
            animate.main(calls[animate])
    finally:
        hook.remove()
    assert exit.value.code == 130 and decoded[0] == 2
    assert caplog.messages[-1] == "The first 2 frames are kept in out.unfinished.mp4."
    assert len(read_video("out.unfinished.mp4").frames) == 2 and not (tmp_path / "out.mp4").exists()


class Unreadable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UnreadableClipError("Clip 'x' of data cannot be read: it is empty")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_process_that_loads_data_raises_is_its_sentence(capsys, workers):
    parser = OneLineParser(prog="train.py")
    loader = torch.utils.data.DataLoader(Unreadable(), num_workers=workers)
    with pytest.raises(SystemExit, match="2"):
        run(parser, lambda args: next(iter(loader)), [])
    assert capsys.readouterr().err == "train.py: error: Clip 'x' of data cannot be read: it is empty\n"


def test_a_model_whose_weights_do_not_fit_is_named(calls, tmp_path, capsys):
    """transformers raises a `RuntimeError` then."""
    shutil.copytree(HIA_TINY, tmp_path / "model")
    path = tmp_path / "model/image_encoder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"projection_dim": 32}))
    with pytest.raises(SystemExit):
        animate.main([*calls[animate], "--model", "model"])
    assert "error: --model: 'model' cannot be loaded (" in capsys.readouterr().err.splitlines()[-1]


OUTPUT = ["--output", "out.mp4", "--device", "cpu", "--num_inference_steps", "1"]
SIZE = "argument --size: must be WIDTHxHEIGHT in multiples of {} from {} to 16384, at most 35651584 pixels in all"


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        *(
            (animate, ["--size", size], SIZE.format(8, 8))
            for size in (
                "20000x20000",
                "99999992x99999992",
                "16384x16384",
                "96x100000",
                f"{'9' * 5000}x8",
                "0x0",
            )
        ),
        (app, ["--size", "8200x8200"], SIZE.format(8, 8)),
        (evaluate, ["--size", "16392x16"], SIZE.format(8, 16)),
        (prepare, ["--size", "3x4"], SIZE.format(2, 16)),
        (prepare, ["--size", "16386x2"], SIZE.format(2, 16)),
        (animate, ["--max_frames=--"], "argument --max_frames: expected a value, got '--'"),
        (app, ["--queue_size=--"], "argument --queue_size: expected a value, got '--'"),
        (convert, ["controlnet", "--allow=--"], "argument --allow: expected a value, got '--'"),
        (animate, ["--variant", "fp16"], "--variant: needs --model"),
        (app, ["--variant", "fp16"], "--variant: needs --model"),
        (animate, ["--image", "a\0b"], "--image: there is no file 'a\\x00b'"),
        (animate, ["--driving", "a" * 5000], "--driving: there is no file 'aaa"),
        (animate, ["--image_keypoints", "person.png", "--retarget"], "--image_keypoints: must end in .safetensors, "),
    ],
)
def test_mistakes_are_one_line_that_names_the_option(person_and_dance, tmp_path, capsys, command, words, message):
    before = sorted(tmp_path.iterdir())
    given = [*person_and_dance, *OUTPUT] if command is animate else []
    with pytest.raises(SystemExit) as exit:
        command.main([*given, *words])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and f" error: {message}" in said and said.count("\n") == 1, said
    assert sorted(tmp_path.iterdir()) == before


def test_networks_that_cannot_be_read_are_named_by_their_options(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network": torch.nn.Linear(1, 1)}, "code.pth")
    (tmp_path / "text.onnx").write_text("I am a text.")
    for option, file in (
        *((option, "code.pth") for option in ("--inception", "--resnet3d", "--i3d", "--lpips")),
        *(("--inception", "none.pth"), ("--i3d", "a" * 5000), ("--lpips", "text.onnx")),
    ):
        with pytest.raises(SystemExit):
            evaluate.main(["--dataset", "procdance-v1", "--baseline", "copy", "--output", "o.json", option, file])
        said = capsys.readouterr().err
        assert f" error: {option}: " in said and said.count("\n") == 1 and "weights_only" not in said, said
