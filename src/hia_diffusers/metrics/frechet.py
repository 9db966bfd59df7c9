# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Fréchet distance between two sets of features: FID, FID-VID or FVD, depending on the network.

Axes: N samples, D features.
"""

import warnings

import torch
from torch import Tensor

from .. import checks


class FrechetStatistics:
    """Mean and covariance of a set of features, accumulated batch by batch in float64 (Chan et al., 1979).

    The computation is numerically stable, needs memory independent of the number of samples, and can be merged across
    processes.

    Attributes:
        count (`int`): number of samples so far.
        mean (`torch.Tensor` of shape `(D,)`): float64 on the CPU.
        scatter (`torch.Tensor` of shape `(D, D)`): sum of the outer products of the deviations from the mean.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance `(D, D)`, float64. Fewer than two samples raise a `ValueError`."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 samples, got {self.count}.")
        return self.scatter / (self.count - 1)

    @property
    def is_rank_deficient(self) -> bool:
        """Whether there are too few samples, at most D, for a covariance of full rank."""
        return self.count <= len(self.mean)

    def update(self, features: Tensor) -> None:
        """Add samples.

        Args:
            features (`torch.Tensor` of shape `(N, D)`):
                Finite features on any device.

        Raises:
            ValueError: If the shape is wrong, D differs from before, or a value is not finite.
        """
        if checks.instance("features", features, Tensor).ndim != 2 or features.numel() == 0:
            raise ValueError(f"`features` must be of shape (N, D) with N >= 1, got {tuple(features.shape)}.")
        if not features.isfinite().all():
            raise ValueError("`features` must be finite.")
        batch = FrechetStatistics()
        features = features.detach().cpu().double()
        batch.count, batch.mean = len(features), features.mean(dim=0)
        deviations = features - batch.mean
        batch.scatter = deviations.T @ deviations
        self.merge(batch)

    def merge(self, other: "FrechetStatistics") -> None:
        """Add the samples of other statistics, such as those of another process.

        Args:
            other (`FrechetStatistics`):
                Statistics with the same D; they are not changed.

        Raises:
            ValueError: If D differs.
        """
        if checks.instance("other", other, FrechetStatistics).count == 0:
            return
        if self.count == 0:
            self.count, self.mean, self.scatter = other.count, other.mean.clone(), other.scatter.clone()
            return
        if len(other.mean) != len(self.mean):
            raise ValueError(f"The number of features must be {len(self.mean)}, got {len(other.mean)}.")
        count = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(shift, shift) * (self.count * other.count / count)
        self.mean += shift * (other.count / count)
        self.count = count


def frechet_distance(first: FrechetStatistics, second: FrechetStatistics) -> float:
    """Return the squared Fréchet distance between two normal distributions (Heusel et al., 2017).

    For the means `m1`, `m2` and covariances `C1`, `C2`, it is `|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))`.

    The last trace is the sum of the singular values of `A1^T A2` for any factors `C = A A^T`, which are computed from
    the eigenvectors. Unlike a matrix square root of `C1 C2`, this remains real and accurate for singular covariances,
    which occur with few samples: the eigenvalues of the product are the squared singular values, whose rounding errors
    of 1e-16 become errors of 1e-8 in the square roots.

    Args:
        first (`FrechetStatistics`):
            One set of at least 2 samples.
        second (`FrechetStatistics`):
            The other set, with the same number of features.

    Returns:
        `float`: At least 0, and 0 up to rounding for equal statistics; symmetric. If a set has no more samples than
        features, a warning says that the distance is strongly biased.

    Raises:
        ValueError: If a set is too small, or the numbers of features differ.
    """
    checks.instance("first", first, FrechetStatistics)
    checks.instance("second", second, FrechetStatistics)
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"Both sets must have equally many features, got {len(first.mean)} and {len(second.mean)}.")
    covariances = [first.covariance, second.covariance]
    if first.is_rank_deficient or second.is_rank_deficient:
        samples = min(first.count, second.count)
        warnings.warn(
            f"{samples} samples of {len(first.mean)} features do not determine a covariance: the Fréchet distance is "
            "strongly biased. Compare it only with distances between sets of the same sizes.",
            stacklevel=2,
        )
    root = torch.linalg.svdvals(_factor(covariances[0]).T @ _factor(covariances[1])).sum()
    traces = sum(covariance.trace() for covariance in covariances)
    distance = float((first.mean - second.mean).square().sum() + traces - 2 * root)
    return max(distance, 0.0)  # negative values are rounding errors


def _factor(covariance: Tensor) -> Tensor:
    """Return `A` with `A A^T` equal to the covariance, without directions whose variance is only rounding errors."""
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    kept = eigenvalues > eigenvalues[-1].clamp(min=0) * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvectors[:, kept] * eigenvalues[kept].sqrt()
