# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from itertools import groupby

import cv2
import numpy as np
import pytest

from hia_diffusers.preparation.scene_cuts import SceneCounter


def wall(seed, height=90, width=160):
    """A room of large coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    return cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)


def noisy(frame, rng):
    return np.clip(frame + rng.normal(0, 6, frame.shape), 0, 255).astype(np.uint8)


def scenes(frames, **options):
    return [len(list(scene)) for _, scene in groupby(frames, SceneCounter(**options))]


def test_scenes_begin_where_the_image_changes():
    rng = np.random.default_rng(0)
    frames = [noisy(wall(seed), rng) for seed, length in ((1, 12), (2, 1), (3, 20), (1, 5)) for _ in range(length)]
    assert scenes(frames) == [12, 1, 20, 5]


def test_a_fast_dancer_is_no_cut():
    frames = []
    for index in range(40):
        frame = wall(1)
        x = 10 + 30 * (index % 4)  # a large person in other clothes than the wall, 30 pixels further in each frame
        frame[10:90, x : x + 40] = (250, 40, 90)
        frames.append(frame)
    assert scenes(frames) == [40]


def test_a_fast_pan_costs_its_first_frames_only():
    panorama = np.hstack([wall(seed) for seed in range(8)])
    pan = [panorama[:, 30 * index : 30 * index + 160] for index in range(30)]
    assert scenes(pan) == [1, 29]
    assert scenes([wall(20)] * 10 + pan) == [10, 1, 1, 28]


def test_a_slow_fade_and_a_change_of_light_are_no_cuts():
    frames = [(wall(1) * light).astype(np.uint8) for light in np.linspace(1, 0.1, 30)]
    frames += [(wall(1) * light).astype(np.uint8) for light in (0.1, 0.2, 0.3)]
    assert scenes(frames) == [33]


def test_hue_is_a_circle():
    red, other_red = np.zeros((2, 60, 80, 3), dtype=np.uint8)
    red[:] = (250, 0, 8)
    other_red[:] = (250, 8, 0)
    assert scenes([red, other_red] * 5, threshold=5) == [10]


def test_threshold():
    frames = [np.full((60, 80, 3), value, dtype=np.uint8) for value in (100, 100, 130, 130)]
    assert scenes(frames) == [4]  # brightness is one of three channels
    assert scenes(frames, threshold=9) == [2, 2]
    for threshold in (0, 256, float("nan")):
        with pytest.raises(ValueError, match=r"`threshold` must be a finite number, above 0 and at most 255"):
            SceneCounter(threshold)


def test_long_scenes_are_divided_and_another_size_is_another_scene():
    frames = [wall(1)] * 25 + [wall(1, 90, 120)] * 4
    assert scenes(frames, max_frames=10) == [10, 10, 5, 4]
    assert scenes(frames) == [25, 4]
    with pytest.raises(ValueError, match="`max_frames` must be an integer from 1 to .*, got 0"):
        SceneCounter(max_frames=0)
