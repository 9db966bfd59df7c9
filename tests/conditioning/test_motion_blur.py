# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from hia_diffusers.conditioning import whole_body as kp
from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.motion_blur import MotionBlurConditioner
from hia_diffusers.conditioning.motion_blur_condition import MotionBlurCondition
from hia_diffusers.conditioning.openpose import draw_openpose
from hia_diffusers.conditioning.sharpness import SHARPNESS_SMOOTHING
from hia_diffusers.metrics.region_metrics import rank_correlation
from hia_diffusers.procedural.scene import ProceduralScene


HEIGHT, WIDTH = 160, 120
LEFT, RIGHT = 0, 1


def hand_points(center, extent):
    """A spread hand: 21 points that fill a square of side `extent` around `center`."""
    fingers = np.linspace(0.15 * np.pi, 0.85 * np.pi, 5)
    offsets = [(0.0, 0.0)] + [(r * np.cos(a), -r * np.sin(a)) for a in fingers for r in (0.4, 0.6, 0.8, 1.0)]
    points = np.array(offsets)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low).max() * extent + center


def make_keypoints(frames, height=HEIGHT, width=WIDTH, fps=30.0):
    """From one dictionary per frame, of points by index or by a name in `keypoints.py`; all others are missing."""
    xy = np.full((len(frames), 133, 2), np.nan)
    for frame, points in enumerate(frames):
        for index, value in points.items():
            xy[frame, getattr(kp, index) if isinstance(index, str) else index] = value
    return WholeBodyKeypoints(xy, np.ones(xy.shape[:2]), height, width, fps)


def two_hands(num_frames=4, fps=30.0, step=(3.0, -2.0)):
    """Both hands moving, the right one half as fast and the other way."""
    step = np.array(step)
    return make_keypoints(
        [
            {
                "LEFT_HAND": hand_points((80.3, 60.2), 30) + frame * step,
                "RIGHT_HAND": hand_points((40.7, 110.9), 20) - frame * step / 2,
                "LEFT_SHOULDER": (75, 30),
                "RIGHT_SHOULDER": (45, 30),
            }
            for frame in range(num_frames)
        ],
        fps=fps,
    )


def box_of(center, side):
    center = np.array(center)
    return np.concatenate([center - side / 2, center + side / 2])


# Hand boxes


def test_box_of_hand_points_is_square_with_a_margin():
    keypoints = make_keypoints([{"LEFT_HAND": hand_points((50, 60), 20)}])
    condition = MotionBlurConditioner(hand_box_margin=0.25)(keypoints)
    np.testing.assert_allclose(condition.hand_boxes[0, LEFT], box_of((50, 60), 30), atol=1e-4)
    assert np.isnan(condition.hand_boxes[0, RIGHT]).all()


def test_box_from_wrist_and_elbow_where_fewer_than_three_points_are_visible():
    arm = {"RIGHT_WRIST": (60, 80), "RIGHT_ELBOW": (60, 40)}
    two_points = {112: (10, 10), 113: (20, 20)}
    three_points = {**two_points, 114: (10, 30)}
    condition = MotionBlurConditioner(hand_box_margin=0.0)(
        make_keypoints([arm, {**arm, **two_points}, {**arm, **three_points}])
    )
    beyond_wrist = box_of((60, 80 + 0.35 * 40), 0.9 * 40)
    np.testing.assert_allclose(condition.hand_boxes[0, RIGHT], beyond_wrist, atol=1e-4)
    np.testing.assert_allclose(condition.hand_boxes[1, RIGHT], beyond_wrist, atol=1e-4)
    np.testing.assert_allclose(condition.hand_boxes[2, RIGHT], box_of((15, 20), 20), atol=1e-4)


@pytest.mark.parametrize(
    "points",
    [
        {"LEFT_WRIST": (50, 50)},
        {"LEFT_HAND": (50.0, 50.0)},
        {"LEFT_HAND": hand_points((-40, 60), 20)},
        {"LEFT_HAND": hand_points((60, HEIGHT + 40), 20)},
    ],
    ids=["no elbow", "one spot", "left of the image", "below the image"],
)
def test_no_box(points):
    condition = MotionBlurConditioner()(make_keypoints([points, points]), sharpness=0.5)
    assert np.isnan(condition.hand_boxes).all()
    assert np.isnan(condition.hand_motion).all() and np.isnan(condition.hand_sharpness).all()
    assert not condition.to_tensor()[:, 3:].any()


