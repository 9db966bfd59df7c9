# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from hia_diffusers.conditioning import whole_body as kp
from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.openpose import draw_openpose
from hia_diffusers.detection.openpose_detector import import_openpose


SCORE_THRESHOLD = 0.3


def only(points, height=100, width=80):
    """One frame in which only the given points, {index: (x, y)}, are there."""
    xy = np.full((1, 133, 2), np.nan)
    for index, point in points.items():
        xy[0, index] = point
    return WholeBodyKeypoints(xy, np.ones((1, 133)), height, width, 30)


def random_keypoints(height, width, num_frames, whole_numbers):
    random = np.random.default_rng(0)
    xy = random.uniform(-0.2, 1.2, (num_frames, 133, 2)) * [width, height]
    xy = np.floor(xy) if whole_numbers else xy
    return WholeBodyKeypoints(xy, random.uniform(0, 1, (num_frames, 133)), height, width, 30)


def draw_with_controlnet_aux(keypoints, frame, hands):
    """The detector's drawing of the same points, which it holds normalised: bodies in float64, others in float32."""
    open_pose = import_openpose()
    canvas = np.zeros((keypoints.height, keypoints.width, 3), dtype=np.uint8)
    size = np.array([keypoints.width, keypoints.height])

    def part(points):
        xy = keypoints.xy[frame, points].copy()
        xy[keypoints.score[frame, points] <= SCORE_THRESHOLD] = -1
        return [open_pose.Keypoint(x, y) for x, y in xy / size.astype(np.float32)]

    body_xy, body_score = keypoints.openpose_body()
    body = [
        open_pose.Keypoint(*(xy.astype(np.float64) / size)) if score > SCORE_THRESHOLD else None
        for xy, score in zip(body_xy[frame], body_score[frame], strict=True)
    ]
    open_pose.util.draw_bodypose(canvas, body)
    if hands:
        open_pose.util.draw_handpose(canvas, part(kp.LEFT_HAND))
        open_pose.util.draw_handpose(canvas, part(kp.RIGHT_HAND))
    return open_pose.util.draw_facepose(canvas, part(kp.FACE))


@pytest.mark.parametrize("whole_numbers", [False, True])
@pytest.mark.parametrize("height, width", [(768, 512), (333, 517), (96, 161)])
@pytest.mark.parametrize("hands", [False, True])
def test_pixels_equal_those_of_controlnet_aux(height, width, whole_numbers, hands):
    if hands:
        pytest.importorskip("matplotlib", reason="controlnet-aux draws hands with matplotlib's colours")
    keypoints = random_keypoints(height, width, 5, whole_numbers)
    if not hands:
        keypoints.score[:, kp.LEFT_HAND] = keypoints.score[:, kp.RIGHT_HAND] = 0
    maps = draw_openpose(keypoints, SCORE_THRESHOLD)
    assert maps.any(axis=(1, 2, 3)).all()
    for frame, drawn in enumerate(maps):
        np.testing.assert_array_equal(drawn, draw_with_controlnet_aux(keypoints, frame, hands))


def test_limbs_are_dimmed_and_joints_are_not():
    drawn = draw_openpose(only({kp.RIGHT_SHOULDER: (20.5, 50.5), kp.RIGHT_ELBOW: (60.5, 50.5)}))[0]
    assert drawn.dtype == np.uint8 and drawn.shape == (100, 80, 3)
    np.testing.assert_array_equal(drawn[50, 20], (255, 170, 0))
    np.testing.assert_array_equal(drawn[50, 60], (255, 255, 0))
    np.testing.assert_array_equal(drawn[50, 40], (153, 102, 0))
    # A limb is 9 pixels wide in its middle, a joint 9 pixels across.
    np.testing.assert_array_equal(np.flatnonzero(drawn[:, 40].any(axis=-1)), range(46, 55))
    np.testing.assert_array_equal(np.flatnonzero(drawn[:, 20].any(axis=-1)), range(46, 55))


