# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: one server, started as users start it, and headless Chromium."""

import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from dancing_videos import BLUE, dancer_boxes, draw_scene
from onnx_models import write_models
from page_server import PATIENCE, run_server, wait_for
from PIL import Image

from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "app-screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: `make browser` installs Debian's, or the variable CHROMIUM names one"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    write_models(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    models = [word for name in ("detector", "pose", "feet") for word in (f"--{name}_model", f"{name}.onnx")]
    options = ["--port", str(port), "--device", "cpu", "--max_frames", "8", "--max_upload_mb", "1", *models]
    with run_server(folder, "app", *options) as server:
        assert server.folder.stat().st_mode & 0o777 == 0o700
        yield server
        assert server.post("queue/join", server.call("last"))[0] == 200
        last = server.listen("last")
        assert any(b"Denoising" in line for line in last)
    assert not server.folder.exists() and "Traceback" not in server.log
    assert server.process.returncode == 0
    assert re.search(r"Cancelled at: Denoising \d+/100\nStopped\.\n$", server.log)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, browser):
    """Opens the page as another user; in the end it has asked no other host for anything, and made no error."""
    asked, errors = [], []

    def open_page(width=1200, height=900):
        page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.address)
        page.locator("#run").wait_for()
        set_number(page, "#frames", 4)
        page.locator("#more button").first.click()
        set_number(page, "#steps", 2)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert asked and all(url.startswith((f"{server.address}/", "data:", "blob:")) for url in asked)
    assert not errors


def set_number(page, name, value):
    field = page.locator(f"{name} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def enabled(page, name):
    page.locator(f"{name}:not([disabled])").wait_for()
    return page.locator(name)


def animate(page):
    """The values that were sent, of a run that has just begun."""
    with page.expect_request("**/queue/join*") as request:
        enabled(page, "#run").click()
    return request.value.post_data_json["data"]


def result(page, folder):
    """The frames of a run, as they are downloaded."""
    page.locator("#status", has_text="This video is generated").wait_for()
    with page.expect_download() as download:
        enabled(page, "#download").click()
    assert download.value.suggested_filename == "animation.mp4"
    download.value.save_as(folder / "animation.mp4")
    return read_video(folder / "animation.mp4").frames


def screenshot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def test_the_slider_reaches_the_model(open_page, tmp_path):
    page = open_page()
    page.get_by_text("Animate only people who have agreed to it").wait_for()
    page.locator("#auto input").uncheck()
    made = {}
    for sharpness in (0, 1):
        enabled(page, "#sharpness input[type=number]")
        set_number(page, "#sharpness", sharpness)
        sent = animate(page)
        assert sent[3:7] == [False, sharpness, 4, 2]
        made[sharpness] = result(page, tmp_path)
        assert made[sharpness].shape == (4, 160, 96, 3)
    screenshot(page, "done")
    assert page.locator("footer a, footer button").count() == 0  # they would lead to what is not served
    assert page.evaluate("window.gradio_config.max_file_size") == 2**20
    assert np.abs(made[1].astype(int) - made[0]).max() > 30


def test_an_uploaded_image_dances_as_the_person_in_an_uploaded_video(open_page, tmp_path):
    scene = ProceduralScene("validation", 1, 1, 1)
    Image.fromarray(scene.render([0], 320, 192).frames[0]).save(tmp_path / "me.jpg")
    write_video(tmp_path / "dance.mp4", draw_scene(dancer_boxes(6), BLUE), 25)
    page = open_page()
    page.locator("#image").get_by_label("Remove Image").click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "me.jpg")
    page.locator("#image img").wait_for()
    page.get_by_label("My own file").check()
    page.locator("#own-motion input[type=file]").set_input_files(tmp_path / "dance.mp4")
    page.locator("#own-motion", has_text="dance").locator(".file-preview").wait_for()
    screenshot(page, "uploaded")
    animate(page)
    with page.expect_response("**/preview.mp4") as preview:
        page.locator("#status", has_text="4 frames of 96x160 at 25 frames per second").wait_for()
    assert preview.value.ok
    assert result(page, tmp_path).shape == (4, 160, 96, 3)
    assert page.locator("#result video").evaluate("video => video.videoWidth") == 3 * 96


@pytest.mark.slow
def test_cancel_ends_the_computation_and_so_does_leaving(server, open_page, tmp_path):
    for way in ("cancel", "leave"):
        cancelled = server.log.count("Cancelled at")
        page = open_page()
        set_number(page, "#steps", 100)
        animate(page)
        page.locator("#result").get_by_text("Denoising").wait_for()
        if way == "cancel":
            enabled(page, "#cancel").click()
            page.locator("#status", has_text="Cancelled.").wait_for()
            set_number(page, "#steps", 2)
            animate(page)
            assert result(page, tmp_path).shape == (4, 160, 96, 3)
        else:
            screenshot(page, "running")
            page.close()
        wait_for(lambda count=cancelled: server.log.count("Cancelled at") > count, server)
        assert int(re.findall(r"Cancelled at: Denoising (\d+)/100", server.log)[-1]) < 100


def test_a_bad_file_gets_a_sentence_and_the_page_goes_on(open_page, tmp_path):
    (tmp_path / "dance.mp4").write_text("I am a text.")
    page = open_page(width=390, height=844)
    page.get_by_label("My own file").check()
    animate(page)
    page.get_by_text("Upload a motion first.").wait_for()
    page.locator("#own-motion input[type=file]").set_input_files(tmp_path / "dance.mp4")
    page.locator("#own-motion", has_text="dance").locator(".file-preview").wait_for()
    animate(page)
    page.get_by_text("'dance.mp4' cannot be read as an MP4, MOV, MKV, WebM or AVI video.").wait_for()
    screenshot(page, "phone")
    page.get_by_label("Pointing").check()
    animate(page)
    assert len(result(page, tmp_path)) == 4


@pytest.mark.slow
def test_two_users_wait_for_each_other_and_get_their_own(open_page, tmp_path):
    pages = [open_page(), open_page()]
    set_number(pages[0], "#steps", 40)
    for page, person, motion in zip(pages, (0, 3), ("Calm hands", "Wide and fast"), strict=True):
        page.locator("#people button").nth(person).click()
        page.locator(f"#image img[src$='person-{person + 1}.png']").wait_for()
        page.get_by_label(motion).check()
        sent = animate(page)
        assert sent[0]["orig_name"] == f"person-{person + 1}.png" and sent[1] == motion
    pages[1].get_by_text(re.compile("queue: 1/1")).wait_for()
    screenshot(pages[1], "waiting")
    first, second = (result(page, tmp_path) for page in pages)
    assert np.abs(first.astype(int) - second).mean() > 3
