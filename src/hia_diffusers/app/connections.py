# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What uvicorn does not limit: the number of connections, the time a client may take, and the size of the log."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any

from .limits import Limits


# The head of a request must arrive, and a client whose buffers are full must read on, within this time.
SECONDS = 10.0

logger = logging.getLogger(__name__)


def limited_connection(limits: Limits) -> type:
    """Make a protocol for uvicorn.

    Args:
        limits ([`~app.limits.Limits`]):
            How many connections there may be, of all clients and of one address. Beyond it, the oldest one that sends
            no request is closed to make room; if there is none, the new one is closed.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedConnection(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            self.opened = self.loop.time()
            self._head_deadline: asyncio.TimerHandle | None = None
            self.address = transport.get_extra_info("peername")[0]
            own = [other for other in connections if other.address == self.address]
            if make_room(own, limits.address_connections) and make_room(connections, limits.connections):
                super().connection_made(transport)
                connections.add(self)
                self._expect_head()
            else:
                logger.warning("Rejected a connection from %s, which has %d.", self.address, len(own))
                transport.set_protocol(asyncio.Protocol())
                transport.abort()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            connections.discard(self)

        @property
        def waits(self) -> bool:
            """Whether no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_head()

        def _expect_head(self) -> None:
            if not self.waits and self._head_deadline is not None:
                self._head_deadline.cancel()
                self._head_deadline = None
            elif self.waits and self._head_deadline is None:
                self._head_deadline = self.loop.call_later(SECONDS, self.transport.abort)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._read_deadline = self.loop.call_later(SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read_deadline.cancel()

    connections: set[LimitedConnection] = set()

    def make_room(some: Collection[LimitedConnection], limit: int) -> bool:
        if len(some) < limit:
            return True
        waiting = [connection for connection in some if connection.waits]
        if waiting:
            oldest = min(waiting, key=lambda connection: connection.opened)
            connections.discard(oldest)
            oldest.transport.abort()
        return bool(waiting)

    return LimitedConnection


class OneLineASecond(logging.Filter):
    """A filter that passes one record per second and place in the code, as one line."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide whether to log a record.

        Args:
            record (`logging.LogRecord`):
                The record, whose traceback is replaced by the exception.
        """
        place, now = (record.pathname, record.lineno), time.monotonic()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError) or now - self._last.get(place, -1.0) < 1:
            return False
        self._last[place] = now
        message = f"{record.getMessage()} {repr(error) if error else ''}"
        record.msg, record.args, record.exc_info = " ".join(message.split()), (), None
        return True
