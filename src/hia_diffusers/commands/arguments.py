# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the command lines of the package and of its examples have in common."""

import argparse
import io
import re
import sys
from collections.abc import Callable
from typing import Any

from ..checks import MAX_AREA, MAX_SIDE


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2. From then on, the console can print any name."""

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


def add_sampling_options(group: Any) -> None:
    """The options of denoising, whose defaults are the model's.

    Args:
        group (`argparse.ArgumentParser` or a group of one):
            Where they are added.
    """
    add = group.add_argument
    add("--steps", type=number(int, 1, 1000), help="denoising steps (default: what the model wants, or 25)")
    add(
        "--guidance",
        type=number(float, 0, 100),
        help="guidance scale, 1 for none (default: what the model wants, or 3.5)",
    )


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Those of the options of denoising that were given, as arguments of the pipeline's call."""
    given = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}
    return {name: value for name, value in given.items() if value is not None}


def size(text: str, smallest: int = 8, multiple_of: int = 8) -> tuple[int, int]:
    """An argument type: WIDTHxHEIGHT in multiples, as a video may have it."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    width, height = map(int, match.groups()) if match else (0, 0)
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
    return width, height


def picture_size(text: str) -> tuple[int, int]:
    """An argument type: WIDTHxHEIGHT of any picture, as height and width."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 1280x720, got {text!r}")
    return height, width
