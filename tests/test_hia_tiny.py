# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The trained pipeline of the package, on people and dances that it has never seen."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.conditioning.regions import box_masks
from hia_diffusers.procedural.procdance import proc_dance_v1


HEIGHT, WIDTH = 160, 96
NUM_FRAMES, NUM_STEPS = 16, 10


@pytest.fixture(scope="module")
def pipe():
    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def clips():
    """Condition, reference image and truth of two clips."""
    conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)
    made = []
    for clip in proc_dance_v1()[:2]:
        truth = clip.target.render(range(NUM_FRAMES), HEIGHT, WIDTH, clip.fps)
        reference = clip.target.render([clip.reference_frame], HEIGHT, WIDTH, clip.fps).frames[0]
        made.append((conditioner(truth.keypoints, truth.frames), reference, truth))
    return made


def generate(pipe, reference, condition):
    return pipe(
        Image.fromarray(reference),
        condition,
        num_inference_steps=NUM_STEPS,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames[0]


def mean_psnr(frames, truth):
    """In dB; both uint8 or in [0, 1]."""
    frames, truth = (images / 255 if images.dtype == np.uint8 else images for images in (frames, truth))
    return float(np.mean(-10 * np.log10(((frames - truth) ** 2).mean(axis=(1, 2, 3)))))


@pytest.fixture(scope="module")
def generated(pipe, clips):
    return [generate(pipe, reference, condition) for condition, reference, _ in clips]


def test_it_is_small_half_precision_and_safetensors_only():
    files = [path for path in Path(HIA_TINY).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) <= 32e6
    for path in weights:
        with safe_open(path, "pt") as tensors:
            dtypes = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}
        assert dtypes == {"F16"}, path


def test_the_card_says_what_it_is():
    card = ModelCard.load(Path(HIA_TINY) / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "diffusers"
    for heading in ("## Data", "## Training", "## Metrics", "## Limitations"):
        assert heading in card.text


def test_it_is_far_better_than_copying_the_reference(clips, generated):
    for (_, reference, truth), frames in zip(clips, generated, strict=True):
        copied = reference[None].repeat(NUM_FRAMES, axis=0)
        assert mean_psnr(frames, truth.frames) > mean_psnr(copied, truth.frames) + 1


def test_it_looks_at_the_reference_and_at_the_pose(pipe, clips, generated):
    (condition, reference, truth), (other_condition, other_reference, _) = clips
    right = mean_psnr(generated[0], truth.frames)
    assert mean_psnr(generate(pipe, reference, other_condition), truth.frames) < right - 1
    assert mean_psnr(generate(pipe, other_reference, condition), truth.frames) < right - 4


def test_hands_are_as_sharp_as_is_asked_for(pipe, clips):
    conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)
    for condition, reference, truth in clips:
        variances, outside = [], ~box_masks(condition.hand_boxes, HEIGHT, WIDTH).any(axis=1)
        images = []
        for sharpness in (0.0, 0.5, 1.0):
            frames = generate(pipe, reference, conditioner(truth.keypoints, sharpness=sharpness))
            images.append(frames)
            measured = conditioner(truth.keypoints, frames).hand_sharpness
            variances.append(np.nanmean(conditioner.unsquash_sharpness(measured[np.isfinite(measured)])))
        assert variances[0] < variances[1] < variances[2]
        assert np.abs(images[2] - images[0])[outside].mean() < 0.02
