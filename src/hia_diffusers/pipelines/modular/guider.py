# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The guider of the modular blocks."""

from typing import Any

from diffusers import ModularPipeline

from .. import guidance
from ..inputs import DenoisingOptions


def guider_of(components: ModularPipeline, guidance_scale: float | None = None) -> Any:
    """Copy the guider for one call.

    Args:
        components (`ModularPipeline`):
            Object with `guider`.
        guidance_scale (`float`, *optional*):
            By default, the scale of `guider`; if this is None, that of `call_defaults`, or else of [`HIAPipeline`].
    """
    guider = guidance.of_call(components.guider)
    if guidance_scale is None and guider.guidance_scale is None:
        defaults = components.config["call_defaults"] or {}
        guidance_scale = defaults.get("guidance_scale", DenoisingOptions.guidance_scale)
    return guider if guidance_scale is None else guidance.with_scale(guider, guidance_scale)
