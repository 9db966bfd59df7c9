# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The options of a training run as one typed dataclass, composed of groups that training scripts share.

The type of a field defines its valid values, and `help` describes it. `hia_diffusers.commands.config_parser` reads a
config from a YAML file and the command line. In Python, a run is a stage's preset with some fields replaced:

```python
from dataclasses import replace

from hia_diffusers.training.stages import STAGES

config = replace(STAGES["regional"], train_data_dir="dataset", output_dir="runs/regional", learning_rate=2e-5)
```
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from .. import checks


@dataclass(frozen=True)
class Range:
    """The valid numbers of an option: at least `low`, at most `high`, greater than `above` and less than `below`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None


Count = Annotated[int, Range(low=1)]
NonNegativeInt = Annotated[int, Range(low=0)]
Seed = Annotated[int, Range(low=0, high=2**64 - 1)]
Timestep = Annotated[int, Range(low=0, high=999)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(low=0)]
Probability = Annotated[float, Range(low=0, high=1)]
Beta = Annotated[float, Range(low=0, below=1)]

SchedulerName = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "piecewise_constant",
]


LORA_NETWORKS = ("unet", "appearance_encoder")
LORA_TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0")


def option(default: object, help: str) -> Any:
    """A field of a config.

    Args:
        default:
            Default value.
        help (`str`):
            Description for `--help`.
    """
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def height_and_width(name: str, size: str) -> tuple[int, int]:
    """Parse a size as height and width in pixels.

    Args:
        name (`str`):
            Name of the option.
        size (`str`):
            WIDTHxHEIGHT.

    Raises:
        ValueError: If `size` has another form.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if not match:
        raise ValueError(f"`{name}` must be WIDTHxHEIGHT, such as 512x896, got {checks.shown(size)}.")
    return int(match[2]), int(match[1])


@dataclass(kw_only=True)
class Options:
    """Base of all groups of options: each value is checked against the type of its field.

    Raises:
        TypeError: If a value is of another type.
        ValueError: If a value is not valid for its option.
    """

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            setattr(self, name, _checked(name, getattr(self, name), kind))

    @classmethod
    def groups(cls) -> list[type["Options"]]:
        """Return the groups of a config, in the order of `--help`."""
        return [group for group in cls.__mro__ if "_argument_group_name" in vars(group)]

    def as_dict(self) -> dict[str, Any]:
        """Return the values by option name, in the order of `--help`."""
        return {part.name: getattr(self, part.name) for group in self.groups() for part in fields(group)}

    def validate(self) -> None:
        """Check the combination of options before a run.

        Raises:
            ValueError: If options are missing or mutually exclusive.
        """


# Groups


@dataclass(kw_only=True)
class StageOptions(Options):
    """Options of what is trained."""

    _argument_group_name = "stage"

    stage: Literal["spatial", "regional", "temporal-half", "temporal-full"] = field(
        metadata={"help": "stage to train, which determines other defaults"}
    )
    pretrained_model_name_or_path: str | None = option(
        None,
        "the HIA pipeline to start from, a Hub id or folder: that of the previous stage, or the output of "
        "`hia-diffusers convert`",
    )
    spatial_trainable: Literal["all", "conditions"] = option(
        "all",
        "what the spatial stage trains: all networks but the motion modules, or only appearance encoder and "
        "ControlNet, as MagicAnimate does",
    )
    regional_trainable: Literal["appearance_encoder", "all"] = option(
        "appearance_encoder",
        "what the regional stage trains: the appearance encoder, or the same networks as the spatial stage",
    )


@dataclass(kw_only=True)
class LoraOptions(Options):
    """Options of LoRA, which is trained instead of the weights of the networks."""

    _argument_group_name = "LoRA"

    lora_rank: Count | None = option(None, "train LoRA of this rank, and save it instead of a pipeline")
    lora_alpha: Positive | None = option(None, "scales the LoRA by alpha / rank (default: the rank)")
    lora_networks: list[str] | None = option(
        None,
        f"networks with LoRA in the spatial stage, of {' and '.join(LORA_NETWORKS)} (default: unet); in the temporal "
        "stages, the motion modules of the UNet have it",
    )
    lora_target_modules: list[str] | None = option(
        None, f"layers with LoRA, by the ends of their names (default: {' '.join(LORA_TARGET_MODULES)})"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.lora_networks or []:
            checks.one_of("lora_networks", name, LORA_NETWORKS)

    def validate(self) -> None:
        """Check the combination of options, as in [`Options.validate`]."""
        super().validate()
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_networks", "lora_target_modules"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} needs --lora_rank.")


