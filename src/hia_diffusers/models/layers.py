# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Layers of diffusers that layers of HIA replace: each network has a table of them, which one function applies.

A layer of ours has the parameters of the one that it replaces, so that state-dict keys stay those of the plain network
and its checkpoints remain valid.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn


# Regular expressions of the names of spatial transformers and motion modules, and of their blocks.
SPATIAL = r".+\.attentions\.\d+"
SPATIAL_BLOCK = SPATIAL + r"\.transformer_blocks\.\d+"
MOTION = r".+\.motion_modules\.\d+"
MOTION_BLOCK = MOTION + r"\.transformer_blocks\.\d+"

# A row: the names of the layers as a regular expression, their class, and the class that takes its place.
Replacement = tuple[str, type[nn.Module], type[nn.Module]]


def replace_layers(network: nn.Module, table: Iterable[Replacement]) -> None:
    """Turn layers of a network into others, in place.

    Args:
        network (`nn.Module`):
            The network.
        table (`Iterable[Replacement]`):
            Rows of a regular expression for whole names, the class of those layers, and a subclass of it, which must
            be able to do with the attributes that the layers have. Layers of another class stay as they are.
    """
    for name, layer in list(network.named_modules()):
        for names, old_class, new_class in table:
            if type(layer) is old_class and re.fullmatch(names, name):
                layer.__class__ = new_class


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of `(B, C, F, H, W)` with the statistics of each frame alone."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        frames = hidden_states.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class ClipGroupNorm(nn.GroupNorm):
    """Group norm of `(B * F, C, H, W)` with the statistics of each clip of `num_frames` frames."""

    num_frames = 1

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        clips = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        return super().forward(clips).transpose(1, 2).flatten(0, 1)


class InputConvolution(nn.Conv2d):
    """The first convolution of a UNet. What its input has beyond its channels is added to its output."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.shape[1] == self.in_channels:
            return super().forward(hidden_states)
        return super().forward(hidden_states[:, : self.in_channels]) + hidden_states[:, self.in_channels :]


class MotionTransformer(AnimateDiffTransformer3D):
    """A motion module that takes part in gradient checkpointing, which diffusers leaves out."""

    gradient_checkpointing = False
    is_left_out = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        num_frames: int = 1,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        if self.is_left_out:
            return hidden_states
        arguments = (hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(super().forward, *arguments)
        return super().forward(*arguments)