def test_points_below_the_threshold_make_no_box():
    keypoints = make_keypoints([{"LEFT_HAND": hand_points((50, 60), 20)}])
    keypoints.score[keypoints.score > 0] = 0.4
    assert np.isfinite(MotionBlurConditioner(score_threshold=0.3)(keypoints).hand_boxes[0, LEFT]).all()
    assert np.isnan(MotionBlurConditioner(score_threshold=0.5)(keypoints).hand_boxes).all()


# Motion


def test_motion_is_in_box_sides_per_frame():
    condition = MotionBlurConditioner(hand_box_margin=0.5)(two_hands())
    assert np.isnan(condition.hand_motion[0]).all()
    for frame in range(1, 4):
        np.testing.assert_allclose(condition.hand_motion[frame, LEFT], np.array([3, -2]) / 60, atol=1e-5)
        np.testing.assert_allclose(condition.hand_motion[frame, RIGHT], np.array([-1.5, 1]) / 40, atol=1e-5)


def test_motion_depends_neither_on_frame_rate_nor_on_resolution():
    conditioner = MotionBlurConditioner()
    fast = two_hands(num_frames=5, fps=60, step=(2.0, 1.0))
    thinned = conditioner(fast[::2]).hand_motion
    np.testing.assert_allclose(conditioner(fast).hand_motion[2::2], thinned[1:], atol=1e-5)
    np.testing.assert_allclose(conditioner(fast.resize(3 * HEIGHT, 3 * WIDTH)).hand_motion[::2], thinned, atol=1e-5)


def test_motion_averages_the_points_visible_in_both_frames():
    first, second = hand_points((50, 60), 20), hand_points((50, 60), 20) + [4, 0]
    second[5:10] += [0, 6]
    first[6], second[12] = np.nan, np.nan
    shared = [index for index in range(21) if index not in (6, 12)]
    condition = MotionBlurConditioner()(make_keypoints([{"LEFT_HAND": first}, {"LEFT_HAND": second}]))
    side = condition.hand_boxes[1, LEFT, 2] - condition.hand_boxes[1, LEFT, 0]
    expected = (second - first)[shared].mean(axis=0) / side
    np.testing.assert_allclose(condition.hand_motion[1, LEFT], expected, atol=1e-5)


def test_motion_of_a_wrist_box_is_the_wrists():
    arm = {"LEFT_WRIST": (60, 80), "LEFT_ELBOW": (60, 40)}
    moved = {"LEFT_WRIST": (66, 80), "LEFT_ELBOW": (66, 40), "LEFT_HAND": hand_points((90, 95), 20)}
    condition = MotionBlurConditioner(hand_box_margin=0.0)(make_keypoints([arm, moved, moved, arm]))
    np.testing.assert_allclose(condition.hand_motion[1:, LEFT], [[6 / 20, 0], [0, 0], [-6 / 36, 0]], atol=1e-5)


def test_motion_is_unknown_where_the_hand_is_missing_in_either_frame():
    hand = {"LEFT_HAND": hand_points((50, 60), 20)}
    outside = {"LEFT_HAND": hand_points((-80, 60), 20)}
    condition = MotionBlurConditioner()(make_keypoints([hand, {}, hand, hand, outside, hand]))
    np.testing.assert_array_equal(np.isfinite(condition.hand_motion[:, LEFT, 0]), [0, 0, 0, 1, 0, 0])


def test_motion_of_picked_frames_is_since_the_frames_before_them():
    conditioner, clip = MotionBlurConditioner(), two_hands(num_frames=6)
    clip.xy[3:] += 5  # a jump, which lies between picked frames
    whole, picked = conditioner(clip), conditioner(clip[1::2], previous_keypoints=replace(clip[0::2]))
    np.testing.assert_allclose(picked.hand_motion * 2, whole.hand_motion[1::2], atol=1e-6)  # at half the frame rate
    assert not np.allclose(conditioner(clip[1::2]).hand_motion[1:], picked.hand_motion[1:], atol=1e-3)


# Maps


def test_tensor_holds_the_pose_and_paints_the_boxes():
    keypoints = two_hands()
    condition = MotionBlurConditioner(max_motion=0.5)(keypoints, sharpness=(0.25, 0.75))
    maps = condition.to_tensor()
    assert maps.dtype == torch.float32 and maps.shape == (4, 6, HEIGHT, WIDTH)
    assert (len(condition), condition.height, condition.width) == (4, HEIGHT, WIDTH)
    np.testing.assert_array_equal(maps[:, :3].numpy() * 255, draw_openpose(keypoints).transpose(0, 3, 1, 2))
    for hand, sharpness in ((LEFT, 0.25), (RIGHT, 0.75)):
        x, y = condition.hand_boxes[2, hand].reshape(2, 2).mean(axis=0).astype(int)
        expected = [*(0.5 + 0.5 * condition.hand_motion[2, hand] / 0.5), sharpness]
        np.testing.assert_allclose(maps[2, 3:, y, x], expected, atol=1e-6)


