# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Serve a web page on which people animate an image with a motion."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .animate import HIA_TINY_LIMITS
from .arguments import (
    DETECTOR_DEVICE_HELP,
    OneLineParser,
    add_detector_options,
    add_model_options,
    add_watermark_options,
    detector_arguments,
    make_watermark,
    number,
    size,
)
from .loading import check_memory, check_model, choose_device, load_pipeline, place_pipeline
from .running import run


TINY_SIZE, USUAL_SIZE = (160, 96), (896, 512)  # height and width

HOST_HELP = "address to listen on; 0.0.0.0 lets other machines in"
CONNECTIONS_HELP = "maximum number of open connections per address; increase it behind a reverse proxy"
SIZE_HELP = "WIDTHxHEIGHT of all results, multiples of 8 (default: 96x160 for hia-tiny, else 512x896)"


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the options."""
    parser = OneLineParser(prog="hia-diffusers app", description=__doc__)
    add = parser.add_argument
    add_model_options(parser)
    add("--size", type=size, help=SIZE_HELP)
    add("--host", default="127.0.0.1", help=HOST_HELP)
    add("--port", type=number(int, 1, 65535), default=7860, help="port to listen on")
    add("--max_frames", type=number(int, 1, 10000), default=64, help="longest result, in frames")
    add("--max_upload_mb", type=number(int, 1, 2047), default=50, help="largest upload, in MiB")
    add("--queue_size", type=number(int, 1, 10**4), default=20, help="maximum number of waiting requests")
    add("--connections_per_address", type=number(int, 1, 10**4), default=32, help=CONNECTIONS_HELP)
    add_watermark_options(parser)
    group = parser.add_argument_group("keypoints of uploaded videos")
    add_detector_options(group)
    group.add_argument("--detector_device", default="cpu", help=DETECTOR_DEVICE_HELP)
    return parser


def _check_extra() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        message = "`hia-diffusers app` needs the `demo` extra: pip install 'hia-diffusers[demo]'."
        raise ImportError(message) from error


def _serve(args: argparse.Namespace) -> None:
    height, width = args.size or (USUAL_SIZE if args.model else TINY_SIZE)
    watermark = make_watermark(args)
    if watermark is not None:
        watermark.check_size(width, height)
    _check_extra()
    device = choose_device(args.device)
    check_memory(args.memory, device)
    check_model(args.model, args.variant, args.revision)

    from .. import HIA_TINY
    from ..animation.animator import HIAAnimator
    from ..app.limits import Limits
    from ..app.server import serve as serve_page
    from ..detection.choosing import DETECTORS, choose_detector

    detector = detector_arguments(args) | {"device": args.detector_device}
    print(f"Keypoints of videos are detected with {DETECTORS[choose_detector(**detector)].name}.")
    pipe = load_pipeline(args.model or HIA_TINY, device, args.dtype, variant=args.variant, revision=args.revision)
    pipe = place_pipeline(pipe, device, args.memory, height=height, width=width, num_frames=args.max_frames)
    pipe.set_progress_bar_config(disable=True)
    limits = Limits(
        max_frames=args.max_frames,
        max_upload_bytes=args.max_upload_mb * 2**20,
        address_connections=args.connections_per_address,
    )
    if args.model is None:
        print(HIA_TINY_LIMITS)
        about = (
            "The model is hia-tiny, which supports only drawn people like those below. For photographs, start the "
            "page with `hia-diffusers app --model moore-animate-anyone`."
        )
    else:
        about = f"The model is {Path(args.model).name}."
    serve_page(
        HIAAnimator(pipe, detector, watermark),
        (width, height),
        limits,
        about,
        host=args.host,
        port=args.port,
        queue_size=args.queue_size,
        ready=lambda address: print(f"The page is at {address} until Ctrl+C.", flush=True),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options; by default what the process was called with.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("hia_diffusers.app").setLevel(logging.INFO)
    # Uploads and results must also be deleted when a service manager stops the server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(make_parser(), _serve, argv, interrupted=(0, "Stopped.\n"))
