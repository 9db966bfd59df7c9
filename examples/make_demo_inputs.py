# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Draws a person and a dance for it: `picture.png` and `motion.safetensors`, the two inputs of `animate.py`.

    python examples/make_demo_inputs.py --output demo
    python examples/animate.py --image demo/picture.png --driving demo/motion.safetensors --output demo/out.mp4

The picture shows the procedural person at the beginning of the dance.
"""

import argparse
from pathlib import Path

from PIL import Image

from hia_diffusers.data.synthetic import ProceduralScene


FPS = 30


def size(text):
    width, height = (int(number) for number in text.lower().split("x"))
    return width, height


def main():
    parser = argparse.ArgumentParser(description="Draw a person and a motion for animate.py.")
    parser.add_argument("--output", type=Path, required=True, help="folder for picture.png and motion.safetensors")
    parser.add_argument("--size", type=size, default=(96, 160), help="WIDTHxHEIGHT in pixels (default: 96x160)")
    parser.add_argument("--frames", type=int, default=16, help=f"length at {FPS} frames per second (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the person, the dance and the place (default: 0)")
    args = parser.parse_args()
    if args.frames < 1 or args.seed < 0 or min(args.size) < 16:
        parser.error("--frames must be at least 1, --seed at least 0 and --size at least 16x16")

    width, height = args.size
    scene = ProceduralScene("test", identity=args.seed, motion=args.seed, setting=args.seed)
    keypoints = scene.keypoints(range(args.frames), height, width, FPS)
    picture = scene.render([0], height, width, FPS, with_sharp=True).sharp_frames[0]

    args.output.mkdir(parents=True, exist_ok=True)
    keypoints.save(args.output / "motion.safetensors")
    Image.fromarray(picture).save(args.output / "picture.png")
    print(f"Wrote {args.output / 'picture.png'} and {args.output / 'motion.safetensors'}: {args.frames} frames.")


if __name__ == "__main__":
    main()
