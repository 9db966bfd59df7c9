# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animate the person in an image with the motion of a video, of keypoints or of a pose video, step by step.

    python examples/animate.py --image person.png --driving dance.mp4 --output out.mp4 --model ID_OR_PATH

`hia-diffusers animate` does the same, and has more options.
"""

from pathlib import Path

import torch

from hia_diffusers import HIA_TINY, HIAAnimator, HIAPipeline
from hia_diffusers.commands.arguments import OneLineParser, add_model_options, add_sampling_options, sampling_arguments
from hia_diffusers.commands.loading import choose_device, choose_dtype, find_model, place_pipeline
from hia_diffusers.commands.running import run


def make_parser():
    parser = OneLineParser(prog="animate.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--image", type=Path, required=True, help="image of the person")
    add("--driving", type=Path, required=True, help="the motion: a video, keypoints or a pose video")
    add("--output", type=Path, required=True, help="file or folder to write; an existing one is replaced")
    add_model_options(parser)
    add_sampling_options(parser)
    return parser


def animate(args):
    # 1. The pipeline, whose weights may state the size of the result
    device = choose_device(args.device)
    model = find_model(args.model or HIA_TINY, device, args.dtype, revision=args.revision)
    pipe = HIAPipeline.from_pretrained(model, dtype=choose_dtype(args.dtype, device), variant=args.variant)

    # 2. Keypoints of both, and the conditioning frames
    animator = HIAAnimator(pipe)
    animation = animator.prepare(args.image, args.driving, sharpness="auto")
    num_frames, height, width = len(animation.condition), animation.condition.height, animation.condition.width
    print(f"{num_frames} frames of {width}x{height}")

    # 3. The frames, in the memory that there is
    place_pipeline(pipe, device, args.memory, height=height, width=width, num_frames=num_frames)
    generator = torch.Generator("cpu").manual_seed(0)
    result = animator.generate(animation, generator=generator, **sampling_arguments(args))

    # 4. The video, with the sound of the driving clip
    result.save(args.output)
    print(f"Wrote {args.output}.")


if __name__ == "__main__":
    run(make_parser(), animate)
