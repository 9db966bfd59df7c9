# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How many windows over time fit a memory budget, counted without data before anything is run."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from . import checks
from .memory_counting import GPUOperators, LiveBytes, gibibytes
from .models.autoencoder import vae_scale_factor
from .pipeline_hia import HIAPipeline


def context_batch_size_within(
    memory_budget: int,
    pipe: HIAPipeline,
    height: int,
    width: int,
    num_clips: int = 1,
    context_frames: int = 16,
    guidance_scale: float = 3.5,
    batch_guidance: bool = False,
) -> int:
    """
    The largest `context_batch_size` with which a denoising step stays within a memory budget.

    Counted are the reference features with their keys and values, and what operators make: not weights, nor latents
    and embeddings of the whole clip, nor decoding, nor what CUDA itself holds. Attention is taken as fused.

    Args:
        memory_budget (`int`):
            In bytes.
        pipe ([`HIAPipeline`]):
            Its networks' shapes and dtypes count; it stays as it is.
        height, width (`int`):
            Of the video, in pixels.
        num_clips (`int`, *optional*, defaults to 1):
            Of a call.
        context_frames, guidance_scale, batch_guidance:
            As for [`HIAPipeline.__call__`].

    Returns:
        `int`: at least 1.

    Raises:
        ValueError: If one window does not fit, with what it takes, or an argument is out of range.
        TypeError: If an argument is no number.

    Example:

        >>> size = context_batch_size_within(6 * 2**30, pipe, height=896, width=512)
        >>> pipe(image, condition, context_batch_size=size)
    """
    memory_budget = checks.integer("memory_budget", memory_budget, 0, 2**63 - 1)
    factor = vae_scale_factor(checks.instance("pipe", pipe, HIAPipeline).vae)
    height, width = checks.side("height", height, factor), checks.side("width", width, factor)
    num_clips = checks.integer("num_clips", num_clips)
    context_frames = checks.integer("context_frames", context_frames)
    meta_pipe = _on_meta(pipe)

    def peak(num_windows: int) -> int:
        return _peak_of_step(
            meta_pipe, num_windows, num_clips, height, width, context_frames, guidance_scale, batch_guidance
        )

    one = peak(1)
    if one > memory_budget:
        raise ValueError(
            f"`memory_budget` must hold one window, of {gibibytes(one)} GiB, got {gibibytes(memory_budget)} GiB."
        )
    two = peak(2)
    further = peak(3) - two  # the same for each
    return 1 if two > memory_budget else 2 + (memory_budget - two) // further


def _on_meta(pipe: HIAPipeline) -> HIAPipeline:
    """Made of new networks: the hooks of the given ones, which offload, do not come along."""

    def network(model: Any) -> Any:
        with torch.device("meta"):
            # The `to` of diffusers' models warns of layers that lose precision.
            return nn.Module.to(type(model).from_config(model.config), model.dtype).eval()

    own = {name: network(getattr(pipe, name)) for name in ("unet", "appearance_encoder", "controlnet")}
    own["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
    options = {"unconditional_controlnet": pipe.config.unconditional_controlnet}
    meta_pipe = HIAPipeline(**pipe.components | own, **options)
    meta_pipe.scheduler.set_timesteps(1)
    meta_pipe.set_progress_bar_config(disable=True)
    return meta_pipe


@torch.no_grad()
def _peak_of_step(
    pipe: HIAPipeline,
    num_windows: int,
    num_clips: int,
    height: int,
    width: int,
    context_frames: int,
    guidance_scale: float,
    batch_guidance: bool,
) -> int:
    """Windows at a time are like so many clips of one window each."""
    factor, config = vae_scale_factor(pipe.vae), pipe.unet.config

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=pipe.unet.dtype, device="meta")

    context = zeros(num_windows * num_clips, 1, config.cross_attention_dim)
    latent_size = (height // factor, width // factor)
    latents = zeros(num_windows * num_clips, config.in_channels, context_frames, *latent_size)
    reference_latents = zeros(num_clips, config.in_channels, *latent_size)
    channels = pipe.controlnet.config.conditioning_channels
    condition: Any = SimpleNamespace(read=lambda frames: zeros(len(latents), len(frames), channels, height, width))
    known = [context, latents, reference_latents, *pipe.unet.parameters(), *pipe.unet.buffers()]
    known += [*pipe.controlnet.parameters(), *pipe.appearance_encoder.parameters()]
    with LiveBytes(known) as memory, GPUOperators(None):
        reference = pipe.encode_reference(reference_latents, context[:num_clips])
        pipe.denoise(
            latents,
            pipe.scheduler.timesteps,
            (context, context),
            condition,
            lambda timestep: reference,
            guidance_scale=guidance_scale,
            batch_guidance=batch_guidance,
            context_frames=context_frames,
            context_overlap=0,
        )
    return memory.peak
