# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animate a person and a dance that the model has never seen, with three values of hand sharpness.

    python examples/demo.py --output demo

The person and the dance are procedural. `demo.mp4` and `demo.gif` have five columns: the reference image; hands with
maximum, ground-truth and minimum motion blur; the ground truth.
"""

import time
from pathlib import Path

import cv2
import diffusers
import numpy as np
import torch
from PIL import Image

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.animation.result import COMMENT
from hia_diffusers.commands.arguments import OneLineParser, add_sampling_options, number, sampling_arguments
from hia_diffusers.commands.loading import check_model
from hia_diffusers.commands.running import run
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.writing import write_video


HEIGHT, WIDTH, FPS = 160, 96, 30

# Requested sharpness of the hands by the title of its column.
COLUMNS = {"sharpness 0": 0.0, "auto": "auto", "sharpness 1": 1.0}

TITLE_HEIGHT = 14


def titled(frames, title):
    """Return the frames, uint8 `(F, H, W, 3)`, with a title above them."""
    bar = np.full((TITLE_HEIGHT, frames.shape[2], 3), 255, np.uint8)
    cv2.putText(bar, title, (3, TITLE_HEIGHT - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(bar, (len(frames), *bar.shape)), frames], axis=1)


def write_gif(path, frames, fps):
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def make_parser():
    parser = OneLineParser(prog="demo.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for demo.mp4 and demo.gif")
    add("--model", help="id on the Hub or local folder of a HIAPipeline (default: hia-tiny)")
    add("--num_frames", type=number(int, 1, 10**5), default=16, help=f"at {FPS} per second")
    add_sampling_options(parser)
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of person, dance, place and noise")
    return parser


def make_demo(args):
    check_model(args.model)
    args.output.mkdir(parents=True, exist_ok=True)
    diffusers.utils.logging.set_verbosity_error()

    scene = ProceduralScene("test", identity=args.seed, motion=args.seed, setting=args.seed)
    truth = scene.render(range(args.num_frames), HEIGHT, WIDTH, FPS)
    reference = scene.render([2 * args.num_frames], HEIGHT, WIDTH, FPS).frames
    pipe = HIAPipeline.from_pretrained(args.model or HIA_TINY)
    pipe.set_progress_bar_config(disable=True)
    conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)

    columns = [titled(reference.repeat(args.num_frames, axis=0), "reference")]
    for title, sharpness in COLUMNS.items():
        start = time.perf_counter()
        frames = pipe(
            Image.fromarray(reference[0]),
            conditioner(truth.keypoints, truth.frames, sharpness=sharpness),
            generator=torch.Generator().manual_seed(args.seed),
            output_type="np",
            **sampling_arguments(args),
        ).frames[0]
        columns.append(titled((frames * 255).round().astype(np.uint8), title))
        print(f"{title}: {args.num_frames} frames in {time.perf_counter() - start:.1f} seconds")
    columns.append(titled(truth.frames, "truth"))
    side_by_side = np.concatenate(columns, axis=2)
    write_video(args.output / "demo.mp4", side_by_side, FPS, comment=COMMENT)
    write_gif(args.output / "demo.gif", side_by_side, FPS)
    print(f"Wrote {args.output / 'demo.mp4'} and {args.output / 'demo.gif'}.")


if __name__ == "__main__":
    run(make_parser(), make_demo)
