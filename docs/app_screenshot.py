# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Create docs/images/app.png, a screenshot of the web page after an animation in headless Chromium.

python docs/app_screenshot.py [--chromium PATH]
"""

import argparse
import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


OUTPUT = Path(__file__).parent / "images" / "app.png"
PORT = 7899


def take(address, chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 1130})
        page.set_default_timeout(600_000)
        page.goto(address)
        page.locator("#people button").nth(1).click()
        page.get_by_label("Waving overhead").check()
        page.locator("#run").click()
        page.locator("#status", has_text="This video is generated").wait_for()
        page.locator("#result video").evaluate("video => { video.pause(); video.currentTime = 0.4 }")
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)
        image = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(image)).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser (default: Debian's)")
    args = parser.parse_args()
    command = [sys.executable, "-u", "-m", "hia_diffusers", "app", "--port", str(PORT), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = next(line.split()[4] for line in server.stdout if line.startswith("The page is at "))
        image = take(address, args.chromium)
    finally:
        server.terminate()
        server.wait()
    image.quantize(256, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
