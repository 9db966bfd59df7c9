# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Running of a command, which always ends with one sentence and an exit status."""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .arguments import as_options


# Errors whose message is a complete sentence.
EXPECTED = (ImportError, OSError, RuntimeError, TypeError, ValueError)


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[Any], None],
    argv: Sequence[str] | None = None,
    interrupted: tuple[int, str] = (130, "Interrupted.\n"),
) -> None:
    r"""Run a command with its options.

    Args:
        parser (`argparse.ArgumentParser`):
            Parser of the options.
        command (`Callable[[Any], None]`):
            Function that is called with the result of the parser. Any error that it raises is printed in one line,
            with exit status 2; with `PYTHONDEVMODE=1`, it is raised.
        argv (`Sequence[str]`, *optional*):
            The options, by default those of the process.
        interrupted (`tuple[int, str]`, *optional*, defaults to `(130, "Interrupted.\n")`):
            Exit status and message after Ctrl+C.
    """
    args = parser.parse_args(argv)
    try:
        command(args)
    except KeyboardInterrupt:
        parser.exit(*interrupted)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        parser.error(as_options(_sentence(error), vars(args)))


def _sentence(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f' ({error})' if str(error) else ''}"
    if isinstance(error, EXPECTED) and str(error):
        message = str(error)
        if "Original Traceback (most recent call last):" in message:  # torch's, of a process that loads data
            message = message.strip().splitlines()[-1].partition(": ")[2]
        return message
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return f"unexpected {type(error).__name__} at {place}: {error} (PYTHONDEVMODE=1 shows the traceback)"
