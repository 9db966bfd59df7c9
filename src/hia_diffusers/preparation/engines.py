# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Parallel calls of a function that is costly to create, such as one with a detector, in many processes."""

import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any


# In a worker process: the factory of its function.
_make: Callable[[], Callable[[str], str]]


def run_local(
    make: Callable[[], Callable[[str], str]],
    names: Sequence[str],
    workers: int = 1,
    suspects: Collection[str] = (),
    on_killed: Callable[[str], str] | None = None,
) -> Iterator[str]:
    """Call a function for every name on this machine.

    If a process is killed, for example by the system when memory runs out, the run and the work on other names
    continue. The names in progress in its pool are repeated last, one at a time.

    Args:
        make (`Callable`):
            Factory that creates the function, once in every process. With several processes, it is pickled.
        names (`Sequence[str]`):
            Arguments of the calls, in no particular order.
        workers (`int`, *optional*, defaults to `1`):
            Number of processes; 1 means this process. They end when this process ends, for any reason.
        suspects (`Collection[str]`, *optional*):
            Names during which an earlier run was killed; they also come last, each in a separate process.
        on_killed (`Callable`, *optional*):
            Called in this process with a name whose process was killed while it worked on nothing else, instead of the
            function. By default, a `RuntimeError` is raised.

    Returns:
        An iterator over the results of the function in the order of completion. An exception in the function ends it.

    Raises:
        RuntimeError: If a process was killed while it created the function.
    """
    others = deque(name for name in names if name not in suspects)
    doubtful = deque(name for name in names if name in suspects)
    if workers == 1 and others:
        yield from map(make(), others)
        others.clear()
    while others:
        doubtful += yield from _run_pool(make, others, workers)
    while doubtful:
        for name in (yield from _run_pool(make, doubtful, 1)):
            if on_killed is None:
                raise RuntimeError(f"The process that worked on {name!r} was killed; was there too little memory?")
            yield on_killed(name)


def _run_pool(
    make: Callable[[], Callable[[str], str]], names: deque[str], workers: int
) -> Generator[str, None, list[str]]:
    """Process names until there are none left or a process is killed, and return the names then in progress."""
    spawn = multiprocessing.get_context("spawn")
    in_work: dict[Future, str] = {}
    with ProcessPoolExecutor(min(workers, len(names)), spawn, initializer=_start_worker, initargs=(make,)) as pool:
        try:
            if workers == 1:  # from here on, only the name can kill the process
                pool.submit(_warm_up).result()
        except BrokenProcessPool as error:
            raise RuntimeError("A worker process was killed as it started; was there too little memory?") from error
        try:
            while names or in_work:
                while names and len(in_work) < workers:
                    task = pool.submit(_call_worker, names[0])
                    in_work[task] = names.popleft()
                done, _ = wait(in_work, return_when=FIRST_COMPLETED)
                for task in done:
                    result = task.result()
                    del in_work[task]
                    yield result
        except BrokenProcessPool:
            return list(in_work.values())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return []


def run_ray(
    make: Callable[[], Callable[[str], str]],
    names: Sequence[str],
    workers: int = 1,
    suspects: Collection[str] = (),
    on_killed: Callable[[str], str] | None = None,
    use_gpu: bool = False,
) -> Iterator[str]:
    """Call a function for every name in actors on the machines of a Ray cluster. Needs the `ray` extra.

    The cluster is the one to which the process is connected, the one given by the environment variable `RAY_ADDRESS`,
    or a new one on this machine. If an actor dies, the run and the work on other names continue: another actor
    replaces it, and the name in progress is repeated once, last.

    Args:
        make (`Callable`):
            Factory that creates the function, once in every actor.
        names (`Sequence[str]`):
            Arguments of the calls, in no particular order.
        workers (`int`, *optional*, defaults to `1`):
            Number of actors.
        suspects (`Collection[str]`, *optional*):
            Names during which an earlier run was killed; they come last.
        on_killed (`Callable`, *optional*):
            Called in this process with a name during which an actor died twice, or once for suspects, instead of the
            function. By default, a `RuntimeError` is raised.
        use_gpu (`bool`, *optional*, defaults to `False`):
            Whether each actor has its own GPU.

    Returns:
        An iterator over the results of the function in the order of completion.

    Raises:
        ImportError: If the `ray` extra is not installed.
        RuntimeError: If the function raised an exception, or an actor died while it created the function.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("The engine 'ray' needs the `ray` extra: pip install 'hia-diffusers[ray]'.") from error

    class Actor:
        def __init__(self):
            self.call = make()

        def start(self) -> None:
            pass

        def work(self, name: str) -> str:
            return self.call(name)

    # Ray's own restarts would never end if the name kills the actor.
    start_actor = ray.remote(num_cpus=0 if use_gpu else 1, num_gpus=int(use_gpu), max_restarts=0)(Actor).remote
    killed = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
    doubtful = set(suspects)
    waiting = deque(sorted(names, key=doubtful.__contains__))
    in_work: dict[Any, tuple[Any, str | None]] = {}

    def start() -> None:
        actor: Any = start_actor()
        in_work[actor.start.remote()] = actor, None

    try:
        for _ in range(min(workers, len(names))):
            start()
        # When nothing is left to do, actors that the cluster has not started yet are not waited for.
        while waiting or any(name is not None for _, name in in_work.values()):
            (task,), _ = ray.wait([*in_work])
            actor, name = in_work.pop(task)
            try:
                result = ray.get(task)
            except killed as error:
                if name is None:
                    raise RuntimeError("A Ray actor died as it started; was there too little memory?") from error
                if name not in doubtful:
                    doubtful.add(name)
                    waiting.append(name)
                elif on_killed is None:
                    message = f"The Ray actor that worked on {name!r} died; was there too little memory?"
                    raise RuntimeError(message) from error
                else:
                    yield on_killed(name)
                start()
                continue
            if waiting:
                begun = waiting.popleft()
                in_work[actor.work.remote(begun)] = actor, begun
            if name is not None:
                yield result
    except ray.exceptions.RayError as error:  # its string is the traceback in the actor
        raise RuntimeError(f"A Ray actor failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for actor, _ in in_work.values():
            ray.kill(actor)


def _start_worker(make: Callable[[], Callable[[str], str]]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _make
    _make = make


def _call_worker(name: str) -> str:
    return _function()(name)


def _warm_up() -> None:
    _function()


@functools.cache
def _function() -> Callable[[str], str]:
    return _make()


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
