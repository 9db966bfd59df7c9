# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Scores a folder of generated videos against the ground truth of the same names, and prints each clip's scores.

    python examples/evaluate_hia.py --predictions generated --targets ground_truth

`hia-diffusers evaluate` does the same for folders of frames, too, with more metrics, and scores models.
"""

from pathlib import Path

from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.commands.running import run
from hia_diffusers.metrics.evaluation import VideoEvaluation
from hia_diffusers.video.reading import read_video


def make_parser():
    parser = OneLineParser(prog="evaluate_hia.py", description=__doc__.split("\n")[0])
    parser.add_argument("--predictions", type=Path, required=True, help="folder with the generated .mp4 files")
    parser.add_argument("--targets", type=Path, required=True, help="folder with those of the ground truth")
    return parser


def evaluate(args):
    evaluation = VideoEvaluation()
    for target in sorted(args.targets.glob("*.mp4")):
        prediction = args.predictions / target.name
        evaluation.add(target.stem, read_video(prediction).frames, read_video(target).frames)
    for name, result in evaluation.measures().items():
        print(f"{name}: {result['value']} ({result['better']} is better)")
    for clip, values in evaluation.clips().items():
        print(f"{clip}: {', '.join(f'{name} {value:.4g}' for name, value in values.items() if value is not None)}")


if __name__ == "__main__":
    run(make_parser(), evaluate)
