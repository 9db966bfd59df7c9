# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import cv2
import numpy as np
import pytest
from PIL import Image

from hia_diffusers import WholeBodyKeypoints
from hia_diffusers.animation.picture import fit_keypoints, fit_picture, load_picture
from hia_diffusers.commands.animate import told_aloud


def ramp(dtype=np.uint8, top=255):
    """Dark on the left and bright on the right, 40 wide and 20 high."""
    return np.tile(np.linspace(0, top, 40), (20, 1)).round().astype(dtype)


@pytest.mark.parametrize("name", ["grey.png", "grey16.png", "grey16.tiff", "grey32.tiff", "colour16.png"])
def test_greys_and_16_bit_pictures(tmp_path, name):
    path = tmp_path / name
    if name == "colour16.png":
        cv2.imwrite(str(path), np.stack([ramp(np.uint16, 65535)] * 3, axis=-1))
    else:
        grey = {"grey.png": ramp(), "grey32.tiff": ramp(np.int32, 65535)}.get(name, ramp(np.uint16, 65535))
        Image.fromarray(grey).save(path)
    picture = load_picture(path)
    assert picture.mode == "RGB" and picture.size == (40, 20)
    np.testing.assert_allclose(np.asarray(picture), np.stack([ramp()] * 3, axis=-1), atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "transparent RGB"])
def test_transparency_is_white(tmp_path, mode):
    path = tmp_path / "picture.png"
    picture = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    picture.paste((30, 30, 30, 255), (20, 0, 40, 20))
    if mode == "transparent RGB":
        picture.convert("RGB").save(path, transparency=(0, 0, 0))
    else:
        picture.convert(mode).save(path)
    assert Image.open(path).mode == mode.split()[-1]
    pixels = np.asarray(load_picture(path), dtype=int)
    assert pixels.shape == (20, 40, 3)
    assert (pixels[:, :20] == 255).all() and np.abs(pixels[:, 20:] - 30).max() <= 3


def test_half_transparency_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (8, 8), (200, 0, 0, 128)).save(tmp_path / "picture.png")
    pixels = np.asarray(load_picture(tmp_path / "picture.png"), dtype=int)
    np.testing.assert_allclose(pixels[0, 0], [227, 127, 127], atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(tmp_path, dtype):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    top = np.iinfo(dtype).max
    Image.fromarray(ramp(dtype, top)).save(tmp_path / "picture.png", exif=exif)
    picture = load_picture(tmp_path / "picture.png")
    assert picture.size == (20, 40)
    np.testing.assert_allclose(np.asarray(picture)[..., 0], np.rot90(ramp(), -1), atol=1)


def test_a_picture_of_another_aspect_keeps_its_whole_and_its_shape(capsys):
    picture = Image.new("RGB", (50, 100), (10, 120, 200))
    picture.paste((250, 0, 0), (12, 25, 37, 75))
    picture.paste((0, 0, 0), (0, 1, 1, 99))  # the sides, which no bar joins, do not colour the bars
    picture.paste((0, 0, 0), (49, 1, 50, 99))
    with told_aloud():
        fitted, place = fit_picture(picture, (32, 128))
    assert place == (0, 32, 32, 64)
    fitted = np.asarray(fitted)
    assert fitted.shape == (128, 32, 3)
    assert (fitted[:32] == (10, 120, 200)).all() and (fitted[-32:] == (10, 120, 200)).all()
    red = np.argwhere(fitted[..., 0] > 128)
    assert np.abs(np.ptp(red, axis=0) + 1 - (32, 16)).max() <= 1
    assert capsys.readouterr().out == "The picture's 50x100 is fitted into 32x128 with bars in its border colour.\n"


def test_a_picture_of_the_same_aspect_is_only_resized(capsys):
    with told_aloud():
        picture, place = fit_picture(Image.new("RGB", (128, 64)), (64, 32))
    assert picture.size == (64, 32) and place == (0, 0, 64, 32)
    assert capsys.readouterr().out == ""


def test_keypoints_of_the_picture_stay_on_it_when_it_is_fitted():
    picture = Image.new("RGB", (60, 90))
    points = np.array([(10.5, 20.5), (50.5, 80.5)])
    for x, y in points:
        picture.paste((255, 255, 255), (int(x) - 1, int(y) - 1, int(x) + 2, int(y) + 2))
    xy = np.full((1, 133, 2), np.nan)
    xy[0, :2] = points
    keypoints = WholeBodyKeypoints(xy, np.ones((1, 133)), 90, 60, 1.0)
    for size in ((120, 200), (128, 64), (60, 90)):
        fitted, place = fit_picture(picture, size)
        moved = fit_keypoints(keypoints, place, size)
        assert (moved.width, moved.height) == size
        bright = np.argwhere(np.asarray(fitted.convert("L")) > 100)[:, ::-1] + 0.5
        halves = bright[:, 1] > bright[:, 1].mean()
        centers = [bright[~halves].mean(axis=0), bright[halves].mean(axis=0)]
        np.testing.assert_allclose(moved.xy[0, :2], centers, atol=0.4)
