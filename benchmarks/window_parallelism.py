# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Communication and speed-up of processes that share a clip.

python benchmarks/window_parallelism.py [--processes 2] [--num_frames 100] [--num_inference_steps 4]
    [--model ID_OR_PATH]

On a CPU, on Linux: the same clip by one process and by several, of one thread each, which communicate through gloo.
The bytes are those that the loopback interface transferred meanwhile, so nothing else may use it; decoding, which
exchanges pixels too, is left out. They are compared with a cost model:

- An all-reduce of the latents per step, of which each of N processes sends 2 (N - 1) / N times their bytes.
- A step takes as long as the process with the most windows: ceil(windows / N) instead of windows, counted for the
  windows of each step. What all processes compute alike, such as the reference and the scheduler, is not in the model.

Then follows the model alone, for 8 GPUs at Stable Diffusion 1.5's size.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import diffusers
import torch
import torch.distributed as dist

import hia_diffusers
from hia_diffusers import HIAPipeline
from hia_diffusers.pipelines.context_windows import context_windows


HEIGHT, WIDTH = 160, 96
CONTEXT_FRAMES, CONTEXT_OVERLAP = 16, 4


def speed_up(num_frames, steps, num_processes):
    """Return the windows of all steps, divided by those of the busiest process in each."""
    offsets = torch.Generator().manual_seed(0)
    windows = [len(context_windows(num_frames, CONTEXT_FRAMES, CONTEXT_OVERLAP, True, offsets)) for _ in range(steps)]
    return sum(windows) / sum(-(-count // num_processes) for count in windows)


def exchanged(latent_bytes, num_processes):
    """Return the bytes exchanged by all processes together in one step."""
    return 2 * (num_processes - 1) * latent_bytes


def bytes_over_loopback():
    """Return the bytes that the loopback interface has received."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[0])


def make_clip(rank, args, num_processes, folder, results):
    """Generate a clip as one of several processes; the first sends latents, bytes per step and seconds."""
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_processes)
    pipe = HIAPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    if num_processes > 1:
        pipe.enable_window_parallelism()
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    condition = torch.rand(args.num_frames, 6, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))

    def clip(steps):
        """Generate a clip. The first step differs from others: it embeds the conditioning frames."""
        dist.barrier()
        before, start = bytes_over_loopback(), time.perf_counter()
        latents = pipe(
            image,
            condition,
            num_inference_steps=steps,
            guidance_scale=1.0,
            context_frames=CONTEXT_FRAMES,
            context_overlap=CONTEXT_OVERLAP,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).frames
        dist.barrier()
        return latents, bytes_over_loopback() - before, time.perf_counter() - start

    clip(1)
    latents, more_bytes, seconds = clip(1 + args.num_inference_steps)
    _, fewer_bytes, _ = clip(1)
    if rank == 0:
        results.send((latents.numpy(), (more_bytes - fewer_bytes) / args.num_inference_steps, seconds))
    dist.destroy_process_group()


def clip_of(num_processes, args):
    """Return latents, bytes per step and seconds of a clip."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=make_clip, args=(rank, args, num_processes, folder, sending))
            for rank in range(num_processes)
        ]
        for process in processes:
            process.start()
        sending.close()
        result = receiving.recv()
        for process in processes:
            process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=hia_diffusers.HIA_TINY, help="a HIAPipeline (default: hia-tiny)")
    parser.add_argument("--processes", type=int, default=2, help="that share the clip (default: 2)")
    parser.add_argument("--num_frames", type=int, default=100, help="of the clip (default: 100)")
    parser.add_argument("--num_inference_steps", type=int, default=4, help="denoising steps (default: 4)")
    args = parser.parse_args()
    alone, _, seconds_alone = clip_of(1, args)
    shared, exchanged_bytes, seconds_shared = clip_of(args.processes, args)
    print(
        f"{args.num_frames} frames, {1 + args.num_inference_steps} steps; latents differ by at most "
        f"{abs(shared - alone).max():.2g}"
    )
    print("| processes | MB exchanged a step | by the model | seconds | times as fast | by the model |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(f"| 1 | 0 | 0 | {seconds_alone:.1f} | 1 | 1 |")
    print(
        f"| {args.processes} | {exchanged_bytes / 1e6:.2f} | {exchanged(alone.nbytes, args.processes) / 1e6:.2f} | "
        f"{seconds_shared:.1f} | {seconds_alone / seconds_shared:.2f} | "
        f"{speed_up(args.num_frames, 1 + args.num_inference_steps, args.processes):.2f} |"
    )
    print("\nThe model alone, 512x896, float16, 25 steps:")
    print("| GPUs | frames | MB a GPU sends a step | times as fast |")
    print("| --- | --- | --- | --- |")
    for num_frames in (100, 1000):
        for num_processes in (2, 4, 8):
            megabytes = exchanged(2 * 4 * num_frames * 64 * 112, num_processes) / num_processes / 1e6
            print(
                f"| {num_processes} | {num_frames} | {megabytes:.1f} | {speed_up(num_frames, 25, num_processes):.2f} |"
            )


if __name__ == "__main__":
    main()
