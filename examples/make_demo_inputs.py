# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Draw a person and a dance as the two inputs of `animate.py`: `image.png` and `motion.safetensors`.

    python examples/make_demo_inputs.py --output demo
    python examples/animate.py --image demo/image.png --driving demo/motion.safetensors --output demo/out.mp4

The image shows the procedural person at the beginning of the dance.
"""

from functools import partial
from pathlib import Path

from PIL import Image

from hia_diffusers.commands.arguments import OneLineParser, number, size
from hia_diffusers.commands.running import run
from hia_diffusers.procedural.scene import ProceduralScene


FPS = 30

SIZE_HELP = "WIDTHxHEIGHT in pixels"


def make_parser():
    parser = OneLineParser(prog="make_demo_inputs.py", description="Draw a person and a motion for animate.py.")
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for image.png and motion.safetensors")
    add("--size", type=partial(size, smallest=16, multiple_of=1), default="96x160", help=SIZE_HELP)
    add("--num_frames", type=number(int, 1, 10**5), default=16, help=f"length at {FPS} frames per second")
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of the person, the dance and the place")
    return parser


def make_inputs(args):
    height, width = args.size
    scene = ProceduralScene("test", identity=args.seed, motion=args.seed, setting=args.seed)
    keypoints = scene.keypoints(range(args.num_frames), height, width, FPS)
    image = scene.render([0], height, width, FPS, with_sharp=True).sharp_frames[0]

    args.output.mkdir(parents=True, exist_ok=True)
    keypoints.save(args.output / "motion.safetensors")
    Image.fromarray(image).save(args.output / "image.png")
    print(f"Wrote {args.output / 'image.png'} and {args.output / 'motion.safetensors'}: {args.num_frames} frames.")


if __name__ == "__main__":
    run(make_parser(), make_inputs)
