# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A photograph is animated with a video of a person, whose keypoints are detected without a download."""

import numpy as np
import pytest
from mediapipe_wheel import MEDIAPIPE_WHEEL, needs_mediapipe
from PIL import Image

from hia_diffusers import HIAAnimator
from hia_diffusers.commands import animate
from hia_diffusers.conditioning.whole_body import BODY, LEFT_SHOULDER, RIGHT_SHOULDER
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


pytestmark = needs_mediapipe


@pytest.fixture(scope="module")
def dance():
    return ProceduralScene("test", 3, 3, 3).render(range(0, 16, 4), 448, 256, fps=30)


@pytest.fixture(scope="module")
def files(dance, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photograph")
    astronaut = pytest.importorskip("skimage.data").astronaut()
    Image.fromarray(astronaut).save(folder / "me.png")
    write_video(folder / "dance.mp4", dance.frames, fps=7.5)
    return folder


def test_the_command_says_what_detects(files, capsys):
    words = ["--image", "me.png", "--driving", "dance.mp4", "--output", "out.mp4"]
    paths = [str(files / word) if not word.startswith("--") else word for word in words]
    options = ["--detector", "mediapipe", "--pose_model", str(MEDIAPIPE_WHEEL), "--device", "cpu"]
    animate.main([*paths, *options, "--size", "96x96", "--num_inference_steps", "1"])
    printed = capsys.readouterr().out
    assert "Keypoints are detected with MediaPipe on CPU." in printed
    assert "The person was detected in 4 of 4 frames of the driving clip." in printed
    assert "The motion is retargeted to the person in the image." in printed
    assert read_video(files / "out.mp4").frames.shape == (4, 96, 96, 3)


def test_the_motion_is_that_of_the_video_where_the_person_is(files, dance):
    animator = HIAAnimator(detector={"detector": "mediapipe", "pose_model": MEDIAPIPE_WHEEL})
    animation = animator.prepare(files / "me.png", files / "dance.mp4", height=512, width=512)
    error = np.linalg.norm(animation.detected.xy - dance.keypoints.xy, axis=-1)[:, BODY]
    visible = dance.keypoints.score[:, BODY] == 1
    assert np.nanmedian(error[visible]) < 0.03 * 448
    shoulders = animation.retargeted.xy[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=(0, 1))
    expected = animation.image_keypoints.xy[0, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=0)
    assert np.linalg.norm(shoulders - expected) < 80
    assert animation.condition.pose.any(axis=(1, 2, 3)).all()
