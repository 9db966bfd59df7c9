# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Compare a folder of generated clips with the ground truth of the same names, and print the metrics of each clip.

    python examples/evaluate_hia.py --predictions generated --targets ground_truth

A clip is a video or a folder of frames. `hia-diffusers evaluate` has more metrics, and also evaluates models.
"""

from pathlib import Path

from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.commands.running import run
from hia_diffusers.metrics.evaluation import VideoEvaluation
from hia_diffusers.metrics.folders import clips_in_folders
from hia_diffusers.metrics.report import table


def make_parser():
    parser = OneLineParser(prog="evaluate_hia.py", description=__doc__.split("\n")[0])
    parser.add_argument("--predictions", type=Path, required=True, help="folder of the generated clips")
    parser.add_argument("--targets", type=Path, required=True, help="folder of the ground truth")
    return parser


def evaluate(args):
    evaluation = VideoEvaluation()
    for clip in clips_in_folders(args.predictions, args.targets):
        evaluation.add(clip.name, **clip.load())
    for name, values in evaluation.clips().items():
        print(f"{name}: PSNR {values['psnr']:.2f} dB, SSIM {values['ssim']:.3f}")
    print(table(evaluation.metrics()))


if __name__ == "__main__":
    run(make_parser(), evaluate)
