# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Turn a folder of videos into training clips, with custom filters, and read them as a dataset.

    python examples/prepare_dataset.py --videos videos --output dataset --size 512x896

The same command resumes an interrupted run. `hia-diffusers prepare` has more options.
"""

from functools import partial

from hia_diffusers.commands.arguments import OneLineParser, add_detector_options, detector_arguments, size
from hia_diffusers.commands.running import run
from hia_diffusers.data.clip_sources import PreparedClips
from hia_diffusers.data.dataset import HIADataset
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset


def make_parser():
    parser = OneLineParser(prog="prepare_dataset.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--videos", required=True, help="folder with the videos")
    add("--output", required=True, help="folder of the dataset")
    add("--size", type=partial(size, smallest=16, multiple_of=2), default="512x896", help="WIDTHxHEIGHT of the clips")
    add_detector_options(parser)
    return parser


def prepare(args):
    rules = ClipRules(min_seconds=0.5, min_person_height=0.3)
    options = PreparationOptions(size=args.size, rules=rules, detector=detector_arguments(args))
    report = prepare_dataset(args.videos, args.output, options)
    print(f"{report['clips']} clips, {report['seconds']:g} seconds, from {report['videos']} videos.")
    if report["clips"]:
        sample = HIADataset(PreparedClips(args.output), sizes=[args.size], num_frames=4)[0]
        print(f"A sample has {', '.join(sample)}; its frames are {tuple(sample['pixel_values'].shape)}.")


if __name__ == "__main__":
    run(make_parser(), prepare)
