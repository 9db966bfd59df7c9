# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Create training clips from a folder of videos: cut at scene changes, detect the person, and keep good clips.

The same command resumes an interrupted run.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from ..preparation.clip_rules import ClipRules
from .arguments import (
    DETECTOR_DEVICE_HELP,
    DETECTOR_OPTIONS,
    Flag,
    OneLineParser,
    add_detector_options,
    detector_arguments,
    size,
)
from .running import run


if TYPE_CHECKING:
    from ..preparation.prepare_dataset import PreparationOptions

VIDEOS_HELP = (
    "folder with the videos, or a list of them: .txt with a path per line, .csv with a column video or video_path, "
    ".json or .jsonl, with paths relative to its folder; or an fsspec URL of either, such as s3://bucket/videos"
)
FRAMES_HELP = (
    "frames per second of clips that are folders of images, such as ID/images/0001.png (default: such clips are not "
    "used)"
)
KEYPOINTS_HELP = (
    "folder with the keypoints of each video a/b.mp4 as a/b.safetensors or a/b.npz, saved by WholeBodyKeypoints "
    "(default: they are detected)"
)
RULES = {
    "min_seconds": "too_short: shorter clips are rejected",
    "max_upscale_factor": "too_coarse: clips that must be enlarged more to --size are rejected",
    "min_person_visible_ratio": "no_person: clips that show the person in a smaller part of the frames are rejected",
    "max_multi_person_ratio": "several_people: clips with several people in a larger part of the frames are rejected",
    "min_person_height": "small_person: clips of a smaller person, as a fraction of the image, are rejected",
    "min_score": "low_scores: clips with a lower mean score of the body points are rejected",
    "max_outside_ratio": "outside_image: clips with a larger part of the body points outside --size are rejected",
    "min_motion": "little_motion: clips with less motion, in heights of the person per second, are rejected",
}


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the options."""
    parser = OneLineParser(prog="hia-diffusers prepare", description=str(__doc__))
    add = parser.add_argument
    add("--videos", required=True, help=VIDEOS_HELP)
    add("--output", required=True, help="folder of the dataset, or an fsspec URL of it")
    add(
        "--size",
        type=partial(size, smallest=16, multiple_of=2),
        help="WIDTHxHEIGHT to crop and resize to, even numbers (default: as the video)",
    )
    add("--max_seconds", type=float, default=10.0, help="longer scenes are cut")
    add("--cut_threshold", type=float, default=27.0, help="difference of frames that is a scene change")
    add("--smooth", action=Flag, default=True, help="smooth the keypoints and fill short gaps")
    add("--keyframe_interval", type=int, default=12, help="most frames from keyframe to keyframe")
    add("--engine", choices=["local", "ray"], default="local", help="where to run")
    add("--workers", type=int, default=1, help="number of processes, or of Ray actors")
    add("--device", default="cpu", help=DETECTOR_DEVICE_HELP)
    add("--keypoints", help=KEYPOINTS_HELP)
    add("--frames_fps", type=float, help=FRAMES_HELP)
    add_detector_options(parser)
    for rule in fields(ClipRules):
        add(f"--{rule.name}", type=float, default=rule.default, help=RULES[rule.name])
    return parser


def _make_options(args: argparse.Namespace) -> "PreparationOptions":
    from ..detection.choosing import choose_detector
    from ..preparation.prepare_dataset import PreparationOptions

    given = [name for name in DETECTOR_OPTIONS if getattr(args, name) not in (None, "auto")]
    if args.keypoints is not None and given:
        raise ValueError(f"`keypoints`: keypoints are not detected then; omit `{'` and `'.join(given)}`")
    detector = {}
    if args.keypoints is None:
        detector = detector_arguments(args)
        detector["detector"] = choose_detector(**detector, device=args.device)
    return PreparationOptions(
        size=args.size,
        max_seconds=args.max_seconds,
        cut_threshold=args.cut_threshold,
        smooth=args.smooth,
        keyframe_interval=args.keyframe_interval,
        keypoints=args.keypoints,
        frames_fps=args.frames_fps,
        detector=detector,
        rules=ClipRules(**{rule: getattr(args, rule) for rule in RULES}),
    )


def _prepare(args: argparse.Namespace) -> None:
    from ..detection.choosing import DETECTORS
    from ..preparation.prepare_dataset import prepare_dataset

    options = _make_options(args)
    report = prepare_dataset(
        args.videos, args.output, options, engine=args.engine, workers=args.workers, device=args.device
    )
    print(f"{report['clips']} clips, {report['seconds']:g} seconds, from {report['videos']} videos.")
    if options.detector:
        print(f"Keypoints were detected with {DETECTORS[options.detector['detector']].name}.")
    for rule, count in report["dropped"].items():
        print(f"{count:6} clips rejected: {rule}")
    if report["failed_videos"]:
        print(f"{report['failed_videos']} videos could not be used; see failures.jsonl.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options; by default what the process was called with.
    """
    run(make_parser(), _prepare, argv, interrupted=(130, "Interrupted. The same command resumes the run.\n"))
