# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The command `hia-diffusers` as users run it; what each command does is tested with the examples."""

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import forked_python
import numpy as np
import pytest
from dancing_videos import BLUE, FPS, dancer_boxes, draw_scene
from onnx_models import draw_people, write_models
from PIL import Image
from sounding_videos import sound_codec, sound_end, write_clip

from hia_diffusers.__main__ import COMMANDS, main
from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.video.reading import read_video


SOURCE = Path(__file__).parents[2] / "src"


# In a process that has imported torch already.
run_forked = partial(forked_python.run, "-m", "hia_diffusers")


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_needs_no_torch(words):
    program = (
        "import json, sys\nfrom hia_diffusers.__main__ import main\ntry:\n    main([*sys.argv[1:], '--help'])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *words]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {' '.join(['hia-diffusers', *words])} ")
    if not words:
        assert all(name in result.stdout for name in COMMANDS)
    loaded = {name.split(".")[0] for name in json.loads(result.stderr.splitlines()[-1])}
    assert loaded.isdisjoint({"torch", "diffusers", "transformers", "gradio"})


@pytest.mark.parametrize(
    ("given", "spins"), [({}, 1000), ({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "PASSIVE"}, 0)]
)
def test_threads_that_wait_sleep(given, spins):
    """As the OpenMP of torch reads it."""
    program = "from hia_diffusers.__main__ import main\ntry:\n    main(['--version'])\nfinally:\n    import torch"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment |= {"PYTHONPATH": str(SOURCE), "OMP_DISPLAY_ENV": "verbose", **given}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    if "GOMP_" not in result.stderr:
        pytest.skip("torch has another OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in result.stderr


def test_the_console_can_print_any_name(monkeypatch):
    """Examples, which have parsers of the same class, included."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    OneLineParser().parse_args([])
    print("結果.mp4", flush=True)  # noqa: T201
    assert console.buffer.getvalue() == rb"\u7d50\u679c.mp4" + os.linesep.encode()


def test_the_installed_script_is_this_command():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="hia-diffusers")
    assert entry.load().__module__ == "hia_diffusers.__main__"
    script = Path(sys.executable).with_name("hia-diffusers")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"hia-diffusers {importlib.metadata.version('hia-diffusers')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "hia-diffusers: error: the following arguments are required: COMMAND"),
        (["dance"], "hia-diffusers: error: argument COMMAND: invalid choice: 'dance'"),
        (["anim"], "hia-diffusers: error: argument COMMAND: invalid choice: 'anim'"),
        (["--fast", "animate"], "hia-diffusers: error: "),
        (["animate"], "hia-diffusers animate: error: the following arguments are required: --image"),
        (["prepare", "--videos", "none", "--output", "out"], "hia-diffusers prepare: error: --videos is neither"),
        (["evaluate", "--output", "scores.json"], "hia-diffusers evaluate: error: give --predictions and --targets"),
        (["app", "--port", "0"], "hia-diffusers app: error: argument --port: must be a whole number from 1 to 65535"),
        (
            ["app", "--watermark", "künstlich"],
            "hia-diffusers app: error: --watermark: its text must be printable ASCII",
        ),
        (
            ["app", "--invisible_watermark"],
            "hia-diffusers app: error: --watermark: an invisible one needs frames of at",
        ),
        (["convert", "dall-e"], "hia-diffusers convert: error: argument SOURCE: invalid choice: 'dall-e'"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_exit_with_two(tmp_path, words, message):
    result = run_forked(*words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A video of a person with sound, a picture of another, and the models that find them."""
    folder = tmp_path_factory.mktemp("inputs")
    write_clip(folder / "dance.mkv", "pcm_s16le", frames=draw_scene(dancer_boxes(6), BLUE))
    Image.fromarray(draw_people([[(60, 8, 76, 60)]], 64, 96)[0]).save(folder / "person.png")
    write_models(folder)
    return folder


def animate(inputs, *words):
    models = [word for name in ("detector", "pose", "feet") for word in (f"--{name}_model", f"{name}.onnx")]
    clip = [
        "--image",
        "person.png",
        "--driving",
        "dance.mkv",
        "--device",
        "cpu",
        "--size",
        "48x32",
        "--num_inference_steps",
        "2",
    ]
    return run_forked("animate", *clip, *models, *words, cwd=inputs)


def test_a_video_of_a_person_with_sound_drives_hia_tiny(inputs, tmp_path):
    result = animate(inputs, "--output", tmp_path / "out.mp4", "--max_frames", 4, "--guidance_scale", 1)
    assert result.returncode == 0, result.stderr
    assert "The person was detected in 4 of 4 frames of the driving clip." in result.stdout
    wrote = (
        f"Wrote {tmp_path / 'out.mp4'}: 4 frames of 48x32 at 30 frames per second, with the sound of the driving.\n"
    )
    assert result.stdout.endswith(wrote)
    video = read_video(tmp_path / "out.mp4")
    assert video.frames.shape == (4, 32, 48, 3) and video.fps == FPS and np.ptp(video.frames) > 0
    assert sound_codec(tmp_path / "out.mp4") == "aac"
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(4 / FPS, abs=0.002)


def test_the_sound_can_be_left_out_and_the_preview_has_none(inputs, tmp_path):
    options = ["--output", tmp_path / "out.mp4", "--max_frames", 2, "--guidance_scale", 1, "--preview"]
    result = animate(inputs, *options, "--no_sound")
    assert result.returncode == 0, result.stderr
    assert "2 frames of 48x32 at 30 frames per second.\n" in result.stdout
    assert sound_codec(tmp_path / "out.mp4") is sound_codec(tmp_path / "out_preview.mp4") is None


def test_names_that_the_console_cannot_print_are_no_failure(person_and_dance, tmp_path, monkeypatch):
    (tmp_path / "person.png").rename(tmp_path / "人物.png")
    words = [*person_and_dance[2:], "--image", "人物.png", "--output", "結果.mp4", "--num_inference_steps", "1"]
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    main(["animate", *words, "--preview", "--device", "cpu"])
    console.flush()
    printed = console.buffer.getvalue().decode("cp1252")
    assert "Wrote \\u7d50\\u679c.mp4: 1 frame" in printed and "\\u679c_preview.mp4" in printed
    assert len(read_video(tmp_path / "結果.mp4").frames) == len(read_video(tmp_path / "結果_preview.mp4").frames) == 1


def test_a_missing_extra_is_named(inputs, tmp_path):
    """onnxruntime is hidden behind a module of the working folder that cannot be imported."""
    folder = shutil.copytree(inputs, tmp_path / "inputs")
    (folder / "onnxruntime.py").write_text("raise ImportError('hidden')")
    result = animate(folder, "--output", tmp_path / "out.mp4")
    assert result.returncode == 2
    message = "`KeypointDetector` needs the `pose` extra: pip install 'hia-diffusers[pose]'."
    assert result.stderr.splitlines()[-1] == f"hia-diffusers animate: error: {message}"
    assert not (tmp_path / "out.mp4").exists()


def test_the_page_names_its_extra_before_the_model_is_loaded(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('hidden')")
    result = run_forked("app", "--model", "none", cwd=tmp_path)
    message = "`hia-diffusers app` needs the `demo` extra: pip install 'hia-diffusers[demo]'."
    assert (result.returncode, result.stderr) == (2, f"hia-diffusers app: error: {message}\n")
