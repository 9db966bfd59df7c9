# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The number of temporal windows that fit a memory budget, computed without data before anything runs."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn

from .. import checks
from ..models.autoencoder import vae_scale_factor
from ..models.conditioning_embedding import ConditioningEmbeddings
from ..models.denoiser import HIAConditions, HIADenoiser
from ..pipelines.guidance import classifier_free_guidance
from ..pipelines.pipeline_hia import HIAPipeline
from .counting import GPUOperators, LiveBytes, gibibytes, offloaded_blocks


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
    """Return the largest `context_batch_size` with which a denoising step stays within a memory budget.

    The estimate covers the reference features with their keys and values, and the results of operators. It excludes
    weights, latents and embeddings of the whole clip, decoding, and the CUDA context. It assumes fused attention.

    Args:
        memory_budget (`int`):
            Memory budget in bytes.
        pipe ([`HIAPipeline`]):
            Pipeline whose networks' shapes and dtypes are used; it is not changed.
        height, width (`int`):
            Size of the video in pixels.
        num_clips (`int`, *optional*, defaults to 1):
            Number of clips in a call.
        context_frames, guidance_scale, batch_guidance:
            As for [`HIAPipeline.__call__`].

    Returns:
        `int`: At least 1.

    Raises:
        ValueError: If one window does not fit (the message states the memory that it needs), or an argument is out of
            range.
        TypeError: If an argument is not a number.

    Example:
        >>> size = context_batch_size_within(6 * 2**30, pipe, height=896, width=512)
        >>> pipe(image, condition, context_batch_size=size)
    """
    memory_budget = checks.integer("memory_budget", memory_budget, low=0, high=2**63 - 1)
    factor = vae_scale_factor(checks.instance("pipe", pipe, HIAPipeline).vae)
    height, width = checks.side("height", height, factor), checks.side("width", width, factor)
    num_clips = checks.integer("num_clips", num_clips)
    context_frames = checks.integer("context_frames", context_frames)
    guidance_scale = checks.number("guidance_scale", guidance_scale, low=0)
    denoiser = denoiser_on_meta(pipe)
    latent_size = (height // factor, width // factor)

    def peak(num_windows: int) -> int:
        step = DenoisingStep(num_windows, num_clips, context_frames, latent_size=latent_size, size=(height, width))
        return step.peak(denoiser, guidance_scale, batch_guidance)

    one = peak(1)
    if one > memory_budget:
        raise ValueError(
            f"`memory_budget` must be at least {gibibytes(one)} GiB, for one window, got {gibibytes(memory_budget)}."
        )
    two = peak(2)
    further = peak(3) - two  # the same for each
    return 1 if two > memory_budget else 2 + (memory_budget - two) // further


def denoiser_on_meta(pipe: HIAPipeline) -> HIADenoiser:
    """Copy the denoiser to new networks without data, and without the offloading hooks of the given ones.

    Args:
        pipe ([`HIAPipeline`]):
            Pipeline whose networks are copied.
    """

    def network(model: ModelMixin) -> Any:
        with torch.device("meta"):
            # `to` of diffusers' models warns about layers that lose precision.
            return nn.Module.to(type(model).from_config(model.config), model.dtype).eval()

    denoiser = HIADenoiser.of_pipeline(pipe)
    return HIADenoiser(
        network(denoiser.appearance_encoder),
        network(denoiser.controlnet),
        network(denoiser.unet),
        unconditional_controlnet=denoiser.unconditional_controlnet,
    )


@dataclass(frozen=True)
class DenoisingStep:
    """The shapes of a denoising step.

    Args:
        num_windows (`int`):
            Number of windows that are denoised at a time.
        num_clips (`int`):
            Number of clips.
        context_frames (`int`):
            Number of frames of a window.
        latent_size, size (`tuple[int, int]`):
            Height and width of the latents and of the frames.
    """

    num_windows: int
    num_clips: int
    context_frames: int
    latent_size: tuple[int, int]
    size: tuple[int, int]

    @torch.no_grad()
    def peak(
        self, denoiser: HIADenoiser, guidance_scale: float, batch_guidance: bool, offload_blocks: bool = False
    ) -> int:
        """Return the peak memory in bytes, for windows that share no frame.

        Args:
            denoiser ([`HIADenoiser`]):
                From [`denoiser_on_meta`].
            guidance_scale (`float`):
                As for [`HIAPipeline.__call__`].
            batch_guidance (`bool`):
                As for [`HIAPipeline.__call__`].
            offload_blocks (`bool`, *optional*, defaults to `False`):
                Whether weights count, of which blocks are on the device while they run.
        """
        config, num_frames = denoiser.unet.config, self.context_frames

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=denoiser.unet.dtype, device="meta")

        states = zeros(self.num_clips, 1, config.cross_attention_dim)
        latents = zeros(self.num_windows * self.num_clips, config.in_channels, num_frames, *self.latent_size)
        reference_latents = zeros(self.num_clips, config.in_channels, *self.latent_size)
        channels = denoiser.controlnet.config.conditioning_channels
        conditions = HIAConditions(
            encoder_hidden_states=states,
            reference=reference_latents,
            conditioning_frames=ConditioningEmbeddings(
                lambda frames: zeros(self.num_clips, len(frames), channels, *self.size),
                self.num_windows * num_frames,
                device=latents.device,
            ),
            null_encoder_hidden_states=states,
        )
        windows = [range(first * num_frames, (first + 1) * num_frames) for first in range(self.num_windows)]
        known = [states, latents, reference_latents, *denoiser.parameters(), *denoiser.unet.buffers()]
        with ExitStack() as stack, LiveBytes(known) as memory, GPUOperators(None):
            for network in denoiser.children() if offload_blocks else ():
                stack.enter_context(offloaded_blocks(network, memory))
            seen = denoiser.read_reference(conditions).window(*windows)
            timestep = torch.zeros((), dtype=torch.long, device="meta")
            guider = classifier_free_guidance(guidance_scale)
            denoiser.guided(latents, timestep, seen, guider=guider, batch_guidance=batch_guidance)
        return memory.peak
