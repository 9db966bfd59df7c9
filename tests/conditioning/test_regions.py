# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np

from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.regions import box_masks, face_boxes
from hia_diffusers.conditioning.whole_body import FACE


def keypoints_with_faces(faces):
    """One frame per face, each a list of points."""
    xy = np.full((len(faces), 133, 2), np.nan)
    score = np.zeros((len(faces), 133))
    for frame, points in enumerate(faces):
        xy[frame, FACE.start : FACE.start + len(points)] = np.reshape(points, (-1, 2))
        score[frame, FACE.start : FACE.start + len(points)] = 1
    return WholeBodyKeypoints(xy, score, height=100, width=80, fps=30)


def test_a_face_box_reaches_beyond_the_landmarks_and_farthest_upwards():
    (box,) = face_boxes(keypoints_with_faces([[(20, 30), (40, 30), (30, 50), (25, 40)]]))
    np.testing.assert_allclose(box, [18, 22, 42, 52])


def test_a_face_of_two_points_or_of_low_scores_has_no_box():
    assert np.isnan(face_boxes(keypoints_with_faces([[], [(20, 30), (40, 30)]]))).all()
    unsure = keypoints_with_faces([[(20, 30), (40, 30), (30, 50)]])
    unsure.score *= 0.3
    assert np.isnan(face_boxes(unsure)).all()
    assert np.isfinite(face_boxes(unsure, score_threshold=0.2)).all()


def test_a_mask_holds_the_pixels_whose_centres_lie_in_the_box():
    boxes = np.array([[[1.5, 0.0, 3.4, 1.5]], [[-5.0, 2.6, 0.6, 9.0]]])
    masks = box_masks(boxes, height=4, width=5)
    assert masks.shape == (2, 1, 4, 5) and masks.dtype == bool
    assert set(zip(*np.nonzero(masks[0, 0]), strict=True)) == {(0, 1), (0, 2), (1, 1), (1, 2)}
    assert set(zip(*np.nonzero(masks[1, 0]), strict=True)) == {(3, 0)}


def test_a_box_of_nan_or_outside_the_image_holds_no_pixel():
    assert not box_masks(np.array([np.full(4, np.nan), [6, 0, 9, 3]]), height=4, width=5).any()
