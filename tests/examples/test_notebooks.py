# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The notebooks, executed by Jupyter's client as they are, but for the length of the clip."""

import base64
from pathlib import Path

import pytest

from hia_diffusers.video.reading import read_video


nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel, of the dev extra")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebooks" / "animate_my_photo.ipynb"
SECONDS = 0.1


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = [cell for cell in notebook.cells if "SECONDS = 2 " in cell.source]
    settings.source = settings.source.replace("SECONDS = 2 ", f"SECONDS = {SECONDS} ")
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook, folder


def test_it_is_saved_without_results():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(
        not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code"
    )


def test_it_shows_the_skeleton_and_the_result(executed):
    notebook, folder = executed
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    preview, video = outputs
    assert base64.b64decode(preview.data["image/png"])[:4] == b"\x89PNG"
    assert "data:video/mp4;base64," in video.data["text/html"]
    assert read_video(folder / "animation.mp4").frames.shape == (3, 160, 96, 3)
