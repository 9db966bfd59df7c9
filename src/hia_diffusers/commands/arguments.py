# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Options shared by the commands of the package and of its examples, and the parser for all of them.

An option has the name of the corresponding argument. Sizes are typed as WIDTHxHEIGHT and become (height, width).
"""

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checks import MAX_AREA, MAX_SIDE


if TYPE_CHECKING:
    from ..video.watermark import Watermark

DTYPES = ("float32", "float16", "bfloat16")

DETECTOR_OPTIONS = ("detector", "detector_model", "pose_model", "feet_model")
DETECTOR_HELP = (
    "what detects keypoints; auto: MediaPipe, if its extra is installed and RTMPose's models are not downloaded, "
    "otherwise RTMPose"
)
POSE_MODEL_HELP = (
    "RTMPose: name or ONNX file (default: rtmw-l-384x288); MediaPipe: folder or wheel with its models; OpenPose: "
    "folder or id on the Hub"
)
FEET_MODEL_HELP = "RTMPose: the same for the feet; none keeps those of --pose_model (default: dwpose-l-384x288)"
DETECTOR_DEVICE_HELP = "where keypoints are detected: cpu, cuda or cuda:N"
DEVICE_HELP = "such as cpu, cuda or cuda:1 (default: a GPU if there is one)"
MODEL_HELP = "a name listed by `hia-diffusers models`, or the Hub id or local folder of an HIAPipeline"
DTYPE_HELP = "of weights and computation; auto: float16 on a GPU, bfloat16 on CPUs made for it, else float32"
MEMORY_HELP = (
    "what is offloaded to the CPU while it is not used: nothing, networks, blocks or layers; auto: the fastest of "
    "these that fits the GPU"
)
VARIANT_HELP = "which files of --model to load, such as fp16 (default: those without a variant's name)"
WATERMARK_HELP = "label the frames, in the lower right corner (default: no label; without TEXT: AI-generated)"
INVISIBLE_WATERMARK_HELP = (
    "hide a mark in the frames, which hia_diffusers.video.watermark.read_watermark finds; needs the watermark extra"
)


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports errors in one line and exits with status 2. It also makes the console print any file name.

    Args:
        args, kwargs:
            As in `argparse.ArgumentParser`, except that abbreviated options are not accepted, and `--help` shows the
            default of each option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": _KnownDefaults, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse options, as in `argparse`."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # print names that it cannot encode as escapes
            sys.stdout.reconfigure(errors="backslashreplace")
        for word in sys.argv[1:] if args is None else args:
            option, equals, value = word.partition("=")
            if option.startswith("--") and value == "--":  # argparse would ignore it
                self.error(f"argument {option}: expected a value, got '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        """Print an error in one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class _KnownDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


@dataclass(frozen=True)
class Default:
    """The default of an option, which differs from the same value given by the user.

    Args:
        value:
            The value.
        text (`str`, *optional*):
            The value as it is typed, for `--help`.
    """

    value: Any
    text: str | None = None

    def __str__(self) -> str:
        return str(self.value) if self.text is None else self.text


class Flag(argparse.BooleanOptionalAction):
    """An option that can be turned off by adding `no_` before its name."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, **kwargs)
        self.option_strings = [option.replace("--no-", "--no_") for option in self.option_strings]

    def __call__(self, parser: object, namespace: object, values: object, option_string: str | None = None) -> None:
        """Set the flag according to the spelling of the option."""
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def as_options(message: str, names: Iterable[str]) -> str:
    """Replace argument names in a message by option names.

    Args:
        message (`str`):
            Message of an exception or a log, with arguments in backticks, such as `` `retarget` `` or ``
            `retarget=False` ``.
        names (`Iterable[str]`):
            Names of the arguments that are options.
    """
    pattern = re.compile(f"`({'|'.join(names)})(=False)?`")
    return pattern.sub(lambda name: f"--{'no_' if name[2] else ''}{name[1]}", message)


# Types of arguments


def number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """Return an argument type for an int or a float in `[low, high]`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"must be a {whole}number from {low} to {high}, got {text!r}")
        return value

    return parse


