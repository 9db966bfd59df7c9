# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reference attention (paper Sec. 3, Fig. 2): the UNet's spatial self-attention also attends to the reference picture.

The appearance encoder hands out the normed input of each of its self-attentions, by block name. In the UNet, the block
of that name projects it with its own `to_k` and `to_v` and attends to its own tokens and the reference's together.

Attention processors are not involved: diffusers replaces processors when a user switches attention back ends, fuses
projections or loads adapters, and a reference that lives in a processor would vanish without a word. The features
travel as an argument, so that gradient checkpointing and `torch.compile` see them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, _chunked_feed_forward
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from .attention import DispatchedAttention


# The key under which reference features travel in diffusers' `cross_attention_kwargs`.
REFERENCE = "reference"


class ReferenceFeatures:
    """Features of reference pictures, with each layer's K and V projected once and kept.

    Make one per clip and pass it to every call of the UNet. Do not train through it, nor keep it across a change of
    the UNet's weights or adapters: pass the plain mapping then, which is projected anew at every call.

    Args:
        features (`Mapping[str, torch.Tensor]`):
            Block name to `(B, tokens, C)`, as [`HIAAppearanceEncoderOutput`] has them.
        dropped (`torch.Tensor` of shape `(B,)`, *optional*):
            Bool; the clips that see no reference, as in the unconditional branch of animation-CFG. Their features get
            gradients of zero, not none, so that distributed training finds every parameter in use.
    """

    def __init__(self, features: Mapping[str, torch.Tensor], dropped: torch.Tensor | None = None):
        self.features = dict(features)
        self.dropped = dropped
        self._key_values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._batches: dict[tuple[int, bool], ReferenceFeatures] = {}

    def batch(self, size: int, unconditional: bool = False) -> "ReferenceFeatures":
        """Features for a batch in which the clips come several times, one after the other, kept as long as these are.

        Args:
            size (`int`):
                Of the batch, a multiple of the clips.
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
        """K and V of the block `name`, each `(B, tokens, C)`, by that block's own projections."""
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
    """Self-attention whose keys and values are followed by those of the reference.

    Args:
        attention ([`DispatchedAttention`]):
            The block's self-attention; its projections are used, its processor is not.
        hidden_states (`torch.Tensor` of shape `(N, tokens, C)`):
            Normed input, N = B * F, the frames of a clip together.
        reference_key, reference_value (`torch.Tensor` of shape `(B, reference tokens, C)`):
            Shared by the F frames of a clip.
        dropped (`torch.Tensor` of shape `(B,)`, *optional*):
            Bool; the clips that attend to their own tokens only.
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
    """Layer norm of the tokens of a picture, plus where in the picture each of them is.

    Stable Diffusion knows places from the borders that its many convolutions have seen in training. Small networks
    that are trained from scratch learn sooner to fetch a place of the reference if they are told.
    """

    size: torch.Size  # height and width in tokens; the transformer says it at each call

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = super().forward(hidden_states)
        height, width = self.size
        return normed + position_embedding(height, width, normed.shape[-1], normed.device).to(normed.dtype)


def position_embedding(height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Sines and cosines of the relative height and the relative width of each token, of half a period to 16 periods.

    Args:
        height, width (`int`):
            Of the picture in tokens.
        channels (`int`):
            A multiple of 4.
        device (`torch.device`):
            Of the result.

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
    """Let the positioned norms of a transformer know the size of its input `(N, C, H, W)`."""
    for block in transformer.transformer_blocks:
        if isinstance(block.norm1, PositionedLayerNorm):
            block.norm1.size = hidden_states.shape[-2:]


class ReferenceReadBlock(BasicTransformerBlock):
    """A transformer block whose self-attention reads the reference's K and V, where there are any."""

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
    """A spatial transformer that finds its blocks' part of the reference by name."""

    reference_names: list[str]  # empty where this transformer reads no reference

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        tell_positions(self, hidden_states)
        # Looked up here and not in the block: a block that knew its own name would be compiled once per name.
        cross_attention_kwargs = dict(cross_attention_kwargs or {})
        reference = cross_attention_kwargs.pop(REFERENCE, None)
        if reference is not None and self.reference_names:
            cross_attention_kwargs[REFERENCE] = [
                (*reference.key_value(name, block.attn1), reference.dropped)
                for name, block in zip(self.reference_names, self.transformer_blocks, strict=True)
            ]
        return super().forward(hidden_states, *args, cross_attention_kwargs=cross_attention_kwargs, **kwargs)


class ReferenceRecorder:
    """Takes the features that blocks hand out. An object, as the hooks of offloading copy lists and dicts."""

    def __init__(self) -> None:
        self.features: dict[Any, torch.Tensor] = {}


class ReferenceWriteBlock(BasicTransformerBlock):
    """A transformer block that hands out the normed input of its self-attention."""

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
        cross_attention_kwargs = dict(cross_attention_kwargs or {})
        cross_attention_kwargs.pop(REFERENCE).features[self.position] = self.norm1(hidden_states)
        if self.attn1 is None:  # the last block: nothing that is handed out depends on what would follow
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
    """A spatial transformer that files its blocks' features under their names."""

    reference_names: list[str]

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, cross_attention_kwargs: dict[str, Any], **kwargs: Any
    ) -> Any:
        tell_positions(self, hidden_states)
        recorder = ReferenceRecorder()
        output = super().forward(
            hidden_states, *args, cross_attention_kwargs={**cross_attention_kwargs, REFERENCE: recorder}, **kwargs
        )
        for position, name in enumerate(self.reference_names):
            cross_attention_kwargs[REFERENCE].features[name] = recorder.features[position]
        return output


def name_reference_blocks(unet: nn.Module, parts: tuple[str, ...] = ("",)) -> list[str]:
    """Tell the transformers of a UNet the names of their blocks, and the blocks their places.

    Args:
        unet (`nn.Module`):
            A network with transformers of this module, reading or writing.
        parts (`tuple[str, ...]`, *optional*, defaults to `("",)`):
            Prefixes of the modules that take part, such as `("mid_block", "up_blocks")`; all by default.

    Returns:
        `list[str]`: the names of the blocks that take part.
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
    """Raise a `ValueError` where [`PositionedLayerNorm`] has channels that are no multiple of 4.

    Args:
        unet (`nn.Module`):
            The network.
    """
    for norm in unet.modules():
        if isinstance(norm, PositionedLayerNorm) and norm.normalized_shape[0] % 4:
            raise ValueError(
                "`block_out_channels` must be multiples of 4 where blocks have a transformer, for"
                f" `spatial_position_embedding`, got {norm.normalized_shape[0]}."
            )
