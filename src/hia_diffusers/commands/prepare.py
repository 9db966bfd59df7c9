# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Makes training clips of a folder of videos: cuts them at scene changes, finds the person, keeps the good clips.

A run that is interrupted goes on where it was when the same command is given again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from ..preparation.clip_rules import ClipRules
from .arguments import OneLineParser, size
from .running import run


if TYPE_CHECKING:
    from ..preparation.prepare_dataset import PreparationOptions

VIDEOS_HELP = (
    "folder with the videos, or a list of them: .txt with a path per line, .csv with a column video or video_path, "
    ".json or .jsonl, with paths relative to its folder; or an fsspec URL of either, such as s3://bucket/videos"
)
FRAMES_HELP = (
    "frames per second of clips that are folders of images, such as ID/images/0001.png (default: none are taken)"
)
KEYPOINTS_HELP = (
    "folder with the keypoints of each video a/b.mp4 as a/b.safetensors or a/b.npz, saved by WholeBodyKeypoints "
    "(default: they are detected)"
)
RULES = {
    "min_seconds": "too_short: shorter clips are left out",
    "max_enlargement": "too_coarse: clips that must be enlarged more to --size are left out",
    "min_person_share": "no_person: clips that show the person in a smaller share of the frames are left out",
    "max_several_share": "several_people: clips with several people in a larger share of the frames are left out",
    "min_person_height": "small_person: clips of a smaller person, as a fraction of the picture, are left out",
    "min_score": "low_scores: clips with a lower mean score of the body points are left out",
    "max_outside_share": "outside_picture: clips with a larger share of body points outside of --size are left out",
    "min_motion": "little_motion: clips with less motion, in heights of the person per second, are left out",
}


def make_parser(prog: str = "hia-diffusers prepare") -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=str(__doc__), allow_abbrev=False)
    add = parser.add_argument
    add("--videos", required=True, help=VIDEOS_HELP)
    add("--output", required=True, help="folder of the dataset, or an fsspec URL of it")
    add(
        "--size",
        type=partial(size, smallest=16, multiple_of=2),
        help="WIDTHxHEIGHT to crop and resize to, even numbers (default: as the video)",
    )
    add("--max-seconds", type=float, default=10.0, help="longer scenes are cut (default: 10)")
    add("--cut-threshold", type=float, default=27.0, help="difference of frames that is a scene change (default: 27)")
    add("--no-smoothing", action="store_true", help="keep the keypoints as they are detected")
    add("--keyframe-interval", type=int, default=12, help="most frames from keyframe to keyframe (default: 12)")
    add("--engine", choices=["local", "ray"], default="local", help="where to run (default: local)")
    add("--workers", type=int, default=1, help="number of processes, or of Ray actors (default: 1)")
    add("--device", default="cpu", help="where keypoints are detected, such as cuda (default: cpu)")
    add("--keypoints", help=KEYPOINTS_HELP)
    add("--frames-fps", type=float, help=FRAMES_HELP)
    add("--detector-model", help="ONNX file or name of the person detector (default: rtmlib's, downloaded)")
    add("--pose-model", help="ONNX file or name of the whole-body pose model (default: rtmlib's, downloaded)")
    add(
        "--feet-model",
        help="ONNX file or name of the pose model for the feet, or 'none' (default: DWPose, downloaded)",
    )
    for rule in fields(ClipRules):
        option = f"--{rule.name.replace('_', '-')}"
        add(option, type=float, default=rule.default, help=f"{RULES[rule.name]} (default: {rule.default:g})")
    return parser


def make_options(args: argparse.Namespace) -> "PreparationOptions":
    from ..preparation.prepare_dataset import PreparationOptions

    models = {name: getattr(args, name) for name in ("detector_model", "pose_model", "feet_model")}
    if args.keypoints is not None and any(models.values()):
        raise ValueError("--keypoints: models that detect keypoints are of no use beside it")
    detector = {name: model for name, model in models.items() if model is not None}
    if detector.get("feet_model") == "none":
        detector["feet_model"] = None
    return PreparationOptions(
        size=args.size,
        max_seconds=args.max_seconds,
        cut_threshold=args.cut_threshold,
        smooth=not args.no_smoothing,
        keyframe_interval=args.keyframe_interval,
        keypoints=args.keypoints,
        frames_fps=args.frames_fps,
        detector=detector,
        rules=ClipRules(**{rule.name: getattr(args, rule.name) for rule in fields(ClipRules)}),
    )


def prepare(args: argparse.Namespace) -> None:
    from ..preparation.prepare_dataset import prepare_dataset

    options = make_options(args)
    report = prepare_dataset(args.videos, args.output, options, args.engine, args.workers, args.device)
    print(f"{report['clips']} clips, {report['seconds']:g} seconds, from {report['videos']} videos.")
    for rule, count in report["dropped"].items():
        print(f"{count:6} clips left out: {rule}")
    if report["failed_videos"]:
        print(f"{report['failed_videos']} videos could not be used; see failures.jsonl.")


def main(argv: Sequence[str] | None = None, prog: str = "hia-diffusers prepare") -> None:
    """
    Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options. The default is what the process was called with.
        prog (`str`, *optional*, defaults to `"hia-diffusers prepare"`):
            Its name in messages.
    """
    run(make_parser(prog), prepare, argv, interrupted=(130, "Interrupted. The same command goes on from here.\n"))
