# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The declarations of the modular blocks: components, settings, inputs and intermediate outputs.

The inputs are the arguments of [`HIAPipeline.__call__`] and, for a driving clip, of [`HIAAnimator.prepare`].
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import PIL.Image
import torch
from diffusers import AutoencoderKL, ModularPipeline, ModularPipelineBlocks
from diffusers.configuration_utils import FrozenDict
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines.modular_pipeline import BlockState, PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, ConfigSpec, InputParam, OutputParam
from diffusers.video_processor import VideoProcessor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ...conditioning.conditioning_clips import ConditioningClips
from ...models.appearance_encoder import HIAAppearanceEncoder
from ...models.controlnet import HIAControlNetModel
from ...models.denoiser import HIAConditions
from ...models.unet_motion import HIAUNetMotionModel
from ...schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from ..pipeline_hia import Conditioning, HIAPipeline


COMPONENTS = [
    ComponentSpec("vae", AutoencoderKL, "Encodes the reference images and decodes the frames."),
    ComponentSpec("image_encoder", CLIPVisionModelWithProjection, "Creates the token of cross-attention."),
    ComponentSpec("unet", HIAUNetMotionModel, "Denoises clips."),
    ComponentSpec("appearance_encoder", HIAAppearanceEncoder, "Encodes the reference images."),
    ComponentSpec("controlnet", HIAControlNetModel, "Encodes the conditioning frames."),
    ComponentSpec("scheduler", ShiftedSNRScheduler, "Steps from noise to clean latents."),
    ComponentSpec("feature_extractor", CLIPImageProcessor, "Prepares images for `image_encoder`."),
    ComponentSpec("text_encoder", CLIPTextModel, "Encodes the empty prompt, instead of `image_encoder`."),
    ComponentSpec("tokenizer", CLIPTokenizer, "Tokenizer of `text_encoder`."),
    ComponentSpec("ip_adapter_image_encoder", CLIPVisionModelWithProjection, "Encodes the images of IP-Adapters."),
    ComponentSpec(
        "guider",
        ClassifierFreeGuidance,
        "Decides which branches run, and combines them. A `guidance_scale` of None means the default of the weights.",
        config=FrozenDict({"guidance_scale": None}),
        default_creation_method="from_config",
    ),
    ComponentSpec(
        "video_processor",
        VideoProcessor,
        "Converts frames to `output_type`.",
        config=FrozenDict({"vae_scale_factor": 8}),
        default_creation_method="from_config",
    ),
]

CONFIGS = [
    ConfigSpec("reference_timestep", "zero", "Timestep at which the appearance encoder runs, zero or current."),
    ConfigSpec("unconditional_controlnet", False, "Whether the ControlNet also acts in the unconditional branch."),
    ConfigSpec("call_defaults", None, "Defaults of the weights for missing inputs."),
]

DRIVING_INPUTS = [
    InputParam("driving", Any, description="A video, keypoints, or a file of either, instead of conditioning frames."),
    InputParam("driving_type", str, "auto", description='What `driving` is: "video", "keypoints", "pose" or "auto".'),
    InputParam("driving_fps", float | None, description="Frames per second of a motion that does not state them."),
    InputParam("driving_size", tuple, description="(height, width) of a motion that does not state it."),
    InputParam("start", float | None, description="Time in seconds at which the motion begins in `driving`."),
    InputParam("end", float | None, description="Time in seconds at which the motion ends in `driving`."),
    InputParam("every", int, 1, description="Use every N-th frame of the motion."),
    InputParam("max_frames", int | None, description="Use only the beginning of the motion, of this length."),
    InputParam("person", Sequence, description="x0, y0, x1, y1 in pixels, around the person to follow in a video."),
    InputParam(
        "retarget",
        bool | None,
        description="Whether to adapt the motion to the proportions of the person in the image.",
    ),
    InputParam(
        "image_keypoints", Any, description="Keypoints of the person in `image`; by default detected if needed."
    ),
    InputParam("image_person", Sequence, description="x0, y0, x1, y1 in pixels, around the person in `image`."),
    InputParam(
        "sharpness", Any, "auto", description='Sharpness of the hands, in [0, 1]; or "auto", "driving", "unknown".'
    ),
]
CALL_INPUTS = [
    InputParam("image", Any, required=True, description="The reference image, or a batch of them."),
    InputParam("conditioning_frames", Conditioning | list, description="The motion: a condition, images or a tensor."),
    InputParam("height", int | None, description="Height of the video; by default that of `conditioning_frames`."),
    InputParam("width", int | None, description="Width of the video; by default that of `conditioning_frames`."),
    InputParam("num_inference_steps", int, 25, description="Denoising steps."),
    InputParam("timesteps", list, description="Descending timesteps to use instead of the scheduler's spacing."),
    InputParam("sigmas", list, description="Descending sigmas to use instead of the scheduler's spacing."),
    InputParam("guidance_scale", float | None, description="Weight of guidance, instead of the guider's own."),
    InputParam("batch_guidance", bool, False, description="Whether both branches run in one call of the UNet."),
    InputParam("controlnet_conditioning_scale", float, 1.0, description="Factor of the ControlNet's residuals."),
    InputParam(
        "control_guidance_start", float, 0.0, description="Fraction of the steps after which the ControlNet starts."
    ),
    InputParam("control_guidance_end", float, 1.0, description="Fraction of steps after which the ControlNet stops."),
    InputParam("reference_noise", bool, True, description="Whether to start from the diffused reference latents."),
    InputParam("shared_noise", float, 0.0, description="Fraction of the noise that all frames share, in [0, 1]."),
    InputParam("context_frames", int, 16, description="Frames per window. Longer clips are denoised in windows."),
    InputParam("context_overlap", int, 4, description="Frames that adjacent windows share and average."),
    InputParam("context_shift", bool, True, description="Whether the windows are shifted in each step."),
    InputParam("context_batch_size", int, 1, description="Windows that are denoised at a time."),
    InputParam("num_videos_per_prompt", int, 1, description="Videos per image and motion."),
    InputParam("eta", float, 0.0, description="Parameter of DDIM, in [0, 1]."),
    InputParam(
        "generator", torch.Generator | list, description="Generator of the noise, one for all clips or one each."
    ),
    InputParam("latents", torch.Tensor, description="Standard normal noise `(B, C, F, h, w)` to start from."),
    InputParam("image_embeds", torch.Tensor, description="Hidden states instead of those of `image_encoder`."),
    InputParam("prompt_embeds", torch.Tensor, description="Hidden states instead of those of `text_encoder`."),
    InputParam("ip_adapter_image", PIL.Image.Image | list, description="An image, or a list with one per IP-Adapter."),
    InputParam("ip_adapter_image_embeds", list, description="Embeddings instead of `ip_adapter_image`, per adapter."),
    InputParam("output_type", str, "pil", description='The form of the frames: "pil", "np", "pt" or "latent".'),
    InputParam("cross_attention_kwargs", dict, description='Arguments of attention, such as `{"scale": 0.5}`.'),
    InputParam(
        "decode_chunk_size",
        int,
        description="Frames that the VAE decodes at a time: by default 2 on a CPU, and 16 on other devices.",
    ),
]

