# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a clip that is streamed to a file, by its length.

python benchmarks/long_video.py [--model ID_OR_PATH] [--num_frames 16 100 1000] [--num_inference_steps 2] [--windows 1]
    [--dtype float32] [--device cpu]

Each length is generated in a process of its own, from a `MotionBlurCondition`. Memory is the peak of the process, and
on CUDA that of the device. More steps take longer, but no more memory.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import diffusers
import torch
from PIL import Image

import hia_diffusers
from hia_diffusers import HIAPipeline, MotionBlurConditioner
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.writing import write_video


HEIGHT, WIDTH, FPS = 160, 96, 30


def make_clip(num_frames, args, connection):
    """Send the seconds and the peak memory of a clip; runs in a process of its own."""
    diffusers.utils.logging.set_verbosity_error()
    pipe = HIAPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    scene = ProceduralScene("test", identity=0, motion=0, setting=0)
    image = Image.fromarray(scene.render([0], HEIGHT, WIDTH, FPS).frames[0])
    keypoints = scene.keypoints(range(num_frames), HEIGHT, WIDTH, FPS)
    condition = MotionBlurConditioner.for_size(HEIGHT, WIDTH)(keypoints, sharpness=0.5)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        frames = pipe.stream(
            image,
            condition,
            num_inference_steps=args.num_inference_steps,
            guidance_scale=1.0,
            context_batch_size=args.windows,
            generator=torch.Generator().manual_seed(0),
        )
        write_video(Path(folder) / "long.mp4", frames, FPS)
    seconds = time.perf_counter() - start
    device_bytes = torch.cuda.max_memory_allocated() if torch.device(args.device).type == "cuda" else 0
    connection.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, device_bytes, seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=hia_diffusers.HIA_TINY, help="a HIAPipeline (default: hia-tiny)")
    parser.add_argument("--num_frames", type=int, nargs="+", default=[16, 100, 1000], help="(default: 16 100 1000)")
    parser.add_argument("--num_inference_steps", type=int, default=2, help="denoising steps (default: 2)")
    parser.add_argument("--windows", type=int, default=1, help="that are denoised at a time (default: 1)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("| frames | process, MB | beside the first | device, MB | beside the first | seconds a frame |")
    print("| --- | --- | --- | --- | --- | --- |")
    first = None
    for num_frames in args.num_frames:
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=make_clip, args=(num_frames, args, sending))
        process.start()
        sending.close()
        host, device, seconds = receiving.recv()
        process.join()
        first = first or (host, device)
        beside = f"{device / first[1]:.2f}" if first[1] else ""
        print(
            f"| {num_frames} | {host / 1e6:.0f} | {host / first[0]:.2f} | {device / 1e6:.0f} | {beside} | "
            f"{seconds / num_frames:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
