# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What of the server may be reached."""

import asyncio
import secrets

import httpx
import pytest

from hia_diffusers.app import guard
from hia_diffusers.app.guard import MAX_CALL_BYTES, MIN_FILE_BYTES, Guard
from hia_diffusers.app.limits import Limits


LIMITS = Limits(max_upload_bytes=10_000, max_stored_bytes=5 * MIN_FILE_BYTES)


async def served(scope, receive, send):
    """Answers 200 with the body that it got."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def ask_at_once(tmp_path):
    def ask_at_once(requests, app=served, has_call=lambda session: False, cancel=lambda session: None):
        async def run():
            transport = httpx.ASGITransport(Guard(app, LIMITS, tmp_path, has_call, cancel))
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


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/data?session_hash=a"])
def test_the_page_is_served(ask, path):
    assert ask("GET", path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", f"/{path}") for path in ("docs", "monitoring", "gradio_api/proxy=http://a", "gradio_api/token")),
        *(("POST", f"/gradio_api/{path}") for path in ("component_server", "api/predict", "vibe-edit", "file=a")),
        ("PUT", "/"),
        ("DELETE", "/gradio_api/upload"),
    ],
)
def test_nothing_else_is(ask, method, path):
    assert ask(method, path).status_code == 404


def test_files_are_served_from_the_folder_only(ask, tmp_path):
    assert ask("GET", f"/gradio_api/file={tmp_path}/a/video.mp4").status_code == 200
    assert ask("GET", f"/gradio_api/file={tmp_path}/a/ME.JPG").status_code == 200
    for name in ("setup.exe", "page.html", "keypoints.npz", "png"):
        assert ask("GET", f"/gradio_api/file={tmp_path}/a/{name}").status_code == 403, name
    (tmp_path / "link").symlink_to("/etc")
    outside = ["/etc/passwd", "", tmp_path, f"{tmp_path}/../secret", f"{tmp_path}/%2e%2e/secret", f"{tmp_path}2/a"]
    for name in [*outside, f"{tmp_path}/link/passwd", "http://example.org/a", "a%00b"]:
        assert ask("GET", f"/gradio_api/file={name}").status_code in (403, 404), name


def test_uploads_are_bounded_one_by_one_and_together(ask, tmp_path):
    def upload(size, **kwargs):
        return ask("POST", "/gradio_api/upload", content=b"x" * size, **kwargs)

    assert upload(9_000).status_code == 200
    assert upload(30_000).status_code == 413
    assert upload(9_000, headers={"transfer-encoding": "chunked", "content-length": ""}).status_code == 413
    others = [tmp_path / f"{number}" / "others.bin" for number in range(5)]
    others[0].parent.mkdir()
    others[0].write_bytes(bytes(4 * MIN_FILE_BYTES + 1))
    refused = upload(9_000)
    assert refused.status_code == 507 and "try again in an hour" in refused.json()["detail"]
    others[0].write_bytes(b"x")
    assert upload(9_000).status_code == 200
    for other in others[1:]:
        other.parent.mkdir()
        other.write_bytes(b"x")
    assert upload(9_000).status_code == 507  # many small files take long to count


def test_uploads_at_once_are_bounded_together(ask_at_once, tmp_path):
    async def store(scope, receive, send):
        await asyncio.sleep(0.05)
        (tmp_path / secrets.token_hex(8)).write_bytes(bytes(9_000))
        await served(scope, receive, send)

    upload = (("POST", "/gradio_api/upload"), {"content": bytes(9_000)})
    answers = [answer.status_code for answer in ask_at_once([upload] * 40, store)]
    assert set(answers) == {200, 507} and answers.count(200) == len(list(tmp_path.iterdir())) <= 5


@pytest.mark.parametrize("path", ["upload", "queue/join"])
def test_a_body_that_does_not_arrive_is_not_waited_for(ask, monkeypatch, path):
    monkeypatch.setattr(guard, "SECONDS", 0.1)
    monkeypatch.setattr(guard, "BYTES_PER_SECOND", 1e9)

    async def slow():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    assert ask("POST", f"/gradio_api/{path}", content=slow(), headers={"content-length": "2"}).status_code == 408


def test_a_session_has_one_call_at_a_time(ask_at_once):
    async def slowly_served(scope, receive, send):
        await asyncio.sleep(0.05)
        await served(scope, receive, send)

    def post(path, session):
        return (("POST", f"/gradio_api/{path}"), {"json": {"data": [], "session_hash": session}})

    cancelled = []
    requests = [post("queue/join", session) for session in ("new", "new", "busy", "other")]
    requests += [post("queue/join/", "new"), post("run/predict", "busy"), post("cancel", "busy")]
    answers = ask_at_once(requests, slowly_served, {"busy"}.__contains__, cancelled.append)
    assert [answer.status_code for answer in answers] == [200, 429, 429, 200, 429, 200, 200]
    assert cancelled == ["busy"]


def test_calls_are_passed_on_unless_they_name_other_files_or_are_long(ask, tmp_path):
    call = {"data": [{"path": f"{tmp_path}/a.png", "url": f"http://here/gradio_api/file={tmp_path}/a.png"}, 0.5]}
    answered = ask("POST", "/gradio_api/queue/join", json=call)
    assert answered.status_code == 200 and answered.json() == call
    for path in ("http://example.org/a.png", "/etc/passwd", f"{tmp_path}/../a.png", ["a"]):
        assert ask("POST", "/gradio_api/queue/join", json={"data": [[{"path": path}]]}).status_code == 400
    assert ask("POST", "/gradio_api/queue/join", content=b"[" * 10**5).status_code == 400
    assert ask("POST", "/gradio_api/queue/join", content=b" " * (MAX_CALL_BYTES + 1)).status_code == 400
