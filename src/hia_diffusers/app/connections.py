# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What uvicorn does not bound: how many connections there are, how long a client may take, how much is logged."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any

from .limits import Limits


# In which the head of a request must arrive, and the client must read on where an answer fills the buffers.
SECONDS = 10.0

# Of connections that are taken before those that are too many are closed again; each keeps a file open.
BACKLOG = 64

logger = logging.getLogger(__name__)


def limited_connection(limits: Limits) -> Any:
    """
    A protocol for uvicorn.

    Args:
        limits ([`~app.limits.Limits`]):
            Hold how many connections there may be, of all clients and of one address. Beyond it, the oldest one on
            which no request has arrived makes room; where there is none, the new one is closed.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedConnection(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            self.opened = self.loop.time()
            self._head_deadline: asyncio.TimerHandle | None = None
            address = transport.get_extra_info("peername")[0]
            connections: Any = self.connections
            own = [other for other in connections if other.client and other.client[0] == address]
            if make_room(own, limits.address_connections) and make_room(connections, limits.connections):
                super().connection_made(transport)
                self._expect_head()
            else:
                logger.warning("Refused a connection from %s, which has %d.", address, len(own))
                transport.set_protocol(asyncio.Protocol())
                transport.abort()

        @property
        def waits(self) -> bool:
            """Whether it is the head of a request that arrives next."""
            return self.conn.their_state is h11.IDLE

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
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

    def make_room(connections: Collection[Any], most: int) -> bool:
        if len(connections) < most:
            return True
        waiting = [connection for connection in connections if connection.waits]
        if waiting:
            oldest = min(waiting, key=lambda connection: connection.opened)
            oldest.connections.discard(oldest)
            oldest.transport.abort()
        return bool(waiting)

    return LimitedConnection


class OneLineASecond(logging.Filter):
    """Lets one record a second pass of each place in the code, as one line."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether to log a record.

        Args:
            record (`logging.LogRecord`):
                Its traceback becomes the name of the exception.
        """
        place, now = (record.pathname, record.lineno), time.monotonic()
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError) or now - self._last.get(place, -1.0) < 1:
            return False
        self._last[place] = now
        message = f"{record.getMessage()} {repr(error) if error else ''}"
        record.msg, record.args, record.exc_info = " ".join(message.split()), (), None
        return True
