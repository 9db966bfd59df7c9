# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a clip, compared with the peers' ways with the same weights and with diffusers' AnimateDiff.

python benchmarks/inference.py [--networks hia-tiny|middle|sd15] [--function hia|magic-animate|moore-animate-anyone]
    [--size 96x160] [--num_frames 16] [--num_inference_steps 25] [--guidance_scale 3.5] [--dtype float32]
    [--device cpu] [--repeats 5] [--ways WAY ...] [--compile blocks|whole] [--record]

`--function` is what the networks compute: that of HIA, or of the converted weights of MagicAnimate (a ControlNet in
both branches, the reference in every step, a context of 77 tokens) or of Moore-AnimateAnyone (a pose guider).

- `hia`: this package's pipeline.
- `hia, one call`: the same with `batch_guidance`.
- `hia, compiled`: with `--compile`, the same with `torch.compile`, of repeated blocks or of whole networks.
- `magic-animate`, `moore-animate-anyone`: the same weights in the ways of peers.py. The frames are the same.
- `animatediff`: diffusers' `AnimateDiffControlNetPipeline` with networks of the same size, without a reference.

Each generates a clip to warm up and is then timed `--repeats` times, in turns. Seconds are medians of the wall time
and of the CPU time, which other processes disturb less. Ratios are medians over the turns, of CPU times on a CPU, and
their spread is that of the turns. The ratio is followed by its change since the version that was last recorded for
the same networks, inputs and device, by `--record`, in benchmarks/inference.json. The peak memory of each way is
measured in a process of its own: of the device, or on a CPU (on Linux) of the process, beyond what it has before the
first clip. Then follow the parts of `hia`, and the operations per second of its fastest way as a fraction of those of
a large matrix product in the same run, with the fastest library.
"""

import argparse
import functools
import json
import logging
import multiprocessing
import re
import statistics
import time
from collections import defaultdict
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    UNet2DConditionModel,
    UNetMotionModel,
)
from flops import Networks, measured_rates, parts_of_clip
from peers import PeersWay
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from hia_diffusers import (
    HIA_TINY,
    HIAAppearanceEncoder,
    HIAControlNetModel,
    HIAPipeline,
    HIAPoseGuider,
    HIAUNetMotionModel,
    ShiftedSNRScheduler,
    __version__,
)
from hia_diffusers.files import write_whole


RECORDS = Path(__file__).with_suffix(".json")

# Channels of the UNet and of the VAE, and of the context.
WIDTHS = {
    "middle": ((128, 256, 512, 512), (64, 128, 256, 256), 256),
    "sd15": ((320, 640, 1280, 1280), (128, 256, 512, 512), 768),
}


# Options of the UNet, of the scheduler and of the pipeline that the weights of each function go with.
FUNCTIONS = {
    "hia": ({}, {}, {}),
    "magic-animate": (
        {"reference_attention_blocks": "midup", "resnet_norm": "clip", "use_motion_mid_block": False},
        {"snr_shift_factor": 1.0, "timestep_spacing": "leading", "steps_offset": 1},
        {"reference_timestep": "current", "unconditional_controlnet": True},
    ),
    "moore-animate-anyone": (
        {},
        {"snr_shift_factor": 1.0, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"unconditional_controlnet": True},
    ),
}
PEERS = {"magic-animate": True, "moore-animate-anyone": False}  # whether the reference is encoded in every step


# 1. Networks


def make_pipeline(args, function="hia"):
    """Create the pipeline, with random weights unless it is hia-tiny."""
    dtype = getattr(torch, args.dtype)
    if args.networks == "hia-tiny":
        pipe = HIAPipeline.from_pretrained(HIA_TINY, dtype=dtype)
    else:
        torch.manual_seed(0)
        unet_channels, vae_channels, context_channels = WIDTHS[args.networks]
        of_unet, of_scheduler, of_pipeline = FUNCTIONS[function]
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=unet_channels,
            layers_per_block=2,
            cross_attention_dim=context_channels,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=vae_channels,
            layers_per_block=2,
            latent_channels=4,
        )
        motion_unet = HIAUNetMotionModel.from_config(
            {**HIAUNetMotionModel.from_unet2d(unet, load_weights=False).config, **of_unet}
        )
        motion_unet.load_state_dict(unet.state_dict(), strict=False)
        for name, layer in motion_unet.named_modules():
            if name.endswith("proj_out") and "motion_modules" in name:
                layer.reset_parameters()  # a new one is zero, so that motion modules would not matter
        if function == "moore-animate-anyone":
            controlnet = HIAPoseGuider(conditioning_channels=3, out_channels=unet_channels[0])
            controlnet.controlnet_cond_embedding.conv_out.reset_parameters()
        else:
            controlnet = HIAControlNetModel.from_unet(unet, conditioning_channels=6 if function == "hia" else 3)
            for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
                layer.reset_parameters()
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=context_channels))
        pipe = HIAPipeline(
            vae=vae,
            image_encoder=image_encoder,
            unet=motion_unet,
            appearance_encoder=HIAAppearanceEncoder.from_unet(unet),
            controlnet=controlnet,
            scheduler=ShiftedSNRScheduler(**of_scheduler),
            feature_extractor=CLIPImageProcessor(),
            **of_pipeline,
        ).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(args.device)


def make_animatediff(pipe):
    """Create networks of the same sizes as those of `pipe`. The VAE serves for its factor only: `pipe` decodes."""
    with torch.device(pipe.device):
        pipeline = AnimateDiffControlNetPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(8,) * 4,
                latent_channels=pipe.unet.config.in_channels,
                norm_num_groups=8,
            ),
            text_encoder=None,
            tokenizer=None,
            unet=UNetMotionModel.from_config(pipe.unet.config),
            motion_adapter=None,
            controlnet=ControlNetModel.from_config(pipe.controlnet.config, conditioning_channels=3),
            scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, timestep_spacing="trailing"),
        ).to(pipe.device, pipe.unet.dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# 2. The ways


def seeded():
    """Return the generator of every draw."""
    return torch.Generator().manual_seed(0)


def run_hia(pipe, image, condition, args, **options):
    """Generate a clip with this package's pipeline."""
    return pipe(
        image,
        condition,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        shared_noise=0.0,
        generator=seeded(),
        output_type="pt",
        **options,
    ).frames


