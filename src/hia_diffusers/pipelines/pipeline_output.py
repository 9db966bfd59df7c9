# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The output of [`HIAPipeline`]."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers.utils import BaseOutput


@dataclass
class HIAPipelineOutput(BaseOutput):
    """Output of [`HIAPipeline`].

    Args:
        frames (`torch.Tensor`, `np.ndarray` or `list[list[PIL.Image.Image]]`):
            A batch of clips: `(B, F, 3, H, W)` in [0, 1] for `"pt"`, `(B, F, H, W, 3)` in [0, 1] for `"np"`, lists of
            images for `"pil"`, `(B, C, F, h, w)` latents for `"latent"`.
    """

    frames: torch.Tensor | np.ndarray | list[list[PIL.Image.Image]]
