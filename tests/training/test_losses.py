# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from rounding import assert_equal_up_to_rounding

from hia_diffusers import ShiftedSNRScheduler
from hia_diffusers.training.losses import (
    min_snr_weights,
    noise_prediction_loss,
    noisy_latents,
    predicted_latents,
    prediction_target,
    regional_loss,
    sample_weights,
)


TIMESTEPS = torch.tensor([0, 1, 124, 500, 999])
PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips(seed):
    """(B, C, F, h, w), all axes different."""
    return random(seed, len(TIMESTEPS), 4, 3, 6, 7)


def levels(scheduler):
    """Factors on latents and on noise in float64, one pair per clip."""
    alphas_cumprod = np.cumprod(1 - np.asarray(scheduler.config.trained_betas, dtype=np.float64))[TIMESTEPS.numpy()]
    return (np.sqrt(values)[:, None, None, None, None] for values in (alphas_cumprod, 1 - alphas_cumprod))


# Noise prediction


def test_noise_is_added_by_each_clips_own_timestep():
    scheduler, latents, noise = ShiftedSNRScheduler(), clips(0), clips(1)
    signal, noise_level = levels(scheduler)
    expected = signal * latents.double().numpy() + noise_level * noise.double().numpy()
    np.testing.assert_allclose(noisy_latents(scheduler, latents, noise, TIMESTEPS), expected, rtol=1e-4, atol=1e-6)


def test_targets_are_the_formulas():
    latents, noise = clips(0), clips(1)
    signal, noise_level = levels(ShiftedSNRScheduler())
    velocity = signal * noise.double().numpy() - noise_level * latents.double().numpy()
    for prediction_type, expected in zip(PREDICTION_TYPES, (noise, velocity, latents), strict=True):
        scheduler = ShiftedSNRScheduler(prediction_type=prediction_type)
        target = prediction_target(scheduler, latents, noise, TIMESTEPS)
        np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_true_answer_gives_the_clean_latents_back(prediction_type):
    scheduler = ShiftedSNRScheduler(prediction_type=prediction_type)
    latents, noise = clips(0), clips(1)
    noisy = noisy_latents(scheduler, latents, noise, TIMESTEPS)
    answer = prediction_target(scheduler, latents, noise, TIMESTEPS)
    predicted = predicted_latents(scheduler, answer, noisy, TIMESTEPS)
    torch.testing.assert_close(predicted, latents, rtol=0, atol=2e-5)


def test_a_velocity_gives_noise_and_latents_back():
    scheduler = ShiftedSNRScheduler(prediction_type="v_prediction")
    latents, noise = clips(0), clips(1)
    noisy = noisy_latents(scheduler, latents, noise, TIMESTEPS)
    velocity = prediction_target(scheduler, latents, noise, TIMESTEPS)
    signal, noise_level = (torch.from_numpy(level).float() for level in levels(scheduler))
    torch.testing.assert_close(noise_level * noisy + signal * velocity, noise, rtol=0, atol=1e-5)
    torch.testing.assert_close(noisy.square() + velocity.square(), latents.square() + noise.square())


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_half_precision_is_computed_in_float32(prediction_type):
    """bfloat16 rounds abar at t = 0 to 1: the forward process would add no noise."""
    scheduler = ShiftedSNRScheduler(prediction_type=prediction_type)
    latents, noise = clips(0).bfloat16(), clips(1).bfloat16()
    noisy = noisy_latents(scheduler, latents, noise, TIMESTEPS)
    target = prediction_target(scheduler, latents, noise, TIMESTEPS)
    for result, function in ((noisy, noisy_latents), (target, prediction_target)):
        assert result.dtype == torch.float32
        assert torch.equal(result, function(scheduler, latents.float(), noise.float(), TIMESTEPS))
    answer = target.bfloat16()
    predicted = predicted_latents(scheduler, answer, noisy, TIMESTEPS)
    assert torch.equal(predicted, predicted_latents(scheduler, answer.float(), noisy, TIMESTEPS))
    assert predicted.dtype == torch.float32
    assert (noisy[0] - latents[0].float()).std() > 0.03


def test_the_gradient_of_the_predicted_latents_reaches_the_answer():
    """Its size is that of sigma_t / sqrt(abar_t), by which an error of the noise moves the latents."""
    scheduler = ShiftedSNRScheduler()
    answer = clips(0).requires_grad_()
    predicted_latents(scheduler, answer, clips(1), TIMESTEPS).sum().backward()
    signal, noise_level = levels(scheduler)
    np.testing.assert_allclose(answer.grad, np.broadcast_to(-noise_level / signal, answer.shape), rtol=1e-3)


