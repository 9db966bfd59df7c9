# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Setup of a run on the processes of `accelerate launch`: precision, optimizer, and checks of incompatible options."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import (
    AutocastKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    parse_flag_from_env,
)
from diffusers import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params
from torch import nn

from ..models.denoiser import HIADenoiser
from ..pipelines.pipeline_hia import HIAPipeline
from .config import BaseTrainingConfig, TrainingConfig
from .stages import trains_weights


SHARDING: dict[DistributedType, Literal["fsdp", "zero2"]] = {
    DistributedType.FSDP: "fsdp",
    DistributedType.DEEPSPEED: "zero2",
}

# One process validates while the others wait.
VALIDATION_TIMEOUT = timedelta(hours=6)


def build_accelerator(config: BaseTrainingConfig) -> Accelerator:
    """Create the accelerator of a run.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.

    Raises:
        ValueError: If options are incompatible with the launch configuration of accelerate.
    """
    folder = Path(config.output_dir)
    autocast = AutocastKwargs()
    accelerator = Accelerator(
        # accelerate's configuration would override `gradient_accumulation_steps`.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.gradient_accumulation_steps),
        mixed_precision=config.mixed_precision,
        log_with=config.report_to,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / config.logging_dir)),
        kwargs_handlers=[autocast, InitProcessGroupKwargs(timeout=VALIDATION_TIMEOUT)],
    )
    # Keeps cast copies of all weights during the step: saves a fifth of the time on a CPU, but takes too much GPU
    # memory.
    autocast.cache_enabled = accelerator.device.type == "cpu"
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True

    kind = accelerator.distributed_type
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and kind != DistributedType.FSDP:
        raise ValueError("accelerate uses FSDP between several GPUs only: launch with a configuration for DDP here.")
    if config.use_muon and kind in SHARDING:
        raise ValueError("--use_muon cannot be used with FSDP or DeepSpeed, which split the weights.")
    if kind == DistributedType.DEEPSPEED:  # it accumulates and clips gradients itself
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=config.train_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            gradient_clipping=config.max_grad_norm,
        )
    return accelerator


def check_launch(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Raise an error for options that need whole weights if accelerate shards them.

    Args:
        config ([`TrainingConfig`]):
            Config of the run.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.

    Raises:
        ValueError: If options are incompatible with the launch configuration of accelerate.
    """
    kind = accelerator.distributed_type
    if config.lora_rank is not None and kind in SHARDING:
        raise ValueError("--lora_rank cannot be used with FSDP or DeepSpeed, which split the weights.")
    if config.use_ema and kind in SHARDING:
        raise ValueError("--use_ema cannot be used with FSDP or DeepSpeed, which split the weights.")
    if config.validation_steps and kind == DistributedType.FSDP:
        raise ValueError("--validation_steps cannot be used with FSDP: no process has all weights.")


def check_fit(config: BaseTrainingConfig, pipeline: HIAPipeline) -> None:
    """Raise an error for sizes and lengths that the networks do not support.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.
        pipeline ([`HIAPipeline`]):
            Pipeline whose networks are trained.

    Raises:
        ValueError: If a size or `num_frames` does not fit.
    """
    factor = pipeline.vae_scale_factor
    for height, width in config.frame_sizes:
        if any(side * config.resolution_scale % factor for side in (height, width)):
            raise ValueError(
                f"--sizes must be multiples of {factor} times --resolution_scale {config.resolution_scale:g}, got "
                f"{width}x{height}."
            )
    longest = pipeline.unet.config.motion_max_seq_length
    if config.num_frames > longest:
        raise ValueError(
            f"--num_frames must be at most {longest}, the maximum of the motion modules, got {config.num_frames}."
        )


def place_networks(
    config: BaseTrainingConfig, accelerator: Accelerator, pipeline: HIAPipeline, model: HIADenoiser
) -> None:
    """Move all networks to the device. Frozen networks are kept in the precision in which they run.

    A network of which only LoRA is trained is one of them; the weights of LoRA are kept in float32.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.
        pipeline ([`HIAPipeline`]):
            Pipeline with the frozen VAE and encoders.
        model ([`HIADenoiser`]):
            The other networks; trained parameters require gradients.
    """
    if config.enable_xformers_memory_efficient_attention:
        pipeline.enable_xformers_memory_efficient_attention()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    for network in (pipeline.vae, pipeline.image_encoder, pipeline.text_encoder):
        if network is not None:
            move(network.requires_grad_(False), accelerator.device, dtype)
    if accelerator.distributed_type == DistributedType.FSDP:  # it requires one precision
        dtype = torch.float32
    for network in (model.appearance_encoder, model.controlnet, model.unet):
        move(network, accelerator.device, torch.float32 if trains_weights(network) else dtype)
        cast_training_params(network, torch.float32)  # those of LoRA


def move(network: ModelMixin, device: torch.device, dtype: torch.dtype) -> None:
    """Move a network, without diffusers' warning where its dtype stays the same.

    Args:
        network (`diffusers.ModelMixin`):
            Any network.
        device (`torch.device`):
            Target device.
        dtype (`torch.dtype`):
            Target dtype of the weights.
    """
    network.to(device)
    if network.dtype != dtype:
        network.to(dtype)


def build_optimizer(
    config: BaseTrainingConfig, parameters: Sequence[nn.Parameter], num_processes: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Create the optimizer and the learning rate schedule.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.
        parameters (`Sequence[torch.nn.Parameter]`):
            The trained parameters.
        num_processes (`int`):
            Number of processes, for `scale_lr`.

    Raises:
        ImportError: If the optimizer's library is missing.
    """
    learning_rate = config.learning_rate
    if config.scale_lr:
        learning_rate *= config.train_batch_size * config.gradient_accumulation_steps * num_processes
    adam: dict[str, Any] = {
        "lr": learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.adam_weight_decay,
        "eps": config.adam_epsilon,
    }
    optimizer: torch.optim.Optimizer
    if config.use_muon:
        try:
            from pytorch_optimizer import Muon
        except ImportError as error:
            raise ImportError("--use_muon needs pytorch-optimizer: pip install pytorch-optimizer") from error
        matrices, others = ([p for p in parameters if (p.ndim >= 2) is wanted] for wanted in (True, False))
        # Updates have the size of Adam's, so that the same learning rate applies.
        muon = {"lr": learning_rate, "weight_decay": config.adam_weight_decay, "use_adjusted_lr": True}
        optimizer = Muon(
            [{"params": matrices, "use_muon": True, **muon}, {"params": others, "use_muon": False, **adam}]
        )
    elif config.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ImportError("--use_8bit_adam needs bitsandbytes: pip install bitsandbytes") from error
        optimizer = AdamW8bit(parameters, **adam)
    else:
        optimizer = torch.optim.AdamW(parameters, **adam)
    return optimizer, get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
