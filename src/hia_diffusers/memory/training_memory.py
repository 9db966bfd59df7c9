# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory a training step takes: the real networks run forward and backward on torch's meta device.

Every byte that a step would hold is counted before anything is allocated (`counting.py`), with gradient
checkpointing and decoding with gradient. What mixed precision does beside autocast is as in `examples/train_hia.py`.
Networks without a trained parameter are kept in the mixed dtype, unless weights are sharded (FSDP), which is done in
float32. Autocast has no cache: a weight is cast where it is used, and its copy lives as long as that operator, or its
backward pass, needs it.

Not counted: encoding, which happens before the step keeps anything and is smaller frame by frame, and what the
identity loss keeps of faces (0.07 GiB each with IResNet-50).
"""

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as checkpointing

from .. import checks
from ..models.autoencoder import Autoencoder, decode_latents
from ..models.denoiser import HIAConditions, HIADenoiser
from ..training.regional_decoding import RegionWindows, decode_windows
from ..training.stages import train_only
from .counting import GPUOperators, LiveBytes, gibibytes, on_meta


MIXED_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}

# bitsandbytes: two states of one byte per weight, and for each a float32 per block; small tensors stay in float32.
ADAMW8BIT_BLOCK = 256
ADAMW8BIT_MIN_SIZE = 4096


@dataclass(frozen=True)
class TrainingSetup:
    """What the memory of a step depends on beside the networks, per process.

    Args:
        parts (`Collection[str]`):
            Which of [`~hia_diffusers.training.stages.PARTS`] are trained.
        height, width (`int`):
            Pixels of the frames.
        num_frames (`int`, *optional*, defaults to 1):
            Frames of a sample.
        batch_size (`int`, *optional*, defaults to 1):
            Samples of one pass through the networks.
        mixed_precision (`"no"`, `"fp16"` or `"bf16"`, *optional*, defaults to `"no"`):
            Dtype of autocast, and of networks without a trained parameter.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            Whether the three networks recompute activations.
        optimizer (`"adamw"`, `"adamw8bit"` or `"muon"`, *optional*, defaults to `"adamw"`):
            PyTorch's, that of bitsandbytes, or that of pytorch-optimizer.
        ema (`bool`, *optional*, defaults to `False`):
            Whether averages of the trained weights are kept.
        num_processes (`int`, *optional*, defaults to 1):
            How many share the work.
        sharding (`"ddp"`, `"zero2"` or `"fsdp"`, *optional*, defaults to `"ddp"`):
            What several processes divide: nothing (gradients even exist twice, in the buckets of their exchange);
            gradients and optimizer; the weights of the three networks too, which then are all in float32. What the
            last two gather for a moment is not counted.
        windows (`tuple[tuple[int, int, int], ...]`, *optional*, defaults to `()`):
            Where the VAE decodes with gradient: groups of windows per picture, each their number, height and width in
            pixels; without any, whole pictures.

    Raises:
        ValueError: If a value is none of those above.
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
            Of all networks, trained or not.
        gradients (`int`):
            Of the trained weights, as they exist from the second of accumulated batches on.
        optimizer (`int`):
            What it keeps from step to step.
        ema (`int`):
            Averages of the trained weights.
        activations (`int`):
            What the forward pass leaves for the backward pass. Copies of weights in the mixed dtype are among them,
            where the backward pass reads them.
        working (`int`):
            What the fullest moment of a step needs beyond all others: tensors that live for a moment, recomputed
            activations, autocast's copies of weights; or the optimizer's own temporaries, where those are more than
            all activations.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """At the fullest moment."""
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
    """
    Count what a training step takes. Nothing is allocated, and the networks stay as they are.

    Args:
        denoiser ([`HIADenoiser`]):
            The networks, on any device, meta among them. Which parameters require gradients does not matter.
        setup ([`TrainingSetup`]):
            The rest.
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`, *optional*):
            Where predicted latents are decoded with gradient, as in the regional stage.
        frozen (iterable of `torch.nn.Module`, *optional*):
            Other networks whose weights are on the device, such as the image encoder, and the VAE in other stages.
        step ([`StepBytes`], *optional*):
            What [`count_step`] gave, which takes nearly all of the time, for a setup that differs from this one in
            `optimizer`, `ema` and `num_processes` only.

    Returns:
        [`TrainingMemory`].

    Raises:
        ValueError: If `setup.parts` are no parts of the networks.
    """
    meta_denoiser = _trained_on_meta(denoiser, setup)
    if step is None:
        step = count_step(denoiser, setup, vae)
    beside = sum(_num_bytes(_frozen_on_meta(module, setup)) for module in (vae, *frozen) if module is not None)

    weights = _num_bytes(meta_denoiser)
    trained = [parameter for parameter in meta_denoiser.parameters() if parameter.requires_grad]
    gradients = sum(parameter.nbytes for parameter in trained)
    optimizer = sum(_optimizer_bytes(parameter, setup.optimizer) for parameter in trained)
    # These update all tensors at once and need one more copy of them.
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
    """
    Which options of `examples/train_hia.py` to change when memory has run out.

    Args:
        denoiser, setup, vae, frozen:
            As for [`estimate_training_memory`].
        device_bytes (`int`):
            What the device has.

    Returns:
        `str`: one sentence: what a step needs, and the first options, those that change the result least before
        others, that bring it below what the device has.
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
            return f"{needed}; give {', then '.join(advice)}."
    advice.append("lower --sizes")
    return f"{needed}; give {', then '.join(advice)}, or use a larger device."


def _options(setup: TrainingSetup) -> Iterable[tuple[str, dict[str, Any]]]:
    """What to change, one after the other, that which changes the result least first."""
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
    """Bytes of activations between the passes, and at the fullest moment of the two."""

    activations: int
    peak: int


def count_step(denoiser: HIADenoiser, setup: TrainingSetup, vae: Autoencoder | None = None) -> StepBytes:
    """
    [`run_step`] of networks without data, made ready for training as `setup` says.

    Args:
        denoiser, setup, vae:
            As for [`estimate_training_memory`].

    Raises:
        ValueError: If `setup.parts` are no parts of the networks.
    """
    meta_vae = None if vae is None else _frozen_on_meta(vae, setup)
    return run_step(_trained_on_meta(denoiser, setup), setup, meta_vae)


def run_step(denoiser: HIADenoiser, setup: TrainingSetup, vae: Autoencoder | None = None) -> StepBytes:
    """
    One forward and backward pass, on the networks' device, whose memory is counted.

    Gradients and inputs exist before and do not count. Losses are stood for by the mean square of what they compare.

    Args:
        denoiser ([`HIADenoiser`]):
            Its trained parameters require gradients, and get some. All are in the dtype that they are kept in.
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
        # A function mode does not reach into the backward pass by itself.
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
    """Without data, in the dtypes that weights are kept in; what is trained requires gradients."""
    denoiser = on_meta(denoiser)
    train_only(denoiser, setup.parts)
    for network in denoiser.children():
        if setup.sharding != "fsdp" and not any(parameter.requires_grad for parameter in network.parameters()):
            _cast(network, setup)
    return denoiser


def _frozen_on_meta(module: nn.Module, setup: TrainingSetup) -> Any:
    module = on_meta(module).requires_grad_(False)
    _cast(module, setup)
    return module


def _cast(module: nn.Module, setup: TrainingSetup) -> None:
    # The method of diffusers' models warns of layers that lose precision.
    nn.Module.to(module, MIXED_DTYPES[setup.mixed_precision] or torch.float32)


def _num_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _optimizer_bytes(parameter: Tensor, optimizer: str) -> int:
    if optimizer == "muon" and parameter.ndim >= 2:
        return parameter.nbytes
    if optimizer in ("adamw", "muon"):
        return 2 * parameter.nbytes
    if parameter.numel() < ADAMW8BIT_MIN_SIZE:
        return 2 * 4 * parameter.numel()
    return 2 * (parameter.numel() + 4 * -(-parameter.numel() // ADAMW8BIT_BLOCK))
