# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a base that is a configuration: networks with random weights."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection, PreTrainedConfig

from .. import checks
from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.autoencoder import AUTOENCODERS
from ..models.component_fit import check_components
from ..models.controlnet import HIAControlNetModel
from ..models.unet_motion import HIAUNetMotionModel
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from .checkpoint_parts import new_schedule
from .key_tables import ComponentKeys
from .part_sources import NEW, Parts, class_names
from .unet_options import check_spatial_options, constructor_defaults


# Options of an HIAUNetMotionModel that a UNet2DConditionModel does not have.
MOTION_OPTIONS = (
    *("motion_max_seq_length", "motion_num_attention_heads", "use_motion_mid_block", "motion_norm", "resnet_norm"),
    *("temporal_transformer_layers_per_block", "temporal_transformer_layers_per_mid_block"),
    *("reference_attention_blocks", "spatial_position_embedding"),
)


@dataclass
class NewComponents:
    """Networks with random weights, and the options of each."""

    entries: dict[str, dict[str, Any]]

    def add_components(self, parts: Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        """Add all components except replaced ones, the scheduler, and those that only `pipeline` reads."""
        defaults = constructor_defaults(UNet2DConditionModel)
        defaults |= constructor_defaults(HIAUNetMotionModel, MOTION_OPTIONS)
        options = self.options("unet", {**defaults, "self_attention_gain": 0.0})
        gain = options.pop("self_attention_gain", 0.0)
        motion_options = {name: options.pop(name) for name in MOTION_OPTIONS if name in options}
        with self.named_in_errors("unet"):
            torch.default_generator.manual_seed(seed)
            unet2d = UNet2DConditionModel(**options)
            check_spatial_options(unet2d)
            _start_with_equal_query_and_key(unet2d, gain)
            unet = HIAUNetMotionModel.from_unet2d(unet2d)
            if motion_options:
                unet = HIAUNetMotionModel.from_config(unet.config, **motion_options)
                unet.load_state_dict({**unet.state_dict(), **unet2d.state_dict()})
            encoder = HIAAppearanceEncoder.from_unet(unet2d, unet.config.spatial_position_embedding)
        parts.add("unet", unet, NEW)
        parts.add_motion_modules(unet, NEW)
        parts.add("appearance_encoder", encoder, NEW)

        if "controlnet" not in replaced:
            defaults = constructor_defaults(ControlNetModel, ["conditioning_embedding_out_channels"])
            defaults["zero_conv_std"] = 0.0
            options = self.options("controlnet", defaults)
            std = options.pop("zero_conv_std", 0.0)
            with self.named_in_errors("controlnet"):
                torch.default_generator.manual_seed(seed)
                controlnet = HIAControlNetModel.from_unet(unet2d, **options)
                _draw_zero_convolutions(controlnet, std)
            parts.add("controlnet", controlnet, NEW)

        if "vae" not in replaced:
            name = self.entries.get("vae", {}).get("_class_name", "AutoencoderKL")
            vae_class = {c.__name__: c for c in AUTOENCODERS}.get(name)
            if vae_class is None:
                raise ValueError(
                    f"`base`: `_class_name` of the entry `vae` must be {class_names(AUTOENCODERS)}, got {name!r}."
                )
            options = self.options("vae", {**constructor_defaults(vae_class), "_class_name": ""})
            options.pop("_class_name", None)
            with self.named_in_errors("vae"):
                torch.default_generator.manual_seed(seed)
                vae = vae_class(**options)
            parts.add("vae", vae, NEW)

        if "image_encoder" not in replaced:
            # transformers' configurations have many other options, for text and labels.
            defaults = {k: v for k, v in CLIPVisionConfig().to_dict().items() if k not in PreTrainedConfig().to_dict()}
            options = self.options("image_encoder", defaults)
            with self.named_in_errors("image_encoder"):
                torch.default_generator.manual_seed(seed)
                encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**options))
                size = encoder.config.image_size
                extractor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
                check_components({"image_encoder": encoder, "feature_extractor": extractor, "unet": unet})
            parts.add("image_encoder", encoder, NEW)
            parts.add("feature_extractor", extractor, NEW)

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
        """Return the scheduler, with these options instead of its own, and its row of the report."""
        defaults = constructor_defaults(ShiftedSNRScheduler)
        del defaults["trained_betas"]
        entry = self.options("scheduler", defaults)
        with self.named_in_errors("scheduler"):
            scheduler = ShiftedSNRScheduler(**{**entry, **options})
        return scheduler, new_schedule(scheduler)

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        """Create the pipeline from the components."""
        return HIAPipeline(**components)

    def source_of(self, name: str) -> str:
        """Return the source of a component."""
        return NEW

    def left_over(self, parts: Parts) -> list[str]:
        """Return what the pipeline does not use."""
        return [
            f"the entry `{name}` of `base`"
            for name in self.entries
            if name in parts.rows and parts.rows[name].source != NEW
        ]

    def options(self, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an entry; `defaults` are all that it may contain."""
        if name not in self.entries:
            if name in ("controlnet", "scheduler"):
                return {}
            instead = "" if name == "unet" else f", or `{name}` must be given"
            raise ValueError(f"`base` must have the entry `{name}`{instead}.")
        entry = self.entries[name]
        if unknown := sorted(map(str, entry.keys() - defaults.keys())):
            raise ValueError(
                f"`base`: the entry `{name}` has the unknown options {', '.join(unknown)}; known are"
                f" {', '.join(sorted(defaults))}."
            )
        for option, value in entry.items():
            if isinstance(value, str) and isinstance(defaults[option], (int, float)):
                raise ValueError(
                    f"`base`: `{option}` of the entry `{name}` must be a number, got the text {value!r}. (For"
                    " YAML, 1e-5 is a text, and 1.0e-5 a number.)"
                )
        return dict(entry)

    @contextmanager
    def named_in_errors(self, entry: str) -> Iterator[None]:
        """Name an entry in any error of the networks."""
        try:
            yield
        except Exception as error:
            raise ValueError(f"`base` has an invalid entry `{entry}`: {error}") from error


def read_entries(base: str | os.PathLike | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read and check the entries of a configuration, or of the YAML file with it."""
    entries: Any = base
    if not isinstance(base, Mapping):
        if not Path(base).is_file():
            raise FileNotFoundError(f"`base`: there is no file {base}.")
        try:
            import yaml
        except ImportError as error:
            raise ImportError(
                "Reading YAML files needs the `train` extra: pip install 'hia-diffusers[train]'"
            ) from error
        try:
            entries = yaml.safe_load(Path(base).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"`base`: {base} is not a YAML file: {error}") from error
        if not isinstance(entries, Mapping):
            raise ValueError(f"`base`: {base} must contain a mapping, got {type(entries).__name__}.")
    known = ("unet", "controlnet", "vae", "image_encoder", "scheduler")
    if unknown := [str(name) for name in entries if name not in known]:
        raise ValueError(f"`base` has the unknown entries {', '.join(unknown)}; valid ones are {', '.join(known)}.")
    entries = {name: {} if entry is None else entry for name, entry in entries.items()}
    for name, entry in entries.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"`base`: the entry `{name}` must be a mapping of options, got {entry!r}.")
    return entries


def _draw_zero_convolutions(controlnet: HIAControlNetModel, std: float) -> None:
    checks.number("zero_conv_std", std, 0)
    embedding = controlnet.controlnet_cond_embedding
    for convolution in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block, embedding.conv_out):
        nn.init.normal_(convolution.weight, std=std)


def _start_with_equal_query_and_key(unet: UNet2DConditionModel, gain: object) -> None:
    """Initialize spatial self-attention so that tokens attend to similar tokens from the first step on."""
    checks.number("self_attention_gain", gain, 0)
    if gain == 0:
        return
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            query, key = module.attn1.to_q.weight, module.attn1.to_k.weight
            with torch.no_grad():
                key.copy_(query.mul_(gain))
