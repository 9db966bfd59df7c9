# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The options of what is added to frames, so that people or programs see that they are generated."""

import argparse
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..video.watermark import Watermark

WATERMARK_HELP = "label the frames, in the lower right corner (default: no label; without TEXT: AI-generated)"
INVISIBLE_WATERMARK_HELP = (
    "hide a mark in the frames, which hia_diffusers.video.watermark.read_watermark finds; needs the watermark extra"
)


def add_watermark_options(parser: Any) -> None:
    """To a parser, or to a group of its options."""
    add = parser.add_argument
    add("--watermark", nargs="?", const="AI-generated", metavar="TEXT", help=WATERMARK_HELP)
    add("--invisible-watermark", action="store_true", help=INVISIBLE_WATERMARK_HELP)


def make_watermark(args: argparse.Namespace) -> "Watermark | None":
    """What the options ask for."""
    from ..video.watermark import Watermark

    if args.watermark is None and not args.invisible_watermark:
        return None
    return Watermark(args.watermark, args.invisible_watermark)
