# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Python processes forked from one that has done the imports, which take most of the time of a new interpreter."""

import multiprocessing
import multiprocessing.forkserver
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch


_home = tempfile.TemporaryDirectory()
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": _home.name, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "accelerate",
        "diffusers.optimization",
        "diffusers.schedulers",
        "diffusers.training_utils",
        "forked_python",
        "hia_diffusers.animation.animator",
        "hia_diffusers.commands.config_parser",
        "hia_diffusers.preparation.prepare_dataset",
        "hia_diffusers.training.export",
        "hia_diffusers.training.iresnet",
        "hia_diffusers.training.out_of_memory",
        "hia_diffusers.training.validation",
        "matplotlib.backends.backend_agg",
        "pyarrow.parquet",
        "scipy.signal",
        "torch.utils.tensorboard",
    ]
)


def ensure_running() -> None:
    """Start the process that others are forked from, also by `torch.multiprocessing`; it stays until tests end."""
    with mock.patch.dict(os.environ, _ENVIRONMENT):
        multiprocessing.forkserver.ensure_running()


def start(command, output: Path, errors: Path | None = None, cwd: Path | None = None, memory: int | None = None):
    """
    Start `python COMMAND >> OUTPUT 2>> ERRORS` in a process group of its own, with one thread, an empty cache and no
    network.

    Args:
        command (`Sequence`):
            A script or `-m` and a module, and arguments.
        output (`Path`), errors (`Path`, *optional*, defaults to `output`):
            Files that what is printed is added to.
        cwd (`Path`, *optional*):
            The working directory.
        memory (`int`, *optional*):
            Bytes that the process may allocate beyond those of its start.
    """
    ensure_running()
    output.touch()
    arguments = ([*map(str, command)], output, errors or output, cwd, memory)
    process = _processes.Process(target=_run_command, args=arguments)
    process.start()
    return process


def run(*command, cwd: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *command], capture_output=True, text=True)`."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("output", "errors")]
        process = start(command, *files, cwd)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, process.exitcode, *(file.read_text() for file in files))


def _run_command(command, output, errors, cwd, memory):
    os.setpgrp()
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for processes of its own, as without this one
    for path, descriptor in ((output, 1), (errors, 2)):
        with path.open("a") as file:
            os.dup2(file.fileno(), descriptor)
    if cwd is not None:
        os.chdir(cwd)
    if memory is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
