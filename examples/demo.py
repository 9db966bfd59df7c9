# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animate a person and a dance that the model has never seen, with three values of hand sharpness.

    python examples/demo.py --output demo

The person and the dance are procedural. `demo.mp4` and `demo.gif` have six columns: the reference image; the driving
skeleton; hands with maximum, ground-truth and minimum motion blur; the ground truth. `contact_sheet.png` shows some of
these frames. `long.mp4` is a longer clip, with ground-truth motion blur only.
"""

import time
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.animation.result import COMMENT
from hia_diffusers.commands.arguments import OneLineParser, add_sampling_options, number, sampling_arguments
from hia_diffusers.commands.loading import check_model
from hia_diffusers.commands.running import run
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.writing import write_video


HEIGHT, WIDTH, FPS = 160, 96, 30

# Requested sharpness of the hands by the caption of its column.
SHARPNESSES = {"sharpness 0": 0.0, "auto": "auto", "sharpness 1": 1.0}

ENLARGEMENT = 2
CAPTION_HEIGHT, FONT_SIZE = 28, 18
SHEET_ROWS = 4


class Demo:
    """A pipeline, and a person and a dance to animate."""

    def __init__(self, args):
        self.args = args
        self.scene = ProceduralScene("test", identity=args.seed, motion=args.seed, setting=args.seed)
        self.reference = self.scene.render([2 * args.num_frames], HEIGHT, WIDTH, FPS).frames
        self.pipe = HIAPipeline.from_pretrained(args.model or HIA_TINY)
        self.pipe.set_progress_bar_config(disable=True)
        self.conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)

    def film(self, num_frames, sharpnesses):
        """Return the columns side by side, uint8 `(F, H, W, 3)`."""
        truth = self.scene.render(range(num_frames), HEIGHT, WIDTH, FPS)
        results = {}
        for caption, sharpness in sharpnesses.items():
            condition = self.conditioner(truth.keypoints, truth.frames, sharpness=sharpness)
            start = time.perf_counter()
            results[caption] = self._animate(condition)
            print(f"{caption}: {num_frames} frames in {time.perf_counter() - start:.1f} seconds", flush=True)
        columns = {
            "reference": self.reference.repeat(num_frames, axis=0),
            "skeleton": condition.pose,
            **results,
            "ground truth": truth.frames,
        }
        return np.concatenate([captioned(frames, caption) for caption, frames in columns.items()], axis=2)

    def _animate(self, condition):
        frames = self.pipe(
            Image.fromarray(self.reference[0]),
            condition,
            generator=torch.Generator().manual_seed(self.args.seed),
            output_type="np",
            **sampling_arguments(self.args),
        ).frames[0]
        return as_bytes(frames)


def as_bytes(frames):
    return (frames * 255).round().astype(np.uint8)


def captioned(frames, caption):
    """Return the frames, uint8 `(F, H, W, 3)`, enlarged, with a caption above them."""
    frames = frames.repeat(ENLARGEMENT, axis=1).repeat(ENLARGEMENT, axis=2)
    bar = Image.new("RGB", (frames.shape[2], CAPTION_HEIGHT), "white")
    position = (bar.width / 2, CAPTION_HEIGHT / 2)
    ImageDraw.Draw(bar).text(position, caption, "black", ImageFont.load_default(FONT_SIZE), anchor="mm")
    return np.concatenate([np.broadcast_to(np.asarray(bar), (len(frames), *np.shape(bar))), frames], axis=1)


def make_parser():
    parser = OneLineParser(prog="demo.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for the films")
    add("--model", help="id on the Hub or local folder of a HIAPipeline (default: hia-tiny)")
    add("--num_frames", type=number(int, 1, 10**5), default=16, help=f"at {FPS} per second")
    add("--long_num_frames", type=number(int, 0, 10**5), default=128, help="of long.mp4; 0 for none")
    add_sampling_options(parser)
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of person, dance, place and noise")
    return parser


def make_demo(args):
    check_model(args.model)
    args.output.mkdir(parents=True, exist_ok=True)
    diffusers.utils.logging.set_verbosity_error()

    demo = Demo(args)
    film = demo.film(args.num_frames, SHARPNESSES)
    write_video(args.output / "demo.mp4", film, FPS, comment=COMMENT)
    write_video(args.output / "demo.gif", film, FPS)
    rows = film[np.linspace(0, args.num_frames - 1, min(SHEET_ROWS, args.num_frames)).round().astype(int)]
    Image.fromarray(np.concatenate(rows)).save(args.output / "contact_sheet.png")
    names = ["demo.mp4", "demo.gif", "contact_sheet.png"]
    if args.long_num_frames:
        write_video(
            args.output / "long.mp4", demo.film(args.long_num_frames, {"result": "auto"}), FPS, comment=COMMENT
        )
        names.append("long.mp4")
    print(f"Wrote {', '.join(names)} to {args.output}.")


if __name__ == "__main__":
    run(make_parser(), make_demo)
