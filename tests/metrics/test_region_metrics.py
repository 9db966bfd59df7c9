# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import scipy.stats
import torch

from hia_diffusers import MotionBlurConditioner
from hia_diffusers.metrics.frame import l1, psnr
from hia_diffusers.metrics.region_metrics import (
    flicker,
    identity_similarity,
    mean_of_known,
    rank_correlation,
    region_l1,
    region_psnr,
    sharpness_error,
    sharpness_ratio,
    static_change,
)


NUM_FRAMES, HEIGHT, WIDTH = 4, 12, 10
NAN = float("nan")


def frames(seed, num_frames=NUM_FRAMES):
    return torch.rand(num_frames, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def box_masks(*boxes):
    """bool `(N, H, W)`: per frame `(top, bottom, left, right)`."""
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


BOXES = [(0, 3, 0, 3), (2, 9, 1, 10), (0, HEIGHT, 0, WIDTH), (5, 5, 0, 0)]


# Regions


@pytest.mark.parametrize("regional, whole", [(region_l1, l1), (region_psnr, psnr)])
def test_a_region_is_measured_like_a_image_cropped_to_it(regional, whole):
    predictions, targets = frames(0), frames(1)
    values = regional(predictions, targets, box_masks(*BOXES))
    for index, (top, bottom, left, right) in enumerate(BOXES[:3]):
        crops = [images[index : index + 1, :, top:bottom, left:right] for images in (predictions, targets)]
        torch.testing.assert_close(values[index : index + 1], whole(*crops), rtol=1e-12, atol=0)


@pytest.mark.parametrize("regional", [region_l1, region_psnr])
def test_an_empty_mask_has_no_value(regional):
    values = regional(frames(0), frames(1), box_masks(*BOXES))
    assert values.isnan().tolist() == [False, False, False, True]
    mean, count = mean_of_known(values)
    assert count == 3 and mean == pytest.approx(values[:3].mean().item())


@pytest.mark.parametrize("regional, perfect", [(region_l1, 0), (region_psnr, 100)])
def test_what_happens_outside_of_the_region_does_not_count(regional, perfect):
    masks = box_masks(*BOXES[:2])
    targets = frames(0, 2)
    predictions = torch.where(masks[:, None], targets, 1 - targets)
    assert regional(predictions, targets, masks).tolist() == [perfect] * 2


def test_masks_must_be_bool_and_match():
    with pytest.raises(TypeError, match="`masks` must be bool"):
        region_l1(frames(0), frames(1), box_masks(*BOXES).float())
    with pytest.raises(ValueError, match=r"`masks` must be of shape \(4, 12, 10\)"):
        region_psnr(frames(0), frames(1), box_masks(*BOXES[:3]))
    with pytest.raises(ValueError, match="`predictions`"):
        region_l1(frames(0)[:3], frames(1), box_masks(*BOXES))


def test_mean_of_nothing_says_so():
    mean, count = mean_of_known(torch.tensor([NAN, NAN]))
    assert math.isnan(mean) and count == 0
    assert mean_of_known(torch.tensor([[1.0, NAN], [4.0, 4.0]])) == (3.0, 3)


# Sharpness


def test_sharpness_error_is_known_where_both_are():
    wanted = torch.tensor([[0.5, NAN], [0.9, 0.1], [NAN, NAN]])
    measured = torch.tensor([[0.25, 0.3], [1.0, NAN], [0.2, NAN]])
    torch.testing.assert_close(
        sharpness_error(wanted, measured),
        torch.tensor([[0.25, NAN], [0.1, NAN], [NAN, NAN]], dtype=torch.float64),
        equal_nan=True,
    )


def test_sharpness_ratio_is_that_of_the_variances():
    conditioner = MotionBlurConditioner()
    wanted, measured = (
        torch.tensor(conditioner.squash_sharpness(np.array(v))) for v in ([40, 8, 5], [30, 16, np.nan])
    )
    torch.testing.assert_close(
        sharpness_ratio(wanted, measured), torch.tensor([0.75, 2, torch.nan], dtype=torch.float64), equal_nan=True
    )
    assert sharpness_ratio(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.5, 0.5, 1.0])).isnan().all()


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys_spearman_of_the_known_pairs(ties):
    generator = np.random.default_rng(0)
    wanted, measured = generator.normal(size=(2, 40, 2))
    measured += wanted
    if ties:
        wanted, measured = wanted.round(), measured.round()
    expected = scipy.stats.spearmanr(wanted[3:].ravel(), measured[3:].ravel()).statistic
    wanted[0], measured[1:3] = NAN, NAN
    assert rank_correlation(*map(torch.from_numpy, (wanted, measured))) == pytest.approx(expected, rel=1e-12)
    assert 0.4 < expected < 0.95


