# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of the networks, by the back end that `set_attention_backend` of diffusers sets for them.

diffusers' processors for UNets call torch's SDPA, whatever back end is set. The layers here take their place where
they do nothing but attend, so that slicing, fused projections and IP-Adapters may still exchange them.
"""

from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from diffusers.models.modeling_utils import ModelMixin


SDPA_PROCESSORS = (AttnProcessor2_0, FusedAttnProcessor2_0)
# Those that do nothing but attend.
PLAIN_PROCESSORS = (*SDPA_PROCESSORS, AttnProcessor, SlicedAttnProcessor, XFormersAttnProcessor)


class DispatchedAttention(Attention):
    """Attention of a transformer block by diffusers' attention back ends."""

    backend: AttentionBackendName | None = None  # None stands for the one that is active in diffusers

    @property
    def used_backend(self) -> AttentionBackendName | None:
        return AttentionBackendName.XFORMERS if type(self.processor) is XFormersAttnProcessor else self.backend

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
            encoder_hidden_states (`torch.Tensor` of shape `(N, other tokens, C')`, *optional*):
                Keys and values, by default those of `hidden_states`; or what a processor of diffusers takes in their
                place.
            attention_mask, kwargs:
                As in diffusers.

        Returns:
            `torch.Tensor`: `(N, tokens, C)`.
        """
        if type(self.processor) not in SDPA_PROCESSORS:
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        query, key, value = self.project(hidden_states, encoder_hidden_states)
        if attention_mask is not None:
            attention_mask = self.prepare_attention_mask(attention_mask, key.shape[1], len(key))
            attention_mask = attention_mask.unflatten(0, (-1, self.heads))
        return self.attend(query, key, value, attention_mask)

    def project(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, each `(N, tokens, C)`, by one matrix where `fuse_qkv_projections` made one."""
        if type(self.processor) is not FusedAttnProcessor2_0:
            source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            return self.to_q(hidden_states), self.to_k(source), self.to_v(source)
        if encoder_hidden_states is None:
            return self.to_qkv(hidden_states).chunk(3, dim=-1)
        return self.to_q(hidden_states), *self.to_kv(encoder_hidden_states).chunk(2, dim=-1)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend and project, all of shape `(N, tokens, C)`; a mask is `(N, heads or none, queries or none, keys)`."""
        query, key, value = (states.unflatten(-1, (self.heads, -1)) for states in (query, key, value))
        hidden_states = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, scale=self.scale, backend=self.used_backend
        )
        projection, dropout = self.to_out
        return dropout(projection(hidden_states.flatten(2)))


class CrossAttention(DispatchedAttention):
    """Cross-attention that computes no weights that are one: to a single token, all queries attend alike.

    So it is where the token comes from the reference image (paper Sec. 3). The result is `(N, 1, C)` then.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
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


class MotionAttention(DispatchedAttention):
    """Attention along time. It stays on SDPA where xformers is asked for: its kernels do not take a sequence for each
    pixel of each clip."""

    @property
    def used_backend(self) -> AttentionBackendName:
        backend = self.backend or _AttentionBackendRegistry.get_active_backend()[0]
        return AttentionBackendName.NATIVE if backend == AttentionBackendName.XFORMERS else backend

    def set_use_memory_efficient_attention_xformers(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if encoder_hidden_states is None and hidden_states.shape[1] == 1:  # a frame that attends to itself alone
            projection, dropout = self.to_out
            return dropout(projection(self.to_v(hidden_states)))
        return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)


class AttentionBackendMixin(ModelMixin):
    """A network whose attention back end reaches every [`DispatchedAttention`] in it."""

    def set_attention_backend(self, backend: str) -> None:
        """Set the back end of all attention, but where slicing, xformers or IP-Adapters have processors of their own.

        Args:
            backend (`str`):
                As of [`~diffusers.ModelMixin.set_attention_backend`].
        """
        super().set_attention_backend(backend)
        self._set_backends(AttentionBackendName(backend.lower()))

    def reset_attention_backend(self) -> None:
        """Set the back end of all attention to the one that is active in diffusers."""
        super().reset_attention_backend()
        self._set_backends(None)

    def _set_backends(self, backend: AttentionBackendName | None) -> None:
        for module in self.modules():
            if isinstance(module, DispatchedAttention):
                module.backend = backend