def test_motion_beyond_the_maximum_is_clipped():
    condition = MotionBlurConditioner(max_motion=0.01)(two_hands(), sharpness=0.5)
    x, y = condition.hand_boxes[2, LEFT].reshape(2, 2).mean(axis=0).astype(int)
    np.testing.assert_array_equal(condition.to_tensor()[2, 3:, y, x], [1, 0, 0.5])


def test_unknown_motion_is_painted_as_rest():
    condition = MotionBlurConditioner()(two_hands(), sharpness=0.8)
    x, y = condition.hand_boxes[0, LEFT].reshape(2, 2).mean(axis=0).astype(int)
    np.testing.assert_allclose(condition.to_tensor()[0, 3:, y, x], [0.5, 0.5, 0.8])


def test_every_pixel_belongs_to_the_nearest_box_that_holds_its_centre():
    frames = [
        {"LEFT_HAND": hand_points((50.3, 60.1), 40), "RIGHT_HAND": hand_points((65.2, 71.7), 30)},
        {"LEFT_HAND": hand_points((3.4, 5.1), 40), "RIGHT_HAND": hand_points((118.2, 158.7), 30)},
        {"LEFT_HAND": hand_points((50, 60), 50), "RIGHT_HAND": hand_points((51.3, 61.2), 10)},
    ]
    condition = MotionBlurConditioner()(make_keypoints(frames), sharpness=(0.25, 0.75))
    painted = condition.to_tensor()[:, 5].numpy()
    for frame in range(3):
        left, right = condition.hand_boxes[frame].astype(np.float64)
        for y in range(HEIGHT):
            for x in range(WIDTH):
                owner, nearest = 0.0, np.inf
                for sharpness, (x0, y0, x1, y1) in ((0.25, left), (0.75, right)):
                    distance = (x + 0.5 - (x0 + x1) / 2) ** 2 + (y + 0.5 - (y0 + y1) / 2) ** 2
                    if x0 <= x + 0.5 <= x1 and y0 <= y + 0.5 <= y1 and distance < nearest:
                        owner, nearest = sharpness, distance
                assert painted[frame, y, x] == owner, (frame, y, x)
    assert (painted[0] == 0.25).sum() > 1000 and (painted[0] == 0.75).sum() > 1000


def test_flipped_keypoints_give_the_mirrored_condition():
    keypoints, conditioner = two_hands(), MotionBlurConditioner()
    maps = conditioner(keypoints, sharpness=(0.25, 0.75)).to_tensor()
    flipped = conditioner(keypoints.flip_horizontal(), sharpness=(0.75, 0.25)).to_tensor()
    mirrored = maps.flip(-1)
    inside = mirrored[:, 5] > 0
    mirrored[:, 3] = torch.where(inside, 1 - mirrored[:, 3], mirrored[:, 3])
    torch.testing.assert_close(flipped[:, 3:], mirrored[:, 3:], atol=1e-5, rtol=0)
    assert (maps[2, 3][maps[2, 3] > 0] - 0.5).abs().min() > 0.01


