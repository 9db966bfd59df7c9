# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Serves the page: a private folder, Gradio's application behind the guard, and the deletion of old files."""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..animation.animator import HIAAnimator
from .animating import Animations
from .connections import OneLineASecond, limited_connection
from .guard import Guard
from .jobs import Jobs
from .limits import Limits
from .page import CSS, build_page, read_inputs


# Loggers that a client can make write.
LOGGERS = (
    "uvicorn.error",
    "asyncio",
    "python_multipart.multipart",
    *(f"{__package__}.{name}" for name in ("connections", "guard", "page")),
)

logger = logging.getLogger(__name__)


def serve(
    animator: HIAAnimator,
    size: tuple[int, int],
    limits: Limits,
    model: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    queue_size: int = 20,
    ready: Callable[[str], None] = logger.info,
) -> None:
    """Serve the page until the process is told to end, then delete all uploads and results.

    Args:
        animator ([`HIAAnimator`]):
            An animator with a pipeline.
        size (`tuple[int, int]`):
            Width and height of all results.
        limits ([`~app.limits.Limits`]):
            The limits of what is read and made.
        model (`str`):
            A sentence on the model, for the page.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            The address to listen on.
        port (`int`, *optional*, defaults to 7860):
            The port.
        queue_size (`int`, *optional*, defaults to 20):
            How many users may wait.
        ready (`Callable[[str], None]`, *optional*):
            Takes the address of the page once it answers. The default logs it.

    Raises:
        OSError: If the host or the port cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="hia-diffusers-app-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import fastapi
        import gradio
        import uvicorn

        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise OSError(f"`host` {host} and `port` {port} cannot be used ({error.strerror})") from error

        jobs = Jobs()
        page, function = build_page(Animations(animator, size, limits, folder), jobs, model)
        page.state_session_capacity = queue_size + 1  # as many as wait, and the one whose turn it is
        page.queue(max_size=queue_size)
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(),
            page,
            path="/",
            footer_links=[],
            run_history=False,
            max_file_size=limits.max_upload_bytes,
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
        )

        guard = Guard(app, limits, folder, jobs, function, partial(read_inputs, folder=folder))
        config = uvicorn.Config(
            guard,
            http=limited_connection(limits),
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=1,  # open pages hold connections, which would keep the server from ending
        )
        server = uvicorn.Server(config)
        for name in LOGGERS:
            logging.getLogger(name).addFilter(OneLineASecond())
        ended = threading.Event()
        threading.Thread(target=_sweep, args=(folder, limits, jobs, ended), daemon=True).start()
        ready(f"http://{host}:{listener.getsockname()[1]}")
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()
            listener.close()
            jobs.close()


def delete_old(folder: Path, seconds: float, kept: frozenset[Path], jobs: Jobs) -> None:
    """Delete old files in a folder, and folders in it that have been empty for as long.

    Args:
        folder (`Path`):
            The folder.
        seconds (`float`):
            The age from which on files are deleted.
        kept (`frozenset[Path]`):
            Files to keep.
        jobs ([`~app.jobs.Jobs`]):
            Jobs, whose files count as new, also for the `delete_cache` of Gradio.
    """
    for path in jobs.files:
        with suppress(FileNotFoundError):
            os.utime(path)
    limit = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        with suppress(OSError):  # a folder with files, or a file that Gradio has deleted
            if path.stat().st_ctime < limit and path not in kept:
                path.rmdir() if path.is_dir() else path.unlink()


def _sweep(folder: Path, limits: Limits, jobs: Jobs, ended: threading.Event) -> None:
    """Deletes what `delete_cache` of Gradio leaves: uploads that no animation used, and empty folders."""
    examples = frozenset(folder.rglob("*"))
    while not ended.wait(60):
        delete_old(folder, limits.keep_seconds + 120, examples, jobs)
