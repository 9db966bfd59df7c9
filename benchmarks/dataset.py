# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Training samples per second of `HIADataset`, from procedural and from prepared clips.

python benchmarks/dataset.py [--size 96x160] [--num_frames 1] [--samples 200]
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from hia_diffusers.data.aspect_buckets import AspectBucketBatchSampler
from hia_diffusers.data.clip_sources import PreparedClips, ProceduralClips
from hia_diffusers.data.dataset import HIADataset
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.prepare_dataset import prepare_dataset
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.writing import write_video


NUM_CLIPS, CLIP_LENGTH = 8, 90
BATCH_SIZE = 4


def prepare(folder, width, height):
    """Prepare a dataset of procedural people."""
    videos = folder / "videos"
    videos.mkdir()
    for index in range(NUM_CLIPS):
        scene = ProceduralScene("train", identity=index, motion=index, setting=index)
        clip = scene.render(range(CLIP_LENGTH), height, width)
        write_video(videos / f"{index}.mp4", clip.frames, fps=30)
        clip.keypoints.save(videos / f"{index}.safetensors")
    prepare_dataset(videos, folder / "prepared", PreparationOptions(keypoints=str(videos)))
    return PreparedClips(folder / "prepared")


def samples_per_second(dataset, num_samples, num_workers):
    """Return the rate after the first batches, which wait for the workers to start."""
    sampler = AspectBucketBatchSampler(dataset, BATCH_SIZE)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=sampler, num_workers=num_workers, persistent_workers=num_workers > 0
    )
    batches = iter(loader)
    for _ in range(max(1, 2 * num_workers)):  # until the workers run and the queue is as full as it gets
        next(batches)
    start = time.perf_counter()
    for _ in range(num_samples // BATCH_SIZE):
        next(batches)
    return num_samples // BATCH_SIZE * BATCH_SIZE / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="96x160", help="WIDTHxHEIGHT of the samples (default: 96x160)")
    parser.add_argument("--num_frames", type=int, default=1, help="target frames of a sample (default: 1)")
    parser.add_argument("--samples", type=int, default=200, help="samples to time (default: 200)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sources = {
            "procedural": ProceduralClips(num_clips=10_000),
            "prepared": prepare(Path(folder), width, height),
        }
        print(f"samples of {args.num_frames} frames of {width}x{height} per second")
        for name, source in sources.items():
            samples_per_clip = 100_000 // len(source)
            dataset = HIADataset(source, [(height, width)], args.num_frames, samples_per_clip=samples_per_clip)
            for num_workers in (0, 1, 2):
                rate = samples_per_second(dataset, args.samples, num_workers)
                print(f"{name:>10}, {num_workers} workers: {rate:6.1f}")


if __name__ == "__main__":
    main()
