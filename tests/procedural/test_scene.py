# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hia_diffusers.conditioning.motion_blur import MotionBlurConditioner
from hia_diffusers.conditioning.whole_body import (
    FACE,
    LEFT_ELBOW,
    LEFT_HAND,
    LEFT_SHOULDER,
    RIGHT_ELBOW,
    RIGHT_HAND,
    RIGHT_SHOULDER,
)
from hia_diffusers.procedural.procdance import proc_dance_v1
from hia_diffusers.procedural.scene import ProceduralScene


HEIGHT, WIDTH, FPS = 160, 96, 30.0
HANDS = (LEFT_HAND, RIGHT_HAND)


def scene(index, split="train"):
    return ProceduralScene(split, identity=index, motion=index, setting=index)


@pytest.fixture(scope="module")
def clip():
    return scene(3).render(range(24), HEIGHT, WIDTH, with_sharp=True)


def assert_same_clip(first, second):
    for name in ("frames", "sharp_frames", "face_mask", "hand_masks", "shutter"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    np.testing.assert_array_equal(first.keypoints.xy, second.keypoints.xy)
    np.testing.assert_array_equal(first.keypoints.score, second.keypoints.score)


# What a clip is


def test_shapes_and_types(clip):
    assert clip.frames.shape == clip.sharp_frames.shape == (24, HEIGHT, WIDTH, 3)
    assert clip.frames.dtype == clip.sharp_frames.dtype == np.uint8
    assert clip.face_mask.shape == (24, HEIGHT, WIDTH) and clip.face_mask.dtype == bool
    assert clip.hand_masks.shape == (24, 2, HEIGHT, WIDTH) and clip.hand_masks.dtype == bool
    assert clip.shutter.shape == (24,) and clip.shutter.dtype == np.float32
    assert (clip.shutter > 0).all() and (clip.shutter <= 1).all()
    assert (clip.keypoints.height, clip.keypoints.width, clip.keypoints.fps) == (HEIGHT, WIDTH, FPS)
    assert scene(3).render([0], HEIGHT, WIDTH).sharp_frames is None


@pytest.mark.parametrize("size", [(16, 16), (64, 112), (90, 160), (112, 64), (448, 256)])
def test_any_size(size):
    clip = scene(4).render([5], *size, with_sharp=True)
    assert clip.frames.shape == clip.sharp_frames.shape == (1, *size, 3)
    assert clip.hand_masks.shape == (1, 2, *size)


def test_images_of_two_sizes_show_the_same():
    small, large = (scene(6).render([9], HEIGHT * zoom, WIDTH * zoom, with_sharp=True) for zoom in (1, 3))
    np.testing.assert_allclose(large.keypoints.xy, 3 * small.keypoints.xy, atol=1e-3)
    reduced = cv2.resize(large.sharp_frames[0], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(float) - small.sharp_frames[0]).mean() < 3


# Equal bits: each frame is computed by itself, by the same kernels on arrays of the same shapes.


# The same again


def test_a_frame_does_not_depend_on_the_frames_around_it(clip):
    some = scene(3).render([17, 4, 23], HEIGHT, WIDTH, with_sharp=True)
    for position, frame in enumerate([17, 4, 23]):
        np.testing.assert_array_equal(some.frames[position], clip.frames[frame])
        np.testing.assert_array_equal(some.sharp_frames[position], clip.sharp_frames[frame])
        np.testing.assert_array_equal(some.hand_masks[position], clip.hand_masks[frame])
        np.testing.assert_array_equal(some.keypoints.xy[position], clip.keypoints.xy[frame])


def test_another_process_renders_the_same_bytes(clip):
    code = (
        "import hashlib; from hia_diffusers.procedural.scene import ProceduralScene;"
        f"clip = ProceduralScene('train', 3, 3, 3).render(range(24), {HEIGHT}, {WIDTH});"
        "print(hashlib.sha256(clip.frames.tobytes()).hexdigest())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == hashlib.sha256(clip.frames.tobytes()).hexdigest()


def test_keypoints_without_images_are_those_of_the_images(clip):
    keypoints = scene(3).keypoints(range(24), HEIGHT, WIDTH)
    np.testing.assert_array_equal(keypoints.xy, clip.keypoints.xy)
    np.testing.assert_array_equal(keypoints.score, clip.keypoints.score)


def test_frames_are_moments_whatever_the_frame_rate(clip):
    slow = scene(3).render([4], HEIGHT, WIDTH, fps=15.0, with_sharp=True)
    np.testing.assert_array_equal(slow.sharp_frames[0], clip.sharp_frames[8])
    assert slow.keypoints.fps == 15.0


def test_identity_motion_and_setting_are_independent(clip):
    other_setting = ProceduralScene("train", identity=3, motion=3, setting=8)
    assert other_setting.person == scene(3).person
    points, others = (one.dance.skeleton(np.arange(5.0), one.person.proportions) for one in (scene(3), other_setting))
    np.testing.assert_array_equal(points.hands, others.hands)
    assert np.abs(other_setting.render([0], HEIGHT, WIDTH).frames[0].astype(int) - clip.frames[0]).mean() > 10


def test_splits_share_nobody():
    scenes = [scene(index, split) for split in ("train", "test", "validation") for index in range(40)]
    for seen in ("person", "dance.tempo", "place.seed"):
        assert len({str(attrgetter(seen)(one)) for one in scenes}) == len(scenes), seen


# Motion blur


def test_blur_is_the_average_over_the_exposure(clip):
    """Against many sharp images during the exposure of the frame that moves most."""
    path = np.linalg.norm(np.diff(clip.keypoints.xy[:, 91:], axis=0), axis=-1).mean(axis=1) * clip.shutter[1:]
    frame = int(path.argmax()) + 1
    substeps = 128
    reach = int(clip.shutter[frame] * substeps / 2)
    moments = range(frame * substeps - reach, frame * substeps + reach + 1, 2)
    dense = scene(3).render(moments, HEIGHT, WIDTH, fps=FPS * substeps, with_sharp=True).sharp_frames.mean(axis=0)
    moving = np.abs(dense - clip.sharp_frames[frame]).max(axis=-1) > 8
    error = np.abs(dense - clip.frames[frame])[moving].mean()
    without_blur = np.abs(dense - clip.sharp_frames[frame])[moving].mean()
    assert moving.sum() > 100
    assert error < 0.25 * without_blur, f"{error:.2f} against {without_blur:.2f} without blur"


def test_what_hardly_moves_is_sharp():
    rendered = scene(7).render(range(20, 52), HEIGHT, WIDTH, with_sharp=True)
    dense = 200  # moments in each frame interval
    reach = np.rint(rendered.shutter * dense / 2).astype(int)
    ends = (np.arange(20, 52) * dense + np.stack([-reach, reach])).ravel().tolist()
    xy = scene(7).keypoints(ends, HEIGHT, WIDTH, fps=FPS * dense).xy.reshape(2, 32, 133, 2)
    path = np.nanmax(np.linalg.norm(xy[1] - xy[0], axis=-1), axis=1)
    still = path < 0.5
    assert still.any() and not still.all()
    np.testing.assert_array_equal(rendered.frames[still], rendered.sharp_frames[still])
    assert (rendered.frames[path > 5] != rendered.sharp_frames[path > 5]).any()


def test_measured_sharpness_follows_the_length_of_the_blur():
    blur, sharpness = [], []
    for index in range(5):
        clip = scene(index).render(range(16), HEIGHT, WIDTH)
        condition = MotionBlurConditioner(line_scale=0.3)(clip.keypoints, frames=clip.frames)
        blur.append(np.linalg.norm(condition.hand_motion[1:], axis=-1) * clip.shutter[1:, None])
        sharpness.append(condition.hand_sharpness[1:])
    blur, sharpness = np.concatenate(blur).ravel(), np.concatenate(sharpness).ravel()
    known = np.isfinite(blur) & np.isfinite(sharpness)
    ranks = [values[known].argsort().argsort() for values in (blur, sharpness)]
    assert np.corrcoef(*ranks)[0, 1] < -0.4


def test_equal_motion_comes_with_different_sharpness():
    shutters = [ProceduralScene("train", 0, 0, setting).render([0], 16, 16).shutter[0] for setting in range(8)]
    assert max(shutters) > 3 * min(shutters)
    within = scene(1).render(range(24), 16, 16).shutter
    assert within.std() > 0


# Keypoints and masks


def test_seen_hand_points_lie_on_the_hand(clip):
    checked = 0
    for frame, (points, score) in enumerate(zip(clip.keypoints.xy, clip.keypoints.score, strict=True)):
        for side, hand in enumerate(HANDS):
            near = cv2.dilate(clip.hand_masks[frame, side].astype(np.uint8), np.ones((3, 3), np.uint8))
            columns, rows = np.floor(points[hand][score[hand] == 1]).astype(int).T
            checked += len(rows)
            assert near[rows, columns].all()
    assert checked > 500


def test_seen_face_points_lie_on_the_face_or_its_rim(clip):
    for frame, (points, score) in enumerate(zip(clip.keypoints.xy, clip.keypoints.score, strict=True)):
        inner = points[FACE][17:][score[FACE][17:] == 1]
        columns, rows = np.floor(inner).astype(int).T
        hit = cv2.dilate(clip.face_mask[frame].astype(np.uint8), np.ones((3, 3), np.uint8))[rows, columns]
        assert hit.mean() > 0.95


def test_masks_tell_skin_from_cloth():
    """The commonest colour under the masks is the person's skin, in its light."""
    one = ProceduralScene("train", identity=12, motion=12, setting=12)
    clip = one.render(range(8), 320, 192, with_sharp=True)
    for mask in (clip.face_mask, clip.hand_masks.any(axis=1)):
        colors, counts = np.unique(clip.sharp_frames[mask], axis=0, return_counts=True)
        commonest = colors[counts.argmax()]
        assert np.abs(commonest - np.array(one.place.tint(one.person.skin))).max() < 25


def test_no_pixel_belongs_to_two_parts(clip):
    parts = np.concatenate([clip.face_mask[:, None], clip.hand_masks], axis=1)
    assert parts.sum(axis=1).max() == 1


def test_points_outside_are_missing_and_points_inside_are_not():
    keypoints = [scene(index).keypoints(range(0, 90, 9), HEIGHT, 64) for index in range(6)]
    xy = np.concatenate([one.xy for one in keypoints])
    score = np.concatenate([one.score for one in keypoints])
    assert (score == 0).any()
    assert np.isnan(xy[score == 0]).all()
    inside = xy[score > 0]
    assert (inside >= 0).all() and (inside < [64, HEIGHT]).all()


def middle_of(mask):
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def test_masks_of_two_sizes_lie_in_the_same_place():
    """Also where the middle of a pixel lies between pixels of the larger image that it is drawn as."""
    for zoom, height in ((2, 160), (4, 80)):
        apart = []
        for index in range(8):
            small, large = (scene(index).render([5], height * by, height * by * 3 // 5) for by in (1, zoom))
            pairs = zip([small.face_mask, *small.hand_masks[0]], [large.face_mask, *large.hand_masks[0]], strict=True)
            apart += [middle_of(few.squeeze()) - middle_of(many.squeeze()) / zoom for few, many in pairs if few.any()]
        assert np.abs(np.median(apart, axis=0)).max() < 0.08, f"{np.median(apart, axis=0)} pixels of {height}"


def test_what_a_hand_covers_is_hidden():
    """Body points under a hand that is before the body have score 0.5."""
    found = 0
    for index in range(8):
        clip = scene(index).render(range(0, 64, 4), HEIGHT, WIDTH)
        for frame in range(len(clip.frames)):
            for side, own in enumerate(((7, 9), (8, 10))):
                for point in {5, 6, 11, 12, 7, 8} - set(own):
                    if clip.keypoints.score[frame, point] > 0:
                        column, row = np.floor(clip.keypoints.xy[frame, point]).astype(int)
                        if clip.hand_masks[frame, side, row, column]:
                            found += 1
                            assert clip.keypoints.score[frame, point] == 0.5
    assert found > 3


def test_left_is_the_left_of_the_person():
    keypoints = scene(2).keypoints(range(0, 120, 4), HEIGHT, WIDTH)
    assert (keypoints.xy[:, LEFT_SHOULDER, 0] > keypoints.xy[:, RIGHT_SHOULDER, 0]).mean() > 0.95


def test_hands_and_face_are_mostly_in_the_image():
    score = np.concatenate([scene(index).keypoints(range(0, 200, 40), HEIGHT, WIDTH).score for index in range(40)])
    both_hands = (score[:, 91:] > 0).all(axis=1).mean()
    face = ((score[:, FACE] == 1).mean(axis=1) > 0.5).mean()
    assert both_hands > 0.75, f"both hands are inside in {both_hands:.1%} of the frames"
    assert face > 0.95, f"the face is seen in {face:.1%} of the frames"


# Camera


def test_a_still_camera_keeps_the_background():
    index = next(index for index in range(20) if scene(index).place.still_camera)
    frames = scene(index).render([0, 300, 600], HEIGHT, WIDTH).frames
    corner = frames[:, :24, :20]
    assert (corner == corner[0]).all()


def test_a_moving_camera_moves_background_and_person():
    index = next(index for index in range(20) if not scene(index).place.still_camera)
    frames = scene(index).render([0, 300], HEIGHT, WIDTH).frames
    assert (frames[0, :24, :20] != frames[1, :24, :20]).any()


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("testing", 0, 0, 0), ValueError, "`split`"),
        (("train", -1, 0, 0), ValueError, "`identity`"),
        (("train", 0, 1.5, 0), TypeError, "`motion`"),
        (("train", 0, 0, True), TypeError, "`setting`"),
    ],
)
def test_scene_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        ProceduralScene(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], HEIGHT, WIDTH), ValueError, "`frames`"),
        (([0, -1], HEIGHT, WIDTH), ValueError, "`frames`"),
        (([0.5], HEIGHT, WIDTH), TypeError, "`frames`"),
        (([0], 8, WIDTH), ValueError, "`height`"),
        (([0], HEIGHT, 96.0), TypeError, "`width`"),
        (([0], HEIGHT, WIDTH, 0), ValueError, "`fps`"),
        (([0], HEIGHT, WIDTH, float("nan")), ValueError, "`fps`"),
        (([0], HEIGHT, WIDTH, "30"), TypeError, "`fps`"),
    ],
)
def test_render_refuses(arguments, error, message):
    for method in (scene(0).render, scene(0).keypoints):
        with pytest.raises(error, match=message):
            method(*arguments)


