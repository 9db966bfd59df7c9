# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What of a web server built by Gradio may be reached: the page and its queue. Files are taken and served here.

Gradio serves much more, such as a way to fetch any address on behalf of the caller, and takes a request as it comes.
"""

import asyncio
import json
import logging
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .jobs import Jobs
from .limits import Limits


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGES = re.compile(r"/|/theme\.css|/favicon\.ico|/(assets|static)/[A-Za-z0-9_./-]{1,200}")
API = "/gradio_api"

# What the page shows: pictures that were uploaded, and results.
SHOWN = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".mp4")

# Names that Gradio gives: of a session and of a call.
NAME = re.compile(r"[A-Za-z0-9-]{1,64}")

MAX_HEAD_BYTES = 2**14

# A call of the page is a few numbers and names.
MAX_CALL_BYTES = 2**14

# Of an upload beside the file.
FORM_BYTES = 2**14

# As what a small file counts at least, so that there are never so many that counting them takes long.
MIN_FILE_BYTES = 2**18

# What is sent may take so long, and more with what has arrived.
SECONDS, BYTES_PER_SECOND = 30.0, 100_000

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A status of HTTP, and a sentence."""


class Guard:
    """
    An ASGI application before Gradio's.

    Args:
        app (`Any`):
            Gradio's.
        limits ([`~app.limits.Limits`]):
            Of uploads.
        folder (`Path`):
            Where uploads go, and the only one whose files are served.
        jobs ([`~app.jobs.Jobs`]):
            Where a session has its computation, at most one.
        function (`int`):
            The only function of the page that computes, by Gradio's number.
        read_inputs (`Callable[[Any], tuple[list[Any], frozenset[Path]]]`):
            Makes of what was sent as inputs of that function what the page sends, and the files that this names.
            Raises a `ValueError` where that cannot be.
    """

    def __init__(
        self,
        app: Any,
        limits: Limits,
        folder: Path,
        jobs: Jobs,
        function: int,
        read_inputs: Callable[[Any], tuple[list[Any], frozenset[Path]]],
    ):
        self.app, self.limits, self.folder, self.jobs = app, limits, folder, jobs
        self.function, self.read_inputs = function, read_inputs
        self._counting = asyncio.Lock()
        self._stored_bytes = self._arriving_bytes = 0
        self._counted = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request or refuse it.

        Args:
            scope, receive, send:
                As ASGI has them.
        """
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        try:
            await self._serve(scope, receive, send)
        except Refused as refusal:
            await _refuse(send, *refusal.args)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            raise Refused(431, "The headers are too long.")
        if method == "POST":
            actions = {"upload": self._upload, "queue/join": self._join, "cancel": self._cancel, "reset": self._reset}
            action = actions.get(path.removeprefix(f"{API}/"))
            if action is None:
                raise Refused(404, "There is no such page.")
            if b"transfer-encoding" in headers or b"content-length" not in headers:
                raise Refused(411, "The length must be announced.")
            return await action(scope, receive, send)
        if method not in ("GET", "HEAD"):
            raise Refused(404, "There is no such page.")
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
            raise Refused(400, "There is nothing to send.")
        if path.startswith(f"{API}/file="):
            await self._file(path.partition("=")[2], scope, receive, send)
        elif path == f"{API}/queue/data" and method == "GET":
            await self._listen(scope, receive, send)
        elif PAGES.fullmatch(path):
            await _pass_on(self.app, {**scope, "query_string": b""}, receive, send)
        else:
            raise Refused(404, "There is no such page.")

    async def _file(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import FileResponse

        if not (name.lower().endswith(SHOWN) and is_inside(name, self.folder)):
            raise Refused(403, "This file is not served.")
        if not os.path.isfile(name):
            raise Refused(404, "This file is no longer there.")
        file = FileResponse(name, headers={"x-content-type-options": "nosniff"})
        await _pass_on(file, scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import UploadFile
        from starlette.formparsers import MultiPartException
        from starlette.requests import ClientDisconnect, Request

        async with self._counting:
            if time.monotonic() > self._counted + 1:
                self._stored_bytes = await asyncio.to_thread(_stored_bytes, self.folder)
                self._counted = time.monotonic()
        reserved = 0

        def reserve(arrived: int) -> None:
            nonlocal reserved
            more = max(arrived, MIN_FILE_BYTES) - reserved
            if self._stored_bytes + self._arriving_bytes + more > self.limits.max_stored_bytes:
                raise Refused(507, "Too much is stored; try again in an hour.")
            self._arriving_bytes, reserved = self._arriving_bytes + more, reserved + more

        max_bytes = self.limits.max_upload_bytes + FORM_BYTES
        request = Request(scope, _bounded(scope, receive, max_bytes, reserve))
        try:
            reserve(0)
            async with request.form(max_files=1, max_fields=0) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile) or not file.filename:
                    raise ValueError("The form has no file with a name.")
                path = self.folder / secrets.token_hex(16) / _file_name(file.filename)
                async with self._counting:
                    size = await asyncio.to_thread(_store, file.file, path)
                    self._stored_bytes += max(size, MIN_FILE_BYTES)
        except (MultiPartException, ClientDisconnect, ValueError):
            raise Refused(400, "One file with a name can be uploaded at a time.") from None
        except OSError as error:
            logger.warning("An upload could not be stored: %s", error)
            raise Refused(507, "The server cannot store this.") from error
        finally:
            self._arriving_bytes -= reserved
        await _answer(send, 200, [str(path)])

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = await _read_call(scope, receive, "session_hash")
        if call.get("fn_index") != self.function:
            raise Refused(400, "This call cannot be used.")
        try:
            inputs, files = self.read_inputs(call.get("data"))
        except ValueError as error:
            raise Refused(400, str(error)) from error
        session = call["session_hash"]
        if not self.jobs.join(session, files):
            raise Refused(429, "Your last animation is not made yet; wait for it, or load the page anew.")
        status = None
        try:
            call = {"data": inputs, "fn_index": self.function, "session_hash": session}
            status = await _pass_on(self.app, *_with_body(scope, receive, call), send)
        finally:
            if status != 200:
                self.jobs.leave(session)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
        if session not in self.jobs:
            raise Refused(404, "Nothing is made for this page.")
        with self.jobs.listening(session):
            scope = {**scope, "query_string": f"session_hash={session}".encode()}
            await _pass_on(self.app, scope, receive, send)

    async def _cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = await _read_call(scope, receive, "session_hash", "event_id")
        self.jobs.leave(call["session_hash"])
        call = {"session_hash": call["session_hash"], "event_id": call["event_id"], "fn_index": self.function}
        await _pass_on(self.app, *_with_body(scope, receive, call), send)

    async def _reset(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What Gradio's client asks for after it cancelled, and what Gradio does nothing for, either."""
        await _read_call(scope, receive, "event_id")
        await _answer(send, 200, {"success": True})


