# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import sys
from dataclasses import replace

import numpy as np
import pytest

from hia_diffusers.conditioning import whole_body as kp
from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.retargeting import fill_gaps, retarget_keypoints, smooth_keypoints


ARMS = ((kp.LEFT_SHOULDER, kp.LEFT_ELBOW, kp.LEFT_WRIST), (kp.RIGHT_SHOULDER, kp.RIGHT_ELBOW, kp.RIGHT_WRIST))
LEGS = ((kp.LEFT_HIP, kp.LEFT_KNEE, kp.LEFT_ANKLE), (kp.RIGHT_HIP, kp.RIGHT_KNEE, kp.RIGHT_ANKLE))
SHOULDERS, HIPS = (kp.LEFT_SHOULDER, kp.RIGHT_SHOULDER), (kp.LEFT_HIP, kp.RIGHT_HIP)
ANKLES, WRISTS = [kp.LEFT_ANKLE, kp.RIGHT_ANKLE], [kp.LEFT_WRIST, kp.RIGHT_WRIST]
LIMBS = [SHOULDERS, HIPS, *(chain[joint : joint + 2] for chain in (*ARMS, *LEGS) for joint in (0, 1))]
LEFT_FOOT = slice(kp.FEET.start, kp.FEET.start + 3)

# Bones in pixels; shoulder and hip are half widths, head, hand and foot the sizes of those parts.
ADULT = {
    **{"torso": 150, "neck": 60, "shoulder": 50, "upper_arm": 80, "forearm": 65, "hip": 28, "thigh": 115},
    **{"shank": 110, "head": 40, "hand": 40, "foot": 30},
}
CHILD = {
    **{"torso": 84, "neck": 33, "shoulder": 25, "upper_arm": 40, "forearm": 31, "hip": 15, "thigh": 50},
    **{"shank": 49, "head": 34, "hand": 19, "foot": 15},
}


def dance(num_frames, seed=0):
    """Angles in radians of the bones of a smooth dance in the plane of the image, each `(F,)` or `(F, 2)`."""
    random = np.random.default_rng(seed)
    time = np.linspace(0, 2 * np.pi, num_frames)[:, None]

    def swing(center, size):
        return center + size * np.sin(random.uniform(0.5, 2, 2) * time + random.uniform(0, 2 * np.pi, 2))

    return {
        "torso": swing(0, 0.1)[:, 0],
        "neck": swing(0, 0.2)[:, 0],
        "shoulder": swing(0, 0.1)[:, 0],
        "hip": swing(0, 0.1)[:, 0],
        "upper_arm": swing(0.8, 0.7),
        "forearm": swing(1.2, 1.2),
        "thigh": swing(0.2, 0.2),
        "shank": swing(0.0, 0.3),
        "hand": swing(0.5, 0.8),
    }


