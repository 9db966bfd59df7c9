# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The two small feature networks of FID-p and FVD-p, trained by `examples/train_procedural_features.py`.

Axes: N frames or clips, C channels, F frames of a clip, H, W.
"""

from collections.abc import Callable

import torch
from torch import nn


class ProceduralFrameNetwork(nn.Module):
    """Features of single frames.

    They are computed from a map with 5x3 positions, so they depend on where things are. Each has mean 0 and variance 1
    over the training data, so all have the same weight in a distance.
    """

    INPUT_SIZE = (160, 96)
    NUM_FEATURES = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(nn.Conv2d, 3, 16, stride=2),
            _convolution(nn.Conv2d, 16, 32, stride=2),
            _convolution(nn.Conv2d, 32, 48, stride=2),
            _convolution(nn.Conv2d, 48, 64, stride=2),
            _convolution(nn.Conv2d, 64, 96, stride=2),
            nn.Flatten(),
            nn.Linear(96 * 5 * 3, self.NUM_FEATURES, bias=False),
            nn.BatchNorm1d(self.NUM_FEATURES, affine=False),
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute the features of frames.

        Args:
            frames (`torch.Tensor`):
                `(N, 3, 160, 96)`, RGB in `[-1, 1]`.

        Returns:
            `torch.Tensor`: `(N, 64)`.
        """
        return self.layers(frames)


class ProceduralClipNetwork(nn.Module):
    """Features of clips of 16 frames, at half the resolution of single frames.

    Otherwise, it is like [`ProceduralFrameNetwork`].
    """

    INPUT_SIZE = (80, 48)
    NUM_FEATURES = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(nn.Conv3d, 3, 16, stride=(1, 2, 2)),
            _convolution(nn.Conv3d, 16, 32, stride=2),
            _convolution(nn.Conv3d, 32, 48, stride=2),
            _convolution(nn.Conv3d, 48, 64, stride=2),
            nn.Flatten(),
            nn.Linear(64 * 2 * 5 * 3, self.NUM_FEATURES, bias=False),
            nn.BatchNorm1d(self.NUM_FEATURES, affine=False),
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Compute the features of clips.

        Args:
            clips (`torch.Tensor`):
                `(N, 3, 16, 80, 48)`, RGB in `[-1, 1]`.

        Returns:
            `torch.Tensor`: `(N, 32)`.
        """
        return self.layers(clips)


def _convolution(
    kind: Callable[..., nn.Module], in_channels: int, out_channels: int, stride: int | tuple[int, ...]
) -> nn.Sequential:
    norm = nn.BatchNorm2d if kind is nn.Conv2d else nn.BatchNorm3d
    convolution = kind(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, norm(out_channels), nn.ReLU())
