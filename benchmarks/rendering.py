# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Frames per second of the renderer of procedural people on one core, and statistics of the frames.

python benchmarks/rendering.py [--size 96x160] [--scenes 40] [--num_frames 32]
"""

import argparse
import time

import cv2
import numpy as np

from hia_diffusers.procedural.scene import ProceduralScene


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="96x160", help="WIDTHxHEIGHT of the frames (default: 96x160)")
    parser.add_argument("--scenes", type=int, default=40, help="how many people, dances and settings (default: 40)")
    parser.add_argument("--num_frames", type=int, default=32, help="frames of each (default: 32)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    cv2.setNumThreads(1)

    seconds = {"frames with blur, masks and keypoints": 0.0, "keypoints alone": 0.0, "first frame of a setting": 0.0}
    scores, shutters, moving = [], [], []
    for index in range(args.scenes):
        scene = ProceduralScene("train", identity=index, motion=index, setting=index)
        calls = {
            "first frame of a setting": lambda scene=scene: scene.render([0], height, width),  # paints the background
            "frames with blur, masks and keypoints": lambda scene=scene: scene.render(
                range(args.num_frames), height, width
            ),
            "keypoints alone": lambda scene=scene: scene.keypoints(range(args.num_frames), height, width),
        }
        for name, call in calls.items():
            start = time.process_time()
            result = call()
            seconds[name] += time.process_time() - start
            if name.startswith("frames"):
                scores.append(result.keypoints.score)
                shutters.append(result.shutter)
                step = np.linalg.norm(np.diff(result.keypoints.xy[:, 91:], axis=0), axis=-1)
                moving.append(step[np.isfinite(step)])
    score = np.concatenate(scores)

    print(f"{args.size}, {args.scenes} scenes of {args.num_frames} frames, one core (processor time)")
    for name, spent in seconds.items():
        count = args.scenes * (1 if name.startswith("first") else args.num_frames)
        print(f"  {name}: {count / spent:.0f} per second")
    print(f"  both hands inside the image: {(score[:, 91:] > 0).all(axis=1).mean():.1%} of the frames")
    face = (score[:, 23:91] == 1).mean(axis=1) > 0.5
    print(f"  most of the face seen: {face.mean():.1%} of the frames")
    low, middle, high = np.percentile(np.concatenate(shutters), [5, 50, 95])
    print(f"  shutter: {low:.2f}, {middle:.2f}, {high:.2f} of the frame interval (5th, 50th, 95th percentile)")
    middle, high = np.percentile(np.concatenate(moving), [50, 95])
    print(f"  hand points move {middle:.1f} pixels per frame in the median, {high:.1f} at the 95th percentile")


if __name__ == "__main__":
    main()
