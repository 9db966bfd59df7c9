# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import random

from hia_diffusers.natural_order import natural_order


def test_numbers_in_names_count_as_numbers():
    expected = ["0.png", "1.png", "02.png", "2.png", "10.png", "a1b2.png", "a1b10.png", "a2.png", "a10/1.png", "a.png"]
    names = [*expected]
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert sorted(names, key=natural_order) == expected
