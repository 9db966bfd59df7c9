# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of the pipeline that a run starts from. `hia_diffusers.conversion.parts` creates the first one."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..models.controlnet import HIAControlNetModel
from ..models.pose_guider import HIAPoseGuider
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler


def load_starting_point(pretrained_model_name_or_path: str | Path) -> HIAPipeline:
    """Load a pipeline for training: in float32, on the CPU, in evaluation mode.

    A ControlNet or pose guider with 3 channels is extended to HIA's 6, with zero weights for the new ones.

    Args:
        pretrained_model_name_or_path (`str` or `Path`):
            An [`HIAPipeline`], by its id on the Hub or its folder.

    Raises:
        FileNotFoundError: If there is no pipeline.
        ValueError: If it is another pipeline, cannot be read, or has another scheduler than a [`ShiftedSNRScheduler`].
    """
    argument = f"`pretrained_model_name_or_path`: {pretrained_model_name_or_path}"
    try:
        class_name = DiffusionPipeline.load_config(pretrained_model_name_or_path).get("_class_name")
    except OSError as error:
        if error.errno is not None:  # a problem of the machine
            raise
        raise FileNotFoundError(f"{argument} cannot be read: {error}") from error
    if class_name != "HIAPipeline":
        raise ValueError(
            f"{argument} must be an HIAPipeline, got {class_name}; `hia-diffusers convert parts` converts it."
        )
    try:
        pipeline = HIAPipeline.from_pretrained(pretrained_model_name_or_path, dtype=torch.float32)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{argument} cannot be read: {error}") from error
    if not isinstance(pipeline.scheduler, ShiftedSNRScheduler):
        raise ValueError(
            f"{argument} must have a ShiftedSNRScheduler, got {type(pipeline.scheduler).__name__}; set its"
            " scheduler to ShiftedSNRScheduler.from_config(pipeline.scheduler.config) and save it again."
        )
    if pipeline.controlnet.config.conditioning_channels == 3:
        is_pose_guider = isinstance(pipeline.controlnet, HIAPoseGuider)
        widen = HIAPoseGuider.from_pose_guider if is_pose_guider else HIAControlNetModel.from_controlnet
        pipeline.controlnet = widen(pipeline.controlnet)
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.eval()
    return pipeline
