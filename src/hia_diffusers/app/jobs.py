# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Computations that run one at a time and that can be stopped, at most one per session."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


# A session must listen for its result within this time.
SECONDS = 5.0


class Cancelled(Exception):
    """Nobody wants the result any more."""


class Job:
    """One computation.

    Args:
        report (`Callable[[str, int, int], None]`, *optional*):
            Takes the stage, how many of its parts are done, and how many there are. Without it, nothing is reported.
        files (`frozenset[Path]`, *optional*, defaults to none):
            The files that it reads.
    """

    def __init__(
        self, report: Callable[[str, int, int], None] = lambda *progress: None, files: frozenset[Path] = frozenset()
    ):
        self.report, self.files = report, files
        self.joined = time.monotonic()
        self._cancelled = threading.Event()

    def reached(self, stage: str, done: int, total: int) -> None:
        """Report progress. The computation can be stopped only here.

        Args:
            stage (`str`):
                What is being done.
            done (`int`):
                The number of parts that are done.
            total (`int`):
                The number of parts.

        Raises:
            Cancelled: If the job was cancelled.
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

    def __contains__(self, session: str) -> bool:
        return session in self._jobs

    @property
    def files(self) -> frozenset[Path]:
        """The files that the jobs read."""
        return frozenset().union(*(job.files for job in list(self._jobs.values())))

    def join(self, session: str, files: frozenset[Path]) -> bool:
        """Add a job.

        Args:
            session (`str`):
                The session.
            files (`frozenset[Path]`):
                The files that the job reads.

        Returns:
            `bool`: Whether the session had none.
        """
        job = Job(files=files)
        return self._jobs.setdefault(session, job) is job

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """Mark that somebody listens for the result of a session, and stop its job afterwards.

        Args:
            session (`str`):
                The session.
        """
        self._listening.add(session)
        try:
            yield
        finally:
            self._listening.discard(session)
            self.leave(session)

    @contextmanager
    def running(self, session: str, report: Callable[[str, int, int], None]) -> Iterator[Job]:
        """Wait until no other job runs, then provide the job of a session.

        Args:
            session (`str`):
                The session.
            report (`Callable[[str, int, int], None]`):
                See [`Job`].

        Raises:
            Cancelled: If the job was left before it began, or nobody listens for its result.
        """
        job = self._jobs.get(session)
        if job is None:
            raise Cancelled("the queue")
        job.report = report
        try:
            while session not in self._listening:
                if time.monotonic() > job.joined + SECONDS:
                    raise Cancelled("the queue; nobody listens for its result")
                time.sleep(0.02)
            while not self._turn.acquire(timeout=0.1):  # a cancelled job ends only at its next step
                job.reached("Waiting", 0, 1)
            try:
                yield job
            finally:
                self._turn.release()
        finally:
            if self._jobs.get(session) is job:
                del self._jobs[session]

    def leave(self, session: str) -> None:
        """Stop the job of a session, if it has one.

        Args:
            session (`str`):
                The session.
        """
        job = self._jobs.pop(session, None)
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Stop all jobs and wait until none runs. No job runs afterwards."""
        for session in list(self._jobs):
            self.leave(session)
        self._turn.acquire()
