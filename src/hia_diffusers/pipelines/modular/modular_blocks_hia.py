# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""All blocks of HIA, in order."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import SequentialPipelineBlocks

from .before_denoise import HIAInputStep, HIAPrepareLatentsStep
from .decoders import HIADecodeStep
from .denoise import HIADenoiseStep
from .encoders import HIADrivingStep, HIAImageEncoderStep, HIAReferenceEncoderStep


if TYPE_CHECKING:
    from .modular_pipeline_hia import HIAModularPipeline


class HIABlocks(SequentialPipelineBlocks):
    """The stages of [`HIAPipeline`] as blocks of a modular diffusers pipeline.

    The inputs are the arguments of [`HIAPipeline.__call__`], except `guider`, which is a component, and callbacks,
    which are replaced by blocks of the loop. Instead of `conditioning_frames`, you can pass a `driving` clip with the
    arguments of [`HIAAnimator.prepare`].

    ```py
    pipe = HIABlocks().init_pipeline("path/or/hub-id")
    pipe.load_components()
    frames = pipe(image=image, conditioning_frames=condition, output="frames")[0]
    ```
    """

    model_name = "hia"
    block_classes = [
        HIADrivingStep,
        HIAInputStep,
        HIAImageEncoderStep,
        HIAReferenceEncoderStep,
        HIAPrepareLatentsStep,
        HIADenoiseStep,
        HIADecodeStep,
    ]
    block_names = [
        *("driving", "input", "image_encoder", "reference_encoder", "prepare_latents", "denoise", "decode"),
    ]

    @property
    def description(self) -> str:
        """Description of the blocks."""
        return "Animates the person in an image with the motion of conditioning frames, or of a driving clip."

    def init_pipeline(
        self, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any
    ) -> "HIAModularPipeline":
        """Create a pipeline of these blocks.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`, *optional*):
                Hub id or folder of a [`HIAPipeline`] or [`HIAModularPipeline`] from which `load_components` loads.
            kwargs:
                Arguments of [`~diffusers.ModularPipelineBlocks.init_pipeline`].
        """
        from .modular_pipeline_hia import HIAModularPipeline

        return HIAModularPipeline(
            deepcopy(self), pretrained_model_name_or_path=pretrained_model_name_or_path, **kwargs
        )