@dataclass(kw_only=True)
class DataOptions(Options):
    """Options of samples and their loading."""

    _argument_group_name = "data"

    train_data_dir: str | None = option(None, "folder or URL of prepared clips, from `hia-diffusers prepare`")
    procedural_clips: Count | None = option(None, "train on this many clips of procedural people instead")
    procedural_frames: Count = option(300, "frames of each procedural clip")
    procedural_person: NonNegativeInt | None = option(
        None, "number of the person in all procedural clips (default: another person in each)"
    )
    sizes: list[str] = option(["512x896"], "WIDTHxHEIGHT of the aspect buckets")
    resolution_scale: Positive = option(1.0, "factor on the sizes")
    num_frames: Count = option(1, "number of frames of a sample")
    frame_stride: list[Count] = option([1, 1], "minimum and maximum distance between the frames of a sample")
    samples_per_clip: Count = option(1, "samples of each clip in an epoch")
    horizontal_flip_probability: Probability = option(0.5, "probability of mirroring a clip")
    static_clip_probability: Probability = option(0.0, "probability of a still image as a clip")
    blur_condition_dropout: Probability = option(0.1, "probability of unknown motion blur")
    dataloader_num_workers: NonNegativeInt = option(0, "processes that load data; 0 loads in the main process")
    cache_latents: str | None = option(None, "folder for encoded samples, so that each is encoded only once")
    cached_epochs: Count = option(1, "number of epochs to cache; training then cycles through them")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.frame_stride) != 2:
            raise ValueError(f"`frame_stride` must be two integers, got {checks.shown(self.frame_stride)}.")
        for size in self.sizes:
            height_and_width("sizes", size)

    @property
    def frame_sizes(self) -> list[tuple[int, int]]:
        """Return `sizes` as height and width in pixels."""
        return [height_and_width("sizes", size) for size in self.sizes]

    def validate(self) -> None:
        """Check the combination of options, as in [`Options.validate`]."""
        super().validate()
        if (self.train_data_dir is None) == (self.procedural_clips is None):
            raise ValueError("give either --train_data_dir or --procedural_clips.")
        if self.procedural_person is not None and self.procedural_clips is None:
            raise ValueError("--procedural_person needs --procedural_clips.")


@dataclass(kw_only=True)
class ObjectiveOptions(Options):
    """The losses of a stage."""

    _argument_group_name = "losses"

    max_timestep: Timestep = option(999, "maximum timestep for which noise is drawn")
    condition_dropout: Probability = option(0.1, "probability of a sample without reference and ControlNet")
    snr_gamma: Positive | None = option(None, "gamma of min-SNR weights; not used in the paper")
    loss_on: Literal["prediction", "sample"] = option(
        "prediction",
        'squared error of the prediction of the network, as in the paper, or of the clean latents ("sample")',
    )
    noise_offset: NonNegative = option(0.0, "deviation of the noise's mean per channel; not used in the paper")
    shared_noise_probability: Probability = option(
        0.0, "probability of the same noise in all frames of a sample; not used in the paper"
    )
    face_weight: NonNegative = option(1.0, "weight of the regional loss (Eq. 1) in the face")
    hand_weight: NonNegative = option(1.0, "weight of the regional loss (Eq. 1) in the hands")
    identity_weight: NonNegative = option(0.1, "weight of the identity loss (Eq. 2)")
    arcface: str | None = option(
        None,
        "weights for the identity loss: .safetensors or .onnx, or hf://owner/name/file (default: no identity loss)",
    )

    def validate(self) -> None:
        """Check the combination of options, as in [`Options.validate`]."""
        super().validate()
        if self.snr_gamma is not None and self.loss_on == "sample":
            raise ValueError("give either --snr_gamma or --loss_on sample: both weigh timesteps.")


@dataclass(kw_only=True)
class OptimizationOptions(Options):
    """Options of the optimization and its precision."""

    _argument_group_name = "optimization"

    seed: Seed = option(0, "seed of samples and noise")
    max_train_steps: Count = option(35_000, "optimizer steps")
    train_batch_size: Count = option(1, "samples per process and batch")
    gradient_accumulation_steps: Count = option(4, "batches per optimizer step")
    gradient_checkpointing: bool = option(False, "less memory, slower")
    learning_rate: Positive = option(1e-5, "learning rate after the warm-up")
    scale_lr: bool = option(False, "multiply the learning rate by the samples of a step")
    lr_scheduler: SchedulerName = option("constant", "how the learning rate changes after the warm-up")
    lr_warmup_steps: NonNegativeInt = option(500, "steps of warm-up, if the scheduler has one")
    lr_num_cycles: Count = option(1, "cycles of cosine_with_restarts")
    lr_power: Positive = option(1.0, "power of polynomial")
    use_8bit_adam: bool = option(False, "needs bitsandbytes")
    use_muon: bool = option(
        False,
        "orthogonal updates of matrices and convolutions, for training from scratch; needs pytorch-optimizer",
    )
    adam_beta1: Beta = option(0.9, "decay of the mean gradient")
    adam_beta2: Beta = option(0.999, "decay of the mean squared gradient")
    adam_weight_decay: NonNegative = option(0.0, "decoupled weight decay")
    adam_epsilon: Positive = option(1e-8, "added to the denominator")
    max_grad_norm: Positive = option(1.0, "maximum norm of the gradients")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None, "precision of the networks (default: that of accelerate's configuration)"
    )
    allow_tf32: bool = option(False, "faster float32 products on GPUs, less exact")
    enable_xformers_memory_efficient_attention: bool = option(False, "needs xformers")
    max_skipped_steps: Count = option(10, "stop after this many steps in a row that are not finite")

    def validate(self) -> None:
        """Check the combination of options, as in [`Options.validate`]."""
        super().validate()
        if self.use_8bit_adam and self.use_muon:
            raise ValueError("give either --use_8bit_adam or --use_muon.")


