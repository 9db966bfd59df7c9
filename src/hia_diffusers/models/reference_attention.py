# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reference attention (paper Sec. 3, Fig. 2): the UNet's spatial self-attention also attends to the reference image.

The appearance encoder returns the normalized input of each of its self-attention layers, by block name. In the UNet,
the block of the same name projects it with its own `to_k` and `to_v`, and attends to its own tokens and those of the
reference together.

Attention processors are not involved: diffusers replaces processors when a user changes the attention backend, fuses
projections or loads adapters, and a reference stored in a processor would be lost without warning. The features are
passed as an argument, so that gradient checkpointing and `torch.compile` see them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, _chunked_feed_forward
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from .attention import DispatchedAttention


# The key of the reference features in diffusers' `cross_attention_kwargs`.
REFERENCE = "reference"


class ReferenceFeatures:
    """Features of reference images, with the K and V of each layer computed once and kept.

    Create one object per clip and pass it to every call of the UNet. Do not use it in training, or after the UNet's
    weights or adapters have changed; pass the mapping instead, which is projected in every call.

    Args:
        features (`Mapping[str, torch.Tensor]`):
            Maps block names to features `(B, tokens, C)`, as in [`HIAAppearanceEncoderOutput`].
        dropped (`torch.Tensor` of shape `(B,)`, *optional*):
            Boolean; marks the clips that see no reference, as in the unconditional branch of animation-CFG. Their
            features get gradients of zero instead of none, so that distributed training finds every parameter in use.
    """

    def __init__(self, features: Mapping[str, torch.Tensor], dropped: torch.Tensor | None = None):
        self.features = dict(features)
        self.dropped = dropped
        self._key_values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._batches: dict[tuple[int, bool], ReferenceFeatures] = {}

    def batch(self, size: int, unconditional: bool = False) -> "ReferenceFeatures":
        """Return the features of a batch that contains the clips several times, one batch after the other.

        The result is kept with these features.

        Args:
            size (`int`):
                Size of the batch, a multiple of the number of clips.
            unconditional (`bool`, *optional*, defaults to `False`):
                Whether the second half of the batch sees no reference.
        """
        clips = len(next(iter(self.features.values())))
        if size == clips:
            return self
        if (size, unconditional) not in self._batches:
            features = {name: values.repeat(size // clips, 1, 1) for name, values in self.features.items()}
            device = next(iter(features.values())).device
            dropped = torch.arange(size, device=device) >= size // 2 if unconditional else None
            self._batches[size, unconditional] = ReferenceFeatures(features, dropped)
        return self._batches[size, unconditional]

    def key_value(self, name: str, attention: DispatchedAttention) -> tuple[torch.Tensor, torch.Tensor]:
        """Return K and V of a block, each `(B, tokens, C)`, using the projections of that block."""
        if name not in self._key_values:
            features = self.features[name]
            self._key_values[name] = (attention.to_k(features), attention.to_v(features))
        return self._key_values[name]


def attend_with_reference(
    attention: DispatchedAttention,
    hidden_states: torch.Tensor,
    reference_key: torch.Tensor,
    reference_value: torch.Tensor,
    dropped: torch.Tensor | None = None,
) -> torch.Tensor:
    """Self-attention with the keys and values of the reference appended.

    Args:
        attention ([`DispatchedAttention`]):
            The block's self-attention; its projections are used, its processor is not.
        hidden_states (`torch.Tensor` of shape `(N, tokens, C)`):
            Normalized input, N = B * F, with the frames of a clip adjacent.
        reference_key, reference_value (`torch.Tensor` of shape `(B, reference tokens, C)`):
            K and V of the reference, shared by the F frames of a clip.
        dropped (`torch.Tensor` of shape `(B,)`, *optional*):
            Boolean; marks the clips that attend to their own tokens only.
    """
    query, key, value = attention.project(hidden_states)
    num_frames = hidden_states.shape[0] // reference_key.shape[0]
    key, value = (
        torch.cat([own, shared[:, None].expand(-1, num_frames, -1, -1).flatten(0, 1)], dim=1)
        for own, shared in ((key, reference_key), (value, reference_value))
    )
    mask = None
    if dropped is not None:
        seen = ~dropped.repeat_interleave(num_frames)[:, None].expand(-1, reference_key.shape[1])
        mask = torch.nn.functional.pad(seen, (hidden_states.shape[1], 0), value=True)
    return attention.attend(query, key, value, mask)


class PositionedLayerNorm(nn.LayerNorm):
    """Layer norm of the tokens of an image, plus an embedding of their positions in the image.

    Stable Diffusion infers positions from image borders, through the many convolutions that it was trained with. Small
    networks trained from scratch learn to look up positions in the reference sooner if they get the positions.
    """

    size: torch.Size  # height and width in tokens, set by the transformer in each call

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalize, and add the position embedding."""
        normed = super().forward(hidden_states)
        height, width = self.size
        return normed + position_embedding(height, width, normed.shape[-1], normed.device).to(normed.dtype)


def position_embedding(height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Return sines and cosines of the relative height and width of each token, with half a period to 16 periods.

    Args:
        height, width (`int`):
            Size of the image in tokens.
        channels (`int`):
            A multiple of 4.
        device (`torch.device`):
            Device of the result.

    Returns:
        `torch.Tensor`: float32 `(height * width, channels)`.
    """
    single: Any = {"dtype": torch.float32, "device": device}
    frequencies = math.pi * 2 ** (torch.arange(channels // 4, **single) / (channels // 4) * 5)
    rows, columns = (
        (torch.arange(length, **single)[:, None] + 0.5) / length * frequencies for length in (height, width)
    )
    rows, columns = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (rows, columns))
    rows, columns = rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def tell_positions(transformer: Transformer2DModel, hidden_states: torch.Tensor) -> None:
    """Pass the size of a transformer's input `(N, C, H, W)` to its positioned norms."""
    for block in transformer.transformer_blocks:
        if isinstance(block.norm1, PositionedLayerNorm):
            block.norm1.size = hidden_states.shape[-2:]


class ReferenceReadBlock(BasicTransformerBlock):
    """A transformer block whose self-attention reads the reference's K and V, if there are any."""

    position: int  # of the block in its transformer

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Apply the block; arguments as in diffusers."""
        cross_attention_kwargs = dict(cross_attention_kwargs or {})
        key_values = cross_attention_kwargs.pop(REFERENCE, None)
        if key_values is None:
            return super().forward(
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                timestep,
                cross_attention_kwargs,
                class_labels,
                added_cond_kwargs,
            )

        hidden_states = hidden_states + attend_with_reference(
            self.attn1, self.norm1(hidden_states), *key_values[self.position]
        )
        hidden_states = hidden_states + self.attn2(
            self.norm2(hidden_states),
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask,
            **cross_attention_kwargs,
        )
        norm_hidden_states = self.norm3(hidden_states)
        if self._chunk_size is not None:
            return hidden_states + _chunked_feed_forward(
                self.ff, norm_hidden_states, self._chunk_dim, self._chunk_size
            )
        return hidden_states + self.ff(norm_hidden_states)


class ReferenceReadTransformer(Transformer2DModel):
    """A spatial transformer that looks up the reference features of its blocks by name."""

    reference_names: list[str]  # empty if this transformer reads no reference

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Apply the transformer; arguments as in diffusers."""
        tell_positions(self, hidden_states)
        # Looked up here instead of in the block, because a block that knew its own name would be compiled once per
        # name.
        cross_attention_kwargs = dict(cross_attention_kwargs or {})
        reference = cross_attention_kwargs.pop(REFERENCE, None)
        if reference is not None and self.reference_names:
            cross_attention_kwargs[REFERENCE] = [
                (*reference.key_value(name, block.attn1), reference.dropped)
                for name, block in zip(self.reference_names, self.transformer_blocks, strict=True)
            ]
        return super().forward(hidden_states, *args, cross_attention_kwargs=cross_attention_kwargs, **kwargs)


class ReferenceRecorder:
    """Collects the features of the blocks. It is an object because the hooks of offloading copy lists and dicts."""

    def __init__(self) -> None:
        self.features: dict[Any, torch.Tensor] = {}


class ReferenceWriteBlock(BasicTransformerBlock):
    """A transformer block that records the normalized input of its self-attention."""

    position: int  # of the block in its transformer

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Apply the block; arguments as in diffusers."""
        cross_attention_kwargs = dict(cross_attention_kwargs or {})
        cross_attention_kwargs.pop(REFERENCE).features[self.position] = self.norm1(hidden_states)
        if self.attn1 is None:  # the last block: no features depend on the layers that would follow
            return hidden_states
        return super().forward(
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            timestep,
            cross_attention_kwargs,
            class_labels,
            added_cond_kwargs,
        )


class ReferenceWriteTransformer(Transformer2DModel):
    """A spatial transformer that stores the features of its blocks under their names."""

    reference_names: list[str]

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, cross_attention_kwargs: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Apply the transformer; arguments as in diffusers."""
        tell_positions(self, hidden_states)
        recorder = ReferenceRecorder()
        output = super().forward(
            hidden_states, *args, cross_attention_kwargs={**cross_attention_kwargs, REFERENCE: recorder}, **kwargs
        )
        for position, name in enumerate(self.reference_names):
            cross_attention_kwargs[REFERENCE].features[name] = recorder.features[position]
        return output


def name_reference_blocks(unet: nn.Module, parts: tuple[str, ...] = ("",)) -> list[str]:
    """Set the block names of the transformers of a UNet, and the positions of the blocks.

    Args:
        unet (`nn.Module`):
            A network with transformers of this module, reading or writing.
        parts (`tuple[str, ...]`, *optional*, defaults to `("",)`):
            Prefixes of the modules to include, such as `("mid_block", "up_blocks")`; all by default.

    Returns:
        `list[str]`: Names of the included blocks.
    """
    names: list[str] = []
    for name, transformer in unet.named_modules():
        if isinstance(transformer, (ReferenceReadTransformer, ReferenceWriteTransformer)):
            transformer.reference_names = []
            for position, block in enumerate(transformer.transformer_blocks):
                block.position = position
                if name.startswith(parts):
                    transformer.reference_names.append(f"{name}.transformer_blocks.{position}")
            names += transformer.reference_names
    return names


def check_positioned_norms(unet: nn.Module) -> None:
    """Refuse a network with a [`PositionedLayerNorm`] whose number of channels is not a multiple of 4.

    Args:
        unet (`nn.Module`):
            The network.

    Raises:
        ValueError: If it has one.
    """
    for norm in unet.modules():
        if isinstance(norm, PositionedLayerNorm) and norm.normalized_shape[0] % 4:
            raise ValueError(
                "`block_out_channels` must be multiples of 4 where blocks have a transformer, for"
                f" `spatial_position_embedding`, got {norm.normalized_shape[0]}."
            )
