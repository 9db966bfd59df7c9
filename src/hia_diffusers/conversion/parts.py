# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The starting point of training: parts of Stable Diffusion 1.5, new networks, or a mix of both, as one pipeline."""

import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import ControlNetModel, DiffusionPipeline, MotionAdapter, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection, PreTrainedConfig

from .. import checks
from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.autoencoder import AUTOENCODERS
from ..models.component_fit import check_components
from ..models.controlnet import HIAControlNetModel
from ..models.modeling_hia import copy_out_of_mapped_file, load_without_mismatch, same_option
from ..models.unet_motion import HIAUNetMotionModel, check_motion_adapter
from ..pipelines.pipeline_hia import HIAPipeline
from ..schedulers.scheduling_shifted_snr import ShiftedSNRScheduler
from .converted import Conversion, ConversionReport
from .key_tables import ComponentKeys


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
NEW = "new"

# Options of the scheduler that may override those of the base.
SCHEDULE_OPTIONS = ("snr_shift_factor", "prediction_type")

# Options of a UNet2DConditionModel that a motion UNet has or may ignore. All others must have their defaults.
SPATIAL_OPTIONS = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps"),
    *("cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads"),
    *("use_linear_projection", "upcast_attention"),
}
SPATIAL_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}

# Options of an HIAUNetMotionModel that a UNet2DConditionModel does not have.
MOTION_OPTIONS = (
    *("motion_max_seq_length", "motion_num_attention_heads", "use_motion_mid_block", "motion_norm", "resnet_norm"),
    *("temporal_transformer_layers_per_block", "temporal_transformer_layers_per_mid_block"),
    *("reference_attention_blocks", "spatial_position_embedding"),
)

# Weights of a CLIPModel other than those of the vision model.
TEXT_TOWER = ("text_model.", "text_projection.", "logit_scale")


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
        name: _source("motion_adapter" if name == "motion_modules" else name, path)
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


