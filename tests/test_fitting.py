# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the aspect of image, motion and result: neither person nor skeleton is stretched, in any way in."""

import logging

import numpy as np
import pytest
import torch
from onnx_models import write_models
from PIL import Image

from hia_diffusers import HIAAnimator, KeypointDetector, MotionBlurConditioner, WholeBodyKeypoints
from hia_diffusers.animation.fitted_images import fit_image
from hia_diffusers.app.animating import AnimationRequest, Animations
from hia_diffusers.app.jobs import Job
from hia_diffusers.app.limits import Limits
from hia_diffusers.conditioning.whole_body import BODY
from hia_diffusers.fitting import fit_images, fit_reference, fitted_place
from hia_diffusers.video.reading import Video


HEIGHT, WIDTH = 192, 320
NEW_HEIGHT, NEW_WIDTH = 320, 192  # into which the landscape above is fitted as 192x115

FIGURE = (130, 40, 190, 160)  # half as wide as high
FITTED_FIGURE = np.array([0.6 * 130, 102 + 0.6 * 40, 0.6 * 190, 102 + 0.6 * 160])


def landscape(background=(0, 0, 0)):
    """A red figure."""
    image = Image.new("RGB", (WIDTH, HEIGHT), background)
    image.paste((255, 0, 0), FIGURE)
    return image


def keypoints(num_frames=2):
    """A body whose points are spread over the figure."""
    x0, y0, x1, y1 = FIGURE
    xy = np.full((num_frames, 133, 2), np.nan)
    xy[:, BODY] = np.random.default_rng(0).uniform([x0, y0], [x1, y1], (17, 2))
    xy[:, 5], xy[:, 16] = (x0, y0), (x1, y1)
    return WholeBodyKeypoints(xy, np.ones((num_frames, 133)), HEIGHT, WIDTH, 30.0)


def box_of(pixels, threshold=90):
    """x0, y0, x1, y1 of what is drawn in a frame `(H, W, 3)` of 8 bits."""
    rows, columns = np.nonzero((np.asarray(pixels) > threshold).any(axis=-1))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_fitted(frames, tolerance=2.0):
    for frame in frames:
        np.testing.assert_allclose(box_of(frame), FITTED_FIGURE, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "new_size", "place"),
    [
        ((192, 320), (320, 192), (0, 102, 192, 115)),
        ((320, 192), (192, 320), (102, 0, 115, 192)),
        ((10, 10), (30, 30), (0, 0, 30, 30)),
        ((480, 854), (480, 856), (1, 0, 854, 480)),
        ((17000, 1), (64, 64), (31, 0, 1, 64)),
        ((1, 1000), (8, 8), (0, 3, 8, 1)),
    ],
)
def test_the_place_is_whole_and_in_the_middle(size, new_size, place):
    assert fitted_place(*size, *new_size) == place


def test_images_are_fitted_as_images_and_keypoints_are():
    image = torch.from_numpy(np.array(landscape())).permute(2, 0, 1)[None] / 255
    fitted = fit_images(image, NEW_HEIGHT, NEW_WIDTH)
    assert_fitted((255 * fitted).permute(0, 2, 3, 1).numpy(), 1.0)
    assert torch.equal(fit_images(image, HEIGHT, WIDTH), image)
    points = keypoints().fit(NEW_HEIGHT, NEW_WIDTH).xy[0, BODY]
    np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], FITTED_FIGURE, atol=0.5)


def test_a_reference_has_bars_in_its_border_colour_and_a_warning_says_so(caplog):
    image = torch.from_numpy(np.array(landscape((10, 120, 200)))).permute(2, 0, 1) / 255
    fitted = (255 * fit_reference(image, NEW_HEIGHT, NEW_WIDTH)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(fitted[[0, 90, -1]], np.broadcast_to([10, 120, 200], (3, NEW_WIDTH, 3)), atol=1)
    np.testing.assert_allclose(box_of(fitted[..., :1]), FITTED_FIGURE, atol=1)
    assert caplog.messages == ["`image` of 320x192 is fitted into 192x320, whole and centred."]
    caplog.clear()
    assert torch.equal(fit_reference(image, HEIGHT, WIDTH), image) and not caplog.messages


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger="hia_diffusers")
    return caplog


