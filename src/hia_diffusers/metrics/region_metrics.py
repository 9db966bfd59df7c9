# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics beyond whole frames: face and hands, sharpness of hands, identity, and flicker.

Axes: N frames, F consecutive frames, C = 3 channels (RGB), H, W, E the size of an embedding. If a metric has no value,
    as in a frame without hands, it is NaN, and `mean_of_known` also returns the number of values.
"""

import warnings

import torch
from torch import Tensor

from .. import checks
from .frame import MAX_PSNR, checked_frames


# Above the float32 rounding error of a difference between two levels of 255, and below one level.
ROUNDING = 1e-6


def region_l1(predictions: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute error of the pixels in a region.

    Args:
        predictions (`torch.Tensor` of shape `(N, 3, H, W)`):
            Predicted frames, floating point in [0, 1].
        targets (`torch.Tensor` of shape `(N, 3, H, W)`):
            Ground-truth frames, floating point in [0, 1].
        masks (`torch.Tensor` of shape `(N, H, W)`):
            bool, the pixels of the region.

    Returns:
        `torch.Tensor`: float64 `(N,)` in [0, 1], NaN if the mask is empty.

    Raises:
        TypeError: If frames are not floating point, or masks are not bool.
        ValueError: If shapes do not match, or a value lies outside [0, 1].
    """
    predictions, targets = checked_frames(predictions, targets)
    return _mean_in_region((predictions - targets).abs(), masks)


