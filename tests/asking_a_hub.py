# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a script in a process that asks a hub on this machine instead of the Hub.

    python tests/asking_a_hub.py ENDPOINT CACHE SCRIPT ARGUMENTS

CACHE is the folder of downloads.
"""

import runpy
import sys
from pathlib import Path

import hub_server
import pytest


if __name__ == "__main__":
    _, endpoint, cache, script, *arguments = sys.argv
    hub_server.ask(endpoint, pytest.MonkeyPatch(), Path(cache))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
