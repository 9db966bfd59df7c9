# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a page receives while its animation is denoised, from a server that is started as users start it."""

import io
import json
import socket
import urllib.request

from page_server import run_server
from PIL import Image


def test_a_page_shows_previews_before_the_result(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with run_server(tmp_path, "app", "--port", str(port), "--device", "cpu", "--max_frames", "4") as server:
        assert server.post("queue/join", server.call("me", frames=2, steps=4))[0] == 200
        shown, visible = [], []
        for line in server.listen("me"):
            message = json.loads(line.removeprefix(b"data: ") or b"{}") if line.startswith(b"data: ") else {}
            if message.get("msg") not in ("process_generating", "process_completed"):
                continue
            live = message["output"]["data"][3]
            if message["msg"] == "process_completed":
                result = message["output"]["data"][0]
                visible.append(live["visible"])
                break
            text = json.dumps(live)
            if ".jpg" in text:
                path = text[text.index(str(server.folder)) : text.index(".jpg") + 4]
                with urllib.request.urlopen(f"{server.address}/gradio_api/file={path}", timeout=60) as answer:
                    shown.append(Image.open(io.BytesIO(answer.read())).size)
        assert shown == [(2 * 96, 160)] * 3 and visible == [False]
        assert "preview.mp4" in json.dumps(result)