def person(bones, angles, pelvis=(256.0, 384.0), growth=1.0, height=768, width=512, fps=30.0):
    """Someone with these bones and angles, in front of a camera that makes him grow by a factor `(F,)`."""
    num_frames = len(angles["torso"])
    growth = np.broadcast_to(growth, num_frames)
    xy = np.full((num_frames, 133, 2), np.nan)

    def away(joint, name, angle, side=1):
        """From a joint downwards, turned outwards by the angle."""
        return joint + (growth * bones[name] * np.array([side * np.sin(angle), np.cos(angle)])).T

    pelvis = np.broadcast_to(pelvis, (num_frames, 2))
    neck = away(pelvis, "torso", np.pi + angles["torso"])
    xy[:, kp.NOSE] = away(neck, "neck", np.pi + angles["neck"])
    for side, (arm, leg) in enumerate(zip(ARMS, LEGS, strict=True)):
        sign = 1 - 2 * side
        xy[:, arm[0]] = away(neck, "shoulder", np.pi / 2 + sign * angles["shoulder"], sign)
        xy[:, arm[1]] = away(xy[:, arm[0]], "upper_arm", angles["upper_arm"][:, side], sign)
        xy[:, arm[2]] = away(xy[:, arm[1]], "forearm", angles["forearm"][:, side], sign)
        xy[:, leg[0]] = away(pelvis, "hip", np.pi / 2 + sign * angles["hip"], sign)
        xy[:, leg[1]] = away(xy[:, leg[0]], "thigh", angles["thigh"][:, side], sign)
        xy[:, leg[2]] = away(xy[:, leg[1]], "shank", angles["shank"][:, side], sign)
        hand = (kp.LEFT_HAND, kp.RIGHT_HAND)[side]
        xy[:, hand.start] = xy[:, arm[2]]
        for index in range(20):
            finger, joint = divmod(index, 4)
            tip = away(xy[:, arm[2]], "hand", angles["hand"][:, side] + 0.15 * (finger - 2), sign)
            xy[:, hand.start + 1 + index] = xy[:, arm[2]] + (0.4 + 0.2 * joint) * (tip - xy[:, arm[2]])
        for index, angle in enumerate((0.9, 1.2, -0.4)):
            xy[:, kp.FEET.start + 3 * side + index] = away(xy[:, leg[2]], "foot", angle * np.ones(num_frames), sign)
    for index, angle in enumerate(np.linspace(0, 2 * np.pi, 72)):
        point = range(1, 5)[index] if index < 4 else kp.FACE.start + index - 4
        xy[:, point] = away(xy[:, kp.NOSE], "head", angle * np.ones(num_frames))
    return WholeBodyKeypoints(xy, np.full(xy.shape[:2], 0.9), height, width, fps)


def without(keypoints, points, frames=slice(None)):
    """The same person with points missing."""
    score = keypoints.score.copy()
    score[frames, points] = 0
    return replace(keypoints, score=score)


def vectors(keypoints, start, end):
    xy = keypoints.xy.astype(np.float64)
    return xy[:, end] - xy[:, start]


def lengths(keypoints, start, end):
    return np.linalg.norm(vectors(keypoints, start, end), axis=-1)


def directions(keypoints, start, end):
    return np.degrees(np.arctan2(*vectors(keypoints, start, end).T))


def size(keypoints, points):
    """Root mean square distance of points from their centre `(F,)`."""
    xy = keypoints.xy[:, points].astype(np.float64)
    return np.sqrt(np.square(xy - xy.mean(axis=1, keepdims=True)).sum(axis=-1).mean(axis=-1))


def moving(values, fps=30.0, score=0.9):
    """Keypoints that are all at `x = values, y = 2 * values`, NaN where they are missing."""
    values = np.asarray(values, dtype=np.float64)
    xy = np.stack([values, 2 * values], axis=-1)[:, None].repeat(133, axis=1)
    return WholeBodyKeypoints(xy, np.broadcast_to(score, xy.shape[:1])[:, None].repeat(133, axis=1), 64, 64, fps)


def assert_same(first, second):
    np.testing.assert_array_equal(first.xy, second.xy)
    np.testing.assert_array_equal(first.score, second.score)
    assert (first.height, first.width, first.fps) == (second.height, second.width, second.fps)


# Filling gaps


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("gap", [1, 2, 3])
def test_a_short_gap_is_crossed_on_a_curve(order, gap):
    motion = 0.01 * np.arange(12.0) ** order
    broken = motion.copy()
    broken[5 : 5 + gap] = np.nan
    np.testing.assert_allclose(fill_gaps(moving(broken)).xy, moving(motion).xy, atol=1e-4)


def test_a_gap_with_few_frames_around_is_crossed_on_a_line_or_a_parabola():
    filled = fill_gaps(moving([np.nan, 1, np.nan, np.nan, 7]))
    np.testing.assert_allclose(filled.xy[1:, 5, 0], [1, 3, 5, 7], atol=1e-5)
    filled = fill_gaps(moving([0, np.nan, 4, np.nan, 16]))
    np.testing.assert_allclose(filled.xy[:, 5, 0], [0, 1, 4, 9, 16], atol=1e-5)


