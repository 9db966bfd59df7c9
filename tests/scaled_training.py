# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a training script in fp16 with the gradient scaler that accelerate makes on a GPU, but not on a CPU.

    python tests/scaled_training.py SCRIPT SCALE ARGUMENTS

SCALE is what the loss is multiplied with at first.
"""

import runpy
import sys

import accelerate
import torch

from hia_diffusers.training import launch


class ScalingAccelerator(accelerate.Accelerator):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)


if __name__ == "__main__":
    _, SCRIPT, scale, *arguments = sys.argv
    SCALE = float(scale)
    launch.Accelerator = ScalingAccelerator
    sys.argv = [SCRIPT, *arguments, "--mixed_precision", "fp16"]
    runpy.run_path(SCRIPT, run_name="__main__")
