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


def test_three_sharpnesses_beside_the_truth(tmp_path):
    result = run(SCRIPT, "--output", tmp_path / "demo", "--num_frames", 2, "--num_inference_steps", 2, "--seed", 3)
    assert result.returncode == 0, result.stderr
    assert read_comment(tmp_path / "demo" / "demo.mp4") == COMMENT
    frames = read_video(tmp_path / "demo" / "demo.mp4").frames
    assert frames.shape == (2, 174, 5 * 96, 3)
    reference, low, auto, high, truth = np.split(frames[:, 14:].astype(float), 5, axis=2)
    scene = ProceduralScene("test", identity=3, motion=3, setting=3)
    assert np.abs(truth - scene.render(range(2), 160, 96, 30).frames).mean() < 8  # of the codec
    assert np.abs(reference[0] - reference[1]).mean() < 2 < np.abs(reference - truth).mean()
    assert np.abs(low - high).mean() > 0.1
    with Image.open(tmp_path / "demo" / "demo.gif") as animation:
        assert (animation.n_frames, animation.size) == (2, (5 * 96, 174))


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
