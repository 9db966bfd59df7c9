# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hia_diffusers import MotionBlurConditioner
from hia_diffusers.conditioning import whole_body as kp
from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.pose_maps import POSE_MAPS, draw_pose_map


GOLDEN = Path(__file__).parent / "golden"
SIZES = {"moore-animate-anyone": (784, 512), "musepose": (1152, 768), "dynamicpose": (784, 512)}


def dancer(height=768, width=512):
    return WholeBodyKeypoints.load(GOLDEN / "keypoints.safetensors").fit(height, width)


@pytest.mark.parametrize("name", SIZES)
def test_pixels_equal_those_of_the_original_code(name):
    maps = draw_pose_map(dancer(*SIZES[name]), name)
    drawn_by_original = np.asarray(Image.open(GOLDEN / f"{name}.png"))
    np.testing.assert_array_equal(np.concatenate(list(maps), axis=1), drawn_by_original)


def test_maps_differ_from_each_other():
    maps = [draw_pose_map(dancer(1152, 768), name) for name in POSE_MAPS]
    for index, drawn in enumerate(maps):
        assert not any(np.array_equal(drawn, other) for other in maps[:index])


@pytest.mark.parametrize("name", POSE_MAPS)
def test_missing_and_far_points_are_not_drawn(name):
    xy = np.full((1, 133, 2), 1e6)
    xy[:, kp.LEFT_WRIST], xy[:, kp.RIGHT_WRIST] = 30.0, np.nan
    keypoints = WholeBodyKeypoints(xy, np.ones((1, 133)), 64, 80, 30)
    drawn = draw_pose_map(keypoints, name)
    assert drawn.shape == (1, 64, 80, 3) and drawn[0, 30, 30].any()
    assert drawn.any(axis=-1).mean() < 0.05


def test_conditioner_draws_its_pose_map(tmp_path):
    keypoints = dancer(160, 96)
    conditioner = MotionBlurConditioner.for_size(160, 96, pose_map="dynamicpose")
    conditioner.save_pretrained(tmp_path)
    pose = MotionBlurConditioner.from_pretrained(tmp_path)(keypoints).pose
    np.testing.assert_array_equal(pose, draw_pose_map(keypoints, "dynamicpose"))
    with pytest.raises(ValueError, match='`pose_map` must be one of "openpose", "moore-animate-anyone", "musepose"'):
        MotionBlurConditioner(pose_map="densepose")
