# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Computations, one of each session that asked for one, which the session can stop and which run one at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


# In which a session that asked for a computation must listen for its result.
SECONDS = 5.0


class Cancelled(Exception):
    """Nobody wants the result any more."""


class Job:
    """
    One computation.

    Args:
        report (`Callable[[str, int, int], None]`):
            Takes what is being done, how many parts of it are done, and how many there are.
        files (`frozenset[Path]`, *optional*):
            What it will read.
    """

    def __init__(self, report: Callable[[str, int, int], None], files: frozenset[Path] = frozenset()):
        self.report, self.files = report, files
        self.joined = time.monotonic()
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
        self.report(stage, done, total)

    def cancel(self) -> None:
        """End the job at the next `reached`."""
        self._cancelled.set()


class Jobs:
    """The jobs that run or wait, by session."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._listening: set[str] = set()
        self._closed = False

    def __contains__(self, session: str) -> bool:
        return session in self._jobs

    @property
    def files(self) -> frozenset[Path]:
        """What the jobs read."""
        return frozenset().union(*(job.files for job in list(self._jobs.values())))

    def join(self, session: str, files: frozenset[Path]) -> bool:
        """
        Make a job, which will be run or left.

        Args:
            session (`str`):
                Whose it is.
            files (`frozenset[Path]`):
                What it will read.

        Returns:
            `bool`: whether the session had none.
        """
        job = Job(lambda *report: None, files)
        return self._jobs.setdefault(session, job) is job

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """
        While somebody listens for the result of a session. After that, nobody wants it any more.

        Args:
            session (`str`):
                Whose it is.
        """
        self._listening.add(session)
        try:
            yield
        finally:
            self._listening.discard(session)
            self.leave(session)

    @contextmanager
    def running(self, session: str, report: Callable[[str, int, int], None]) -> Iterator[Job]:
        """
        The job of a session, once all that run before it have ended.

        Args:
            session (`str`):
                Whose it is.
            report (`Callable[[str, int, int], None]`):
                As for [`Job`].

        Raises:
            `Cancelled`: it was left before it began, or nobody listens for its result.
        """
        job = self._jobs.get(session)
        if job is None or self._closed:
            raise Cancelled("the queue")
        job.report = report
        try:
            while session not in self._listening:
                job.reached("Waiting", 0, 1)
                if time.monotonic() > job.joined + SECONDS:
                    raise Cancelled("the queue; nobody listens for its result")
                time.sleep(0.02)
            while not self._turn.acquire(timeout=0.1):  # one that was cancelled ends at its next step only
                job.reached("Waiting", 0, 1)
            try:
                yield job
            finally:
                self._turn.release()
        finally:
            if self._jobs.get(session) is job:
                del self._jobs[session]

    def leave(self, session: str) -> None:
        """
        Stop the job of a session, if it has one.

        Args:
            session (`str`):
                Whose it is.
        """
        job = self._jobs.pop(session, None)
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Stop all jobs, wait until none runs, and let none run any more."""
        self._closed = True
        for session in list(self._jobs):
            self.leave(session)
        self._turn.acquire()
