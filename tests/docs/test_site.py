# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import yaml
from documented_code import ROOT

import hia_diffusers


DOCS = ROOT / "docs"


def load(path):
    specification = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def pages_of(navigation):
    """The files that it names, at any depth."""
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in parts for page in pages_of(part)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    navigation = re.search(r"^nav:\n(?:[ #].*\n|\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0]
    named = pages_of(yaml.safe_load(navigation)["nav"])
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    for name in named:
        page = name.removesuffix("index.md") + "index.html" if name.endswith("index.md") else f"{name[:-3]}/index.html"
        assert (site / page).is_file()


def test_every_public_name_is_in_the_reference(site):
    text = "".join(path.read_text() for path in (site / "api").rglob("*.html"))
    for name in hia_diffusers.__all__:
        assert re.search(rf'<h2 id="hia_diffusers\.(\w+\.)*{name}"', text), name
    argument = re.search(r"<code>num_inference_steps</code></b>(.*?)</li>", text, re.DOTALL)[1]
    assert " ".join(re.sub("<.*?>", "", argument).split()) == (
        "(int, default: 25 ) – Number of denoising steps, at most the number of training timesteps."
    )
    assert "*optional*" not in text and "defaults to `" not in text


def test_nothing_is_fetched_from_elsewhere(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\"> ]+)", path.read_text())
        fetched += re.findall(r"<link[^>]+stylesheet[^>]*href=\"?(https?:[^\"> ]+)", path.read_text())
        fetched += re.findall(r"url\(\"?(https?:[^\")]+)", path.read_text())
        assert fetched == [], path


def test_links_out_of_the_documentation_name_files_that_exist(site):
    text = "".join(path.read_text() for path in site.rglob("*.html"))
    assert "<code>benchmarks/RESULTS.md</code>" in text
    hook = load(DOCS / "site" / "repository_links.py")
    for path in DOCS.rglob("*.md"):
        page = path.relative_to(DOCS).as_posix()
        for match in hook.LINK.finditer(path.read_text()):
            if ":" not in match[2]:
                assert (path.parent / match[2]).exists(), (page, match[0])
    assert hook.name_files_outside("[a](../README.md#b), ![c](../d.png), [e](f.md)", "page.md") == (
        "a (`README.md`), ![c](../d.png), [e](f.md)"
    )
    assert hook.name_files_outside("[`RESULTS.md`](../../benchmarks/RESULTS.md)", "api/page.md") == (
        "`benchmarks/RESULTS.md`"
    )


def test_docstrings_of_diffusers_are_read():
    to_google_form = load(DOCS / "site" / "diffusers_docstrings.py").to_google_form
    assert to_google_form(
        "See [`~a.B`].\n\nArgs:\n    x, y (`int` or `A.b`, *optional*, defaults to `8`):\n        One: two.\n\n"
        "Returns:\n    `list[int]` of shape `(2,)`: all `x`.\n"
    ) == (
        "See `a.B`.\n\nArgs:\n    x, y (int | A.b, optional):\n        One: two.\n\n"
        "Returns:\n    list[int] of shape (2,): all `x`.\n"
    )
