# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The command `hia-diffusers`, also `python -m hia_diffusers`."""

import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__
from .commands.arguments import OneLineParser


# Each is a module of `commands`, imported only when it runs.
COMMANDS = {
    "animate": "animate the person in an image with the motion of a video, of keypoints or of a pose video",
    "app": "serve a web page on which people animate an image with a motion",
    "prepare": "turn a folder of videos into training clips",
    "evaluate": "evaluate predicted videos, or a pipeline on procedural people",
    "convert": "convert published weights of other projects",
    "models": "list the published checkpoints that --model accepts by name",
}


# With the OpenMP of torch's wheels, a thread that has finished its share of an operation spins for up to 300,000
# rounds, milliseconds, until all have. If another process has the core of one of them, the spinning uses up the time
# in which that one would run, at each of the thousands of operations of a clip. After this many rounds it sleeps.
SPIN_COUNT = "1000"


def wait_without_spinning() -> None:
    """Let the threads of torch sleep while they wait for each other, unless the environment says how they wait.

    It has an effect before torch is imported.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        argv (`Sequence[str]`, *optional*):
            The command and its options; by default, the arguments of the process.
    """
    wait_without_spinning()
    words = sys.argv[1:] if argv is None else list(argv)
    parser = OneLineParser(prog="hia-diffusers", description="Human image animation.")
    parser.add_argument("--version", action="version", version=f"hia-diffusers {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, description="Each has --help, too."
    )
    for name, meaning in COMMANDS.items():
        commands.add_parser(name, help=meaning, add_help=False)
    command = parser.parse_args(words[:1]).command
    importlib.import_module(f"hia_diffusers.commands.{command}").main(words[1:])


if __name__ == "__main__":
    main()
