# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a process does that a test has forked from one that has done the imports of a script."""

import multiprocessing
import os
import resource
import runpy
import sys
from pathlib import Path

import torch


def run_script(script: Path, arguments: list[str], output: Path, memory: int | None = None) -> None:
    """Run a script as `python SCRIPT ARGUMENTS >> OUTPUT 2>&1`, with at most so many bytes more than at its start."""
    os.setpgrp()
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for processes of its own, as without this one
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(script), *arguments]
    if memory is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    runpy.run_path(str(script), run_name="__main__")
