# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What of a web server built by Gradio may be reached: what the page needs, and nothing that reads other files.

Gradio serves much more, such as a way to fetch any address on behalf of the caller.
"""

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .limits import Limits


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGES = re.compile(
    "/|/config/?|/theme.css|/favicon.ico|/manifest.json|/robots.txt|/(assets|static|svelte)/.*"
    "|/gradio_api/(startup-events|info/?|theme.css|queue/data|upload_progress|heartbeat/[^/]*|file=.*)"
)
ACTIONS = re.compile("/gradio_api/(run/predict/?|queue/join/?|upload|cancel|reset/?)")

# What the page shows: pictures that were uploaded, and results.
SHOWN = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".mp4")

# A call of the page is a few numbers and names.
MAX_CALL_BYTES = 2**18

# Of the parts of an upload beside the file.
FORM_BYTES = 2**14

# As what a small file counts at least, so that there are never so many that counting them takes long.
MIN_FILE_BYTES = 2**18

# What is sent may take so long, and more where it is long.
SECONDS, BYTES_PER_SECOND = 30.0, 100_000


class Guard:
    """
    An ASGI application before Gradio's.

    Args:
        app (`Any`):
            Gradio's.
        limits ([`~app.limits.Limits`]):
            Of uploads.
        folder (`Path`):
            The only one whose files are served.
        has_call (`Callable[[str], bool]`):
            Whether a call of a session waits or runs. A session may have one.
        cancel (`Callable[[str], None]`):
            Ends the computation of a session, of which Gradio only forgets the result.
    """

    def __init__(
        self,
        app: Any,
        limits: Limits,
        folder: Path,
        has_call: Callable[[str], bool],
        cancel: Callable[[str], None],
    ):
        self.app, self.limits, self.folder = app, limits, folder
        self.has_call, self.cancel = has_call, cancel
        self._joining: set[str] = set()
        self._counting = asyncio.Lock()
        self._promised_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request or refuse it.

        Args:
            scope, receive, send:
                As ASGI has them.
        """
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if not (ACTIONS if method == "POST" else PAGES).fullmatch(path) or method not in ("GET", "HEAD", "POST"):
            await _refuse(send, 404, "There is no such page.")
        elif "/file=" in path and not self._is_shown(path.partition("/file=")[2]):
            await _refuse(send, 403, "This file is not served.")
        elif path == "/gradio_api/upload":
            await self._upload(scope, receive, send)
        elif method == "POST":
            await self._call(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(reversed(scope["headers"]))  # of a name that comes twice the first, as Gradio takes it
        announced = headers.get(b"content-length", b"")
        if not announced.isdigit() or int(announced) > self.limits.max_upload_bytes + FORM_BYTES:
            return await _refuse(send, 413, f"A file may have at most {self.limits.max_upload_bytes} bytes.")
        length = max(int(announced), MIN_FILE_BYTES)
        async with self._counting:
            # What is written meanwhile is counted twice rather than not at all.
            promised = self._promised_bytes
            stored = await asyncio.to_thread(_stored_bytes, self.folder)
            if stored + promised + length > self.limits.max_stored_bytes:
                return await _refuse(send, 507, "Too much is stored; try again in an hour.")
            self._promised_bytes += length
        try:
            receive = _one_file(receive, headers.get(b"content-type", b""))
            await asyncio.wait_for(self.app(scope, receive, send), _seconds(length))
        except asyncio.TimeoutError:
            await _refuse(send, 408, "The upload took too long.")
        finally:
            self._promised_bytes -= length

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(_body(receive, MAX_CALL_BYTES), _seconds(MAX_CALL_BYTES))
        except asyncio.TimeoutError:
            return await _refuse(send, 408, "The call took too long.")
        try:
            call = json.loads(body or b"")
        except (ValueError, RecursionError):
            call = None
        if not isinstance(call, dict) or not self._names_our_files_only(call):
            return await _refuse(send, 400, "This call cannot be used.")
        receive = _replayed(body or b"", receive)
        session = str(call.get("session_hash"))
        if scope["path"].startswith("/gradio_api/queue/join"):
            if session in self._joining or self.has_call(session):
                sentence = "Your last animation is not made yet; wait for it, or load the page anew."
                return await _refuse(send, 429, sentence)
            self._joining.add(session)
            try:
                await self.app(scope, receive, send)
            finally:
                self._joining.remove(session)
        else:
            await self.app(scope, receive, send)
            if scope["path"] == "/gradio_api/cancel":
                self.cancel(session)

    def _is_shown(self, name: str) -> bool:
        return self._is_ours(name) and name.lower().endswith(SHOWN)

    def _is_ours(self, name: str) -> bool:
        try:
            path = Path(name).resolve()
        except (OSError, ValueError):
            return False
        return path.is_relative_to(self.folder) and path != self.folder

    def _names_our_files_only(self, call: Any) -> bool:
        """Gradio would fetch addresses, and might copy files of the server to where they are served."""
        parts = [call]
        while parts:
            part = parts.pop()
            if isinstance(part, dict):
                if part.get("path") and not self._is_ours(str(part["path"])):
                    return False
                parts += part.values()
            elif isinstance(part, list):
                parts += part
        return True


def _stored_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # deleted in between
                total += max(os.stat(os.path.join(where, name)).st_size, MIN_FILE_BYTES)
    return total


def _seconds(length: int) -> float:
    return SECONDS + length / BYTES_PER_SECOND


def _one_file(receive: Receive, content_type: bytes) -> Receive:
    """Gradio would take a thousand files in one upload."""
    from python_multipart.multipart import parse_options_header
    from starlette.formparsers import MultiPartException

    boundary = b"--" + parse_options_header(content_type.decode("latin-1"))[1].get(b"boundary", b"")
    found, end = 0, b""

    async def receive_one() -> Message:
        nonlocal found, end
        message = await receive()
        data = end + message.get("body", b"")
        found, end = found + data.count(boundary), data[len(data) - len(boundary) + 1 :]
        if found > 2:  # before the file and after it
            raise MultiPartException("One file can be uploaded at a time.")
        return message

    return receive_one


async def _body(receive: Receive, max_bytes: int) -> bytes | None:
    body = b""
    while len(body) <= max_bytes:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body
    return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": sentence}).encode()})
