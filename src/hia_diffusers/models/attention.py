# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Attention of the networks, using the backend set by `set_attention_backend` of diffusers.

The processors that diffusers uses in UNets always call torch's SDPA, whichever backend is set. The layers here replace
them only if they do nothing but attend, so that slicing, fused projections and IP-Adapters can still change the
processors.
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
# Processors that do nothing but attend.
PLAIN_PROCESSORS = (*SDPA_PROCESSORS, AttnProcessor, SlicedAttnProcessor, XFormersAttnProcessor)


class DispatchedAttention(Attention):
    """Attention of a transformer block, using diffusers' attention backends."""

    backend: AttentionBackendName | None = None  # None means the one that is active in diffusers

    @property
    def used_backend(self) -> AttentionBackendName | None:
        """Backend of this layer; None means the one that is active in diffusers."""
        return AttentionBackendName.XFORMERS if type(self.processor) is XFormersAttnProcessor else self.backend

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, tokens, C)`):
                Source of the queries.
            encoder_hidden_states (`torch.Tensor` of shape `(N, other tokens, C')`, *optional*):
                Source of the keys and values, by default `hidden_states`; or any other input that the processor
                supports.
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
        """Return queries, keys and values, each `(N, tokens, C)`, using fused projections if there are any."""
        if type(self.processor) is not FusedAttnProcessor2_0:
            source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            return self.to_q(hidden_states), self.to_k(source), self.to_v(source)
        if encoder_hidden_states is None:
            return self.to_qkv(hidden_states).chunk(3, dim=-1)
        return self.to_q(hidden_states), *self.to_kv(encoder_hidden_states).chunk(2, dim=-1)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend and apply the output projection.

        All tensors are `(N, tokens, C)`; a mask is `(N, heads or none, queries or none, keys)`.
        """
        query, key, value = (states.unflatten(-1, (self.heads, -1)) for states in (query, key, value))
        hidden_states = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, scale=self.scale, backend=self.used_backend
        )
        projection, dropout = self.to_out
        return dropout(projection(hidden_states.flatten(2)))


class CrossAttention(DispatchedAttention):
    """Cross-attention that skips the attention weights if there is one token, since all of them are one.

    This is the case if the token comes from the reference image (paper Sec. 3). The result is then `(N, 1, C)`.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend, as in [`DispatchedAttention`]."""
        if (
            isinstance(encoder_hidden_states, torch.Tensor)
            and encoder_hidden_states.shape[1] == 1
            and attention_mask is None
            and type(self.processor) in PLAIN_PROCESSORS
            and not torch.is_grad_enabled()  # distributed training needs gradients of `to_q` and `to_k`
        ):
            projection, dropout = self.to_out
            return dropout(projection(self.to_v(encoder_hidden_states)))
        return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)


class MotionAttention(DispatchedAttention):
    """Attention along time.

    It stays on SDPA if xformers is requested, whose kernels do not support one sequence per pixel of each clip.
    """

    @property
    def used_backend(self) -> AttentionBackendName:
        """Backend of this layer: the requested one, but SDPA instead of xformers."""
        backend = self.backend or _AttentionBackendRegistry.get_active_backend()[0]
        return AttentionBackendName.NATIVE if backend == AttentionBackendName.XFORMERS else backend

    def set_use_memory_efficient_attention_xformers(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: attention along time stays on SDPA."""
        pass

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend, as in [`DispatchedAttention`]; a single frame attends to itself only."""
        if encoder_hidden_states is None and hidden_states.shape[1] == 1:  # its only weight is one
            projection, dropout = self.to_out
            return dropout(projection(self.to_v(hidden_states)))
        return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)


class AttentionBackendMixin(ModelMixin):
    """A network that sets the attention backend of every [`DispatchedAttention`] in it."""

    def set_attention_backend(self, backend: str) -> None:
        """Set the backend of the attention layers.

        Layers with a processor of slicing, xformers or an IP-Adapter are not affected.

        Args:
            backend (`str`):
                As in [`~diffusers.ModelMixin.set_attention_backend`].
        """
        super().set_attention_backend(backend)
        self._set_backends(AttentionBackendName(backend.lower()))

    def reset_attention_backend(self) -> None:
        """Set the backend of all attention layers to the one that is active in diffusers."""
        super().reset_attention_backend()
        self._set_backends(None)

    def _set_backends(self, backend: AttentionBackendName | None) -> None:
        for module in self.modules():
            if isinstance(module, DispatchedAttention):
                module.backend = backend
