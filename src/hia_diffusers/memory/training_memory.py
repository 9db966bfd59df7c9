# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of a training step: the real networks run forward and backward on torch's meta device.

Every byte of a step is counted before anything is allocated (`counting.py`), including gradient checkpointing and
decoding with gradients. Mixed precision works as in `examples/train_hia.py`. Frozen networks are kept in the mixed
dtype, unless weights are sharded (FSDP), which requires float32. Autocast has no cache: a weight is cast when it is
used, and its copy lives as long as the operator, or its backward pass, needs it.

Not counted: encoding, which happens before and needs less memory frame by frame, and the activations of the identity
loss (0.07 GiB per face with IResNet-50).
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers.training_utils import cast_training_params
from torch import Tensor, nn
from torch.utils import checkpoint as checkpointing

from .. import checks
from ..models.autoencoder import Autoencoder, decode_latents
from ..models.denoiser import HIAConditions, HIADenoiser
from ..training.regional_decoding import RegionWindows, decode_windows
from ..training.stages import train_only, trains_weights
from .counting import GPUOperators, LiveBytes, gibibytes, num_bytes, on_meta


MIXED_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}

# bitsandbytes: two states of one byte per weight, each with a float32 per block; small tensors stay in float32.
ADAMW8BIT_BLOCK = 256
ADAMW8BIT_MIN_SIZE = 4096


@dataclass(frozen=True)
class TrainingSetup:
    """The options that determine the memory of a step, in addition to the networks, per process.

    Args:
        parts (`Collection[str]`):
            Trained parts, of [`~hia_diffusers.training.stages.PARTS`].
        height, width (`int`):
            Size of the frames in pixels.
        num_frames (`int`, *optional*, defaults to 1):
            Number of frames of a sample.
        batch_size (`int`, *optional*, defaults to 1):
            Number of samples in one pass through the networks.
        mixed_precision (`"no"`, `"fp16"` or `"bf16"`, *optional*, defaults to `"no"`):
            Dtype of autocast, and of frozen networks.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Whether the three networks recompute activations.
        optimizer (`"adamw"`, `"adamw8bit"` or `"muon"`, *optional*, defaults to `"adamw"`):
            Optimizer of PyTorch, bitsandbytes or pytorch-optimizer.
        ema (`bool`, *optional*, defaults to `False`):
            Whether averages of the trained weights are kept.
        num_processes (`int`, *optional*, defaults to 1):
            Number of processes.
        sharding (`"ddp"`, `"zero2"` or `"fsdp"`, *optional*, defaults to `"ddp"`):
            What several processes shard: nothing (gradients even exist twice, because of the communication buckets);
            gradients and optimizer; the weights of the three networks too, which are then all in float32. The
            temporary buffers of the last two are not counted.
        windows (`tuple[tuple[int, int, int], ...]`, *optional*, defaults to `()`):
            Windows that the VAE decodes with gradients: groups per image, each with number, height and width in
            pixels; whole images if empty.

    Raises:
        ValueError: If an option has another value.
    """

    parts: Collection[str]
    height: int
    width: int
    num_frames: int = 1
    batch_size: int = 1
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    ema: bool = False
    num_processes: int = 1
    sharding: Literal["ddp", "zero2", "fsdp"] = "ddp"
    windows: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, accepted in (
            ("mixed_precision", tuple(MIXED_DTYPES)),
            ("optimizer", ("adamw", "adamw8bit", "muon")),
            ("sharding", ("ddp", "zero2", "fsdp")),
        ):
            checks.one_of(name, getattr(self, name), accepted)
        for name in ("height", "width", "num_frames", "batch_size", "num_processes"):
            checks.integer(name, getattr(self, name))


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step on the device of one process.

    Args:
        weights (`int`):
            Weights of all networks, trained or not.
        gradients (`int`):
            Gradients of the trained weights, which exist from the second accumulated batch on.
        optimizer (`int`):
            State of the optimizer.
        ema (`int`):
            Averages of the trained weights.
        activations (`int`):
            Tensors that the forward pass keeps for the backward pass, including copies of weights in the mixed dtype.
        working (`int`):
            Additional memory at the peak of a step: temporary tensors, recomputed activations, autocast's copies of
            weights; or the optimizer's temporaries, if these are larger than all activations.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """Peak memory in bytes."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations + self.working

    def __str__(self) -> str:
        parts = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return f"{gibibytes(self.total)} GiB ({', '.join(f'{name} {gibibytes(n)}' for name, n in parts if n)})"


