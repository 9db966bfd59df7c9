# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The ControlNet of HIA: six channels of pose and hand blur (paper Sec. 3.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding, ControlNetOutput
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for it beside its subclasses
from torch import nn

from .attachments import check_no_attachments
from .context_attention import ContextAttention
from .deep_cache import DeepCacheMixin
from .layers import SPATIAL_BLOCK, replace_layers
from .modeling_hia import StrictLoadingMixin, extends_init


class ConditioningEmbeddings:
    """The ControlNet's embeddings of conditioning frames, each made once and kept.

    Make one per call of the pipeline, and give its windows to the ControlNet as `controlnet_cond`. An embedding is
    made inside of the ControlNet, when its frame is first seen, so that offloading finds the weights in place. Not for
    training, nor across a change of the ControlNet's weights.

    Args:
        read (`Callable`):
            Takes the numbers of frames and gives `(B, frames, C, H, W)` in the ControlNet's dtype.
        num_frames (`int`):
            F.
        device (`torch.device`, *optional*):
            Where the embeddings are kept; by default where they are used if one window holds all frames, else on the
            host.
    """

    def __init__(
        self, read: Callable[[list[int]], torch.Tensor], num_frames: int, device: torch.device | None = None
    ) -> None:
        self.read, self.num_frames, self.device = read, num_frames, device
        self._kept: torch.Tensor | None = None  # (B, F, C, h, w), valid for `_known`
        self._pinned = False
        self._known: set[int] = set()

    def windows(self, windows: Sequence[range], device: torch.device) -> "ConditioningWindows":
        """Windows of frames whose embeddings will be wanted on `device`, one after the other as a batch."""
        return ConditioningWindows(self, windows, device)

    def get(
        self, windows: Sequence[range], device: torch.device, embed: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Embeddings `(windows * B * frames, C, h, w)`; `embed` makes those that are not known yet."""
        unknown = sorted({frame for window in windows for frame in window} - self._known)
        if unknown:
            made = embed(self.read(unknown).flatten(0, 1).to(device)).unflatten(0, (-1, len(unknown)))
            if self._kept is None:
                kept_on = self.device or (device if len(windows[0]) == self.num_frames else torch.device("cpu"))
                shape = (made.shape[0], self.num_frames, *made.shape[2:])
                # Copies to and from pinned memory wait in the queue of the GPU, and the host does not wait for them.
                self._pinned = device.type == "cuda" and kept_on.type == "cpu"
                self._kept = torch.empty(shape, dtype=made.dtype, device=kept_on, pin_memory=self._pinned)
            for frame, embedding in zip(unknown, made.unbind(1), strict=True):
                self._kept[:, frame].copy_(embedding, non_blocking=self._pinned)
            self._known.update(unknown)
        assert self._kept is not None
        kept = [
            self._kept[:, window.start : window.stop].to(device, non_blocking=self._pinned).flatten(0, 1)
            for window in windows
        ]
        return torch.cat(kept)


@dataclass(frozen=True)
class ConditioningWindows:
    """What the ControlNet takes as `controlnet_cond` in place of frames."""

    embeddings: ConditioningEmbeddings
    windows: Sequence[range]
    device: torch.device


class ReusableConditioningEmbedding(ControlNetConditioningEmbedding):
    """The embedding of conditioning frames, which [`ConditioningWindows`] keep."""

    def forward(self, conditioning: torch.Tensor | ConditioningWindows) -> torch.Tensor:
        if isinstance(conditioning, ConditioningWindows):
            return conditioning.embeddings.get(conditioning.windows, conditioning.device, super().forward)
        return super().forward(conditioning)


LAYERS = (
    ("controlnet_cond_embedding", ControlNetConditioningEmbedding, ReusableConditioningEmbedding),
    (SPATIAL_BLOCK + r"\.attn2", Attention, ContextAttention),
)


def unet_arguments(residuals: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Under which names an [`HIAUNetMotionModel`] takes what an [`HIAControlNetModel`] gives.

    Args:
        residuals (`Sequence[torch.Tensor]`):
            Those of the down blocks, then that of the middle block; or the pose features alone; or none.
    """
    if not residuals:
        return {}
    *down, last = residuals
    if not down:
        return {"pose_features": last}
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": last}


class HIAControlNetModel(StrictLoadingMixin, DeepCacheMixin, ControlNetModel):
    """A [`~diffusers.ControlNetModel`] that takes the six channels of [`MotionBlurCondition`] by default.

    Args:
        embedding_only (`bool`, *optional*, defaults to `False`):
            Whether the network is its conditioning embedding alone, whose output the UNet takes as `pose_features`,
            as the pose guider of Moore-AnimateAnyone is.
        kwargs:
            The arguments of [`~diffusers.ControlNetModel`]; `conditioning_channels` defaults to 6.

    Raises:
        ValueError: If `controlnet_conditioning_channel_order` is not `"rgb"`.
    """

    _repeated_blocks = ["BasicTransformerBlock"]
    _skip_layerwise_casting_patterns = ["norm"]
    _other_class_hint = "widen a plain ControlNet with HIAControlNetModel.from_controlnet(controlnet)."

    @extends_init(ControlNetModel, conditioning_channels=6, embedding_only=False)
    def __init__(self, embedding_only: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_to_config(embedding_only=embedding_only)
        if self.config.controlnet_conditioning_channel_order != "rgb":
            raise ValueError(
                "`controlnet_conditioning_channel_order` must be 'rgb', the order of the condition, got "
                f"{self.config.controlnet_conditioning_channel_order!r}."
            )
        replace_layers(self, LAYERS)
        if embedding_only:
            for name in [name for name, _ in self.named_children() if name != "controlnet_cond_embedding"]:
                setattr(self, name, None)

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        if not self.config.embedding_only:  # where it is, diffusers misses the blocks that could be recomputed
            super()._set_gradient_checkpointing(*args, **kwargs)

    @property
    def deep_blocks(self) -> list[nn.Module]:
        """All blocks, which a cache reuses; none with `embedding_only`."""
        return [] if self.config.embedding_only else [self.conv_in, *self.down_blocks, self.mid_block]

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, conditioning_channels: int = 6, **kwargs: Any
    ) -> "HIAControlNetModel":
        """Build a ControlNet from the encoder of a UNet, with a new conditioning embedding.

        Args:
            unet (`UNet2DConditionModel`):
                The UNet whose configuration and encoder weights are copied.
            conditioning_channels (`int`, *optional*, defaults to 6):
                Channels of the conditioning frames.
            kwargs:
                Further options of [`~diffusers.ControlNetModel.from_unet`].
        """
        if not isinstance(unet, UNet2DConditionModel):
            raise TypeError(f"`unet` must be a UNet2DConditionModel, got {type(unet).__name__}.")
        check_no_attachments("unet", unet)
        return super().from_unet(unet, conditioning_channels=conditioning_channels, **kwargs)

    @classmethod
    def from_controlnet(cls, controlnet: ControlNetModel, conditioning_channels: int = 6) -> "HIAControlNetModel":
        """Widen a pretrained ControlNet by input channels of zero weight, which leave its outputs unchanged at first.

        Args:
            controlnet (`ControlNetModel`):
                For instance `lllyasviel/control_v11p_sd15_openpose` with its 3 channels.
            conditioning_channels (`int`, *optional*, defaults to 6):
                Channels of the conditioning frames, at least those of `controlnet`; the old channels come first.
        """
        if not isinstance(controlnet, ControlNetModel):
            raise TypeError(f"`controlnet` must be a ControlNetModel, got {type(controlnet).__name__}.")
        check_no_attachments("controlnet", controlnet)
        new_channels = conditioning_channels - controlnet.config.conditioning_channels
        if new_channels < 0:
            raise ValueError(
                f"`conditioning_channels` must be at least the {controlnet.config.conditioning_channels} channels of"
                f" `controlnet`, got {conditioning_channels}."
            )
        model = cls.from_config(controlnet.config, conditioning_channels=conditioning_channels)
        state_dict = controlnet.state_dict()
        weight = state_dict["controlnet_cond_embedding.conv_in.weight"]
        zeros = weight.new_zeros(weight.shape[0], new_channels, *weight.shape[2:])
        state_dict["controlnet_cond_embedding.conv_in.weight"] = torch.cat([weight, zeros], dim=1)
        model.load_state_dict(state_dict)
        return model.to(device=controlnet.device, dtype=controlnet.dtype)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor | ConditioningWindows,
        conditioning_scale: float = 1.0,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> ControlNetOutput | tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Read conditioning frames.

        Args:
            sample (`torch.Tensor` of shape `(N, C, h, w)`):
                Noisy latents.
            timestep (`torch.Tensor` or `float` or `int`):
                The timestep, one for all or one per frame.
            encoder_hidden_states (`torch.Tensor` of shape `(N, tokens, C)`):
                Context for cross-attention.
            controlnet_cond (`torch.Tensor` of shape `(N, C, H, W)` or [`ConditioningWindows`]):
                Conditioning frames in [0, 1].
            conditioning_scale (`float`, *optional*, defaults to 1.0):
                Factor on what is returned.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a `ControlNetOutput` instead of a tuple.
            kwargs:
                Further arguments of [`~diffusers.ControlNetModel.forward`].

        Returns:
            `ControlNetOutput` or `tuple`: residuals of the down blocks and of the middle block, each `(N, C, h, w)`.
            With `embedding_only` no residuals of down blocks, and in place of the other the pose features. See
            [`unet_arguments`].
        """
        if self.config.embedding_only:
            features = self.controlnet_cond_embedding(controlnet_cond) * conditioning_scale
            return ControlNetOutput((), features) if return_dict else ((), features)
        return super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            controlnet_cond=controlnet_cond,
            conditioning_scale=conditioning_scale,
            return_dict=return_dict,
            **kwargs,
        )
