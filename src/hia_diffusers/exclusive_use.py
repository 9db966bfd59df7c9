# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""One call at a time: schedulers, and networks that cache, hold the state of the call that uses them."""

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from diffusers import SchedulerMixin
from torch import nn


Method = TypeVar("Method", bound=Callable[..., Any])

USED_HERE = (
    "A pipeline cannot be called, nor its stream be read, inside a call of itself or of another that shares its"
    " components, as from a callback."
)

logger = logging.getLogger(__name__)

# By component, not by pipeline: several pipelines may share some.
_locks: "WeakKeyDictionary[Any, threading.Lock]" = WeakKeyDictionary()
_locks_of_locks = threading.RLock()  # collected streams look at locks, too, at any moment
_here = threading.local()


@contextmanager
def exclusive_use(components: Iterable[Any]) -> Iterator[None]:
    """Wait until no other thread uses any of some components, and let none use them meanwhile.

    Args:
        components (`Iterable`):
            Networks and schedulers.

    Raises:
        RuntimeError: If this thread uses one of them already: it would wait for itself.
    """
    locks = sorted({_lock_of(component) for component in components}, key=id)  # in one order, so that none waits round
    held = _locks_held_here()
    if not held.isdisjoint(locks):
        raise RuntimeError(USED_HERE)
    with ExitStack() as release:
        for lock in locks:
            if not lock.acquire(blocking=False):
                logger.info("The pipeline is in use in another thread; this call waits for it.")
                lock.acquire()
            release.callback(lock.release)
        held.update(locks)
        try:
            yield
        finally:
            held.difference_update(locks)


def one_call_at_a_time(method: Method) -> Method:
    """Let calls of a pipeline's method wait for each other, and for those of pipelines that share components.

    Args:
        method (`Callable`):
            Of a class with `components`.
    """

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        with exclusive_use(part for part in self.components.values() if isinstance(part, (nn.Module, SchedulerMixin))):
            return method(self, *args, **kwargs)

    return called  # type: ignore[return-value]


def is_used_here(component: Any) -> bool:
    """Whether this thread is in a call that uses a component, so that it must not wait for others to use it.

    Args:
        component:
            A network or scheduler.
    """
    return _lock_of(component) in _locks_held_here()


def _lock_of(component: Any) -> threading.Lock:
    original = getattr(component, "_orig_mod", component)  # of a compiled network
    with _locks_of_locks:
        return _locks.setdefault(original, threading.Lock())


def _locks_held_here() -> set[threading.Lock]:
    held: set[threading.Lock] = _here.__dict__.setdefault("locks", set())
    return held
