# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import scipy.stats
import torch

from hia_diffusers.metrics.evaluation import METRICS, VideoEvaluation
from hia_diffusers.metrics.frame import disco_l1, l1, psnr, ssim
from hia_diffusers.metrics.frechet import FrechetStatistics, frechet_distance
from hia_diffusers.metrics.region_metrics import flicker, region_l1, region_psnr, static_change


HEIGHT, WIDTH = 24, 16


def clip(num_frames, seed, noise=30):
    """Predictions, targets `(F, H, W, 3)` uint8, of which the left half stands still; and annotations for a part."""
    random = np.random.default_rng(seed)
    targets = random.integers(40, 200, (num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    targets[:, :, : WIDTH // 2] = targets[0, :, : WIDTH // 2]
    predictions = (targets + random.integers(0, noise, targets.shape)).astype(np.uint8)
    hand_masks = np.zeros((num_frames, 2, HEIGHT, WIDTH), dtype=bool)
    hand_masks[::2, 0, 4:8, 2:9] = True
    hand_masks[::3, 1, 10:20, 2:9] = True
    sharpness = random.random((2, num_frames, 2)).astype(np.float32)
    sharpness[0, -1] = np.nan
    return {
        "predictions": predictions,
        "targets": targets,
        "hand_masks": hand_masks,
        "face_masks": hand_masks[:, 0],
        "wanted_sharpness": sharpness[0],
        "measured_sharpness": sharpness[1],
    }


def as_frames(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


class MeanColour:
    """Extracts the mean colour of a frame or of a clip."""

    preprocessing = "none"
    num_features = 3
    sha256 = "0" * 64

    def __init__(self, name, clip_length):
        self.name, self.clip_length = name, clip_length

    def __call__(self, frames):
        assert frames.shape[-3:] == (3, HEIGHT, WIDTH) and 0 <= frames.min() and frames.max() <= 1
        assert frames.shape[1:-3] == (() if self.clip_length is None else (self.clip_length,))
        return frames.mean(dim=(-2, -1)).flatten(1, -2).mean(dim=1) if frames.ndim == 5 else frames.mean(dim=(-2, -1))


@pytest.mark.parametrize("num_frames", [1, 16, 17, 40])
def test_windows_do_not_matter(num_frames):
    """The metrics of a clip are those of all its frames at once."""
    arguments = clip(num_frames, seed=0)
    evaluation = VideoEvaluation()
    evaluation.add("a", **arguments)
    measured = {name: result["value"] for name, result in evaluation.metrics().items()}
    pair = as_frames(arguments["predictions"]), as_frames(arguments["targets"])
    hands = torch.from_numpy(arguments["hand_masks"].any(axis=1))
    face = torch.from_numpy(arguments["face_masks"])
    expected = {
        "l1": l1(*pair),
        "disco_l1": disco_l1(*pair),
        "psnr": psnr(*pair),
        "ssim": ssim(*pair),
        "face_l1": region_l1(*pair, face)[face.any(dim=(1, 2))],
        "hands_l1": region_l1(*pair, hands)[hands.any(dim=(1, 2))],
        "hands_psnr": region_psnr(*pair, hands)[hands.any(dim=(1, 2))],
        "flicker": flicker(*pair),
    }
    for name, values in expected.items():
        assert measured[name] == (pytest.approx(values.mean().item(), rel=1e-6) if len(values) else None)
    if num_frames <= 17:
        predicted, true = static_change(*pair)
        assert measured["static_change"] == (pytest.approx(predicted.mean().item()) if len(predicted) else None)


def test_a_mean_is_over_all_frames_of_all_clips():
    parts = {"long": clip(20, seed=0, noise=10), "short": clip(4, seed=1, noise=50)}
    evaluation = VideoEvaluation()
    for name, arguments in parts.items():
        evaluation.add(name, **arguments)
    together, each = evaluation.metrics(), evaluation.clips()
    for metric in ("l1", "psnr", "ssim"):
        mean = (20 * each["long"][metric] + 4 * each["short"][metric]) / 24
        assert together[metric]["value"] == pytest.approx(mean) and together[metric]["count"] == 24
    assert together["flicker"]["count"] == 19 + 3
    assert together["hands_l1"]["count"] == 13 + 3  # even frames and every third
    assert together["face_l1"]["count"] == 10 + 2
    wanted, measured = (
        np.concatenate([arguments[name] for arguments in parts.values()])
        for name in ("wanted_sharpness", "measured_sharpness")
    )
    known = np.isfinite(wanted)
    assert together["hand_sharpness_error"]["count"] == known.sum() == 44
    assert together["hand_sharpness_error"]["value"] == pytest.approx(np.abs(wanted - measured)[known].mean())
    spearman = scipy.stats.spearmanr(wanted[known], measured[known]).statistic
    assert together["hand_sharpness_correlation"]["value"] == pytest.approx(spearman)


def test_the_truth_is_perfect():
    arguments = clip(40, seed=0)
    arguments |= {"predictions": arguments["targets"], "measured_sharpness": arguments["wanted_sharpness"]}
    evaluation = VideoEvaluation(extractors=[MeanColour("FID", None), MeanColour("FVD", 16)])
    evaluation.add("a", **arguments)
    values = {name: result["value"] for name, result in evaluation.metrics().items()}
    zero = ("l1", "disco_l1", "face_l1", "hands_l1", "hand_sharpness_error", "flicker", "static_change")
    assert all(values[name] == 0 for name in zero)
    assert values["psnr"] == values["face_psnr"] == values["hands_psnr"] == 100
    assert values["ssim"] == pytest.approx(1) and values["hand_sharpness_correlation"] == pytest.approx(1)
    assert abs(values["FID"]) < 1e-12 and abs(values["FVD"]) < 1e-12
    assert values["static_change_ratio"] is None  # the truth does not change at all there


def test_the_ratio_of_static_change_is_that_of_the_means():
    arguments = clip(8, seed=0)
    arguments["targets"][1::2, :, : WIDTH // 2] += 1
    arguments["predictions"] = arguments["targets"].copy()
    arguments["predictions"][1::2, :, : WIDTH // 2] += 2
    evaluation = VideoEvaluation()
    evaluation.add("a", **arguments)
    assert evaluation.metrics()["static_change"]["value"] == pytest.approx(3 / 255)
    assert evaluation.metrics()["static_change_ratio"]["value"] == pytest.approx(3)


@pytest.mark.parametrize("stride, samples", [(16, 2 + 1), (1, 25 + 2)])
def test_frechet_distances_are_those_of_all_frames_and_clips(stride, samples):
    parts = {"a": clip(40, seed=0), "b": clip(17, seed=1)}
    extractors = MeanColour("FID", None), MeanColour("FVD", 16)
    evaluation = VideoEvaluation(extractors=extractors, clip_stride=stride)
    for name, arguments in parts.items():
        evaluation.add(name, **arguments)
    measured = evaluation.metrics()
    assert measured["FID"]["count"] == 57 and measured["FID"]["of"] == "frames"
    assert measured["FVD"]["count"] == samples and measured["FVD"]["of"] == "16-frame clips"
    assert not measured["FID"]["rank_deficient"] and measured["FVD"]["rank_deficient"] == (samples <= 3)
    gathered = {name: (FrechetStatistics(), FrechetStatistics()) for name in ("FID", "FVD")}
    for arguments in parts.values():
        for index, which in enumerate(("predictions", "targets")):
            colours = as_frames(arguments[which]).mean(dim=(2, 3))
            gathered["FID"][index].update(colours)
            starts = range(0, len(colours) - 15, stride)
            gathered["FVD"][index].update(torch.stack([colours[start : start + 16].mean(dim=0) for start in starts]))
    assert measured["FID"]["value"] == pytest.approx(frechet_distance(*gathered["FID"]), rel=1e-4)
    if stride == 1:
        assert measured["FVD"]["value"] == pytest.approx(frechet_distance(*gathered["FVD"]), rel=1e-4)
    assert not any("FID" in values for values in evaluation.clips().values())


def test_annotations_are_optional():
    arguments = clip(3, seed=0)
    evaluation = VideoEvaluation()
    evaluation.add("a", arguments["predictions"], arguments["targets"])
    assert set(evaluation.metrics()) == {
        *("l1", "disco_l1", "psnr", "ssim", "flicker", "static_change", "static_change_ratio")
    }
    assert set(evaluation.metrics()) < set(METRICS)


def test_results_are_plain_numbers():
    evaluation = VideoEvaluation(extractors=[MeanColour("FID", None)])
    arguments = clip(3, seed=0)
    arguments["face_masks"][:] = False
    evaluation.add("a", **arguments)
    assert json.loads(json.dumps(evaluation.metrics(), allow_nan=False)) == evaluation.metrics()
    assert json.loads(json.dumps(evaluation.clips(), allow_nan=False)) == evaluation.clips()
    assert evaluation.metrics()["face_l1"] | {"description": ""} == {
        **{"value": None, "better": "lower", "count": 0, "of": "frames", "description": ""}
    }


# Bad input


def test_bad_input_is_named():
    arguments = clip(3, seed=0)
    predictions, targets = arguments["predictions"], arguments["targets"]
    evaluation = VideoEvaluation()
    with pytest.raises(TypeError, match="`predictions` must be uint8"):
        evaluation.add("a", predictions / 255, targets)
    with pytest.raises(TypeError, match="`targets` must be uint8"):
        evaluation.add("a", predictions, targets.astype(np.int64))
    with pytest.raises(ValueError, match=r"\(2, 24, 16, 3\) and \(3, 24, 16, 3\)"):
        evaluation.add("a", predictions[:2], targets)
    with pytest.raises(ValueError, match=r"\(0, 24, 16, 3\)"):
        evaluation.add("a", predictions[:0], targets[:0])
    with pytest.raises(ValueError, match="no clip was added"):
        evaluation.metrics()
    evaluation.add("a", predictions, targets)
    with pytest.raises(ValueError, match="a clip 'a' was added before"):
        evaluation.add("a", predictions, targets)


@pytest.mark.parametrize(
    "argument", ["face_masks", "hand_masks", "wanted_sharpness", "measured_sharpness", "face_landmarks"]
)
def test_annotations_of_more_frames_are_refused(argument):
    """Also where the frames fill their windows, so that the rest would never be looked at."""
    arguments = clip(33, seed=0) | {"face_landmarks": np.zeros((33, 68, 2))}
    short = {name: values[:32] for name, values in arguments.items()}
    evaluation = VideoEvaluation()
    with pytest.raises(ValueError, match=rf"`{argument}` must be of shape \(32, .*, got \(33, "):
        evaluation.add("a", **short | {argument: arguments[argument]})
    evaluation.add("a", **short)


def test_a_clip_that_is_too_short_leaves_nothing_behind():
    evaluation = VideoEvaluation(extractors=[MeanColour("FID", None), MeanColour("FVD", 16)])
    short, long = clip(15, seed=0), clip(40, seed=1)
    with pytest.raises(ValueError, match="`targets` must contain the 16 frames of a clip for FVD, got 15"):
        evaluation.add("short", **short)
    evaluation.add("long", **long)
    assert evaluation.metrics()["FID"]["count"] == 40
