# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a clip, compared with the peers' way with the same weights and with diffusers' AnimateDiff.

python benchmarks/inference.py [--networks hia-tiny|middle|sd15] [--size 96x160] [--num_frames 16]
    [--num_inference_steps 25] [--guidance_scale 3.5] [--dtype float32] [--device cpu] [--repeats 5]
    [--compile blocks|whole] [--record]

- `hia`: this package's pipeline.
- `hia, one call`: the same with `batch_guidance`.
- `hia, compiled`: with `--compile`, the same with `torch.compile`, of repeated blocks or of whole networks.
- `naive`: the same weights in the way of MagicAnimate and AnimateAnyone: the reference is encoded at every step, its K
  and V are projected at every step and for every frame, the conditioning frames are embedded at every step,
  cross-attention to its single token is computed, the unconditional branch runs with ControlNet and reference shapes,
  and the VAE decodes frame by frame. The frames are the same.
- `animatediff`: diffusers' `AnimateDiffControlNetPipeline` with networks of the same size, without a reference.

Each generates a clip to warm up and is then timed `--repeats` times, in turns; seconds are medians, and ratios are
those of medians of the same run. The ratio to `naive` is followed by its change since the version that was last
recorded for the same networks, inputs and device, by `--record`, in benchmarks/inference.json. The peak memory of each
way is measured in a process of its own: of the device, or on a CPU (on Linux) of the process, beyond what it has
before the first clip. Then follow the parts of `hia`, and the operations per second of its fastest way as a fraction
of those of a large matrix product in the same run.
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
from unittest import mock

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
from diffusers.models.attention_processor import Attention
from flops import Networks, measured_rates, parts_of_clip
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from hia_diffusers import (
    HIA_TINY,
    HIAAppearanceEncoder,
    HIAControlNetModel,
    HIAPipeline,
    HIAUNetMotionModel,
    ShiftedSNRScheduler,
    __version__,
)
from hia_diffusers.files import write_whole
from hia_diffusers.models.attention import CrossAttention
from hia_diffusers.models.autoencoder import decode_latents
from hia_diffusers.models.reference_attention import ReferenceFeatures


RECORDS = Path(__file__).with_suffix(".json")

# Channels of the UNet and of the VAE, and of the context.
WIDTHS = {
    "middle": ((128, 256, 512, 512), (64, 128, 256, 256), 256),
    "sd15": ((320, 640, 1280, 1280), (128, 256, 512, 512), 768),
}


# 1. Networks


def make_pipeline(args):
    """Create the pipeline, with random weights unless it is hia-tiny."""
    dtype = getattr(torch, args.dtype)
    if args.networks == "hia-tiny":
        pipe = HIAPipeline.from_pretrained(HIA_TINY, dtype=dtype)
    else:
        torch.manual_seed(0)
        unet_channels, vae_channels, context_channels = WIDTHS[args.networks]
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
        image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=context_channels))
        pipe = HIAPipeline(
            vae=vae,
            image_encoder=image_encoder,
            unet=HIAUNetMotionModel.from_unet2d(unet),
            appearance_encoder=HIAAppearanceEncoder.from_unet(unet),
            controlnet=HIAControlNetModel.from_unet(unet),
            scheduler=ShiftedSNRScheduler(),
            feature_extractor=CLIPImageProcessor(),
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


# 2. The three ways


class FeaturesPerFrame(ReferenceFeatures):
    """Reference features whose K and V are projected at every call, and for every frame."""

    def __init__(self, features, num_frames, dropped):
        super().__init__(features, dropped)
        self.num_frames = num_frames

    def key_value(self, name, attention):
        features = self.features[name].repeat_interleave(self.num_frames, dim=0)
        return tuple(
            projection(features).unflatten(0, (-1, self.num_frames))[:, 0]
            for projection in (attention.to_k, attention.to_v)
        )


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
        generator=seeded(),
        output_type="pt",
        **options,
    ).frames


@torch.no_grad()
@mock.patch.object(CrossAttention, "forward", Attention.forward)
def run_naive(pipe, image, condition, args):
    """Generate a clip in the peers' way."""
    num_frames, (height, width) = len(condition), condition.shape[-2:]
    guided = args.guidance_scale > 1
    branches = 2 if guided else 1
    pipe.scheduler.set_timesteps(args.num_inference_steps, device=pipe.device)
    conditional, unconditional = pipe.encode_image(image)
    context = torch.cat([unconditional, conditional]) if guided else conditional
    frames = condition.to(pipe.device, pipe.controlnet.dtype).repeat(branches, 1, 1, 1)
    reference_latents = pipe.encode_reference_latents(image, height, width)
    shape = (1, pipe.unet.config.in_channels, num_frames, *reference_latents.shape[-2:])
    latents = pipe.prepare_latents(shape, reference_latents, pipe.scheduler.timesteps[0], generator=seeded())
    dropped = torch.tensor([True, False][2 - branches :], device=pipe.device)
    kept = ~dropped.repeat_interleave(num_frames)[:, None, None, None]
    for t in pipe.scheduler.timesteps:
        images = reference_latents.to(pipe.appearance_encoder.dtype).repeat(branches, 1, 1, 1)
        features = pipe.appearance_encoder(images, 0, context).reference_features
        sample = latents.repeat(branches, 1, 1, 1, 1)
        down, mid = pipe.controlnet(
            sample.transpose(1, 2).flatten(0, 1),
            t,
            encoder_hidden_states=context.repeat_interleave(num_frames, dim=0),
            controlnet_cond=frames,
            return_dict=False,
        )
        predicted = pipe.unet(
            sample,
            t,
            context,
            down_block_additional_residuals=tuple(residual * kept for residual in down),
            mid_block_additional_residual=mid * kept,
            reference_features=FeaturesPerFrame(features, num_frames, dropped if guided else None),
            return_dict=False,
        )[0]
        if guided:
            without, with_conditions = predicted.chunk(2)
            predicted = without + args.guidance_scale * (with_conditions - without)
        latents = pipe.scheduler.step(predicted, t, latents).prev_sample
    decoded = torch.cat([decode_latents(pipe.vae, frame[None]).cpu() for frame in latents[0].transpose(0, 1)])
    return (decoded / 2 + 0.5).clamp(0, 1)[None]


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
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def inputs(args):
    """Return a random image and random conditioning frames."""
    width, height = map(int, args.size.split("x"))
    image = torch.rand(3, height, width, generator=seeded())
    return image, torch.rand(args.num_frames, 6, height, width, generator=seeded())


