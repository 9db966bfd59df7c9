# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that are not finite end in one error, by every way that a video is made, and leave no file behind."""

import numpy as np
import pytest
import torch
from modular_tiny import modular_of, random_keypoints

from hia_diffusers import HIAAnimator
from hia_diffusers.commands import animate as animate_command
from hia_diffusers.commands import evaluate as evaluate_command


NETWORKS = ["vae", "unet", "appearance_encoder", "controlnet", "image_encoder"]


def spoil(pipe, name, value=float("nan")):
    """One weight of a network that every result depends on."""
    network = getattr(pipe, name)
    layer = {
        "vae": lambda: network.decoder.conv_out,
        "unet": lambda: network.conv_in,
        "appearance_encoder": lambda: network.conv_in,
        "controlnet": lambda: network.conv_in,
        "image_encoder": lambda: network.visual_projection,
    }[name]()
    layer.weight.data.flatten()[0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_are_not_finite_are_named(pipe, animate, name, value):
    spoil(pipe, name, value)
    with pytest.raises(RuntimeError, match=f"are not finite: the weights of `{name}` are not either") as error:
        animate(pipe)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "way, name",
    [
        ("latent", "unet"),
        *(
            (way, name)
            for way in ("stream", "modular", "animator", "animator's stream", "file")
            for name in ("vae", "unet")
        ),
    ],
)
def test_every_way_to_a_video_ends_in_the_error_and_without_a_file(pipe, image, condition, tmp_path, way, name):
    spoil(pipe, name)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0}
    animator, driving = HIAAnimator(pipe), random_keypoints()
    ways = {
        "latent": lambda: pipe(image, condition, output_type="latent", **options),
        "stream": lambda: list(pipe.stream(image, condition, **options)),
        "modular": lambda: modular_of(pipe)(image=image, conditioning_frames=condition, **options),
        "animator": lambda: animator(image, driving, **options),
        "animator's stream": lambda: list(animator.stream(animator.prepare(image, driving), **options)),
        "file": lambda: animator(image, driving, output=tmp_path / "video.mp4", **options),
    }
    with pytest.raises(RuntimeError, match=f"are not finite: the weights of `{name}`"):
        ways[way]()
    assert list(tmp_path.iterdir()) == []


def test_steps_after_numbers_that_are_not_finite_are_spared(pipe, animate):
    spoil(pipe, "unet")
    steps = []
    with pytest.raises(RuntimeError, match="The latents after the first step are not finite"):
        animate(pipe, num_inference_steps=5, callback_on_step_end=lambda *_: steps.append(1))
    assert steps == []


def test_numbers_that_outgrow_their_precision(pipe, animate):
    for network in (pipe.unet, pipe.controlnet, pipe.appearance_encoder):
        network.to(torch.float16)
    pipe.unet.conv_out.weight.data.fill_(6e4)
    with pytest.raises(RuntimeError, match="numbers grew too large for float16 and float32. Try bfloat16 or float32"):
        animate(pipe, guidance_scale=1000.0, output_type="latent")


@pytest.fixture
def spoilt(pipe, tmp_path):
    """A saved pipeline with a weight that is not finite, and inputs."""
    spoil(pipe, "vae")
    pipe.save_pretrained(tmp_path / "model")
    random_keypoints().save(tmp_path / "motion.safetensors")
    return tmp_path


def test_the_command_ends_with_one_line_and_no_file(spoilt, image, capsys):
    image.save(spoilt / "person.png")
    words = ["--model", spoilt / "model", "--image", spoilt / "person.png", "--driving", spoilt / "motion.safetensors"]
    words += ["--output", spoilt / "video.mp4", "--num_inference_steps", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        animate_command.main([str(word) for word in words])
    assert end.value.code == 2
    assert "vae has weights that are not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not list(spoilt.glob("*.mp4")) and not list(spoilt.glob(".*"))


@pytest.mark.parametrize("options", [[], ["--control", "autoencoder"]])
def test_evaluation_scores_no_frames_that_are_not_finite(spoilt, capsys, options):
    words = [
        "--dataset",
        "procdance-v1",
        "--max_clips",
        "2",
        "--num_frames",
        "16",
        "--size",
        "64x64",
        "--num_inference_steps",
        "1",
    ]
    words += ["--model", str(spoilt / "model"), "--output", str(spoilt / "scores.json"), "--device", "cpu", *options]
    with pytest.raises(SystemExit) as end:
        evaluate_command.main(words)
    assert end.value.code == 2
    assert "vae has weights that are not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not (spoilt / "scores.json").exists()


def test_the_default_precision_of_torch_changes_nothing(pipe, animate):
    expected = animate(pipe, context_frames=2, context_overlap=1)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(animate(pipe, context_frames=2, context_overlap=1), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.isfinite(expected.numpy()).all()


def test_a_pipeline_is_loaded_in_single_precision_whatever_the_default(pipe, animate, tmp_path):
    pipe.save_pretrained(tmp_path)
    expected = animate(pipe)
    torch.set_default_dtype(torch.float64)
    try:
        loaded = type(pipe).from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert {network.dtype for network in (loaded.unet, loaded.controlnet, loaded.vae)} == {torch.float32}
        frames = animate(loaded)
    finally:
        torch.set_default_dtype(torch.float32)
    # The positions of frames, a buffer that is not saved, are drawn up in the default precision and rounded.
    assert torch.allclose(frames, expected, atol=1e-4)
