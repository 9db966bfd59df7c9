# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Cost of one clip by part: floating-point operations, memory traffic, and a lower bound of the time.

python benchmarks/flops.py [--networks sd15|hia-tiny] [--size 512x896] [--num_frames 16]
    [--num_inference_steps 25] [--guidance_scale 3.5]
    [--dtype float16] [--device cuda]

The networks run on the meta device, so nothing is computed. A multiplication and an addition are two operations. The
clip is one window. Bytes are those of the weights, once per call, and of the inputs and outputs of a call: the traffic
that no implementation can avoid if nothing stays in a cache between calls. The lower bound is the larger of operations
at the rate of a large matrix product and bytes at the rate of a large copy, both measured on the device.
"""

import argparse
import logging
import re
import time
from dataclasses import dataclass

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from training_memory import ATTENTION, sd15_networks

from hia_diffusers import HIA_TINY, HIAPipeline
from hia_diffusers.memory.counting import GPUOperators, on_meta
from hia_diffusers.models.autoencoder import decode_latents, encode_images, vae_scale_factor
from hia_diffusers.models.conditioning_embedding import ConditioningEmbeddings
from hia_diffusers.models.reference_attention import ReferenceFeatures


MOTION_MODULE = re.compile(r"\.motion_modules\.\d+$")


@dataclass
class Part:
    """One kind of call: its operations and bytes, and the number of calls per clip."""

    name: str
    operations: int
    bytes: int
    calls: int


class Networks:
    """All networks of a pipeline, without data."""

    def __init__(self, vae, image_encoder, appearance_encoder, controlnet, unet, dtype):
        modules = (vae, image_encoder, appearance_encoder, controlnet, unet)
        modules = [on_meta(module).to(dtype).eval().requires_grad_(False) for module in modules]
        self.vae, self.image_encoder, self.appearance_encoder, self.controlnet, self.unet = modules

    @classmethod
    def of_pipeline(cls, pipe):
        """Copy the networks of a pipeline."""
        return cls(pipe.vae, pipe.image_encoder, pipe.appearance_encoder, pipe.controlnet, pipe.unet, pipe.unet.dtype)


def load_networks(name, dtype):
    """Return hia-tiny's networks, or those of Stable Diffusion 1.5's size."""
    if name == "hia-tiny":
        return Networks.of_pipeline(HIAPipeline.from_pretrained(HIA_TINY, dtype=dtype))
    denoiser, vae, image_encoder = sd15_networks()
    return Networks(vae, image_encoder, denoiser.appearance_encoder, denoiser.controlnet, denoiser.unet, dtype)


@torch.no_grad()
def count(name, calls, network, function, *inputs):
    """Return the parts of a call: that of the motion modules, if there are any, and the rest."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter, GPUOperators(None):
        output = function(*inputs)
    tensors = [*network.parameters(), *network.buffers(), *inputs, *tree_leaves(output)]
    moved = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
    counts = counter.get_flop_counts()
    of_motion = sum(sum(of.values()) for module, of in counts.items() if MOTION_MODULE.search(module))
    weights_of_motion = sum(p.nbytes for key, p in network.named_parameters() if ".motion_modules." in key)
    parts = [Part(name, counter.get_total_flops() - of_motion, moved - weights_of_motion, calls)]
    if of_motion:
        parts.append(Part(f"{name}, motion modules", of_motion, weights_of_motion, calls))
    return parts, output


