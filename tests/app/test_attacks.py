# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Attacks on the server of the page, as users start it, and that it serves others meanwhile."""

import contextlib
import json
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from page_server import run_server, wait_for


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and more than one address for itself")

# The command, with less patience for the slow.
PROGRAM = """
import sys
from hia_diffusers.__main__ import main
from hia_diffusers.app import connections, guard, jobs

connections.SECONDS = guard.SECONDS = jobs.SECONDS = 2.0
main(sys.argv[1:])
"""
ATTACKER = "127.0.0.2"
JSON = "Content-Type: application/json"
MULTIPART = "Content-Type: multipart/form-data; boundary=b"
FILE = 'Content-Disposition: form-data; name="files"; filename="a.png"'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["app", "--port", str(port), "--device", "cpu", "--max_frames", "64"]
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with run_server(folder, "-c", PROGRAM, *options, program=(), **proxies, NO_PROXY="") as server:
            yield server
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # it contacted no other host
            proxy.accept()
    assert "Traceback" not in server.log


@pytest.fixture(autouse=True)
def nothing_of_it_stays(server):
    before = server.stored
    yield
    assert server.stored == before and "Traceback" not in server.log


@pytest.fixture
def connect(server):
    """Connects as an attacker."""
    with contextlib.ExitStack() as stack:

        def connect(sent=b"", address=ATTACKER):
            connection = socket.create_connection(("127.0.0.1", server.port), 30, (address, 0))
            stack.enter_context(connection)
            connection.sendall(sent)
            return connection

        yield connect


def head(method, path, *headers):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode("latin-1")


def answer(connection):
    """All that is answered until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            received += part
    return received


def status(connection):
    return int(re.match(rb"HTTP/1\.1 (\d+) ", answer(connection))[1])


def form(content=b"x", part=FILE):
    return b"--b\r\n" + part.encode() + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


def upload(server, size=16_000):
    """The status of an honest one. What it stored is deleted."""
    request = urllib.request.Request(f"{server.address}/gradio_api/upload", form(b"x" * size))
    request.add_header("Content-Type", "multipart/form-data; boundary=b")
    try:
        with urllib.request.urlopen(request, timeout=60) as answered:
            Path(json.load(answered)[0]).unlink()
            return answered.status
    except urllib.error.HTTPError as error:
        return error.code


def page_answers(server):
    start = time.monotonic()
    with urllib.request.urlopen(server.address, timeout=60) as page:
        return page.status == 200 and time.monotonic() - start < 30


def memory(server):
    """Of the server, in MB."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1000


def test_a_length_that_is_not_that_of_the_body_is_refused(server, connect):
    """The length would be believed, and the chunks be read."""
    before = memory(server)
    connection = connect(
        head("POST", "/gradio_api/upload", MULTIPART, "Content-Length: 100", "Transfer-Encoding: chunked")
    )
    with contextlib.suppress(ConnectionError):
        connection.sendall(b'2f\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n')
        for _ in range(64):
            connection.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
    assert memory(server) < before + 30 and page_answers(server)


def test_a_field_that_is_no_file_takes_no_memory(server, connect):
    before = memory(server)
    body = form(bytes(40 * 2**20), 'Content-Disposition: form-data; name="files"')
    connections = [
        connect(head("POST", "/gradio_api/upload", MULTIPART, f"Content-Length: {len(body)}")) for _ in range(4)
    ]
    for connection in connections:
        with contextlib.suppress(ConnectionError):
            connection.sendall(body)
    assert memory(server) < before + 60 and upload(server) == 200


def test_what_is_only_announced_blocks_no_upload(server, connect):
    """Together they announce all that may be stored, 2 GiB, to the last 256 KiB."""
    for number, megabytes in enumerate([*[50] * 40, 24, 12, 6, 3, 1.5, 0.75, 0.5, 0.25]):
        length = f"Content-Length: {int(megabytes * 2**20)}"
        connect(head("POST", "/gradio_api/upload", MULTIPART, length) + b"--b", f"127.0.0.{2 + number // 24}")
    assert upload(server) == 200


def test_an_upload_that_does_not_go_on_is_ended_and_leaves_nothing(server, connect):
    start = time.monotonic()
    connection = connect(head("POST", "/gradio_api/upload", MULTIPART, f"Content-Length: {50 * 2**20}"))
    connection.sendall(form()[:-10] + bytes(10**5))
    assert b"408" in answer(connection)[:20] and time.monotonic() - start < 25


def trickle(connections, seconds):
    """Send a byte now and then, as long as the other side listens."""
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        for connection in connections:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"x")
        time.sleep(0.2)


