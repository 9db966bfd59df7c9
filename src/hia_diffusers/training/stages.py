# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The four stages of training (paper Sec. 3.3 and A.5): what each trains, and on what."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from ..models.denoiser import HIADenoiser


# The networks, with the UNet in two: its spatial layers, and its temporal ones.
PARTS = ("appearance_encoder", "controlnet", "unet", "motion_modules")


@dataclass(frozen=True)
class TrainingStage:
    """One stage with the paper's values, which are those of 8 processes.

    Args:
        parts (`tuple[str, ...]`):
            Which of `PARTS` it trains.
        max_timestep (`int`):
            Noise is drawn for timesteps from 0 to this one.
        num_frames (`int`):
            Frames of a sample.
        resolution_scale (`float`):
            Factor on the size of the pictures.
        max_train_steps (`int`):
            Optimizer steps.
        gradient_accumulation_steps (`int`):
            Batches of one sample per process and optimizer step.
        static_clip_probability (`float`):
            How often a clip is a still picture. The paper gives no number.
        condition_dropout (`float`):
            How often the conditions are dropped, for animation-CFG. The paper gives no number.
    """

    parts: tuple[str, ...]
    max_timestep: int
    num_frames: int
    resolution_scale: float
    max_train_steps: int
    gradient_accumulation_steps: int
    static_clip_probability: float
    condition_dropout: float


STAGES = {
    "spatial": TrainingStage(("appearance_encoder", "controlnet", "unet"), 999, 1, 1.0, 35_000, 4, 0.0, 0.1),
    # Without its conditions a sample says nothing to the appearance encoder, which alone is trained.
    "regional": TrainingStage(("appearance_encoder",), 124, 1, 1.0, 4_000, 4, 0.0, 0.0),
    "temporal-half": TrainingStage(("motion_modules",), 999, 16, 0.5, 20_000, 1, 0.0, 0.1),
    "temporal-full": TrainingStage(("motion_modules",), 999, 16, 1.0, 1_000, 1, 0.2, 0.1),
}


def part_of(parameter_name: str) -> str:
    """
    Which of `PARTS` a parameter of [`HIADenoiser`] belongs to.

    Args:
        parameter_name (`str`):
            As `named_parameters` has it.
    """
    return "motion_modules" if ".motion_modules." in parameter_name else parameter_name.split(".")[0]


def train_only(denoiser: HIADenoiser, parts: Collection[str]) -> list[nn.Parameter]:
    """
    Let the parameters of some parts require gradients, and no others. Motion modules that are not trained take no
    part, whatever their weights: the paper inserts them after the spatial and regional stages (Sec. 3.3).

    Args:
        denoiser ([`HIADenoiser`]):
            The networks.
        parts (`Collection[str]`):
            Some of `PARTS`.

    Returns:
        `list[nn.Parameter]`: the parameters that are trained.

    Raises:
        ValueError: If one of `parts` is not in `PARTS`, or none is given.
    """
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise ValueError(f"`parts` must be some of {PARTS}, got {tuple(parts)}.")
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)
    denoiser.unet.set_motion_modules("motion_modules" in parts)
    return [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
