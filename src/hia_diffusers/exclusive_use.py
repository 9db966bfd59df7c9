# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Serialization of calls: schedulers, and networks with caches, contain the state of the current call."""

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
    " components, for example from a callback."
)

logger = logging.getLogger(__name__)

# By component, not by pipeline: pipelines may share components.
_locks: "WeakKeyDictionary[Any, threading.Lock]" = WeakKeyDictionary()
_locks_of_locks = threading.RLock()  # garbage-collected streams may use locks at any moment
_here = threading.local()


@contextmanager
def exclusive_use(components: Iterable[Any]) -> Iterator[None]:
    """Wait until no other thread uses the given components, and reserve them.

    Args:
        components (`Iterable`):
            Networks and schedulers.

    Raises:
        RuntimeError: If this thread already uses one of them: it would wait for itself.
    """
    locks = sorted({_lock_of(component) for component in components}, key=id)  # in a fixed order, to avoid deadlocks
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
    """Serialize calls of a pipeline's method with each other and with those of pipelines that share components.

    Args:
        method (`Callable`):
            Method of a class with `components`.
    """

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        with exclusive_use(part for part in self.components.values() if isinstance(part, (nn.Module, SchedulerMixin))):
            return method(self, *args, **kwargs)

    return called  # type: ignore[return-value]


def is_used_here(component: object) -> bool:
    """Return whether this thread is in a call that uses a component, so that it must not wait for it.

    Args:
        component:
            A network or scheduler.
    """
    return _lock_of(component) in _locks_held_here()


def _lock_of(component: object) -> threading.Lock:
    original = getattr(component, "_orig_mod", component)  # of a compiled network
    with _locks_of_locks:
        return _locks.setdefault(original, threading.Lock())


def _locks_held_here() -> set[threading.Lock]:
    held: set[threading.Lock] = _here.__dict__.setdefault("locks", set())
    return held
