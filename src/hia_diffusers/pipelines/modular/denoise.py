# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The denoising loop, whose blocks run in every step."""

from dataclasses import fields, replace
from typing import Any

import torch
from diffusers import LoopSequentialPipelineBlocks, ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import BlockState, PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam

from ...finite_results import check_finite
from ...models.denoiser import HIADenoiser
from .. import call_stages as stages
from .. import framewise_scheduling
from ..denoising import WindowSchedule, predict_noise
from ..inputs import DenoisingOptions
from .declarations import DeclaredBlock, check_loaded, component_specs, input_params
from .guider import guider_of


NETWORKS = ("unet", "appearance_encoder", "controlnet")
OPTIONS = tuple(field.name for field in fields(DenoisingOptions) if field.name not in ("guidance_scale", "guider"))

LoopStep = tuple[ModularPipeline, BlockState]


class HIALoopWindows(DeclaredBlock):
    """Choose the windows of time of a step, and scale the input of the denoiser."""

    uses = ("guider", "scheduler", *NETWORKS)
    takes = ("conditions", "denoising_timesteps", "guidance_scale", *OPTIONS)

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, block_state: BlockState, i: int, t: torch.Tensor) -> LoopStep:
        """Choose the windows of step `i` at timestep `t`."""
        latents, num_steps = block_state.clean_latents, len(block_state.denoising_timesteps)
        denoiser = HIADenoiser.of_pipeline(components)
        if i == 0:
            guider = guider_of(components, block_state.guidance_scale)
            options = DenoisingOptions(guider=guider, **{name: block_state[name] for name in OPTIONS})
            options.check(latents.shape[2], components.unet.config.motion_max_seq_length)
            block_state.guider, block_state.options = guider, options
            block_state.window_schedule = WindowSchedule(denoiser, latents.shape[2], options)
        guider, control_scale = block_state.guider, block_state.options.control_at(i, num_steps)
        guider.set_state(step=i, num_inference_steps=num_steps, timestep=t)
        block_state.windows = block_state.window_schedule.next(
            guider.num_conditions, guider.guidance_scale, control_scale
        )
        block_state.timestep = t.to(latents.device)
        conditions = denoiser.read_reference(block_state.conditions, block_state.timestep)
        block_state.step_conditions = replace(conditions, control_scale=control_scale)
        block_state.sample = components.scheduler.scale_model_input(latents, t)
        return components, block_state


class HIALoopDenoiser(DeclaredBlock):
    """Predict the noise of all windows with guidance."""

    uses = ("guider", *NETWORKS)

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, block_state: BlockState, i: int, t: torch.Tensor) -> LoopStep:
        """Predict the noise of step `i` at timestep `t`."""
        block_state.noise_pred = predict_noise(
            HIADenoiser.of_pipeline(components),
            block_state.guider,
            block_state.sample,
            timestep=block_state.timestep,
            conditions=block_state.step_conditions,
            windows=block_state.windows,
            options=block_state.options,
        )
        return components, block_state


class HIALoopScheduler(DeclaredBlock):
    """Advance the latents to the next timestep."""

    uses = ("scheduler",)
    takes = ("generator", "eta")
    gives = ("clean_latents",)

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, block_state: BlockState, i: int, t: torch.Tensor) -> LoopStep:
        """Run step `i` of the scheduler, from timestep `t`."""
        extra: dict[str, Any] = stages.prepare_extra_step_kwargs(components, block_state.generator, block_state.eta)
        block_state.clean_latents = framewise_scheduling.step(
            components.scheduler, block_state.noise_pred, t, latents=block_state.clean_latents, **extra
        )
        if i == 0:
            check_finite("The latents after the first step", [block_state.clean_latents], components.components)
        return components, block_state


class HIADenoiseStep(LoopSequentialPipelineBlocks):
    """Denoise the clips."""

    model_name = "hia"
    block_classes = [HIALoopWindows, HIALoopDenoiser, HIALoopScheduler]
    block_names = ["windows", "denoiser", "scheduler"]

    @property
    def description(self) -> str:
        """Description of the block."""
        return (
            "Denoise the clips. In every step, the blocks choose the windows of time, predict their noise with"
            " guidance, and advance to the next timestep."
        )

    @property
    def loop_expected_components(self) -> list[ComponentSpec]:
        """The components that the loop uses."""
        return component_specs("scheduler", *NETWORKS)

    @property
    def loop_inputs(self) -> list[InputParam]:
        """The inputs of the loop."""
        return input_params("initial_latents", "denoising_timesteps")

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        """Denoise the clips, by running the blocks once per timestep."""
        check_loaded(components, self.component_names)
        block_state = self.get_block_state(state)
        block_state.clean_latents = block_state.initial_latents
        num_steps, order = len(block_state.denoising_timesteps), components.scheduler.order
        num_warmup_steps = num_steps % order
        with HIADenoiser.of_pipeline(components).caching(), self.progress_bar(total=num_steps) as progress_bar:
            for i, t in enumerate(block_state.denoising_timesteps):
                components, block_state = self.loop_step(components, block_state, i=i, t=t)
                if i == num_steps - 1 or (i + 1 > num_warmup_steps and (i + 1) % order == 0):
                    progress_bar.update()
        self.set_block_state(state, block_state)
        return components, state
