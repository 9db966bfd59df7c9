# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a function that is costly to make, such as one that holds a detector, over names, on many processes."""

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any


# Of a worker process: what makes its function.
_make: Callable[[], Callable[[str], str]]


def run_local(make: Callable[[], Callable[[str], str]], names: Sequence[str], workers: int = 1) -> Iterator[str]:
    """
    Calls a function for every name on this machine.

    Args:
        make (`Callable`):
            Makes the function, once in every process. It is pickled where there are several.
        names (`Sequence[str]`):
            What to call it with, in no particular order.
        workers (`int`, *optional*, defaults to `1`):
            Number of processes; with 1 it is this one. They end when this one does, however it ends.

    Returns:
        An iterator over what the function returns, in the order in which it is done. An exception in the function ends
        it.

    Raises:
        `RuntimeError`: a process was killed, as the system does when memory runs out.
    """
    if workers == 1:
        yield from map(make(), names)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=(make,)) as pool:
        tasks = [pool.submit(_call_worker, name) for name in names]
        try:
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise RuntimeError("A worker process was killed; was there too little memory for `workers`?") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_ray(
    make: Callable[[], Callable[[str], str]], names: Sequence[str], workers: int = 1, use_gpu: bool = False
) -> Iterator[str]:
    """
    Calls a function for every name on the machines of a Ray cluster, by Ray Data. Needs the `ray` extra. The cluster
    is the one that the process is connected to, or that the environment variable `RAY_ADDRESS` names, or a new one on
    this machine.

    Args:
        make (`Callable`):
            Makes the function, once in every actor.
        names (`Sequence[str]`):
            What to call it with, in no particular order.
        workers (`int`, *optional*, defaults to `1`):
            Number of actors.
        use_gpu (`bool`, *optional*, defaults to `False`):
            Whether each actor has a GPU of its own.

    Returns:
        An iterator over what the function returns, in the order in which it is done.

    Raises:
        `ImportError`: the `ray` extra is not installed.
        `RuntimeError`: the function raised an exception, or actors died again and again.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ImportError("The engine 'ray' needs the `ray` extra: pip install 'hia-diffusers[ray]'.") from error

    class Actor:
        def __init__(self):
            self.call = make()

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"name": self.call(row["name"])}

    actor: Any = Actor
    pool = ray.data.ActorPoolStrategy(size=workers)
    rows = ray.data.from_items([{"name": name} for name in names], override_num_blocks=len(names))
    try:
        for row in rows.map(actor, compute=pool, num_gpus=1 if use_gpu else None).iter_rows():
            yield row["name"]
    except ray.exceptions.RayError as error:  # as a string, it is the traceback in the actor
        raise RuntimeError(f"A Ray actor failed: {str(error).strip().splitlines()[-1]}") from error


def _start_worker(make: Callable[[], Callable[[str], str]]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _make
    _make = make


def _call_worker(name: str) -> str:
    return _function()(name)


@functools.cache
def _function() -> Callable[[str], str]:
    return _make()


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
