# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests share: a tiny pipeline of real components and inputs for it."""

import contextlib
import copy

import numpy as np
import PIL.Image
import pytest
import torch
from other_rounding import OtherRounding
from random_tiny import random_tiny_pipeline

from hia_diffusers import HIAPipeline


HEIGHT, WIDTH = 64, 48


def pytest_addoption(parser):
    parser.addoption(
        "--other-rounding", action="store_true", help="round by shape and layout (tests/other_rounding.py)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with OtherRounding() if item.config.getoption("--other-rounding") else contextlib.nullcontext():
        return (yield)


@pytest.fixture(scope="session")
def pristine_pipe() -> HIAPipeline:
    pipeline = random_tiny_pipeline(seed=0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipe(pristine_pipe) -> HIAPipeline:
    return copy.deepcopy(pristine_pipe)


@pytest.fixture
def image() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.fixture
def condition() -> torch.Tensor:
    """(F, C, H, W)"""
    return torch.rand(3, 6, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def animate(image, condition):
    """Run a pipeline on the small inputs with a fixed seed; keyword arguments override."""

    def run(pipeline: HIAPipeline, seed: int = 0, **kwargs) -> torch.Tensor:
        arguments = {
            "image": image,
            "conditioning_frames": condition,
            "num_inference_steps": 2,
            "generator": torch.Generator().manual_seed(seed),
            "output_type": "pt",
        }
        return pipeline(**(arguments | kwargs)).frames

    return run