def ways(pipe, args):
    """Return the ways by name."""
    image, condition = inputs(args)
    animatediff = make_animatediff(pipe)
    return {
        "hia": lambda: run_hia(pipe, image, condition, args),
        "hia, one call": lambda: run_hia(pipe, image, condition, args, batch_guidance=True),
        "naive": lambda: run_naive(pipe, image, condition, args),
        "animatediff": lambda: run_animatediff(pipe, animatediff, condition, args),
    }


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
    call = ways(make_pipeline(args), args)[way]
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
    clip = (
        f"{args.networks}, {args.size}, {args.num_frames} frames, {args.num_inference_steps} steps, "
        f"guidance {args.guidance_scale:g}"
    )
    device = (
        torch.cuda.get_device_name() if torch.device(args.device).type == "cuda" else f"{args.threads} CPU threads"
    )
    return f"{clip}, {args.dtype}, {device}"


def record(name, speeds):
    """Record `speeds`: those of each way, relative to `naive`."""
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    records[name] = {"version": __version__, "times naive's speed": speeds}
    write_whole(RECORDS, json.dumps(records, indent=1) + "\n")


def prepare(args):
    """Silence the libraries, and set the number of threads."""
    diffusers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", choices=["hia-tiny", *WIDTHS], default="hia-tiny", help="(default: hia-tiny)")
    parser.add_argument("--size", default="96x160", help="WIDTHxHEIGHT of the frames (default: 96x160)")
    parser.add_argument("--num_frames", type=int, default=16, help="of the clip, one window (default: 16)")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="denoising steps (default: 25)")
    parser.add_argument("--guidance_scale", type=float, default=3.5, help="guidance scale (default: 3.5)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU (default: all cores)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed (default: 5)")
    parser.add_argument("--compile", choices=["blocks", "whole"], help="repeated blocks, or whole networks, of `hia`")
    parser.add_argument("--record", action="store_true", help="what later versions are compared with")
    args = parser.parse_args()
    prepare(args)
    pipe = make_pipeline(args)
    calls = ways(pipe, args)
    difference = (calls["hia"]().float() - calls["naive"]().float()).abs().max()
    if args.compile:
        compiled = make_pipeline(args)
        for network in (compiled.unet, compiled.controlnet):
            network.compile_repeated_blocks(fullgraph=True) if args.compile == "blocks" else network.compile()
        calls["hia, compiled"] = functools.partial(run_hia, compiled, *inputs(args), args)
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(args.repeats):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, args.device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}

    name = record_name(args)
    speeds = {way: round(medians["naive"] / median, 3) for way, median in medians.items()}
    recorded = json.loads(RECORDS.read_text()).get(name) if RECORDS.exists() else None
    before = recorded["times naive's speed"] if recorded else {}

    print(f"{name}, torch {torch.__version__}")
    print(f"frames of hia and of naive differ by at most {difference:.2g} of 1")
    print("| way | seconds a clip | spread | seconds a frame | times naive's speed | beside the record | memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, median in medians.items():
        spread = (max(seconds[way]) - min(seconds[way])) / median
        memory = "" if way == "hia, compiled" else round(memory_of(way, args) / 1e6)
        beside = f"{speeds[way] / before[way]:.2f}" if way in before else ""
        print(
            f"| {way} | {median:.3f} | {spread:.0%} | {median / args.num_frames:.4f} | {speeds[way]:.2f} | {beside} | "
            f"{memory} |",
            flush=True,
        )
    if args.record:
        record(name, speeds)
    parts = seconds_of_parts(pipe, calls["hia"], args.device)
    for name, spent in parts.items():
        print(f"{name:24}{spent:9.3f} s {spent / parts['all']:7.1%}")
    counted = parts_of_clip(Networks.of_pipeline(pipe), args)
    operations = sum(part.operations * part.calls for part in counted)
    rate, _ = measured_rates(pipe.unet.dtype, args.device)
    best = min(medians[name] for name in medians if name.startswith("hia"))
    print(
        f"{operations / best / 1e12:.3g} TFLOP/s of {rate / 1e12:.3g} of a matrix product: "
        f"{operations / best / rate:.0%}"
    )


if __name__ == "__main__":
    main()