def test_heads_that_do_not_end_keep_nobody_out(server, connect):
    slow = [connect(b"GET / HTTP/1.1\r\nX: ", address) for address in (ATTACKER, "127.0.0.1") for _ in range(100)]
    assert page_answers(server) and upload(server) == 200
    trickle(slow, 2.5)
    for connection in slow:
        connection.settimeout(1)
        assert answer(connection) == b""


def test_a_body_that_was_refused_is_not_waited_for(connect):
    refused = [connect(head(*words, f"Content-Length: {10**6}")) for words in (("POST", "/none"), ("GET", "/"))]
    trickle(refused, 4)
    for connection in refused:
        connection.settimeout(1)
        assert answer(connection).count(b"HTTP/1.1 ") <= 1


def test_an_address_has_so_many_requests_and_no_more(server, connect):
    length = f"Content-Length: {50 * 2**20}"
    for _ in range(32):
        connect(head("POST", "/gradio_api/upload", MULTIPART, length))
    time.sleep(0.5)
    assert answer(connect(head("GET", "/"))) == b""
    assert page_answers(server)


def test_an_answer_that_is_not_read_is_given_up(server, connect):
    """Many answers, one after the other, fill what the system buffers, too."""
    page = urllib.request.urlopen(server.address).read().decode()
    script = re.search(r"/assets/index-[\w-]+\.js", page)[0]
    connection = connect(head("GET", script) * 200)
    time.sleep(4)
    connection.settimeout(10)
    assert 0 < answer(connection).count(b"HTTP/1.1 200 ") < 200


