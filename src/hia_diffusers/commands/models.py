# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""List the published checkpoints that `--model` accepts by name."""

import argparse
from collections.abc import Sequence

from ..conversion.published import PUBLISHED
from .arguments import OneLineParser
from .running import run


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the options."""
    return OneLineParser(prog="hia-diffusers models", description=__doc__)


def _models(args: argparse.Namespace) -> None:
    from ..conversion.hub_downloads import converted_folders, is_downloaded

    for name, checkpoint in PUBLISHED.items():
        ready = sorted(folder.name.rpartition("-")[2] for folder in converted_folders(name))
        state = "downloaded" if is_downloaded(checkpoint) else "not downloaded"
        if ready:
            state = f"ready in {', '.join(ready)}"
        print(f"{name}: {checkpoint.purpose}")
        print(f"    {checkpoint.download_size / 1e9:.1f} GB from {checkpoint.sources['weights'].repo_id}; {state}")
        print("    GPU memory: {:.1f} GiB, or {:.1f} with offloading by layers".format(*checkpoint.memory))
        print(f"    license: {checkpoint.license}")
        if checkpoint.missing is not None:
            print(f"    cannot animate: {checkpoint.missing}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options; by default what the process was called with.
    """
    run(make_parser(), _models, argv)
