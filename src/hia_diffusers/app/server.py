# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the page: a private folder, Gradio's server behind the guard, and the deletion of what is old."""

import asyncio
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..animation.animator import HIAAnimator
from .animating import Animations
from .guard import Guard
from .jobs import Jobs
from .limits import Limits
from .page import CSS, build_page


logger = logging.getLogger(__name__)


def serve(
    animator: HIAAnimator,
    size: tuple[int, int],
    limits: Limits,
    model: str,
    guidance: float = 3.5,
    host: str = "127.0.0.1",
    port: int = 7860,
    queue_size: int = 20,
    ready: Callable[[str], None] = logger.info,
) -> None:
    """
    Serve the page until the process is told to end; what users gave and got is deleted then.

    Args:
        animator ([`HIAAnimator`]):
            With its pipeline.
        size (`tuple[int, int]`):
            Width and height of all results.
        limits ([`~app.limits.Limits`]):
            Of what is read and made.
        model (`str`):
            A sentence on the model, for the page.
        guidance (`float`, *optional*, defaults to 3.5):
            Guidance scale where the user does not choose.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            The address to listen on.
        port (`int`, *optional*, defaults to 7860):
            The port.
        queue_size (`int`, *optional*, defaults to 20):
            How many users may wait.
        ready (`Callable[[str], None]`, *optional*):
            Takes the address of the page once it answers. The default logs it.

    Raises:
        `OSError`: the host or the port cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="hia-diffusers-app-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import fastapi
        import gradio
        import uvicorn

        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise OSError(f"`host` {host} and `port` {port} cannot be listened on ({error.strerror})") from error

        jobs = Jobs()
        page = build_page(Animations(animator, size, limits, folder), jobs, model, guidance=guidance)
        page.queue(max_size=queue_size, default_concurrency_limit=1, api_open=False)
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(),
            page,
            path="/",
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=limits.max_upload_bytes,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
        )

        def has_call(session: str) -> bool:
            return any(call.session_hash == session for call in queued_calls(page))

        guard = Guard(app, limits, folder, has_call, jobs.cancel)
        # Open pages hold a connection each, which would keep the server from ending.
        options: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 1}
        server = uvicorn.Server(uvicorn.Config(guard, **options))
        logging.getLogger("uvicorn.error").addFilter(_is_no_closed_connection)
        ended = threading.Event()
        threading.Thread(target=_sweep, args=(folder, limits.keep_seconds, page, ended), daemon=True).start()
        ready(f"http://{host}:{listener.getsockname()[1]}")
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()
            listener.close()
            jobs.close()


def queued_calls(page: Any) -> list[Any]:
    """
    The calls that wait in Gradio's queue, and those that run. Gradio has no public way to ask for them.

    Args:
        page (`gradio.Blocks`):
            The page.
    """
    queue = page._queue
    waiting = [call for calls in list(queue.event_queue_per_concurrency_id.values()) for call in list(calls.queue)]
    return waiting + [call for calls in list(queue.active_jobs) for call in calls or ()]


def named_files(calls: list[Any]) -> frozenset[Path]:
    """
    The files that calls will read.

    Args:
        calls (`list`):
            As of [`~app.server.queued_calls`].
    """
    values = [value for call in calls for value in call.data.data]
    return frozenset(Path(str(value["path"])) for value in values if isinstance(value, dict) and value.get("path"))


def delete_old(folder: Path, seconds: float, kept: frozenset[Path] = frozenset()) -> None:
    """
    Delete the files in a folder that are older, and the folders in it that have been empty for so long.

    Args:
        folder (`Path`):
            The folder.
        seconds (`float`):
            How old a file may be.
        kept (`frozenset[Path]`, *optional*):
            Files to keep.
    """
    limit = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        with suppress(FileNotFoundError, OSError):
            if path.stat().st_ctime < limit and path not in kept:
                path.rmdir() if path.is_dir() else path.unlink()


def _is_no_closed_connection(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _sweep(folder: Path, seconds: float, page: Any, ended: threading.Event) -> None:
    kept = frozenset(folder.rglob("*"))
    while not ended.wait(min(60.0, seconds)):
        delete_old(folder, seconds, kept | named_files(queued_calls(page)))
