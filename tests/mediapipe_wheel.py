# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The models of MediaPipe for tests: the wheel that `make install` puts into the environment."""

import importlib.util
import sys
from pathlib import Path

import pytest


MEDIAPIPE_WHEEL = next(iter(Path(sys.prefix, "wheels").glob("mediapipe-0.10.21-*.whl")), None)

needs_mediapipe = pytest.mark.skipif(
    MEDIAPIPE_WHEEL is None or importlib.util.find_spec("mediapipe") is None,
    reason="needs the mediapipe extra, and the wheel with its models that `make install` downloads",
)