@torch.no_grad()
def run_peer(way, image, condition, args, prompt_embeds=None):
    """Generate a clip in a peer's way."""
    pipe = way.pipe
    contexts = pipe.encode_image(image, prompt_embeds=prompt_embeds)
    reference = pipe.encode_reference_latents(image, *condition.shape[-2:])
    shape = (1, pipe.unet.config.in_channels, len(condition), *reference.shape[-2:])
    first = pipe.prepare_timesteps(args.num_inference_steps)[0]
    latents = pipe.prepare_latents(shape, reference, first, generator=seeded())
    return way(reference, latents, condition, contexts, args.guidance_scale, args.num_inference_steps)[1]


def run_animatediff(pipe, animatediff, condition, args):
    """Generate a clip with AnimateDiff, and decode it with `pipe`."""
    context = torch.zeros(1, 1, pipe.unet.config.cross_attention_dim, device=pipe.device, dtype=pipe.unet.dtype)
    latents = animatediff(
        prompt_embeds=context,
        negative_prompt_embeds=context,
        conditioning_frames=[*condition[:, :3]],
        num_frames=len(condition),
        height=condition.shape[-2],
        width=condition.shape[-1],
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        generator=seeded(),
        output_type="latent",
    ).frames
    return pipe.decode_latents(latents)


# 3. Measurements


def synchronize(device):
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_of(call, device):
    """Return the time of a call."""
    return both_seconds_of(call, device)[0]


def both_seconds_of(call, device):
    """Return the time of a call and the CPU time of this process in it."""
    synchronize(device)
    start, start_of_process = time.perf_counter(), time.process_time()
    call()
    synchronize(device)
    return time.perf_counter() - start, time.process_time() - start_of_process


