# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The appearance encoder (paper Fig. 2): a Stable Diffusion UNet that reads the reference picture once per clip."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for it beside its subclasses
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.utils import BaseOutput
from torch import nn

from .attachments import check_no_attachments
from .context_attention import ContextAttention
from .layers import SPATIAL, SPATIAL_BLOCK, replace_layers
from .modeling_hia import StrictLoadingMixin, extends_init
from .reference_attention import (
    REFERENCE,
    PositionedLayerNorm,
    ReferenceRecorder,
    ReferenceWriteBlock,
    ReferenceWriteTransformer,
    check_positioned_norms,
    name_reference_blocks,
)


LAYERS = (
    (SPATIAL, Transformer2DModel, ReferenceWriteTransformer),
    (SPATIAL_BLOCK, BasicTransformerBlock, ReferenceWriteBlock),
    (SPATIAL_BLOCK + r"\.attn2", Attention, ContextAttention),
)
POSITION_LAYERS = ((SPATIAL_BLOCK + r"\.norm1", nn.LayerNorm, PositionedLayerNorm),)  # spatial_position_embedding


@dataclass
class HIAAppearanceEncoderOutput(BaseOutput):
    """Output of [`HIAAppearanceEncoder`].

    Args:
        reference_features (`dict[str, torch.Tensor]`):
            Block name, such as `"mid_block.attentions.0.transformer_blocks.0"`, to the normed input of that block's
            self-attention, `(B, tokens, C)`.
    """

    reference_features: dict[str, torch.Tensor]


class HIAAppearanceEncoder(StrictLoadingMixin, UNet2DConditionModel):
    """A UNet that turns the latents of a reference picture into features for reference attention.

    It takes the configuration of [`~diffusers.UNet2DConditionModel`] and has its state-dict keys, but for those on
    which no feature depends: the output convolution, and everything behind the last block's first norm. (A parameter
    without gradient would stall distributed training.)

    Args:
        spatial_position_embedding (`bool`, *optional*, defaults to `False`):
            As in [`HIAUNetMotionModel`].
        kwargs:
            The arguments of [`~diffusers.UNet2DConditionModel`].

    Raises:
        ValueError: If the configuration has no spatial transformer in its up blocks.
    """

    _repeated_blocks = ["ReferenceWriteBlock"]
    _other_class_hint = "build the appearance encoder of a plain UNet with HIAAppearanceEncoder.from_unet(unet)."

    @extends_init(UNet2DConditionModel, spatial_position_embedding=False)
    def __init__(self, spatial_position_embedding: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_to_config(spatial_position_embedding=spatial_position_embedding)
        replace_layers(self, (*LAYERS, *(POSITION_LAYERS if spatial_position_embedding else ())))
        check_positioned_norms(self)
        self.reference_names = name_reference_blocks(self)
        self._drop_unused_layers()

    def _drop_unused_layers(self) -> None:
        up_blocks: Any = self.get_submodule("up_blocks")
        readers = [i for i, block in enumerate(up_blocks) if getattr(block, "has_cross_attention", False)]
        if not readers:
            raise ValueError(
                f"`up_block_types` must hold a block with cross-attention, got {self.config.up_block_types}."
            )
        del up_blocks[readers[-1] + 1 :]
        up_blocks[-1].upsamplers = None
        transformer = up_blocks[-1].attentions[-1]
        transformer.proj_out = nn.Identity()
        last = transformer.transformer_blocks[-1]
        last.attn1 = last.norm2 = last.attn2 = last.norm3 = last.ff = None
        self.conv_norm_out = self.conv_act = None
        self.conv_out = nn.Identity()

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, spatial_position_embedding: bool = False) -> "HIAAppearanceEncoder":
        """Build the encoder from a UNet's configuration and a copy of its weights.

        Args:
            unet (`UNet2DConditionModel`):
                For instance the UNet of Stable Diffusion 1.5.
            spatial_position_embedding (`bool`, *optional*, defaults to `False`):
                As in [`HIAUNetMotionModel`].
        """
        if not isinstance(unet, UNet2DConditionModel):
            raise TypeError(f"`unet` must be a UNet2DConditionModel, got {type(unet).__name__}.")
        check_no_attachments("unet", unet)
        encoder = cls.from_config(unet.config, spatial_position_embedding=spatial_position_embedding)
        kept = encoder.state_dict().keys()
        encoder.load_state_dict({name: value for name, value in unet.state_dict().items() if name in kept})
        return encoder.to(device=unet.device, dtype=unet.dtype)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> HIAAppearanceEncoderOutput | tuple[dict[str, torch.Tensor]]:
        """Read reference latents.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`):
                Clean latents of the reference pictures, scaled as the VAE's configuration says.
            timestep (`torch.Tensor` or `float` or `int`):
                0 for HIA; the current timestep for weights of MagicAnimate.
            encoder_hidden_states (`torch.Tensor` of shape `(B, tokens, C)`):
                Context for cross-attention.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`HIAAppearanceEncoderOutput`] instead of a tuple.
            kwargs:
                Further arguments of [`~diffusers.UNet2DConditionModel.forward`].
        """
        recorder = ReferenceRecorder()
        cross_attention_kwargs = {**(kwargs.pop("cross_attention_kwargs", None) or {}), REFERENCE: recorder}
        super().forward(
            sample, timestep, encoder_hidden_states, cross_attention_kwargs=cross_attention_kwargs, **kwargs
        )
        features = recorder.features
        return HIAAppearanceEncoderOutput(reference_features=features) if return_dict else (features,)
