# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Fitting of a call to the memory of a device: where weights are kept, and how much is computed at a time."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import get_max_memory
from torch import nn

from .. import checks
from ..models.autoencoder import decode_latents, encode_images, vae_scale_factor
from ..pipelines.pipeline_hia import HIAPipeline
from .call_memory import DenoisingStep, denoiser_on_meta
from .counting import GPUOperators, LiveBytes, gibibytes, num_bytes


MODES = ("none", "model", "group", "sequential")

# Fraction of the free memory that a call may use. The rest is for scratch memory of kernels and fragmentation, which
# are not counted.
USABLE = 0.9

# Numbers of frames that the VAE decodes at a time; the first one that fits is used.
DECODE_CHUNKS = (16, 8, 4, 2, 1)

DESCRIPTIONS = {
    "none": "all weights on the device",
    "model": "one network at a time on the device",
    "group": "one block at a time on the device",
    "sequential": "one layer at a time on the device",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryPlan:
    """A way of running a pipeline within the memory of a device.

    Args:
        mode (`"none"`, `"model"`, `"group"` or `"sequential"`):
            What is offloaded to the CPU while it is unused: nothing, networks
            ([`~diffusers.DiffusionPipeline.enable_model_cpu_offload`]), blocks
            ([`~diffusers.DiffusionPipeline.enable_group_offload`]) or layers
            ([`~diffusers.DiffusionPipeline.enable_sequential_cpu_offload`]).
        decode_chunk_size (`int`):
            Frames that the VAE decodes at a time.
        context_batch_size (`int`):
            Windows that are denoised at a time.
        needed (`int`):
            Counted peak memory in bytes.
        available (`int`):
            Bytes that may be used.
        device (`torch.device`):
            The device.
    """

    mode: str
    decode_chunk_size: int
    context_batch_size: int
    needed: int
    available: int
    device: torch.device

    @property
    def fits(self) -> bool:
        """Whether the needed memory is available."""
        return self.needed <= self.available

    @property
    def call_defaults(self) -> dict[str, int]:
        """The arguments of a call that implement the plan."""
        return {"decode_chunk_size": self.decode_chunk_size, "context_batch_size": self.context_batch_size}

    def __str__(self) -> str:
        frames = f"{self.decode_chunk_size} frame{'s' * (self.decode_chunk_size > 1)} decoded at a time"
        windows = f", {self.context_batch_size} windows denoised at a time" if self.context_batch_size > 1 else ""
        return (
            f"{DESCRIPTIONS[self.mode]}, {frames}{windows}: needs about {gibibytes(self.needed)} of the "
            f"{gibibytes(self.available)} GiB that {self.device} has for it"
        )


def plan_memory(
    pipe: HIAPipeline,
    height: int,
    width: int,
    num_frames: int,
    device: torch.device,
    available: int,
    mode: str = "auto",
) -> MemoryPlan:
    """Choose how to run a call. Nothing is allocated, and the pipeline is not changed.

    Args:
        pipe ([`HIAPipeline`]):
            Pipeline whose networks' shapes and dtypes are used, and whose `call_defaults` are those of the call.
        height, width (`int`):
            Size of the video in pixels.
        num_frames (`int`):
            Length of the video.
        device (`torch.device`):
            The device that computes. The CPU has nothing to offload to.
        available (`int`):
            Bytes that weights and computation may take on it.
        mode (`str`, *optional*, defaults to `"auto"`):
            A mode of [`MemoryPlan`], or `"auto"` for the first of them, in this order, that fits.

    Returns:
        [`MemoryPlan`]: The plan that needs least, if none fits.

    Raises:
        ValueError: If an argument is invalid.
    """
    checks.one_of("mode", mode, ("auto", *MODES))
    num_frames = checks.integer("num_frames", num_frames)
    if device.type == "cpu" and mode not in ("auto", "none"):
        raise ValueError(f'`mode` must be "auto" or "none" on the CPU, which has nothing to offload to, got {mode!r}.')
    accepted = (mode,) if mode != "auto" else ("none",) if device.type == "cpu" else MODES
    chunks = [chunk for chunk in DECODE_CHUNKS if chunk <= num_frames or chunk == 1]
    # Modes differ in the weights on the device alone, except that blocks are counted as they run.
    counted = functools.cache(functools.partial(_count_call, pipe, height, width, num_frames))
    plans: list[MemoryPlan] = []
    for mode in accepted:
        need = replace(counted(mode == "group"), weights=_weights_on_device(pipe, mode))
        plans += [MemoryPlan(mode, chunk, 1, need.peak(chunk), available, device) for chunk in chunks]
        fitting = next((plan for plan in plans if plan.fits), None)
        if fitting is not None:
            return _with_more_windows(fitting, need)
    return min(plans, key=lambda plan: plan.needed)


def _with_more_windows(plan: MemoryPlan, need: "CallBytes") -> MemoryPlan:
    """Denoise several windows at a time if all weights are on a GPU with enough memory."""
    if plan.mode != "none" or plan.device.type == "cpu" or need.num_windows == 1:
        return plan
    one = need.latents + need.weights["unet"] + need.computing["unet"]
    number = min(need.num_windows, 1 + max(0, plan.available - one) // need.further_window)
    needed = max(plan.needed, one + (number - 1) * need.further_window)
    return replace(plan, context_batch_size=number, needed=needed)


# Counting


@dataclass(frozen=True)
class CallBytes:
    """The memory of the parts of a call on a device, in bytes.

    Args:
        weights (`Mapping[str, int]`):
            Weights on the device in each part of a call: `"image_encoder"`, `"encoding"`, `"appearance_encoder"`,
            `"controlnet"`, `"unet"` and `"decoding"`.
        computing (`Mapping[str, int]`):
            Additional memory of each part, with one window denoised and one frame decoded at a time.
        further_window (`int`):
            Memory of each additional window.
        num_windows (`int`):
            Windows of the clip.
        further_frame (`int`):
            Memory of each additional frame.
        latents (`int`):
            Latents of the whole clip.
    """

    weights: Mapping[str, int]
    computing: Mapping[str, int]
    further_window: int
    num_windows: int
    further_frame: int
    latents: int

    def peak(self, decode_chunk_size: int) -> int:
        """Return the peak memory of a call.

        Args:
            decode_chunk_size (`int`):
                Frames that the VAE decodes at a time.
        """
        parts = {part: weights + self.computing[part] for part, weights in self.weights.items()}
        parts["decoding"] += (decode_chunk_size - 1) * self.further_frame
        return self.latents + max(parts.values())


def count_call(pipe: HIAPipeline, height: int, width: int, num_frames: int, mode: str = "none") -> CallBytes:
    """Count the memory of a call, using networks without data.

    This takes seconds for networks of Stable Diffusion 1.5.

    Args:
        pipe, height, width, num_frames:
            As for [`plan_memory`].
        mode (`str`, *optional*, defaults to `"none"`):
            A mode of [`MemoryPlan`].
    """
    need = _count_call(pipe, height, width, num_frames, offload_blocks=mode == "group")
    return replace(need, weights=_weights_on_device(pipe, mode))


def _count_call(pipe: HIAPipeline, height: int, width: int, num_frames: int, offload_blocks: bool) -> CallBytes:
    """Count a call without the weights on the device, except those of blocks that are offloaded."""
    factor = vae_scale_factor(pipe.vae)
    height, width = checks.side("height", height, factor), checks.side("width", width, factor)
    latent_size = (height // factor, width // factor)
    guidance_scale, window = pipe.call_default("guidance_scale"), min(num_frames, pipe.call_default("context_frames"))
    num_windows = count_windows(pipe, num_frames)
    denoiser = denoiser_on_meta(pipe)

    def step(number: int) -> int:
        step = DenoisingStep(number, 1, window, latent_size=latent_size, size=(height, width))
        return step.peak(denoiser, guidance_scale, batch_guidance=False, offload_blocks=offload_blocks)

    denoising = step(1)
    encoding, decoding, decoding_two = _vae_bytes(pipe, height, width)
    shape = (4, pipe.unet.config.in_channels, num_frames, *latent_size)
    return CallBytes(
        weights={},
        computing={
            "image_encoder": 0,
            "encoding": encoding,
            **dict.fromkeys(("appearance_encoder", "controlnet", "unet"), denoising),
            "decoding": decoding,
        },
        further_window=step(3) - step(2) if num_windows > 1 else 0,
        num_windows=num_windows,
        further_frame=decoding_two - decoding,
        latents=torch.empty(shape, dtype=torch.float32, device="meta").nbytes,
    )


def count_windows(pipe: HIAPipeline, num_frames: int) -> int:
    """Return the number of windows of a clip, with the windows of the pipeline's `call_defaults`.

    Args:
        pipe, num_frames:
            As for [`plan_memory`].
    """
    context_frames, overlap = pipe.call_default("context_frames"), pipe.call_default("context_overlap")
    return 1 if num_frames <= context_frames else -(-num_frames // (context_frames - overlap))


def _weights_on_device(pipe: HIAPipeline, mode: str) -> dict[str, int]:
    """Return the maximum bytes of the weights on the device in each part of a call."""
    sizes = {name: num_bytes(module) for name, module in pipe.components.items() if isinstance(module, nn.Module)}
    order = [name for name in pipe.model_cpu_offload_seq.split("->") if name in sizes]
    before = dict(zip(order[1:], order, strict=False))
    steps = ["appearance_encoder", "controlnet", "unet"] * (1 + (pipe.config.reference_timestep == "current"))
    weights: dict[str, int] = {}
    present: set[str] = set()
    for part in ("image_encoder", "encoding", *steps, "decoding"):
        name = "vae" if part in ("encoding", "decoding") else part
        if name not in sizes:
            continue
        if mode == "none":
            size = sum(sizes.values())
        elif mode == "model":  # each network offloads the previous one
            present = {*present, name} - {before.get(name)}
            size = sum(sizes[other] for other in present)
        elif mode == "group":  # blocks are counted as they run; those two have none
            size = sizes[name] if name in ("image_encoder", "vae") else 0
        else:
            size = max(_own_bytes(module) for module in getattr(pipe, name).modules())
        weights[part] = max(size, weights.get(part, 0))
    return weights


@torch.no_grad()
def _vae_bytes(pipe: HIAPipeline, height: int, width: int) -> tuple[int, int, int]:
    """Return the peaks of encoding an image, decoding a frame and decoding two frames."""
    with torch.device("meta"):
        vae: Any = nn.Module.to(type(pipe.vae).from_config(pipe.vae.config), pipe.vae.dtype).eval()
    factor, peaks = vae_scale_factor(vae), []
    for function, shape in (
        (encode_images, (1, 3, height, width)),
        (decode_latents, (1, pipe.unet.config.in_channels, height // factor, width // factor)),
        (decode_latents, (2, pipe.unet.config.in_channels, height // factor, width // factor)),
    ):
        given = torch.zeros(shape, device="meta")
        with LiveBytes([*vae.parameters(), *vae.buffers(), given]) as memory, GPUOperators(None):
            function(vae, given)
        peaks.append(memory.peak)
    return peaks[0], peaks[1], peaks[2]


def _own_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


# Memory of devices


def available_bytes(device: torch.device, pipe: HIAPipeline) -> int:
    """Return the memory of a device that the pipeline may use: free memory, and that of its own weights on the device.

    Args:
        device (`torch.device`):
            The device.
        pipe ([`HIAPipeline`]):
            The pipeline.
    """
    free = get_max_memory()[device.type if device.type in ("cpu", "mps") else device.index or 0]
    networks = [network for network in pipe.components.values() if isinstance(network, nn.Module)]
    own = sum(
        tensor.nbytes
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
        if tensor.device.type == device.type
    )
    return int(USABLE * (free + own))


def apply_plan(plan: MemoryPlan, pipe: HIAPipeline) -> None:
    """Place the weights of a pipeline according to a plan.

    Args:
        plan ([`MemoryPlan`]):
            The plan.
        pipe ([`HIAPipeline`]):
            The pipeline.
    """
    if plan.mode == "none":
        pipe.to(plan.device)
    elif plan.mode == "model":
        pipe.enable_model_cpu_offload(device=plan.device)
    elif plan.mode == "group":
        pipe.enable_group_offload(
            onload_device=plan.device,
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=plan.device.type == "cuda",
        )
    else:
        pipe.enable_sequential_cpu_offload(device=plan.device)
    if not plan.fits:
        logger.warning("Memory may run out: %s. Choose a smaller size or fewer frames at a time.", plan)
    else:
        logger.info("Memory: %s.", plan)
