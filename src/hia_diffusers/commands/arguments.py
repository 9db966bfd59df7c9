# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the command lines of the package and of its examples have in common."""

import argparse
import re
from collections.abc import Callable
from typing import Any


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

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


def size(text: str, smallest: int = 8) -> tuple[int, int]:
    """An argument type: WIDTHxHEIGHT in multiples of 8."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if min(width, height) < smallest or width % 8 or height % 8:
        least = f" from {smallest} on" if smallest > 8 else ""
        raise argparse.ArgumentTypeError(
            f"must be WIDTHxHEIGHT in multiples of 8{least}, such as 512x768, got {text!r}"
        )
    return width, height
