# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What of a web server built by Gradio may be reached: what the page needs, and nothing that reads other files.

Gradio serves much more, such as a way to fetch any address on behalf of the caller.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from .limits import Limits


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGES = re.compile(
    "/|/config/?|/theme.css|/favicon.ico|/manifest.json|/robots.txt|/(assets|static|svelte)/.*"
    "|/gradio_api/(startup-events|info/?|theme.css|queue/data|upload_progress|heartbeat/[^/]*|file=.*)"
)
ACTIONS = re.compile("/gradio_api/(run/predict/?|queue/join/?|upload|cancel|reset/?)")

# A call of the page is a few numbers and names.
MAX_CALL_BYTES = 2**18

# Of the parts of an upload beside the file.
FORM_BYTES = 2**14


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
    """

    def __init__(self, app: Any, limits: Limits, folder: Path):
        self.app, self.limits, self.folder = app, limits, folder

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
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
            return await _refuse(send, 404, "There is no such page.")
        if "/file=" in path and not self._is_ours(path.partition("/file=")[2]):
            return await _refuse(send, 403, "This file is not served.")
        if path == "/gradio_api/upload":
            length = dict(scope["headers"]).get(b"content-length", b"")
            limit = self.limits.max_upload_bytes + FORM_BYTES
            if not length.isdigit() or int(length) > limit:
                return await _refuse(send, 413, f"A file may have at most {self.limits.max_upload_bytes} bytes.")
            if _stored_bytes(self.folder) + int(length) > self.limits.max_stored_bytes:
                return await _refuse(send, 507, "Too much is stored; try again in an hour.")
        elif method == "POST":
            body = await _body(receive, MAX_CALL_BYTES)
            if body is None or not self._names_our_files_only(body):
                return await _refuse(send, 400, "This call cannot be used.")
            receive = _replayed(body, receive)
        await self.app(scope, receive, send)

    def _is_ours(self, name: str) -> bool:
        try:
            path = Path(name).resolve()
        except (OSError, ValueError):
            return False
        return path.is_relative_to(self.folder) and path != self.folder

    def _names_our_files_only(self, body: bytes) -> bool:
        """Gradio would fetch addresses, and might copy files of the server to where they are served."""
        try:
            parts = [json.loads(body)]
        except (ValueError, RecursionError):
            return False
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
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # deleted in between
            continue
    return total


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
