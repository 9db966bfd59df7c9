# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Sensitivity of FID-p and FVD-p to known faults: distances of degraded clips from the originals.

python benchmarks/feature_networks.py [--clips 50]
"""

import argparse

import cv2
import numpy as np
import torch

from hia_diffusers.metrics.extractors import ProceduralClipFeatures, ProceduralFrameFeatures, split_into_clips
from hia_diffusers.metrics.frechet import FrechetStatistics, frechet_distance
from hia_diffusers.procedural.scene import ProceduralScene


NUM_FRAMES = 32


def render(people, motions):
    """Render clips of people of the test split, `(N, F, H, W, 3)`."""
    pairs = zip(people, motions, strict=True)
    scenes = [ProceduralScene("test", identity=person, motion=motion, setting=person) for person, motion in pairs]
    return np.stack([scene.render(frames=range(NUM_FRAMES), height=160, width=96).frames for scene in scenes])


def each_frame(clips, change):
    """Apply a function to each frame."""
    return np.stack([np.stack([change(frame) for frame in clip]) for clip in clips])


def blur(clips, sigma):
    """Blur each frame."""
    return each_frame(clips, lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma))


def add_noise(clips, scale):
    """Add noise to each frame."""
    noise = np.random.default_rng(0).normal(scale=255 * scale, size=clips.shape)
    return (clips + noise).round().clip(0, 255).astype(np.uint8)


def jitter(clips, pixels):
    """Move each frame at random."""
    random = np.random.default_rng(0)

    def move(frame):
        matrix = np.hstack([np.eye(2), random.normal(scale=pixels, size=(2, 1))])
        return cv2.warpAffine(frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)

    return each_frame(clips, move)


def shuffle(clips, share):
    """Permute a fraction of the frames."""
    random = np.random.default_rng(0)
    shuffled = clips.copy()
    for clip, result in zip(clips, shuffled, strict=True):
        places = random.permutation(NUM_FRAMES)[: round(share * NUM_FRAMES)]
        result[places] = clip[np.roll(places, 1)]
    return shuffled


def freeze(clips):
    """Repeat the first frame."""
    return np.repeat(clips[:, :1], NUM_FRAMES, axis=1)


def statistics(clips, extractors):
    """Return the statistics of the features of each extractor."""
    frames = torch.from_numpy(clips).movedim(-1, 2) / 255
    gathered = []
    for extractor in extractors:
        gathered.append(FrechetStatistics())
        for clip in frames:
            gathered[-1].update(extractor(clip if extractor.clip_length is None else split_into_clips(clip)))
    return gathered


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=50, help=f"clips of {NUM_FRAMES} frames (default: 50)")
    number = parser.parse_args().clips
    people = np.arange(number)
    clips = render(people, people)
    cases = {
        "the same clips": clips,
        "other people and dances": render(people + number, people + number),
        "the same people, other dances": render(people, people + number),
        **{f"blur, sigma {sigma} pixels": blur(clips, sigma) for sigma in (0.5, 1, 2, 4)},
        **{f"noise, sigma {scale}": add_noise(clips, scale) for scale in (0.01, 0.03, 0.1, 0.2)},
        **{f"jitter, sigma {pixels} pixels": jitter(clips, pixels) for pixels in (0.5, 1, 2, 4)},
        **{f"{share:.0%} of the frames shuffled": shuffle(clips, share) for share in (0.125, 0.25, 0.5, 1)},
        "first frame only": freeze(clips),
    }
    extractors = [ProceduralFrameFeatures(), ProceduralClipFeatures()]
    truth = statistics(clips, extractors)
    print(f"{number} clips of {NUM_FRAMES} frames, 96x160; weights {extractors[0].sha256}")
    print(f"{'':32}{'FID-p':>9}{'FVD-p':>9}")
    for name, spoiled in cases.items():
        distances = map(frechet_distance, truth, statistics(spoiled, extractors))
        print(f"{name:32}" + "".join(f"{distance:9.2f}" for distance in distances))


if __name__ == "__main__":
    main()