@dataclass(frozen=True)
class _Source:
    """A checkpoint, and the argument for it."""

    argument: str
    path: str
    subfolder: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.subfolder}" if self.subfolder else self.path

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of `from_pretrained` for its location; transformers does not accept None for them."""
        return {} if self.subfolder is None else {"subfolder": self.subfolder}

    def config(self, config_class: Any) -> dict[str, Any]:
        with self.named_in_errors():
            return config_class.load_config(self.path, **self.arguments)

    def read(self, *accepted: Any, weights: bool) -> Any:
        """Load a model of one of the accepted classes, or create it on the meta device if `weights` is false."""
        config = self.config(accepted[0])
        class_name = config.get("_class_name")
        model_class = {c.__name__: c for c in accepted}.get(class_name)
        if model_class is None:
            raise ValueError(
                f"`{self.argument}` must lead to a model of class {_names(accepted)}, got {class_name} in {self}."
            )
        with self.named_in_errors():
            if not weights:
                return model_class.from_config(config)
            arguments = {**self.arguments, "variant": self.variant, "use_safetensors": True}
            return load_without_mismatch(model_class, self.path, dtype=torch.float32, **arguments)

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is not None:  # caused by the machine, not by the argument
                raise
            raise FileNotFoundError(f"`{self.argument}`: {self} cannot be read: {error}") from error
        except (ValueError, RuntimeError) as error:
            reason = re.sub(r"^`\w+`: ", "", str(error))  # the argument of the function that raised it
            raise ValueError(f"`{self.argument}`: {self} cannot be read: {reason}") from error


def _source(argument: str, path: object) -> _Source:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise TypeError(f"`{argument}` must be a Hub id or the path of a local folder, got {path!r}.")
    return _Source(argument, str(path))


@dataclass
class _Parts:
    """Components by their names in the pipeline, and their rows of the report."""

    modules: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, ComponentKeys] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)

    def add(
        self, name: str, module: object, source: object, made: Sequence[str] = (), left: Sequence[str] = ()
    ) -> None:
        self.modules[name] = module
        self._add_row(name, _keys(module), source, made, left)

    def add_motion_modules(self, unet: HIAUNetMotionModel, source: object) -> None:
        self.modules["unet"] = unet
        self._add_row("motion_modules", _keys(unet, motion=True), source)

    def _add_row(
        self, name: str, keys: Sequence[str], source: object, made: Sequence[str] = (), left: Sequence[str] = ()
    ) -> None:
        """Add a row to the report. By default, all keys of new components are initialized."""
        made = (made or keys) if source == NEW else made
        taken = [key for key in keys if key not in made] if source != NEW else []
        self.rows[name] = ComponentKeys(name, str(source), tuple(taken), tuple(made), tuple(left))


def _assemble(base: "_Base", sources: Mapping[str, _Source], seed: int, weights: bool) -> _Parts:
    """Return the components of the base, with those that other arguments replace."""
    parts = _Parts()
    base.add_components(parts, sources.keys(), seed, weights)
    for name, source in sources.items():
        match name:
            case "controlnet":
                _add_controlnet(parts, source, weights)
            case "motion_modules":
                _add_motion_adapter(parts, source, weights)
            case "image_encoder":
                _add_image_encoder(parts, source, source, weights)
            case "vae":
                parts.add("vae", source.read(*AUTOENCODERS, weights=weights), source)
    return parts


# The three kinds of base


class _Base(Protocol):
    def add_components(self, parts: _Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        """Add all components except replaced ones, the scheduler, and those that only `pipeline` reads."""

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
        """Return the scheduler; `options` override those of the base."""

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        """Create the pipeline from the components."""

    def source_of(self, name: str) -> object:
        """Return the source of a component of the base."""

    def left_over(self, parts: _Parts) -> list[str]:
        """Return the components of the base that the pipeline does not use."""


@dataclass
class _Checkpoint:
    """Common methods of both kinds of checkpoint."""

    source: _Source
    classes: dict[str, str]

    def source_of(self, name: str) -> _Source:
        return replace(self.source, subfolder=name)

    def left_over(self, parts: _Parts) -> list[str]:
        taken = {row.source for row in parts.rows.values()}
        sources = {self.source_of(name): class_name for name, class_name in self.classes.items()}
        return [f"{source} ({class_name})" for source, class_name in sources.items() if str(source) not in taken]

    def add_vae(self, parts: _Parts, weights: bool) -> None:
        source = self.source_of("vae")
        parts.add("vae", source.read(*AUTOENCODERS, weights=weights), source)

    def add_image_encoder(self, parts: _Parts, weights: bool) -> None:
        if not {"image_encoder", "feature_extractor"} <= self.classes.keys():
            raise ValueError(
                "`image_encoder` must be given, such as openai/clip-vit-large-patch14: the context of"
                f" cross-attention comes from it, and {self.source} has no image encoder of its own."
            )
        _add_image_encoder(parts, self.source_of("image_encoder"), self.source_of("feature_extractor"), weights)


class _HIACheckpoint(_Checkpoint):
    def add_components(self, parts: _Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        source = self.source_of("unet")
        unet = source.read(HIAUNetMotionModel, weights=weights)
        parts.add("unet", unet, source)
        parts.add_motion_modules(unet, source)
        source = self.source_of("appearance_encoder")
        parts.add("appearance_encoder", source.read(HIAAppearanceEncoder, weights=weights), source)
        if "controlnet" not in replaced:
            _add_controlnet(parts, self.source_of("controlnet"), weights)
        if "vae" not in replaced:
            self.add_vae(parts, weights)
        if "image_encoder" in replaced:
            parts.modules |= {"text_encoder": None, "tokenizer": None}  # cross-attention has one source
        elif "text_encoder" in self.classes:
            parts.modules["image_encoder"] = None
        else:
            self.add_image_encoder(parts, weights)

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
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
        arguments = {"variant": self.source.variant, "dtype": torch.float32}
        with self.source.named_in_errors():
            return HIAPipeline.from_pretrained(self.source.path, **arguments, **components)


class _StableDiffusionCheckpoint(_Checkpoint):
    def add_components(self, parts: _Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        source = self.source_of("unet")
        unet2d = source.read(UNet2DConditionModel, weights=weights)
        with source.named_in_errors():
            _check_spatial_options(unet2d)
        torch.default_generator.manual_seed(seed)
        unet = HIAUNetMotionModel.from_unet2d(unet2d)
        parts.add("unet", unet, source)
        parts.add_motion_modules(unet, NEW)
        encoder = HIAAppearanceEncoder.from_unet(unet2d)
        kept = {*_keys(encoder)}
        parts.add("appearance_encoder", encoder, source, left=[key for key in _keys(unet2d) if key not in kept])
        if "controlnet" not in replaced:
            torch.default_generator.manual_seed(seed)
            controlnet = HIAControlNetModel.from_unet(unet2d)
            copied = {*_keys(unet2d)}
            parts.add("controlnet", controlnet, source, [key for key in _keys(controlnet) if key not in copied])
        if "vae" not in replaced:
            self.add_vae(parts, weights)
        if "image_encoder" not in replaced:
            self.add_image_encoder(parts, weights)

    def scheduler(self, options: Mapping[str, Any]) -> tuple[ShiftedSNRScheduler, ComponentKeys]:
        config = self.source_of("scheduler").config(ShiftedSNRScheduler) if "scheduler" in self.classes else {}
        predicted = config.get("prediction_type", "epsilon")
        scheduler = ShiftedSNRScheduler(**{"prediction_type": predicted, **options})
        trained_for = "" if scheduler.config.prediction_type == predicted else predicted
        return scheduler, _new_schedule(scheduler, trained_for)

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        return HIAPipeline(**components)


def _read_base(base: object, variant: str | None) -> _Base:
    if isinstance(base, Mapping) or str(base).endswith((".yaml", ".yml")):
        if variant is not None:
            raise ValueError("`variant` belongs to a checkpoint, but `base` is a configuration.")
        return _NewComponents(_read_entries(base))
    source = replace(_source("base", base), variant=variant)
    index = source.config(DiffusionPipeline)
    components = {name: value for name, value in index.items() if isinstance(value, (list, tuple)) and len(value) == 2}
    classes = {name: class_name for name, (_, class_name) in components.items() if class_name is not None}
    if index.get("_class_name") == "HIAPipeline":
        return _HIACheckpoint(source, classes)
    if classes.get("unet") == "UNet2DConditionModel" and classes.get("vae") in {c.__name__ for c in AUTOENCODERS}:
        return _StableDiffusionCheckpoint(source, classes)
    raise ValueError(
        f"`{source.argument}` must lead to an HIAPipeline, or to a pipeline of a UNet2DConditionModel `unet` and an"
        f" {_names(AUTOENCODERS)} `vae`, got {index.get('_class_name')} with {classes.get('unet')} and"
        f" {classes.get('vae')} in {source}."
    )


@dataclass
class _NewComponents:
    entries: dict[str, dict[str, Any]]

    def add_components(self, parts: _Parts, replaced: Collection[str], seed: int, weights: bool) -> None:
        defaults = _defaults(UNet2DConditionModel) | _defaults(HIAUNetMotionModel, MOTION_OPTIONS)
        options = self.options("unet", {**defaults, "self_attention_gain": 0.0})
        gain = options.pop("self_attention_gain", 0.0)
        motion_options = {name: options.pop(name) for name in MOTION_OPTIONS if name in options}
        with self.named_in_errors("unet"):
            torch.default_generator.manual_seed(seed)
            unet2d = UNet2DConditionModel(**options)
            _check_spatial_options(unet2d)
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
            defaults = {**_defaults(ControlNetModel, ["conditioning_embedding_out_channels"]), "zero_conv_std": 0.0}
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
                    f"`base`: `_class_name` of the entry `vae` must be {_names(AUTOENCODERS)}, got {name!r}."
                )
            options = self.options("vae", {**_defaults(vae_class), "_class_name": ""})
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
        defaults = _defaults(ShiftedSNRScheduler)
        del defaults["trained_betas"]
        entry = self.options("scheduler", defaults)
        with self.named_in_errors("scheduler"):
            scheduler = ShiftedSNRScheduler(**{**entry, **options})
        return scheduler, _new_schedule(scheduler)

    def pipeline(self, components: Mapping[str, Any]) -> HIAPipeline:
        return HIAPipeline(**components)

    def source_of(self, name: str) -> str:
        return NEW

    def left_over(self, parts: _Parts) -> list[str]:
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
        try:
            yield
        except Exception as error:
            raise ValueError(f"`base` has an invalid entry `{entry}`: {error}") from error


def _read_entries(base: Any) -> dict[str, dict[str, Any]]:
    entries = base
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


# Replacements of components of the base


def _add_controlnet(parts: _Parts, source: _Source, weights: bool) -> None:
    controlnet = source.read(HIAControlNetModel, ControlNetModel, weights=weights)
    config = controlnet.config
    with source.named_in_errors():
        if config.conditioning_channels not in (3, 6):
            raise ValueError(f"its `conditioning_channels` must be 3 or 6, got {config.conditioning_channels}.")
        if config.controlnet_conditioning_channel_order != "rgb":
            raise ValueError(
                "its `controlnet_conditioning_channel_order` must be rgb, got"
                f" {config.controlnet_conditioning_channel_order}: the order of six channels would be reversed."
            )
    made: list[str] = []
    if config.conditioning_channels == 3 or not isinstance(controlnet, HIAControlNetModel):
        controlnet = HIAControlNetModel.from_controlnet(controlnet)
        if config.conditioning_channels == 3:
            made = ["controlnet_cond_embedding.conv_in.weight[:, 3:]"]
    with source.named_in_errors():
        check_components({"controlnet": controlnet, "unet": parts.modules["unet"]})
    parts.add("controlnet", controlnet, source, made)


def _add_motion_adapter(parts: _Parts, source: _Source, weights: bool) -> None:
    adapter = source.read(MotionAdapter, weights=weights)
    unet = parts.modules["unet"]
    with source.named_in_errors():
        check_motion_adapter(adapter, unet)
    options = {
        "use_motion_modules": True,
        "motion_max_seq_length": adapter.config.motion_max_seq_length,
        "motion_num_attention_heads": adapter.config.motion_num_attention_heads,
        "use_motion_mid_block": adapter.config.use_motion_mid_block,
        "temporal_transformer_layers_per_block": adapter.config.motion_transformer_layers_per_block,
        "temporal_transformer_layers_per_mid_block": adapter.config.motion_transformer_layers_per_mid_block,
        "reverse_temporal_transformer_layers_per_block": None,
        "reverse_motion_num_attention_heads": None,
    }
    with torch.device("meta"):
        other = HIAUNetMotionModel.from_config(unet.config, **options)
    spatial = {name: value for name, value in unet.state_dict().items() if ".motion_modules." not in name}
    with source.named_in_errors():
        other.load_state_dict({**spatial, **adapter.state_dict()}, assign=True)
    before = parts.rows["motion_modules"]
    if before.source != NEW:
        parts.left_over.append(f"the motion modules of {before.source}")
    parts.add_motion_modules(other, source)


def _add_image_encoder(parts: _Parts, source: _Source, extractor_source: _Source, weights: bool) -> None:
    with extractor_source.named_in_errors():
        extractor = CLIPImageProcessor.from_pretrained(extractor_source.path, **extractor_source.arguments)
    with source.named_in_errors():
        config, _ = PreTrainedConfig.get_config_dict(source.path, **source.arguments)
        if config.get("model_type") not in ("clip", "clip_vision_model"):
            raise ValueError(f"its `model_type` must be clip or clip_vision_model, got {config.get('model_type')}.")
        encoder, left = _vision_tower(source) if weights else (_empty_vision_tower(source), [])
        unet = parts.modules["unet"]
        check_components({"image_encoder": encoder, "feature_extractor": extractor, "unet": unet})
    parts.add("image_encoder", encoder, source, left=left)
    parts.add("feature_extractor", extractor, extractor_source)


def _empty_vision_tower(source: _Source) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(source.path, **source.arguments))


def _vision_tower(source: _Source) -> tuple[CLIPVisionModelWithProjection, list[str]]:
    """Load a vision model, allowing the text model of a CLIPModel, and return it with the keys of the latter."""
    arguments = {**source.arguments, "variant": source.variant, "use_safetensors": True, "output_loading_info": True}
    encoder, info = CLIPVisionModelWithProjection.from_pretrained(source.path, dtype=torch.float32, **arguments)
    text_tower = [name for name in info["unexpected_keys"] if name.startswith(TEXT_TOWER)]
    unexpected = [name for name in info["unexpected_keys"] if name not in text_tower]
    for kind, names in (("missing", info["missing_keys"]), ("unexpected", unexpected)):
        if names:
            raise ValueError(f"the weights have {len(names)} {kind} keys: {', '.join(sorted(names))}.")
    copy_out_of_mapped_file(encoder)
    return encoder, sorted(text_tower)


# Checks and helpers


def _check_spatial_options(unet2d: UNet2DConditionModel) -> None:
    """Refuse a UNet with options that a motion UNet lacks; diffusers' `from_unet2d` ignores them."""
    config = unet2d.config
    for name, default in _defaults(UNet2DConditionModel).items():
        if name not in SPATIAL_OPTIONS and not same_option(config[name], default):
            raise ValueError(f"its `{name}` must be {default!r} for a motion UNet, got {config[name]!r}.")
    if unknown := {*config.down_block_types, *config.up_block_types} - SPATIAL_BLOCKS:
        raise ValueError(
            f"`down_block_types` and `up_block_types` must be among {', '.join(sorted(SPATIAL_BLOCKS))}, got"
            f" {', '.join(sorted(unknown))}."
        )
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"it must return as many channels as it takes, {config.in_channels}, got {config.out_channels}."
        )


def _keys(component: object, motion: bool = False) -> list[str]:
    """Return the keys of a network's weights: without motion modules, or only theirs. Other objects have none."""
    keys = component.state_dict() if isinstance(component, nn.Module) else ()
    return [key for key in keys if (".motion_modules." in key) == motion]


def _defaults(model_class: type, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the defaults of a constructor's options: all, or some."""
    parameters = dict(inspect.signature(model_class).parameters)
    return {name: parameters[name].default for name in (parameters if names is None else names)}


def _names(classes: Collection[type]) -> str:
    return " or ".join(c.__name__ for c in classes)


def _draw_zero_convolutions(controlnet: HIAControlNetModel, std: Any) -> None:
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


def _new_schedule(scheduler: ShiftedSNRScheduler, trained_for: str = "") -> ComponentKeys:
    config = scheduler.config
    words = f"{config.beta_schedule} betas, gamma {config.snr_shift_factor:.4g}, {config.prediction_type}"
    if trained_for:
        words += f", but the UNet was trained for {trained_for}"
    return ComponentKeys("scheduler", NEW, made=(words,))
