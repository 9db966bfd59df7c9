# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step by part, stage by stage, and of the samples that it needs.

python benchmarks/training.py [--model ID_OR_PATH] [--size 96x160] [--batch_size 1] [--repeats 5] [--threads 1]

The losses, data and optimizer are those of examples/train_hia.py, with procedural people and bfloat16. `data` is one
process that draws samples, and `encoding` the frozen networks that encode them: with `--cache_latents` both are done
once per sample, except in the regional stage, whose losses need the images, so that it still has to load them. Seconds
are medians; the first step is not counted.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from accelerate import Accelerator

import hia_diffusers
from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.training.batches import build_dataset, encode
from hia_diffusers.training.launch import build_optimizer, place_networks
from hia_diffusers.training.objective import HIALosses
from hia_diffusers.training.stages import STAGES, train_only, trained_parts
from hia_diffusers.training.starting_point import load_starting_point


FRAMES = {"spatial": 4, "regional": 4}  # of a sample, as hia-tiny has them; the temporal stages have their own


class Stopwatch:
    """Seconds of each part, one number per repetition."""

    def __init__(self, device):
        self.device, self.seconds = device, {}

    def __call__(self, part, function):
        self._synchronize()
        start = time.perf_counter()
        result = function()
        self._synchronize()
        self.seconds.setdefault(part, []).append(time.perf_counter() - start)
        return result

    def _synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def medians(self):
        """Return the median of each part, without the first repetition."""
        return {part: statistics.median(values[1:]) for part, values in self.seconds.items()}


def seconds_of_stage(stage, args, accelerator):
    """Return the seconds of each part of a stage."""
    config = replace(
        STAGES[stage],
        output_dir=Path(tempfile.gettempdir()) / "none",
        pretrained_model_name_or_path=args.model,
        procedural_clips=1000,
        sizes=[args.size],
        mixed_precision="bf16",
        train_batch_size=args.batch_size,
    )
    if stage in FRAMES:
        config = replace(config, num_frames=FRAMES[stage], frame_stride=[4, 16])
    dataset = build_dataset(config, config.condition_dropout)
    pipeline = load_starting_point(args.model)
    model = HIADenoiser.of_pipeline(pipeline)
    parameters = train_only(model, trained_parts(config))
    place_networks(config, accelerator, pipeline, model)
    optimizer, _ = build_optimizer(config, parameters, 1)
    losses = HIALosses(config, accelerator, model, pipeline)
    watch = Stopwatch(accelerator.device)
    for step in range(args.repeats + 1):
        indices = range(step * args.batch_size, (step + 1) * args.batch_size)
        samples = watch("data", lambda indices=indices: [dataset[index] for index in indices])
        batch = torch.utils.data.default_collate(samples)
        images = {name: batch[name].to(accelerator.device) for name in ("pixel_values", "reference_pixel_values")}
        with accelerator.autocast():
            encoded = watch("encoding", lambda images=images: encode(pipeline, images))
            batch |= encoded
            loss = watch("losses", lambda batch=batch, step=step: losses.total(losses(step, batch)))
        watch("gradients", loss.backward)
        watch("optimizer", optimizer.step)
        optimizer.zero_grad()
    return watch.medians()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=hia_diffusers.HIA_TINY, help="a HIAPipeline (default: hia-tiny)")
    parser.add_argument("--size", default="96x160", help="WIDTHxHEIGHT of the images (default: 96x160)")
    parser.add_argument("--batch_size", type=int, default=1, help="samples of a step (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU (default: 1, as of two processes on 2 cores)")
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    accelerator = Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())
    parts = ("data", "encoding", "losses", "gradients", "optimizer")
    print(f"| stage | {', s | '.join(parts)}, s | samples/s | with cached samples | times as fast |")
    print("| --- |" + " --- |" * (len(parts) + 3))
    for stage in STAGES:
        seconds = seconds_of_stage(stage, args, accelerator)
        cached = sum(seconds[part] for part in ("losses", "gradients", "optimizer"))
        plain = cached + seconds["data"] + seconds["encoding"]
        print(
            f"| {stage} | {' | '.join(f'{seconds[part]:.3f}' for part in parts)} | {args.batch_size / plain:.2f} | "
            f"{args.batch_size / cached:.2f} | {plain / cached:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