def test_a_filled_point_has_a_lower_score_the_farther_it_is_from_a_found_one():
    score = np.array([0.5, 0.8, 0, 0, 0, 0.6, 0.9], dtype=np.float32)
    filled = fill_gaps(moving(np.arange(7), score=score), max_gap=0.1)
    np.testing.assert_allclose(filled.score[:, 5], [0.5, 0.8, 0.525, 0.45, 0.525, 0.6, 0.9], rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_a_filled_point_counts_as_found_however_unsure_its_neighbours_are(threshold):
    score = np.array([1, threshold + 0.01, 0, 0, 0, threshold + 0.02, 1])
    filled = fill_gaps(moving(np.arange(7), score=score), max_gap=0.1, score_threshold=threshold)
    assert (filled.score > threshold).all()


def test_a_point_with_a_low_score_is_a_gap():
    keypoints = moving([0, 1, 50, 3, 4], score=np.array([0.9, 0.9, 0.2, 0.9, 0.9]))
    np.testing.assert_allclose(fill_gaps(keypoints).xy[:, 5, 0], [0, 1, 2, 3, 4], atol=1e-5)
    assert_same(fill_gaps(keypoints, score_threshold=0.1), keypoints)


def test_longer_gaps_and_the_ends_of_the_clip_stay_missing():
    values = np.arange(14.0)
    values[[0, 4, 5, 6, 7, 13]] = np.nan
    assert_same(fill_gaps(moving(values)), moving(values))
    assert np.isfinite(fill_gaps(moving(values), max_gap=0.14).xy[1:13]).all()


@pytest.mark.parametrize("fps, filled", [(10, 1), (30, 3), (60, 6)])
def test_the_longest_gap_is_a_time(fps, filled):
    for gap, is_filled in ((filled, True), (filled + 1, False)):
        values = np.arange(20.0)
        values[5 : 5 + gap] = np.nan
        assert np.isfinite(fill_gaps(moving(values, fps)).xy).all() == is_filled
    assert_same(fill_gaps(moving(values, fps), max_gap=0), moving(values, fps))


def test_filling_leaves_found_points_and_its_input_alone():
    keypoints = person(ADULT, dance(20))
    assert_same(fill_gaps(keypoints), keypoints)
    broken = without(keypoints, kp.NOSE, 7)
    before = replace(broken)
    filled = fill_gaps(broken)
    assert_same(broken, before)
    others = np.arange(133) != kp.NOSE
    np.testing.assert_array_equal(filled.xy[:, others], keypoints.xy[:, others])
    assert np.abs(filled.xy[7, kp.NOSE] - keypoints.xy[7, kp.NOSE]).max() < 0.5


# Smoothing


def jittered(keypoints, size, seed=0):
    noise = np.random.default_rng(seed).normal(0, size, keypoints.xy.shape)
    return replace(keypoints, xy=keypoints.xy + noise.astype(np.float32))


def test_smoothing_takes_most_of_the_jitter_out_of_the_body():
    truth = person(ADULT, dance(90))
    noisy = jittered(truth, 1.5)
    smooth = smooth_keypoints(noisy)
    body = [*range(kp.LEFT_WRIST), *range(kp.LEFT_HIP, kp.BODY.stop)]

    def rms(clip, order):
        return np.sqrt(np.square(np.diff(clip.xy[:, body] - truth.xy[:, body], order, axis=0)).mean())

    assert rms(smooth, 0) < 0.7 * rms(noisy, 0)
    assert rms(smooth, 2) < 0.3 * rms(noisy, 2)


def test_hands_with_their_wrists_feet_and_face_are_left_alone():
    noisy = jittered(person(ADULT, dance(30)), 1.5)
    smooth = smooth_keypoints(noisy)
    untouched = [kp.LEFT_WRIST, kp.RIGHT_WRIST, *range(kp.FEET.start, 133)]
    np.testing.assert_array_equal(smooth.xy[:, untouched], noisy.xy[:, untouched])
    np.testing.assert_array_equal(smooth.score, noisy.score)
    assert (smooth.xy[5:-5, kp.LEFT_ELBOW] != noisy.xy[5:-5, kp.LEFT_ELBOW]).all()


def test_parts_choose_what_is_smoothed():
    noisy = jittered(person(ADULT, dance(30)), 1.5)
    for part, changed in {
        "feet": range(17, 23),
        "face": range(23, 91),
        "hands": [kp.LEFT_WRIST, kp.RIGHT_WRIST, *range(91, 133)],
    }.items():
        smooth = smooth_keypoints(noisy, parts=[part])
        np.testing.assert_array_equal(np.flatnonzero((smooth.xy != noisy.xy).any(axis=(0, 2))), changed)
    assert_same(smooth_keypoints(noisy, parts=[]), noisy)


def test_a_parabola_is_kept_from_its_first_frame_to_its_last():
    motion = moving(0.05 * (np.arange(25.0) - 10) ** 2)
    np.testing.assert_allclose(smooth_keypoints(motion).xy, motion.xy, atol=1e-4)


@pytest.mark.parametrize("fps, width", [(12, 0), (15, 0), (25, 7), (30, 7), (60, 15)])
def test_the_window_is_a_time(fps, width):
    bump = np.zeros(41)
    bump[20] = 10
    smooth = smooth_keypoints(moving(bump, fps)).xy[:, 5, 0]
    changed = np.flatnonzero(np.abs(smooth - bump) > 1e-4)
    assert len(changed) == width
    if width:
        np.testing.assert_array_equal(changed, range(20 - width // 2, 21 + width // 2))


def test_points_on_the_two_sides_of_a_long_gap_do_not_mix():
    values = np.concatenate([np.zeros(10), np.full(5, np.nan), np.full(10, 40.0)])
    np.testing.assert_allclose(smooth_keypoints(moving(values)).xy, moving(values).xy, atol=1e-4)


def test_a_point_with_a_low_score_neither_changes_nor_counts():
    values = np.zeros(30)
    values[12:18] = 50
    score = np.where(values > 0, 0.2, 0.9)
    keypoints = moving(values, score=score)
    assert_same(smooth_keypoints(keypoints), keypoints)


@pytest.mark.parametrize("length", range(1, 9))
def test_a_short_run_is_smoothed_as_far_as_it_allows(length):
    values = np.random.default_rng(length).normal(0, 1, length)
    smooth = smooth_keypoints(moving(values))
    assert np.isfinite(smooth.xy).all()
    assert np.allclose(smooth.xy, moving(values).xy, atol=1e-4) == (length < 5)


def test_smoothing_fills_short_gaps_everywhere():
    keypoints = person(ADULT, dance(60))
    smooth = smooth_keypoints(without(keypoints, slice(None), [10, 11]))
    assert np.nanmax(np.abs(smooth.xy - keypoints.xy)) < 1 and np.isfinite(smooth.xy).all()
    assert (smooth.score[[10, 11]] < keypoints.score[[10, 11]]).all()
    assert np.isnan(smooth_keypoints(without(keypoints, slice(None), 10), max_gap=0).xy[10]).all()


def test_smoothing_without_scipy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(ImportError, match=r"hia-diffusers\[pose\]"):
        smooth_keypoints(moving(np.arange(5)))


# Retargeting


@pytest.mark.parametrize("seed", range(5))
def test_an_own_frame_as_the_reference_changes_nothing(seed):
    walk = np.array([256, 384]) + np.linspace(0, 60, 40)[:, None] * [1.0, -0.2]
    driving = person(ADULT, dance(40, seed), walk, growth=np.linspace(1, 1.3, 40))
    driving = without(driving, [kp.LEFT_ELBOW, 100, 40], slice(5, 25))
    for frame in range(0, 40, 3):
        result = retarget_keypoints(driving, driving[frame : frame + 1])
        error = np.nanmax(np.abs(result.xy - driving.xy))
        assert error < 1e-3, f"frame {frame}: {error} pixels"
        np.testing.assert_array_equal(result.score, driving.score)


def test_an_own_frame_of_a_still_person_who_moves_the_hands_changes_nothing():
    moving_hands = dance(12)["hand"]
    angles = {name: np.repeat(angle[:1], 12, axis=0) for name, angle in dance(12).items()}
    driving = person(ADULT, {**angles, "hand": moving_hands})
    palms = [kp.LEFT_HAND.start + 5, kp.RIGHT_HAND.start + 5]
    driving.xy[:, palms] += np.linspace(0, 20, 12)[:, None, None].astype(np.float32)
    for frame in range(12):
        result = retarget_keypoints(driving, driving[frame : frame + 1])
        np.testing.assert_allclose(result.xy, driving.xy, atol=1e-3)


def test_a_still_person_who_is_moved_about_is_found_by_his_place():
    walk = np.array([256, 384]) + np.linspace(0, 60, 10)[:, None] * [1.0, -0.2]
    still = {name: np.repeat(angle[:1], 10, axis=0) for name, angle in dance(10).items()}
    driving = person(ADULT, still, walk)
    result = retarget_keypoints(driving, jittered(driving[7:8], 0.2))
    assert np.abs(result.xy - driving.xy).max() < 3


def test_a_frame_that_shows_the_whole_pose_is_preferred_to_one_that_shows_a_part_of_it():
    reference, angles = person(CHILD, dance(1, 3), (150, 250)), dance(1, 3)
    angles = {name: np.concatenate([angle, angle + 0.05]) for name, angle in angles.items()}
    driving = without(person(ADULT, angles, [(200, 384), (300, 384)]), [i for leg in LEGS for i in leg[1:]], 0)
    result = retarget_keypoints(driving, reference)
    np.testing.assert_allclose(result.xy[1, ANKLES].mean(axis=0), reference.xy[0, ANKLES].mean(axis=0), atol=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_limbs_take_the_lengths_of_the_reference_and_keep_the_directions_of_the_driver(seed):
    random = np.random.default_rng(seed)
    bones = {name: length * random.uniform(0.85, 1.15) for name, length in CHILD.items()}
    growth = np.linspace(1, random.uniform(0.8, 1.4), 48)
    driving = person(ADULT, dance(48, seed), growth=growth)
    reference = person(bones, dance(1, seed + 100), (180, 300), height=480, width=360)
    result = retarget_keypoints(driving, reference)
    relative = np.stack([lengths(result, *limb) / lengths(reference, *limb) for limb in LIMBS])
    most_alike = np.abs(relative[0] - 1).argmin()
    change = np.abs(relative / (growth / growth[most_alike]) - 1).max()
    turn = max(np.abs(directions(result, *limb) - directions(driving, *limb)).max() for limb in LIMBS)
    assert change < 1e-4, f"limb lengths differ by {100 * change:.4f}%"
    assert turn < 0.01, f"limb directions differ by {turn:.4f} degrees"


def test_an_adults_dance_becomes_the_childs():
    angles = dance(48)
    driving = person(ADULT, angles)
    truth = person(CHILD, angles, (180, 300), height=480, width=360)
    result = retarget_keypoints(driving, truth[20:21])
    assert (result.height, result.width, result.fps) == (480, 360, 30.0)
    error = np.linalg.norm(result.xy - truth.xy, axis=-1)
    assert error.max() < 0.01, f"{error.max():.4f} pixels"


def test_head_hands_and_feet_have_their_own_scales():
    bones = {**CHILD, "head": 40, "hand": 26, "foot": 12}
    driving, reference = person(ADULT, dance(30)), person(bones, dance(1, 3))
    result = retarget_keypoints(driving, reference)
    for points, name in ((kp.FACE, "head"), (kp.LEFT_HAND, "hand"), (kp.RIGHT_HAND, "hand"), (LEFT_FOOT, "foot")):
        np.testing.assert_allclose(size(result, points) / size(driving, points), bones[name] / ADULT[name], rtol=1e-3)


def test_a_fist_in_the_reference_does_not_shrink_the_hands():
    driving, reference = person(ADULT, dance(30)), person(CHILD, dance(1, 3))
    for hand in (kp.LEFT_HAND, kp.RIGHT_HAND):
        fingers = [hand.start + index for index in range(21) if index not in (0, 5, 9, 13, 17)]
        reference.xy[:, fingers] = reference.xy[:, [hand.start + 9]]
    result = retarget_keypoints(driving, reference)
    ratio = size(result, kp.LEFT_HAND) / size(driving, kp.LEFT_HAND)
    np.testing.assert_allclose(ratio, CHILD["hand"] / ADULT["hand"], rtol=1e-3)


def test_hands_feet_and_head_stay_on_their_limbs():
    result = retarget_keypoints(person(ADULT, dance(30)), person(CHILD, dance(1, 3)))
    for hand, wrist in ((kp.LEFT_HAND, kp.LEFT_WRIST), (kp.RIGHT_HAND, kp.RIGHT_WRIST)):
        np.testing.assert_allclose(result.xy[:, hand.start], result.xy[:, wrist], atol=1e-3)
    reach = np.linalg.norm(result.xy[:, LEFT_FOOT] - result.xy[:, [kp.LEFT_ANKLE]], axis=-1)
    np.testing.assert_allclose(reach, reach[0, 0], rtol=1e-3)


def test_a_crouching_driver_stands_on_the_spot_where_the_reference_stands():
    angles = dance(1)
    crouching = {**angles, "thigh": angles["thigh"] + 0.6, "shank": angles["shank"] - 0.6}
    driving, reference = person(ADULT, crouching), person(CHILD, angles, (150, 250))
    result = retarget_keypoints(driving, reference)
    np.testing.assert_allclose(result.xy[0, ANKLES].mean(axis=0), reference.xy[0, ANKLES].mean(axis=0), atol=1e-3)


def test_planted_feet_do_not_slide_while_the_driver_crouches():
    bend = np.linspace(0, 0.8, 20)[:, None] * [1, 1]
    angles = {**{name: np.zeros_like(angle) for name, angle in dance(20).items()}, "thigh": bend, "shank": -bend}
    down = 2 * ADULT["thigh"] * (1 - np.cos(bend[:, :1])) * [0, 1]
    adult = {**ADULT, "shank": ADULT["thigh"]}
    driving = person(adult, angles, (256, 384) + down)
    assert np.ptp(driving.xy[:, ANKLES], axis=0).max() < 1e-3
    reference = person({**CHILD, "shank": CHILD["thigh"]}, dance(1), (150, 250))
    result = retarget_keypoints(driving, reference)
    assert np.ptp(result.xy[:, ANKLES], axis=0).max() < 1e-3 and np.ptp(result.xy[:, HIPS, 1], axis=0).min() > 20


def test_scores_and_missing_points_are_the_drivers():
    driving = without(person(ADULT, dance(20)), [kp.LEFT_KNEE, kp.NOSE, 95], slice(4, 9))
    driving.score[:, 50] = 0.4
    result = retarget_keypoints(driving, without(person(CHILD, dance(1, 3)), [kp.RIGHT_ELBOW, 60]))
    np.testing.assert_array_equal(result.score, driving.score)
    np.testing.assert_array_equal(np.isnan(result.xy), np.isnan(driving.xy))


def test_a_limb_that_the_reference_lacks_takes_the_ratio_of_the_other_side():
    driving, reference = person(ADULT, dance(20)), person(CHILD, dance(1, 3))
    arm = [kp.LEFT_ELBOW, kp.LEFT_WRIST, *range(kp.LEFT_HAND.start, kp.LEFT_HAND.stop)]
    result, whole = (retarget_keypoints(driving, each) for each in (without(reference, arm), reference))
    for start, end in LIMBS:
        np.testing.assert_allclose(lengths(result, start, end), lengths(whole, start, end), rtol=1e-4)
    np.testing.assert_allclose(size(result, kp.LEFT_HAND), size(whole, kp.LEFT_HAND), rtol=1e-4)


def test_limbs_that_the_reference_lacks_on_both_sides_take_the_ratio_of_the_body():
    reference = person({name: 0.5 * length for name, length in ADULT.items()}, dance(1, 3))
    reference = without(reference, [*WRISTS, kp.LEFT_ANKLE, kp.RIGHT_ANKLE, *range(kp.FEET.start, 133)])
    driving = person(ADULT, dance(20))
    result = retarget_keypoints(driving, reference)
    for limb in LIMBS:
        np.testing.assert_allclose(lengths(result, *limb), 0.5 * lengths(driving, *limb), rtol=1e-4)
    for points in (kp.FACE, kp.LEFT_HAND, LEFT_FOOT):
        np.testing.assert_allclose(size(result, points), 0.5 * size(driving, points), rtol=1e-4)


def foreshortened(keypoints, side, factor):
    """The forearm of one side pointed towards or away from the viewer, so that it looks shorter."""
    xy = keypoints.xy.copy()
    _, elbow, wrist = ARMS[side]
    xy[:, wrist] = xy[:, elbow] + factor * (xy[:, wrist] - xy[:, elbow])
    return replace(keypoints, xy=xy)


def test_a_foreshortened_arm_does_not_shorten_the_dance():
    driving, reference = person(ADULT, dance(20)), person(CHILD, dance(1, 3))
    for pair in (
        (driving, foreshortened(reference, 0, 0.2)),
        (foreshortened(driving, 1, 0.2), reference),
        (foreshortened(driving, 1, 0.2), foreshortened(reference, 0, 0.2)),
    ):
        result = retarget_keypoints(*pair)
        ratio = lengths(result, *ARMS[0][1:]) / lengths(pair[0], *ARMS[0][1:])
        np.testing.assert_allclose(ratio, CHILD["forearm"] / ADULT["forearm"], rtol=1e-3)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_proportion_that_no_person_has_gives_way_to_the_ratio_of_the_body(factor):
    half = {name: 0.5 * length for name, length in ADULT.items()}
    driving = person(ADULT, dance(20))
    reference = person({**half, "forearm": factor * half["forearm"]}, dance(1, 3))
    result = retarget_keypoints(driving, reference)
    np.testing.assert_allclose(lengths(result, *ARMS[0][1:]), 0.5 * ADULT["forearm"], rtol=1e-3)


def test_a_portrait_without_hips_is_held_by_its_shoulders():
    driving, reference = person(ADULT, dance(20)), person(CHILD, dance(20), (100, 400))[11:12]
    portrait = without(reference, [*range(kp.LEFT_HIP, kp.FEET.stop)])
    result = retarget_keypoints(driving, portrait)
    np.testing.assert_allclose(result.xy[11, SHOULDERS], portrait.xy[0, SHOULDERS], atol=1e-3)
    for limb in (SHOULDERS, ARMS[0][:2], ARMS[1][1:]):
        np.testing.assert_allclose(lengths(result, *limb), lengths(reference, *limb).item(), rtol=1e-4)
    assert np.isfinite(result.xy).all()


def test_a_driver_without_legs_moves_the_rest_of_the_person():
    portrait = without(person(ADULT, dance(20)), [*range(kp.LEFT_HIP, kp.FEET.stop)])
    result = retarget_keypoints(portrait, person(CHILD, dance(1, 3)))
    np.testing.assert_array_equal(np.isnan(result.xy), np.isnan(portrait.xy))
    np.testing.assert_allclose(lengths(result, *ARMS[0][:2]), CHILD["upper_arm"], rtol=1e-4)


@pytest.mark.parametrize(
    "points",
    [HIPS, SHOULDERS, (*HIPS, *SHOULDERS), [kp.LEFT_HIP], [kp.RIGHT_SHOULDER], ARMS[0][:2], LEGS[1][:2]],
)
def test_joints_missing_for_some_frames_do_not_move_the_others(points):
    driving, reference = person(ADULT, dance(120)), person(CHILD, dance(1, 3))
    whole = retarget_keypoints(driving, reference)
    result = retarget_keypoints(without(driving, list(points), slice(60, 63)), reference)
    error = np.nanmax(np.abs(result.xy - whole.xy))
    assert error < 1, f"{error:.2f} pixels"


def test_a_joint_that_is_never_found_leaves_the_rest_of_its_limb_in_place():
    reference = person({name: 0.5 * length for name, length in ADULT.items()}, dance(1, 3))
    driving = without(person(ADULT, dance(20)), [kp.LEFT_ELBOW])
    arm = (kp.LEFT_SHOULDER, kp.LEFT_WRIST)
    result = retarget_keypoints(driving, reference)
    np.testing.assert_allclose(vectors(result, *arm), 0.5 * vectors(driving, *arm), atol=1e-3)


def test_a_joint_with_a_low_score_moves_along_but_nothing_hangs_on_it():
    driving, reference = person(ADULT, dance(60)), person(CHILD, dance(1, 3))
    whole = retarget_keypoints(driving, reference)
    driving.xy[30, kp.LEFT_ELBOW] += 100
    driving.score[30, kp.LEFT_ELBOW] = 0.2
    result = retarget_keypoints(driving, reference)
    changed = np.argwhere((np.abs(result.xy - whole.xy) > 0.5).any(axis=-1))
    np.testing.assert_array_equal(changed, [[30, kp.LEFT_ELBOW]])


def test_a_part_is_measured_in_the_frames_that_show_it_whatever_the_distance_of_the_camera():
    growth = np.linspace(1, 2, 40)
    driving, reference = person(ADULT, dance(40), growth=growth), person(CHILD, dance(40), (150, 250))[0:1]
    whole = retarget_keypoints(driving, reference)
    hands = [*range(kp.LEFT_HAND.start, 133)]
    result = retarget_keypoints(without(driving, hands, slice(0, 30)), reference)
    np.testing.assert_allclose(result.xy[30:], whole.xy[30:], atol=1e-2)


# Bad input


@pytest.mark.parametrize(
    "argument, function, arguments",
    [
        ("keypoints", fill_gaps, {"keypoints": np.zeros((4, 133, 2))}),
        ("max_gap", fill_gaps, {"max_gap": -0.1}),
        ("max_gap", fill_gaps, {"max_gap": float("inf")}),
        ("max_gap", fill_gaps, {"max_gap": "3"}),
        ("score_threshold", fill_gaps, {"score_threshold": 1.0}),
        ("keypoints", smooth_keypoints, {"keypoints": None}),
        ("window", smooth_keypoints, {"window": 0}),
        ("window", smooth_keypoints, {"window": float("nan")}),
        ("window", smooth_keypoints, {"window": True}),
        ("parts", smooth_keypoints, {"parts": "body"}),
        ("parts", smooth_keypoints, {"parts": None}),
        ("parts", smooth_keypoints, {"parts": ["body", "arms"]}),
        ("parts", smooth_keypoints, {"parts": [["body"]]}),
        ("window", smooth_keypoints, {"window": 10**400}),
        ("window", smooth_keypoints, {"window": 1e300}),
        ("max_gap", smooth_keypoints, {"max_gap": -1}),
        ("score_threshold", smooth_keypoints, {"score_threshold": -0.1}),
    ],
)
def test_bad_input_is_named(argument, function, arguments):
    with pytest.raises((ValueError, TypeError), match=f"^`{argument}`"):
        function(**{"keypoints": moving(np.arange(9)), **arguments})


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("`driving` must be a WholeBodyKeypoints", {"driving": None}),
        ("`reference` must be a WholeBodyKeypoints", {"reference": np.zeros((1, 133, 2))}),
        ("`reference` must have one frame.*got 2", {"reference": person(CHILD, dance(2))}),
        (
            "`reference` must show both shoulders or both hips",
            {"reference": without(person(CHILD, dance(1)), [5, 12])},
        ),
        ("`reference` must show.*above 0.95", {"score_threshold": 0.95}),
        ("`driving` must show both hips or both shoulders", {"driving": without(person(ADULT, dance(3)), [6, 11])}),
        (
            "`driving` must show both shoulders in some frame",
            {
                "driving": without(person(ADULT, dance(3)), [6]),
                "reference": without(person(CHILD, dance(1)), [11]),
            },
        ),
        ("`score_threshold`", {"score_threshold": 1}),
        ("`score_threshold`", {"score_threshold": "0.3"}),
    ],
)
def test_bad_input_of_retargeting_is_named(message, arguments):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        retarget_keypoints(**{"driving": person(ADULT, dance(3)), "reference": person(CHILD, dance(1)), **arguments})