def inputs(args, channels=6):
    """Return a random image and random conditioning frames."""
    width, height = map(int, args.size.split("x"))
    image = torch.rand(3, height, width, generator=seeded())
    return image, torch.rand(args.num_frames, channels, height, width, generator=seeded())


def ways(pipe, args):
    """Return the chosen ways by name."""
    image, condition = inputs(args, pipe.controlnet.config.conditioning_channels)
    context = {}
    if args.function == "magic-animate":
        shape = (1, 77, pipe.unet.config.cross_attention_dim)
        context["prompt_embeds"] = torch.randn(shape, generator=seeded()).to(pipe.device, pipe.unet.dtype)
    calls = {
        "hia": lambda: run_hia(pipe, image, condition, args, **context),
        "hia, one call": lambda: run_hia(pipe, image, condition, args, batch_guidance=True, **context),
    }
    for peer in PEERS if args.function == "hia" else [args.function]:
        calls[peer] = functools.partial(run_peer, PeersWay(pipe, PEERS[peer]), image, condition, args, **context)
    if args.function == "hia" and "animatediff" in args.ways:
        animatediff = make_animatediff(pipe)
        calls["animatediff"] = lambda: run_animatediff(pipe, animatediff, condition, args)
    return {way: call for way, call in calls.items() if way in args.ways}


def seconds_of_parts(pipe, call, device):
    """Return the seconds in each network during one call."""
    seconds, starts, hooks = defaultdict(float), {}, []

    def before(name):
        def hook(*_):
            synchronize(device)
            starts[name] = time.perf_counter()

        return hook

    def after(name):
        def hook(*_):
            synchronize(device)
            seconds[name] += time.perf_counter() - starts[name]

        return hook

    modules = {
        "appearance encoder": [pipe.appearance_encoder],
        "ControlNet": [pipe.controlnet],
        "UNet": [pipe.unet],
        "UNet, motion modules": [
            module for name, module in pipe.unet.named_modules() if name.split(".")[-2:-1] == ["motion_modules"]
        ],
        "VAE, decoding": [pipe.vae.decoder],
    }
    for name, parts in modules.items():
        for part in parts:
            hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
    try:
        seconds["all"] = seconds_of(call, device)
    finally:
        for hook in hooks:
            hook.remove()
    return seconds


def most_memory(way, args, connection):
    """Send the peak memory of a clip beyond that of the networks, in bytes; runs in a process of its own."""
    prepare(args)
    call = ways(make_pipeline(args, args.function), args)[way]
    if torch.device(args.device).type == "cuda":
        before = torch.cuda.memory_allocated()
        call()
        connection.send(torch.cuda.max_memory_allocated() - before)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = peak_of_process()
        call()
        connection.send(peak_of_process() - before)


def peak_of_process():
    """Return the peak memory of this process, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def memory_of(way, args):
    """Return the peak memory of a way, in bytes."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=most_memory, args=(way, args, sending))
    process.start()
    sending.close()
    taken = receiving.recv()
    process.join()
    return taken


def record_name(args):
    """Return the key of a record: networks, inputs and device."""
    networks = args.networks if args.function == "hia" else f"{args.networks} of {args.function}"
    clip = (
        f"{networks}, {args.size}, {args.num_frames} frames, {args.num_inference_steps} steps, "
        f"guidance {args.guidance_scale:g}"
    )
    device = (
        torch.cuda.get_device_name() if torch.device(args.device).type == "cuda" else f"{args.threads} CPU threads"
    )
    return f"{clip}, {args.dtype}, {device}"


def record(name, speeds):
    """Record `speeds`: that of `hia`, relative to each way."""
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    records[name] = {"version": __version__, "times as fast as": speeds}
    write_whole(RECORDS, json.dumps(records, indent=1) + "\n")


