# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The starting point of training: parts of Stable Diffusion 1.5, new networks, or a mix of both, as one pipeline."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import nn

from .. import checks
from ..models.autoencoder import AUTOENCODERS
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from .checkpoint_parts import HIACheckpoint, StableDiffusionCheckpoint
from .converted import Conversion, ConversionReport
from .key_tables import ComponentKeys
from .new_parts import NewComponents, read_entries
from .part_sources import Parts, Source, class_names, source_for
from .replaced_parts import add_controlnet, add_image_encoder, add_motion_adapter


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Options of the scheduler that may override those of the base.
SCHEDULE_OPTIONS = ("snr_shift_factor", "prediction_type")


def convert_parts(
    base: str | os.PathLike | Mapping[str, Any],
    controlnet: str | os.PathLike | None = None,
    motion_adapter: str | os.PathLike | None = None,
    image_encoder: str | os.PathLike | None = None,
    vae: str | os.PathLike | None = None,
    schedule: Mapping[str, Any] | None = None,
    seed: int = 0,
    variant: str | None = None,
) -> Conversion:
    """Load, create and combine the components of an [`HIAPipeline`] from which training starts.

    The base is a checkpoint or a configuration; other arguments replace components of the base. Components that do not
    fit are refused based on their configurations, before weights are read. Weights are read from safetensors only, and
    missing or unexpected ones are an error. Every path is a Hub id or a local folder. The global random state of torch
    is not changed.

    Args:
        base (`str`, `os.PathLike` or `Mapping`):
            An [`HIAPipeline`]; or a pipeline in the layout of Stable Diffusion 1.5, whose `UNet2DConditionModel`
            becomes UNet, appearance encoder and ControlNet, and whose scheduler is replaced by a
            [`ShiftedSNRScheduler`]; or a YAML file (or its content) with options of components that get random
            weights:

            - `unet`: options of [`~diffusers.UNet2DConditionModel`], and those of [`HIAUNetMotionModel`] for motion
              modules, norms and reference attention.
            - `controlnet` (optional): `conditioning_embedding_out_channels`, and `zero_conv_std`, the standard
              deviation of the initial weights of the zero convolutions, 0.0 by default. With a small value, such as
              0.02, short runs learn the pose earlier.
            - `vae`: options of [`~diffusers.AutoencoderKL`] or of the class in `_class_name`, including
              `scaling_factor` of the latents and, except for an `AutoencoderDC`, `shift_factor`.
            - `image_encoder`: options of `CLIPVisionConfig`.
            - `scheduler` (optional): options of [`ShiftedSNRScheduler`].

            `vae` and `image_encoder` may be omitted if the arguments of that name are given.
        controlnet (`str` or `os.PathLike`, *optional*):
            An [`HIAControlNetModel`], or a `ControlNetModel` with 3 channels, which gets three more channels of zero
            weight.
        motion_adapter (`str` or `os.PathLike`, *optional*):
            A `MotionAdapter` (AnimateDiff). It determines the maximum length and the number of heads of the UNet's
            motion modules, and whether the middle block has one. Without an adapter, a base of Stable Diffusion gets
            new motion modules, which start as the identity.
        image_encoder (`str` or `os.PathLike`, *optional*):
            A `CLIPVisionModelWithProjection` and its `CLIPImageProcessor` in one place, such as
            `openai/clip-vit-large-patch14`; the vision model of a whole `CLIPModel` is used. Required if the base has
            neither image encoder nor text encoder.
        vae (`str` or `os.PathLike`, *optional*):
            An `AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`.
        schedule (`Mapping[str, Any]`, *optional*):
            `snr_shift_factor` and `prediction_type` of the [`ShiftedSNRScheduler`]; by default, those of the base or
            else of the class.
        seed (`int`, *optional*, defaults to 0):
            Seed of new weights.
        variant (`str`, *optional*):
            Variant of the weights of a checkpoint, such as `"fp16"`.

    Returns:
        [`Conversion`]: The [`HIAPipeline`].

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an entry or option of the base is unknown, or components do not fit.
        FileNotFoundError: If a checkpoint or file cannot be read.
        ImportError: If a YAML file is given and pyyaml is not installed.
    """
    paths = {"controlnet": controlnet, "motion_modules": motion_adapter, "image_encoder": image_encoder, "vae": vae}
    sources = {
        name: source_for("motion_adapter" if name == "motion_modules" else name, path)
        for name, path in paths.items()
        if path is not None
    }
    schedule = {name: value for name, value in (schedule or {}).items() if value is not None}
    if unknown := [name for name in schedule if name not in SCHEDULE_OPTIONS]:
        raise ValueError(f"`schedule` must contain {' and '.join(SCHEDULE_OPTIONS)} only, got {', '.join(unknown)}.")
    if schedule.get("prediction_type") not in (None, *PREDICTION_TYPES):
        raise ValueError(
            f"`prediction_type` must be one of {', '.join(PREDICTION_TYPES)}, got {schedule['prediction_type']!r}."
        )
    checks.integer("seed", seed, 0, checks.MAX_SEED)

    start = _read_base(base, variant)
    scheduler, scheduler_row = start.scheduler(schedule)
    with torch.random.fork_rng(devices=[]):
        # First without weights, so that components that do not fit are refused before gigabytes are read.
        with torch.device("meta"):
            HIAPipeline(**_assemble(start, sources, seed, weights=False).modules, scheduler=scheduler)
        parts = _assemble(start, sources, seed, weights=True)
        pipeline = start.pipeline({**parts.modules, "scheduler": scheduler})
    parts.rows["scheduler"] = scheduler_row
    for name, module in pipeline.components.items():
        if isinstance(module, nn.Module):
            module.eval()
        if module is not None and name not in parts.rows:
            parts.add(name, module, start.source_of(name))
    left_over = (*parts.left_over, *start.left_over(parts))
    return Conversion(pipeline, ConversionReport(tuple(parts.rows.values()), left_over))


