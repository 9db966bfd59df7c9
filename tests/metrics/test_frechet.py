# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from hia_diffusers.metrics.frechet import FrechetStatistics, frechet_distance


def features(num_samples=400, num_features=12, seed=0, offset=0.0, scale=1.0):
    """Correlated features with a spread of variances."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(num_features, num_features)) * np.logspace(0, -2, num_features)
    return torch.from_numpy(scale * generator.normal(size=(num_samples, num_features)) @ mixing + offset)


def statistics(samples):
    result = FrechetStatistics()
    result.update(samples)
    return result


def distance(first, second):
    return frechet_distance(statistics(first), statistics(second))


def scipy_distance(first, second):
    """The formula as it is printed."""
    covariances = [np.cov(samples.numpy(), rowvar=False) for samples in (first, second)]
    shift = (first.mean(dim=0) - second.mean(dim=0)).numpy()
    return shift @ shift + np.trace(sum(covariances) - 2 * scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)


# Statistics


def test_statistics_are_those_of_numpy():
    samples = features()
    gathered = statistics(samples)
    assert gathered.count == 400
    np.testing.assert_allclose(gathered.mean, samples.mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(gathered.covariance, np.cov(samples.numpy(), rowvar=False), rtol=1e-10, atol=1e-14)
    assert gathered.mean.dtype == gathered.covariance.dtype == torch.float64


@pytest.mark.parametrize("sizes", [[400], [1] * 400, [7, 100, 1, 292], [399, 1]])
def test_batches_do_not_matter(sizes):
    samples = features(offset=3.0)
    gathered = FrechetStatistics()
    for batch in samples.split(sizes):
        gathered.update(batch)
    assert gathered.count == 400
    torch.testing.assert_close(gathered.mean, samples.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(gathered.covariance, samples.T.cov(), rtol=1e-9, atol=1e-12)


def test_processes_are_merged_after_a_round_trip_through_pickle():
    parts = [statistics(part) for part in features().split([150, 250])]
    received = [pickle.loads(pickle.dumps(part)) for part in parts]
    merged = FrechetStatistics()
    for part in received:
        merged.merge(part)
    merged.merge(FrechetStatistics())
    whole = statistics(features())
    assert merged.count == whole.count
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(received[0].scatter, parts[0].scatter, rtol=0, atol=0)


def test_a_large_mean_costs_no_digits():
    """Sums of squares, the short way, would lose all 16."""
    samples, far = features(), features(offset=1e6)
    gathered = FrechetStatistics()
    for batch in far.split(50):
        gathered.update(batch)
    torch.testing.assert_close(gathered.covariance, samples.T.cov(), rtol=1e-6, atol=1e-9)


def test_float32_features_are_summed_in_float64():
    samples = features(num_samples=5000, offset=100.0).float()
    gathered = FrechetStatistics()
    for batch in samples.split(1):
        gathered.update(batch)
    torch.testing.assert_close(gathered.covariance, samples.double().T.cov(), rtol=1e-8, atol=1e-10)


# Distance


@pytest.mark.parametrize("seed", range(5))
def test_distance_is_scipys(seed):
    first, second = features(seed=seed), features(seed=seed + 100, offset=0.1, scale=1.3)
    assert distance(first, second) == pytest.approx(scipy_distance(first, second), rel=1e-9)


def test_distance_is_torch_fidelitys():
    first, second = features(), features(seed=1, offset=0.1)
    stats = [fid_features_to_statistics(samples) for samples in (first, second)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert distance(first, second) == pytest.approx(theirs, rel=1e-9)


class ChannelMoments(torch.nn.Module):
    """Six features of an image: mean and spread of each channel."""

    num_features = 6

    def forward(self, images):
        images = images.double()
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


def test_distance_is_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    sets = [torch.rand(64, 3, 8, 8, generator=generator) ** power for power in (1, 2)]
    metric = FrechetInceptionDistance(feature=ChannelMoments(), input_img_size=(3, 8, 8)).set_dtype(torch.float64)
    for images, real in zip(sets, (True, False), strict=True):
        metric.update(images, real=real)
    ours = distance(*map(ChannelMoments(), sets))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-9)


@pytest.mark.parametrize("num_samples", [2, 5, 12, 13, 400])
def test_a_set_against_itself_is_zero(num_samples):
    samples = features(num_samples, scale=100.0)
    variance = samples.var(dim=0).sum().item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert abs(distance(samples, samples.flip(0))) < 1e-12 * variance


def test_singular_covariances_keep_their_digits():
    """Sets of few samples that span different spaces, where the distance is known: here the root is zero."""
    first, second = torch.zeros(2, 30, 100, dtype=torch.float64)
    first[:, :40], second[:, 50:] = features(30, 40), features(30, 50, seed=1)
    shift = first.mean(dim=0) - second.mean(dim=0)
    expected = shift.square().sum() + first.var(dim=0).sum() + second.var(dim=0).sum()
    with pytest.warns(UserWarning, match="30 samples of 100 features"):
        assert distance(first, second) == pytest.approx(expected.item(), rel=1e-13)


def test_distance_of_normals_with_known_parameters():
    """Shifted by (3, 4) and three times as wide in two dimensions: 25 + 2 * (3 - 1)^2 variances."""
    first = features(num_features=2)
    first = first - first.mean(dim=0)
    first = first @ torch.linalg.inv(torch.linalg.cholesky(first.T.cov())).T
    second = 3 * first + torch.tensor([3.0, 4.0])
    assert distance(first, second) == pytest.approx(33.0, rel=1e-12)
    assert distance(second, first) == pytest.approx(33.0, rel=1e-12)


def test_distance_grows_with_the_difference():
    first = features()
    distances = [distance(first, features(seed=1, offset=offset)) for offset in (0, 0.1, 0.3, 1)]
    assert (np.diff(distances) > 0).all()


def test_rounding_makes_no_negative_distance():
    distances = [distance(samples, samples.flip(0)) for samples in (features(seed=seed) for seed in range(20))]
    assert 0 <= min(distances) and max(distances) < 1e-12


def test_enough_samples_give_no_warning():
    enough = [statistics(features(13, seed=seed)) for seed in (0, 1)]
    too_few = statistics(features(12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(*enough)
    assert too_few.is_rank_deficient and not enough[0].is_rank_deficient
    for pair in ((too_few, enough[0]), (enough[0], too_few)):
        with pytest.warns(UserWarning, match="12 samples of 12 features"):
            frechet_distance(*pair)


# Bad input


@pytest.mark.parametrize(
    "samples", [torch.zeros(4), torch.zeros(0, 12), torch.zeros(4, 0), torch.full((4, 12), torch.nan)]
)
def test_bad_features_are_named_and_leave_the_statistics_as_they_were(samples):
    gathered = statistics(features())
    before = copy.deepcopy(gathered)
    with pytest.raises(ValueError, match="`features`"):
        gathered.update(samples)
    assert gathered.count == before.count and torch.equal(gathered.scatter, before.scatter)


def test_numbers_of_features_must_agree():
    gathered = statistics(features())
    with pytest.raises(ValueError, match="12, got 11"):
        gathered.update(features(num_features=11))
    with pytest.raises(ValueError, match="12 and 11"):
        frechet_distance(gathered, statistics(features(num_features=11)))


@pytest.mark.parametrize("num_samples", [0, 1])
def test_a_covariance_needs_two_samples(num_samples):
    gathered = FrechetStatistics()
    for _ in range(num_samples):
        gathered.update(torch.ones(1, 12))
    with pytest.raises(ValueError, match=f"at least 2 samples, got {num_samples}"):
        frechet_distance(gathered, gathered)
