# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What is switched on and off between calls of [`HIAPipeline`], where diffusers alone leaves something behind."""

from collections.abc import Callable
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin


class PipelineSwitchesMixin(DiffusionPipeline, StableDiffusionMixin):
    """xformers of a pipeline."""

    def set_use_memory_efficient_attention_xformers(
        self, valid: bool, attention_op: Callable[..., Any] | None = None
    ) -> None:
        """Put spatial attention on xformers, or back on SDPA; motion modules stay on SDPA ([`HIAUNetMotionModel`]).

        Args:
            valid (`bool`):
                Whether to use xformers.
            attention_op (`Callable`, *optional*):
                As of [`~diffusers.DiffusionPipeline.enable_xformers_memory_efficient_attention`].

        Raises:
            RuntimeError: If xformers is installed without kernels for this torch.
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
