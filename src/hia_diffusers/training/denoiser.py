# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The three networks of HIA as the one module that training wraps. Axes: B clips, F frames, C channels, H, W."""

from typing import Literal

import torch
from torch import nn

from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.controlnet import HIAControlNetModel, unet_arguments
from ..models.reference_attention import ReferenceFeatures
from ..models.unet_motion import HIAUNetMotionModel


class ConditionalDenoiser(nn.Module):
    """Predicts the noise of clips from reference pictures and conditioning frames, as one step of [`HIAPipeline`].

    Args:
        appearance_encoder ([`HIAAppearanceEncoder`]):
            Reads the reference pictures.
        controlnet ([`HIAControlNetModel`]):
            Reads the conditioning frames.
        unet ([`HIAUNetMotionModel`]):
            Denoises.
        reference_timestep (`"zero"` or `"current"`, *optional*, defaults to `"zero"`):
            As in [`HIAPipeline`].
        unconditional_controlnet (`bool`, *optional*, defaults to `False`):
            As in [`HIAPipeline`].
    """

    def __init__(
        self,
        appearance_encoder: HIAAppearanceEncoder,
        controlnet: HIAControlNetModel,
        unet: HIAUNetMotionModel,
        reference_timestep: Literal["zero", "current"] = "zero",
        unconditional_controlnet: bool = False,
    ) -> None:
        super().__init__()
        self.appearance_encoder = appearance_encoder
        self.controlnet = controlnet
        self.unet = unet
        self.reference_timestep = reference_timestep
        self.unconditional_controlnet = unconditional_controlnet

    def forward(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        reference_latents: torch.Tensor,
        conditioning: torch.Tensor,
        dropped: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the noise, or what else the schedule's `prediction_type` names.

        Args:
            noisy_latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
                Diffused latents.
            timesteps (`torch.Tensor` of shape `(B,)`):
                One per clip.
            context (`torch.Tensor` of shape `(B, tokens, C)`):
                Of cross-attention; for dropped clips that of the unconditional branch.
            reference_latents (`torch.Tensor` of shape `(B, C, h, w)`):
                Clean latents of the reference pictures.
            conditioning (`torch.Tensor` of shape `(B, F, 6, H, W)`):
                Conditioning frames in [0, 1].
            dropped (`torch.Tensor` of shape `(B,)`, *optional*):
                Bool; the clips that get neither reference nor residuals of the ControlNet, as the unconditional branch
                of animation-CFG (Eq. 4). Both networks run all the same and get gradients of zero. With
                `unconditional_controlnet` they do get the residuals.

        Returns:
            `torch.Tensor` of shape `(B, C, F, h, w)`.
        """
        num_frames = noisy_latents.shape[2]
        reference_timesteps = timesteps if self.reference_timestep == "current" else torch.zeros_like(timesteps)
        features = self.appearance_encoder(reference_latents, reference_timesteps, context).reference_features
        down_residuals, last_residual = self.controlnet(
            noisy_latents.transpose(1, 2).flatten(0, 1),
            timesteps.repeat_interleave(num_frames),
            encoder_hidden_states=context.repeat_interleave(num_frames, dim=0),
            controlnet_cond=conditioning.flatten(0, 1),
            return_dict=False,
        )
        residuals = [*down_residuals, last_residual]
        if dropped is not None and not self.unconditional_controlnet:
            kept = ~dropped.repeat_interleave(num_frames)[:, None, None, None]
            residuals = [residual * kept for residual in residuals]
        return self.unet(
            noisy_latents,
            timesteps,
            context,
            **unet_arguments(residuals),
            reference_features=ReferenceFeatures(features, dropped),
            return_dict=False,
        )[0]
