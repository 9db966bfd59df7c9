# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""GPU memory and time of one clip with each of diffusers' ways for small GPUs.

python benchmarks/small_gpu.py [--device meta|cpu|cuda] [--networks sd15|middle|hia-tiny] [--size 512x896]
    [--num_frames 16] [--num_inference_steps 25] [--guidance_scale 3.5] [--dtype float16] [--goal 8] [--ways NAME ...]

Memory is in GiB. A way fits a GPU of `--goal` GiB if one more is free, for what the CUDA context and libraries hold.
Weights of the UNet, the ControlNet and the appearance encoder are stored as they are, as float8_e4m3fn by diffusers'
layerwise casting, or quantised by torchao (int8) or bitsandbytes (nf4), which take linear layers only. The VAE decodes
frame by frame, but in `plain`. Groups are offloaded block by block or leaf by leaf; "ahead" is with streams, by which
the next group is loaded while one runs.

`--device meta` (without CUDA the default) counts. The networks run on the meta device by the pipeline's own stages,
with fused attention; what operators make is counted as long as it lives, to which the weights come that are on the
device at that moment. diffusers' own hooks say when a group is loaded; the rules for whole networks and for sequential
offloading, and what quantised weights take, are restated here. While a layer runs, its cast or quantised weight exists
in the dtype of computation too. Each part of a clip has its own peak. Not counted: scratch memory inside of kernels,
fragmentation.

The seconds are computed from the bytes that a way moves between host and device at `--pcie_rate`, and operations
(`benchmarks/flops.py`) at `--rate`. Both rates are assumed. Moving and computing alternate, except for what is
moved ahead. Not included: copies without streams start from memory that is not pinned, which is slower, and the time
of casting, of tiling's overlaps and of waiting at each small copy.

