# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The blocks that check the inputs and create the noise from which denoising starts."""

from dataclasses import replace
from typing import Any

from diffusers import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import BlockState
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam
from torch import nn

from ...conditioning.conditioning_clips import ConditioningClips
from ...models.modeling_hia import copy_out_of_mapped_file
from .. import call_stages as stages
from .. import inputs
from ..call_defaults import CALL_DEFAULTS, defaults_beside
from ..inputs import ReferenceImages
from .declarations import CALL_INPUTS, COMPONENTS, HIAStep
from .guider import guider_of


class HIAInputStep(HIAStep):
    """Check all inputs before any network runs.

    Missing inputs get the defaults of the weights, and conditioning frames are converted to one form.
    """

    uses = tuple(spec.name for spec in COMPONENTS if spec.name != "video_processor")
    takes = tuple(param.name for param in CALL_INPUTS)
    gives = ("conditioning_clips", "batch_size")

    @property
    def inputs(self) -> list[InputParam]:
        """The inputs, without the defaults that the configuration may replace."""
        return [replace(param, default=None) if param.name in CALL_DEFAULTS else param for param in super().inputs]

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Check the inputs, as described at [`HIAStep.run`]."""
        self._give_defaults(components, values)
        if values.conditioning_frames is None:
            raise ValueError("Pass either `conditioning_frames` or a `driving` clip.")
        inputs.check_complete(components)
        for component in components.components.values():
            if isinstance(component, nn.Module):  # it may have been loaded without our checks
                copy_out_of_mapped_file(component)
        frames, channels = values.conditioning_frames, components.controlnet.config.conditioning_channels
        clips = ConditioningClips.from_any(frames, channels)
        values.image = ReferenceImages.from_any(values.image)
        arguments: dict[str, Any] = {param.name: values[param.name] for param in CALL_INPUTS}
        arguments |= {"conditioning_frames": clips, "guider": guider_of(components, arguments.pop("guidance_scale"))}
        inputs.check_inputs(components, **arguments)
        values.height, values.width = values.height or clips.height, values.width or clips.width
        values.batch_size = inputs.count_clips(values.image, clips, values.num_videos_per_prompt)
        clips = stages.prepare_conditioning_frames(components, clips, values.height, width=values.width)
        values.conditioning_clips = clips.repeat_to(values.batch_size)

    def _give_defaults(self, components: ModularPipeline, values: BlockState) -> None:
        given = {name: value for name, value in values.as_dict().items() if value is not None}
        wanted = defaults_beside(components.config["call_defaults"] or {}, given)
        for param in CALL_INPUTS:
            if param.name in CALL_DEFAULTS and param.name != "guidance_scale" and values[param.name] is None:
                values[param.name] = wanted.get(param.name, param.default)


class HIAPrepareLatentsStep(HIAStep):
    """Set the timesteps of the scheduler and create the latents from which denoising starts."""

    uses = ("unet", "scheduler")
    takes = (
        *("num_inference_steps", "timesteps", "sigmas", "reference_noise", "shared_noise", "generator", "latents"),
        *("reference_latents", "conditioning_clips", "batch_size"),
    )
    gives = ("denoising_timesteps", "initial_latents")

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Create the latents, as described at [`HIAStep.run`]."""
        values.denoising_timesteps = stages.prepare_timesteps(
            components, values.num_inference_steps, values.timesteps, sigmas=values.sigmas
        )
        channels, num_frames = components.unet.config.in_channels, values.conditioning_clips.num_frames
        values.initial_latents = stages.prepare_latents(
            components,
            (values.batch_size, channels, num_frames, *values.reference_latents.shape[-2:]),
            values.reference_latents,
            timestep=values.denoising_timesteps[0],
            reference_noise=values.reference_noise,
            shared_noise=values.shared_noise,
            generator=values.generator,
            latents=values.latents,
        )