def parts_of_clip(networks, args):
    """Return all calls of a clip."""
    width, height = map(int, args.size.split("x"))
    factor = vae_scale_factor(networks.vae)
    dtype = networks.unet.dtype
    channels, context_channels = networks.unet.config.in_channels, networks.unet.config.cross_attention_dim
    side = networks.image_encoder.config.image_size

    def zeros(*shape):
        return torch.zeros(shape, dtype=dtype, device="meta")

    reference = zeros(1, channels, height // factor, width // factor)
    latents = zeros(1, channels, args.num_frames, height // factor, width // factor)
    context, timestep = zeros(1, 1, context_channels), torch.zeros((), dtype=torch.long, device="meta")
    frames = zeros(args.num_frames, channels, height // factor, width // factor)
    condition = zeros(args.num_frames, networks.controlnet.config.conditioning_channels, height, width)
    parts = []

    def add(*call):
        found, output = count(*call)
        parts.extend(found)
        return output

    add("VAE, encoding", 1, networks.vae, lambda p: encode_images(networks.vae, p), zeros(1, 3, height, width))
    add("image encoder", 1, networks.image_encoder, networks.image_encoder, zeros(1, 3, side, side))
    features = add(
        "appearance encoder", 1, networks.appearance_encoder, networks.appearance_encoder, reference, timestep, context
    ).reference_features
    embedding = networks.controlnet.controlnet_cond_embedding
    embedded = add("ControlNet, embedding of the condition", 1, embedding, embedding, condition)
    clips = ConditioningEmbeddings(lambda _: condition[None], args.num_frames, condition.device)
    clips.get([range(args.num_frames)], condition.device, lambda _: embedded)  # known from now on
    add(
        "ControlNet",
        args.num_inference_steps,
        networks.controlnet,
        lambda x: networks.controlnet(
            x, timestep, context.expand(args.num_frames, -1, -1), clips.windows([range(args.num_frames)], x.device)
        ),
        frames,
    )
    reading = ReferenceFeatures(features)
    names = dict(networks.unet.named_modules())
    with FlopCounterMode(display=False) as counter:
        for name in networks.unet.reference_names:
            reading.key_value(name, names[name].attn1)
    parts.append(Part("K and V of the reference", counter.get_total_flops(), 0, 1))
    add(
        "UNet with reference",
        args.num_inference_steps,
        networks.unet,
        lambda x: networks.unet(x, timestep, context, reference_features=reading, return_dict=False),
        latents,
    )
    if args.guidance_scale > 1:
        add(
            "UNet without",
            args.num_inference_steps,
            networks.unet,
            lambda x: networks.unet(x, timestep, context, return_dict=False),
            latents,
        )
    add("VAE, decoding", args.num_frames, networks.vae, lambda x: decode_latents(networks.vae, x), frames[:1])
    return parts


def measured_rates(dtype, device):
    """Return operations per second of a large product and bytes per second of a large copy: the best of several.

    On a CPU, the product is also measured with oneDNN, which is much faster than MKL on some.
    """
    size = 4096 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = [0.0, 0.0]
    product, copy = 2 * size**3, 2 * source.nbytes
    calls = [(0, product, lambda: a @ b), (1, copy, lambda: target.copy_(source))]
    if device == "cpu":
        calls.append((0, product, lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")))
    for kind, work, call in calls:
        best = float("inf")
        for _ in range(10):
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        rates[kind] = max(rates[kind], work / best)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", choices=["sd15", "hia-tiny"], default="sd15", help="their sizes (default: sd15)")
    parser.add_argument("--size", default="512x896", help="WIDTHxHEIGHT of the frames (default: 512x896)")
    parser.add_argument("--num_frames", type=int, default=16, help="of the clip, one window (default: 16)")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps (default: 25)")
    parser.add_argument("--guidance_scale", type=float, default=3.5, help="above 1 the UNet runs twice (default: 3.5)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to measure rates on")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    dtype = getattr(torch, args.dtype)
    parts = parts_of_clip(load_networks(args.networks, dtype), args)
    total = sum(part.operations * part.calls for part in parts)
    total_bytes = sum(part.bytes * part.calls for part in parts)

    print(
        f"{args.networks}, {args.size}, {args.num_frames} frames, {args.num_inference_steps} steps, "
        f"guidance {args.guidance_scale}"
    )
    print(f"| {'part':52} | {'calls':>5} | {'GFLOP a call':>12} | {'TFLOP':>8} | {'share':>6} | {'GB moved':>8} |")
    print("| --- | --- | --- | --- | --- | --- |")
    for part in parts:
        work = part.operations * part.calls
        print(
            f"| {part.name:52} | {part.calls:5} | {part.operations / 1e9:12.3f} | {work / 1e12:8.3f} | "
            f"{work / total:6.1%} | {part.bytes * part.calls / 1e9:8.2f} |"
        )
    print(f"| {'all':52} | {'':5} | {'':12} | {total / 1e12:8.3f} | {1:6.0%} | {total_bytes / 1e9:8.2f} |")
    operations_rate, bytes_rate = measured_rates(dtype, args.device)
    print(
        f"{args.device}, {args.dtype}: {operations_rate / 1e12:.3g} TFLOP/s, {bytes_rate / 1e9:.3g} GB/s; at least "
        f"{max(total / operations_rate, total_bytes / bytes_rate):.3g} s for the clip"
    )


if __name__ == "__main__":
    main()
