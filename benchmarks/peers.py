# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A clip in the ways of MagicAnimate and Moore-AnimateAnyone, written after what their code does.

What both do: branches are one batch, the unconditional one first. A block that reads the reference repeats its
features for every frame and branch, appends them to its own tokens before K and V are projected, attends in all rows,
and then a second time in the unconditional rows, whose results replace the first. Attention along time is two
products and a softmax; that in space is SDPA. The context is repeated for every frame. The VAE decodes frame by
frame.

In which they differ: MagicAnimate encodes the reference in every step, Moore-AnimateAnyone once. A ControlNet runs in
every step, for the conditional branch, and embeds the condition each time; its residuals are kept frame by frame, and
gathered and repeated for both branches. A pose guider runs once.

The layers are of diffusers and of this file, so that what this package makes faster does not make its yardstick
faster. With weights of HIA the unconditional branch gets residuals of zero, as its function has it.
"""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

from hia_diffusers.models.reference_attention import tell_positions


class FrameNorm(nn.GroupNorm):
    """Of `(B, C, F, H, W)`, frame by frame."""

    def forward(self, hidden_states):
        frames = hidden_states.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class WindowNorm(nn.GroupNorm):
    """Of `(B * F, C, H, W)`, over all frames of a window."""

    num_frames = 1

    def forward(self, hidden_states):
        clips = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        return super().forward(clips).transpose(1, 2).flatten(0, 1)


class SpatialTransformer(Transformer2DModel):
    def forward(self, hidden_states, *args, **kwargs):
        tell_positions(self, hidden_states)
        return super().forward(hidden_states, *args, **kwargs)


class MotionTransformer(AnimateDiffTransformer3D):
    """Left out where the network has none."""

    is_left_out = False

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states if self.is_left_out else super().forward(hidden_states, *args, **kwargs)


class ReadingBlock(BasicTransformerBlock):
    bank = None  # features of the reference, `(branches, tokens, C)`
    guided = True

    def forward(self, hidden_states, attention_mask=None, encoder_hidden_states=None, *args, **kwargs):
        if self.bank is None:
            return super().forward(hidden_states, attention_mask, encoder_hidden_states, *args, **kwargs)
        normed = self.norm1(hidden_states)
        num_frames = len(hidden_states) // len(self.bank)
        features = self.bank.unsqueeze(1).repeat(1, num_frames, 1, 1).flatten(0, 1)
        attended = self.attn1(normed, encoder_hidden_states=torch.cat([normed, features], dim=1)) + hidden_states
        if self.guided:
            without = torch.arange(len(attended)) < len(attended) // 2
            both = attended.clone()
            both[without] = self.attn1(normed[without], normed[without]) + hidden_states[without]
            attended = both.clone()
        attended = self.attn2(self.norm2(attended), encoder_hidden_states=encoder_hidden_states) + attended
        return self.ff(self.norm3(attended)) + attended


def as_peers_network(network):
    """The same weights in the peers' layers; layers of a motion module attend along time."""
    with torch.device("meta"):
        peer = type(network).from_config(network.config)
    peer.load_state_dict(network.state_dict(), assign=True)
    layers = {
        "DispatchedAttention": Attention,
        "CrossAttention": Attention,
        "MotionAttention": Attention,
        "ReferenceReadTransformer": SpatialTransformer,
        "ReferenceReadBlock": ReadingBlock,
        "MotionTransformer": MotionTransformer,
        "FrameGroupNorm": FrameNorm,
        "ClipGroupNorm": WindowNorm,
    }
    for name, layer in peer.named_modules():
        layer.__class__ = layers.get(type(layer).__name__, type(layer))
        if isinstance(layer, Attention):
            layer.set_processor(AttnProcessor() if ".motion_modules." in name else AttnProcessor2_0())
    return peer.eval().requires_grad_(False)