def test_rank_correlation_needs_no_straight_line():
    wanted = torch.linspace(0, 1, 11)
    assert rank_correlation(wanted, wanted**5) == pytest.approx(1)
    assert rank_correlation(wanted, (-wanted).exp()) == pytest.approx(-1)


@pytest.mark.parametrize(
    "wanted, measured", [([0.1, NAN], [0.2, 0.4]), ([NAN], [0.3]), ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]), ([], [])]
)
def test_rank_correlation_of_too_little_is_not_known(wanted, measured):
    assert math.isnan(rank_correlation(torch.tensor(wanted), torch.tensor(measured)))


@pytest.mark.parametrize("metric", [sharpness_error, rank_correlation])
def test_wanted_and_measured_must_match(metric):
    with pytest.raises(ValueError, match=r"`measured`.*\(3, 2\), got \(3,\)"):
        metric(torch.zeros(3, 2), torch.zeros(3))


# Identity


def test_identity_is_the_cosine_whatever_the_length_of_the_embeddings():
    targets = torch.tensor([[1.0, 0.0]] * 5)
    predictions = torch.tensor([[7.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 3**0.5]])
    expected = torch.tensor([1, 2**-0.5, 0, -1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(identity_similarity(predictions, targets), expected, rtol=0, atol=1e-7)


def test_no_face_has_no_identity():
    predictions = torch.tensor([[NAN, NAN], [0.0, 0.0], [1.0, 0.0]])
    values = identity_similarity(predictions, torch.ones(3, 2))
    assert values.isnan().tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"`predictions` and `targets`.*\(3, 2\) and \(1, 2\)"):
        identity_similarity(predictions, torch.ones(1, 2))


# Flicker


def test_a_constant_error_does_not_flicker():
    targets = frames(0) / 2
    assert flicker(targets + 0.25, targets).abs().max() < 1e-6
    alternating = targets + 0.1 * torch.tensor([0, 1, 0, 1]).reshape(4, 1, 1, 1)
    torch.testing.assert_close(
        flicker(alternating, targets), torch.full((3,), 0.1, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_a_frozen_video_misses_the_motion_of_the_truth():
    targets = frames(0)
    frozen = targets[:1].expand_as(targets)
    torch.testing.assert_close(flicker(frozen, targets), targets.double().diff(dim=0).abs().mean(dim=(1, 2, 3)))


def test_change_is_measured_where_the_truth_stands_still():
    """The right half of the truth moves; the left half has noise of one grey level."""
    targets = 0.5 + torch.zeros(NUM_FRAMES, 3, HEIGHT, WIDTH, dtype=torch.float64)
    targets[1::2, :, :, :5] += 1 / 255
    targets[2, 1, :, 5:] = 0.9
    predictions = targets.clone()
    predictions[1::2, :, :, :5] += 2 / 255
    predictions[:, :, :, 5:] = frames(0)[:, :, :, 5:].double()
    predicted, true = static_change(predictions, targets)
    torch.testing.assert_close(true, torch.full((3,), 1 / 255, dtype=torch.float64))
    torch.testing.assert_close(predicted, torch.full((3,), 3 / 255, dtype=torch.float64))
    predicted, true = static_change(predictions, targets, threshold=0.5 / 255)
    assert predicted.isnan().all() and true.isnan().all()


def test_a_change_of_four_levels_is_still_whatever_the_level():
    for change in (4, 5):
        before = torch.arange(256 - change)
        targets = torch.stack([before, before + change]).float().div(255).reshape(2, 1, 1, -1).expand(2, 3, 8, -1)
        changes = torch.cat([static_change(pixels, pixels)[1] for pixels in targets.split(1, dim=-1)])
        expected = torch.full_like(changes, change / 255 if change == 4 else NAN)
        torch.testing.assert_close(changes, expected, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("metric", [flicker, static_change])
def test_a_single_frame_has_no_change(metric):
    values = metric(frames(0, 1), frames(1, 1))
    assert all(len(value) == 0 for value in (values if isinstance(values, tuple) else [values]))
