# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Connections to a server in this process: which are closed for others, and how long a client may take."""

import asyncio
import contextlib
import socket
import sys
import threading
import time

import pytest
import uvicorn

from hia_diffusers.app import connections
from hia_diffusers.app.connections import limited_connection
from hia_diffusers.app.limits import Limits


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs more than one address for itself")

PART, NUM_PARTS = 2**16, 1000
PATIENCE = 60


@pytest.fixture
def released():
    """Lets requests of /wait be answered."""
    return threading.Event()


@pytest.fixture
def connect(released, monkeypatch):
    """Connects to a server with three connections, of which an address has two. No time is up."""
    monkeypatch.setattr(connections, "SECONDS", 10.0 * PATIENCE)

    async def app(scope, receive, send):
        while scope["path"] == "/wait" and not released.is_set():
            await asyncio.sleep(0.01)
        parts = [bytes(PART)] * NUM_PARTS if scope["path"] == "/large" else [b"done"]
        length = str(len(parts) * len(parts[0])).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for number, body in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(parts)})

    limits = Limits(connections=3, address_connections=2)
    options = {"ws": "none", "lifespan": "off", "log_config": None, "timeout_keep_alive": 10 * PATIENCE}
    server = uvicorn.Server(uvicorn.Config(app, http=limited_connection(limits), **options))
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def connect(sent=b"", address="127.0.0.2"):
            connection = socket.create_connection(listener.getsockname(), PATIENCE, (address, 0))
            stack.enter_context(connection)
            connection.sendall(sent)
            return connection

        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield connect
        released.set()
        server.should_exit = True
        thread.join()


def request(path):
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()


def received(connection, until=None):
    """What arrives until the server closes the connection, or these bytes have arrived."""
    parts = b""
    with contextlib.suppress(ConnectionResetError):
        while not (until and until in parts) and (part := connection.recv(2**20)):
            parts += part
    return parts


def ask(connection, path="/"):
    with contextlib.suppress(ConnectionError):
        connection.sendall(request(path))
    return received(connection, b"done").startswith(b"HTTP/1.1 200 ")


def test_the_oldest_that_waits_makes_room(connect):
    first, second = connect(), connect()
    assert ask(first) and ask(second)
    third = connect()
    assert ask(third) and received(first) == b"" and ask(second)  # of one address
    assert ask(connect(address="127.0.0.3")) and ask(third)
    assert ask(connect(address="127.0.0.4")) and received(second) == b"" and ask(third)  # of all


def test_one_that_is_answered_is_not_closed_for_another(connect, released, caplog):
    answered = [connect(request("/wait")) for _ in range(2)]
    time.sleep(0.5)
    assert received(connect()) == b""
    assert ask(connect(address="127.0.0.3"))
    released.set()
    assert all(received(connection, b"done") for connection in answered)
    messages = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert messages == ["Rejected a connection from 127.0.0.2, which has 2."]


def test_who_leaves_frees_a_place(connect):
    leaving = [connect(request("/wait")) for _ in range(2)]
    time.sleep(0.5)
    for connection in leaving:
        connection.close()
    start = time.monotonic()
    while not ask(connect()):
        assert time.monotonic() < start + PATIENCE


def test_a_head_must_arrive_in_time_and_an_answer_need_not(connect, released, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS", 1.0)
    begun = connect(b"GET / HTTP/1.1\r\n")
    again = connect(address="127.0.0.3")
    assert ask(again)
    again.sendall(b"GET / HTTP/1.1\r\n")
    assert received(begun) == b"" and received(again) == b""
    waiting = connect(request("/wait"))
    time.sleep(2)
    released.set()
    assert received(waiting, b"done")


def test_an_answer_must_be_read_but_may_be_read_slowly(connect, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS", 2.0)
    unread, slow = connect(request("/large")), connect(request("/large"))
    count = 0
    while part := slow.recv(32 * PART):
        count += len(part)
        if count > NUM_PARTS * PART:
            break
        time.sleep(0.1)
    assert count > NUM_PARTS * PART > len(received(unread))
