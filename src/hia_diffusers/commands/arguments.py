# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The options that the command lines of the package and of its examples have in common, and how all are read.

An option has the name of the argument that it stands for. Sizes are typed as WIDTHxHEIGHT and become (height, width).
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

DETECTOR_DEVICE_HELP = "where keypoints are detected: cpu, cuda or cuda:N"
DEVICE_HELP = "such as cpu, cuda or cuda:1 (default: a GPU if there is one)"
MODEL_HELP = "a name that `hia-diffusers models` lists, or the id on the Hub or local folder of a HIAPipeline"
DTYPE_HELP = "of weights and computation; auto: float16 on a GPU, float32 on the CPU"
VARIANT_HELP = "which files of --model to load, such as fp16 (default: those without a variant's name)"
WATERMARK_HELP = "label the frames, in the lower right corner (default: no label; without TEXT: AI-generated)"
INVISIBLE_WATERMARK_HELP = (
    "hide a mark in the frames, which hia_diffusers.video.watermark.read_watermark finds; needs the watermark extra"
)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2. From then on, the console can print any name.

    Args:
        *args, **kwargs:
            As for `argparse.ArgumentParser`, but options are written in full, and `--help` shows the default of each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": _KnownDefaults, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot encode is no failure
            sys.stdout.reconfigure(errors="backslashreplace")
        for word in sys.argv[1:] if args is None else args:
            option, equals, value = word.partition("=")
            if option.startswith("--") and value == "--":  # which argparse would take for no value at all
                self.error(f"argument {option}: expected a value, got '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class _KnownDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


@dataclass(frozen=True)
class Default:
    """The default of an option, to be told from the same value where that is given.

    Args:
        value:
            What it stands for.
        text (`str`, *optional*):
            How it is typed.
    """

    value: Any
    text: str | None = None

    def __str__(self) -> str:
        return str(self.value) if self.text is None else self.text


class Flag(argparse.BooleanOptionalAction):
    """An option that `--no_` before its name turns off."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, **kwargs)
        self.option_strings = [option.replace("--no-", "--no_") for option in self.option_strings]

    def __call__(self, parser: object, namespace: object, values: object, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def as_options(message: str, names: Iterable[str]) -> str:
    """A message in the words of the command line, where arguments are options of the same name.

    Args:
        message (`str`):
            Of an exception or a log, with arguments in backticks, such as `` `retarget` `` or `` `retarget=False` ``.
        names (`Iterable[str]`):
            Of the arguments that are options.
    """
    pattern = re.compile(f"`({'|'.join(names)})(=False)?`")
    return pattern.sub(lambda name: f"--{'no_' if name[2] else ''}{name[1]}", message)


# Types of arguments


def number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """An argument type: an int or a float in `[low, high]`."""

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
    """An argument type: WIDTHxHEIGHT in multiples, as a video may have it, as height and width."""
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
    """An argument type: WIDTHxHEIGHT of any image, as height and width."""
    height, width = _height_and_width(text)
    if not 1 <= min(height, width) <= max(height, width) < 10**5:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 1280x720, got {text!r}")
    return height, width


def _height_and_width(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    return (int(match[2]), int(match[1])) if match else (0, 0)


# Options that several commands have, each with what is made of them. `parser` is a parser or a group of its options.


def add_model_options(parser: Any) -> None:
    """Of a command that runs hia-tiny if no model is given."""
    add = parser.add_argument
    add("--model", help=f"{MODEL_HELP} (default: hia-tiny, which knows drawn people only)")
    add("--variant", help=VARIANT_HELP)
    add("--revision", help="branch, tag or commit of a published checkpoint (default: main)")
    add("--device", help=DEVICE_HELP)
    add("--dtype", choices=("auto", *DTYPES), default="auto", help=DTYPE_HELP)


def add_sampling_options(parser: Any) -> None:
    """The options of denoising, whose defaults are the model's."""
    add = parser.add_argument
    add("--num_inference_steps", type=number(int, 1, 1000), help="denoising steps (default: the model's, or 25)")
    add("--guidance_scale", type=number(float, 0, 100), help="1 for no guidance (default: the model's, or 3.5)")


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Those of the options of denoising that were given, as arguments of the pipeline's call."""
    values = {name: getattr(args, name) for name in ("num_inference_steps", "guidance_scale")}
    return {name: value for name, value in values.items() if value is not None}


def add_detector_options(parser: Any) -> None:
    """The models that find keypoints in videos of a person."""
    add = parser.add_argument
    add("--detector_model", default="yolox-m", help="name or ONNX file of the person detector")
    add("--pose_model", default="rtmw-l-384x288", help="name or ONNX file of the pose model")
    add("--feet_model", default="dwpose-l-384x288", help="the same for the feet; none keeps those of --pose_model")


def detector_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a `KeypointDetector`."""
    models = {name: getattr(args, name) for name in ("detector_model", "pose_model", "feet_model")}
    return {name: None if model == "none" else model for name, model in models.items()}


def add_watermark_options(parser: Any) -> None:
    """What is added to frames, so that people or programs see that they are generated."""
    add = parser.add_argument
    add("--watermark", nargs="?", const="AI-generated", metavar="TEXT", help=WATERMARK_HELP)
    add("--invisible_watermark", action="store_true", help=INVISIBLE_WATERMARK_HELP)


def make_watermark(args: argparse.Namespace) -> "Watermark | None":
    """What the options ask for."""
    from ..video.watermark import Watermark

    if args.watermark is None and not args.invisible_watermark:
        return None
    return Watermark(args.watermark, args.invisible_watermark)
