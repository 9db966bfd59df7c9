# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import pytest
from PIL import Image

from hia_diffusers.procedural.scene import ProceduralScene


@pytest.fixture
def person_and_dance(tmp_path, monkeypatch):
    """Options of `animate` that name a picture and keypoints of one frame, in the working folder."""
    monkeypatch.chdir(tmp_path)
    clip = ProceduralScene("test", identity=4, motion=1, setting=1).render(range(1), height=160, width=96)
    clip.keypoints.save("dance.npz")
    Image.fromarray(clip.frames[0]).save("person.png")
    return ["--image", "person.png", "--driving", "dance.npz"]
