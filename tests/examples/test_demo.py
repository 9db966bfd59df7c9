# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from forked_python import run
from PIL import Image

from hia_diffusers.animation.result import COMMENT
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_comment, read_video


SCRIPT = Path(__file__).parents[2] / "examples" / "demo.py"


def test_films_explain_themselves(tmp_path):
    folder = tmp_path / "demo"
    options = ("--num_frames", 2, "--long_num_frames", 3, "--num_inference_steps", 2, "--seed", 3)
    result = run(SCRIPT, "--output", folder, *options)
    assert result.returncode == 0, result.stderr
    size = (28 + 2 * 160, 6 * 2 * 96)
    for name, shape in (("demo.mp4", (2, *size, 3)), ("long.mp4", (3, size[0], 4 * 2 * 96, 3))):
        assert read_comment(folder / name) == COMMENT
        assert read_video(folder / name).frames.shape == shape
    with Image.open(folder / "demo.gif") as animation:
        assert (animation.n_frames, animation.size) == (2, size[::-1])
    with Image.open(folder / "contact_sheet.png") as sheet:
        rows = np.asarray(sheet).reshape(2, *size, 3)
    captions = np.split(rows[0, :28], 6, axis=1)
    assert all((caption < 100).any() for caption in captions)  # each one is there, and no two are equal
    assert len({caption.tobytes() for caption in captions}) == 6
    pictures = rows[:, 28::2, ::2]
    assert (rows[:, 28:] == pictures.repeat(2, axis=1).repeat(2, axis=2)).all()
    reference, skeleton, low, auto, high, truth = np.split(pictures.astype(float), 6, axis=2)
    scene = ProceduralScene("test", identity=3, motion=3, setting=3)
    assert (truth == scene.render(range(2), 160, 96, 30).frames).all()
    assert (reference[0] == reference[1]).all() and (reference != truth).any()
    assert 0.5 < (skeleton == 0).mean() < 1  # lines on black
    assert np.abs(low - high).mean() > 0.1


@pytest.mark.parametrize(
    "options, named",
    [
        (["--num_frames", "0"], "--num_frames"),
        (["--num_inference_steps", "many"], "--num_inference_steps"),
        (["--model", "."], "--model"),
    ],
)
def test_bad_options_are_named(tmp_path, options, named):
    result = run(SCRIPT, "--output", tmp_path / "demo", *options)
    assert result.returncode == 2 and named in result.stderr.splitlines()[-1]
    assert not (tmp_path / "demo").exists()