def test_pure_noise_gives_no_latents():
    timesteps, latents, noise = torch.tensor([999]), random(0, 1, 4, 2, 2), random(1, 1, 4, 2, 2)
    scheduler = ShiftedSNRScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    velocity = prediction_target(scheduler, latents, noise, timesteps)
    torch.testing.assert_close(predicted_latents(scheduler, velocity, noise, timesteps), latents)
    with pytest.raises(ValueError, match="`scheduler`.*rescale_betas_zero_snr"):
        predicted_latents(ShiftedSNRScheduler(rescale_betas_zero_snr=True), noise, noise, timesteps)


@pytest.mark.parametrize("scheduler_class", [ShiftedSNRScheduler, DDPMScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_diffusers_examples(scheduler_class, prediction_type):
    scheduler = scheduler_class(prediction_type=prediction_type)
    snr = compute_snr(scheduler, TIMESTEPS)
    expected = torch.stack([snr, 5 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    expected = expected / (snr if prediction_type == "epsilon" else snr + 1)
    torch.testing.assert_close(min_snr_weights(scheduler, TIMESTEPS, 5), expected, rtol=1e-5, atol=0)


def test_min_snr_weights_all_prediction_types_alike():
    """An error of the latents costs the same, however the answer is expressed."""
    latents, errors, noise = clips(0), 0.1 * clips(1), clips(2)
    losses = []
    for prediction_type in PREDICTION_TYPES:
        scheduler = ShiftedSNRScheduler(prediction_type=prediction_type)
        noisy = noisy_latents(scheduler, latents, noise, TIMESTEPS)
        signal, noise_level = (torch.from_numpy(level) for level in levels(scheduler))
        implied_noise = (noisy - signal * (latents + errors)) / noise_level
        answer = prediction_target(scheduler, latents + errors, implied_noise.float(), TIMESTEPS)
        target = prediction_target(scheduler, latents, noise, TIMESTEPS)
        losses.append(noise_prediction_loss(answer, target, min_snr_weights(scheduler, TIMESTEPS, 5)))
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-2, atol=0)
    torch.testing.assert_close(losses[1], losses[2], rtol=1e-2, atol=0)


def test_min_snr_weights_of_pure_noise_are_finite():
    for prediction_type, expected in zip(PREDICTION_TYPES, (1, 0, 0), strict=True):
        scheduler = ShiftedSNRScheduler(rescale_betas_zero_snr=True, prediction_type=prediction_type)
        assert min_snr_weights(scheduler, torch.tensor([999]), 5).tolist() == [expected]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_sample_weights_give_the_error_of_the_clean_latents(prediction_type):
    scheduler = ShiftedSNRScheduler(prediction_type=prediction_type)
    latents, answer, noise = clips(0), clips(1), clips(2)
    noisy = noisy_latents(scheduler, latents, noise, TIMESTEPS)
    target = prediction_target(scheduler, latents, noise, TIMESTEPS)
    loss = noise_prediction_loss(answer, target, sample_weights(scheduler, TIMESTEPS))
    expected = (predicted_latents(scheduler, answer, noisy, TIMESTEPS) - latents).square().flatten(1).mean(dim=1)
    # At low noise the latents differ by the rounding of what is nearly all of the noisy ones.
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)


def test_sample_weights_want_signal_where_noise_is_predicted():
    scheduler = ShiftedSNRScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="`scheduler`.*rescale_betas_zero_snr"):
        sample_weights(scheduler, torch.tensor([999]))


def test_noise_prediction_loss_is_the_mean_of_each_clip():
    output, target, weights = clips(0), clips(1), torch.rand(len(TIMESTEPS))
    expected = ((output.double() - target.double()) ** 2).numpy().mean(axis=(1, 2, 3, 4))
    losses = noise_prediction_loss(output, target)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(noise_prediction_loss(output, target, weights), expected * weights.numpy(), rtol=1e-5)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_equal_up_to_rounding(noise_prediction_loss(output[order], target[order]), losses[order])
    assert_equal_up_to_rounding(noise_prediction_loss(output[1:2], target[1:2]), losses[1:2])


def test_noise_prediction_loss_of_half_precision_is_float32():
    output, target = clips(0).bfloat16(), clips(0) + 1e-3
    losses = noise_prediction_loss(output, target)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, noise_prediction_loss(output.float(), target))


# Offset noise


# Regions


def images(seed, *batch):
    return random(seed, *batch, 3, 6, 8).tanh()


