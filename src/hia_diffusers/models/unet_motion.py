# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The denoising UNet of HIA: Stable Diffusion's UNet with temporal attention and reference attention."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for it beside its subclasses
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionOutput
from torch import nn

from .attachments import check_no_attachments
from .attention import AttentionBackendMixin, CrossAttention, DispatchedAttention, MotionAttention
from .deep_cache import DeepCacheMixin
from .layers import (
    MOTION,
    MOTION_BLOCK,
    SPATIAL,
    SPATIAL_BLOCK,
    ClipGroupNorm,
    FrameGroupNorm,
    InputConvolution,
    MotionTransformer,
    replace_layers,
)
from .modeling_hia import StrictLoadingMixin, check_same_options, parent_options
from .reference_attention import (
    REFERENCE,
    PositionedLayerNorm,
    ReferenceFeatures,
    ReferenceReadBlock,
    ReferenceReadTransformer,
    check_positioned_norms,
    name_reference_blocks,
)


# Options that must be the same in a motion adapter and the UNet, by their names in the adapter.
MOTION_ADAPTER_OPTIONS = {
    "block_out_channels": "block_out_channels",
    "motion_layers_per_block": "layers_per_block",
    "motion_mid_block_layers_per_block": "mid_block_layers",
    "motion_norm_num_groups": "norm_num_groups",
}

REFERENCE_PARTS = {"full": ("",), "midup": ("mid_block", "up_blocks")}

LAYERS = (
    ("conv_in", nn.Conv2d, InputConvolution),
    (SPATIAL, Transformer2DModel, ReferenceReadTransformer),
    (SPATIAL_BLOCK, BasicTransformerBlock, ReferenceReadBlock),
    (SPATIAL_BLOCK + r"\.attn1", Attention, DispatchedAttention),
    (SPATIAL_BLOCK + r"\.attn2", Attention, CrossAttention),
    (MOTION, AnimateDiffTransformer3D, MotionTransformer),
    (MOTION_BLOCK + r"\.attn[12]", Attention, MotionAttention),
)
# For `motion_norm="frame"`, `resnet_norm="clip"` and `spatial_position_embedding`.
FRAME_NORM_LAYERS = ((MOTION + r"\.norm", nn.GroupNorm, FrameGroupNorm),)
CLIP_NORM_LAYERS = ((r".+\.resnets\.\d+\.norm[12]|conv_norm_out", nn.GroupNorm, ClipGroupNorm),)
POSITION_LAYERS = ((SPATIAL_BLOCK + r"\.norm1", nn.LayerNorm, PositionedLayerNorm),)


def check_motion_adapter(adapter: MotionAdapter, unet: UNet2DConditionModel | UNetMotionModel) -> None:
    """Refuse a motion adapter that was made for another UNet.

    Args:
        adapter (`MotionAdapter`):
            Temporal layers of AnimateDiff.
        unet (`UNet2DConditionModel` or `UNetMotionModel`):
            The UNet.

    Raises:
        TypeError: If the adapter is of another class.
        ValueError: If an option differs, or the adapter has a first convolution of its own.
    """
    if not isinstance(adapter, MotionAdapter):
        raise TypeError(f"`motion_adapter` must be a MotionAdapter, got {type(adapter).__name__}.")
    if adapter.config.conv_in_channels:
        raise ValueError(
            f"`motion_adapter`: it has an input convolution of {adapter.config.conv_in_channels} channels (PIA)."
        )
    check_same_options("motion_adapter", adapter, unet, MOTION_ADAPTER_OPTIONS)