INTERMEDIATES = [
    OutputParam("fps", float, "Frames per second of the driving clip."),
    OutputParam("conditioning_clips", ConditioningClips, "The conditioning frames of B clips, in the video's size."),
    OutputParam("batch_size", int, "B, the number of clips to generate."),
    OutputParam("encoder_hidden_states", tuple, "Input of cross-attention in both branches, each `(B, tokens, C)`."),
    OutputParam("reference_latents", torch.Tensor, "Latents of the reference images, `(1 or B, C, h, w)`."),
    OutputParam("conditions", HIAConditions, "Inputs of the denoiser for B clips, except latents."),
    OutputParam("denoising_timesteps", torch.Tensor, "The scheduler's timesteps, on the CPU."),
    OutputParam("initial_latents", torch.Tensor, "The noisy latents from which denoising starts, `(B, C, F, h, w)`."),
    OutputParam("clean_latents", torch.Tensor, "The latents of the video, `(B, C, F, h, w)`."),
    OutputParam("frames", list, "B clips, in the form of `output_type`."),
]

_COMPONENTS = {spec.name: spec for spec in COMPONENTS}
_INPUTS = {param.name: param for param in (*DRIVING_INPUTS, *CALL_INPUTS)}
_INTERMEDIATES = {param.name: param for param in INTERMEDIATES}


def component_specs(*names: str) -> list[ComponentSpec]:
    """Return the specifications of components.

    Args:
        names (`str`):
            Names of the components.
    """
    return [replace(_COMPONENTS[name]) for name in names]


def input_params(*names: str) -> list[InputParam]:
    """Return the declarations of inputs. Outputs of previous blocks are required inputs.

    Args:
        names (`str`):
            Names of the inputs.
    """
    return [
        replace(_INPUTS[name])
        if name in _INPUTS
        else InputParam(
            name, _INTERMEDIATES[name].type_hint, required=True, description=_INTERMEDIATES[name].description
        )
        for name in names
    ]


def check_loaded(components: ModularPipeline, names: Sequence[str]) -> None:
    """Refuse to run if a component is missing.

    Args:
        components (`ModularPipeline`):
            Object that has the components as attributes.
        names (`Sequence[str]`):
            Names of the components that are used; some are optional.

    Raises:
        ValueError: If a required component is missing. The message names it.
    """
    for name in names:
        if getattr(components, name) is None and name not in HIAPipeline._optional_components:
            raise ValueError(f"`{name}` is missing: call `load_components` or `update_components` first.")


class DeclaredBlock(ModularPipelineBlocks):
    """A block that names its components, its inputs and its outputs."""

    model_name = "hia"
    uses: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Description of the block."""
        return " ".join((type(self).__doc__ or "").split())

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """The components that the block uses."""
        return component_specs(*self.uses)

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        """The settings that the block reads."""
        return [replace(spec) for spec in CONFIGS]

    @property
    def inputs(self) -> list[InputParam]:
        """The inputs of the block."""
        return input_params(*self.takes)

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """The outputs of the block."""
        return [replace(_INTERMEDIATES[name]) for name in self.gives]


class HIAStep(DeclaredBlock):
    """A block that reads its inputs from the state, and computes with the same function as [`HIAPipeline`]."""

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        """Read the inputs from the state, run the block, and store its outputs in the state."""
        check_loaded(components, self.uses)
        values = self.get_block_state(state)
        self.run(components, values)
        self.set_block_state(state, values)
        return components, state

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Compute the outputs of the block.

        Args:
            components (`ModularPipeline`):
                Object that has the components as attributes.
            values (`BlockState`):
                The inputs of the block, by name. Outputs are set on it, and may also replace inputs.
        """
        raise NotImplementedError
