# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of metrics that cannot be used: one sentence that names them."""

import numpy as np
import pytest
import torch

from hia_diffusers.metrics import evaluation, extractors, frame, frechet
from hia_diffusers.metrics import region_metrics as regions


FRAMES = torch.zeros(2, 3, 8, 8)
IMAGES = np.zeros((2, 8, 8, 3), np.uint8)
BAD_FRAMES = (None, "frames", [FRAMES], FRAMES.numpy(), FRAMES.long(), FRAMES[0], FRAMES + 2, FRAMES * float("nan"))


@pytest.mark.parametrize("metric", [frame.l1, frame.disco_l1, frame.psnr, frame.ssim, regions.flicker])
@pytest.mark.parametrize("bad", range(len(BAD_FRAMES)))
def test_frames_are_named(metric, bad):
    for named, pair in (("predictions", (BAD_FRAMES[bad], FRAMES)), ("targets", (FRAMES, BAD_FRAMES[bad]))):
        with pytest.raises((TypeError, ValueError), match=f"^`{named}` must"):
            metric(*pair)


def add(**arguments):
    given = {"name": "clip", "predictions": IMAGES, "targets": IMAGES} | arguments
    evaluation.VideoEvaluation().add(**given)


STATISTICS = frechet.FrechetStatistics()


@pytest.mark.parametrize(
    "named, call",
    [
        ("masks", lambda: regions.region_l1(FRAMES, FRAMES, None)),
        ("masks", lambda: regions.region_psnr(FRAMES, FRAMES, np.zeros((2, 8, 8), bool))),
        ("wanted", lambda: regions.sharpness_error(None, torch.zeros(2))),
        ("measured", lambda: regions.sharpness_ratio(torch.zeros(2), [0.0, 0.0])),
        ("measured", lambda: regions.rank_correlation(torch.zeros(2), torch.zeros(3))),
        ("predictions", lambda: regions.identity_similarity(None, torch.zeros(2, 4))),
        ("targets", lambda: regions.identity_similarity(torch.zeros(2, 4), np.zeros((2, 4)))),
        ("threshold", lambda: regions.static_change(FRAMES, FRAMES, threshold="low")),
        ("threshold", lambda: regions.static_change(FRAMES, FRAMES, threshold=float("nan"))),
        ("values", lambda: regions.mean_of_known([1.0])),
        ("features", lambda: STATISTICS.update(np.zeros((2, 3)))),
        ("features", lambda: STATISTICS.update(torch.full((2, 3), float("nan")))),
        ("other", lambda: STATISTICS.merge(None)),
        ("first", lambda: frechet.frechet_distance(None, STATISTICS)),
        ("second", lambda: frechet.frechet_distance(STATISTICS, 5)),
        ("length", lambda: extractors.split_into_clips(FRAMES, length=0)),
        ("stride", lambda: extractors.split_into_clips(FRAMES, 1, stride=1.5)),
        ("frames", lambda: extractors.split_into_clips([1, 2], 1)),
        ("predictions", lambda: add(predictions=None)),
        ("targets", lambda: add(targets=IMAGES.tolist())),
        ("face_masks", lambda: add(face_masks=[1])),
        ("wanted_sharpness", lambda: add(wanted_sharpness=torch.zeros(2, 2))),
    ],
)
def test_other_arguments_are_named(named, call):
    with pytest.raises((TypeError, ValueError), match=f"^`{named}` must"):
        call()