@pytest.mark.parametrize(
    "request_",
    [
        head("GET", "/", f"X: {'x' * 60_000}"),
        head("GET", "/", *["X: x"] * 5_000),
        head("GET", f"/{'a' * 5_000}"),
        head("GET", f"/assets/{'a' * 199}/{'a' * 5_000}"),
        head("GET", "/assets/" + "a" * 200),
        head("GET", "/assets/../../../../etc/passwd"),
        head("GET", "/assets/%00"),
        head("GET", "/static"),
        head("GET", "/?page=none&deep_link=../a"),
        head("GET", "/", "X-Forwarded-Host: [", "X-Forwarded-Proto: x"),
        head("GET", "/", "X-Gradio-Server: http://[", "Cookie: =;=", "Accept-Encoding: br;q=x"),
        head("GET", "/", "Host: ["),
        head("GET", "/", "Content-Length: 5") + b"hello",
        head("GET", "/", "Content-Length: -1"),
        head("HEAD", "/gradio_api/queue/data?session_hash=a"),
        head("GET", "/gradio_api/queue/data"),
        head("GET", "/gradio_api/queue/data?session_hash=%00"),
        head("GET", f"/gradio_api/file=/{'a' * 5_000}.png"),
        head("GET", "/gradio_api/file=http://127.0.0.1:1/a.png"),
        head("GET", "/gradio_api/file=%ff%00.png"),
        head("GET", "/gradio_api/upload_progress?upload_id=a"),
        head("GET", "/gradio_api/proxy=http://127.0.0.1:1/"),
        head("OPTIONS", "/", "Origin: http://there", "Access-Control-Request-Method: POST"),
        head(
            "GET",
            "/",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: a",
            "Sec-WebSocket-Version: 13",
        ),
        head("POST", "/gradio_api/upload", f"Content-Type: multipart/form-data; boundary={'b' * 60_000}"),
        head("POST", "/gradio_api/upload", f"{MULTIPART}{'b' * 300}", "Content-Length: 1") + b"-",
        head("POST", "/gradio_api/upload", MULTIPART, "Content-Length: 99999999999999999999"),
        head("POST", "/gradio_api/upload", MULTIPART, f"Content-Length: {'9' * 5_000}"),
        head("POST", "/gradio_api/upload", MULTIPART, "Content-Length: 9") + b"x" * 100_000,
        head("POST", "/gradio_api/upload", MULTIPART, "Content-Length: 5", "Content-Length: 6"),
        head("POST", "/gradio_api/upload", MULTIPART, "Content-Length: 5", "Expect: 100-continue") + b"hello",
        *(
            head("POST", f"/gradio_api/{path}", JSON, f"Content-Length: {len(body)}") + body
            for path in ("queue/join", "cancel", "reset", "run/predict", "component_server")
            for body in (b"{}", b'{"session_hash": "", "fn_index": -1, "data": [], "event_id": ""}')
        ),
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n" * 5_000,
    ],
    ids=lambda request: repr(request[:40]),
)
def test_no_request_is_a_fault_of_the_server(server, connect, request_):
    connection = connect(request_)
    connection.shutdown(socket.SHUT_WR)
    statuses = [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", answer(connection))]
    assert all(code < 500 for code in statuses)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        *(("bytes=0-", 206), ("bytes=0-9", 206), ("bytes=-5", 206), ("bytes=5-1", 206), ("bytes=99999999999-", 416)),
        *((words, 400) for words in ("apples=0-1", "bytes", "bytes=", "bytes=a-b", "bytes=0-1-2", "bytes=0-1,5-6")),
        *((f"bytes={words}", 400) for words in ("\xb2-\xb2", f"0-{'9' * 5000}", f"{'9' * 5000}-", "0-0," * 3000)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_parts_of_results_are_served_and_odd_ones_refused(server, connect, ranges, expected):
    image = server.folder / "examples" / "person-1.png"
    connection = connect(head("GET", f"/gradio_api/file={image}", f"Range: {ranges}", "Connection: close"))
    assert status(connection) == expected


def test_http_1_0_and_pipelines_are_served(connect):
    assert answer(connect(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    pipeline = head("GET", "/theme.css") * 3 + head("GET", "/favicon.ico", "Connection: close")
    assert answer(connect(pipeline)).count(b"HTTP/1.1 200 ") == 4


def test_bad_requests_do_not_fill_the_log(server, connect):
    before = len(server.log)
    start = time.monotonic()
    for _ in range(400):
        with contextlib.suppress(ConnectionError):
            connect(b"nonsense\r\n\r\n")
    for _ in range(40):
        answer(connect(head("GET", "/", "Connection: close, Upgrade", "Upgrade: websocket")))
        answer(connect(head("GET", "/none", "Connection: close") + head("GET", "/none") * 20))
    seconds = time.monotonic() - start
    assert len(server.log) - before < 1_000 * (seconds + 1)


def test_calls_of_nobody_do_not_keep_others_waiting(server):
    """Whether they say where the result shall go or not."""
    for number in range(20):
        assert server.post("queue/join", server.call(f"nobody-{number}"))[0] == 200
    assert server.post("queue/join", server.call("somebody", frames=1, steps=1))[0] == 200
    start = time.monotonic()
    with server.listen("somebody") as messages:
        last = [line for line in messages if b"process_completed" in line][-1]
    assert b'"success":true' in last and time.monotonic() - start < 60
    for path in server.folder.glob("*/*.mp4"):
        path.unlink()


def test_the_queue_has_an_end(server):
    statuses = [server.post("queue/join", server.call(f"many-{number}"))[0] for number in range(30)]
    assert set(statuses) == {200, 503} and statuses.count(200) < 25
    time.sleep(2.5)
    assert server.post("queue/join", server.call("later"))[0] == 200


@pytest.mark.parametrize("header", ["Content-Type: text/plain", "X: x"])
def test_pages_of_other_sites_cannot_call(server, connect, header):
    """A browser sends these without asking the server first."""
    body = json.dumps(server.call("other-site")).encode()
    connection = connect(
        head("POST", "/gradio_api/queue/join", header, f"Content-Length: {len(body)}", "Connection: close") + body
    )
    assert 400 <= status(connection) < 500


@pytest.mark.parametrize(
    ("number", "value"),
    [(1, "\ud800\n" * 999), (5, 10**400), (5, -(2**63)), (6, float("nan")), (7, float("inf")), (8, "\0"), (8, True)],
    ids=lambda value: repr(value)[:20],
)
def test_values_that_no_page_sends_get_a_sentence(server, number, value):
    call = server.call("odd", frames=1, steps=1)
    call["data"][number] = value
    assert server.post("queue/join", call)[0] == 200
    with server.listen("odd") as messages:
        (last,) = [json.loads(line[6:]) for line in messages if b"process_completed" in line]
    assert not last["success"] and last["output"]["error"].endswith(".")


def test_the_queue_cannot_be_passed_by_nor_filled_by_one_session(server):
    cancelled = server.log.count("Cancelled at")
    assert server.post("run/predict", server.call("direct"))[0] == 404
    joined, running = server.post("queue/join", server.call("one", frames=64))
    assert joined == 200
    with server.listen("one") as messages:
        assert any(b"Denoising" in line for line in messages)
        for _ in range(3):
            refused, answered = server.post("queue/join", server.call("one"))
            assert refused == 429 and "is not finished" in answered["detail"]
        assert server.post("cancel", {**server.call("one"), **running})[0] == 200
    wait_for(lambda: server.log.count("Cancelled at") > cancelled, server)


def test_sessions_take_no_memory(server):
    """Gradio keeps what a page shows of each session that it has seen."""

    def open_sessions(names):
        for name in names:
            joined, event = server.post("queue/join", {**call, "session_hash": name})
            if joined == 200:
                server.post("cancel", {**event, "session_hash": name, "fn_index": call["fn_index"]})

    call = server.call("")
    open_sessions(f"first-{number}" for number in range(50))
    before = memory(server)
    open_sessions(f"later-{number}" for number in range(150))
    assert memory(server) < before + 5