class _Base(Protocol):
    def add_components(self, parts: Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        """Add all components except replaced ones, the scheduler, and those that only `pipeline` reads."""

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
        """Return the scheduler; `options` override those of the base."""

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        """Create the pipeline from the components."""

    def source_of(self, name: str) -> object:
        """Return the source of a component of the base."""

    def left_over(self, parts: Parts) -> list[str]:
        """Return the components of the base that the pipeline does not use."""


def _read_base(base: str | os.PathLike | Mapping[str, Any], variant: str | None) -> _Base:
    if isinstance(base, Mapping) or str(base).endswith((".yaml", ".yml")):
        if variant is not None:
            raise ValueError("`variant` belongs to a checkpoint, but `base` is a configuration.")
        return NewComponents(read_entries(base))
    source = replace(source_for("base", base), variant=variant)
    index = source.config(DiffusionPipeline)
    components = {name: value for name, value in index.items() if isinstance(value, (list, tuple)) and len(value) == 2}
    classes = {name: class_name for name, (_, class_name) in components.items() if class_name is not None}
    if index.get("_class_name") == "HIAPipeline":
        return HIACheckpoint(source, classes)
    if classes.get("unet") == "UNet2DConditionModel" and classes.get("vae") in {c.__name__ for c in AUTOENCODERS}:
        return StableDiffusionCheckpoint(source, classes)
    raise ValueError(
        f"`{source.argument}` must lead to an HIAPipeline, or to a pipeline of a UNet2DConditionModel `unet` and an"
        f" {class_names(AUTOENCODERS)} `vae`, got {index.get('_class_name')} with {classes.get('unet')} and"
        f" {classes.get('vae')} in {source}."
    )


def _assemble(base: _Base, sources: Mapping[str, Source], seed: int, weights: bool) -> Parts:
    """Return the components of the base, with those that other arguments replace."""
    parts = Parts()
    base.add_components(parts, sources.keys(), seed, weights)
    for name, source in sources.items():
        match name:
            case "controlnet":
                add_controlnet(parts, source, weights)
            case "motion_modules":
                add_motion_adapter(parts, source, weights)
            case "image_encoder":
                add_image_encoder(parts, source, source, weights)
            case "vae":
                parts.add("vae", source.read(*AUTOENCODERS, weights=weights), source)
    return parts
