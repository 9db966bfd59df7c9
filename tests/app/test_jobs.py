# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs run one at a time and end where they are cancelled."""

import threading

import pytest

from hia_diffusers.app.jobs import Cancelled, Jobs


def test_a_job_reports_and_ends_at_the_next_step_after_it_is_cancelled():
    jobs, reports = Jobs(), []
    with (
        pytest.raises(Cancelled, match="Denoising 2/9"),
        jobs.running("me", lambda *report: reports.append(report)) as job,
    ):
        job.reached("Denoising", 1, 9)
        jobs.cancel("somebody else")
        job.reached("Denoising", 1, 9)
        jobs.cancel("me")
        job.reached("Denoising", 2, 9)
    assert reports == [("Denoising", 1, 9)] * 2
    jobs.cancel("me")  # there is nothing left to cancel
    with jobs.running("me", lambda *report: None) as job:
        job.reached("Denoising", 1, 9)


def test_jobs_wait_for_their_turn_and_can_be_cancelled_while_they_do():
    jobs, ended = Jobs(), []

    def wait(session):
        try:
            with jobs.running(session, lambda *report: None):
                ended.append(f"{session} ran")
        except Cancelled:
            ended.append(f"{session} was cancelled")

    with jobs.running("first", lambda *report: None):
        threads = {session: threading.Thread(target=wait, args=(session,)) for session in ("second", "third")}
        for thread in threads.values():
            thread.start()
        while threads["third"].is_alive():
            jobs.cancel("third")
        assert ended == ["third was cancelled"]
    threads["second"].join()
    assert ended == ["third was cancelled", "second ran"]