def estimate_training_memory(
    denoiser: HIADenoiser,
    setup: TrainingSetup,
    vae: Autoencoder | None = None,
    frozen: Iterable[nn.Module] = (),
    step: "StepBytes | None" = None,
) -> TrainingMemory:
    """Estimate the memory of a training step. Nothing is allocated, and the networks are not changed.

    Args:
        denoiser ([`HIADenoiser`]):
            The networks, on any device including meta. It does not matter which parameters require gradients. If they
            have LoRA, only that is trained.
        setup ([`TrainingSetup`]):
            The other options of the step.
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`, *optional*):
            Autoencoder that decodes predicted latents with gradients, as in the regional stage.
        frozen (iterable of `torch.nn.Module`, *optional*):
            Other networks whose weights are on the device, such as the image encoder, and the VAE in other stages.
        step ([`StepBytes`], *optional*):
            Result of [`count_step`], which takes nearly all of the time, for a setup that differs only in `optimizer`,
            `ema` and `num_processes`.

    Returns:
        [`TrainingMemory`]: The estimate.

    Raises:
        ValueError: If `setup.parts` are not parts of the networks.
    """
    meta_denoiser = _trained_on_meta(denoiser, setup)
    if step is None:
        step = count_step(denoiser, setup, vae)
    beside = sum(num_bytes(_frozen_on_meta(module, setup)) for module in (vae, *frozen) if module is not None)

    weights = num_bytes(meta_denoiser)
    trained = [parameter for parameter in meta_denoiser.parameters() if parameter.requires_grad]
    gradients = sum(parameter.nbytes for parameter in trained)
    optimizer = sum(_optimizer_bytes(parameter, setup.optimizer) for parameter in trained)
    # These update all tensors at once and need another copy of them.
    optimizer_working = gradients if setup.optimizer in ("adamw", "muon") else 0
    ema = gradients if setup.ema else 0
    if setup.num_processes > 1:
        if setup.sharding == "ddp":
            gradients *= 2
        else:
            gradients, optimizer, optimizer_working = (
                -(-size // setup.num_processes) for size in (gradients, optimizer, optimizer_working)
            )
        if setup.sharding == "fsdp":
            weights, ema = (-(-size // setup.num_processes) for size in (weights, ema))
    working = max(step.peak, optimizer_working) - step.activations
    return TrainingMemory(weights + beside, gradients, optimizer, ema, step.activations, working)


def out_of_memory_advice(
    denoiser: HIADenoiser,
    setup: TrainingSetup,
    device_bytes: int,
    vae: Autoencoder | None = None,
    frozen: Iterable[nn.Module] = (),
) -> str:
    """Return the options of `examples/train_hia.py` to change when memory has run out.

    Args:
        denoiser, setup:
            As for [`estimate_training_memory`].
        device_bytes (`int`):
            Memory of the device.
        vae, frozen:
            As for [`estimate_training_memory`].

    Returns:
        `str`: One sentence with the memory of a step, and the options that reduce it to that of the device, starting
        with those that change the result least.
    """
    frozen = list(frozen)
    step = count_step(denoiser, setup, vae)
    memory = estimate_training_memory(denoiser, setup, vae, frozen, step)
    needed = f"Out of memory: a step needs about {memory} and the device has {gibibytes(device_bytes)} GiB"
    advice = []
    for option, change in _options(setup):
        setup = replace(setup, **change)
        if "optimizer" not in change:
            step = count_step(denoiser, setup, vae)
        memory = estimate_training_memory(denoiser, setup, vae, frozen, step)
        advice.append(f"{option} ({gibibytes(memory.total)} GiB)")
        if memory.total < device_bytes:
            return f"{needed}; use {', then '.join(advice)}."
    advice.append("lower --sizes")
    return f"{needed}; use {', then '.join(advice)}, or a larger device."


def _options(setup: TrainingSetup) -> Iterable[tuple[str, dict[str, Any]]]:
    """Iterate over the options to change, starting with those that change the result least."""
    if not setup.gradient_checkpointing:
        yield "--gradient_checkpointing", {"gradient_checkpointing": True}
    if setup.optimizer == "adamw":
        yield "--use_8bit_adam", {"optimizer": "adamw8bit"}
    if setup.mixed_precision == "no":
        yield "--mixed_precision bf16", {"mixed_precision": "bf16"}
    if setup.batch_size > 1:
        yield "--train_batch_size 1", {"batch_size": 1}
    if setup.num_frames > 1:
        num_frames = max(setup.num_frames // 2, 1)
        yield f"--num_frames {num_frames}", {"num_frames": num_frames}


@dataclass(frozen=True)
class StepBytes:
    """Bytes of activations between the passes, and at their peak."""

    activations: int
    peak: int


def count_step(denoiser: HIADenoiser, setup: TrainingSetup, vae: Autoencoder | None = None) -> StepBytes:
    """Call [`run_step`] with networks without data, prepared for training by `setup`.

    Args:
        denoiser, setup, vae:
            As for [`estimate_training_memory`].

    Raises:
        ValueError: If `setup.parts` are not parts of the networks.
    """
    meta_vae = None if vae is None else _frozen_on_meta(vae, setup)
    return run_step(_trained_on_meta(denoiser, setup), setup, meta_vae)


def run_step(denoiser: HIADenoiser, setup: TrainingSetup, vae: Autoencoder | None = None) -> StepBytes:
    """Run one forward and backward pass on the networks' device, and count its memory.

    Gradients and inputs exist before and do not count. Losses are replaced by the mean square of their inputs.

    Args:
        denoiser ([`HIADenoiser`]):
            The networks. Their trained parameters require gradients, which are set; all parameters have the dtype in
            which they are stored.
        setup ([`TrainingSetup`]):
            Sizes, mixed precision and windows.
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`, *optional*):
            As for [`estimate_training_memory`].
    """
    device, config = denoiser.unet.device, denoiser.unet.config
    batch_size, num_frames = setup.batch_size, setup.num_frames
    scale_factor = 2 ** (len(denoiser.controlnet.config.conditioning_embedding_out_channels) - 1)
    latent_size = (setup.height // scale_factor, setup.width // scale_factor)
    latents = torch.zeros(batch_size, config.in_channels, num_frames, *latent_size, device=device)
    timesteps = torch.zeros(batch_size, dtype=torch.long, device=device)
    states = torch.zeros(batch_size, 1, config.cross_attention_dim, device=device)
    reference_latents = torch.zeros(batch_size, config.in_channels, *latent_size, device=device)
    channels = denoiser.controlnet.config.conditioning_channels
    conditioning = torch.zeros(batch_size, num_frames, channels, setup.height, setup.width, device=device)
    unconditional = torch.zeros(batch_size, dtype=torch.bool, device=device)
    conditions = HIAConditions(states, reference_latents, conditioning, unconditional=unconditional)
    windows = [
        RegionWindows(
            torch.zeros(batch_size * num_frames, number, 2, dtype=torch.long, device=device),
            *(height // scale_factor, width // scale_factor, *latent_size),
        )
        for number, height, width in setup.windows
    ]
    mixed_dtype = MIXED_DTYPES[setup.mixed_precision]

    def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
        # A function mode does not automatically apply to the backward pass.
        return checkpointing.checkpoint(
            function, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), GPUOperators(mixed_dtype))
        )

    for network in (denoiser.appearance_encoder, denoiser.controlnet, denoiser.unet):
        if setup.gradient_checkpointing:
            network.enable_gradient_checkpointing(checkpoint)
        else:
            network.disable_gradient_checkpointing()
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    known = [*denoiser.parameters(), *denoiser.buffers()]
    known += [latents, timesteps, states, reference_latents, conditioning, unconditional]
    known += [parameter.grad for parameter in denoiser.parameters() if parameter.grad is not None]
    known += [] if vae is None else [*vae.parameters(), *vae.buffers()]
    known += [group.corners for group in windows]

    with LiveBytes(known) as memory, GPUOperators(mixed_dtype):
        output = denoiser(latents, timesteps, conditions)
        loss = output.float().square().mean()
        if vae is not None:
            clean = (latents - output.float()).transpose(1, 2).flatten(0, 1)
            decoded = decode_windows(vae, clean, windows) if windows else [decode_latents(vae, clean)]
            for pixels in decoded:
                loss = loss + pixels.square().mean()
            del clean, decoded, pixels
        del output
        activations = memory.live
        loss.backward()
    return StepBytes(activations, memory.peak)


def _trained_on_meta(denoiser: HIADenoiser, setup: TrainingSetup) -> HIADenoiser:
    """Copy a network without data, in the dtypes of the stored weights; trained parameters require gradients."""
    denoiser = on_meta(denoiser)
    train_only(denoiser, setup.parts)
    for network in denoiser.children():
        if setup.sharding != "fsdp" and not trains_weights(network):
            _cast(network, setup)
            cast_training_params(network, torch.float32)  # those of LoRA
    return denoiser


def _frozen_on_meta(module: nn.Module, setup: TrainingSetup) -> Any:
    module = on_meta(module).requires_grad_(False)
    _cast(module, setup)
    return module


def _cast(module: nn.Module, setup: TrainingSetup) -> None:
    # The method of diffusers' models warns about layers that lose precision.
    nn.Module.to(module, MIXED_DTYPES[setup.mixed_precision] or torch.float32)


def _optimizer_bytes(parameter: Tensor, optimizer: str) -> int:
    if optimizer == "muon" and parameter.ndim >= 2:
        return parameter.nbytes
    if optimizer in ("adamw", "muon"):
        return 2 * parameter.nbytes
    if parameter.numel() < ADAMW8BIT_MIN_SIZE:
        return 2 * 4 * parameter.numel()
    return 2 * (parameter.numel() + 4 * -(-parameter.numel() // ADAMW8BIT_BLOCK))