def is_inside(name: str, folder: Path) -> bool:
    """
    Whether a file is in a folder, wherever links lead.

    Args:
        name (`str`):
            Its path.
        folder (`Path`):
            The folder, without links.
    """
    try:
        path = Path(name).resolve()
    except (OSError, ValueError):
        return False
    return path.is_relative_to(folder)


def _stored_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # deleted in between
                total += max(os.stat(os.path.join(where, name)).st_size, MIN_FILE_BYTES)
    return total


def _file_name(name: str) -> str:
    """That of an upload, as far as it can be one of a file on every system."""
    return re.sub(r"[^\w .-]", "_", re.split(r"[/\\]", name)[-1])[-60:].lstrip(" .") or "file"


def _store(file: Any, path: Path) -> int:
    path.parent.mkdir()
    with path.open("wb") as stored:
        shutil.copyfileobj(file, stored)
        return stored.tell()


def _bounded(
    scope: Scope, receive: Receive, max_bytes: int, arrived: Callable[[int], None] = lambda count: None
) -> Receive:
    """A body, counted as it arrives; one that is announced too long, which none exceeds, or too slow is refused."""
    start, count, announced = time.monotonic(), 0, dict(scope["headers"]).get(b"content-length", b"")
    if int(announced) > max_bytes:
        raise Refused(413, f"At most {max_bytes} bytes are taken.")

    async def receive_some() -> Message:
        nonlocal count
        end = start + SECONDS + count / BYTES_PER_SECOND
        try:
            message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0))
        except asyncio.TimeoutError:
            raise Refused(408, "It took too long to arrive.") from None
        count += len(message.get("body", b""))
        arrived(count)
        return message

    return receive_some


async def _read_call(scope: Scope, receive: Receive, *names: str) -> dict[str, Any]:
    """What was sent as JSON, with names as Gradio gives them."""
    if not dict(scope["headers"]).get(b"content-type", b"").startswith(b"application/json"):
        raise Refused(415, "A call must be JSON.")  # as other sites' pages cannot send it
    receive, body, more = _bounded(scope, receive, MAX_CALL_BYTES), b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, dict) or not all(
        isinstance(call.get(name), str) and NAME.fullmatch(call[name]) for name in names
    ):
        raise Refused(400, "This call cannot be used.")
    return call


def _with_body(scope: Scope, receive: Receive, call: Any) -> tuple[Scope, Receive]:
    """A request with another body."""
    body = json.dumps(call).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    scope = {**scope, "query_string": b"", "headers": [*headers, (b"content-length", b"%d" % len(body))]}

    async def receive_body() -> Message:
        return messages.pop() if messages else await receive()

    return scope, receive_body


async def _pass_on(app: Any, scope: Scope, receive: Receive, send: Send) -> int | None:
    """Let an application answer, and return the status; where it fails, that is one line in the log."""
    status: int | None = None

    async def send_on(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        if status != 500:
            await send(message)

    try:
        await app(scope, receive, send_on)
    except Exception as error:
        logger.warning("%s %.60s could not be answered: %.200s", scope["method"], scope["path"], repr(error))
        if status is None:
            status = 500
    if status == 500:
        raise Refused(400, "This cannot be answered.")
    return status


async def _refuse(send: Send, status: int, sentence: str) -> None:
    await _answer(send, status, {"detail": sentence}, [(b"connection", b"close")])


async def _answer(send: Send, status: int, content: Any, headers: Any = ()) -> None:
    headers = [(b"content-type", b"application/json"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
