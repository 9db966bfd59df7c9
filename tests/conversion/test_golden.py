# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Converted weights compute what the original code computed, which `golden/` holds (see its README).

Weights and inputs are drawn by their names; those of the weights are the keys of the original code.
"""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from published_weights import draw, write_magic_animate, write_moore

from hia_diffusers.conversion.magic_animate import convert_magic_animate
from hia_diffusers.conversion.moore_animate_anyone import convert_moore_animate_anyone
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.pipelines.inputs import DenoisingOptions


GOLDEN = Path(__file__).parent / "golden"
F, H, W = 3, 8, 12

LATENTS = draw("latents", 1, 4, F, H, W)
REFERENCE_LATENTS = draw("reference_latents", 1, 4, H, W)
CONDITIONING = draw("conditioning", F, 3, 8 * H, 8 * W, uniform=True)


class Case:
    """A converted pipeline, and what the original gave for the same weights and inputs."""

    def __init__(self, name, pipeline, tokens, timestep, guidance_scale):
        self.name, self.pipeline, self.guidance_scale = name, pipeline, guidance_scale
        self.expected = safetensors.torch.load_file(GOLDEN / f"{name}.safetensors")
        self.timestep = torch.tensor(timestep)
        self.context = draw("context", 2, tokens, 32)  # of the unconditional and of the conditional branch
        if tokens == 1:
            self.context[0] = 0


@pytest.fixture(scope="module")
def magic_animate(tmp_path_factory):
    folder = write_magic_animate(tmp_path_factory.mktemp("magic_animate"))
    pipeline = convert_magic_animate(folder / "weights", folder / "base").model
    return Case("magic_animate", pipeline, tokens=5, timestep=681, guidance_scale=7.5)


@pytest.fixture(scope="module")
def moore(tmp_path_factory):
    folder = write_moore(tmp_path_factory.mktemp("moore"))
    pipeline = convert_moore_animate_anyone(folder / "weights", folder / "base", folder / "variations").model
    return Case("moore_animate_anyone", pipeline, tokens=1, timestep=999, guidance_scale=3.5)


@pytest.fixture(params=["magic_animate", "moore"])
def case(request):
    return request.getfixturevalue(request.param)


def check(case, name, output, record_property, tolerance=1e-5):
    """Within the tolerance, of numbers around 1; of larger ones relative to the largest."""
    expected = case.expected[name]
    error = (output - expected).abs().max().item()
    record_property(f"{case.name} {name}", f"{error:.1e} of at most {expected.abs().max():.1f}")
    assert output.shape == expected.shape and error <= tolerance * max(1, expected.abs().max())


def conditions_of(case):
    """What the conditional branch sees, and what cross-attention reads in the other."""
    return HIAConditions(
        case.context[1:], REFERENCE_LATENTS, CONDITIONING[None], null_encoder_hidden_states=case.context[:1]
    )


def features_of(case):
    denoiser = HIADenoiser.of_pipeline(case.pipeline)
    return denoiser.read_reference(conditions_of(case), case.timestep).reference.features


@torch.no_grad()
def test_unet_alone(case, record_property):
    output = case.pipeline.unet(LATENTS.repeat(2, 1, 1, 1, 1), case.timestep, case.context).sample
    check(case, "plain", output, record_property)


@torch.no_grad()
def test_reference_features(case, record_property):
    features = features_of(case)
    names = [name for name in case.expected if name.startswith("bank.")]
    assert {name.removeprefix("bank.") for name in names} == set(case.pipeline.unet.reference_names) <= set(features)
    for name in names:
        check(case, name, features[name.removeprefix("bank.")], record_property)


@torch.no_grad()
def test_controlnet(magic_animate, record_property):
    case = magic_animate
    down, mid = case.pipeline.controlnet(
        LATENTS[0].transpose(0, 1),
        case.timestep,
        case.context[1:].expand(F, -1, -1),
        CONDITIONING,
        return_dict=False,
    )
    for i, residual in enumerate((*down, mid)):
        check(case, f"controlnet.{i}", residual[1:2], record_property)


@torch.no_grad()
def test_pose_guider(moore, record_property):
    features = moore.pipeline.controlnet(CONDITIONING).pose_features
    check(moore, "pose_features", features.transpose(0, 1)[None], record_property)


@torch.no_grad()
@pytest.mark.parametrize("batched", [False, True])
def test_prediction_of_both_branches(case, record_property, batched):
    """By the pipeline, whose guided prediction is linear in those of the two branches."""
    predicted = [_predict(case, guidance_scale, batched) for guidance_scale in (1.0, 2.0)]
    conditional, unconditional = predicted[0], 2 * predicted[0] - predicted[1]
    check(case, "guided", torch.cat([unconditional, conditional]), record_property)


@torch.no_grad()
def test_denoised_latents(case, record_property):
    """Three steps with the original's scheduler and guidance. Errors grow from step to step."""
    case.pipeline.scheduler.set_timesteps(3)
    output = _denoise(case, case.pipeline.scheduler.timesteps, case.guidance_scale)
    check(case, "denoised", output, record_property, tolerance=5e-5)


def test_weights_of_a_file_with_other_norms_are_far_off(moore):
    """What the tolerance is worth: the same weights in a UNet whose norms pool over other frames."""
    unet = moore.pipeline.unet
    for options in ({"motion_norm": "clip"}, {"resnet_norm": "clip"}):
        other = type(unet).from_config({**unet.config, **options}).eval()
        other.load_state_dict(unet.state_dict())
        with torch.no_grad():
            output = other(LATENTS.repeat(2, 1, 1, 1, 1), moore.timestep, moore.context).sample
        assert (output - moore.expected["plain"]).abs().max() > 0.05


def _predict(case, guidance_scale, batched):
    """The prediction of one step: what the scheduler is given."""
    scheduler, given = case.pipeline.scheduler, []

    class Recorder(type(scheduler)):
        def step(self, model_output, timestep, sample, **kwargs):
            given.append(model_output.clone())
            return super().step(model_output, timestep, sample, **kwargs)

    case.pipeline.scheduler = Recorder.from_config(scheduler.config)
    case.pipeline.scheduler.set_timesteps(3)
    try:
        _denoise(case, case.timestep[None], guidance_scale, batched)
    finally:
        case.pipeline.scheduler = scheduler
    return torch.cat(given, dim=2)


def _denoise(case, timesteps, guidance_scale, batched=False):
    pipeline = case.pipeline
    pipeline.set_progress_bar_config(disable=True)
    options = DenoisingOptions(guidance_scale=guidance_scale, batch_guidance=batched)
    return pipeline.denoise(LATENTS, timesteps, conditions_of(case), options=options)
