# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Advice for a step that does not fit into memory."""

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from ..memory.training_memory import TrainingSetup, out_of_memory_advice
from ..models.denoiser import HIADenoiser
from .launch import SHARDING
from .objective import HIALosses
from .stages import trained_parts


# What PyTorch's allocator says on the CPU, and what oneDNN says if it cannot have its scratch memory.
ON_THE_CPU = ("DefaultCPUAllocator", "could not create a primitive")


@contextlib.contextmanager
def out_of_memory_as_advice(compute_losses: HIALosses, networks: HIADenoiser, batch: dict[str, Any]) -> Iterator[None]:
    """Turn an out-of-memory error of a step into a sentence of advice.

    Args:
        compute_losses ([`HIALosses`]):
            Losses of the run.
        networks ([`HIADenoiser`]):
            The networks before they were prepared, without data.
        batch (`dict[str, Any]`):
            Batch of the step.

    Raises:
        RuntimeError: If memory runs out; the message contains the advice.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in ON_THE_CPU):
            raise
        traceback.clear_frames(error.__traceback__)  # frees the failed step's tensors: the estimate needs memory, too
        raise RuntimeError(advice(compute_losses, networks, batch)) from error


def advice(compute_losses: HIALosses, networks: HIADenoiser, batch: dict[str, Any]) -> str:
    """Return the memory of a step, and the options that reduce it to that of the device.

    Args:
        compute_losses, networks, batch:
            As for [`out_of_memory_as_advice`].
    """
    config, accelerator, pipeline = compute_losses.config, compute_losses.accelerator, compute_losses.pipeline
    device = accelerator.device
    if device.type == "cuda":
        device_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        device_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    vae, windows = None, []
    frozen = [pipeline.image_encoder, pipeline.text_encoder, compute_losses.arcface]
    if compute_losses.is_regional:
        vae, windows = pipeline.vae, compute_losses.windows(batch)
    else:
        frozen.append(pipeline.vae)
    factor = pipeline.vae_scale_factor
    setup = TrainingSetup(
        parts=trained_parts(config),
        height=batch["conditioning"].shape[-2],
        width=batch["conditioning"].shape[-1],
        num_frames=config.num_frames,
        batch_size=config.train_batch_size,
        mixed_precision=accelerator.mixed_precision,
        gradient_checkpointing=config.gradient_checkpointing,
        optimizer="adamw8bit" if config.use_8bit_adam else "muon" if config.use_muon else "adamw",
        ema=config.use_ema,
        num_processes=accelerator.num_processes,
        sharding=SHARDING.get(accelerator.distributed_type, "ddp"),
        windows=tuple((group.corners.shape[1], factor * group.height, factor * group.width) for group in windows),
    )
    return out_of_memory_advice(networks, setup, device_bytes, vae, [part for part in frozen if part is not None])
