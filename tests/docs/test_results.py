# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/results.md are those of the scores that are stored, and each has copying beside it."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results.md").read_text()


def stored(name):
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())


def between_marks(name):
    return re.search(f"<!-- begin {name} -->\n(.*?)\n<!-- end {name} -->", PAGE, re.DOTALL)[1]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in ("scores", "ablation", "hia_tiny_scores"):
        sys.modules.pop(name, None)


def test_every_table_has_copying():
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    assert len(tables) == 8
    assert [table for table in tables if "copying" not in table.replace("above copying", "")] == []


def test_the_tables_of_hia_tiny_are_those_of_its_scores(benchmarks):
    from hia_tiny_scores import FIGURES, table_of_figures, table_of_scores

    scores = stored("hia-tiny")
    assert scores["figures"].keys() == FIGURES.keys()
    assert between_marks("hia-tiny") == table_of_scores(scores["scores"])
    assert between_marks("figures") == table_of_figures(scores["figures"])
    for figure in scores["figures"].values():
        assert figure["measured"] != figure["copying"]


@pytest.mark.parametrize("group", ["training", "inference"])
def test_the_rows_of_the_ablation_are_those_of_its_scores(benchmarks, group):
    from ablation import METRICS

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in between_marks(group).splitlines()]
    assert rows[0][1 : len(METRICS) + 1] == list(METRICS.values())
    assert [row[0] for row in rows[2:]] == list(stored("ablation")[group])
    for row, values in zip(rows[2:], stored("ablation")[group].values(), strict=True):
        assert [cell.split(" ±")[0] for cell in row[1 : len(METRICS) + 1]] == [
            f"{np.mean(values[metric]):.4g}" for metric in METRICS
        ]
