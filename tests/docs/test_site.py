# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import functools
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import yaml
from documented_code import ROOT, code_blocks
from page_server import PATIENCE

import hia_diffusers


DOCS = ROOT / "docs"
SCREENSHOTS = ROOT / "build" / "docs-screenshots"

# The theme searches when a key is released; until its index is built, in vain.
SEARCH = """title => {
    document.getElementById("mkdocs-search-query").dispatchEvent(new Event("keyup"));
    const results = [...document.querySelectorAll("#mkdocs-search-results article h3")];
    return results.some(result => result.textContent === title);
}"""
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


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
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_every_page_is_in_one_of_four_groups(site):
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert [list(group) for group in navigation] == [["Start"], ["Guides"], ["Concepts"], ["Reference"]]
    named = pages_of(navigation)
    assert sorted(named) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    for name in named:
        page = name.removesuffix("index.md") + "index.html" if name.endswith("index.md") else f"{name[:-3]}/index.html"
        assert (site / page).is_file()


def test_the_start_page_has_a_film_two_commands_and_three_ways(site):
    page = (site / "index.html").read_text()
    main = page[page.index('role="main"') : page.index("<footer")]
    assert len(re.findall("<img ", main)) == 1
    assert [len(block.text.splitlines()) for block in code_blocks(DOCS / "index.md")] == [2]
    ways = re.findall(r'<a href="([^"]+)"><strong>', main)
    assert len(ways) == 3 and all((site / way / "index.html").is_file() for way in ways)


@pytest.fixture(scope="module")
def browser(site):
    """Opens pages of the site at a size of the window, in dark mode or not."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: `make browser` installs Debian's, or the variable CHROMIUM names one")
    from playwright.sync_api import sync_playwright

    errors = []
    handler = functools.partial(SilentHandler, directory=site)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_page(name, width=1280, height=900, **options):
            page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
            page.set_default_timeout(1000 * PATIENCE)
            page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
            page.goto(f"http://127.0.0.1:{server.server_port}/{name}")
            return page

        yield open_page
        browser.close()
    server.shutdown()
    assert errors == []


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_the_search_finds_what_people_type(browser):
    page = browser("")
    page.locator("[data-bs-target='#mkdocs_search_modal']").click()
    expected = {
        "VRAM": "Your card: GPU memory (VRAM) and time",
        "out of memory": "Out of memory",
        "callback": "Callbacks and live previews",
        "checkpoint": "Checkpoints and resuming",
        "LoRA": "Fifty clips of one person",
        "fps": "Three minutes",
    }
    for query, title in expected.items():
        page.locator("#mkdocs-search-query").fill(query)
        page.wait_for_function(SEARCH, arg=title, polling=500, timeout=60_000)


def test_the_scripts_of_every_page_run_without_errors(site, browser):
    page, errors = browser(""), []
    start = page.url
    page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
    for path in sorted(site.rglob("*.html")):
        page.goto(start + path.relative_to(site).as_posix())
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(browser, width, scheme):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for name in ("", "one_person/", "api/pipeline/"):
        page = browser(name, width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
        contents = page.locator("#toc-collapse")
        assert contents.evaluate("element => element.scrollWidth - element.clientWidth") == 0, name
        page.screenshot(path=SCREENSHOTS / f"{name.strip('/').replace('/', '-') or 'index'}-{width}-{scheme}.png")


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