@pytest.mark.parametrize("kind", ["keypoints", "file", "pose video"])
def test_the_animator_fits_motion_as_it_fits_the_image(told, tmp_path, kind):
    if kind == "pose video":
        driving = Video(np.stack([np.asarray(landscape())] * 2), 30.0)
    else:
        driving = keypoints()
    if kind == "file":
        driving.save(tmp_path / "motion.npz")
        driving = tmp_path / "motion.npz"
    animation = HIAAnimator().prepare(landscape(), driving, height=NEW_HEIGHT, width=NEW_WIDTH)
    assert_fitted([animation.image], 1.0)
    assert_fitted(animation.condition.pose, 1.0 if kind == "pose video" else 3.0)  # points are discs of 2 pixels
    assert "The motion's 320x192 is fitted into 192x320, whole and centred." in told.messages


def test_a_video_that_is_not_aligned_is_fitted_likewise(tmp_path):
    detector = KeypointDetector(**write_models(tmp_path))
    driving = Video(np.stack([np.asarray(landscape((20, 20, 20)))] * 2), 30.0)
    size = {"height": NEW_HEIGHT, "width": NEW_WIDTH}
    animation = HIAAnimator(detector=detector).prepare(
        landscape(), driving, driving_type="video", retarget=False, **size
    )
    points = animation.keypoints.fit(**size)
    drawn = MotionBlurConditioner.for_size(**size)(points).pose
    np.testing.assert_array_equal(animation.condition.pose, drawn)
    x, y = np.ptp(points.xy[0], axis=0) / np.ptp(animation.keypoints.xy[0], axis=0)
    assert x == pytest.approx(y, rel=0.01)


@torch.no_grad()
@pytest.mark.parametrize("form", ["condition", "images", "tensor"])
def test_the_pipeline_fits_both_of_its_inputs(pipe, told, form):
    condition = MotionBlurConditioner().from_pose_video([landscape()] * 2)
    clip = {"condition": condition, "images": [landscape()] * 2, "tensor": condition.to_tensor()}[form]
    read = pipe.prepare_conditioning_frames(clip, NEW_HEIGHT, NEW_WIDTH).read(range(2))[0]
    assert_fitted((255 * read[:, :3]).permute(0, 2, 3, 1).numpy(), 1.0)
    assert "`conditioning_frames` of 320x192 is fitted into 192x320, whole and centred." in told.messages

    images = (landscape(), fit_image(landscape(), NEW_HEIGHT, NEW_WIDTH))
    ours, expected = (pipe.encode_reference_latents(image, NEW_HEIGHT, NEW_WIDTH) for image in images)
    assert (ours - expected).square().mean() < 0.01 * expected.var()


def test_the_page_fits_motion_and_says_so(pristine_pipe, tmp_path):
    (tmp_path / "private").mkdir()
    animations = Animations(HIAAnimator(pristine_pipe), (48, 80), Limits(max_frames=2), tmp_path / "private")
    landscape().save(tmp_path / "image.png")
    keypoints().save(tmp_path / "motion.npz")
    asked = AnimationRequest(
        tmp_path / "image.png", tmp_path / "motion.npz", 2, None, steps=1, guidance=1, seed=0, fit=False
    )
    condition = animations.prepare(landscape(), asked, Job(lambda *report: None)).condition
    np.testing.assert_allclose(box_of(condition.pose[0], 60), FITTED_FIGURE / 4, atol=2.5)
    assert "the motion's 320x192 is fitted into it" in animations.make(asked, Job(lambda *report: None)).about
