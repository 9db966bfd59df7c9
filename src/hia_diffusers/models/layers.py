# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Layers of HIA that replace layers of diffusers: each network has a table of them, applied by one function.

A layer of HIA has the parameters of the one that it replaces, so the state-dict keys and checkpoints of the original
network remain valid.
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

# A row: a regular expression for the names of the layers, their class, and the class that replaces it.
Replacement = tuple[str, type[nn.Module], type[nn.Module]]


def replace_layers(network: nn.Module, table: Iterable[Replacement]) -> None:
    """Replace layers of a network in place.

    Args:
        network (`nn.Module`):
            The network.
        table (`Iterable[Replacement]`):
            Rows of a regular expression for whole names, the class of those layers, and a subclass of it, which must
            work with the attributes of the existing layers. Layers of other classes are not changed.
    """
    for name, layer in list(network.named_modules()):
        for names, old_class, new_class in table:
            if type(layer) is old_class and re.fullmatch(names, name):
                layer.__class__ = new_class


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of `(B, C, F, H, W)` with separate statistics for each frame."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize each frame."""
        frames = hidden_states.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class ClipGroupNorm(nn.GroupNorm):
    """Group norm of `(B * F, C, H, W)` with common statistics for each clip of `num_frames` frames."""

    num_frames = 1

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize each clip."""
        clips = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        return super().forward(clips).transpose(1, 2).flatten(0, 1)


class InputConvolution(nn.Conv2d):
    """The first convolution of a UNet. Input channels beyond its own are added to its output."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Convolve the first channels, and add the others to the result."""
        if hidden_states.shape[1] == self.in_channels:
            return super().forward(hidden_states)
        # Autocast converts only the input of the convolution, and on a CPU, norms need the dtype of their weights.
        added = hidden_states[:, self.in_channels :].to(self.weight.dtype)
        return super().forward(hidden_states[:, : self.in_channels]) + added


class MotionTransformer(AnimateDiffTransformer3D):
    """A motion module that supports gradient checkpointing, which that of diffusers does not."""

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
        """Apply the motion module, unless it is disabled; arguments as in diffusers."""
        if self.is_left_out:
            return hidden_states
        arguments = (hidden_states, encoder_hidden_states, timestep, class_labels, num_frames, cross_attention_kwargs)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(super().forward, *arguments)
        return super().forward(*arguments)