def prepare(args):
    """Silence the libraries, and set the number of threads."""
    diffusers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", choices=["hia-tiny", *WIDTHS], default="hia-tiny", help="(default: hia-tiny)")
    parser.add_argument("--function", choices=FUNCTIONS, default="hia", help="of the networks (default: hia)")
    parser.add_argument("--size", default="96x160", help="WIDTHxHEIGHT of the frames (default: 96x160)")
    parser.add_argument("--num_frames", type=int, default=16, help="of the clip, one window (default: 16)")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps (default: 25)")
    parser.add_argument("--guidance_scale", type=float, default=3.5, help="guidance scale (default: 3.5)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU (default: all cores)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed (default: 5)")
    every = ["hia", "hia, one call", *PEERS, "animatediff"]
    parser.add_argument("--ways", nargs="+", choices=every, default=every, help="(default: all of the function)")
    parser.add_argument("--compile", choices=["blocks", "whole"], help="repeated blocks, or whole networks, of `hia`")
    parser.add_argument("--record", action="store_true", help="what later versions are compared with")
    args = parser.parse_args()
    if args.networks == "hia-tiny" and args.function != "hia":
        parser.error("--function: hia-tiny's is hia")
    args.ways = ["hia", *(way for way in args.ways if way != "hia")]
    prepare(args)
    pipe = make_pipeline(args, args.function)
    calls = ways(pipe, args)
    differences = {way: difference_of_frames(calls["hia"], calls[way]) for way in calls if way in PEERS}
    if args.compile:
        compiled = make_pipeline(args, args.function)
        for network in (compiled.unet, compiled.controlnet):
            network.compile_repeated_blocks(fullgraph=True) if args.compile == "blocks" else network.compile()
        calls["hia, compiled"] = ways(compiled, args)["hia"]
    for call in calls.values():
        call()
    seconds = {way: [] for way in calls}
    for _ in range(args.repeats):
        for way, call in calls.items():
            seconds[way].append(both_seconds_of(call, args.device))
    by_clock, by_process = ({way: [turn[i] for turn in turns] for way, turns in seconds.items()} for i in range(2))
    compared = by_process if torch.device(args.device).type == "cpu" else by_clock
    ratios = {way: [other / own for other, own in zip(compared[way], compared["hia"], strict=True)] for way in calls}
    speeds = {way: round(statistics.median(turns), 3) for way, turns in ratios.items()}

    name = record_name(args)
    recorded = json.loads(RECORDS.read_text()).get(name) if RECORDS.exists() else None
    before = recorded["times as fast as"] if recorded else {}

    print(f"{name}, torch {torch.__version__}")
    for way, difference in differences.items():
        print(f"frames of hia and of {way} differ by at most {difference:.2g} of 1")
    print("| way | seconds | of the process | hia is times as fast | spread | beside the record | memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, turns in ratios.items():
        memory = "" if way == "hia, compiled" else round(memory_of(way, args) / 1e6)
        beside = f"{speeds[way] / before[way]:.2f}" if way in before else ""
        print(
            f"| {way} | {statistics.median(by_clock[way]):.3f} | {statistics.median(by_process[way]):.3f} | "
            f"{speeds[way]:.2f} | {min(turns):.2f} to {max(turns):.2f} | {beside} | {memory} |",
            flush=True,
        )
    if args.record:
        record(name, speeds)
    parts = seconds_of_parts(pipe, calls["hia"], args.device)
    for part, spent in parts.items():
        print(f"{part:24}{spent:9.3f} s {spent / parts['all']:7.1%}")
    if args.function == "hia":
        counted = parts_of_clip(Networks.of_pipeline(pipe), args)
        operations = sum(part.operations * part.calls for part in counted)
        rate, _ = measured_rates(pipe.unet.dtype, args.device)
        best = min(statistics.median(by_clock[way]) for way in calls if way.startswith("hia"))
        print(
            f"{operations / best / 1e12:.3g} TFLOP/s of {rate / 1e12:.3g} of a product of matrices: "
            f"{operations / best / rate:.0%}"
        )


def difference_of_frames(call, other):
    """Return the largest difference between the frames of two ways."""
    return (call().float() - other().float()).abs().max()


if __name__ == "__main__":
    main()