# ProcDance-v1

# The mean colours of the first frames of all clips in squares of 8 pixels, ten clips side by side.
FIRST_FRAMES = Path(__file__).parent / "procdance_first_frames.png"


@pytest.fixture(scope="module")
def proc_dance():
    return proc_dance_v1()


def test_proc_dance_is_fixed(proc_dance):
    """Releases of OpenCV and processors may round a pixel otherwise, and no square by more than a grey level."""
    frames = np.stack([clip.target.render(clip.frames[:1], HEIGHT, WIDTH).frames[0] for clip in proc_dance])
    squares = frames.reshape(5, 10, HEIGHT // 8, 8, WIDTH // 8, 8, 3).mean(axis=(3, 5))
    sheet = squares.transpose(0, 2, 1, 3, 4).reshape(5 * HEIGHT // 8, 10 * WIDTH // 8, 3)
    with Image.open(FIRST_FRAMES) as expected:
        np.testing.assert_allclose(sheet, np.asarray(expected), rtol=0, atol=1)


def test_proc_dance_clips(proc_dance):
    assert [clip.name for clip in proc_dance] == [f"procdance-{index:02d}" for index in range(50)]
    assert all(len(clip.frames) == 32 and clip.fps == 30 for clip in proc_dance)
    assert {clip.target.split for clip in proc_dance} == {"test"}
    assert len({clip.target.identity for clip in proc_dance}) == 50


def test_proc_dance_references_show_hands_and_face_outside_the_clip(proc_dance):
    for clip in proc_dance[::5]:
        assert clip.reference_frame not in clip.frames
        score = clip.target.keypoints([clip.reference_frame], HEIGHT, WIDTH).score[0]
        assert (score[FACE] == 1).mean() > 0.6
        assert (score[91:] > 0).mean() > 0.9


def test_proc_dance_drives_with_another_person_in_the_same_dance(proc_dance):
    for clip in proc_dance[::10]:
        assert clip.driving.identity != clip.target.identity and clip.driving.person != clip.target.person
        angles = []
        for one in (clip.target, clip.driving):
            xy = one.keypoints(clip.frames, 320, 192).xy
            arms = xy[:, [LEFT_ELBOW, RIGHT_ELBOW]] - xy[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]
            angles.append(np.arctan2(arms[..., 1], arms[..., 0]))
        difference = np.abs((angles[0] - angles[1] + np.pi) % (2 * np.pi) - np.pi)
        assert np.nanmedian(difference) < np.radians(5)
