# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Convert the published weights of Moore-AnimateAnyone to an HIA pipeline.

    python examples/convert_weights.py --weights AnimateAnyone --base stable-diffusion-v1-5 \
        --image_encoder sd-image-variations-diffusers --output moore

`hia-diffusers convert` also converts the weights of other projects, each with a function in
`hia_diffusers.conversion`.
"""

from hia_diffusers import HIAPipeline
from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.commands.running import run
from hia_diffusers.conversion.moore_animate_anyone import convert_moore_animate_anyone


def make_parser():
    parser = OneLineParser(prog="convert_weights.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--weights", required=True, help="folder with what was published")
    add("--base", required=True, help="folder of Stable Diffusion 1.5 in the layout of diffusers")
    add("--image_encoder", required=True, help="folder of sd-image-variations-diffusers")
    add("--output", required=True, help="folder to create")
    return parser


def convert(args):
    conversion = convert_moore_animate_anyone(args.weights, base=args.base, image_encoder=args.image_encoder)
    print(conversion.report)  # the keys that were used, initialized or left unused
    conversion.save_pretrained(args.output)
    pipe = HIAPipeline.from_pretrained(args.output)
    print(f"{args.output} holds {', '.join(pipe.components)}.")


if __name__ == "__main__":
    run(make_parser(), convert)
