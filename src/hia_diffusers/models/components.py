# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the functions of a pipeline read of it."""

from typing import Any, Protocol

import torch
from diffusers import SchedulerMixin
from diffusers.guiders import BaseGuidance
from diffusers.video_processor import VideoProcessor
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from .appearance_encoder import HIAAppearanceEncoder
from .controlnet import HIAControlNetModel
from .pose_guider import HIAPoseGuider
from .unet_motion import HIAUNetMotionModel


class HIAComponents(Protocol):
    """The components of an [`HIAPipeline`] or of a modular pipeline of HIA, by their names.

    Those that a pipeline does not have are `None`.
    """

    config: Any
    components: dict[str, Any]
    vae: nn.Module
    unet: HIAUNetMotionModel
    appearance_encoder: HIAAppearanceEncoder
    controlnet: HIAControlNetModel | HIAPoseGuider
    scheduler: SchedulerMixin
    guider: BaseGuidance
    image_encoder: CLIPVisionModelWithProjection
    feature_extractor: CLIPImageProcessor
    ip_adapter_image_encoder: CLIPVisionModelWithProjection
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    video_processor: VideoProcessor
    _execution_device: torch.device
