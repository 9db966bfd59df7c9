# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How every command runs: whatever happens, it ends with one sentence and a status."""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .arguments import as_options


# What is raised with a sentence that says what is wrong.
EXPECTED = (ImportError, OSError, RuntimeError, TypeError, ValueError)


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[Any], None],
    argv: Sequence[str] | None = None,
    interrupted: tuple[int, str] = (130, "Interrupted.\n"),
) -> None:
    """Run a command with the options that it was called with.

    Args:
        parser (`argparse.ArgumentParser`):
            Of its options.
        command (`Callable[[Any], None]`):
            What it does with what the parser returns. Whatever it raises becomes one line, and status 2; with
            `PYTHONDEVMODE=1`, it is raised.
        argv (`Sequence[str]`, *optional*):
            The options. The default is what the process was called with.
        interrupted (`tuple[int, str]`, *optional*):
            Status and message after Ctrl+C.
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