class HIAUNetMotionModel(StrictLoadingMixin, AttentionBackendMixin, DeepCacheMixin, UNetMotionModel):
    """A [`~diffusers.UNetMotionModel`] whose spatial self-attention also attends to a reference image.

    Configuration and state-dict keys are those of the base class. New motion modules start as the identity, as in
    AnimateDiff. They stay on torch's SDPA if xformers is requested.

    Args:
        reference_attention_blocks (`"full"` or `"midup"`, *optional*, defaults to `"full"`):
            The blocks that read the reference: all, or only the mid and up blocks.
        motion_norm (`"frame"` or `"clip"`, *optional*, defaults to `"frame"`):
            Whether the statistics of the group norm at the start of a motion module are those of each frame or of the
            clip. With `"frame"`, the norm of a frame does not depend on the other frames of its window; AnimateDiff in
            diffusers uses `"clip"`.
        resnet_norm (`"frame"` or `"clip"`, *optional*, defaults to `"frame"`):
            The same for the group norms of the residual blocks and the output; MagicAnimate uses `"clip"`.
        spatial_position_embedding (`bool`, *optional*, defaults to `False`):
            Whether a position embedding is added to the input of spatial self-attention. Small networks that are
            trained from scratch take long to learn positions without it. The appearance encoder must have the same
            value.
        input_skip (`bool`, *optional*, defaults to `False`):
            Whether the input is added to the output and the output is rescaled, each with a factor per channel that is
            learned as a function of the timestep and starts at 0 and 1, respectively. It allows a narrow network that
            predicts the clean latents (`prediction_type="sample"`) to return an almost noise-free input without loss.
        use_motion_modules (`bool`, *optional*, defaults to `True`):
            Whether the motion modules run. They do not in the spatial and regional stages of training, nor in the
            pipelines that these stages save, since temporal layers are inserted afterwards (Sec. 3.3 of
            https://arxiv.org/abs/2409.19580).
        kwargs:
            The arguments of [`~diffusers.UNetMotionModel`].

    Raises:
        ValueError: If one of the first three options has another value, or `input_skip` is set and the output has
            other channels than the input.
    """

    _repeated_blocks = ["ReferenceReadBlock", "BasicTransformerBlock"]
    _no_split_modules = [
        "ResnetBlock2D",
        "ReferenceReadTransformer",
        "MotionTransformer",
        "UpBlockMotion",
        "CrossAttnUpBlockMotion",
    ]
    _skip_keys = ["reference_features"]  # not moved by hooks: a copy would lose the K and V of each layer
    _other_class_hint = (
        "build it from a plain UNet with HIAUNetMotionModel.from_unet2d(unet, motion_adapter) or from a"
        " UNetMotionModel with HIAUNetMotionModel.from_unet_motion(unet)."
    )

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlockMotion",
            "CrossAttnDownBlockMotion",
            "CrossAttnDownBlockMotion",
            "DownBlockMotion",
        ),
        up_block_types: tuple[str, ...] = (
            "UpBlockMotion",
            "CrossAttnUpBlockMotion",
            "CrossAttnUpBlockMotion",
            "CrossAttnUpBlockMotion",
        ),
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int | tuple[int] = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1280,
        transformer_layers_per_block: int | tuple[int] | tuple[tuple] = 1,
        reverse_transformer_layers_per_block: int | tuple[int] | tuple[tuple] | None = None,
        temporal_transformer_layers_per_block: int | tuple[int] | tuple[tuple] = 1,
        reverse_temporal_transformer_layers_per_block: int | tuple[int] | tuple[tuple] | None = None,
        transformer_layers_per_mid_block: int | tuple[int] | None = None,
        temporal_transformer_layers_per_mid_block: int | tuple[int] | None = 1,
        use_linear_projection: bool = False,
        num_attention_heads: int | tuple[int, ...] = 8,
        motion_max_seq_length: int = 32,
        motion_num_attention_heads: int | tuple[int, ...] = 8,
        reverse_motion_num_attention_heads: int | tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None,
        use_motion_mid_block: bool = True,
        mid_block_layers: int = 1,
        encoder_hid_dim: int | None = None,
        encoder_hid_dim_type: str | None = None,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        projection_class_embeddings_input_dim: int | None = None,
        time_cond_proj_dim: int | None = None,
        reference_attention_blocks: Literal["full", "midup"] = "full",
        motion_norm: Literal["frame", "clip"] = "frame",
        resnet_norm: Literal["frame", "clip"] = "frame",
        spatial_position_embedding: bool = False,
        input_skip: bool = False,
        use_motion_modules: bool = True,
    ) -> None:
        for name, value, accepted in (
            ("reference_attention_blocks", reference_attention_blocks, ("full", "midup")),
            ("motion_norm", motion_norm, ("frame", "clip")),
            ("resnet_norm", resnet_norm, ("frame", "clip")),
        ):
            if value not in accepted:
                raise ValueError(f"`{name}` must be one of {accepted}, got {value!r}.")
        super().__init__(**parent_options(UNetMotionModel, self.config))
        self.input_skip_projection: nn.Linear | None = None
        if input_skip:
            if self.config.in_channels != self.config.out_channels:
                raise ValueError(
                    f"`input_skip` needs as many `in_channels` as `out_channels`, got {self.config.in_channels} and"
                    f" {self.config.out_channels}."
                )
            self.input_skip_projection = nn.Linear(
                self.time_embedding.linear_2.out_features, 2 * self.config.out_channels
            )
            nn.init.zeros_(self.input_skip_projection.weight)
            nn.init.zeros_(self.input_skip_projection.bias)
        replace_layers(
            self,
            (
                *LAYERS,
                *(FRAME_NORM_LAYERS if motion_norm == "frame" else ()),
                *(CLIP_NORM_LAYERS if resnet_norm == "clip" else ()),
                *(POSITION_LAYERS if spatial_position_embedding else ()),
            ),
        )
        check_positioned_norms(self)
        self.reference_names = name_reference_blocks(self, REFERENCE_PARTS[reference_attention_blocks])
        self._clip_norms = [module for module in self.modules() if isinstance(module, ClipGroupNorm)]
        for module in self.modules():
            if isinstance(module, MotionTransformer):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
        self.set_motion_modules(use_motion_modules)

    @classmethod
    def from_unet2d(
        cls, unet: UNet2DConditionModel, motion_adapter: MotionAdapter | None = None, load_weights: bool = True
    ) -> "HIAUNetMotionModel":
        """Create the motion UNet from copies of a 2D UNet and a motion adapter.

        Args:
            unet (`UNet2DConditionModel`):
                A UNet, such as that of Stable Diffusion 1.5.
            motion_adapter (`MotionAdapter`, *optional*):
                Temporal layers of AnimateDiff. By default, they are new and start as the identity.
            load_weights (`bool`, *optional*, defaults to `True`):
                Whether to copy the weights, or only the configuration.

        Raises:
            TypeError: If one is of another class.
            ValueError: If the adapter does not fit the UNet.
        """
        if not isinstance(unet, UNet2DConditionModel):
            raise TypeError(f"`unet` must be a UNet2DConditionModel, got {type(unet).__name__}.")
        check_no_attachments("unet", unet)
        if motion_adapter is not None:
            check_motion_adapter(motion_adapter, unet)
        return super().from_unet2d(unet, motion_adapter, load_weights).to(unet.device)

    @classmethod
    def from_unet_motion(cls, unet: UNetMotionModel) -> "HIAUNetMotionModel":
        """Convert a `UNetMotionModel` to one that can read a reference.

        It shares the weights, and computes the same without a reference.

        Args:
            unet (`UNetMotionModel`):
                A motion UNet, such as that of an AnimateDiff pipeline. `motion_norm` is set to `"clip"`, as in
                diffusers.
        """
        if not isinstance(unet, UNetMotionModel):
            raise TypeError(f"`unet` must be a UNetMotionModel, got {type(unet).__name__}.")
        check_no_attachments("unet", unet)
        with torch.device("meta"):
            model = cls.from_config(unet.config, motion_norm="clip")
        model.load_state_dict(unet.state_dict(), assign=True)
        return model.train(unet.training)

    def fuse_qkv_projections(self) -> None:
        """Compute queries, keys and values of spatial attention and of motion modules with one matrix.

        Raises:
            ValueError: If LoRA or an IP-Adapter is loaded, which would no longer have any effect, or projections are
                already fused.
        """
        check_no_attachments("unet", self)
        super().fuse_qkv_projections()

    @property
    def deep_blocks(self) -> list[nn.Module]:
        """All blocks except the outermost two, whose outputs a cache can reuse."""
        return [*self.down_blocks[1:], self.mid_block, *self.up_blocks[:-1]]

    @property
    def blocks_before_reference(self) -> list[nn.Module]:
        """All blocks whose outputs do not depend on the reference."""
        return [*self.down_blocks] if self.config.reference_attention_blocks == "midup" else []

    def set_motion_modules(self, used: bool) -> None:
        """Enable or disable the motion modules, and store this as `use_motion_modules` in the configuration.

        Args:
            used (`bool`):
                Whether the motion modules run.
        """
        self.register_to_config(use_motion_modules=used)
        for module in self.modules():
            if isinstance(module, MotionTransformer):
                module.is_left_out = not used

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        down_block_additional_residuals: tuple[torch.Tensor, ...] | None = None,
        mid_block_additional_residual: torch.Tensor | None = None,
        return_dict: bool = True,
        reference_features: Mapping[str, torch.Tensor] | ReferenceFeatures | None = None,
        pose_features: torch.Tensor | None = None,
    ) -> UNetMotionOutput | tuple[torch.Tensor]:
        """Predict the noise of a clip.

        Args:
            sample (`torch.Tensor` of shape `(B, C, F, H, W)`):
                Noisy latents.
            timestep (`torch.Tensor` or `float` or `int`):
                The timestep, one for all or one per clip.
            encoder_hidden_states (`torch.Tensor` of shape `(B, tokens, C)` or `(B * F, tokens, C)`):
                Input of cross-attention, per clip or per frame.
            timestep_cond, attention_mask, cross_attention_kwargs, added_cond_kwargs:
                As in [`~diffusers.UNetMotionModel.forward`]; `attention_mask` cannot be combined with a reference.
            down_block_additional_residuals (`tuple[torch.Tensor, ...]`, *optional*):
                Residuals of the ControlNet, each `(B * F, C, H, W)`.
            mid_block_additional_residual (`torch.Tensor`, *optional*):
                Residual of the ControlNet's middle block, `(B * F, C, H, W)`.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`~diffusers.models.unets.unet_motion_model.UNetMotionOutput`] instead of a tuple.
            reference_features (`Mapping[str, torch.Tensor]` or [`ReferenceFeatures`], *optional*):
                Features of the appearance encoder by block name, `(B, tokens, C)`. [`ReferenceFeatures`] keeps K and V
                between calls; a mapping is projected in every call. By default, there is no reference.
            pose_features (`torch.Tensor` of shape `(B * F, C, H, W)`, *optional*):
                Features that are added to the output of the first convolution, as in Moore-AnimateAnyone, with the
                same number of channels.

        Raises:
            ValueError: If the reference features are those of other blocks or of another number of clips, or the pose
                features have another shape or are combined with an adapter of the first convolution.
        """
        num_frames = sample.shape[2]
        if encoder_hidden_states.shape[0] == sample.shape[0]:
            encoder_hidden_states = encoder_hidden_states.repeat_interleave(num_frames, dim=0)
        for norm in self._clip_norms:
            norm.num_frames = num_frames
        if reference_features is not None:
            if attention_mask is not None:
                raise ValueError("`attention_mask` cannot be given together with `reference_features`.")
            if not isinstance(reference_features, ReferenceFeatures):
                reference_features = ReferenceFeatures(reference_features)
            self._check_reference(reference_features, batch_size=sample.shape[0])
            cross_attention_kwargs = {**(cross_attention_kwargs or {}), REFERENCE: reference_features}
        if pose_features is not None:
            expected = (sample.shape[0] * num_frames, self.config.block_out_channels[0], *sample.shape[-2:])
            if pose_features.shape != expected:
                raise ValueError(f"`pose_features` must have the shape {expected}, got {tuple(pose_features.shape)}.")
            if not isinstance(self.conv_in, InputConvolution):
                raise ValueError("`pose_features` cannot be given while an adapter changes the first convolution.")
            # As channels of the input, they need no separate argument of the base class's forward.
            clips = pose_features.unflatten(0, (-1, num_frames)).transpose(1, 2)
            sample_and_pose = torch.cat([sample, clips.to(sample.dtype)], dim=1)
        else:
            sample_and_pose = sample
        output = super().forward(
            sample_and_pose,
            timestep,
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            attention_mask=attention_mask,
            cross_attention_kwargs=cross_attention_kwargs,
            added_cond_kwargs=added_cond_kwargs,
            down_block_additional_residuals=down_block_additional_residuals,
            mid_block_additional_residual=mid_block_additional_residual,
            return_dict=False,
        )[0]
        if self.input_skip_projection is not None:
            timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])
            embedding = self.time_embedding(self.time_proj(timesteps).to(sample.dtype), timestep_cond)
            scale, skip = self.input_skip_projection(embedding)[:, :, None, None, None].chunk(2, dim=1)
            output = (1 + scale) * output + skip * sample
        return UNetMotionOutput(sample=output) if return_dict else (output,)

    def _check_reference(self, reference: ReferenceFeatures, batch_size: int) -> None:
        missing = [name for name in self.reference_names if name not in reference.features]
        if missing:
            raise ValueError(f"`reference_features` lacks the blocks {', '.join(missing)}.")
        for name in self.reference_names:
            if reference.features[name].shape[0] != batch_size:
                raise ValueError(
                    f"`reference_features` must have one entry per clip ({batch_size}), got"
                    f" {reference.features[name].shape[0]} in {name}."
                )
        if reference.dropped is not None and reference.dropped.shape != (batch_size,):
            raise ValueError(
                f"`reference_features` must have one `dropped` per clip ({batch_size}), got"
                f" {tuple(reference.dropped.shape)}."
            )
