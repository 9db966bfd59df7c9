# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import functools

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image

from hia_diffusers import PreviewCallback
from hia_diffusers.pipelines.clean_estimate import clean_estimate


class Estimates(PipelineCallback):
    tensor_inputs = ["latents", "pred_original_sample"]

    def __init__(self):
        super().__init__()
        self.latents, self.estimates = [], []

    def callback_fn(self, pipeline, step, timestep, tensors):
        self.latents.append(tensors["latents"].clone())
        self.estimates.append(tensors["pred_original_sample"].clone())
        return tensors


@pytest.mark.parametrize(
    ("scheduler", "prediction_type"),
    [
        *((DDIMScheduler, "v_prediction"), (EulerDiscreteScheduler, "epsilon"), (HeunDiscreteScheduler, "sample")),
        *((DPMSolverMultistepScheduler, "v_prediction"), (UniPCMultistepScheduler, "epsilon"), (None, "sample")),
    ],
)
def test_the_last_clean_estimate_is_the_result(pipe, animate, scheduler, prediction_type):
    kind = type(pipe.scheduler) if scheduler is None else scheduler
    pipe.scheduler = kind.from_config(pipe.scheduler.config, prediction_type=prediction_type)
    seen = Estimates()
    latents = animate(pipe, num_inference_steps=3, output_type="latent", callback_on_step_end=seen)
    assert torch.equal(seen.latents[-1], latents)
    torch.testing.assert_close(seen.estimates[-1], latents, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(seen.estimates[0], seen.latents[0], atol=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_estimates_are_those_of_diffusers(pipe, animate, monkeypatch, eta):
    """Also where frames are stepped some at a time, which overwrites the prediction."""
    steps, kind = [], type(pipe.scheduler)
    step = kind.step

    @functools.wraps(step)  # the pipeline reads its signature
    def recorded(*args, **kwargs):
        steps.append(step(*args, **kwargs))
        return steps[-1]

    monkeypatch.setattr(kind, "step", recorded)
    seen = Estimates()
    without = animate(pipe, num_inference_steps=3, eta=eta)
    assert torch.equal(animate(pipe, num_inference_steps=3, eta=eta, callback_on_step_end=seen), without)
    for ours, theirs in zip(seen.estimates, steps[-3:], strict=True):
        torch.testing.assert_close(ours, theirs.pred_original_sample, atol=1e-4, rtol=1e-4)


def test_fractional_timesteps():
    scheduler = DDIMScheduler()
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unsqueeze(3)
    for time in (400.0, 400.5, 999.0):
        signal = np.interp(time, range(1000), scheduler.alphas_cumprod)
        noisy = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
        torch.testing.assert_close(clean_estimate(scheduler, noisy, noise, time), clean, atol=1e-3, rtol=1e-3)


def test_previews_are_shown_while_denoising(pipe, animate):
    shown = []
    preview = PreviewCallback(shown.append, every=2, num_frames=2)
    frames = animate(pipe, num_inference_steps=5, output_type="pil", callback_on_step_end=preview)[0]
    assert [[frame.size for frame in images] for images in shown] == [[(48, 64)] * 2] * 2  # after steps 2 and 4
    seen = Estimates()
    animate(pipe, num_inference_steps=5, callback_on_step_end=seen)
    with torch.no_grad():
        first_and_last = pipe.decode(seen.estimates[3][:, :, [0, 2]], "pil")[0]
    for image, expected in zip(shown[1], first_and_last, strict=True):
        assert np.abs(np.asarray(image, int) - np.asarray(expected)).max() <= 1
    # With others, and without a change of the result.
    callbacks = MultiPipelineCallbacks([Estimates(), PreviewCallback(shown.append, every=4)])
    again = animate(pipe, num_inference_steps=5, output_type="pil", callback_on_step_end=callbacks)[0]
    assert len(shown) == 3 and len(shown[2]) == 3
    assert all(np.array_equal(one, other) for one, other in zip(frames, again, strict=True))


def test_large_previews_are_decoded_smaller(pipe, animate, monkeypatch):
    decoded, decode = [], pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda latents: decoded.append(latents.shape[-2:]) or decode(latents))
    shown = []
    animate(pipe, output_type="latent", callback_on_step_end=PreviewCallback(shown.append, max_side=32))
    assert decoded == [(4, 3)] * 3 and [frame.size for frame in shown[0]] == [(48, 64)] * 3


@pytest.mark.parametrize("name", ["live.png", "live.JPG", "live.webp"])
def test_previews_are_written_side_by_side(pipe, animate, tmp_path, name):
    (tmp_path / name).write_text("an older file")
    sizes = []

    class Look(PipelineCallback):
        tensor_inputs = []

        def callback_fn(self, pipeline, step, timestep, tensors):
            if step < 2:
                sizes.append(Image.open(tmp_path / name).size)
            return tensors

    callbacks = MultiPipelineCallbacks([PreviewCallback(tmp_path / name), Look()])
    animate(pipe, num_inference_steps=3, callback_on_step_end=callbacks)
    assert sizes == [(3 * 48, 64)] * 2 and [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"show": None}, TypeError, "`show` must be a function or a path"),
        ({"show": "live.gif"}, ValueError, "`show` must end in .png, .jpg, .jpeg, .webp, got 'live.gif'"),
        ({"show": "missing/live.png"}, FileNotFoundError, "missing"),
        ({"show": print, "every": 0}, ValueError, "`every`"),
        ({"show": print, "num_frames": 1.5}, TypeError, "`num_frames`"),
        ({"show": print, "max_side": 0}, ValueError, "`max_side`"),
    ],
)
def test_bad_previews(arguments, error, message):
    with pytest.raises(error, match=message):
        PreviewCallback(**arguments)


def test_a_preview_of_an_unknown_tensor_is_refused(pipe, animate):
    with pytest.raises(ValueError, match="`callback_on_step_end_tensor_inputs` must be"):
        animate(pipe, callback_on_step_end=print, callback_on_step_end_tensor_inputs=["pred_noise"])
