# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The web page's server as users start it, and what its page sends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path


# Seconds; other work may share the machine.
PATIENCE = 300


class Server:
    """A running server: its address, its log and its private folder."""

    def __init__(self, folder: Path, process: subprocess.Popen):
        self.process, self.log_file = process, folder / "log.txt"
        wait_for(lambda: "The page is at " in self.log or process.poll() is not None, self)
        assert process.poll() is None, self.log
        self.address = re.search(r"The page is at (\S+)", self.log)[1]
        (self.folder,) = folder.glob("hia-diffusers-app-*")

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def stored(self) -> int:
        return sum(len(names) for _, _, names in os.walk(self.folder))  # which passes by what is deleted meanwhile

    def post(self, path, call):
        """Status and answer."""
        request = urllib.request.Request(f"{self.address}/gradio_api/{path}", json.dumps(call).encode())
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def call(self, session, frames=8, steps=100):
        """What the page sends for an animation, as long as can be."""
        with urllib.request.urlopen(self.address, timeout=60) as page:
            config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page.read().decode())[1])
        (animate,) = [each["id"] for each in config["dependencies"] if each["backend_fn"]]
        image = {"path": str(self.folder / "examples" / "person-1.png"), "meta": {"_type": "gradio.FileData"}}
        data = [image, "Calm hands", None, True, 0.5, frames, steps, 1, 0, False, "auto"]
        return {"data": data, "fn_index": animate, "session_hash": session}

    def listen(self, session):
        """The messages of a call, line by line."""
        return urllib.request.urlopen(f"{self.address}/gradio_api/queue/data?session_hash={session}", timeout=60)


@contextmanager
def run_server(folder, *options, program=("-m", "hia_diffusers"), **variables):
    """Serves in a folder, which is also that for temporary files, and ends as a service manager does it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    environment |= variables
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *program, *options], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield Server(folder, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(condition, server):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, server.log
        time.sleep(0.1)
