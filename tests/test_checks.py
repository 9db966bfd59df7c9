# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single arguments."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from hia_diffusers import checks


WHOLE = [8, np.int64(8), np.uint8(8), np.int16(8)]
REAL = [0.5, np.float32(0.5), np.float16(0.5), np.longdouble(0.5), Fraction(1, 2)]
NO_NUMBERS = [None, "8", "", True, np.True_, 8j, [8], np.array(8), np.array([8, 8]), torch.tensor(8), {}, b"8", object]
BEYOND = [0, -8, 10**400, 10**5000, -(10**5000), 2**63, np.uint64(2**64 - 1)]


@pytest.mark.parametrize("value", WHOLE)
def test_whole_numbers_of_numpy_are_pythons(value):
    assert type(checks.integer("steps", value)) is int and checks.integer("steps", value) == 8
    assert type(checks.number("scale", value)) is float
    assert checks.side("height", value, 8) == 8


@pytest.mark.parametrize("value", REAL)
def test_numbers_of_numpy_are_pythons(value):
    assert type(checks.number("scale", value, 0, 1)) is float and checks.number("scale", value) == 0.5
    with pytest.raises(TypeError, match="`steps` must be an integer from 1 to 2147483647, got"):
        checks.integer("steps", value)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_named_by_its_argument(value):
    for check in (checks.integer, checks.side, checks.number):
        with pytest.raises(TypeError, match="`steps` must be .*, got ") as error:
            check("steps", value)
        assert len(str(error.value)) < 160


@pytest.mark.parametrize("value", BEYOND, ids=checks.shown)
def test_whole_numbers_beyond_the_range(value):
    with pytest.raises(ValueError, match="`steps` must be an integer from 1 to 2147483647, got") as error:
        checks.integer("steps", value)
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, np.float32("nan"), 10**400, 1e300, -1])
def test_numbers_beyond_the_range(value):
    with pytest.raises(ValueError, match="`eta` must be a finite number, at least 0 and at most 1, got"):
        checks.number("eta", value, 0, 1)


def test_open_ranges():
    assert checks.number("scale", 1e-9, above=0) == 1e-9
    with pytest.raises(ValueError, match="`scale` must be a finite number, above 0, got 0"):
        checks.number("scale", 0, above=0)
    with pytest.raises(ValueError, match="`score` must be a finite number, at least 0 and below 1, got 1"):
        checks.number("score", 1.0, 0, below=1)


def test_sides_are_multiples_and_have_a_limit():
    with pytest.raises(ValueError, match="`height` must be a multiple of 8 from 8 to 16384, got 60"):
        checks.side("height", 60, 8)
    with pytest.raises(ValueError, match="`width` must be an integer from 1 to 16384, got 20000"):
        checks.side("width", 20000)


def test_flags_and_words():
    assert checks.flag("shift", np.False_) is False and checks.flag("shift", True) is True
    for value in (0, 1, "yes", None, np.array(True)):
        with pytest.raises(TypeError, match="`shift` must be True or False, got"):
            checks.flag("shift", value)
    assert checks.one_of("kind", "pose", ("pose", "video")) == "pose"
    for value, error in (("gif", ValueError), (None, TypeError), (np.zeros(3), TypeError), ([], TypeError)):
        with pytest.raises(error, match='`kind` must be one of "pose", "video", got'):
            checks.one_of("kind", value, ("pose", "video"))


def test_classes():
    assert checks.instance("image", 5, int) == 5
    with pytest.raises(TypeError, match="`image` must be a str or a bytes, got 5"):
        checks.instance("image", 5, (str, bytes))


def test_a_function_is_given_pythons_numbers():
    @checks.python_numbers
    def function(*args, **kwargs):
        return *args, *kwargs.values()

    given = function(np.int64(8), np.True_, "a", scale=np.float32(0.5), array=np.zeros(1))
    assert [type(value) for value in given] == [int, bool, str, float, np.ndarray]
