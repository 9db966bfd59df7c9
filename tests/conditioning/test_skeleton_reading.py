# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Skeletons that the package draws from exact keypoints are read back."""

import numpy as np
import pytest

from hia_diffusers import WholeBodyKeypoints
from hia_diffusers.conditioning.pose_maps import draw_pose_map
from hia_diffusers.conditioning.skeleton_reading import read_skeletons
from hia_diffusers.conditioning.whole_body import BODY, FACE, LEFT_HAND, NOSE, RIGHT_HAND, SCORE_THRESHOLD
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


SIZE = {"height": 768, "width": 512}
LIMBS = slice(5, 17)
HANDS = slice(91, 133)


@pytest.fixture(scope="module")
def keypoints():
    """Three people in two poses each."""
    clips = [ProceduralScene("test", each, each, each).keypoints([0, 40], **SIZE) for each in range(3)]
    xy, score = (np.concatenate([getattr(clip, name) for clip in clips]) for name in ("xy", "score"))
    return WholeBodyKeypoints(xy, score, **SIZE, fps=30)


def errors(read, drawn, points):
    """The fraction of drawn points that are read, and their errors in pixels."""
    visible = drawn.score[:, points] > SCORE_THRESHOLD
    found = visible & (read.score[:, points] > 0)
    return found.sum() / visible.sum(), np.linalg.norm(read.xy[:, points] - drawn.xy[:, points], axis=-1)[found]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("pose_map", ["openpose", "moore-animate-anyone", "musepose"])
def test_bodies_are_read(keypoints, tmp_path, pose_map, encoded):
    maps = draw_pose_map(keypoints, pose_map)
    if encoded:
        write_video(tmp_path / "pose.mp4", maps, 30)
        maps = read_video(tmp_path / "pose.mp4").frames
    read = read_skeletons(maps, 30)
    assert (len(read), read.height, read.width, read.fps) == (6, 768, 512, 30)
    assert set(np.unique(read.score)) == {0, 1}
    found, distances = errors(read, keypoints, LIMBS)
    assert found > 0.97 and np.median(distances) < 1 and np.percentile(distances, 90) < 5


def test_hands_and_faces_are_read(keypoints):
    read = read_skeletons(draw_pose_map(keypoints), 30)
    found, distances = errors(read, keypoints, HANDS)
    assert found > 0.8 and np.median(distances) < 1
    found, distances = errors(read, keypoints, FACE)
    assert found == 1 and np.median(distances) < 8
    assert read.score[:, NOSE].all()


def test_what_is_not_drawn_is_missing(keypoints):
    score = keypoints.score.copy()
    score[:, [*range(7, 17), *range(17, 133)]] = 0  # head and shoulders, without their arms
    score[:, 7:11] = keypoints.score[:, 7:11]
    score[2:4] = 0
    upper = WholeBodyKeypoints(keypoints.xy, score, **SIZE, fps=30)
    read = read_skeletons(draw_pose_map(upper), 30)
    assert not read.score[:, 11:].any() and not read.score[2:4].any()
    assert read.score[[0, 1, 4, 5], 5:11].mean() > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda keypoints: draw_pose_map(keypoints, "dynamicpose"), "can be read in 0 of 6 frames only"),
        (lambda keypoints: np.zeros((3, 64, 48, 3), np.uint8), "can be read in 0 of 3 frames only"),
        (lambda keypoints: ProceduralScene("test", 0, 0, 0).render([0], **SIZE).frames, "can be read in 0 of 1"),
        (
            lambda keypoints: np.concatenate([draw_pose_map(keypoints), draw_pose_map(keypoints)], axis=2),
            "shows several people",
        ),
    ],
)
def test_other_pictures_are_refused(keypoints, make, message):
    with pytest.raises(ValueError, match=message):
        read_skeletons(make(keypoints), 30)


def test_parts_of_a_hand_that_are_read_are_those_of_one_side(keypoints):
    read = read_skeletons(draw_pose_map(keypoints), 30)
    for hand, wrist in ((LEFT_HAND, 9), (RIGHT_HAND, 10)):
        is_read = read.score[:, hand].any(axis=1)
        roots = read.xy[is_read, hand][:, 0]
        assert is_read.any() and np.linalg.norm(roots - keypoints.xy[is_read, wrist], axis=-1).max() < 40
    assert read.score[:, BODY].mean() > 0.8
