# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pose guider of Moore-AnimateAnyone, which replaces the ControlNet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for it beside its subclasses
from diffusers.utils import BaseOutput

from .conditioning_embedding import ConditioningWindows, ReusableConditioningEmbedding, widened
from .modeling_hia import StrictLoadingMixin


@dataclass
class HIAPoseGuiderOutput(BaseOutput):
    """Output of [`HIAPoseGuider`].

    Args:
        pose_features (`torch.Tensor` of shape `(N, C, h, w)`):
            Features that [`HIAUNetMotionModel`] adds to the output of its first convolution.
    """

    pose_features: torch.Tensor


class HIAPoseGuider(StrictLoadingMixin):
    """Convolutions that turn conditioning frames into features, which the UNet adds after its first convolution.

    It is the same as the conditioning embedding of a ControlNet.

    Args:
        conditioning_channels (`int`, *optional*, defaults to 6):
            Channels of the conditioning frames; 3 for published weights, which use the pose only.
        conditioning_embedding_out_channels (`tuple[int, ...]`, *optional*, defaults to `(16, 32, 96, 256)`):
            Channels of the layers. All but the first halve height and width.
        out_channels (`int`, *optional*, defaults to 320):
            Channels of the features, as many as the UNet's first convolution has.
    """

    # The argument of [`HIAUNetMotionModel`] to which the output is passed.
    unet_arguments = ("pose_features",)

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ReusableConditioningEmbedding"]
    _repeated_blocks = ["ReusableConditioningEmbedding"]

    @register_to_config
    def __init__(
        self,
        conditioning_channels: int = 6,
        conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256),
        out_channels: int = 320,
    ) -> None:
        super().__init__()
        self.controlnet_cond_embedding = ReusableConditioningEmbedding(
            out_channels, conditioning_channels, conditioning_embedding_out_channels
        )
        self.gradient_checkpointing = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> Any:
        """Create a pose guider from its configuration.

        Args:
            config (`dict`):
                As in [`~diffusers.ConfigMixin.from_config`], or that of an [`HIAControlNetModel`] with
                `embedding_only`, which earlier versions saved.
            kwargs:
                Options that override those of `config`.
        """
        if config.get("embedding_only"):
            kept = {name: config[name] for name in ("conditioning_channels", "conditioning_embedding_out_channels")}
            config = {**kept, "out_channels": config["block_out_channels"][0]}
        return super().from_config(config, **kwargs)

    @classmethod
    def _is_described_by(cls, config: Mapping[str, Any]) -> bool:
        return bool(config.get("embedding_only")) or super()._is_described_by(config)

    @classmethod
    def from_pose_guider(cls, pose_guider: "HIAPoseGuider", conditioning_channels: int = 6) -> "HIAPoseGuider":
        """Extend a pose guider by input channels of zero weight, which at first leave its output unchanged.

        Args:
            pose_guider ([`HIAPoseGuider`]):
                A pose guider, such as that of Moore-AnimateAnyone with 3 channels.
            conditioning_channels (`int`, *optional*, defaults to 6):
                Channels of the conditioning frames, at least as many as `pose_guider` has; the existing channels come
                first.
        """
        if not isinstance(pose_guider, HIAPoseGuider):
            raise TypeError(f"`pose_guider` must be an HIAPoseGuider, got {type(pose_guider).__name__}.")
        return widened(cls, "pose_guider", pose_guider, conditioning_channels=conditioning_channels)

    def forward(
        self,
        controlnet_cond: torch.Tensor | ConditioningWindows,
        conditioning_scale: float = 1.0,
        return_dict: bool = True,
    ) -> HIAPoseGuiderOutput | tuple[torch.Tensor]:
        """Encode conditioning frames.

        Args:
            controlnet_cond (`torch.Tensor` of shape `(N, C, H, W)` or [`ConditioningWindows`]):
                Conditioning frames in [0, 1].
            conditioning_scale (`float`, *optional*, defaults to 1.0):
                Factor by which the features are multiplied.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return an [`HIAPoseGuiderOutput`] instead of a tuple.
        """
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            features = self._gradient_checkpointing_func(self.controlnet_cond_embedding, controlnet_cond)
        else:
            features = self.controlnet_cond_embedding(controlnet_cond)
        features = features * conditioning_scale
        return HIAPoseGuiderOutput(pose_features=features) if return_dict else (features,)
