# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Computations one at a time, each of which the session that asked for it can stop."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


# The page lets one job run. Others are here only until they notice that they were cancelled.
MAX_WAITING = 8


class Cancelled(Exception):
    """The session does not want the result any more."""


class Job:
    """
    One computation.

    Args:
        report (`Callable[[str, int, int], None]`):
            Takes what is being done, how many parts of it are done, and how many there are.
    """

    def __init__(self, report: Callable[[str, int, int], None]):
        self._report = report
        self._cancelled = threading.Event()

    def reached(self, stage: str, done: int, total: int) -> None:
        """
        Report progress. Between two calls of this, a computation cannot be stopped.

        Args:
            stage (`str`):
                What is being done.
            done (`int`):
                How many parts of it are done.
            total (`int`):
                How many there are.

        Raises:
            `Cancelled`: the job is to end here.
        """
        if self._cancelled.is_set():
            raise Cancelled(f"{stage} {done}/{total}")
        self._report(stage, done, total)

    def cancel(self) -> None:
        """End the job at the next `reached`."""
        self._cancelled.set()


class Jobs:
    """The jobs that run or wait, by session."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._sessions: dict[Job, str] = {}
        self._closed = False

    @contextmanager
    def running(self, session: str, report: Callable[[str, int, int], None]) -> Iterator[Job]:
        """
        A job, once all before it are done.

        Args:
            session (`str`):
                Who can cancel it.
            report (`Callable[[str, int, int], None]`):
                As for [`Job`].

        Raises:
            `Cancelled`: it was cancelled before it began.
            `ValueError`: too many wait already; each keeps a thread.
        """
        if len(self._sessions) > MAX_WAITING:
            raise ValueError("Too many are waiting; try again later.")
        job = Job(report)
        self._sessions[job] = session
        try:
            if self._closed:
                job.cancel()
            # A job that was cancelled ends at its next step only.
            while not self._turn.acquire(timeout=0.1):
                job.reached("Waiting", 0, 1)
            try:
                yield job
            finally:
                self._turn.release()
        finally:
            del self._sessions[job]

    def cancel(self, session: str) -> None:
        """
        Stop the jobs of a session, if it has any.

        Args:
            session (`str`):
                What `running` was given.
        """
        for job, its_session in list(self._sessions.items()):
            if its_session == session:
                job.cancel()

    def close(self) -> None:
        """Stop all jobs, wait until none runs, and let none run any more."""
        self._closed = True
        for job in list(self._sessions):
            job.cancel()
        self._turn.acquire()
