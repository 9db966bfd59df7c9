# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: one server, started as users start it, and headless Chromium."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from dancing_videos import BLUE, dancer_boxes, draw_scene
from onnx_models import write_models
from PIL import Image

from hia_diffusers.data.synthetic import ProceduralScene
from hia_diffusers.data.video import read_video, write_video


ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "app-screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: `make browser` installs Debian's, or the variable CHROMIUM names one"
)

# Milliseconds; other work may share the machine.
PATIENCE = 300_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address, and the file with what the server printed."""
    folder = tmp_path_factory.mktemp("server")
    write_models(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = folder / "log.txt"
    models = [word for name in ("detector", "pose", "feet") for word in (f"--{name}-model", f"{name}.onnx")]
    options = ["--port", str(port), "--device", "cpu", "--max-frames", "8", "--max-upload-mb", "1", *models]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hia_diffusers", "app", *options],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: "The page is at " in log.read_text() or process.poll() is not None, log)
            assert process.poll() is None, log.read_text()
            assert [path.stat().st_mode & 0o777 for path in folder.glob("hia-diffusers-app-*")] == [0o700]
            address = f"http://127.0.0.1:{port}"
            yield address, log
            join(address, log, "last")
            still_open = urllib.request.urlopen(f"{address}/gradio_api/heartbeat/last", timeout=60)
            assert still_open.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert not list(folder.glob("hia-diffusers-app-*")) and "Traceback" not in log.read_text()
    assert process.returncode == 0
    assert re.search(r"Cancelled at: Denoising \d+/100\nStopped\.\n$", log.read_text())


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
    address, _ = server
    asked, errors = [], []

    def open_page(width=1200, height=900):
        page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.locator("#run").wait_for()
        set_number(page, "#frames", 4)
        page.locator("#more button").first.click()
        set_number(page, "#steps", 2)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert asked and all(url.startswith((f"{address}/", "data:", "blob:")) for url in asked)
    assert not errors


def post(address, path, call):
    """Status and answer."""
    request = urllib.request.Request(f"{address}/gradio_api/{path}", json.dumps(call).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def long_call(address, log, session):
    """What the page sends for an animation that takes long."""
    with urllib.request.urlopen(f"{address}/config", timeout=60) as config:
        (animate,) = [each["id"] for each in json.load(config)["dependencies"] if each["queue"] and each["inputs"]]
    example = next(log.parent.glob("hia-diffusers-app-*/examples/person-1.png"))
    picture = {"path": str(example), "meta": {"_type": "gradio.FileData"}}
    data = [picture, "Calm hands", None, True, 0.5, 8, 100, 1, 0, False]
    return {"data": data, "fn_index": animate, "session_hash": session}


def join(address, log, session):
    """A call whose computation has begun, as Gradio names it."""
    call = long_call(address, log, session)
    status, answer = post(address, "queue/join", call)
    assert status == 200, answer
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=60) as messages:
        assert any(b"Denoising" in line for line in messages)
    return {"session_hash": session, "fn_index": call["fn_index"], **answer}


def wait_for(condition, log):
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


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
    assert np.abs(made[1].astype(int) - made[0]).max() > 30


def test_an_uploaded_picture_dances_as_the_person_in_an_uploaded_video(open_page, tmp_path):
    scene = ProceduralScene("validation", 1, 1, 1)
    Image.fromarray(scene.render([0], 320, 192).frames[0]).save(tmp_path / "me.jpg")
    write_video(tmp_path / "dance.mp4", draw_scene(dancer_boxes(6), BLUE), 25)
    page = open_page()
    page.locator("#picture").get_by_label("Remove Image").click()
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "me.jpg")
    page.locator("#picture img").wait_for()
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


def test_cancel_ends_the_computation_and_so_does_leaving(server, open_page, tmp_path):
    _, log = server
    for way in ("cancel", "leave"):
        cancelled = log.read_text().count("Cancelled at")
        page = open_page()
        set_number(page, "#steps", 100)
        animate(page)
        page.get_by_text("Denoising").wait_for()
        screenshot(page, "running")
        if way == "cancel":
            enabled(page, "#cancel").click()
            page.locator("#status", has_text="Cancelled.").wait_for()
            set_number(page, "#steps", 2)
            animate(page)
            assert result(page, tmp_path).shape == (4, 160, 96, 3)
        else:
            page.close()
        wait_for(lambda count=cancelled: log.read_text().count("Cancelled at") > count, log)
        assert int(re.findall(r"Cancelled at: Denoising (\d+)/100", log.read_text())[-1]) < 100


def test_a_bad_file_gets_a_sentence_and_the_page_goes_on(open_page, tmp_path):
    (tmp_path / "dance.mp4").write_text("I am a text.")
    page = open_page(width=390, height=844)
    page.get_by_label("My own file").check()
    animate(page)
    page.get_by_text("Give a motion first.").wait_for()
    page.locator("#own-motion input[type=file]").set_input_files(tmp_path / "dance.mp4")
    page.locator("#own-motion", has_text="dance").locator(".file-preview").wait_for()
    animate(page)
    page.get_by_text("'dance.mp4' cannot be read as an MP4, MOV, MKV, WebM or AVI video.").wait_for()
    screenshot(page, "phone")
    page.get_by_label("Pointing").check()
    animate(page)
    assert len(result(page, tmp_path)) == 4


def test_two_users_wait_for_each_other_and_get_their_own(open_page, tmp_path):
    pages = [open_page(), open_page()]
    set_number(pages[0], "#steps", 8)
    for page, person, motion in zip(pages, (0, 3), ("Calm hands", "Wide and fast"), strict=True):
        page.locator(".gallery-item").nth(person).click()
        page.locator(f"#picture img[src$='person-{person + 1}.png']").wait_for()
        page.get_by_label(motion).check()
        sent = animate(page)
        assert sent[0]["orig_name"] == f"person-{person + 1}.png" and sent[1] == motion
    pages[1].get_by_text(re.compile("queue: 1/1")).wait_for()
    screenshot(pages[1], "waiting")
    first, second = (result(page, tmp_path) for page in pages)
    assert np.abs(first.astype(int) - second).mean() > 3


def test_nothing_outside_is_served_or_read(server):
    address, log = server
    folder = next(log.parent.glob("hia-diffusers-app-*"))

    def status(path, data=None):
        try:
            return urllib.request.urlopen(f"{address}{path}", data, timeout=60).status
        except urllib.error.HTTPError as error:
            return error.code

    served = "/gradio_api/file="
    assert status(f"{served}{folder}/examples/person-1.png") == 200
    for name in ("/etc/passwd", f"{folder}/../log.txt", f"{folder}/..%2flog.txt", log, "http://127.0.0.1/", "log.txt"):
        assert status(f"{served}{name}") == 403, name
    assert status("/gradio_api/file/etc/passwd") == 404 and status("/static/..%2f..%2f..%2fetc/passwd") == 403
    call = {
        "data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}],
        "fn_index": 0,
        "session_hash": "a",
    }
    assert status("/gradio_api/queue/join", json.dumps(call).encode()) == 400
    # It is refused by its announced length. No body: the server would close the connection while it is sent.
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", str(2 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_the_queue_cannot_be_passed_by_nor_filled_by_one_session(server):
    address, log = server
    cancelled = log.read_text().count("Cancelled at")
    assert post(address, "run/predict", long_call(address, log, "direct"))[0] == 404
    running = join(address, log, "one")
    for _ in range(3):
        status, answer = post(address, "queue/join", long_call(address, log, "one"))
        assert status == 429 and "is not made yet" in answer["detail"]
    status, waiting = post(address, "queue/join", long_call(address, log, "other"))
    assert status == 200 and post(address, "queue/join", long_call(address, log, "other"))[0] == 429
    # Without the page's own call that stops the computation.
    assert post(address, "cancel", {**running, **waiting, "session_hash": "other"})[0] == 200
    assert post(address, "cancel", running)[0] == 200
    wait_for(lambda: log.read_text().count("Cancelled at") > cancelled, log)


def test_one_file_is_uploaded_at_a_time(server):
    address, log = server

    def upload(count):
        parts = [
            f'--AaB03x\r\nContent-Disposition: form-data; name="files"; filename="{n}.png"\r\n\r\n{n}\r\n'
            for n in range(count)
        ]
        request = urllib.request.Request(f"{address}/gradio_api/upload", "".join([*parts, "--AaB03x--\r\n"]).encode())
        request.add_header("Content-Type", "multipart/form-data; boundary=AaB03x")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def stored():
        return sum(path.is_file() for path in log.parent.glob("hia-diffusers-app-*/**/*"))

    before = stored()
    assert upload(2) == upload(900) == 400 and stored() == before
    assert upload(1) == 200
    wait_for(lambda: stored() == before + 1, log)  # it is moved after the answer