@dataclass(kw_only=True)
class RunOptions(Options):
    """Options of the output of a run."""

    _argument_group_name = "output"

    output_dir: str = field(metadata={"help": "folder of the checkpoints and of the final pipeline"})
    checkpointing_steps: Count = option(500, "steps between checkpoints")
    checkpoints_total_limit: Count | None = option(None, "number of checkpoints to keep (default: all)")
    resume_from_checkpoint: str | None = option(None, 'a checkpoint folder, or "latest" for the newest, if any')
    report_to: str | None = option(None, "tensorboard, wandb, all, or another tracker of accelerate")
    logging_dir: str = option("logs", "folder of the logs, in output_dir")

    def validate(self) -> None:
        """Check the combination of options, as in [`Options.validate`]."""
        super().validate()
        if self.report_to is None:
            return
        known = LoggerType.list()
        if self.report_to not in known:
            raise ValueError(f"`report_to` must be one of {', '.join(known)}, got {checks.shown(self.report_to)}.")
        if self.report_to != "all" and LoggerType(self.report_to) not in get_available_trackers():
            raise ValueError(f"`report_to`: {self.report_to} is not installed.")


@dataclass(kw_only=True)
class ValidationOptions(Options):
    """Options of averaged weights, validation and upload."""

    _argument_group_name = "averaged weights, validation, upload"

    use_ema: bool = option(False, "save and validate averaged weights")
    ema_decay: Probability = option(0.9999, "decay of the averaged weights")
    validation_data_dir: str | None = option(
        None, "prepared clips (default: procedural people outside the training data)"
    )
    validation_steps: Count | None = option(None, "steps between validations, which generate and evaluate clips")
    validation_clips: Count = option(4, "number of clips in a validation")
    validation_frames: Count = option(16, "number of frames of each of these clips")
    num_inference_steps: Count = option(25, "denoising steps of a validation")
    guidance_scale: NonNegative = option(3.5, "guidance scale of a validation")
    push_to_hub: bool = option(False, "upload the final pipeline")
    hub_model_id: str | None = option(None, "repository on the Hub (default: the name of output_dir)")
    hub_token: str | None = option(None, "access token (default: the stored one)")


# Configs


@dataclass(kw_only=True)
class BaseTrainingConfig(DataOptions, OptimizationOptions, RunOptions):
    """The options of every script that trains networks of HIA."""


@dataclass(kw_only=True)
class TrainingConfig(StageOptions, LoraOptions, ObjectiveOptions, BaseTrainingConfig, ValidationOptions):
    """The options of a run of one stage (`examples/train_hia.py`).

    Defaults are those of the spatial stage; [`~hia_diffusers.training.stages.STAGES`] contains a config for each
    stage.
    """

    def validate(self) -> None:
        """Check the combination of options, as in [`Options.validate`]."""
        super().validate()
        if self.pretrained_model_name_or_path is None:
            raise ValueError("give --pretrained_model_name_or_path, the pipeline to start from.")
        if Path(self.pretrained_model_name_or_path).resolve() == Path(self.output_dir).resolve():
            raise ValueError(
                "--output_dir must differ from --pretrained_model_name_or_path, which the run reads until its end."
            )
        if self.lora_rank is not None and self.stage == "regional":
            raise ValueError("--lora_rank is for the spatial and the temporal stages.")
        if self.lora_rank is not None and self.spatial_trainable != "all":
            raise ValueError("give either --lora_rank or --spatial_trainable conditions.")
        if self.lora_networks is not None and self.stage != "spatial":
            raise ValueError("--lora_networks is for the spatial stage; the temporal stages train motion modules.")


def _checked(name: str, value: object, kind: object) -> Any:
    """Return the value if it has a valid type for options."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else _checked(name, value, kind)
    if origin is list:
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise TypeError(f"`{name}` must be a list that is not empty, got {checks.shown(value)}.")
        return [_checked(name, item, arguments[0]) for item in value]
    if origin is Annotated:
        number, limits = arguments
        if number is int:
            return checks.integer(name, value, limits.low, limits.high or checks.MAX_COUNT)
        return checks.number(name, value, limits.low, limits.high, limits.above, limits.below)
    if origin is Literal:
        return checks.one_of(name, value, arguments)
    if kind is bool:
        return checks.flag(name, value)
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be text, got {checks.shown(value)}.")
    return os.fspath(value)
