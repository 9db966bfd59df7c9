# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import inspect
import json
import math

import diffusers
import pytest
import torch

from hia_diffusers import ShiftedSNRScheduler, snr_shift_factor_for_resolution
from hia_diffusers.schedulers.scheduling_shifted_snr import shift_snr


GAMMAS = [1.0, 4 / 7, 0.25, 0.05]
OTHER_SCHEDULERS = ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler"]


def algorithm_1(gamma: float, num_timesteps: int = 1000) -> list[float]:
    """The paper's Algorithm 1, line by line, in Python's float64; returns the shifted cumulative alphas."""
    betas = [0.00085 * (1 - t / (num_timesteps - 1)) + 0.012 * t / (num_timesteps - 1) for t in range(num_timesteps)]
    snr, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        snr.append(gamma * product / (1 - product))
    shifted_betas = [1 - snr[0] / (1 + snr[0])]
    for t in range(1, num_timesteps):
        shifted_betas.append(1 - (snr[t] / (1 + snr[t])) / (snr[t - 1] / (1 + snr[t - 1])))
    cumulative, product = [], 1.0
    for beta in shifted_betas:
        product *= 1 - beta
        cumulative.append(product)
    return cumulative


def snr_of(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    alphas_cumprod = alphas_cumprod.double()
    return alphas_cumprod / (1 - alphas_cumprod)


def linear_betas() -> torch.Tensor:
    return torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_stored_alphas_follow_algorithm_1(gamma):
    expected = torch.tensor(algorithm_1(gamma), dtype=torch.float64)
    stored = ShiftedSNRScheduler(snr_shift_factor=gamma).alphas_cumprod.double()
    assert ((stored - expected) / expected).abs().max() < 1e-4


@pytest.mark.parametrize("gamma", GAMMAS)
def test_snr_is_scaled_at_every_timestep(gamma):
    unshifted = snr_of(torch.cumprod(1 - linear_betas(), 0))
    in_float64 = snr_of(torch.cumprod(1 - shift_snr(linear_betas(), gamma), 0))
    assert (in_float64 / (gamma * unshifted) - 1).abs().max() < 1e-5
    stored = snr_of(ShiftedSNRScheduler(snr_shift_factor=gamma).alphas_cumprod)
    assert (stored / (gamma * unshifted) - 1).abs().max() < 1e-3


def test_gamma_of_one_is_plain_ddim():
    plain = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012)
    assert torch.allclose(ShiftedSNRScheduler(snr_shift_factor=1).alphas_cumprod, plain.alphas_cumprod, rtol=1e-4)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", OTHER_SCHEDULERS)
def test_other_schedulers_keep_the_shift(name, rescale):
    scheduler = ShiftedSNRScheduler(snr_shift_factor=0.3, rescale_betas_zero_snr=rescale)
    other = getattr(diffusers, name).from_config(scheduler.config)
    assert torch.allclose(other.alphas_cumprod, scheduler.alphas_cumprod, atol=1e-7, rtol=1e-5)
    back = ShiftedSNRScheduler.from_config(other.config)
    assert torch.equal(back.alphas_cumprod, scheduler.alphas_cumprod)
    assert back.config.snr_shift_factor == 0.3


def test_reload_never_shifts_twice(tmp_path):
    scheduler = ShiftedSNRScheduler(snr_shift_factor=0.3)
    for _ in range(3):
        scheduler.save_pretrained(tmp_path)
        reloaded = ShiftedSNRScheduler.from_pretrained(tmp_path)
        assert torch.equal(reloaded.alphas_cumprod, scheduler.alphas_cumprod)
        assert reloaded.config.snr_shift_factor == 0.3
        scheduler = reloaded


def test_another_gamma_replaces_the_old_one():
    changed = ShiftedSNRScheduler.from_config(ShiftedSNRScheduler(snr_shift_factor=0.3).config, snr_shift_factor=0.8)
    assert torch.equal(changed.alphas_cumprod, ShiftedSNRScheduler(snr_shift_factor=0.8).alphas_cumprod)


