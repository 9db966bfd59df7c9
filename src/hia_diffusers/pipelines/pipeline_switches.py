# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Options that are enabled and disabled between calls of [`HIAPipeline`]."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import convert_file_size_to_int
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils.torch_utils import get_device

from .. import checks
from .call_defaults import AREA


if TYPE_CHECKING:
    from ..memory.fitting import MemoryPlan

# Pixels of a frame if the weights do not state an area.
DEFAULT_AREA = 512 * 768


class PipelineSwitchesMixin(DiffusionPipeline, StableDiffusionMixin):
    """Enables and disables xformers, and fits the pipeline into the memory of a device."""

    # Arguments of a call that `fit_memory` chose; others of the same name take precedence.
    _memory_defaults: dict[str, int] = {}

    def fit_memory(
        self,
        max_memory: int | str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int = 16,
        mode: str = "auto",
        device: torch.device | str | None = None,
    ) -> "MemoryPlan":
        """Place the pipeline on a device so that a call fits its memory; use it instead of `pipe.to(device)`.

        The memory that a call needs is counted with networks without data, which takes seconds. If not everything
        fits, fewer frames are decoded at a time, and weights are offloaded to the CPU while they are not used, in
        larger or smaller parts. `decode_chunk_size` and `context_batch_size` of the plan become the defaults of later
        calls.

        Args:
            max_memory (`int` or `str`, *optional*):
                Memory in bytes or as `"8GB"` or `"8GiB"` that the pipeline may use. By default, what is free on the
                device.
            height, width (`int`, *optional*):
                Size of the videos in pixels. By default, a square of the `"area"` in `call_defaults`, or of 512x768.
            num_frames (`int`, *optional*, defaults to 16):
                Length of the videos.
            mode (`str`, *optional*, defaults to `"auto"`):
                What to offload: `"none"`, `"model"`, `"group"` or `"sequential"`, from the fastest to the one that
                needs least; `"auto"` for the first that fits.
            device (`torch.device` or `str`, *optional*):
                The device that computes. By default, a GPU if there is one.

        Returns:
            [`~memory.fitting.MemoryPlan`]: What was chosen; `print(plan)` says why. If nothing fits, it is the plan
            that needs least, and a warning is logged.

        Raises:
            ValueError, TypeError: If an argument is invalid.

        Example:
            >>> pipe = HIAPipeline.from_pretrained("path/to/pipeline", dtype=torch.float16)
            >>> plan = pipe.fit_memory("8GB", height=768, width=512)
        """
        from ..memory.fitting import USABLE, apply_plan, available_bytes, plan_memory

        device = torch.device(get_device() if device is None else device)
        if max_memory is None:
            available = available_bytes(device, self)
        else:
            if isinstance(max_memory, str):
                max_memory = convert_file_size_to_int(max_memory)
            available = int(USABLE * checks.integer("max_memory", max_memory, high=2**63 - 1))
        if height is None or width is None:
            step, area = self.vae_scale_factor, self.config.call_defaults.get(AREA, DEFAULT_AREA)
            side = max(step, round(math.sqrt(area) / step) * step)
            height, width = height or side, width or side
        plan = plan_memory(self, height, width, num_frames, device, available, mode)
        apply_plan(plan, self)
        self._memory_defaults = plan.call_defaults
        return plan

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