def size(text: str, smallest: int = 8, multiple_of: int = 8) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT of a video, in multiples, as height and width."""
    height, width = _height_and_width(text)
    if (
        not smallest <= min(width, height) <= max(width, height) <= MAX_SIDE
        or width * height > MAX_AREA
        or width % multiple_of
        or height % multiple_of
    ):
        raise argparse.ArgumentTypeError(
            f"must be WIDTHxHEIGHT in multiples of {multiple_of} from {smallest} to {MAX_SIDE}, at most {MAX_AREA} "
            f"pixels in all, such as 512x768, got {text!r}"
        )
    return height, width


def image_size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT of any image as height and width."""
    height, width = _height_and_width(text)
    if not 1 <= min(height, width) <= max(height, width) < 10**5:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 1280x720, got {text!r}")
    return height, width


def _height_and_width(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    return (int(match[2]), int(match[1])) if match else (0, 0)


# Options of several commands, and functions that use their values. `parser` is a parser or a group of its options.


def add_model_options(parser: argparse._ActionsContainer) -> None:
    """Add the options of a command that uses hia-tiny by default."""
    add = parser.add_argument
    add("--model", help=f"{MODEL_HELP} (default: hia-tiny, for drawn people only)")
    add("--variant", help=VARIANT_HELP)
    add("--revision", help="branch, tag or commit of a published checkpoint (default: main)")
    add("--device", help=DEVICE_HELP)
    add("--dtype", choices=("auto", *DTYPES), default="auto", help=DTYPE_HELP)
    add("--memory", choices=("auto", "none", "model", "group", "sequential"), default="auto", help=MEMORY_HELP)


def add_sampling_options(parser: argparse._ActionsContainer) -> None:
    """Add the options of denoising, whose defaults are those of the model."""
    add = parser.add_argument
    add("--num_inference_steps", type=number(int, 1, 1000), help="denoising steps (default: the model's, or 25)")
    add("--guidance_scale", type=number(float, 0, 100), help="1 for no guidance (default: the model's, or 3.5)")


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options of denoising, as arguments of the pipeline's call."""
    values = {name: getattr(args, name) for name in ("num_inference_steps", "guidance_scale")}
    return {name: value for name, value in values.items() if value is not None}


def add_detector_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for what detects keypoints in images and videos."""
    add = parser.add_argument
    add("--detector", choices=("auto", "rtmpose", "mediapipe", "openpose"), default="auto", help=DETECTOR_HELP)
    add("--detector_model", help="name or ONNX file of RTMPose's person detector (default: yolox-m)")
    add("--pose_model", help=POSE_MODEL_HELP)
    add("--feet_model", help=FEET_MODEL_HELP)


def detector_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the detector options that were given, as arguments of `create_detector`."""
    given = {name: getattr(args, name) for name in DETECTOR_OPTIONS[1:]}
    given = {name: None if model == "none" else model for name, model in given.items() if model is not None}
    if args.detector in ("mediapipe", "openpose"):
        others = [f"`{name}`" for name in given if name != "pose_model"]
        if others:
            raise ValueError(f"`detector` {args.detector} has no {' and '.join(others)}")
    if args.detector == "openpose" and "pose_model" in given:
        given["model"] = given.pop("pose_model")
    return {"detector": args.detector, **given}


def add_watermark_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for labels and marks that show that frames are generated."""
    add = parser.add_argument
    add("--watermark", nargs="?", const="AI-generated", metavar="TEXT", help=WATERMARK_HELP)
    add("--invisible_watermark", action="store_true", help=INVISIBLE_WATERMARK_HELP)


def make_watermark(args: argparse.Namespace) -> "Watermark | None":
    """Create the watermark that the options request."""
    from ..video.watermark import Watermark

    if args.watermark is None and not args.invisible_watermark:
        return None
    return Watermark(args.watermark, args.invisible_watermark)
