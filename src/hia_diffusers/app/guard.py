# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Lets requests reach the page and the queue of Gradio, and receives uploads.

Gradio serves more, such as a route that fetches any address for the caller, and trusts the size and form of requests.
"""

import asyncio
import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from .jobs import Jobs
from .limits import Limits


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGES = re.compile(r"/|/theme\.css|/favicon\.ico|/(assets|static)/[A-Za-z0-9_./-]{1,200}")
API = "/gradio_api/"

# The page shows images that were uploaded, and results.
SHOWN = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".mp4")

# Names that Gradio gives to sessions and events.
NAME = re.compile(r"[A-Za-z0-9-]{1,64}")

# The size of a call, and of an upload without its file.
MAX_CALL_BYTES = 2**14

# What an upload reserves at once. It counts at least as much, which limits the number of files.
MIN_FILE_BYTES = 2**18

# A body must arrive within this time, plus the time for what has arrived.
SECONDS, BYTES_PER_SECOND = 30.0, 100_000

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A status code and a sentence, which [`Guard`] answers."""


class Guard:
    """An ASGI application in front of Gradio's.

    Args:
        app (`Application`):
            Gradio's application.
        limits ([`~app.limits.Limits`]):
            The limits of uploads.
        folder (`Path`):
            The folder for uploads, and the only one whose files are served.
        jobs ([`~app.jobs.Jobs`]):
            The jobs, at most one per session.
        function (`int`):
            Gradio's number of the only function that may be called.
        read_inputs (`Callable[[Any], tuple[list[Any], frozenset[Path]]]`):
            Returns the inputs of that function and the files that they name, and raises a `ValueError` if the page
            would not send them.
    """

    def __init__(
        self,
        app: Application,
        limits: Limits,
        folder: Path,
        jobs: Jobs,
        function: int,
        read_inputs: Callable[[Any], tuple[list[Any], frozenset[Path]]],
    ):
        self.app, self.limits, self.folder, self.jobs = app, limits, folder, jobs
        self.function, self.read_inputs = function, read_inputs
        self._upload_bytes: dict[Path, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or reject it. What fails is one line in the log and no error of the server.

        Args:
            scope (`Scope`):
                The request, as in ASGI.
            receive (`Receive`):
                Returns the next part of its body.
            send (`Send`):
                Takes the answer.
        """
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        answered = False

        async def send_on(message: Message) -> None:
            nonlocal answered
            answered = answered or message.get("status", 500) != 500
            if answered:
                await send(message)

        refusal = Refused(400, "This cannot be answered.")
        try:
            await self._action(scope["method"], scope["path"])(scope, receive, send_on)
        except Refused as error:
            refusal = error
        except Exception as error:
            logger.warning("%s %.60s could not be answered: %.200r", scope["method"], scope["path"], error)
        if not answered:
            status, sentence = refusal.args
            await _answer(send, status, {"detail": sentence})

    def _action(self, method: str, path: str) -> Application:
        if method in ("GET", "HEAD") and PAGES.fullmatch(path):
            return self.app
        if method in ("GET", "HEAD") and path.startswith(f"{API}file="):
            return self._show
        actions = {
            ("POST", f"{API}upload"): self._upload,
            ("POST", f"{API}queue/join"): self._join,
            ("GET", f"{API}queue/data"): self._listen,
            ("POST", f"{API}cancel"): self._cancel,
        }
        return actions.get((method, path), _reject)

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].partition("=")[2]
        if not (name.lower().endswith(SHOWN) and is_inside(name, self.folder)):
            raise Refused(403, "This file is not served.")
        await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import UploadFile
        from starlette.formparsers import MultiPartException
        from starlette.requests import Request

        folder = self.folder / secrets.token_hex(16)
        self._upload_bytes = {other: size for other, size in self._upload_bytes.items() if other.is_dir()}

        def reserve(count: int) -> None:
            if count < self._upload_bytes.get(folder, 0):
                return
            sizes = {**self._upload_bytes, folder: count + MIN_FILE_BYTES}
            if sum(sizes.values()) > self.limits.max_stored_bytes:
                raise Refused(507, "Too much is stored; try again in an hour.")
            self._upload_bytes = sizes

        request = Request(scope, _limited(receive, self.limits.max_upload_bytes + MAX_CALL_BYTES, reserve))
        folder.mkdir()
        try:
            reserve(0)
            async with request.form(max_files=1, max_fields=0) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile) or not file.filename:
                    raise ValueError("The form has no file with a name.")
                path = folder / _file_name(file.filename)
                with path.open("wb") as stored:
                    await asyncio.to_thread(shutil.copyfileobj, file.file, stored)
        except BaseException as error:
            shutil.rmtree(folder)
            if isinstance(error, (MultiPartException, ValueError)):
                raise Refused(400, "One file with a name can be uploaded at a time.") from error
            raise
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
            raise Refused(429, "Your last animation is not finished; wait for it, or reload the page.")
        joined = False

        async def send_on(message: Message) -> None:
            nonlocal joined
            joined = joined or message.get("status") == 200
            await send(message)

        try:
            call = {"data": inputs, "fn_index": self.function, "session_hash": session}
            await self.app(*_with_body(scope, receive, call), send_on)
        finally:
            if not joined:
                self.jobs.leave(session)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["query_string"].decode("latin-1").removeprefix("session_hash=")
        if session not in self.jobs:
            raise Refused(404, "Nothing is made for this page.")
        with self.jobs.listening(session):
            await self.app(scope, receive, send)

    async def _cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = await _read_call(scope, receive, "session_hash", "event_id")
        self.jobs.leave(call["session_hash"])
        await self.app(*_with_body(scope, receive, call), send)


def is_inside(name: str, folder: Path) -> bool:
    """Whether a file is in a folder, with all links followed.

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


async def _reject(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refused(404, "There is no such page.")


def _file_name(name: str) -> str:
    """The name of an upload as one that every system allows."""
    return re.sub(r"[^\w .-]", "_", re.split(r"[/\\]", name)[-1])[-60:].lstrip(" .") or "file"


def _limited(receive: Receive, max_bytes: int, arrived: Callable[[int], None] = lambda count: None) -> Receive:
    """A body that is refused when it is too long or too slow, and is counted as it arrives, whatever is announced."""
    start, count = time.monotonic(), 0

    async def receive_some() -> Message:
        nonlocal count
        end = start + SECONDS + count / BYTES_PER_SECOND
        try:
            message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0))
        except asyncio.TimeoutError:
            raise Refused(408, "It took too long to arrive.") from None
        count += len(message.get("body", b""))
        if count > max_bytes:
            raise Refused(413, f"At most {max_bytes} bytes are accepted.")
        arrived(count)
        return message

    return receive_some


async def _read_call(scope: Scope, receive: Receive, *names: str) -> dict[str, Any]:
    """A JSON object that has names as Gradio gives them."""
    from starlette.requests import Request

    request = Request(scope, _limited(receive, MAX_CALL_BYTES))
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refused(415, "A call must be JSON.")  # pages of other sites cannot send it
    try:
        call = json.loads(await request.body())
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, dict) or not all(
        isinstance(call.get(name), str) and NAME.fullmatch(call[name]) for name in names
    ):
        raise Refused(400, "This call cannot be used.")
    return call


def _with_body(scope: Scope, receive: Receive, call: dict[str, Any]) -> tuple[Scope, Receive]:
    """A request with another body."""
    messages = [{"type": "http.request", "body": json.dumps(call).encode(), "more_body": False}]

    async def receive_body() -> Message:
        return messages.pop() if messages else await receive()

    return scope, receive_body


async def _answer(send: Send, status: int, content: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
