# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The clean estimate of the last denoising step, which is what is left of a clip whose denoising is stopped."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback

from ..pipelines.inputs import callback_inputs


class LastEstimate(PipelineCallback):
    """Keep the clean estimate of the last step, and call the callback of a user.

    Args:
        callback (`Callable`, *optional*):
            `callback_on_step_end` of the user.
        tensor_inputs (`Sequence[str]`, *optional*, defaults to `("latents",)`):
            `callback_on_step_end_tensor_inputs` of the user.
    """

    latents: torch.Tensor | None = None
    num_steps = 0

    def __init__(
        self, callback: Callable[..., Mapping[str, Any]] | None = None, tensor_inputs: Sequence[str] = ("latents",)
    ) -> None:
        super().__init__()
        self.callback, self.names = callback, callback_inputs(callback, tensor_inputs)

    @property
    def tensor_inputs(self) -> list[str]:
        """Names of the tensors that the pipeline passes."""
        return [*self.names, "pred_original_sample"]

    def callback_fn(
        self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Keep the estimate, then return what the user's callback returns for the tensors that it reads.

        Args:
            pipeline ([`HIAPipeline`]):
                The pipeline that denoises.
            step_index (`int`):
                Number of the step, from 0.
            timestep (`torch.Tensor`):
                Timestep of the step.
            callback_kwargs (`Mapping[str, torch.Tensor]`):
                The tensors by name.
        """
        self.latents, self.num_steps = callback_kwargs["pred_original_sample"], step_index + 1
        if self.callback is None:
            return None
        read = {name: callback_kwargs[name] for name in self.names}
        return self.callback(pipeline, step_index, timestep, read)