`--device cuda` measures the same ways on networks with random weights (but hia-tiny's): the most memory allocated and
seconds, the median of `--repeats`. `--device cpu` runs the ways that need no GPU, in turns and all held at once, for
their time and their frames; quantised ones only if their package is installed.
"""

import argparse
import copy
import gc
import logging
import statistics
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig
from diffusers.hooks import group_offloading
from flops import Networks, load_networks, parts_of_clip
from inference import WIDTHS, inputs, make_pipeline, run_hia, seconds_of
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from hia_diffusers import HIAPipeline, ShiftedSNRScheduler
from hia_diffusers.memory.counting import GPUOperators, LiveBytes, gibibytes, on_meta
from hia_diffusers.models.autoencoder import decode_latents, encode_images, vae_scale_factor
from hia_diffusers.models.conditioning_embedding import ConditioningEmbeddings
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.pipelines.inputs import DenoisingOptions


DENOISERS = ("unet", "controlnet", "appearance_encoder")  # whose weights are cast or quantised
NETWORKS = (*DENOISERS, "vae", "image_encoder")
NF4_BLOCK = 64  # weights that share a scale, a float32
HELD = 2**30  # bytes by the CUDA context and libraries, at most
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


@dataclass(frozen=True)
class Way:
    """How weights are stored, when they are on the device, and how many frames are decoded at a time."""

    name: str
    weights: str = ""  # or "float8", "int8", "nf4"
    offload: str = ""  # or "model", "block_level", "leaf_level", "sequential"
    ahead: bool = False
    chunk: int = 1
    tiling: bool = False

    def runs_on(self, device):
        """Return whether the device and the installed packages suffice."""
        needs_gpu = self.ahead or self.offload == "sequential" or self.weights == "nf4"
        installed = self.weights not in PACKAGES or find_spec(PACKAGES[self.weights]) is not None
        return installed and not (device == "cpu" and needs_gpu)


WAYS = [
    Way("plain", chunk=16),
    Way("frame by frame"),
    Way("tiling", tiling=True),
    Way("model offload", offload="model"),
    Way("blocks", offload="block_level"),
    Way("blocks, ahead", offload="block_level", ahead=True),
    Way("leaves", offload="leaf_level"),
    Way("leaves, ahead", offload="leaf_level", ahead=True),
    Way("sequential", offload="sequential"),
    Way("float8", weights="float8"),
    Way("int8", weights="int8"),
    Way("nf4", weights="nf4"),
    Way("float8, model offload", weights="float8", offload="model"),
    Way("float8, blocks, ahead", weights="float8", offload="block_level", ahead=True),
    Way("int8, model offload", weights="int8", offload="model"),
    Way("nf4, model offload", weights="nf4", offload="model"),
]


def offload_groups(pipe, way, device, host):
    """Enable group offloading."""
    pipe.enable_group_offload(
        onload_device=torch.device(device),
        offload_device=torch.device(host),
        offload_type=way.offload,
        num_blocks_per_group=1,
        use_stream=way.ahead,
    )


# 1. Counting


class Device(LiveBytes):
    """Count, besides the results of operators, the weights that are on the device, and those that are moved."""

    def __init__(self, pipe):
        super().__init__(all_tensors(pipe))
        self.stored = {}  # bytes by id, of tensors that are stored in another way than they are
        self.loaded = set()
        self.moved_in = self.moved_out = 0
        self.moved_ahead = 0  # of those that came in, while something else ran

    def add(self, size):
        self.live += size
        self.peak = max(self.peak, self.live)

    def bytes_of(self, tensors):
        return sum(self.stored.get(id(tensor), tensor.nbytes) for tensor in tensors)

    def load(self, tensors, ahead=False):
        """Count tensors that are moved to the device."""
        size = self.bytes_of(tensor for tensor in tensors if id(tensor) not in self.loaded)
        self.loaded.update(map(id, tensors))
        self.add(size)
        self.moved_in += size
        self.moved_ahead += size * ahead

    def drop(self, tensors, moved):
        """Count tensors that leave the device, which may have to be moved back."""
        size = self.bytes_of(tensor for tensor in tensors if id(tensor) in self.loaded)
        self.loaded.difference_update(map(id, tensors))
        self.add(-size)
        self.moved_out += size * moved

    @property
    def moved(self):
        """Return the bytes moved to the device, back, and to it ahead of time."""
        return np.array([self.moved_in, self.moved_out, self.moved_ahead])


def tensors_of(module, recurse=True):
    """Return parameters and buffers."""
    return [*module.parameters(recurse), *module.buffers(recurse)]


def all_tensors(pipe):
    """Return those of all networks."""
    return [tensor for name in NETWORKS for tensor in tensors_of(getattr(pipe, name))]


def pipeline_on_meta(networks):
    """Create a pipeline with copies of the networks."""
    parts = {name: copy.deepcopy(getattr(networks, name)) for name in NETWORKS}
    pipe = HIAPipeline(**parts, scheduler=ShiftedSNRScheduler(), feature_extractor=CLIPImageProcessor())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def store(pipe, way, device):
    """Tell the device how much the stored weights take, and add the whole weight while its layer runs."""
    for name in DENOISERS:
        for layer, sizes in stored_sizes(getattr(pipe, name), way.weights):
            smaller = [tensor for tensor, size in sizes.items() if size < tensor.nbytes]
            device.stored.update((id(tensor), sizes[tensor]) for tensor in smaller)
            if smaller:
                make_whole(layer, smaller, device, replaced=way.weights == "float8")


def stored_sizes(network, weights):
    """Return layers, and the bytes of their tensors."""
    if weights == "float8":
        cast = on_meta(network)
        cast.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=network.dtype)
        for layer, same in zip(network.modules(), cast.modules(), strict=True):
            pairs = zip(tensors_of(layer, recurse=False), tensors_of(same, recurse=False), strict=True)
            yield layer, {tensor: stored.nbytes for tensor, stored in pairs}
    else:
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                yield layer, {layer.weight: quantised_bytes(layer, weights)}


def quantised_bytes(layer, weights):
    """Return the bytes of a quantised layer."""
    number = layer.weight.numel()
    if weights == "int8":  # and a scale for each output
        return number + layer.out_features * layer.weight.element_size()
    return -(-number // 2) + 4 * -(-number // NF4_BLOCK)


def make_whole(layer, weights, device, replaced):
    """Hold both weights while one is computed from the other; casting then replaces it, quantised layers do not."""
    whole, stored = sum(weight.nbytes for weight in weights), device.bytes_of(weights)

    def before(*_):
        device.add(whole)
        device.add(-stored * replaced)

    def after(*_):
        device.add(stored * replaced)
        device.add(-whole)

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)


def place(pipe, way, device, stack):
    """Let the device load and drop weights when the way does."""
    if way.offload in ("block_level", "leaf_level"):
        place_groups(pipe, way, device, stack)
    elif way.offload == "model":
        place_networks(pipe, device)
    elif way.offload == "sequential":
        place_layers(pipe, device)
    else:
        device.load(all_tensors(pipe))
        device.moved_in = 0  # once, not for each clip


def place_networks(pipe, device):
    """Load a network when it is called, and drop the one before it in `model_cpu_offload_seq`, if any."""
    order = [name for name in pipe.model_cpu_offload_seq.split("->") if getattr(pipe, name) is not None]
    before = dict(zip(order[1:], order, strict=False))
    for name in NETWORKS:
        network = getattr(pipe, name)

        def load(*_, name=name, network=network):
            if name in before:
                device.drop(tensors_of(getattr(pipe, before[name])), moved=True)
            device.load(tensors_of(network))

        for entry in (network.encoder, network.decoder) if name == "vae" else (network,):
            entry.register_forward_pre_hook(load)


def place_layers(pipe, device):
    """Load and drop layers as accelerate does: buffers stay; the host keeps all parameters, so none moves back."""
    for name in NETWORKS:
        for module in getattr(pipe, name).modules():
            device.load([*module.buffers(recurse=False)])
            parameters = [*module.parameters(recurse=False)]
            if parameters:
                module.register_forward_pre_hook(lambda *_, parameters=parameters: device.load(parameters))
                module.register_forward_hook(lambda *_, parameters=parameters: device.drop(parameters, moved=False))
    device.moved_in = 0


def place_groups(pipe, way, device, stack):
    """Use diffusers' own hooks, with counts instead of copies, and nothing instead of streams."""

    def tensors(group):
        of_modules = (tensor for module in group.modules for tensor in tensors_of(module))
        return {id(tensor): tensor for tensor in (*of_modules, *group.parameters, *group.buffers)}.values()

    for name, replacement in (
        ("onload_", lambda group: device.load(tensors(group), ahead=group.stream is not None)),
        ("offload_", lambda group: device.drop(tensors(group), moved=group.stream is None)),
        ("_init_cpu_param_dict", lambda group: {}),
    ):
        stack.enter_context(mock.patch.object(group_offloading.ModuleGroup, name, replacement))
    stack.enter_context(mock.patch.object(group_offloading, "TorchDeviceBackend"))
    offload_groups(pipe, way, "meta", "meta")


def count(networks, way, args):
    """Return the peaks of the parts of a clip, and the bytes moved to the device, back, and to it ahead of time."""
    pipe = pipeline_on_meta(networks)
    device = Device(pipe)
    if way.weights:
        store(pipe, way, device)
    if way.tiling:
        pipe.vae.enable_tiling()
    with ExitStack() as stack:
        place(pipe, way, device, stack)
        return run_parts(pipe, way, device, args)


@torch.no_grad()
def run_parts(pipe, way, device, args):
    """Run two steps and decode two chunks; the second of each stands for all later ones."""
    width, height = map(int, args.size.split("x"))
    dtype, channels = pipe.unet.dtype, pipe.controlnet.config.conditioning_channels
    factor, side = vae_scale_factor(pipe.vae), pipe.image_encoder.config.image_size
    pipe.scheduler.set_timesteps(args.num_inference_steps)
    peaks, after_steps = {}, []

    def zeros(*shape, dtype=dtype):
        return torch.zeros(shape, dtype=dtype, device="meta")

    def part(name, function):
        device.peak = device.live
        output = function()
        peaks[name] = device.peak
        return output

    with device, GPUOperators(None):
        context = part("image encoder", lambda: pipe.image_encoder(zeros(1, 3, side, side)).image_embeds[:, None])
        reference_latents = part(
            "VAE, encoding", lambda: encode_images(pipe.vae, zeros(1, 3, height, width, dtype=torch.float32))
        )
        frames = ConditioningEmbeddings(
            lambda frames: zeros(1, len(frames), channels, height, width), args.num_frames, torch.device("meta")
        )
        conditions = HIAConditions(
            context, reference_latents, frames, null_encoder_hidden_states=torch.zeros_like(context)
        )
        denoiser = HIADenoiser.of_pipeline(pipe)
        conditions = part("appearance encoder", lambda: denoiser.read_reference(conditions))
        clean = part(
            "denoising",
            lambda: pipe.denoise(
                zeros(1, pipe.unet.config.in_channels, args.num_frames, height // factor, width // factor),
                pipe.scheduler.timesteps[:2],
                conditions,
                options=DenoisingOptions(guidance_scale=args.guidance_scale, context_frames=args.num_frames),
                callback_on_step_end=lambda *_: after_steps.append(device.moved),
            ),
        )
        chunks = clean.transpose(1, 2).flatten(0, 1).split(way.chunk)
        part("VAE, decoding", lambda: decode_latents(pipe.vae, chunks[0]))
        after_chunk = device.moved
        decode_latents(pipe.vae, chunks[0])
    moved = device.moved + (args.num_inference_steps - 2) * (after_steps[-1] - after_steps[0])
    moved += (len(chunks) - 2) * (device.moved - after_chunk)
    if way.offload == "model":  # at the end of a call, all go
        moved[1] += device.bytes_of(tensor for tensor in all_tensors(pipe) if id(tensor) in device.loaded)
    return peaks, moved


def seconds(moved, operations, args):
    """Return the seconds of moving alone, and of a clip."""
    moved_in, moved_out, ahead = (size / args.pcie_rate for size in moved)
    return moved_in + moved_out, moved_in + moved_out - ahead + max(ahead, operations / args.rate)


def fits(size, args):
    """Return whether a way fits the GPU."""
    return "yes" if size + HELD <= args.goal * 2**30 else "no"


def networks_on_meta(args):
    """Return the networks without data."""
    if args.networks == "sd15":
        return load_networks("sd15", getattr(torch, args.dtype))
    return Networks.of_pipeline(make_pipeline(argparse.Namespace(**{**vars(args), "device": "cpu"})))


def print_counts(ways, args):
    """Print the counted memory and time of each way."""
    networks = networks_on_meta(args)
    operations = sum(part.operations * part.calls for part in parts_of_clip(networks, args))
    sizes = {name: sum(tensor.nbytes for tensor in tensors_of(getattr(networks, name))) for name in NETWORKS}
    print(f"weights in GiB: {', '.join(f'{name} {gibibytes(size)}' for name, size in sizes.items())}")
    print(
        f"counted; {args.pcie_rate / 1e9:g} GB/s and {args.rate / 1e12:g} TFLOP/s are assumed: computing takes "
        f"{operations / args.rate:.0f} s"
    )
    rows = {way: count(networks, way, args) for way in ways}
    parts = rows[ways[0]][0]
    print_row("way", *parts, "peak", f"fits {args.goal:g} GiB", "GB in", "GB out", "moving, s", "a clip, s")
    print_row(*["---"] * (len(parts) + 7))
    for way, (peaks, moved) in rows.items():
        peak = max(peaks.values())
        moving, total = seconds(moved, operations, args)
        print_row(
            way.name,
            *(f"{size / 2**30:.2f}" for size in (*peaks.values(), peak)),
            fits(peak, args),
            *(f"{size / 1e9:.1f}" for size in moved[:2]),
            f"{moving:.1f}",
            f"{total:.0f}",
        )


def print_row(*cells):
    """Print a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


# 2. Measuring


def real_pipeline(args):
    """Create the pipeline on the host."""
    pipe = make_pipeline(argparse.Namespace(**{**vars(args), "device": "cpu"}))
    if args.networks == "sd15":  # whose image encoder is larger than that of `make_pipeline`
        config = load_networks("sd15", torch.float32).image_encoder.config
        pipe.register_modules(image_encoder=CLIPVisionModelWithProjection(config).to(pipe.unet.dtype).eval())
    return pipe


def quantised(pipe, weights):
    """Return the pipeline with quantised networks."""
    dtype = pipe.unet.dtype
    if weights == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    mapping = PipelineQuantizationConfig(quant_mapping={name: copy.deepcopy(config) for name in DENOISERS})
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        return HIAPipeline.from_pretrained(folder, dtype=dtype, quantization_config=mapping)


def apply(pipe, way, args):
    """Apply a way to a pipeline."""
    if way.weights in PACKAGES:
        pipe = quantised(pipe, way.weights)
        pipe.set_progress_bar_config(disable=True)
    elif way.weights == "float8":
        for name in DENOISERS:
            getattr(pipe, name).enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=pipe.unet.dtype)
    if way.tiling:
        pipe.vae.enable_tiling()
    if way.offload == "model":
        pipe.enable_model_cpu_offload(device=args.device)
    elif way.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=args.device)
    elif way.offload:
        offload_groups(pipe, way, args.device, "cpu")
    else:
        pipe.to(args.device)
    return pipe


def ready(pipe, way, args):
    """Return the function that generates a clip in a way."""
    pipe = apply(copy.deepcopy(pipe), way, args)
    image, condition = inputs(args)
    return lambda: run_hia(pipe, image, condition, args, decode_chunk_size=way.chunk).float()


def print_times(ways, args):
    """Print the times on a CPU, where the ways run in turns."""
    pipe = real_pipeline(args)
    calls = {way.name: ready(pipe, way, args) for way in (WAYS[0], *ways) if way.runs_on("cpu")}
    frames = {name: call() for name, call in calls.items()}
    taken = {name: [] for name in calls}
    for _ in range(args.repeats):
        for name, call in calls.items():
            taken[name].append(seconds_of(call, "cpu"))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"measured, {args.threads} threads; frames, of 1, are compared with those of plain")
    print_row("way", "a clip, s", "spread", "times plain's", "frames differ by at most", "on average")
    print_row(*["---"] * 6)
    for name, median in medians.items():
        difference = (frames[name] - frames["plain"]).abs()
        print_row(
            name,
            f"{median:.3f}",
            f"{(max(taken[name]) - min(taken[name])) / median:.0%}",
            f"{median / medians['plain']:.2f}",
            f"{difference.max():.2g}",
            f"{difference.mean():.2g}",
        )


def print_peaks(ways, args):
    """Print the peaks on a GPU, one way after the other, each after a first clip."""
    networks, pipe = networks_on_meta(args), real_pipeline(args)
    print(f"peaks counted and measured, in GiB, on {torch.cuda.get_device_name()}")
    print_row("way", "counted", "measured", f"fits {args.goal:g} GiB", "a clip, s")
    print_row(*["---"] * 5)
    for way in ways:
        if not way.runs_on("cuda"):
            continue
        counted = gibibytes(max(count(networks, way, args)[0].values()))
        try:
            peak, median = measure(pipe, way, args)
        except torch.OutOfMemoryError:
            print_row(way.name, counted, "out of memory", "no", "")
            continue
        print_row(way.name, counted, gibibytes(peak), fits(peak, args), f"{median:.2f}")


def measure(pipe, way, args):
    """Return the peak memory and the median time of a clip."""
    gc.collect()  # of the way before: hooks hold networks in cycles
    torch.cuda.empty_cache()
    call = ready(pipe, way, args)
    call()
    torch.cuda.reset_peak_memory_stats()
    median = statistics.median(seconds_of(call, "cuda") for _ in range(args.repeats))
    return torch.cuda.max_memory_allocated(), median


def main():
    names = [way.name for way in WAYS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--device",
        choices=["meta", "cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "meta",
        help="to run on; meta counts (default: cuda, or without it meta)",
    )
    parser.add_argument("--networks", choices=["hia-tiny", *WIDTHS], default="sd15", help="(default: sd15)")
    parser.add_argument("--size", default="512x896", help="WIDTHxHEIGHT of the frames (default: 512x896)")
    parser.add_argument("--num_frames", type=int, default=16, help="of the clip, one window (default: 16)")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps (default: 25)")
    parser.add_argument("--guidance_scale", type=float, default=3.5, help="above 1 the UNet runs twice (default: 3.5)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16")
    parser.add_argument("--goal", type=float, default=8, help="GiB of the GPU (default: 8)")
    parser.add_argument("--ways", nargs="+", choices=names, default=names, help="(default: all)")
    parser.add_argument("--pcie_rate", type=float, default=25e9, help="bytes/s to and from the GPU (default: 25e9)")
    parser.add_argument("--rate", type=float, default=20e12, help="operations/s of the GPU (default: 20e12)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU (default: all cores)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is timed (default: 3)")
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    ways = [way for way in WAYS if way.name in args.ways]

    print(
        f"{args.networks}, {args.size}, {args.num_frames} frames, {args.num_inference_steps} steps, "
        f"guidance {args.guidance_scale}"
    )
    print(f"{args.dtype}, {args.device}, torch {torch.__version__}, diffusers {diffusers.__version__}")
    {"meta": print_counts, "cpu": print_times, "cuda": print_peaks}[args.device](ways, args)


if __name__ == "__main__":
    main()
