# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The four stages of training (paper Sec. 3.3 and A.5): their options and trained parts."""

from collections.abc import Collection

from torch import nn

from ..models.attachments import lora_layers
from ..models.denoiser import HIADenoiser
from .config import LORA_NETWORKS, TrainingConfig


# The networks, with the UNet in two parts: its spatial layers, and its temporal layers.
PARTS = ("appearance_encoder", "controlnet", "unet", "motion_modules")

# Defaults are those of the spatial stage. Values are the paper's, which are for 8 processes, except those of
# `condition_dropout` and `static_clip_probability`, which the paper does not state.
STAGES = {
    "spatial": TrainingConfig(stage="spatial", output_dir="runs/spatial"),
    "regional": TrainingConfig(
        stage="regional",
        output_dir="runs/regional",
        max_timestep=124,
        max_train_steps=4_000,
        # A sample without conditions does not train the appearance encoder, the only trained part.
        condition_dropout=0.0,
    ),
    "temporal-half": TrainingConfig(
        stage="temporal-half",
        output_dir="runs/temporal-half",
        num_frames=16,
        resolution_scale=0.5,
        max_train_steps=20_000,
        gradient_accumulation_steps=1,
    ),
    "temporal-full": TrainingConfig(
        stage="temporal-full",
        output_dir="runs/temporal-full",
        num_frames=16,
        static_clip_probability=0.2,
        max_train_steps=1_000,
        gradient_accumulation_steps=1,
    ),
}

SPATIAL_PARTS = ("appearance_encoder", "controlnet", "unet")


def trained_parts(config: TrainingConfig) -> tuple[str, ...]:
    """Return the parts (of `PARTS`) that a run trains.

    Args:
        config ([`TrainingConfig`]):
            Config with the `stage`, and the choice of what it trains.
    """
    if config.stage == "spatial":
        if config.lora_rank is not None:
            return tuple(config.lora_networks or LORA_NETWORKS[:1])
        return SPATIAL_PARTS[:2] if config.spatial_trainable == "conditions" else SPATIAL_PARTS
    if config.stage == "regional":
        return SPATIAL_PARTS if config.regional_trainable == "all" else SPATIAL_PARTS[:1]
    return ("motion_modules",)


def part_of(parameter_name: str) -> str:
    """Return the part (of `PARTS`) to which a parameter of [`HIADenoiser`] belongs.

    Args:
        parameter_name (`str`):
            Name as in `named_parameters`.
    """
    return "motion_modules" if ".motion_modules." in parameter_name else parameter_name.split(".")[0]


def is_lora(parameter_name: str) -> bool:
    """Return whether a parameter is one of a LoRA of PEFT.

    Args:
        parameter_name (`str`):
            Name as in `named_parameters`.
    """
    return ".lora_A." in parameter_name or ".lora_B." in parameter_name


def trains_weights(network: nn.Module) -> bool:
    """Return whether weights of a network are trained, other than those of LoRA.

    Args:
        network (`nn.Module`):
            A network of [`HIADenoiser`].
    """
    return any(parameter.requires_grad and not is_lora(name) for name, parameter in network.named_parameters())


def train_only(denoiser: HIADenoiser, parts: Collection[str]) -> list[nn.Parameter]:
    """Let only the parameters of the given parts require gradients.

    Motion modules that are not trained are disabled, regardless of their weights: the paper inserts them after the
    spatial and regional stages (Sec. 3.3). If networks have LoRA, only that of the parts is trained.

    Args:
        denoiser ([`HIADenoiser`]):
            The networks.
        parts (`Collection[str]`):
            The parts to train, some of `PARTS`.

    Returns:
        `list[nn.Parameter]`: The trained parameters.

    Raises:
        ValueError: If one of `parts` is not in `PARTS`, or none is given.
    """
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise ValueError(f"`parts` must be some of {PARTS}, got {tuple(parts)}.")
    has_lora = bool(lora_layers(denoiser))
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(part_of(name) in parts and (not has_lora or is_lora(name)))
    denoiser.unet.set_motion_modules("motion_modules" in parts)
    return [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
