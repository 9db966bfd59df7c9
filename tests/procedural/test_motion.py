# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from hia_diffusers.procedural.motion import NUM_BEATS, Dance
from hia_diffusers.procedural.person import Person


SECONDS = np.arange(0, 40, 1 / 120)


@pytest.fixture(params=range(4))
def dance_and_person(request):
    return Dance(np.random.default_rng(request.param)), Person.random(np.random.default_rng(request.param))


def lengths(first, second):
    return np.linalg.norm(first - second, axis=-1)


def test_bones_keep_their_lengths(dance_and_person):
    dance, person = dance_and_person
    skeleton, p = dance.skeleton(SECONDS, person.proportions), person.proportions
    np.testing.assert_allclose(lengths(skeleton.shoulders, skeleton.elbows), p.upper_arm, rtol=1e-9)
    np.testing.assert_allclose(lengths(skeleton.elbows, skeleton.wrists), p.forearm, rtol=1e-9)
    for bones, length in (
        (lengths(skeleton.hips, skeleton.knees), p.thigh),
        (lengths(skeleton.knees, skeleton.ankles), p.shin),
    ):
        # In one of a few hundred moments a wide step stretches a leg a little.
        assert np.mean(np.abs(bones / length - 1) < 1e-6) > 0.99
        np.testing.assert_allclose(bones, length, rtol=0.02)
    for joint in (2, 6, 10, 14, 18):  # along each finger
        bones = lengths(skeleton.hands[:, :, joint - 1], skeleton.hands[:, :, joint])
        np.testing.assert_allclose(bones, bones[0, 0], rtol=1e-9)


def test_nobody_sinks_into_the_floor_or_floats(dance_and_person):
    dance, person = dance_and_person
    skeleton = dance.skeleton(SECONDS, person.proportions)
    assert skeleton.feet[..., 1].max() < 0.01
    assert (skeleton.feet[..., 1].max(axis=(1, 2)) > -0.03).all()


def test_movement_has_no_jumps(dance_and_person):
    dance, person = dance_and_person
    skeleton = dance.skeleton(SECONDS, person.proportions)
    for joints in (skeleton.head, skeleton.hips, skeleton.knees, skeleton.elbows, skeleton.hands):
        assert lengths(joints[1:], joints[:-1]).max() < 0.12  # statures in 1/120 s
    turns = np.abs(np.diff(skeleton.head_turn, axis=0)).max()
    assert turns < 0.1


def test_head_looks_at_the_viewer_more_or_less(dance_and_person):
    dance, person = dance_and_person
    forward = dance.skeleton(SECONDS, person.proportions).head_turn[:, :, 2]
    assert np.mean(forward[:, 2] > np.cos(np.radians(60))) > 0.93


def test_a_dance_repeats_after_its_beats_and_never_before():
    dance, person = Dance(np.random.default_rng(5)), Person.random(np.random.default_rng(5))
    period = NUM_BEATS / dance.tempo
    moments = np.array([1.0, 7.3])
    first, again, other = (
        dance.skeleton(moments + shift, person.proportions).hands for shift in (0, period, period / 2)
    )
    np.testing.assert_allclose(first, again, atol=1e-9)
    assert np.abs(first - other).max() > 0.05
