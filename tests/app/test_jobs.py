# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Jobs run one at a time and end where they are cancelled."""

import threading

import fastapi
import gradio
import pytest
from fastapi.testclient import TestClient

from hia_diffusers.app.jobs import MAX_WAITING, Cancelled, Jobs
from hia_diffusers.app.server import delete_old, named_files, queued_calls


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


def test_few_wait_and_closing_ends_them_all():
    jobs, ended = Jobs(), []

    def wait(session):
        try:
            with jobs.running(session, lambda *report: None) as job:
                while True:
                    job.reached("Denoising", 1, 9)
        except (Cancelled, ValueError) as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait, args=(str(number),), daemon=True) for number in range(MAX_WAITING + 2)]
    for thread in threads:
        thread.start()
    threads[-1].join(10)
    assert ended == [ValueError]
    jobs.close()
    for thread in threads:
        thread.join(10)
    assert ended == [ValueError] + [Cancelled] * (MAX_WAITING + 1)
    with pytest.raises(Cancelled), jobs.running("late", lambda *report: None):
        pass


def test_what_a_waiting_call_names_is_not_deleted(tmp_path):
    with gradio.Blocks() as page:
        file = gradio.File()
        gradio.Button().click(lambda file: None, file, None, preprocess=False)
    page.queue()
    client = TestClient(gradio.mount_gradio_app(fastapi.FastAPI(), page, path="/"))  # which runs no call
    needed, old = tmp_path / "needed" / "me.png", tmp_path / "old" / "me.png"
    for path in (needed, old):
        path.parent.mkdir()
        path.write_bytes(b"x")
    call = {"data": [{"path": str(needed), "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "a"}
    assert client.post("/gradio_api/queue/join", json=call).status_code == 200
    assert [call.session_hash for call in queued_calls(page)] == ["a"]
    delete_old(tmp_path, -1, named_files(queued_calls(page)))
    assert needed.exists() and not old.exists()