@pytest.mark.parametrize(
    "points",
    [{}, {"BODY": (30.0, 40.0)}, {"FACE": (np.nan, 3.0)}, {"LEFT_HAND": hand_points((50, 60), 20)}],
    ids=["nobody", "no hands", "no face", "one hand"],
)
@pytest.mark.parametrize("num_frames", [1, 3])
def test_empty_regions_bring_no_nan(points, num_frames):
    keypoints = make_keypoints([points] * num_frames)
    images = np.full((num_frames, HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    for options in ({}, {"frames": images}, {"sharpness": 0.5}):
        condition = MotionBlurConditioner()(keypoints, **options)
        maps = condition.to_tensor()
        assert maps.shape == (num_frames, 6, HEIGHT, WIDTH)
        assert torch.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1
        assert len(condition.preview()) == num_frames


def test_preview_shows_the_pose_over_the_colour_of_the_hand():
    keypoints = two_hands()
    condition = MotionBlurConditioner()(keypoints, sharpness=0.6)
    preview, pose = np.asarray(condition.preview()[0]), draw_openpose(keypoints)[0]
    np.testing.assert_array_equal(preview[pose.any(axis=-1)], pose[pose.any(axis=-1)])
    x0, y0 = np.ceil(condition.hand_boxes[0, LEFT, :2]).astype(int) + 1
    np.testing.assert_array_equal(preview[y0, x0], [128, 128, 153])
    np.testing.assert_array_equal(condition.pose, draw_openpose(keypoints))


# Sharpness


def test_without_frames_hands_are_as_sharp_as_a_camera_would_show_them():
    still, slow, fast = (MotionBlurConditioner()(two_hands(step=(step, 0))) for step in (0, 1, 12))
    sides = slow.hand_boxes[..., 2] - slow.hand_boxes[..., 0]
    speed = np.array([1, 0.5]) / sides
    np.testing.assert_allclose(
        slow.hand_sharpness, MotionBlurConditioner().expected_sharpness(speed, sides), atol=1e-6
    )  # in the first frame at the speed of the next
    assert (still.hand_sharpness > slow.hand_sharpness).all() and (slow.hand_sharpness > fast.hand_sharpness).all()
    assert (still.hand_sharpness > 0.85).all() and fast.hand_sharpness.max() < 0.8
    maps = fast.to_tensor()
    row, column = fast.hand_boxes[2, LEFT].reshape(2, 2).mean(axis=0).astype(int)[::-1]
    motion = 0.5 + 0.5 * fast.hand_motion[2, LEFT]
    np.testing.assert_allclose(maps[2, 3:, row, column], [*motion, fast.hand_sharpness[2, LEFT]], atol=1e-6)


def test_expected_sharpness_is_the_documented_relation():
    options = {"rest_variance": 100.0, "blurring_motion": 0.5, "blur_exponent": 2.0, "small_box_exponent": 1.5}
    conditioner = MotionBlurConditioner(**options)
    speed, side = np.array([0.0, 0.5, 1.0, 0.5, np.nan]), np.array([32, 64, 32, 8, 32])
    variance = [100, 100 / 2, 100 / 5, 100 / 2 / 8, np.nan]
    np.testing.assert_allclose(
        conditioner.expected_sharpness(speed, side), conditioner.squash_sharpness(np.array(variance))
    )


def test_a_hand_of_unknown_motion_is_as_sharp_as_at_rest():
    hand = {"LEFT_HAND": hand_points((50, 60), 20)}
    condition = MotionBlurConditioner()(make_keypoints([hand]))
    side = condition.hand_boxes[0, LEFT, 2] - condition.hand_boxes[0, LEFT, 0]
    assert np.isnan(condition.hand_motion[0, LEFT]).all()
    assert condition.hand_sharpness[0, LEFT] == pytest.approx(MotionBlurConditioner().expected_sharpness(0, side))


def test_a_hand_that_is_hardly_in_the_image_is_unknown_measured_or_expected():
    keypoints = make_keypoints([{"LEFT_HAND": hand_points((-8, 60), 20)}, {"LEFT_HAND": hand_points((3, 60), 20)}])
    images = np.random.default_rng(0).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for frames in (None, images):
        condition = MotionBlurConditioner()(keypoints, frames)
        assert np.isfinite(condition.hand_boxes[:, LEFT]).all()
        np.testing.assert_array_equal(np.isnan(condition.hand_sharpness[:, LEFT]), [True, False])


def test_expected_sharpness_is_that_of_rendered_hands():
    """Of people that the relation was not fitted to."""
    size, measured, expected = (160, 96), [], []
    conditioner = MotionBlurConditioner.for_size(*size)
    for index in range(8):
        clip = ProceduralScene("validation", index, index, index).render(range(40, 43), *size)
        measured.append(conditioner(clip.keypoints, clip.frames).hand_sharpness[1:])
        expected.append(conditioner(clip.keypoints).hand_sharpness[1:])
    measured, expected = (np.concatenate(values).ravel() for values in (measured, expected))
    known = np.isfinite(measured)
    np.testing.assert_array_equal(known, np.isfinite(expected))
    measured, expected = torch.from_numpy(measured[known]), torch.from_numpy(expected[known])
    assert (measured - expected).abs().mean() < 0.75 * (measured - measured.median()).abs().mean()
    assert rank_correlation(expected, measured) > 0.4


def test_unknown_switches_the_blur_condition_off_and_keeps_boxes_and_motion():
    for frames in (None, IMAGES):
        condition = MotionBlurConditioner()(two_hands(), frames, sharpness="unknown")
        assert not condition.to_tensor()[:, 3:].any() and condition.to_tensor()[:, :3].any()
        assert np.isnan(condition.hand_sharpness).all()
        assert np.isfinite(condition.hand_boxes).all() and np.isfinite(condition.hand_motion[1:]).all()


def test_wanted_sharpness_in_every_form():
    keypoints, conditioner = two_hands(), MotionBlurConditioner()
    per_frame = np.array([[0.1, 0.2], [np.nan, 0.3], [0.4, np.nan], [np.nan, np.nan]])
    images = np.zeros((4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for wanted, expected in (
        (0, [[0, 0]] * 4),
        (0.7, [[0.7, 0.7]] * 4),
        ([0.7, 1], [[0.7, 1]] * 4),
        (torch.tensor([0.25, 0.5]), [[0.25, 0.5]] * 4),
        (per_frame, per_frame),
    ):
        sharpness = conditioner(keypoints, images, sharpness=wanted).hand_sharpness
        np.testing.assert_array_equal(sharpness, np.array(expected, dtype=np.float32))
    maps = conditioner(keypoints, sharpness=per_frame).to_tensor()
    assert (maps[1, 5].unique() == torch.tensor([0, 0.3])).all()
    assert not maps[3, 3:].any()


def test_variance_of_the_laplacian_without_resizing():
    """A box of exactly `sharpness_side` pixels on the pixel grid needs no resizing: OpenCV gives the figure."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    conditioner = MotionBlurConditioner(hand_box_margin=0.0, sharpness_side=32)
    condition = conditioner(make_keypoints([{"LEFT_HAND": hand_points((56, 76), 32)}]), image[None])
    np.testing.assert_allclose(condition.hand_boxes[0, LEFT], [40, 60, 72, 92], atol=1e-4)
    grey = image[60:92, 40:72] @ np.array([0.299, 0.587, 0.114])
    smooth = cv2.GaussianBlur(grey, (0, 0), SHARPNESS_SMOOTHING)
    expected = cv2.Laplacian(smooth, cv2.CV_64F)[1:-1, 1:-1].var()
    assert conditioner.unsquash_sharpness(condition.hand_sharpness[0, LEFT]) == pytest.approx(expected, rel=1e-2)
    assert np.isnan(condition.hand_sharpness[0, RIGHT])


def drawn_hand():
    """A shaded hand with creases and nails before a background with detail at every scale."""
    size = 512
    random = np.random.default_rng(0)
    image = np.full((size, size, 3), 110.0)
    for octave in range(1, 10):
        noise = random.normal(0, 9, (2**octave, 2**octave, 3))
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    points = hand_points((256, 256), 110)
    for finger in range(5):
        joints = [points[0], *points[1 + 4 * finger : 5 + 4 * finger]]
        for first, second in zip(joints, joints[1:], strict=False):
            ends = np.rint(first).astype(int).tolist(), np.rint(second).astype(int).tolist()
            cv2.line(image, *ends, (200, 160, 140), 16, cv2.LINE_AA)
        for joint in joints[2:]:
            cv2.circle(image, np.rint(joint).astype(int).tolist(), 5, (150, 105, 90), 1, cv2.LINE_AA)
    return image.clip(0, 255).astype(np.uint8), points


def photograph():
    """A part of a photograph as rich in detail as a hand."""
    data = pytest.importorskip("skimage.data")
    return data.astronaut(), hand_points((225, 120), 90)


def measured_sharpness(image, points):
    keypoints = make_keypoints([{"LEFT_HAND": points}], *image.shape[:2])
    return float(MotionBlurConditioner()(keypoints, image[None]).hand_sharpness[0, LEFT])


@pytest.mark.parametrize("make_image", [drawn_hand, photograph])
def test_sharpness_falls_as_the_hand_is_blurred(make_image):
    image, points = make_image()
    blurred = [image] + [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1, 2, 4)]
    sharpness = [measured_sharpness(version, points) for version in blurred]
    variance = MotionBlurConditioner().unsquash_sharpness(sharpness)
    assert (variance[:-1] > 1.05 * variance[1:]).all(), variance
    assert sharpness[0] > 0.5


@pytest.mark.parametrize("make_image", [drawn_hand, photograph])
@pytest.mark.parametrize("sigma", [0, 2])
@pytest.mark.parametrize("resampling", [PIL.Image.Resampling.BOX, PIL.Image.Resampling.LANCZOS])
def test_sharpness_is_that_of_the_same_hand_at_half_size(make_image, sigma, resampling):
    image, points = make_image()
    image = cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image
    half = PIL.Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), resampling)
    full_size, half_size = measured_sharpness(image, points), measured_sharpness(np.asarray(half), points / 2)
    assert half_size == pytest.approx(full_size, rel=0.15)
    variance = MotionBlurConditioner().unsquash_sharpness([full_size, half_size])
    assert variance[1] == pytest.approx(variance[0], rel=0.15)


@pytest.mark.parametrize("center", [(225, 120), (250, 150), (180, 200), (300, 330), (95, 210)])
@pytest.mark.parametrize("resampling", ["BOX", "BILINEAR", "BICUBIC", "LANCZOS"])
def test_sharpness_of_a_hand_hardly_larger_than_the_fixed_side(center, resampling):
    """However the image was halved: a box of 67 pixels, then of 34, measured at 32."""
    image, _ = photograph()
    points = hand_points(center, 48)
    half = PIL.Image.fromarray(image).resize((256, 256), PIL.Image.Resampling[resampling])
    full_size = measured_sharpness(image, points)
    assert measured_sharpness(np.asarray(half), points / 2) == pytest.approx(full_size, rel=0.15)


def test_sharpness_at_the_border_is_that_of_the_visible_part():
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    conditioner = MotionBlurConditioner(hand_box_margin=0.0)
    half_visible, hardly_visible = hand_points((0, 80), 32), hand_points((-10, 80), 32)
    condition = conditioner(
        make_keypoints([{"LEFT_HAND": half_visible}, {"LEFT_HAND": hardly_visible}]), np.stack([image] * 2)
    )
    smooth = cv2.GaussianBlur(image[64:96, :16] @ np.array([0.299, 0.587, 0.114]), (0, 0), SHARPNESS_SMOOTHING)
    expected = cv2.Laplacian(smooth, cv2.CV_64F)[1:-1, 1:-1].var()
    assert conditioner.unsquash_sharpness(condition.hand_sharpness[0, LEFT]) == pytest.approx(expected, rel=1e-2)
    assert np.isfinite(condition.hand_boxes[1, LEFT]).all() and np.isnan(condition.hand_sharpness[1, LEFT])


def test_squash_is_monotone_and_invertible():
    conditioner = MotionBlurConditioner(sharpness_scale=100.0)
    variance = np.array([0, 1, 10, 100, 1e3, 1e5])
    squashed = conditioner.squash_sharpness(variance)
    assert (np.diff(squashed) > 0).all() and squashed[0] == 0 and squashed[3] == 0.5 and squashed[-1] < 1
    np.testing.assert_allclose(conditioner.unsquash_sharpness(squashed), variance, rtol=1e-9)


# Forms of images


def image_forms(array):
    return {
        "pil": [PIL.Image.fromarray(frame) for frame in array],
        "uint8": array,
        "float": (array / 255).astype(np.float32),
        "tensor": torch.from_numpy(array / 255).permute(0, 3, 1, 2),
    }


@pytest.mark.parametrize("form", ["pil", "uint8", "float", "tensor"])
def test_frames_in_every_form(form):
    images = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    conditioner = MotionBlurConditioner()
    expected = conditioner(two_hands(), images).hand_sharpness
    assert np.isfinite(expected).all() and expected.std() > 0
    # Sums over pixels that lie otherwise in memory: some tens of eps of float32.
    sharpness = conditioner(two_hands(), image_forms(images)[form]).hand_sharpness
    np.testing.assert_allclose(sharpness, expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["pil", "uint8", "float", "tensor"])
def test_pose_video_alone_leaves_the_blur_unknown(form):
    pose = draw_openpose(two_hands())
    condition = MotionBlurConditioner().from_pose_video(image_forms(pose)[form])
    np.testing.assert_array_equal(condition.pose, pose)
    maps = condition.to_tensor()
    np.testing.assert_array_equal(maps[:, :3].numpy() * 255, pose.transpose(0, 3, 1, 2))
    assert not maps[:, 3:].any()
    assert np.isnan(condition.hand_boxes).all() and condition.hand_motion.shape == (4, 2, 2)


# Saving


def test_save_and_load(tmp_path):
    conditioner = MotionBlurConditioner(score_threshold=0.2, max_motion=0.5, sharpness_scale=80.0, line_scale=0.5)
    conditioner.save_pretrained(tmp_path / "conditioner")
    assert [path.name for path in (tmp_path / "conditioner").iterdir()] == ["conditioner_config.json"]
    loaded = MotionBlurConditioner.from_pretrained(tmp_path, subfolder="conditioner", local_files_only=True)
    expected, made = (each(two_hands(), sharpness=0.5).to_tensor() for each in (conditioner, loaded))
    assert torch.equal(made, expected)
    assert loaded.config.sharpness_side == 32 and loaded.config.sharpness_scale == 80.0
    changed = MotionBlurConditioner.from_pretrained(tmp_path / "conditioner", max_motion=2.0)
    assert changed.config.max_motion == 2.0 and changed.config.line_scale == 0.5


# Bad input

IMAGES = np.zeros((4, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "argument, options",
    [
        ("score_threshold", {"score_threshold": 1.0}),
        ("score_threshold", {"score_threshold": "0.3"}),
        ("max_motion", {"max_motion": 0}),
        ("max_motion", {"max_motion": float("nan")}),
        ("sharpness_scale", {"sharpness_scale": -1.0}),
        ("sharpness_side", {"sharpness_side": 4}),
        ("sharpness_side", {"sharpness_side": 32.5}),
        ("hand_box_margin", {"hand_box_margin": -0.1}),
        ("line_scale", {"line_scale": 0.0}),
        ("line_scale", {"line_scale": None}),
        ("line_scale", {"line_scale": 1e300}),
        ("max_motion", {"max_motion": 10**400}),
        ("score_threshold", {"score_threshold": True}),
    ],
)
def test_bad_options_are_named(argument, options):
    with pytest.raises((ValueError, TypeError), match=f"`{argument}`"):
        MotionBlurConditioner(**options)


@pytest.mark.parametrize("height, width", [("64", 64), (0, 64), (64, 20000), (10**400, 64), (64.0, 64)])
def test_bad_sizes_are_named(height, width):
    with pytest.raises((ValueError, TypeError), match="^`(height|width)` must be an integer"):
        MotionBlurConditioner.for_size(height, width)


def test_numbers_of_numpy_are_numbers(tmp_path):
    conditioner = MotionBlurConditioner(score_threshold=np.float32(0.25), sharpness_side=np.int64(16))
    conditioner.save_pretrained(tmp_path)
    assert MotionBlurConditioner.from_pretrained(tmp_path).config.score_threshold == 0.25
    assert MotionBlurConditioner.for_size(np.int64(256), np.int64(256)).config.line_scale == 0.5


@pytest.mark.parametrize(
    "argument, arguments",
    [
        ("keypoints", {"keypoints": np.zeros((4, 133, 2))}),
        ("keypoints", {"keypoints": None}),
        ("frames", {"frames": IMAGES[:3]}),
        ("frames", {"frames": IMAGES[:, :, :50]}),
        ("frames", {"frames": IMAGES[..., 0]}),
        ("frames", {"frames": IMAGES.astype(np.int64)}),
        ("frames", {"frames": IMAGES + np.float32(1.5)}),
        ("frames", {"frames": IMAGES + np.float32(np.nan)}),
        ("frames", {"frames": torch.zeros(4, HEIGHT, WIDTH, 3)}),
        ("frames", {"frames": torch.zeros(4, 3, HEIGHT, WIDTH, dtype=torch.uint8)}),
        ("frames", {"frames": []}),
        ("frames", {"frames": "video.mp4"}),
        ("frames", {"frames": [PIL.Image.new("RGB", (WIDTH, HEIGHT + index)) for index in range(4)]}),
        ("previous_keypoints", {"previous_keypoints": np.zeros((4, 133, 2))}),
        ("previous_keypoints", {"previous_keypoints": two_hands(num_frames=3)}),
        ("previous_keypoints", {"previous_keypoints": two_hands().fit(HEIGHT, 2 * WIDTH)}),
        ("sharpness", {"sharpness": "sharp"}),
        ("sharpness", {"sharpness": None}),
        ("sharpness", {"sharpness": 1.01}),
        ("sharpness", {"sharpness": -0.5}),
        ("sharpness", {"sharpness": float("nan")}),
        ("sharpness", {"sharpness": (0.5, float("nan"))}),
        ("sharpness", {"sharpness": (0.5, 0.5, 0.5)}),
        ("sharpness", {"sharpness": np.full((3, 2), 0.5)}),
        ("sharpness", {"sharpness": np.full((4, 2), 2.0)}),
        ("sharpness", {"sharpness": [[0.5], [0.5, 0.5]]}),
        ("sharpness", {"sharpness": 10**400}),
        ("sharpness", {"sharpness": True}),
        ("sharpness", {"sharpness": 0.5j}),
    ],
)
def test_bad_input_is_named(argument, arguments):
    with pytest.raises((ValueError, TypeError), match=f"`{argument}`"):
        MotionBlurConditioner()(**{"keypoints": two_hands(), **arguments})


def test_frames_that_do_not_match_name_both_sides():
    with pytest.raises(ValueError, match=r"`frames` must match `keypoints`.*\(4, 160, 60\).*\(4, 160, 120\)"):
        MotionBlurConditioner()(two_hands(), IMAGES[:, :, :60])


@pytest.mark.parametrize("argument, method", [("variance", "squash_sharpness"), ("sharpness", "unsquash_sharpness")])
def test_squashing_a_negative_value_is_an_error(argument, method):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        getattr(MotionBlurConditioner(), method)(-1.0)


@pytest.mark.parametrize(("size", "line_scale"), [((160, 96), 96 / 512), ((896, 512), 1.0), ((1024, 2048), 1.0)])
def test_lines_suit_the_size_of_the_images(size, line_scale):
    conditioner = MotionBlurConditioner.for_size(*size, sharpness_scale=7.0)
    assert conditioner.config.line_scale == line_scale and conditioner.config.sharpness_scale == 7.0


def parts(num_frames=3, **changes):
    """The arguments of a condition of two hands."""
    boxes = np.tile(np.float32([[10, 20, 40, 50], [60, 20, 90, 50]]), (num_frames, 1, 1))
    made = {
        "pose": np.zeros((num_frames, HEIGHT, WIDTH, 3), np.uint8),
        "hand_boxes": boxes,
        "hand_motion": np.full((num_frames, 2, 2), 0.5, np.float32),
        "hand_sharpness": np.full((num_frames, 2), 0.5, np.float32),
    }
    return made | changes


@pytest.mark.parametrize(
    "box", [(-1e30, -1e30, 1e30, 1e30), (-50, 20, -10, 60), (1e30, 0, 2e30, 10), (30, 10, 400, 380)]
)
def test_boxes_anywhere_are_painted_where_they_are_in_the_image(box):
    boxes = np.full((1, 2, 4), np.nan)
    boxes[0, 0] = box
    maps = MotionBlurCondition(**parts(1, hand_boxes=boxes)).to_tensor()[0]
    x0, y0, x1, y1 = np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(int)
    expected = torch.zeros(HEIGHT, WIDTH)
    expected[y0:y1, x0:x1] = 0.5
    assert torch.equal(maps[5], expected)


def test_points_that_are_nowhere_near_say_nothing_about_hands():
    keypoints = two_hands()
    keypoints.xy[1, kp.LEFT_HAND] = 1e38
    condition = MotionBlurConditioner()(keypoints, sharpness=0.5)
    assert np.isnan(condition.hand_boxes[1, LEFT]).all() and np.isfinite(condition.hand_boxes[1, RIGHT]).all()


def changed(name, index, value):
    array = parts()[name].copy()
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("pose", {"pose": "pose"}),
        ("pose", {"pose": [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 3}),
        ("pose", {"pose": np.zeros((3, HEIGHT, WIDTH, 3), np.float32)}),
        ("pose", {"pose": np.zeros((3, HEIGHT, WIDTH, 1), np.uint8)}),
        ("pose", {"pose": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}),
        ("pose", {"pose": np.zeros((3, 0, WIDTH, 3), np.uint8)}),
        ("hand_boxes", {"hand_boxes": parts(2)["hand_boxes"]}),
        ("hand_boxes", {"hand_boxes": parts()["hand_boxes"][:, :1]}),
        ("hand_boxes", {"hand_boxes": "boxes"}),
        ("hand_boxes", changed("hand_boxes", (1, 0, 2), np.inf)),
        ("hand_boxes", changed("hand_boxes", (1, 0, 2), np.nan)),
        ("hand_boxes", changed("hand_boxes", (1, 0, 2), 5)),
        ("hand_motion", {"hand_motion": np.zeros((3, 2))}),
        ("hand_motion", changed("hand_motion", (0, 1, 0), -np.inf)),
        ("hand_sharpness", {"hand_sharpness": np.zeros((3, 2, 1))}),
        ("hand_sharpness", {"hand_sharpness": None}),
        ("hand_sharpness", changed("hand_sharpness", (2, 1), 1.01)),
        ("hand_sharpness", changed("hand_sharpness", (2, 1), -0.01)),
        ("max_motion", {"max_motion": 0}),
        ("max_motion", {"max_motion": float("nan")}),
        ("max_motion", {"max_motion": "1"}),
    ],
)
def test_a_condition_of_bad_parts_is_named(argument, changes):
    MotionBlurCondition(**parts())
    with pytest.raises((TypeError, ValueError), match=f"^`{argument}` must"):
        MotionBlurCondition(**parts(**changes))
    with pytest.raises(ValueError, match="`pose` must be .* with F >= 1"):
        MotionBlurCondition(**parts())[3:]
