# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The table of the paper's statements names places in the code that exist."""

import ast
import re

import pytest
import yaml
from documented_code import ROOT


PAGE = (ROOT / "docs" / "paper.md").read_text()
ROWS = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in re.findall(r"^\| \d+ \|.*$", PAGE, re.M)]
VERDICTS = {"as written", "reading", "choice", "differs", "missing"}


def names_in(tree):
    """Classes, functions, methods, fields and constants, methods and fields behind the name of their class."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{name}" for name in names_in(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def exists(place):
    path, name = place.split(":")
    (file,) = [folder / path for folder in (ROOT, ROOT / "src" / "hia_diffusers") if (folder / path).is_file()]
    if file.suffix == ".py":
        return name in names_in(ast.parse(file.read_text()))
    content = yaml.safe_load(file.read_text())
    for key in name.split("."):
        content = content[key]
    return True


def test_all_statements_are_there():
    assert [int(row[0]) for row in ROWS] == list(range(1, 55))
    assert {row[4] for row in ROWS} == VERDICTS
    for row in ROWS:
        assert len(row) == 6 and all(row[:5]), row
        assert row[5] or row[4] == "as written", f"{row[0]}: a deviation says why"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_places_exist(row):
    places = re.findall(r"`([^`]+)`", row[3])
    assert places and ", ".join(f"`{place}`" for place in places) == row[3]
    for place in [*places, *re.findall(r"`([\w/]+\.\w+:[^`]+)`", row[5])]:
        assert exists(place), place


def test_a_place_that_is_none_is_seen():
    assert not exists("training/losses.py:no_loss") and exists("training/config.py:RunOptions.output_dir")
    with pytest.raises(ValueError):
        exists("training/no_file.py:regional_loss")
