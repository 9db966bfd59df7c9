# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""All metrics of a set of videos, accumulated clip by clip.

Axes: F frames, H, W; hands are ordered left, right (the person's).
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from .extractors import FeatureExtractor, split_into_clips
from .frame import LPIPS, disco_l1, l1, psnr, ssim
from .frechet import FrechetStatistics, frechet_distance
from .identity import ArcFace
from .region_metrics import (
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


# Number of frames in memory as floating point at a time.
WINDOW = 16

# Name -> better direction, unit of averaging, and description.
METRICS = {
    "l1": ("lower", "frames", "mean absolute error, images in [0, 1]"),
    "disco_l1": ("lower", "frames", "mean absolute difference of 0-255 images, divided by H * W (DisCo's L1)"),
    "psnr": ("higher", "frames", "PSNR in dB, in floating point; identical frames count 100"),
    "ssim": ("higher", "frames", "SSIM of grey images, uniform 7 x 7 windows, sample covariances (DisCo's SSIM)"),
    "lpips": ("lower", "frames", "LPIPS 0.1, images scaled to [-1, 1]"),
    "disco_lpips": ("lower", "frames", "LPIPS 0.1, images left in [0, 1] (DisCo's LPIPS)"),
    "face_l1": ("lower", "frames", "mean absolute error in the face"),
    "face_psnr": ("higher", "frames", "PSNR in dB of the face"),
    "hands_l1": ("lower", "frames", "mean absolute error in both hands"),
    "hands_psnr": ("higher", "frames", "PSNR in dB of both hands"),
    "hand_sharpness_error": ("lower", "hands", "|measured - target| sharpness of the hands, in [0, 1]"),
    "hand_sharpness_ratio": ("1", "hands", "median ratio of the variances of the Laplacian, measured to target"),
    "hand_sharpness_correlation": ("higher", "hands", "Spearman, target against measured sharpness of the hands"),
    "identity": ("higher", "frames", "cosine between the ArcFace embeddings of predicted and ground-truth face"),
    "flicker": ("lower", "frames", "mean |change from frame to frame - ground-truth change|, images in [0, 1]"),
    "static_change": ("lower", "frames", "mean |change from frame to frame| where the ground truth is static"),
    "static_change_ratio": ("1", "frames", "static_change divided by that of the ground truth"),
}


@dataclass(frozen=True)
class EvaluationClip:
    """A clip that is loaded or generated when it is evaluated.

    Args:
        name (`str`):
            Name of the clip.
        num_frames (`int`):
            Number of frames.
        load (`Callable`):
            Returns the other arguments of [`VideoEvaluation.add`] by name.
    """

    name: str
    num_frames: int
    load: Callable[[], dict[str, np.ndarray]]


class VideoEvaluation:
    """Accumulate the metrics of clips, with memory independent of their number.

    A mean is over all frames of all clips that have a value, as in the paper's protocol. Temporal metrics are computed
    in windows of 16 frames, each including the first frame of the next.

    Args:
        lpips (`LPIPS`, *optional*):
            Adds `lpips` and `disco_lpips`.
        face_embedder (`ArcFace`, *optional*):
            Adds `identity` for clips with face landmarks.
        extractors (`Sequence[FeatureExtractor]`, *optional*):
            Each adds a Fréchet distance with its name.
        clip_stride (`int`, *optional*, defaults to 16):
            Number of frames from the start of one clip to that of the next, for extractors of clips.
    """

    def __init__(
        self,
        lpips: LPIPS | None = None,
        face_embedder: ArcFace | None = None,
        extractors: Sequence[FeatureExtractor] = (),
        clip_stride: int = WINDOW,
    ):
        self._lpips, self._face_embedder, self.clip_stride = lpips, face_embedder, clip_stride
        self._frechet = [(extractor, FrechetStatistics(), FrechetStatistics()) for extractor in extractors]
        self._clips: dict[str, dict[str, Tensor]] = {}

    def add(
        self,
        name: str,
        predictions: np.ndarray,
        targets: np.ndarray,
        face_masks: np.ndarray | None = None,
        hand_masks: np.ndarray | None = None,
        wanted_sharpness: np.ndarray | None = None,
        measured_sharpness: np.ndarray | None = None,
        face_landmarks: np.ndarray | None = None,
    ) -> None:
        """Add a clip.

        Args:
            name (`str`):
                Name of the clip.
            predictions (`np.ndarray` of shape `(F, H, W, 3)`):
                Predicted frames, uint8 RGB.
            targets (`np.ndarray` of shape `(F, H, W, 3)`):
                Ground-truth frames, uint8 RGB.
            face_masks (`np.ndarray` of shape `(F, H, W)`, *optional*):
                Boolean; marks the face in the ground truth. Adds `face_l1` and `face_psnr`.
            hand_masks (`np.ndarray` of shape `(F, 2, H, W)`, *optional*):
                Boolean; marks the hands in the ground truth. Adds `hands_l1` and `hands_psnr`.
            wanted_sharpness (`np.ndarray` of shape `(F, 2)`, *optional*):
                Requested sharpness of the hands in [0, 1], NaN if unknown; together with `measured_sharpness` it adds
                `hand_sharpness_error`, `hand_sharpness_ratio` and `hand_sharpness_correlation`.
            measured_sharpness (`np.ndarray` of shape `(F, 2)`, *optional*):
                Sharpness of the hands measured in the predictions.
            face_landmarks (`np.ndarray` of shape `(F, 68, 2)`, *optional*):
                Face points in the ground truth in pixels, NaN if missing. With a face embedder, they add `identity`.

        Raises:
            ValueError: If a clip of that name was added before, shapes do not match, or the clip is shorter than an
                extractor needs. Nothing of the clip is kept in this case.
            TypeError: If frames are not uint8.
        """
        if name in self._clips:
            raise ValueError(f"`name` must be new, but a clip {name!r} was added before.")
        checks.instance("predictions", predictions, np.ndarray)
        checks.instance("targets", targets, np.ndarray)
        for argument, frames in (("predictions", predictions), ("targets", targets)):
            if frames.dtype != np.uint8:
                raise TypeError(f"`{argument}` must be uint8, got {frames.dtype}.")
            if frames.ndim != 4 or frames.shape[-1] != 3 or frames.size == 0 or frames.shape != targets.shape:
                raise ValueError(
                    f"`{argument}` must be of shape (F, H, W, 3), the same for both, got {predictions.shape} and "
                    f"{targets.shape}."
                )
        num_frames, height, width = targets.shape[:3]
        for argument, annotation, shape in (
            ("face_masks", face_masks, (num_frames, height, width)),
            ("hand_masks", hand_masks, (num_frames, 2, height, width)),
            ("wanted_sharpness", wanted_sharpness, (num_frames, 2)),
            ("measured_sharpness", measured_sharpness, (num_frames, 2)),
            ("face_landmarks", face_landmarks, (num_frames, 68, 2)),
        ):
            if annotation is not None and checks.instance(argument, annotation, np.ndarray).shape != shape:
                raise ValueError(f"`{argument}` must be of shape {shape}, got {annotation.shape}.")
        for extractor, *_ in self._frechet:
            if extractor.clip_length is not None and num_frames < extractor.clip_length:
                raise ValueError(
                    f"`targets` must contain the {extractor.clip_length} frames of a clip for {extractor.name}, got "
                    f"{num_frames}."
                )
        windows = []
        for start in range(0, len(targets), WINDOW):
            window = slice(start, start + WINDOW + 1)
            predicted, true = (_as_frames(torch.from_numpy(images[window])) for images in (predictions, targets))
            masks = {}
            if face_masks is not None:
                masks["face"] = torch.from_numpy(face_masks[window])
            if hand_masks is not None:
                masks["hands"] = torch.from_numpy(hand_masks[window]).any(dim=1)
            landmarks = None if face_landmarks is None else face_landmarks[window]
            windows.append(self._measure_window(predicted, true, masks, landmarks))
        values = {metric: torch.cat([window[metric] for window in windows]) for metric in windows[0]}
        if wanted_sharpness is not None and measured_sharpness is not None:
            values["wanted_sharpness"] = torch.from_numpy(wanted_sharpness)
            values["measured_sharpness"] = torch.from_numpy(measured_sharpness)
        self._gather_features(predictions, targets)
        self._clips[name] = values

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the metrics of all clips so far.

        Returns:
            `dict[str, dict[str, Any]]`: By name: `value` (`float`, or `None` if no frame has one), `better` ("lower",
            "higher" or, if that is best, "1"), `count` and `of` (number of frames, hands or samples) and
            `description`. Metrics with a network also have the `sha256` of its weights; Fréchet distances also have
            `features` (D) and `rank_deficient` (no more samples than features: strongly biased).

        Raises:
            ValueError: If there are no clips, or fewer than two samples for a Fréchet distance.
        """
        if not self._clips:
            raise ValueError("There is nothing to measure: no clip was added.")
        gathered = defaultdict(list)
        for values in self._clips.values():
            for metric, value in values.items():
                gathered[metric].append(value)
        results = _summary({metric: torch.cat(values) for metric, values in gathered.items()})
        networks = {"lpips": self._lpips, "disco_lpips": self._lpips, "identity": self._face_embedder}
        for metric, network in networks.items():
            if network is not None and metric in results:
                results[metric] |= {"network": network.name, "sha256": network.sha256}
        return results | {
            extractor.name: _frechet_result(extractor, *gathered) for extractor, *gathered in self._frechet
        }

    def clips(self) -> dict[str, dict[str, float | None]]:
        """Return the metrics of each clip, without the Fréchet distances, which are not defined for a single clip."""
        return {
            name: {metric: result["value"] for metric, result in _summary(values).items()}
            for name, values in self._clips.items()
        }

    @torch.inference_mode()
    def _measure_window(
        self, predictions: Tensor, targets: Tensor, masks: dict[str, Tensor], landmarks: np.ndarray | None
    ) -> dict[str, Tensor]:
        """Compute the metrics per frame; the frame after the window is used only by temporal metrics."""
        values = {"flicker": flicker(predictions, targets)}
        values["static_change"], values["static_change_of_targets"] = static_change(predictions, targets)
        pair = predictions[:WINDOW], targets[:WINDOW]
        values |= {"l1": l1(*pair), "disco_l1": disco_l1(*pair), "psnr": psnr(*pair), "ssim": ssim(*pair)}
        if self._lpips is not None:
            values |= {"lpips": self._lpips(*pair), "disco_lpips": self._lpips(*pair, unscaled=True)}
        for region, mask in masks.items():
            values[f"{region}_l1"] = region_l1(*pair, mask[:WINDOW])
            values[f"{region}_psnr"] = region_psnr(*pair, mask[:WINDOW])
        if self._face_embedder is not None and landmarks is not None:
            embeddings = [self._face_embedder(frames, landmarks[:WINDOW]) for frames in pair]
            values["identity"] = identity_similarity(*embeddings)
        return values

    def _gather_features(self, predictions: np.ndarray, targets: np.ndarray) -> None:
        for extractor, *statistics in self._frechet:
            for images, gathered in zip((predictions, targets), statistics, strict=True):
                if extractor.clip_length is None:
                    batches = torch.from_numpy(images).split(WINDOW)
                else:
                    clips = split_into_clips(torch.from_numpy(images), extractor.clip_length, self.clip_stride)
                    batches = clips.split(1)
                for batch in batches:
                    gathered.update(extractor(_as_frames(batch)))


def _as_frames(images: Tensor) -> Tensor:
    """Convert uint8 `(..., H, W, 3)` to float32 `(..., 3, H, W)` in [0, 1]."""
    return images.movedim(-1, -3).float() / 255


def _summary(values: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Summarize the values of some frames as in `VideoEvaluation.metrics`, without the Fréchet distances."""
    known = {metric: mean_of_known(value) for metric, value in values.items()}
    change, count = known["static_change"]
    true_change = known["static_change_of_targets"][0]
    known["static_change_ratio"] = (change / true_change if true_change else math.nan, count)
    if "wanted_sharpness" in values:
        sharpness = values["wanted_sharpness"], values["measured_sharpness"]
        known["hand_sharpness_error"] = mean_of_known(sharpness_error(*sharpness))
        ratio = sharpness_ratio(*sharpness)
        known["hand_sharpness_ratio"] = float(ratio.nanmedian()), int(ratio.isfinite().sum())
        known["hand_sharpness_correlation"] = rank_correlation(*sharpness), known["hand_sharpness_error"][1]
    return {
        metric: {
            "value": known[metric][0] if math.isfinite(known[metric][0]) else None,
            "better": better,
            "count": known[metric][1],
            "of": of,
            "description": description,
        }
        for metric, (better, of, description) in METRICS.items()
        if metric in known
    }


def _frechet_result(
    extractor: FeatureExtractor, predictions: FrechetStatistics, targets: FrechetStatistics
) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reported in the result
        distance = frechet_distance(predictions, targets)
    return {
        "value": distance,
        "better": "lower",
        "count": predictions.count,
        "of": "frames" if extractor.clip_length is None else f"{extractor.clip_length}-frame clips",
        "description": f"Fréchet distance between features of predictions and of targets: {extractor.preprocessing}",
        "features": extractor.num_features,
        "rank_deficient": predictions.is_rank_deficient or targets.is_rank_deficient,
        "sha256": extractor.sha256,
    }
