# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Natural sorting of numbered files: 2 before 10."""

import re


def natural_order(name: str) -> tuple:
    """Return a key for `sorted` that compares numbers in names by value.

    Args:
        name (`str`):
            A name or a path.
    """
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name
