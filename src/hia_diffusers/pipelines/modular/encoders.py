# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The blocks that process the driving clip and encode the reference images."""

from diffusers import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import BlockState

from ...animation.animator import HIAAnimator
from ...loaders.ip_adapter import prepare_ip_adapter_embeds
from .. import call_stages as stages
from .. import guidance
from .declarations import DRIVING_INPUTS, HIAStep
from .guider import guider_of


class HIADrivingStep(HIAStep):
    """Create the conditioning frames of the driving clip, if there is one, and fit the image to them."""

    options = tuple(param.name for param in DRIVING_INPUTS)
    takes = ("image", "conditioning_frames", *options, "height", "width")
    gives = ("fps",)

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Create the conditioning frames, as described at [`HIAStep.run`]."""
        values.fps = None
        if values.driving is None:
            return
        if values.conditioning_frames is not None:
            raise ValueError("Give `conditioning_frames` or `driving`, not both.")
        arguments = {name: values[name] for name in self.options}
        animator = HIAAnimator(call_defaults=components.config["call_defaults"])
        animation = animator.prepare(values.image, height=values.height, width=values.width, **arguments)
        values.image, values.conditioning_frames, values.fps = animation.image, animation.condition, animation.fps


class HIAImageEncoderStep(HIAStep):
    """Create the input of cross-attention: the token of the reference image, or the empty prompt."""

    uses = ("image_encoder", "feature_extractor", "text_encoder", "tokenizer", "unet")
    takes = ("image", "image_embeds", "prompt_embeds")
    gives = ("encoder_hidden_states",)

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Create the input of cross-attention, as described at [`HIAStep.run`]."""
        values.encoder_hidden_states = stages.encode_image(
            components, values.image, values.image_embeds, prompt_embeds=values.prompt_embeds
        )


class HIAReferenceEncoderStep(HIAStep):
    """Encode the reference image, and collect the inputs of the denoiser other than noisy latents."""

    uses = (
        *("vae", "appearance_encoder", "controlnet", "unet", "guider"),
        *("image_encoder", "feature_extractor", "ip_adapter_image_encoder"),
    )
    takes = (
        *("image", "height", "width", "encoder_hidden_states", "conditioning_clips", "batch_size"),
        *("ip_adapter_image", "ip_adapter_image_embeds", "guidance_scale", "cross_attention_kwargs"),
    )
    gives = ("reference_latents", "conditions")

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Encode the reference image, as described at [`HIAStep.run`]."""
        values.reference_latents = stages.encode_reference_latents(
            components, values.image, values.height, width=values.width
        )
        guider = guider_of(components, values.guidance_scale)
        values.conditions = stages.prepare_conditions(
            components,
            values.encoder_hidden_states,
            values.reference_latents,
            conditioning_frames=values.conditioning_clips,
            image_embeds=prepare_ip_adapter_embeds(
                components,
                values.ip_adapter_image,
                values.ip_adapter_image_embeds,
                batch_size=values.batch_size,
                do_classifier_free_guidance=guidance.has_unconditional_branch(guider),
            ),
            cross_attention_kwargs=values.cross_attention_kwargs,
        )