def box_masks(*boxes):
    """(N, 1, H, W), per image (top, bottom, left, right)."""
    masks = torch.zeros(len(boxes), 1, 6, 8)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[:, top:bottom, left:right] = 1
    return masks


def test_regional_loss_is_equation_1():
    predicted, target = images(0, 3), images(1, 3)
    masks = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(2))
    expected = []
    for p, t, m in zip(predicted.double().numpy(), target.double().numpy(), masks.double().numpy(), strict=True):
        squared_norms = np.linalg.norm((t - p) * m, axis=0) ** 2
        expected.append(squared_norms.sum() / m.sum())
    np.testing.assert_allclose(regional_loss(predicted, target, masks), expected, rtol=1e-5)


def test_a_constant_error_costs_the_same_in_a_region_of_any_size():
    target = images(0, 3) / 2
    masks = box_masks((0, 1, 0, 1), (2, 5, 1, 7), (0, 6, 0, 8))
    torch.testing.assert_close(regional_loss(target + 0.25, target, masks), torch.full((3,), 3 * 0.25**2))


def test_an_empty_region_costs_nothing_and_has_no_gradient():
    predicted, target = images(0, 3).requires_grad_(), images(1, 3)
    masks = box_masks((1, 3, 2, 6), (2, 2, 0, 8), (0, 0, 0, 0))
    losses = regional_loss(predicted, target, masks)
    losses.sum().backward()
    assert losses[0] > 0 and losses[1:].tolist() == [0, 0]
    assert torch.equal(predicted.grad != 0, masks.bool().expand_as(predicted))


def test_regional_losses_are_each_images_own():
    predicted, target = images(0, 3), images(1, 3)
    masks = box_masks((1, 3, 2, 6), (2, 2, 0, 8), (0, 6, 0, 5))
    losses, order = regional_loss(predicted, target, masks), torch.tensor([2, 0, 1])
    assert_equal_up_to_rounding(regional_loss(predicted[order], target[order], masks[order]), losses[order])


def test_windows_of_a_image_count_as_one_region():
    """Two windows of four columns of the image, and the image."""
    predicted, target = images(0, 2), images(1, 2)
    masks = box_masks((1, 3, 2, 6), (2, 2, 0, 8))
    halves = (torch.stack(values.split(4, dim=-1), dim=1) for values in (predicted, target, masks))
    torch.testing.assert_close(regional_loss(*halves), regional_loss(predicted, target, masks))


def test_regional_loss_of_half_precision_is_float32():
    """A sum of 1,200 squares in bfloat16 would be far off."""
    predicted, target = random(0, 1, 3, 20, 20).bfloat16(), random(1, 1, 3, 20, 20)
    masks = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    losses = regional_loss(predicted, target, masks)
    assert losses.dtype == torch.float32
    expected = ((predicted.double() - target.double()) ** 2).sum(dim=1).mean().item()
    assert losses.item() == pytest.approx(expected, rel=1e-5)


# Bad input


def test_shapes_that_would_be_broadcast_are_refused():
    scheduler = ShiftedSNRScheduler()
    for function in (noisy_latents, prediction_target, predicted_latents):
        with pytest.raises(ValueError, match="must have one shape"):
            function(scheduler, clips(0), clips(1)[:1], TIMESTEPS)
        with pytest.raises(ValueError, match=r"`timesteps` must be of shape \(5,\), got \(1,\)"):
            function(scheduler, clips(0), clips(1), TIMESTEPS[:1])
    with pytest.raises(ValueError, match="`model_output` and `target`"):
        noise_prediction_loss(clips(0), clips(1)[:, :1])
    with pytest.raises(ValueError, match=r"`weights` must be of shape \(5,\), got \(5, 1\)"):
        noise_prediction_loss(clips(0), clips(1), torch.ones(5, 1))
    with pytest.raises(ValueError, match="`predicted` and `target`"):
        regional_loss(images(0, 3), images(1, 1), box_masks((0, 1, 0, 1)))
    with pytest.raises(ValueError, match=r"`mask` must be of shape \(1, 1, 6, 8\), got \(1, 3, 6, 8\)"):
        regional_loss(images(0, 1), images(1, 1), torch.ones(1, 3, 6, 8))


def test_unknown_prediction_types_and_ratios_are_refused():
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="`scheduler`.*'flow'"):
        prediction_target(scheduler, clips(0), clips(1), TIMESTEPS)
    with pytest.raises(ValueError, match="`gamma` must be a finite number, above 0, got 0"):
        min_snr_weights(ShiftedSNRScheduler(), TIMESTEPS, 0)
