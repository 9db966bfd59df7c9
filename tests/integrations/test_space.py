# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face Space: its card, its requirements, and its app as the Hub starts it."""

import json
import socket
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from page_server import run_server


try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib


ROOT = Path(__file__).parents[2]
SPACE = ROOT / "integrations" / "space"


def test_the_card_has_what_the_hub_reads():
    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio" and (SPACE / card.data.app_file).is_file()
    assert len(card.data.short_description) <= 60  # longer ones are refused
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (gradio,) = map(Requirement, extras["demo"])
    assert gradio.specifier.contains(card.data.sdk_version)
    (required,) = map(Requirement, (SPACE / "requirements.txt").read_text().splitlines())
    assert required.name == "hia-diffusers" and required.extras <= extras.keys()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    variables = {"GRADIO_SERVER_PORT": port, "HIA_MODEL": "", "CUDA_VISIBLE_DEVICES": ""}
    with run_server(tmp_path_factory.mktemp("space"), program=[str(SPACE / "app.py")], **variables) as server:
        yield server


def test_the_app_animates(server):
    assert server.address.startswith("http://0.0.0.0:")
    assert server.post("queue/join", server.call("session", frames=2, steps=1))[0] == 200
    messages = [json.loads(line[6:]) for line in server.listen("session") if line.startswith(b"data: ")]
    (completed,) = [message for message in messages if message["msg"] == "process_completed"]
    assert completed["success"], completed
