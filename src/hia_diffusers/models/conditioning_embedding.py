# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The convolutions that embed conditioning frames, in a ControlNet or alone, and a cache of their outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding


class ConditioningEmbeddings:
    """Embeddings of conditioning frames by the ControlNet, each computed once and kept.

    Create one object per call of the pipeline, and pass its windows to the ControlNet as `controlnet_cond`. An
    embedding is computed inside the ControlNet when its frame is first needed, so that the weights are on the right
    device even with offloading. Do not use it in training, or after the ControlNet's weights have changed.

    Args:
        read (`Callable`):
            Takes frame numbers and returns the frames `(B, frames, C, H, W)` in the ControlNet's dtype.
        num_frames (`int`):
            F, the number of frames.
        device (`torch.device`, *optional*):
            Device on which the embeddings are kept. By default, this is the device on which they are used if one
            window covers all frames, and otherwise the CPU.
    """

    def __init__(
        self, read: Callable[[list[int]], torch.Tensor], num_frames: int, device: torch.device | None = None
    ) -> None:
        self.read, self.num_frames, self.device = read, num_frames, device
        self._kept: torch.Tensor | None = None  # (B, F, C, h, w), valid for `_known`
        self._pinned = False
        self._known: set[int] = set()

    def windows(self, windows: Sequence[range], device: torch.device) -> "ConditioningWindows":
        """Return windows of frames whose embeddings will be used on `device`, one after the other as a batch."""
        return ConditioningWindows(self, windows, device)

    def get(
        self, windows: Sequence[range], device: torch.device, embed: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return embeddings `(windows * B * frames, C, h, w)`; `embed` computes those that are missing."""
        unknown = sorted({frame for window in windows for frame in window} - self._known)
        if unknown:
            made = embed(self.read(unknown).flatten(0, 1).to(device)).unflatten(0, (-1, len(unknown)))
            if self._kept is None:
                kept_on = self.device or (device if len(windows[0]) == self.num_frames else torch.device("cpu"))
                shape = (made.shape[0], self.num_frames, *made.shape[2:])
                # Copies to and from pinned memory are queued on the GPU, and the CPU does not wait for them.
                self._pinned = device.type == "cuda" and kept_on.type == "cpu"
                self._kept = torch.empty(shape, dtype=made.dtype, device=kept_on, pin_memory=self._pinned)
            for frame, embedding in zip(unknown, made.unbind(1), strict=True):
                self._kept[:, frame].copy_(embedding, non_blocking=self._pinned)
            self._known.update(unknown)
        assert self._kept is not None
        kept = [
            self._kept[:, window.start : window.stop].to(device, non_blocking=self._pinned).flatten(0, 1)
            for window in windows
        ]
        return torch.cat(kept)


@dataclass(frozen=True)
class ConditioningWindows:
    """The value of `controlnet_cond` that replaces conditioning frames by kept embeddings."""

    embeddings: ConditioningEmbeddings
    windows: Sequence[range]
    device: torch.device


class ReusableConditioningEmbedding(ControlNetConditioningEmbedding):
    """The layer that embeds conditioning frames, or returns the kept embeddings of [`ConditioningWindows`]."""

    def forward(self, conditioning: torch.Tensor | ConditioningWindows) -> torch.Tensor:
        """Embed conditioning frames, or return kept embeddings."""
        if isinstance(conditioning, ConditioningWindows):
            return conditioning.embeddings.get(conditioning.windows, conditioning.device, super().forward)
        return super().forward(conditioning)


def widened(model_class: type[ModelMixin], name: str, model: ModelMixin, conditioning_channels: int) -> Any:
    """Return a copy of a network with additional conditioning channels of zero weight, which at first change nothing.

    Args:
        model_class (`type`):
            Class of the result.
        name (`str`):
            Name of the argument that `model` comes from, for error messages.
        model (`ModelMixin`):
            A network with a `controlnet_cond_embedding`; it is not modified.
        conditioning_channels (`int`):
            Number of channels of the result; the existing ones come first.

    Raises:
        ValueError: If `model` has more channels than that.
    """
    new_channels = conditioning_channels - model.config.conditioning_channels
    if new_channels < 0:
        raise ValueError(
            f"`conditioning_channels` must be at least the {model.config.conditioning_channels} channels of"
            f" `{name}`, got {conditioning_channels}."
        )
    result = model_class.from_config(model.config, conditioning_channels=conditioning_channels)
    state_dict, key = model.state_dict(), "controlnet_cond_embedding.conv_in.weight"
    weight = state_dict[key]
    zeros = weight.new_zeros(weight.shape[0], new_channels, *weight.shape[2:])
    result.load_state_dict({**state_dict, key: torch.cat([weight, zeros], dim=1)})
    return result.to(device=model.device, dtype=model.dtype)