@pytest.mark.parametrize(
    "override",
    [
        {"beta_schedule": "scaled_linear"},
        {"beta_start": 0.0001, "beta_end": 0.02},
        {"num_train_timesteps": 500},
        {"num_train_timesteps": 2000, "beta_schedule": "scaled_linear", "snr_shift_factor": 0.5},
        {"snr_shift_factor": 1.0},
        {"rescale_betas_zero_snr": True},
        {"prediction_type": "v_prediction"},
    ],
    ids=lambda override: "-".join(override),
)
def test_options_beside_a_configuration_go_first(override, tmp_path):
    config = ShiftedSNRScheduler(snr_shift_factor=0.3, timestep_spacing="leading").config
    expected = ShiftedSNRScheduler(**{"snr_shift_factor": 0.3, "timestep_spacing": "leading", **override})
    changed = ShiftedSNRScheduler.from_config(config, **override)
    assert torch.equal(changed.alphas_cumprod, expected.alphas_cumprod)
    assert {name: changed.config[name] for name in expected.config} == dict(expected.config)

    through_another = diffusers.EulerDiscreteScheduler.from_config(config).config
    assert torch.equal(ShiftedSNRScheduler.from_config(through_another, **override).betas, expected.betas)
    ShiftedSNRScheduler.from_config(config).save_pretrained(tmp_path)
    assert torch.equal(ShiftedSNRScheduler.from_pretrained(tmp_path, **override).betas, expected.betas)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_scaled_linear_betas_are_those_of_diffusers_before_the_shift(gamma):
    """In float64, which diffusers' float32 stays within 1e-6 of as well: a thousand factors, each rounded to 6e-8."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    unshifted = torch.cumprod(1 - betas, 0)
    plain = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert (plain.alphas_cumprod - unshifted).abs().max() < 1e-6
    linear = ShiftedSNRScheduler(snr_shift_factor=gamma)
    scheduler = ShiftedSNRScheduler.from_config(linear.config, beta_schedule="scaled_linear")
    snr = gamma * snr_of(unshifted)
    assert (scheduler.alphas_cumprod - snr / (1 + snr)).abs().max() < 1e-6


def test_betas_that_are_no_shift_are_refused_beside_an_option_too():
    config = {**ShiftedSNRScheduler().config, "trained_betas": [0.1] * 1000}
    with pytest.raises(ValueError, match="trained_betas"):
        ShiftedSNRScheduler.from_config(config, beta_schedule="scaled_linear")


def test_nothing_of_diffusers_bookkeeping_is_in_the_configuration(tmp_path):
    scheduler = ShiftedSNRScheduler.from_config(ShiftedSNRScheduler().config, snr_shift_factor=0.5)
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert not any(name.startswith("_use_default") for config in (saved, scheduler.config) for name in config)
    assert (
        saved.keys() - {"_class_name", "_diffusers_version"}
        == inspect.signature(ShiftedSNRScheduler).parameters.keys()
    )


def test_zero_terminal_snr_comes_after_the_shift():
    shifted = ShiftedSNRScheduler(snr_shift_factor=0.3).betas
    rescaled = ShiftedSNRScheduler(snr_shift_factor=0.3, rescale_betas_zero_snr=True)
    expected = diffusers.schedulers.scheduling_ddim.rescale_zero_terminal_snr(shifted)
    assert torch.equal(rescaled.betas, expected)
    assert rescaled.alphas_cumprod[-1] == 0


def test_defaults_are_the_papers():
    scheduler = ShiftedSNRScheduler()
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999
    assert not scheduler.config.clip_sample
    assert scheduler.config.prediction_type == "epsilon"
    assert math.isclose(scheduler.config.snr_shift_factor, snr_shift_factor_for_resolution(896, 512))


def test_the_factor_for_a_resolution_is_the_ratio_of_areas():
    assert snr_shift_factor_for_resolution(512, 512) == 1
    assert snr_shift_factor_for_resolution(1024, 1024) == 0.25
    assert snr_shift_factor_for_resolution(768, 512, base_resolution=768) == 1
    assert snr_shift_factor_for_resolution(256, 256) == 1
    with pytest.raises(ValueError, match="height"):
        snr_shift_factor_for_resolution(0, 512)


def test_averaging_pixels_at_the_shifted_schedule_gives_the_base_schedule():
    """Why the ratio of areas: at twice the side and gamma 1/4, the 2x2 mean has the SNR of the base resolution."""
    base, large = ShiftedSNRScheduler(snr_shift_factor=1), ShiftedSNRScheduler(snr_shift_factor=1 / 4)
    t, signal = torch.tensor([400]), torch.full((1, 1, 512, 512), 0.5)
    noisy = large.add_noise(signal, torch.randn(signal.shape, generator=torch.Generator().manual_seed(0)), t)
    means = torch.nn.functional.avg_pool2d(noisy, 2)
    snr = float(means.mean() ** 2 / means.var()) / 0.5**2
    assert snr == pytest.approx(float(snr_of(base.alphas_cumprod)[400]), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"snr_shift_factor": 0.0}, "snr_shift_factor"),
        ({"snr_shift_factor": 1.5}, "snr_shift_factor"),
        ({"snr_shift_factor": float("nan")}, "snr_shift_factor"),
        ({"snr_shift_factor": "half"}, "snr_shift_factor"),
        ({"trained_betas": [0.1] * 1000}, "trained_betas"),
        ({"trained_betas": [0.1] * 10}, "trained_betas"),
        ({"beta_schedule": "cubic"}, "beta_schedule"),
        ({"beta_start": -0.1}, "beta_start"),
        ({"beta_end": 1.5}, "beta_end"),
        ({"beta_end": float("nan")}, "beta_end"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"num_train_timesteps": 10.0}, "num_train_timesteps"),
        ({"prediction_type": "flow_prediction"}, "prediction_type"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises((TypeError, ValueError), match=named):
        ShiftedSNRScheduler(**arguments)
