# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The ControlNet of HIA: six channels of pose and hand blur (paper Sec. 3.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding, ControlNetOutput
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for it beside its subclasses
from torch import nn

from .attachments import check_no_attachments
from .attention import AttentionBackendMixin, CrossAttention, DispatchedAttention
from .conditioning_embedding import ConditioningWindows, ReusableConditioningEmbedding, widened
from .deep_cache import DeepCacheMixin
from .layers import SPATIAL_BLOCK, replace_layers
from .modeling_hia import StrictLoadingMixin, parent_options
from .pose_guider import HIAPoseGuider


@dataclass
class HIAControlNetOutput(ControlNetOutput):
    """Output of [`HIAControlNetModel`], which accelerate can rebuild on another device from a mapping.

    Args:
        down_block_res_samples (`tuple[torch.Tensor, ...]`):
            Residuals of the down blocks, each `(N, C, h, w)`.
        mid_block_res_sample (`torch.Tensor` of shape `(N, C, h, w)`, *optional*):
            Residual of the middle block.
    """

    down_block_res_samples: Any
    mid_block_res_sample: Any = None


LAYERS = (
    ("controlnet_cond_embedding", ControlNetConditioningEmbedding, ReusableConditioningEmbedding),
    (SPATIAL_BLOCK + r"\.attn1", Attention, DispatchedAttention),
    (SPATIAL_BLOCK + r"\.attn2", Attention, CrossAttention),
)


class HIAControlNetModel(StrictLoadingMixin, AttentionBackendMixin, DeepCacheMixin, ControlNetModel):
    """A [`~diffusers.ControlNetModel`] whose input is the six channels of [`MotionBlurCondition`] by default.

    Args:
        kwargs:
            The arguments of [`~diffusers.ControlNetModel`]; `conditioning_channels` defaults to 6.

    Raises:
        ValueError: If `controlnet_conditioning_channel_order` is not `"rgb"`.
    """

    # The arguments of [`HIAUNetMotionModel`] to which the outputs are passed, in order.
    unet_arguments = ("down_block_additional_residuals", "mid_block_additional_residual")

    _repeated_blocks = ["BasicTransformerBlock"]
    _no_split_modules = ["ResnetBlock2D", "Transformer2DModel"]
    _skip_layerwise_casting_patterns = ["norm"]
    _other_class_hint = "widen a plain ControlNet with HIAControlNetModel.from_controlnet(controlnet)."

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        conditioning_channels: int = 6,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        mid_block_type: str | None = "UNetMidBlock2DCrossAttn",
        only_cross_attention: bool | tuple[bool] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1280,
        transformer_layers_per_block: int | tuple[int, ...] = 1,
        encoder_hid_dim: int | None = None,
        encoder_hid_dim_type: str | None = None,
        attention_head_dim: int | tuple[int, ...] = 8,
        num_attention_heads: int | tuple[int, ...] | None = None,
        use_linear_projection: bool = False,
        class_embed_type: str | None = None,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        num_class_embeds: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        projection_class_embeddings_input_dim: int | None = None,
        controlnet_conditioning_channel_order: str = "rgb",
        conditioning_embedding_out_channels: tuple[int, ...] | None = (16, 32, 96, 256),
        global_pool_conditions: bool = False,
        addition_embed_type_num_heads: int = 64,
    ) -> None:
        super().__init__(**parent_options(ControlNetModel, self.config))
        if controlnet_conditioning_channel_order != "rgb":
            raise ValueError(
                "`controlnet_conditioning_channel_order` must be 'rgb', the order of the condition, got "
                f"{controlnet_conditioning_channel_order!r}."
            )
        replace_layers(self, LAYERS)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> Any:
        """Create a ControlNet from its configuration, or the [`HIAPoseGuider`] that earlier versions saved as one.

        Args:
            config (`dict`):
                As in [`~diffusers.ConfigMixin.from_config`]. If it contains `embedding_only`, it is that of a pose
                guider.
            kwargs:
                Options that override those of `config`.
        """
        if config.get("embedding_only"):
            return HIAPoseGuider.from_config(config, **kwargs)
        return super().from_config({k: v for k, v in config.items() if k != "embedding_only"}, **kwargs)

    @property
    def deep_blocks(self) -> list[nn.Module]:
        """All blocks, whose outputs a cache can reuse."""
        return [self.conv_in, *self.down_blocks, self.mid_block]

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, conditioning_channels: int = 6, **kwargs: Any
    ) -> "HIAControlNetModel":
        """Create a ControlNet from the encoder of a UNet, with a new conditioning embedding.

        Args:
            unet (`UNet2DConditionModel`):
                The UNet whose configuration and encoder weights are copied.
            conditioning_channels (`int`, *optional*, defaults to 6):
                Channels of the conditioning frames.
            kwargs:
                Other options of [`~diffusers.ControlNetModel.from_unet`].
        """
        if not isinstance(unet, UNet2DConditionModel):
            raise TypeError(f"`unet` must be a UNet2DConditionModel, got {type(unet).__name__}.")
        check_no_attachments("unet", unet)
        return super().from_unet(unet, conditioning_channels=conditioning_channels, **kwargs)

    @classmethod
    def from_controlnet(cls, controlnet: ControlNetModel, conditioning_channels: int = 6) -> "HIAControlNetModel":
        """Extend a pretrained ControlNet by input channels of zero weight, which at first leave its outputs unchanged.

        Args:
            controlnet (`ControlNetModel`):
                A ControlNet, such as `lllyasviel/control_v11p_sd15_openpose` with 3 channels.
            conditioning_channels (`int`, *optional*, defaults to 6):
                Channels of the conditioning frames, at least as many as `controlnet` has; the existing channels come
                first.
        """
        if not isinstance(controlnet, ControlNetModel):
            raise TypeError(f"`controlnet` must be a ControlNetModel, got {type(controlnet).__name__}.")
        check_no_attachments("controlnet", controlnet)
        return widened(cls, "controlnet", controlnet, conditioning_channels=conditioning_channels)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor | ConditioningWindows,
        conditioning_scale: float = 1.0,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> HIAControlNetOutput | tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Encode conditioning frames.

        Args:
            sample (`torch.Tensor` of shape `(N, C, h, w)`):
                Noisy latents.
            timestep (`torch.Tensor` or `float` or `int`):
                The timestep, one for all or one per frame.
            encoder_hidden_states (`torch.Tensor` of shape `(N, tokens, C)`):
                Input of cross-attention.
            controlnet_cond (`torch.Tensor` of shape `(N, C, H, W)` or [`ConditioningWindows`]):
                Conditioning frames in [0, 1].
            conditioning_scale (`float`, *optional*, defaults to 1.0):
                Factor by which the residuals are multiplied.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return an [`HIAControlNetOutput`] instead of a tuple.
            kwargs:
                Other arguments of [`~diffusers.ControlNetModel.forward`].

        Returns:
            [`HIAControlNetOutput`] or `tuple`: Residuals of the down blocks and of the middle block.
        """
        down, mid = super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            controlnet_cond=controlnet_cond,
            conditioning_scale=conditioning_scale,
            return_dict=False,
            **kwargs,
        )
        return HIAControlNetOutput(tuple(down), mid) if return_dict else (tuple(down), mid)
