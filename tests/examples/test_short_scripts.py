# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The scripts that show in a few lines what a command does; each writes or prints what the command would."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from dancing_videos import BLUE, dancer_boxes, write_dance
from onnx_models import write_models
from PIL import Image
from published_weights import write_moore

from hia_diffusers import HIAPipeline
from hia_diffusers.commands import animate
from hia_diffusers.preparation.clip_index import read_index
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Runs a script as `python` does, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_animate_makes_the_frames_of_the_command(script):
    clip = ProceduralScene("test", identity=4, motion=1, setting=1).render(range(2), height=160, width=96)
    clip.keypoints.save("dance.npz")
    Image.fromarray(clip.frames[0]).save("person.png")
    words = ["--image", "person.png", "--driving", "dance.npz", "--device", "cpu", "--num_inference_steps", "1"]
    script("animate.py", *words, "--output", "out.mp4")
    animate.main([*words, "--output", "expected.mp4"])
    np.testing.assert_array_equal(read_video("out.mp4").frames, read_video("expected.mp4").frames)


def test_prepare_dataset_makes_clips_of_its_own_limits(script, capsys):
    write_dance(Path("videos/dance.mp4"), [(dancer_boxes(18), BLUE)])
    models = [word for name, file in write_models(Path()).items() for word in (f"--{name}", str(file))]
    script("prepare_dataset.py", "--videos", "videos", "--output", "dataset", "--size", "96x128", *models)
    assert [(row["num_frames"], row["width"], row["height"]) for row in read_index("dataset")] == [(18, 96, 128)]
    assert "its frames are (4, 3, 128, 96)." in capsys.readouterr().out


def test_convert_weights_writes_a_pipeline(script, tmp_path, capsys):
    write_moore(tmp_path)
    sources = ["--weights", "weights", "--base", "base", "--image_encoder", "variations"]
    script("convert_weights.py", *sources, "--output", "moore")
    assert HIAPipeline.from_pretrained("moore").unet.config.sample_size
    assert "moore holds vae, " in capsys.readouterr().out


def test_evaluate_hia_scores_videos_by_their_names(script, capsys):
    Path("predictions").mkdir()
    Path("targets").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    for name, level in (("same", 0), ("other", 40)):
        write_video(f"targets/{name}.mp4", frames, 30)
        write_video(f"predictions/{name}.mp4", frames // 2 + level, 30)
    script("evaluate_hia.py", "--predictions", "predictions", "--targets", "targets")
    printed = capsys.readouterr().out
    psnr = {name: float(value) for name, value in re.findall(r"^(\w+): PSNR ([0-9.]+) dB", printed, re.MULTILINE)}
    assert psnr.keys() == {"same", "other"} and psnr["same"] < psnr["other"]
    assert re.search(r"^psnr +[0-9.]+ +higher +32 frames$", printed, re.MULTILINE)
