# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from PIL import Image

from hia_diffusers import WholeBodyKeypoints
from hia_diffusers.animation.fitted_images import fit_image, fit_pose_map
from hia_diffusers.commands.animate import log_to_stdout


def test_an_image_of_another_aspect_keeps_its_whole_and_its_shape(capsys):
    image = Image.new("RGB", (50, 100), (10, 120, 200))
    image.paste((250, 0, 0), (12, 25, 37, 75))
    image.paste((0, 0, 0), (0, 1, 1, 99))  # the sides, which no bar joins, do not colour the bars
    image.paste((0, 0, 0), (49, 1, 50, 99))
    with log_to_stdout([]):
        fitted = np.asarray(fit_image(image, 128, 32))
    assert fitted.shape == (128, 32, 3)
    assert (fitted[:32] == (10, 120, 200)).all() and (fitted[-32:] == (10, 120, 200)).all()
    red = np.argwhere(fitted[..., 0] > 128)
    assert np.abs(np.ptp(red, axis=0) + 1 - (32, 16)).max() <= 1
    assert capsys.readouterr().out == "The image's 50x100 is fitted into 32x128 with bars in its border colour.\n"


def test_an_image_of_the_same_aspect_is_only_resized(capsys):
    with log_to_stdout([]):
        image = fit_image(Image.new("RGB", (128, 64), "red"), 32, 64)
    np.testing.assert_array_equal(np.asarray(image), np.tile([255, 0, 0], (32, 64, 1)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("size", [(1, 320), (320, 1)])
def test_an_image_of_which_nothing_would_be_left_is_refused(size):
    with pytest.raises(ValueError, match=f"`image`: {size[0]}x{size[1]} pixels are too thin to be fitted into 96x160"):
        fit_image(Image.new("RGB", size), 160, 96)
    assert fit_image(Image.new("RGB", (1, 160)), 160, 96).size == (96, 160)


@pytest.mark.parametrize("fit", [fit_image, fit_pose_map])
def test_keypoints_of_the_image_stay_on_it_when_it_is_fitted(fit):
    image = Image.new("RGB", (60, 90))
    points = np.array([(10.5, 20.5), (50.5, 80.5)])
    for x, y in points:
        image.paste((255, 255, 255), (int(x) - 1, int(y) - 1, int(x) + 2, int(y) + 2))
    xy = np.full((1, 133, 2), np.nan)
    xy[0, :2] = points
    keypoints = WholeBodyKeypoints(xy, np.ones((1, 133)), 90, 60, 1.0)
    for size in ((120, 200), (128, 64), (60, 90)):
        fitted = fit(image, size[1], size[0])
        moved = keypoints.fit(size[1], size[0])
        assert (moved.width, moved.height) == size
        bright = np.argwhere(np.asarray(fitted.convert("L")) > 100)[:, ::-1] + 0.5
        halves = bright[:, 1] > bright[:, 1].mean()
        centers = [bright[~halves].mean(axis=0), bright[halves].mean(axis=0)]
        np.testing.assert_allclose(moved.xy[0, :2], centers, atol=0.4)
