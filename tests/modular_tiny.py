# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Modular pipelines of the components of small pipelines."""

from typing import Any

import numpy as np

from hia_diffusers import HIAModularPipeline, HIAPipeline, WholeBodyKeypoints


def modular_of(pipe: HIAPipeline, blocks: Any = None) -> HIAModularPipeline:
    modular = HIAModularPipeline(blocks)
    configs = {name: pipe.config[name] for name in ("reference_timestep", "unconditional_controlnet")}
    modular.update_components(**pipe.components, **configs)
    modular.set_progress_bar_config(disable=True)
    return modular


def random_keypoints() -> WholeBodyKeypoints:
    """Two frames in the size of hia-tiny."""
    points = np.random.default_rng(0).uniform(20, 80, (2, 133, 2))
    return WholeBodyKeypoints(points, np.ones((2, 133)), height=160, width=96, fps=25.0)
