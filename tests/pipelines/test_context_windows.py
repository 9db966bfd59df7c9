# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch

from hia_diffusers.pipelines.context_windows import context_windows, frame_weights


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("num_frames", [1, 2, 15, 16, 17, 23, 28, 29, 64, 101])
@pytest.mark.parametrize(("size", "overlap"), [(16, 4), (16, 0), (8, 7), (5, 2)])
def test_every_frame_is_covered_and_weights_sum_to_one(num_frames, size, overlap, shift):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        windows = context_windows(num_frames, size, overlap, shift, generator)
        total = torch.zeros(num_frames)
        weights = frame_weights(windows, num_frames)
        for window in windows:
            assert 0 <= window.start and window.stop <= num_frames
            assert len(window) == min(size, num_frames)
            total[list(window)] += weights[list(window)]
        assert torch.allclose(total, torch.ones(num_frames))
        assert [*{w.start: w for w in windows}.values()] == windows  # no window twice


def test_unshifted_windows_overlap_as_asked():
    assert context_windows(64, 16, 4) == [range(s, s + 16) for s in (0, 12, 24, 36, 48)]
    assert context_windows(10, 4, 1) == [range(0, 4), range(3, 7), range(6, 10)]


def test_shift_moves_the_seams_at_each_draw():
    generator = torch.Generator().manual_seed(0)
    starts = {tuple(w.start for w in context_windows(64, 16, 4, True, generator)) for _ in range(200)}
    assert {s[1] for s in starts} == set(range(1, 13))
    for s in starts:
        assert s[0] == 0 and s[-1] == 48
        assert all(b - a == 12 for a, b in zip(s[1:-1], s[2:-1], strict=False))


def test_same_seed_same_windows():
    draw = [context_windows(40, 16, 4, True, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert draw[0] == draw[1]


def test_a_clip_within_the_context_is_one_window():
    assert context_windows(16, 16, 4, True, torch.Generator().manual_seed(0)) == [range(16)]


@pytest.mark.parametrize("name", ["num_frames", "context_frames", "context_overlap", "shift"])
@pytest.mark.parametrize("value", [None, "4", 2.5, 4.0, True, -1, 10**400, [4], np.array([4]), float("nan")])
def test_what_is_no_number_of_frames_is_named(name, value):
    arguments = {"num_frames": 32, "context_frames": 8, "context_overlap": 2}
    assert context_windows(**{key: np.int64(number) for key, number in arguments.items()}) == context_windows(32, 8, 2)
    if name == "shift" and value is True:
        pytest.skip("it is a flag")
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be "):
        context_windows(**arguments | {name: value})


def test_windows_that_share_all_their_frames_are_refused():
    with pytest.raises(ValueError, match="`context_overlap` must be an integer from 0 to 7, got 8"):
        context_windows(32, 8, 8)