class PeersWay:
    """The networks of a pipeline in the peers' layers, with shared weights.

    Args:
        pipe ([`HIAPipeline`]):
            The pipeline.
        encodes_every_step (`bool`):
            Whether the reference is encoded in every step, as by MagicAnimate.
    """

    def __init__(self, pipe, encodes_every_step):
        self.pipe, self.encodes_every_step = pipe, encodes_every_step
        self.unet, self.appearance_encoder, self.controlnet = map(
            as_peers_network, (pipe.unet, pipe.appearance_encoder, pipe.controlnet)
        )
        self.reads_at_zero = pipe.config.reference_timestep == "zero"
        self.has_pose_guider = "pose_features" in self.controlnet.unet_arguments
        self.window_norms = [layer for layer in self.unet.modules() if isinstance(layer, WindowNorm)]
        layers = dict(self.unet.named_modules())
        self.readers = {name: layers[name] for name in pipe.unet.reference_names}

    @torch.no_grad()
    def __call__(self, reference, latents, condition, contexts, guidance_scale, num_inference_steps):
        """Make a clip.

        Args:
            reference (`torch.Tensor` of shape `(1, C, h, w)`):
                Latents of the reference image.
            latents (`torch.Tensor` of shape `(1, C, F, h, w)`):
                Noise at the first timestep.
            condition (`torch.Tensor` of shape `(F, channels, H, W)`):
                Conditioning frames in [0, 1].
            contexts (`tuple[torch.Tensor, torch.Tensor]`):
                Input of cross-attention in the conditional and in the unconditional branch, each `(1, tokens, C)`.
            guidance_scale (`float`), num_inference_steps (`int`):
                As of a call.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Clean latents, and frames `(1, F, 3, H, W)` in [0, 1].
        """
        pipe, num_frames, guided = self.pipe, latents.shape[2], guidance_scale > 1
        branches = 2 if guided else 1
        for norm in self.window_norms:
            norm.num_frames = num_frames
        pipe.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        context = torch.cat([contexts[1], contexts[0]]) if guided else contexts[0]
        frames = condition.to(latents.device, latents.dtype)
        reference = reference.to(latents.dtype)
        pose = self.controlnet(frames).pose_features.repeat(branches, 1, 1, 1) if self.has_pose_guider else None
        for i, t in enumerate(pipe.scheduler.timesteps):
            if i == 0 or self.encodes_every_step:
                self.encode(reference.repeat(branches, 1, 1, 1), 0 * t if self.reads_at_zero else t, context, guided)
            given = (
                {"pose_features": pose}
                if self.has_pose_guider
                else self.control(latents[0].transpose(0, 1), t, context[-1:], frames, guided=guided)
            )
            predicted = self.unet(
                pipe.scheduler.scale_model_input(latents.repeat(branches, 1, 1, 1, 1), t),
                t,
                context.repeat_interleave(num_frames, dim=0),
                return_dict=False,
                **given,
            )[0]
            if guided:
                without, with_conditions = predicted.chunk(2)
                predicted = without + guidance_scale * (with_conditions - without)
            latents = pipe.scheduler.step(predicted, t, latents).prev_sample
        for reader in self.readers.values():
            reader.bank = None
        return latents, self.decode(latents)

    def encode(self, images, timestep, context, guided):
        features = self.appearance_encoder(images, timestep, context).reference_features
        for name, reader in self.readers.items():
            reader.bank, reader.guided = features[name].clone(), guided

    def control(self, sample, timestep, context, frames, guided):
        """Residuals of the conditional branch, kept frame by frame, gathered, and repeated."""
        down, mid = self.controlnet(
            sample, timestep, context.repeat(len(sample), 1, 1), controlnet_cond=frames, return_dict=False
        )
        kept = [[residual[i : i + 1] for residual in (*down, mid)] for i in range(len(sample))]
        gathered = [torch.cat(of_frames) for of_frames in zip(*kept, strict=True)]
        if guided:
            of_unconditional = 1 if self.pipe.config.unconditional_controlnet else 0
            gathered = [torch.cat([of_unconditional * residual, residual]) for residual in gathered]
        return {
            "down_block_additional_residuals": tuple(gathered[:-1]),
            "mid_block_additional_residual": gathered[-1],
        }

    def decode(self, latents):
        vae = self.pipe.vae
        scaled = (latents[0].transpose(0, 1) / vae.config.scaling_factor).to(vae.dtype)
        decoded = torch.cat([vae.decode(frame[None]).sample for frame in scaled])
        return (decoded / 2 + 0.5).clamp(0, 1).cpu().float()[None]
