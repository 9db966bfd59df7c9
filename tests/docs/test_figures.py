# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import runpy

import numpy as np
import pytest
from documented_code import ROOT
from PIL import Image


IMAGES = ROOT / "docs" / "images"
figures = runpy.run_path(str(ROOT / "docs" / "figures.py"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    figures["main"](["--output", str(folder)])
    return folder


@pytest.mark.parametrize("name", figures["FIGURES"])
def test_figures_are_drawn_and_on_the_page(drawn, name):
    assert f"(images/{name})" in (ROOT / "docs" / "how_it_works.md").read_text()
    if name.endswith(".png"):
        new, kept = (np.asarray(Image.open(folder / name).convert("RGB"), dtype=float) for folder in (drawn, IMAGES))
        assert new.shape == kept.shape and np.abs(new - kept).mean() < 2  # fonts and versions of OpenCV
    else:
        new, kept = ((folder / name).read_text() for folder in (drawn, IMAGES))
        assert new.startswith("<?xml") and abs(len(new) - len(kept)) < 0.1 * len(kept)