def test_left_and_right_have_their_own_colours():
    points = {kp.LEFT_WRIST: (60, 50), kp.RIGHT_WRIST: (20, 50), kp.LEFT_ANKLE: (60, 90), kp.RIGHT_EAR: (20, 10)}
    drawn = draw_openpose(only(points))[0]
    np.testing.assert_array_equal(drawn[50, 60], (0, 255, 85))
    np.testing.assert_array_equal(drawn[50, 20], (170, 255, 0))
    np.testing.assert_array_equal(drawn[90, 60], (85, 0, 255))
    np.testing.assert_array_equal(drawn[10, 20], (255, 0, 170))


def test_hands_and_face():
    hand = kp.LEFT_HAND.start
    drawn = draw_openpose(only({hand: (20, 30), hand + 1: (60, 30), hand + 5: (20, 70), kp.FACE.start: (60, 80)}))[0]
    for x, y in ((20, 30), (60, 30), (20, 70)):
        np.testing.assert_array_equal(drawn[y, x], (0, 0, 255))
    np.testing.assert_array_equal(drawn[30, 40], (255, 0, 0))  # the thumb's first bone: hue 0
    np.testing.assert_array_equal(drawn[50, 20], (204, 255, 0))  # the index finger's: hue 4 / 20
    np.testing.assert_array_equal(drawn[80, 60], (255, 255, 255))
    np.testing.assert_array_equal(np.flatnonzero(drawn[:, 60].any(axis=-1))[-7:], range(77, 84))


def test_feet_are_not_drawn():
    assert not draw_openpose(only(dict.fromkeys(range(17, 23), (40, 40)))).any()


def test_points_below_the_threshold_are_not_drawn():
    keypoints = only({kp.NOSE: (40, 40), kp.FACE.start: (20, 20)})
    keypoints.score[:] *= 0.5
    assert draw_openpose(keypoints, score_threshold=0.4).any()
    assert not draw_openpose(keypoints, score_threshold=0.6).any()


@pytest.mark.parametrize("far", [-50.0, 3e4, 1e6, -1e12, 1e30])
def test_missing_and_far_points_leave_the_map_black(far):
    assert not draw_openpose(only({})).any()
    points = dict.fromkeys(range(133), (far, far))
    assert not draw_openpose(only(points)).any()


def test_a_limb_that_leaves_the_image_is_cut_by_its_border():
    drawn = draw_openpose(only({kp.RIGHT_SHOULDER: (40, 50), kp.RIGHT_ELBOW: (120, 50)}))[0]
    assert drawn[50, 79].any()


def test_line_scale_thins_sticks_and_circles():
    keypoints = only({kp.RIGHT_SHOULDER: (20, 50), kp.RIGHT_ELBOW: (60, 50), kp.FACE.start: (60, 80)})
    heights = [draw_openpose(keypoints, line_scale=scale)[0][:, 40].any(axis=-1).sum() for scale in (2, 1, 0.5, 0.01)]
    assert heights == [17, 9, 5, 3]
    assert draw_openpose(keypoints, line_scale=0.01)[0][80].any(axis=-1).sum() == 1


def test_flipped_keypoints_draw_the_mirrored_map():
    random = np.random.default_rng(1)
    xy = random.uniform(0.05, 0.95, (1, 133, 2)) * [300, 400]
    keypoints = WholeBodyKeypoints(xy, np.ones((1, 133)), 400, 300, 30)
    keypoints.score[:, : kp.FACE.start] = 0
    keypoints.xy[:, : kp.FACE.start] = np.nan
    drawn, mirrored = draw_openpose(keypoints)[0, :, ::-1], draw_openpose(keypoints.flip_horizontal())[0]
    white, mirrored_white = (drawn == 255).all(axis=-1), (mirrored == 255).all(axis=-1)
    np.testing.assert_array_equal(white, mirrored_white)
    assert white.sum() > 500
