# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from hia_diffusers import MotionBlurConditioner
from hia_diffusers.conditioning.conditioning_clips import ConditioningClips
from hia_diffusers.fitting import fit_images
from hia_diffusers.procedural.scene import ProceduralScene


HEIGHT, WIDTH = 80, 48


@pytest.fixture(scope="module")
def condition():
    dance = ProceduralScene("train", identity=0, motion=0, setting=0).render(range(6), HEIGHT, WIDTH)
    return MotionBlurConditioner.for_size(HEIGHT, WIDTH)(dance.keypoints, dance.frames)


def test_what_is_read_is_part_of_the_whole(condition):
    whole = condition.to_tensor()
    clips = ConditioningClips.from_any([condition, whole], channels=6)
    assert (len(clips), clips.num_frames, clips.height, clips.width) == (2, 6, HEIGHT, WIDTH)
    for frames in (range(6), range(2, 4), [5, 0]):
        read = clips.read(frames)
        assert read.dtype == torch.float32
        assert torch.equal(read, torch.stack([whole[list(frames)]] * 2))
    assert ConditioningClips.from_any(clips, channels=6) is clips


def test_frames_are_resized_as_the_whole_clip_would_be(condition):
    whole = fit_images(condition.to_tensor(), 40, 56)
    clips = ConditioningClips.from_any(condition, channels=6).resize(40, 56)
    assert torch.equal(clips.read([1, 3])[0], whole[[1, 3]])


def test_repetitions_of_a_clip_are_side_by_side(condition):
    whole = condition.to_tensor()
    clips = ConditioningClips.from_any(torch.stack([whole, whole.flip(0)]), channels=6).repeat_to(4)
    assert torch.equal(clips.read(range(6)), torch.stack([whole, whole, whole.flip(0), whole.flip(0)]))


def test_pose_maps_alone_leave_the_blur_unknown(condition):
    maps = condition.to_tensor()[:, :3]
    read = ConditioningClips.from_any(maps, channels=6).read(range(6))[0]
    assert torch.equal(read[:, :3], maps) and not read[:, 3:].any()


@pytest.mark.parametrize("form", ["condition", "tensor"])
def test_the_pose_serves_for_a_controlnet_of_three_channels(condition, form):
    whole = condition.to_tensor()
    given = condition if form == "condition" else whole
    assert torch.equal(ConditioningClips.from_any(given, channels=3).read([4, 1])[0], whole[[4, 1], :3])
    with pytest.raises(ValueError, match="must have the 4 channels of the ControlNet, got 6"):
        ConditioningClips.from_any(given, channels=4)


@pytest.mark.parametrize("sharpness", [-0.1, 1.5])
def test_sharpness_beyond_its_range_is_refused(condition, sharpness):
    wrong = condition[:2]
    wrong.hand_sharpness = np.full((2, 2), sharpness, dtype=np.float32)
    with pytest.raises(ValueError, match=r"`conditioning_frames` must contain .* in \[0, 1\]"):
        ConditioningClips.from_any(wrong, channels=6)


def test_some_frames_of_a_condition_are_a_condition(condition):
    whole = condition.to_tensor()
    assert torch.equal(condition[2:5].to_tensor(), whole[2:5])
    assert torch.equal(condition[[4, 1]].to_tensor(), whole[[4, 1]])
    assert condition[1:].max_motion == condition.max_motion