def region_psnr(predictions: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of the pixels in a region, in floating point, at most 100 dB.

    Args:
        predictions, targets, masks:
            As in [`region_l1`].

    Returns:
        `torch.Tensor`: float64 `(N,)` in dB, NaN if the mask is empty.

    Raises:
        TypeError, ValueError: As [`region_l1`].
    """
    predictions, targets = checked_frames(predictions, targets)
    return (-10 * _mean_in_region((predictions - targets).square(), masks).log10()).clamp(max=MAX_PSNR)


def sharpness_error(wanted: Tensor, measured: Tensor) -> Tensor:
    """Absolute difference between requested and measured sharpness of each hand.

    Args:
        wanted (`torch.Tensor` of any shape):
            Requested sharpness in [0, 1], NaN without a hand; for example `(N, 2)`, left and right.
        measured (`torch.Tensor` of the same shape):
            Sharpness measured in the predicted frames in the same boxes.

    Returns:
        `torch.Tensor`: Absolute differences, float64 of the same shape, NaN if either value is.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape(wanted, measured)
    return (measured.double() - wanted.double()).abs()


def sharpness_ratio(wanted: Tensor, measured: Tensor) -> Tensor:
    """Variance of the Laplacian of each hand (Eq. 3), divided by the requested one.

    Args:
        wanted (`torch.Tensor` of any shape):
            Requested sharpness in [0, 1], normalized by
            [`MotionBlurConditioner.squash_sharpness`](hia_diffusers.MotionBlurConditioner.squash_sharpness); NaN
            without a hand.
        measured (`torch.Tensor` of the same shape):
            Sharpness measured in the predicted frames in the same boxes.

    Returns:
        `torch.Tensor`: Ratios of variances, float64 of the same shape. NaN if either value is NaN or 1, or `wanted` is
        0.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape(wanted, measured)
    measured, wanted = (sharpness.double() / (1 - sharpness.double()) for sharpness in (measured, wanted))
    ratio = measured / wanted
    return torch.where(ratio.isfinite() & wanted.isfinite(), ratio, torch.nan)


def rank_correlation(wanted: Tensor, measured: Tensor) -> float:
    """Spearman's rank correlation; ties share their mean rank.

    Args:
        wanted (`torch.Tensor` of any shape):
            Requested values, such as the sharpness of each hand; NaN if there is none.
        measured (`torch.Tensor` of the same shape):
            Measured values; NaN if there is none.

    Returns:
        `float`: In [-1, 1]; NaN if fewer than two pairs are known or one side is constant.

    Raises:
        ImportError: If scipy is not installed.
        ValueError: If the shapes differ.
    """
    try:
        from scipy.stats import spearmanr
    except ImportError as error:
        raise ImportError("A rank correlation needs the `eval` extra: pip install 'hia-diffusers[eval]'") from error

    _check_same_shape(wanted, measured)
    known = wanted.isfinite() & measured.isfinite()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for constant values, which have no correlation
        return float(spearmanr(*(values[known].cpu().double() for values in (wanted, measured))).statistic)


def identity_similarity(predictions: Tensor, targets: Tensor) -> Tensor:
    """Cosine between face embeddings, such as ArcFace's (Eq. 2 is one minus this).

    Args:
        predictions (`torch.Tensor` of shape `(N, E)`):
            Embeddings of the faces in the predicted frames; NaN if no face was detected.
        targets (`torch.Tensor` of shape `(N, E)`):
            Embeddings of the target faces, such as that of the reference image, `N` times.

    Returns:
        `torch.Tensor`: float64 `(N,)` in [-1, 1], NaN if an embedding is NaN or zero.

    Raises:
        ValueError: If the shapes differ or are wrong.
    """
    checks.instance("predictions", predictions, Tensor)
    checks.instance("targets", targets, Tensor)
    if predictions.ndim != 2 or predictions.shape != targets.shape:
        raise ValueError(
            "`predictions` and `targets` must both be of shape (N, E), "
            f"got {tuple(predictions.shape)} and {tuple(targets.shape)}."
        )
    predictions, targets = (
        embeddings.double() / torch.linalg.vector_norm(embeddings.double(), dim=1, keepdim=True)
        for embeddings in (predictions, targets)
    )
    return (predictions * targets).sum(dim=1)


def flicker(predictions: Tensor, targets: Tensor) -> Tensor:
    """Difference between the change from frame to frame and that of the ground truth.

    It is `mean |(p_t - p_(t-1)) - (t_t - t_(t-1))|`.

    Args:
        predictions (`torch.Tensor` of shape `(F, 3, H, W)`):
            Consecutive predicted frames, floating point in [0, 1].
        targets (`torch.Tensor` of shape `(F, 3, H, W)`):
            Ground-truth frames, floating point in [0, 1].

    Returns:
        `torch.Tensor`: float64 `(F - 1,)`, 0 if the error is constant over time.

    Raises:
        TypeError, ValueError: As [`l1`](hia_diffusers.metrics.frame.l1).
    """
    predictions, targets = checked_frames(predictions, targets)
    return (predictions.diff(dim=0) - targets.diff(dim=0)).abs().mean(dim=(1, 2, 3))


def static_change(predictions: Tensor, targets: Tensor, threshold: float = 4 / 255) -> tuple[Tensor, Tensor]:
    """Change from frame to frame where the ground truth is static, which in most videos is the background.

    The ratio of the two means is 1 for a video that flickers no more than the ground truth.

    Args:
        predictions (`torch.Tensor` of shape `(F, 3, H, W)`):
            Consecutive predicted frames, floating point in [0, 1].
        targets (`torch.Tensor` of shape `(F, 3, H, W)`):
            Ground-truth frames, floating point in [0, 1].
        threshold (`float`, *optional*, defaults to `4 / 255`):
            A pixel is static if no channel of the ground truth changes by more than this between any two consecutive
            frames. The default tolerates the noise of a video codec.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Mean absolute changes of the static pixels in the predictions and in the
        targets, float64 `(F - 1,)` each, NaN if no pixel is static.

    Raises:
        TypeError, ValueError: As [`l1`](hia_diffusers.metrics.frame.l1).
    """
    predictions, targets = checked_frames(predictions, targets)
    checks.number("threshold", threshold, 0, 1)
    changes = [frames.diff(dim=0).abs() for frames in (predictions, targets)]
    still = (changes[1] <= threshold + ROUNDING).all(dim=1).all(dim=0)
    predicted, true = (change[:, :, still].mean(dim=(1, 2)) for change in changes)
    return predicted, true


def mean_of_known(values: Tensor) -> tuple[float, int]:
    """Return the mean of the known values.

    Args:
        values (`torch.Tensor` of any shape):
            Floating point; NaN means no value.

    Returns:
        `tuple[float, int]`: The mean, NaN if no value is known, and the number of known values.
    """
    values = checks.instance("values", values, Tensor)
    return float(values.double().nanmean()), int((~values.isnan()).sum())


def _check_same_shape(wanted: Tensor, measured: Tensor) -> None:
    checks.instance("wanted", wanted, Tensor)
    checks.instance("measured", measured, Tensor)
    if wanted.shape != measured.shape:
        raise ValueError(
            f"`measured` must have the shape of `wanted`, {tuple(wanted.shape)}, got {tuple(measured.shape)}."
        )


def _mean_in_region(values: Tensor, masks: Tensor) -> Tensor:
    expected = (len(values), *values.shape[-2:])
    if checks.instance("masks", masks, Tensor).dtype != torch.bool:
        raise TypeError(f"`masks` must be bool, got {masks.dtype}.")
    if masks.shape != expected:
        raise ValueError(f"`masks` must be of shape {expected} to match the frames, got {tuple(masks.shape)}.")
    inside = torch.where(masks[:, None], values, 0).sum(dim=(1, 2, 3))
    return inside / (masks.sum(dim=(1, 2)) * values.shape[1])  # 0 / 0 is NaN for an empty mask
