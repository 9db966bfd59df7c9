# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs run one at a time and end where they are cancelled."""

import threading

import pytest

from hia_diffusers.app import jobs as module
from hia_diffusers.app.jobs import Cancelled, Jobs


@pytest.fixture
def jobs():
    return Jobs()


def silent(*report):
    pass


def run_until_told(jobs, session, ended, report=silent):
    """Runs a job in a thread until it is cancelled."""

    def run():
        try:
            with jobs.running(session, report) as job:
                while True:
                    job.reached("Denoising", 1, 9)
        except Cancelled as reached:
            ended.append(f"{session}: {reached}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_job_reports_and_ends_at_the_next_step_after_it_is_left(jobs):
    reports = []
    assert jobs.join("me", frozenset())
    with jobs.listening("me"):
        with (
            pytest.raises(Cancelled, match="Denoising 2/9"),
            jobs.running("me", lambda *report: reports.append(report)) as job,
        ):
            job.reached("Denoising", 1, 9)
            jobs.leave("somebody else")
            job.reached("Denoising", 1, 9)
            jobs.leave("me")
            job.reached("Denoising", 2, 9)
        assert reports == [("Denoising", 1, 9)] * 2
        jobs.leave("me")  # there is nothing left to stop
        assert jobs.join("me", frozenset()) and not jobs.join("me", frozenset())
        with jobs.running("me", silent) as job:
            job.reached("Denoising", 1, 9)
        assert "me" not in jobs and jobs.join("me", frozenset())
    assert "me" not in jobs  # nobody listens any more


def test_a_job_that_ends_late_leaves_the_next_one_of_its_session(jobs):
    jobs.join("me", frozenset())
    with jobs.listening("me"):
        with pytest.raises(Cancelled, match="Denoising"), jobs.running("me", silent) as job:
            jobs.leave("me")
            assert jobs.join("me", frozenset())
            job.reached("Denoising", 1, 9)
        assert "me" in jobs


def test_jobs_wait_for_their_turn_and_can_be_left_while_they_do(jobs):
    ended, began = [], threading.Event()
    for session in ("first", "second", "third"):
        jobs.join(session, frozenset())
    with jobs.listening("first"), jobs.listening("second"), jobs.listening("third"):
        with jobs.running("first", silent):
            second = run_until_told(jobs, "second", ended, lambda *report: began.set())
            third = run_until_told(jobs, "third", ended)
            jobs.leave("third")
            third.join(10)
            assert ended == ["third: Waiting 0/1"] and second.is_alive()
        began.wait(10)
        jobs.leave("second")
        second.join(10)
    assert ended == ["third: Waiting 0/1", "second: Denoising 1/9"]


def test_what_nobody_listens_for_is_not_made(jobs, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.1)
    jobs.join("nobody", frozenset())
    with pytest.raises(Cancelled, match="nobody listens"), jobs.running("nobody", silent):
        pass
    with pytest.raises(Cancelled), jobs.running("never joined", silent):
        pass
    jobs.join("me", frozenset())
    with jobs.listening("me"), jobs.running("me", silent):
        pass
    jobs.join("me", frozenset())
    with pytest.raises(Cancelled, match="nobody listens"), jobs.running("me", silent):
        pass  # who listened for the last one does not for this one


def test_closing_ends_all_and_lets_none_begin(jobs):
    ended = []
    threads = []
    for number in range(3):
        jobs.join(str(number), frozenset())
        threads.append(run_until_told(jobs, str(number), ended))
    with jobs.listening("0"), jobs.listening("1"), jobs.listening("2"):
        jobs.close()
        for thread in threads:
            thread.join(10)
    assert len(ended) == 3
    began = threading.Event()
    jobs.join("late", frozenset())
    with jobs.listening("late"):
        late = run_until_told(jobs, "late", ended, lambda stage, *parts: stage == "Denoising" and began.set())
        assert not began.wait(1)
    late.join(10)
    assert ended[-1] == "late: Waiting 0/1"


def test_the_files_of_all_jobs_are_known(jobs, tmp_path):
    first, second = frozenset({tmp_path / "a"}), frozenset({tmp_path / "a", tmp_path / "b"})
    jobs.join("first", first)
    jobs.join("second", second)
    assert jobs.files == second
    jobs.leave("second")
    assert jobs.files == first
