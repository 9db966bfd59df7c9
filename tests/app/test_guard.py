# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What of the server may be reached."""

import asyncio
import contextlib
import json
import shutil
import time
from functools import partial

import gradio
import httpx
import pytest

from hia_diffusers.app import guard
from hia_diffusers.app.guard import MAX_CALL_BYTES, MIN_FILE_BYTES, Guard
from hia_diffusers.app.jobs import Jobs
from hia_diffusers.app.limits import Limits
from hia_diffusers.app.page import read_inputs


LIMITS = Limits(max_upload_bytes=10_000, max_stored_bytes=5 * MIN_FILE_BYTES)
INPUTS = [None, "Pointing", None, True, 0.5, 8, 25, 1, 0, False, "auto"]


async def served(scope, receive, send):
    """Answers 200 with the body that it got."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def jobs():
    return Jobs()


@pytest.fixture
def ask_at_once(tmp_path, jobs):
    guarded = Guard(served, LIMITS, tmp_path, jobs, 3, partial(read_inputs, folder=tmp_path))

    def ask_at_once(requests, app=served):
        guarded.app = app

        async def run():
            transport = httpx.ASGITransport(guarded)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await asyncio.gather(*(client.request(*words, **options) for words, options in requests))

        return asyncio.run(run())

    return ask_at_once


@pytest.fixture
def ask(ask_at_once):
    def ask(method, path, **options):
        (answer,) = ask_at_once([((method, path), options)])
        return answer

    return ask


def upload(size, name="a.png", **options):
    return (("POST", "/gradio_api/upload"), {"files": {"files": (name, b"x" * size)}, **options})


def call(path, **values):
    values = {"data": INPUTS, "fn_index": 3, "session_hash": "me", "event_id": "0a", **values}
    headers = {"content-type": "application/json"}
    return (("POST", f"/gradio_api/{path}"), {"content": json.dumps(values), "headers": headers})


@pytest.mark.parametrize("path", ["/", "/assets/index-B_2.js", "/static/img/a.svg", "/theme.css?v=1"])
def test_the_page_is_served(ask, path):
    assert [ask(method, path).status_code for method in ("GET", "HEAD")] == [200, 200]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", f"/{path}") for path in ("docs", "monitoring", "config", "gradio_api/proxy=http://a")),
        *(("GET", f"/gradio_api/{path}") for path in ("token", "heartbeat/a", "dev/reload", "upload_progress")),
        ("GET", f"/assets/{'a' * 5000}"),
        *(("POST", f"/gradio_api/{path}") for path in ("component_server", "api/predict", "run/predict", "file=a")),
        ("POST", "/upload"),
        ("PUT", "/"),
        ("DELETE", "/gradio_api/upload"),
    ],
)
def test_nothing_else_is(ask, method, path):
    assert ask(method, path).status_code == 404


def test_files_are_served_from_the_folder_only(ask, tmp_path):
    for name in ("video.mp4", "ME.JPG"):
        for method in ("GET", "HEAD"):
            assert ask(method, f"/gradio_api/file={tmp_path}/a/{name}").status_code == 200, name
    for name in ("setup.exe", "page.html", "keypoints.npz", "png"):
        assert ask("GET", f"/gradio_api/file={tmp_path}/a/{name}").status_code == 403, name
    (tmp_path / "link").symlink_to("/etc")
    outside = ["/etc/a.png", "", tmp_path, f"{tmp_path}/../secret.png", f"{tmp_path}/%2e%2e/secret.png"]
    outside += [f"{tmp_path}2/a.png", f"{tmp_path}/link/a.png", "http://example.org/a.png", "a%00b.png"]
    for name in outside:
        assert ask("GET", f"/gradio_api/file={name}").status_code == 403, name


@pytest.mark.parametrize(
    "name", ["me.png", "/etc/passwd", "..\\..\\é 1:2%.mp4", ".hidden", "a" * 500 + ".npz", "..", "\n"]
)
def test_an_upload_is_a_file_of_a_folder_of_its_own(ask_at_once, tmp_path, name):
    (answer,) = ask_at_once([upload(9_000, name)])
    assert answer.status_code == 200, answer.text
    (path,) = answer.json()
    assert path == str(next(tmp_path.glob("*/*"))) and next(tmp_path.glob("*/*")).read_bytes() == b"x" * 9_000
    assert path.endswith(name[-4:]) or name in ("/etc/passwd", ".hidden", "..", "\n")


def test_uploads_are_bounded_one_by_one_and_together(ask_at_once, tmp_path):
    def ask(*words, **options):
        return ask_at_once([upload(*words, **options)])[0]

    assert ask(9_000).status_code == 200
    assert ask(30_000).status_code == 413
    assert ask(30_000, headers={"content-length": "100"}).status_code == 413
    assert [ask(9).status_code for _ in range(5)] == [200, 200, 200, 200, 507]  # small ones are many files
    refused = ask(9_000)
    assert refused.status_code == 507 and "try again in an hour" in refused.json()["detail"]
    shutil.rmtree(next(tmp_path.iterdir()))
    assert [ask(9_000).status_code for _ in range(2)] == [200, 507]


def test_uploads_at_once_are_bounded_together(ask_at_once, tmp_path):
    answers = [answer.status_code for answer in ask_at_once([upload(9_000)] * 40)]
    assert set(answers) == {200, 507} and answers.count(200) == len(list(tmp_path.iterdir())) <= 5


FILE = 'Content-Disposition: form-data; name="files"; filename="a.png"'


def form(*headers):
    parts = [f"--b\r\n{header}\r\n\r\nx\r\n" for header in headers]
    return {"content": "".join([*parts, "--b--\r\n"]), "headers": {"content-type": "multipart/form-data; boundary=b"}}


@pytest.mark.parametrize(
    "body",
    [
        form('Content-Disposition: form-data; name="files"'),
        form('Content-Disposition: form-data; name="files"; filename=""'),
        form('Content-Disposition: form-data; name="other"; filename="a.png"'),
        form('Content-Disposition: form-data; filename="a.png"'),
        form(*['Content-Disposition: form-data; name="files"; filename="a.png"'] * 2),
        form(
            'Content-Disposition: form-data; name="files"; filename="a.png"', "Content-Disposition: form-data; name=a"
        ),
        form(f'X: {"x" * 9000}\r\nContent-Disposition: form-data; name="files"; filename="a.png"'),
        form(*[""] * 900),
        form(),
        {"content": "--b\r\nContent", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        {"content": "x", "headers": {"content-type": "multipart/form-data"}},
        {"content": "x", "headers": {"content-type": f"multipart/form-data; boundary={'b' * 9000}"}},
        {"data": {"files": "x"}},
        {"content": "x"},
    ],
)
def test_only_one_file_with_a_name_is_an_upload(ask, tmp_path, body):
    refused = ask("POST", "/gradio_api/upload", **body)
    assert (refused.status_code, refused.json()["detail"]) == (400, "One file with a name can be uploaded at a time.")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["upload", "queue/join"])
def test_a_body_that_does_not_arrive_is_not_waited_for(ask, monkeypatch, path):
    monkeypatch.setattr(guard, "SECONDS", 0.1)

    async def slow():
        yield b"-"
        await asyncio.sleep(5)
        yield b"-"

    headers = {"content-length": "2", "content-type": "application/json"}
    headers |= {"content-type": "multipart/form-data; boundary=b"} if path == "upload" else {}
    assert ask("POST", f"/gradio_api/{path}", content=slow(), headers=headers).status_code == 408


def test_a_slow_but_steady_upload_is_waited_for(ask, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    monkeypatch.setattr(guard, "BYTES_PER_SECOND", 2_000)
    whole = form(FILE)["content"].replace("x", "x" * 2_000)

    async def steady():
        for start in range(0, len(whole), 200):
            yield whole[start : start + 200].encode()
            await asyncio.sleep(0.05)

    headers = {"content-length": str(len(whole)), "content-type": "multipart/form-data; boundary=b"}
    assert ask("POST", "/gradio_api/upload", content=steady(), headers=headers).status_code == 200


def test_a_session_has_one_job_at_a_time(ask_at_once, jobs):
    async def slowly_served(scope, receive, send):
        await asyncio.sleep(0.05)
        await served(scope, receive, send)

    sessions = ["new", "new", "other"]
    answers = ask_at_once([call("queue/join", session_hash=session) for session in sessions], slowly_served)
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    (cancelled,) = ask_at_once([call("cancel", session_hash="new")])
    assert (cancelled.status_code, cancelled.json()["event_id"]) == (200, "0a")  # Gradio is told
    assert "new" not in jobs and "other" in jobs


def test_a_call_that_gradio_refuses_leaves_no_job(ask_at_once, jobs):
    async def full(scope, receive, send):
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def failing(scope, receive, send):
        raise RuntimeError

    for app, status in ((full, 503), (failing, 400)):
        (answer,) = ask_at_once([call("queue/join")], app)
        assert answer.status_code == status and "me" not in jobs


def test_who_stops_listening_does_not_want_the_result_any_more(ask, jobs):
    assert ask("GET", "/gradio_api/queue/data?session_hash=me").status_code == 404
    assert jobs.join("me", frozenset())
    assert ask("GET", "/gradio_api/queue/data?session_hash=me").status_code == 200
    assert "me" not in jobs


def test_calls_are_passed_on_as_the_page_makes_them(ask_at_once, jobs, tmp_path):
    def ask(*words, **values):
        return ask_at_once([call("queue/join", **values)])[0]

    (tmp_path / "a.png").touch()
    image = {"path": f"{tmp_path}/a.png", "url": "http://example.org/a.png", "size": 5, "is_stream": True}
    answer = ask(data=[image, *INPUTS[1:]], batched=True, event_data={}, request={})
    ours = gradio.FileData(path=f"{tmp_path}/a.png").model_dump()
    assert answer.json() == {"data": [ours, *INPUTS[1:]], "fn_index": 3, "session_hash": "me"}
    assert jobs.files == {tmp_path / "a.png"}
    jobs.leave("me")
    for path in ("http://example.org/a.png", "/etc/passwd", f"{tmp_path}/../a.png", "", ["a"], None, "\0", "a" * 9000):
        assert ask(data=[{"path": path, "url": "http://here/"}, *INPUTS[1:]]).status_code == 400, path
    for name in ("none", "n" * 9000):
        gone = ask(data=[{"path": f"{tmp_path}/{name}"}, *INPUTS[1:]])
        assert gone.status_code == 400 and "no longer there; upload it again" in gone.text
    for data in (None, {}, [], INPUTS[1:], [*INPUTS, 1], [5, *INPUTS[1:]], [None, ["a"], *INPUTS[2:]]):
        assert ask(data=data).status_code == 400, data
    for values in ({"fn_index": -1}, {"fn_index": 99}, {"fn_index": None}, {"fn_index": "3"}):
        assert ask(**values).status_code == 400, values
    for session in ("", None, 5, "a" * 65, "a b", ["a"]):
        refused = ask(session_hash=session)
        assert (refused.status_code, refused.json()["detail"]) == (400, "This call cannot be used."), session
    assert not jobs.files


@pytest.mark.parametrize("content", [b"[" * 9000, b"", b"null", b"[]", b'"a"', b"\xff", b"1" * 9000])
def test_what_is_no_call_is_refused(ask, content):
    json_only = {"content-type": "application/json"}
    refused = ask("POST", "/gradio_api/queue/join", content=content, headers=json_only)
    assert (refused.status_code, refused.json()["detail"]) == (400, "This call cannot be used.")
    assert ask("POST", "/gradio_api/queue/join", content=content).status_code == 415


def test_a_call_arrives_once(ask_at_once):
    """An application that waits for the end of the connection does not get the call again."""

    async def waiting(scope, receive, send):
        assert (await receive())["body"]
        with contextlib.suppress(asyncio.TimeoutError):
            raise RuntimeError(await asyncio.wait_for(receive(), 0.1))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert ask_at_once([call("queue/join")], waiting)[0].status_code == 200


def test_storing_an_upload_keeps_nobody_waiting(ask_at_once, monkeypatch):
    order = []

    def store(*files):
        time.sleep(1)
        order.append("stored")

    async def slowly_served(scope, receive, send):
        await asyncio.sleep(0.2)
        order.append("served")
        await served(scope, receive, send)

    monkeypatch.setattr(guard.shutil, "copyfileobj", store)
    answers = ask_at_once([upload(9), (("GET", "/"), {})], slowly_served)
    assert [answer.status_code for answer in answers] == [200, 200] and order == ["served", "stored"]


def test_gradio_is_told_when_the_server_starts(tmp_path, jobs):
    told = []

    async def starting(*words):
        told.append(words)

    guarded = Guard(starting, LIMITS, tmp_path, jobs, 3, read_inputs)
    asyncio.run(guarded({"type": "lifespan"}, "receive", "send"))
    assert told == [({"type": "lifespan"}, "receive", "send")]


def test_calls_are_bounded(ask_at_once):
    assert ask_at_once([call("queue/join", more="a" * MAX_CALL_BYTES)])[0].status_code == 413


def test_what_fails_is_one_line_and_no_fault_of_the_server(ask_at_once, caplog):
    async def failing(scope, receive, send):
        raise KeyError(scope["path"])

    (answer,) = ask_at_once([(("GET", "/"), {})], failing)
    assert answer.status_code == 400 and answer.json()["detail"] == "This cannot be answered."
    assert [record.getMessage() for record in caplog.records] == ["GET / could not be answered: KeyError('/')"]


def test_an_error_of_gradio_is_no_fault_of_the_server(ask_at_once):
    async def failed(scope, receive, send):
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})

    (answer,) = ask_at_once([(("GET", "/"), {})], failed)
    assert answer.status_code == 400 and answer.json()["detail"] == "This cannot be answered."
