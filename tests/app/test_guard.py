# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What of the server may be reached."""

import asyncio

import httpx
import pytest

from hia_diffusers.app.guard import MAX_CALL_BYTES, Guard
from hia_diffusers.app.limits import Limits


LIMITS = Limits(max_upload_bytes=10_000, max_stored_bytes=50_000)


async def served(scope, receive, send):
    """Answers 200 with the body that it got."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def ask(tmp_path):
    def ask(method, path, **kwargs):
        async def run():
            transport = httpx.ASGITransport(Guard(served, LIMITS, tmp_path))
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(run())

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
    (tmp_path / "others.bin").write_bytes(bytes(45_000))
    refused = upload(9_000)
    assert refused.status_code == 507 and "try again in an hour" in refused.json()["detail"]


def test_calls_are_passed_on_unless_they_name_other_files_or_are_long(ask, tmp_path):
    call = {"data": [{"path": f"{tmp_path}/a.png", "url": f"http://here/gradio_api/file={tmp_path}/a.png"}, 0.5]}
    answered = ask("POST", "/gradio_api/queue/join", json=call)
    assert answered.status_code == 200 and answered.json() == call
    for path in ("http://example.org/a.png", "/etc/passwd", f"{tmp_path}/../a.png", ["a"]):
        assert ask("POST", "/gradio_api/queue/join", json={"data": [[{"path": path}]]}).status_code == 400
    assert ask("POST", "/gradio_api/queue/join", content=b"[" * 10**5).status_code == 400
    assert ask("POST", "/gradio_api/queue/join", content=b" " * (MAX_CALL_BYTES + 1)).status_code == 400
