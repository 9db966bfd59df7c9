# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Convert published weights of other projects to HIA pipelines, or to parts from which training starts."""

import argparse
import importlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..conversion.published import PUBLISHED, PublishedCheckpoint
from .arguments import DTYPES, OneLineParser
from .running import run


def _source(checkpoint: PublishedCheckpoint) -> tuple[str, str, str, list[str]]:
    module, function = checkpoint.converter.split(".")
    result = "a whole pipeline" if checkpoint.missing is None else "a starting point for training"
    options = [name for name in checkpoint.sources if name != "weights"]
    if checkpoint.converter.endswith("convert_moore_animate_anyone"):
        options.append("beta_schedule")
    return module, function, f"{checkpoint.title}: {result}", options


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Source: module and function of hia_diffusers.conversion, what it converts, and its additional options.
SOURCES: dict[str, tuple[str, str, str, list[str]]] = {
    **{name: _source(checkpoint) for name, checkpoint in PUBLISHED.items()},
    "motion-adapter": ("animatediff", "convert_motion_adapter", "AnimateDiff: a MotionAdapter", []),
    "stable-diffusion": (
        "stable_diffusion",
        "convert_stable_diffusion",
        "Stable Diffusion 1.5: a pipeline of diffusers",
        ["config"],
    ),
    "controlnet": (
        "sd_controlnet",
        "convert_controlnet",
        "a ControlNet of Stable Diffusion 1.5: one of six channels",
        ["config", "conditioning_channels"],
    ),
    "image-encoder": ("image_encoder", "convert_image_encoder", "the CLIP image encoder of sd-image-variations", []),
}

PARTS = "parts of Stable Diffusion 1.5, or new networks: a pipeline of HIA that training starts from"
PARTS_OPTIONS: dict[str, dict[str, Any]] = {
    "base": {
        "required": True,
        "help": "Hub id or folder of a pipeline of HIA or of Stable Diffusion 1.5, or a YAML file of new networks",
    },
    "controlnet": {"help": "Hub id or folder of a ControlNet of HIA, or of 3 channels, to be widened"},
    "motion_adapter": {"help": "Hub id or folder of a MotionAdapter of AnimateDiff"},
    "image_encoder": {"help": "Hub id or folder of a CLIP vision tower, such as openai/clip-vit-large-patch14"},
    "vae": {"help": "Hub id or folder of another autoencoder"},
    "snr_shift_factor": {"type": float, "help": "gamma of the schedule, in (0, 1] (default: that of --base, or 4/7)"},
    "prediction_type": {"choices": PREDICTION_TYPES, "help": "what the UNet predicts (default: as that of --base)"},
    "seed": {"type": int, "default": 0, "help": "of new weights"},
    "variant": {"help": "of the names of the files of --base, such as fp16"},
}

WEIGHTS_HELP = "what was published: a file or a folder (docs/conversion.md says which)"
ALLOW_HELP = "keys, or patterns such as 'model_ema.*', that may be left over or missing; those missing get new weights"
OPTIONS: dict[str, dict[str, Any]] = {
    "base": {"help": "folder of Stable Diffusion 1.5 in the layout of diffusers (default: from the Hub)"},
    "image_encoder": {"help": "folder of sd-image-variations-diffusers (default: from the Hub)"},
    "vae": {"help": "folder of another AutoencoderKL (default: that of --base, or sd-vae-ft-mse from the Hub)"},
    "beta_schedule": {
        "choices": ["linear", "scaled_linear"],
        "default": "linear",
        "help": "betas that the weights were trained with",
    },
    "config": {"help": "for a single file: local folder or Hub id with the same configurations"},
    "conditioning_channels": {"type": int, "default": 6, "help": "input channels of the result"},
}


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the options."""
    parser = OneLineParser(prog="hia-diffusers convert", description=__doc__)
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True)
    for source, (_, _, description, options) in SOURCES.items():
        subparser = sources.add_parser(source, help=description, description=description)
        add = subparser.add_argument
        if source in PUBLISHED:
            add("--weights", help=f"{WEIGHTS_HELP} (default: from the Hub)")
            add("--revision", help="branch, tag or commit of the repository on the Hub (default: main)")
        else:
            add("--weights", required=True, help=WEIGHTS_HELP)
        add("--output", type=Path, required=True, help="folder to create")
        for name in options:
            add(f"--{name}", **OPTIONS[name])
        add("--dtype", choices=DTYPES, default="float32", help="of the result's weights")
        add("--variant", help="of the names of the result's files, such as fp16")
        add("--allow", nargs="+", default=[], metavar="KEY", help=ALLOW_HELP)
    subparser = sources.add_parser("parts", help=PARTS, description=PARTS)
    for name, settings in PARTS_OPTIONS.items():
        subparser.add_argument(f"--{name}", **settings)
    subparser.add_argument("--output", type=Path, required=True, help="folder to create")
    return parser


def _convert(args: argparse.Namespace) -> None:
    from ..conversion.converted import check_new_folder

    check_new_folder("output", args.output)
    conversion, options = (_convert_parts if args.source == "parts" else _convert_weights)(args)
    print(conversion.report)
    conversion.save_pretrained(args.output, **options)
    print(f"Written to {args.output}.")


def _convert_parts(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from ..conversion.parts import SCHEDULE_OPTIONS, convert_parts

    options = {name: getattr(args, name) for name in PARTS_OPTIONS}
    schedule = {name: options.pop(name) for name in SCHEDULE_OPTIONS}
    return convert_parts(**options, schedule=schedule), {}


def _convert_weights(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return the conversion, and the options for saving it."""
    import torch

    module, function, _, names = SOURCES[args.source]
    options = {name: getattr(args, name) for name in ("weights", *names) if getattr(args, name) is not None}
    if args.source in PUBLISHED:
        options |= _from_hub(args, options)
    converter = getattr(importlib.import_module(f"hia_diffusers.conversion.{module}"), function)
    conversion = converter(**options, allow=args.allow, dtype=getattr(torch, args.dtype))
    return conversion, {"variant": args.variant} if args.variant else {}


def _from_hub(args: argparse.Namespace, given: Collection[str]) -> dict[str, Path]:
    """Return the folders of sources that are not given, which are downloaded."""
    from ..conversion.hub_downloads import download_checkpoint

    if args.revision is not None and "weights" in given:
        raise ValueError("--revision: cannot be combined with --weights")
    checkpoint = PUBLISHED[args.source]
    given = {*given, "vae"} if "base" in given else given  # which has its own
    sources = {name: files for name, files in checkpoint.sources.items() if name not in given}
    return download_checkpoint(replace(checkpoint, sources=sources), revision=args.revision, notify=print)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options; by default what the process was called with.
    """
    run(make_parser(), _convert, argv)
