# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Cross-attention to the context, which is one token where it comes from the reference picture (paper Sec. 3)."""

from typing import Any

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)


# Those that do nothing but attend.
PLAIN_PROCESSORS = (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)


class ContextAttention(Attention):
    """Cross-attention that does not compute weights which are one: all attend alike to a context of a single token."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(N, tokens, C)`):
                Queries.
            encoder_hidden_states (`torch.Tensor` of shape `(N, context tokens, C')`):
                The context, or what a processor of diffusers takes in its place.
            attention_mask, kwargs:
                As in diffusers.

        Returns:
            `torch.Tensor`: `(N, tokens, C)`, or `(N, 1, C)` where all tokens would have the same.
        """
        if (
            isinstance(encoder_hidden_states, torch.Tensor)
            and encoder_hidden_states.shape[1] == 1
            and attention_mask is None
            and type(self.processor) in PLAIN_PROCESSORS
            and not torch.is_grad_enabled()  # distributed training wants gradients of `to_q` and `to_k`, if only zeros
        ):
            projection, dropout = self.to_out
            return dropout(projection(self.to_v(encoder_hidden_states)))
        return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
