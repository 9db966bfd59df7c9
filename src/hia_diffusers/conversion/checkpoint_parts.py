# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a base that is a checkpoint: an HIAPipeline, or a pipeline in the layout of Stable Diffusion 1.5."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.autoencoder import AUTOENCODERS
from ..models.controlnet import HIAControlNetModel
from ..models.unet_motion import HIAUNetMotionModel
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from .key_tables import ComponentKeys
from .part_sources import NEW, Parts, Source, weight_keys
from .replaced_parts import add_controlnet, add_image_encoder
from .unet_options import check_spatial_options


@dataclass
class Checkpoint:
    """Common methods of both kinds of checkpoint."""

    source: Source
    classes: dict[str, str]

    def source_of(self, name: str) -> Source:
        """Return the source of a component."""
        return replace(self.source, subfolder=name)

    def left_over(self, parts: Parts) -> list[str]:
        """Return what the pipeline does not use."""
        taken = {row.source for row in parts.rows.values()}
        sources = {self.source_of(name): class_name for name, class_name in self.classes.items()}
        return [f"{source} ({class_name})" for source, class_name in sources.items() if str(source) not in taken]

    def add_vae(self, parts: Parts, weights: bool) -> None:
        """Add the autoencoder."""
        source = self.source_of("vae")
        parts.add("vae", source.read(*AUTOENCODERS, weights=weights), source)

    def add_image_encoder(self, parts: Parts, weights: bool) -> None:
        """Add the image encoder and its feature extractor."""
        if not {"image_encoder", "feature_extractor"} <= self.classes.keys():
            raise ValueError(
                "`image_encoder` must be given, such as openai/clip-vit-large-patch14: the context of"
                f" cross-attention comes from it, and {self.source} has no image encoder of its own."
            )
        add_image_encoder(parts, self.source_of("image_encoder"), self.source_of("feature_extractor"), weights)


class HIACheckpoint(Checkpoint):
    """An [`HIAPipeline`]."""

    def add_components(self, parts: Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        """Add all components except replaced ones, the scheduler, and those that only `pipeline` reads."""
        source = self.source_of("unet")
        unet = source.read(HIAUNetMotionModel, weights=weights)
        parts.add("unet", unet, source)
        parts.add_motion_modules(unet, source)
        source = self.source_of("appearance_encoder")
        parts.add("appearance_encoder", source.read(HIAAppearanceEncoder, weights=weights), source)
        if "controlnet" not in replaced:
            add_controlnet(parts, self.source_of("controlnet"), weights)
        if "vae" not in replaced:
            self.add_vae(parts, weights)
        if "image_encoder" in replaced:
            parts.modules |= {"text_encoder": None, "tokenizer": None}  # cross-attention has one source
        elif "text_encoder" in self.classes:
            parts.modules["image_encoder"] = None
        else:
            self.add_image_encoder(parts, weights)

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
        """Return the scheduler, with these options instead of its own, and its row of the report."""
        source = self.source_of("scheduler")
        config = source.config(ShiftedSNRScheduler)
        if config["_class_name"] != "ShiftedSNRScheduler":
            raise ValueError(
                f"`{source.argument}`: {source} must be a ShiftedSNRScheduler, got {config['_class_name']}; give the"
                " pipeline ShiftedSNRScheduler.from_config(pipeline.scheduler.config) and save it again."
            )
        with source.named_in_errors():
            scheduler = ShiftedSNRScheduler.from_config(config, **options)
        changes = [f"{name} {new} in place of {config[name]}" for name, new in options.items() if new != config[name]]
        return scheduler, ComponentKeys("scheduler", str(source), made=tuple(changes))

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        """Create the pipeline from the components."""
        arguments = {"variant": self.source.variant, "dtype": torch.float32}
        with self.source.named_in_errors():
            return HIAPipeline.from_pretrained(self.source.path, **arguments, **components)


class StableDiffusionCheckpoint(Checkpoint):
    """A pipeline in the layout of Stable Diffusion 1.5, whose UNet becomes the three networks."""

    def add_components(self, parts: Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        """Add all components except replaced ones, the scheduler, and those that only `pipeline` reads."""
        source = self.source_of("unet")
        unet2d = source.read(UNet2DConditionModel, weights=weights)
        with source.named_in_errors():
            check_spatial_options(unet2d)
        torch.default_generator.manual_seed(seed)
        unet = HIAUNetMotionModel.from_unet2d(unet2d)
        parts.add("unet", unet, source)
        parts.add_motion_modules(unet, NEW)
        encoder = HIAAppearanceEncoder.from_unet(unet2d)
        kept = {*weight_keys(encoder)}
        parts.add("appearance_encoder", encoder, source, left=[key for key in weight_keys(unet2d) if key not in kept])
        if "controlnet" not in replaced:
            torch.default_generator.manual_seed(seed)
            controlnet = HIAControlNetModel.from_unet(unet2d)
            copied = {*weight_keys(unet2d)}
            parts.add("controlnet", controlnet, source, [key for key in weight_keys(controlnet) if key not in copied])
        if "vae" not in replaced:
            self.add_vae(parts, weights)
        if "image_encoder" not in replaced:
            self.add_image_encoder(parts, weights)

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
        """Return the scheduler, with these options instead of its own, and its row of the report."""
        config = self.source_of("scheduler").config(ShiftedSNRScheduler) if "scheduler" in self.classes else {}
        predicted = config.get("prediction_type", "epsilon")
        scheduler = ShiftedSNRScheduler(**{"prediction_type": predicted, **options})
        trained_for = "" if scheduler.config.prediction_type == predicted else predicted
        return scheduler, new_schedule(scheduler, trained_for)

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        """Create the pipeline from the components."""
        return HIAPipeline(**components)


def new_schedule(scheduler: ShiftedSNRScheduler, trained_for: str = "") -> ComponentKeys:
    """Return the row of a scheduler that is not that of the base; `trained_for` is what the UNet predicts instead."""
    config = scheduler.config
    words = f"{config.beta_schedule} betas, gamma {config.snr_shift_factor:.4g}, {config.prediction_type}"
    if trained_for:
        words += f", but the UNet was trained for {trained_for}"
    return ComponentKeys("scheduler", NEW, made=(words,))
