# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""hia-diffusers: human image animation (HIA, arXiv 2409.19580) as diffusers-native classes."""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._registration import BASE_CLASSES, register


__version__ = "0.1.0"

# Diffusers imports onnxruntime where it is installed, which reports to its makers that it is used unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The folder of a small pipeline for procedural people at 96x160: HIAPipeline.from_pretrained(hia_diffusers.HIA_TINY).
HIA_TINY = str(Path(__file__).parent / "assets" / "hia_tiny")

_MODULES = {
    "HIAAnimation": "hia_diffusers.animation.result",
    "HIAAnimator": "hia_diffusers.animation.animator",
    "HIAAppearanceEncoder": "hia_diffusers.models.appearance_encoder",
    "HIAAppearanceEncoderOutput": "hia_diffusers.models.appearance_encoder",
    "HIABlocks": "hia_diffusers.pipelines.modular.modular_blocks_hia",
    "HIAControlNetModel": "hia_diffusers.models.controlnet",
    "HIADataset": "hia_diffusers.data.dataset",
    "HIAModularPipeline": "hia_diffusers.pipelines.modular.modular_pipeline_hia",
    "HIAPipeline": "hia_diffusers.pipelines.pipeline_hia",
    "HIAPipelineOutput": "hia_diffusers.pipelines.pipeline_output",
    "HIAPoseGuider": "hia_diffusers.models.pose_guider",
    "HIAPoseGuiderOutput": "hia_diffusers.models.pose_guider",
    "HIAUNetMotionModel": "hia_diffusers.models.unet_motion",
    "KeypointDetector": "hia_diffusers.detection.keypoint_detector",
    "MotionBlurCondition": "hia_diffusers.conditioning.motion_blur_condition",
    "MotionBlurConditioner": "hia_diffusers.conditioning.motion_blur",
    "PreviewCallback": "hia_diffusers.pipelines.preview",
    "ReferenceFeatures": "hia_diffusers.models.reference_attention",
    "ShiftedSNRScheduler": "hia_diffusers.schedulers.scheduling_shifted_snr",
    "WholeBodyKeypoints": "hia_diffusers.conditioning.keypoints",
    "retarget_keypoints": "hia_diffusers.conditioning.retargeting",
    "smooth_keypoints": "hia_diffusers.conditioning.retargeting",
    "snr_shift_factor_for_resolution": "hia_diffusers.schedulers.scheduling_shifted_snr",
}
__all__ = sorted([*_MODULES, "HIA_TINY"])

# diffusers looks up the base class of a component in the library that the component comes from.
_BASE_CLASSES = dict.fromkeys(BASE_CLASSES, "diffusers")

if TYPE_CHECKING:
    from .animation.animator import HIAAnimator as HIAAnimator
    from .animation.result import HIAAnimation as HIAAnimation
    from .conditioning.keypoints import WholeBodyKeypoints as WholeBodyKeypoints
    from .conditioning.motion_blur import MotionBlurConditioner as MotionBlurConditioner
    from .conditioning.motion_blur_condition import MotionBlurCondition as MotionBlurCondition
    from .conditioning.retargeting import retarget_keypoints as retarget_keypoints
    from .conditioning.retargeting import smooth_keypoints as smooth_keypoints
    from .data.dataset import HIADataset as HIADataset
    from .detection.keypoint_detector import KeypointDetector as KeypointDetector
    from .models.appearance_encoder import HIAAppearanceEncoder as HIAAppearanceEncoder
    from .models.appearance_encoder import HIAAppearanceEncoderOutput as HIAAppearanceEncoderOutput
    from .models.controlnet import HIAControlNetModel as HIAControlNetModel
    from .models.pose_guider import HIAPoseGuider as HIAPoseGuider
    from .models.pose_guider import HIAPoseGuiderOutput as HIAPoseGuiderOutput
    from .models.reference_attention import ReferenceFeatures as ReferenceFeatures
    from .models.unet_motion import HIAUNetMotionModel as HIAUNetMotionModel
    from .pipelines.modular.modular_blocks_hia import HIABlocks as HIABlocks
    from .pipelines.modular.modular_pipeline_hia import HIAModularPipeline as HIAModularPipeline
    from .pipelines.pipeline_hia import HIAPipeline as HIAPipeline
    from .pipelines.pipeline_output import HIAPipelineOutput as HIAPipelineOutput
    from .pipelines.preview import PreviewCallback as PreviewCallback
    from .schedulers.scheduling_shifted_snr import ShiftedSNRScheduler as ShiftedSNRScheduler
    from .schedulers.scheduling_shifted_snr import snr_shift_factor_for_resolution as snr_shift_factor_for_resolution

register()


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name) or _BASE_CLASSES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
