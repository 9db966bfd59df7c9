# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of an installed package: its command, hia-tiny and a video. Run it in an environment with the wheel alone."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image

import hia_diffusers
from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video


def run_command(*words: str) -> str:
    command = shutil.which("hia-diffusers", path=Path(sys.executable).parent)
    return subprocess.run([command, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def check_command() -> None:
    assert run_command("--version") == f"hia-diffusers {hia_diffusers.__version__}\n"
    assert version("hia-diffusers") == hia_diffusers.__version__


def check_pipeline(picture: Image.Image, dance) -> None:
    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    condition = MotionBlurConditioner.for_size(160, 96)(dance.keypoints)
    generator = torch.Generator().manual_seed(0)
    frames = pipe(picture, condition, num_inference_steps=2, generator=generator, output_type="pt").frames
    assert frames.shape == (1, 2, 3, 160, 96) and frames.isfinite().all() and frames.std() > 0.05


def check_video(picture: Image.Image, dance) -> None:
    picture.save("person.png")
    dance.keypoints.save("dance.safetensors")
    run_command(
        *"animate --image person.png --driving dance.safetensors --output out.mp4 --num_inference_steps 2".split()
    )
    assert read_video("out.mp4").frames.shape == (2, 160, 96, 3)


def main() -> None:
    assert Path(hia_diffusers.__file__).is_relative_to(sys.prefix), hia_diffusers.__file__
    scene = ProceduralScene("test", identity=0, motion=0, setting=0)
    picture = Image.fromarray(scene.render([60], height=160, width=96).frames[0])
    dance = scene.render(range(2), height=160, width=96)
    check_command()
    check_pipeline(picture, dance)
    check_video(picture, dance)
    python, hia = platform.python_version(), hia_diffusers.__version__
    print(f"hia-diffusers {hia} works on Python {python} with torch {torch.__version__}.")


if __name__ == "__main__":
    main()
