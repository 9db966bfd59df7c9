# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The appearance encoder (paper Fig. 2): a Stable Diffusion UNet that reads the reference image once per clip."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for it beside its subclasses
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.utils import BaseOutput
from torch import nn

from .attachments import check_no_attachments
from .attention import AttentionBackendMixin, CrossAttention, DispatchedAttention
from .layers import SPATIAL, SPATIAL_BLOCK, replace_layers
from .modeling_hia import StrictLoadingMixin, parent_options
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
    (SPATIAL_BLOCK + r"\.attn1", Attention, DispatchedAttention),
    (SPATIAL_BLOCK + r"\.attn2", Attention, CrossAttention),
)
POSITION_LAYERS = ((SPATIAL_BLOCK + r"\.norm1", nn.LayerNorm, PositionedLayerNorm),)  # if spatial_position_embedding


@dataclass
class HIAAppearanceEncoderOutput(BaseOutput):
    """Output of [`HIAAppearanceEncoder`].

    Args:
        reference_features (`dict[str, torch.Tensor]`):
            Maps the name of a block, such as `"mid_block.attentions.0.transformer_blocks.0"`, to the normalized input
            of its self-attention, `(B, tokens, C)`.
    """

    reference_features: dict[str, torch.Tensor]


class HIAAppearanceEncoder(StrictLoadingMixin, AttentionBackendMixin, UNet2DConditionModel):
    """A UNet that turns the latents of a reference image into features for reference attention.

    It has the configuration and state-dict keys of [`~diffusers.UNet2DConditionModel`], except for the layers on which
    no feature depends: the output convolution, and everything after the first norm of the last block. (A parameter
    without gradient would stall distributed training.)

    Args:
        spatial_position_embedding (`bool`, *optional*, defaults to `False`):
            As in [`HIAUNetMotionModel`].
        kwargs:
            The arguments of [`~diffusers.UNet2DConditionModel`].

    Raises:
        ValueError: If no up block in the configuration has a spatial transformer.
    """

    _repeated_blocks = ["ReferenceWriteBlock"]
    _no_split_modules = ["ResnetBlock2D", "ReferenceWriteTransformer", "UpBlock2D", "CrossAttnUpBlock2D"]
    _other_class_hint = "build the appearance encoder of a plain UNet with HIAAppearanceEncoder.from_unet(unet)."

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        center_input_sample: bool = False,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        mid_block_type: str | None = "UNetMidBlock2DCrossAttn",
        up_block_types: tuple[str, ...] = (
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ),
        only_cross_attention: bool | tuple[bool] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int | tuple[int] = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        dropout: float = 0.0,
        act_fn: str = "silu",
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int | tuple[int] = 1280,
        transformer_layers_per_block: int | tuple[int] | tuple[tuple] = 1,
        reverse_transformer_layers_per_block: tuple[tuple[int]] | None = None,
        encoder_hid_dim: int | None = None,
        encoder_hid_dim_type: str | None = None,
        attention_head_dim: int | tuple[int] = 8,
        num_attention_heads: int | tuple[int] | None = None,
        dual_cross_attention: bool = False,
        use_linear_projection: bool = False,
        class_embed_type: str | None = None,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        num_class_embeds: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        resnet_skip_time_act: bool = False,
        resnet_out_scale_factor: float = 1.0,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        time_embedding_act_fn: str | None = None,
        timestep_post_act: str | None = None,
        time_cond_proj_dim: int | None = None,
        conv_in_kernel: int = 3,
        conv_out_kernel: int = 3,
        projection_class_embeddings_input_dim: int | None = None,
        attention_type: str = "default",
        class_embeddings_concat: bool = False,
        mid_block_only_cross_attention: bool | None = None,
        cross_attention_norm: str | None = None,
        addition_embed_type_num_heads: int = 64,
        spatial_position_embedding: bool = False,
    ) -> None:
        super().__init__(**parent_options(UNet2DConditionModel, self.config))
        replace_layers(self, (*LAYERS, *(POSITION_LAYERS if spatial_position_embedding else ())))
        check_positioned_norms(self)
        self.reference_names = name_reference_blocks(self)
        self._drop_unused_layers()

    def _drop_unused_layers(self) -> None:
        up_blocks: Any = self.get_submodule("up_blocks")
        readers = [i for i, block in enumerate(up_blocks) if getattr(block, "has_cross_attention", False)]
        if not readers:
            raise ValueError(
                f"`up_block_types` must contain a block with cross-attention, got {self.config.up_block_types}."
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
        """Create the encoder from the configuration and a copy of the weights of a UNet.

        Args:
            unet (`UNet2DConditionModel`):
                A UNet, such as that of Stable Diffusion 1.5.
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
        """Encode reference latents.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`):
                Clean latents of the reference images, scaled for the UNet.
            timestep (`torch.Tensor` or `float` or `int`):
                0 for HIA; the current timestep for the weights of MagicAnimate.
            encoder_hidden_states (`torch.Tensor` of shape `(B, tokens, C)`):
                Input of cross-attention.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`HIAAppearanceEncoderOutput`] instead of a tuple.
            kwargs:
                Other arguments of [`~diffusers.UNet2DConditionModel.forward`].
        """
        recorder = ReferenceRecorder()
        cross_attention_kwargs = {**(kwargs.pop("cross_attention_kwargs", None) or {}), REFERENCE: recorder}
        super().forward(
            sample, timestep, encoder_hidden_states, cross_attention_kwargs=cross_attention_kwargs, **kwargs
        )
        features = recorder.features
        return HIAAppearanceEncoderOutput(reference_features=features) if return_dict else (features,)
