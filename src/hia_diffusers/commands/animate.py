# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animate the person in an image with the motion of a person in a video, of a keypoint file or of a pose video."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import checks
from ..checks import MAX_SIDE
from ..conversion.published import PUBLISHED
from .arguments import (
    DETECTOR_DEVICE_HELP,
    Flag,
    OneLineParser,
    add_detector_options,
    add_model_options,
    add_sampling_options,
    add_watermark_options,
    as_options,
    detector_arguments,
    image_size,
    make_watermark,
    number,
    sampling_arguments,
    size,
)
from .loading import (
    check_memory,
    check_model,
    choose_device,
    is_published,
    load_pipeline,
    model_defaults,
    place_pipeline,
)
from .running import run


if TYPE_CHECKING:
    from ..animation.animator import HIAAnimator
    from ..animation.result import HIAAnimation

DRIVING_HELP = (
    "the motion: a video of a person or an OpenPose-style pose video, as a file (also GIF or WebP) or a folder of "
    "images; keypoints (saved by WholeBodyKeypoints); or a pose file of another tool: OpenPose's or ComfyUI's .json, "
    "a folder of them, MMPose's .json, DWPose's .npz or .npy; the result has its frame rate"
)
DRIVING_FPS_HELP = "frames per second of a folder of images, or of a pose file that does not state them"
DRIVING_SIZE_HELP = "WIDTHxHEIGHT of the image in which the points of a pose file lie, if the file does not state it"
DRIVING_TYPE_HELP = (
    "what --driving is; auto decides by its suffix and the colours of the video, and prints it; a DensePose video, "
    "which magic-animate reads, must be named"
)
OUTPUT_HELP = (
    "what to write: an .mp4, .webm, .gif or .webp file, or a folder of .png files, whose name has no suffix or ends "
    "in /; an existing one is replaced"
)
SOUND_HELP = (
    "add the sound of --driving, cut to the length of the result (default: yes, if it has any and --output is .mp4 or "
    ".webm)"
)
PERSON_HELP = "box around the person to follow in --driving, in pixels (default: the largest in the first frame)"
IMAGE_PERSON_HELP = "box around the person to animate in the image, in pixels (default: the largest)"
RETARGET_HELP = (
    "adapt the motion to the proportions and position of the person in the image "
    "(default: yes for a video of a person, and with --image_keypoints or --image_person)"
)
IMAGE_KEYPOINTS_HELP = "keypoints of the person in the image, one frame (default: detected if needed)"
START_HELP = "where the motion begins in --driving (default: with its first frame); the sound begins there, too"
EVERY_HELP = "use each N-th frame of the motion, at as many fewer frames per second"
FPS_HELP = (
    "frames per second of the result, which changes its speed but not that of its sound (default: those of --driving "
    "divided by --every)"
)
SHARPNESS_HELP = (
    "hand sharpness, from 0 (strong motion blur) to 1 (sharp); auto: as a camera would show hands at their speed; "
    "driving: as in a --driving that is a video of a person; unknown: the blur condition is off, as always with pose "
    "videos"
)
SIZE_HELP = (
    "WIDTHxHEIGHT of the result, multiples of 8 (default: the area that the model states, with the aspect ratio of "
    "the image if the motion is aligned to it, and otherwise of the driving; the size of the driving if the model "
    "states no area). An image of another aspect ratio is fitted into it whole, with bars in the colour of its "
    "border, and so is a motion that is not aligned"
)
LONG_SIDE_HELP = "longer side of the result, a multiple of 8, instead of --size; the aspect ratio is the default one"
PREVIEW_EVERY_HELP = (
    "every N denoising steps, write what some frames will look like to OUTPUT_live.png, where OUTPUT has no suffix"
)
LONG = 30  # seconds
HIA_TINY_LIMITS = (
    "No --model given: using hia-tiny from the package, which supports only procedural people at 96x160. For a "
    "photograph: --model moore-animate-anyone; `hia-diffusers models` lists others."
)


