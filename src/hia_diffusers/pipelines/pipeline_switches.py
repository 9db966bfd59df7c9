# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Options that are enabled and disabled between calls of [`HIAPipeline`]."""

from collections.abc import Callable
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin


class PipelineSwitchesMixin(DiffusionPipeline, StableDiffusionMixin):
    """Enables and disables xformers."""

    def set_use_memory_efficient_attention_xformers(
        self, valid: bool, attention_op: Callable[..., Any] | None = None
    ) -> None:
        """Use xformers or SDPA for spatial attention; motion modules always use SDPA (see [`HIAUNetMotionModel`]).

        Args:
            valid (`bool`):
                Whether to use xformers.
            attention_op (`Callable`, *optional*):
                As in [`~diffusers.DiffusionPipeline.enable_xformers_memory_efficient_attention`].

        Raises:
            RuntimeError: If the installed xformers has no kernels for this version of torch.
        """
        if valid:
            _check_kernels()
        super().set_use_memory_efficient_attention_xformers(valid, attention_op)


def _check_kernels() -> None:
    try:
        from xformers import _cpp_lib
    except ImportError:
        return  # diffusers says how to install it
    error = _cpp_lib._cpp_library_load_exception
    if error is not None:
        raise RuntimeError(f"xformers cannot be used and attention stays on torch's SDPA: {error}") from error
