# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The block that decodes."""

from diffusers import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import BlockState

from .. import call_stages as stages
from .declarations import HIAStep


class HIADecodeStep(HIAStep):
    """Decode the latents to frames."""

    uses = ("vae", "video_processor")
    takes = ("clean_latents", "output_type", "decode_chunk_size")
    gives = ("frames",)

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Decode the latents, as described at [`HIAStep.run`]."""
        values.frames = stages.decode(
            components, values.clean_latents, values.output_type, decode_chunk_size=values.decode_chunk_size
        )