def _sharpness(text: str) -> str | float:
    return text if text in ("auto", "driving", "unknown") else number(float, 0, 1)(text)


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        x0 = x1 = y0 = y1 = 0.0
    if not (0 <= x0 < x1 < float("inf") and 0 <= y0 < y1 < float("inf")):
        raise argparse.ArgumentTypeError(f"must be X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1, got {text!r}")
    return x0, y0, x1, y1


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the options."""
    parser = OneLineParser(prog="hia-diffusers animate", description=__doc__)
    add = parser.add_argument
    add("--image", type=Path, required=True, help="image of the person")
    add("--driving", type=Path, required=True, help=DRIVING_HELP)
    add(
        "--driving_type",
        choices=["auto", "video", "keypoints", "pose", "densepose"],
        default="auto",
        help=DRIVING_TYPE_HELP,
    )
    add("--driving_fps", type=number(float, 0.001, 1000), help=DRIVING_FPS_HELP)
    add("--driving_size", type=image_size, metavar="WIDTHxHEIGHT", help=DRIVING_SIZE_HELP)
    add("--output", required=True, help=OUTPUT_HELP)
    add_model_options(parser)
    add("--sharpness", type=_sharpness, default="auto", help=SHARPNESS_HELP)
    add_sampling_options(parser)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--size", type=size, help=SIZE_HELP)
    sizes.add_argument("--long_side", type=number(int, 8, MAX_SIDE), metavar="PIXELS", help=LONG_SIDE_HELP)
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, help="seed of the noise")
    add("--start", type=number(float, 0, 10**6), metavar="SECONDS", help=START_HELP)
    add("--end", type=number(float, 0, 10**6), metavar="SECONDS", help="where the motion ends in --driving")
    add("--every", type=number(int, 1, 10**6), default=1, metavar="N", help=EVERY_HELP)
    add("--max_frames", type=number(int, 1, 10**6), help="at most so many frames of these")
    add("--fps", type=number(float, 0.001, 1000), help=FPS_HELP)
    add("--sound", action=Flag, help=SOUND_HELP)
    add_watermark_options(parser)
    add("--preview", action="store_true", help="also write OUTPUT_preview.mp4: reference, condition, result")
    add("--preview_every", type=number(int, 1, 1000), metavar="N", help=PREVIEW_EVERY_HELP)
    keypoints = parser.add_argument_group("keypoints")
    add = keypoints.add_argument
    add("--retarget", action=Flag, help=RETARGET_HELP)
    add("--image_keypoints", type=Path, metavar="FILE", help=IMAGE_KEYPOINTS_HELP)
    add("--image_person", type=_box, metavar="X0,Y0,X1,Y1", help=IMAGE_PERSON_HELP)
    add("--person", type=_box, metavar="X0,Y0,X1,Y1", help=PERSON_HELP)
    add_detector_options(keypoints)
    add("--detector_device", default="cpu", help=DETECTOR_DEVICE_HELP)
    return parser


def _preview_path(output: str) -> Path:
    return Path(output).with_name(f"{Path(output).stem}_preview.mp4")


def _live_path(output: str) -> Path:
    return Path(output).with_name(f"{Path(output).stem}_live.png")


def _outputs(args: argparse.Namespace) -> list[str | Path]:
    return [args.output, _preview_path(args.output)] if args.preview else [args.output]


def _check_arguments(args: argparse.Namespace) -> None:
    inputs = {"--image": args.image, "--driving": args.driving, "--image_keypoints": args.image_keypoints}
    inputs = {option: path for option, path in inputs.items() if path is not None}
    for option, path in inputs.items():
        # os.path also works for paths that no file can have.
        if not os.path.isfile(path) and not (os.path.isdir(path) and option == "--driving"):
            raise ValueError(f"{option}: there is no file {str(path)!r}")
    from ..files import check_writable
    from ..video.writing import check_output

    try:
        if args.preview_every:
            check_writable(_live_path(args.output))
        for path in _outputs(args):
            check_output(path)
            if Path(path).resolve() in [given.resolve() for given in inputs.values()]:
                raise ValueError(f"{str(path)!r} is one of the inputs")
    except (OSError, ValueError) as error:
        raise ValueError(f"--output: {str(error).removeprefix('`path` ')}") from error


class _OptionFormatter(logging.Formatter):
    """Replaces argument names in messages by option names."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        """Format a message."""
        return as_options(super().format(record), self.names)


@contextmanager
def log_to_stdout(options: Collection[str]) -> Iterator[None]:
    """Print what the animator decides, with its arguments as options."""
    logger, handler = logging.getLogger("hia_diffusers.animation"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(_OptionFormatter(options))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def prepare(
    args: argparse.Namespace, call_defaults: Mapping[str, Any] | None = None
) -> tuple["HIAAnimator", "HIAAnimation"]:
    """Prepare everything that does not need the pipeline."""
    from ..animation.animator import HIAAnimator

    animator = HIAAnimator(
        detector=detector_arguments(args) | {"device": args.detector_device},
        watermark=make_watermark(args),
        call_defaults=call_defaults,
    )
    height, width = args.size or (None, None)
    animation = animator.prepare(
        args.image,
        args.driving,
        driving_type=args.driving_type,
        driving_fps=args.driving_fps,
        driving_size=args.driving_size,
        start=args.start,
        end=args.end,
        every=args.every,
        max_frames=args.max_frames,
        fps=args.fps,
        person=args.person,
        image_person=args.image_person,
        retarget=args.retarget,
        image_keypoints=args.image_keypoints,
        sharpness=args.sharpness,
        height=height,
        width=width,
        long_side=args.long_side,
    )
    return animator, animation


def _print_expected_time(began: float, pipe: Any, step: int) -> None:
    """Print how long denoising will take, once its first step is done, if that is long enough to wonder."""
    expected = (time.monotonic() - began) * (pipe.num_timesteps - 1)
    if step == 0 and expected >= LONG:
        print(f"Denoising takes about {timedelta(seconds=round(expected))} more.")


def _step_callback(animator: "HIAAnimator", live: Path, every: int | None) -> dict[str, Any]:
    """Return the arguments of the pipeline for what is done after each step."""
    from ..pipelines.preview import PreviewCallback, write_side_by_side

    began = time.monotonic()

    def show(frames: Sequence[Any]) -> None:
        write_side_by_side(live, animator.mark(frames))

    preview = None if every is None else PreviewCallback(show, every)

    def step_done(pipe: Any, step: int, timestep: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        _print_expected_time(began, pipe, step)
        return tensors if preview is None else preview(pipe, step, timestep, tensors)

    tensors = [] if preview is None else preview.tensor_inputs
    return {"callback_on_step_end": step_done, "callback_on_step_end_tensor_inputs": tensors}


def _animate(args: argparse.Namespace) -> None:
    _check_arguments(args)
    device = choose_device(args.device)
    check_memory(args.memory, device)
    check_model(args.model, args.variant, args.revision)
    from .. import HIA_TINY
    from ..animation.arguments import check_kind
    from ..pipelines.call_defaults import AREA, POSE_MAP

    model = args.model or HIA_TINY
    if is_published(model):  # the image and the clip are read before gigabytes are downloaded
        checkpoint = PUBLISHED[model]
        check_kind(args.driving_type, checkpoint.pose_map)
        call_defaults: dict[str, Any] = {AREA: checkpoint.area, POSE_MAP: checkpoint.pose_map}
    else:
        call_defaults = model_defaults(model)
    with log_to_stdout(vars(args)):
        animator, animation = prepare(args, call_defaults)
        sound = animation.sound_arguments(args.output, args.sound is not False)["audio_from"] is not None

    import torch

    from ..animation.result import COMMENT
    from ..video.writing import check_output, write_video

    height, width = animation.condition.height, animation.condition.width
    check_output(args.output, height, width, animation.fps)
    if args.preview:
        check_output(_preview_path(args.output), height, 3 * width, animation.fps)
    if args.model is None:
        print(HIA_TINY_LIMITS)
    pipe = load_pipeline(model, device, args.dtype, variant=args.variant, revision=args.revision)
    animator.pipe = place_pipeline(
        pipe, device, args.memory, height=height, width=width, num_frames=len(animation.condition)
    )
    if args.preview_every:
        print(f"Previews are written to {_live_path(args.output)} while the frames are denoised.")
    result = animator.generate(
        animation,
        args.output,
        sound,
        keep_frames=args.preview,
        generator=torch.Generator("cpu").manual_seed(args.seed),
        **_step_callback(animator, _live_path(args.output), args.preview_every),
        **sampling_arguments(args),
    )
    if args.preview:
        write_video(_preview_path(args.output), result.preview(), result.fps, comment=COMMENT)
    length = (
        f"{checks.counted(len(result.condition), 'frame')} of {width}x{height} at {result.fps:g} frames per second"
    )
    print(f"Wrote {args.output}: {length}{', with the sound of the driving' if sound else ''}.")
    if args.preview:
        print(f"Wrote {_preview_path(args.output)}: reference, condition and result side by side.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options; by default what the process was called with.
    """
    run(make_parser(), _animate, argv)
