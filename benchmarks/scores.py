# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of `hia-diffusers evaluate` that are kept in files, for the benchmarks that compare them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from hia_diffusers.files import write_whole


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"

COPYING = "copying the reference"

# Columns of the tables of scores.
METRICS = {
    "l1": "L1",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "face_psnr": "face",
    "hands_psnr": "hands",
    "hand_sharpness_correlation": "sharpness",
    "static_change": "static change",
    "FID-p": "FID-p",
    "FVD-p": "FVD-p",
}


def as_arguments(options):
    """Yield options by name as the command lines take them."""
    for name, value in options.items():
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no_{name}"
        else:
            yield f"--{name}"
            yield from map(str, value if isinstance(value, list) else [value])


def score(options, path):
    """Return the report on ProcDance-v1 with these options, from `path` if it exists."""
    if not path.exists():
        print(f"Scoring {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {**options, "dataset": "procdance-v1", "output": str(path)}
        command = [sys.executable, "-m", "hia_diffusers", "evaluate", *as_arguments(options)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text())


def write_table(name, table):
    """Write a table between the marks of this name in docs/results.md."""
    begin, end = f"<!-- begin {name} -->\n", f"\n<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page = PAGE.read_text()
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} must contain the marks {begin.strip()} and {end.strip()}.")
    write_whole(PAGE, pattern.sub(lambda match: f"{begin}{table}{end}", page))
    print(table)
