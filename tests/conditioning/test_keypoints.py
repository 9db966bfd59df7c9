# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import json
import os
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from hia_diffusers.conditioning import whole_body as kp
from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints


HEIGHT, WIDTH, FPS = 80, 60, 25.0


def random_keypoints(num_frames=3, seed=0):
    random = np.random.default_rng(seed)
    xy = random.uniform(0, [WIDTH, HEIGHT], (num_frames, 133, 2))
    return WholeBodyKeypoints(xy, random.uniform(0.1, 1, (num_frames, 133)), HEIGHT, WIDTH, FPS)


def openpose_body(num_points):
    """Point i lies at (i, 100 + i) with score 0.9."""
    return [(index, 100 + index, 0.9) for index in range(num_points)]


def openpose_person(num_body, num_face=70, offset=0.0):
    def flat(count, start):
        return [value for index in range(count) for value in (start + index + offset, 2 * index + 1 + offset, 0.8)]

    return {
        "pose_keypoints_2d": flat(num_body, 0),
        "hand_left_keypoints_2d": flat(21, 100),
        "hand_right_keypoints_2d": flat(21, 200),
        "face_keypoints_2d": flat(num_face, 300),
    }


def assert_same(first, second):
    np.testing.assert_array_equal(first.xy, second.xy)
    np.testing.assert_array_equal(first.score, second.score)
    assert (first.height, first.width, first.fps) == (second.height, second.width, second.fps)


# Construction


def test_arrays_tensors_and_lists_give_the_same_float32_arrays():
    source = random_keypoints()
    from_tensors = WholeBodyKeypoints(torch.from_numpy(source.xy), torch.from_numpy(source.score), HEIGHT, WIDTH, FPS)
    from_lists = WholeBodyKeypoints(source.xy.tolist(), source.score.tolist(), np.int64(HEIGHT), WIDTH, 25)
    for made in (from_tensors, from_lists):
        assert_same(made, source)
        assert made.xy.dtype == made.score.dtype == np.float32
    assert type(from_lists.height) is int and type(from_lists.fps) is float


def test_construction_copies_its_arrays():
    xy, score = np.ones((1, 133, 2), np.float32), np.ones((1, 133), np.float32)
    keypoints = WholeBodyKeypoints(xy, score, HEIGHT, WIDTH, FPS)
    keypoints.xy[:] = 7
    assert xy.max() == 1


@pytest.mark.parametrize("x, score", [(np.nan, 0.9), (np.inf, 0.9), (5.0, 0.0), (5.0, -1.0), (5.0, np.nan)])
def test_every_missing_point_takes_one_form(x, score):
    xy, scores = np.full((1, 133, 2), 5.0), np.full((1, 133), 0.9)
    xy[0, 40, 0], scores[0, 40] = x, score
    keypoints = WholeBodyKeypoints(xy, scores, HEIGHT, WIDTH, FPS)
    assert np.isnan(keypoints.xy[0, 40]).all() and keypoints.score[0, 40] == 0
    assert np.isfinite(np.delete(keypoints.xy, 40, axis=1)).all() and np.delete(keypoints.score, 40).min() > 0


def test_scores_above_one_are_clipped():
    keypoints = WholeBodyKeypoints(np.ones((1, 133, 2)), np.full((1, 133), 3.2), HEIGHT, WIDTH, FPS)
    assert keypoints.score.max() == 1


def test_masked_numbers_are_missing_and_complex_ones_an_error():
    xy = np.ma.masked_array(np.full((1, 133, 2), 5.0), mask=False)
    xy.mask[0, 40] = True
    keypoints = WholeBodyKeypoints(xy, np.ones((1, 133)), HEIGHT, WIDTH, FPS)
    np.testing.assert_array_equal(keypoints.score[0], np.arange(133) != 40)
    for complex_xy in (np.ones((1, 133, 2)) + 1j, torch.ones(1, 133, 2, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="`xy` must be an array of numbers, .* complex"):
            WholeBodyKeypoints(complex_xy, np.ones((1, 133)), HEIGHT, WIDTH, FPS)


def test_slices_keep_the_frames_and_thin_the_frame_rate():
    keypoints = random_keypoints(num_frames=6)
    part = keypoints[2:4]
    assert len(part) == 2 and part.fps == FPS
    np.testing.assert_array_equal(part.xy, keypoints.xy[2:4])
    assert keypoints[::2].fps == FPS / 2 and len(keypoints[::2]) == 3


# Files


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_file_round_trip(tmp_path, suffix):
    keypoints = random_keypoints()
    keypoints.xy[1, 5] = np.nan
    keypoints.score[1, 5] = 0
    path = tmp_path / f"motion{suffix}"
    path.write_bytes(b"what was there before")
    keypoints.save(path)
    assert_same(WholeBodyKeypoints.load(path), keypoints)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["MOTION.NPZ", "Motion.SafeTensors"])
def test_suffixes_are_read_in_any_case(tmp_path, name):
    keypoints = random_keypoints()
    keypoints.save(tmp_path / name)
    assert_same(WholeBodyKeypoints.load(tmp_path / name), keypoints)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_damaged_and_incomplete_files_are_named(tmp_path, suffix):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    random_keypoints().save(whole)
    for content in (b"", b"no such format", whole.read_bytes()[:-200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` cannot be read.*broken"):
            WholeBodyKeypoints.load(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_with_any_damage_are_read_or_named(tmp_path, suffix):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    random_keypoints().save(whole)
    content, random = whole.read_bytes(), np.random.default_rng(0)
    places = [*range(min(len(content), 160)), *range(-160, 0), *random.integers(0, len(content), 80)]
    for place in places:
        broken = bytearray(content)
        broken[place] = random.integers(256)
        path.write_bytes(broken)
        try:
            WholeBodyKeypoints.load(path)
        except ValueError as error:
            assert "`path`" in str(error) and "broken" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool])
def test_numbers_of_other_kinds_are_named(tmp_path, dtype):
    keypoints, path = random_keypoints(), tmp_path / "motion.safetensors"
    tensors = {name: torch.as_tensor(getattr(keypoints, name)) for name in ("xy", "score", "height", "width", "fps")}
    safetensors.torch.save_file({**tensors, "score": tensors["score"].to(dtype)}, path)
    with pytest.raises(ValueError, match=r"`path` cannot be read .*motion.*\(score is stored as .*; save it as F32"):
        WholeBodyKeypoints.load(path)


def test_only_the_arrays_of_keypoints_are_read_of_a_file(tmp_path):
    keypoints, path = random_keypoints(), tmp_path / "motion.npz"
    keypoints.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.npy", b"no array")
    assert_same(WholeBodyKeypoints.load(path), keypoints)


@pytest.mark.parametrize("size", [2**15, 2**30])
def test_arrays_that_are_too_large_are_not_inflated(tmp_path, size):
    path = tmp_path / "bomb.npz"
    np.savez(path, xy=XY, score=SCORE, width=3, fps=30)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("height.npy", "w") as member:
        for _ in range(size // 2**15):
            member.write(bytes(2**15))
    with pytest.raises(ValueError, match=rf"`path` cannot be read .*bomb.*height takes {size} bytes"):
        WholeBodyKeypoints.load(path)


def test_headers_are_compared_before_memory_is_taken(tmp_path):
    path = tmp_path / "header.npz"
    np.savez(path, xy=XY, width=3, height=3, fps=30)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000, 133), }\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("score.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"score has the shape \(2000000000, 133\), but contains less data"):
        WholeBodyKeypoints.load(path)


def test_sizes_have_a_limit(tmp_path):
    path = tmp_path / "large.npz"
    np.savez(path, xy=XY, score=SCORE, width=2**40, height=3, fps=30)
    with pytest.raises(ValueError, match="large.* `width` must be an integer from 1 to 16384, got 1099511627776"):
        WholeBodyKeypoints.load(path)


def test_missing_arrays_and_invalid_arrays_are_named(tmp_path):
    path = tmp_path / "part.npz"
    np.savez(path, xy=np.zeros((1, 133, 2)), score=np.zeros((1, 133)), width=3, height=3)
    with pytest.raises(ValueError, match=r"`path` contains no fps.*part\.npz"):
        WholeBodyKeypoints.load(path)
    np.savez(path, xy=np.zeros((1, 17, 2)), score=np.zeros((1, 17)), width=3, height=3, fps=30)
    with pytest.raises(ValueError, match=r"`path` contains invalid keypoints.*part\.npz.*`xy`"):
        WholeBodyKeypoints.load(path)


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "pickle.npz"
    np.savez(path, xy=np.array([{}], dtype=object), score=0, width=3, height=3, fps=30)
    with pytest.raises(ValueError, match=r"`path`.*pickle"):
        WholeBodyKeypoints.load(path)


# Geometry


def test_flip_is_an_involution_that_moves_no_point_of_the_middle():
    keypoints = random_keypoints()
    flipped = keypoints.flip_horizontal()
    twice = flipped.flip_horizontal()
    np.testing.assert_allclose(twice.xy, keypoints.xy, atol=1e-5)
    np.testing.assert_array_equal(twice.score, keypoints.score)
    np.testing.assert_allclose(flipped.xy[:, kp.NOSE, 0], WIDTH - keypoints.xy[:, kp.NOSE, 0])
    np.testing.assert_array_equal(flipped.xy[:, kp.NOSE, 1], keypoints.xy[:, kp.NOSE, 1])


@pytest.mark.parametrize(
    "left, right",
    [
        (kp.LEFT_WRIST, kp.RIGHT_WRIST),
        (kp.LEFT_EAR, kp.RIGHT_EAR),
        (kp.LEFT_ANKLE, kp.RIGHT_ANKLE),
        (17, 20),  # big toes
        (19, 22),  # heels
        (91, 112),  # hand wrists
        (95, 116),  # thumb tips
        (111, 132),  # little finger tips
        (23 + 0, 23 + 16),  # ends of the jaw
        (23 + 17, 23 + 26),  # outer ends of the brows
        (23 + 36, 23 + 45),  # outer eye corners
        (23 + 39, 23 + 42),  # inner eye corners
        (23 + 41, 23 + 46),  # lower lids
        (23 + 48, 23 + 54),  # mouth corners
        (23 + 60, 23 + 64),
        (23 + 30, 23 + 30),  # nose tip
        (23 + 57, 23 + 57),  # middle of the lower lip
    ],
)
def test_flip_exchanges_left_and_right(left, right):
    keypoints = random_keypoints()
    flipped = keypoints.flip_horizontal()
    for first, second in ((left, right), (right, left)):
        np.testing.assert_array_equal(flipped.score[:, first], keypoints.score[:, second])
        np.testing.assert_array_equal(flipped.xy[:, first, 1], keypoints.xy[:, second, 1])


def test_flip_leaves_a_symmetric_face_in_place():
    # 68 points on mirrored curves, given as (x from the middle, y), the left of the image first.
    jaw = [(8 * np.cos(t), 10 * np.sin(t)) for t in np.linspace(np.pi, 0, 17)]
    brows = [(x, -5) for x in (-7, -6, -5, -4, -3, 3, 4, 5, 6, 7)]
    nose = [(0, y) for y in (-3, -2, -1, 0)] + [(x, 1) for x in (-2, -1, 0, 1, 2)]
    eye = [(-2, 0), (-1, -1), (1, -1), (2, 0), (1, 1), (-1, 1)]
    eyes = [(x - 4, y - 4) for x, y in eye] + [(x + 4, y - 4) for x, y in eye]
    outer = [(x, 5 - abs(3 - abs(x)) / 3) for x in (-3, -2, -1, 0, 1, 2, 3)] + [(x, 8) for x in (2, 1, 0, -1, -2)]
    inner = [(x, 6) for x in (-2, -1, 0, 1, 2)] + [(x, 7) for x in (1, 0, -1)]
    face = np.array(jaw + brows + nose + eyes + outer + inner) + [WIDTH / 2, 40]
    xy, score = np.full((1, 133, 2), np.nan), np.ones((1, 133))
    xy[0, kp.FACE] = face
    flipped = WholeBodyKeypoints(xy, score, HEIGHT, WIDTH, FPS).flip_horizontal()
    np.testing.assert_allclose(flipped.xy[0, kp.FACE], face, atol=1e-5)


def test_resize_scales_the_coordinates():
    keypoints = random_keypoints()
    resized = keypoints.resize(HEIGHT * 2, WIDTH * 2)
    np.testing.assert_allclose(resized.xy, keypoints.xy * 2, rtol=1e-6)
    assert (resized.height, resized.width, resized.fps) == (160, 120, FPS)
    assert keypoints.resize(27, 20).height == 27  # 26.67, rounded
    for height, width in ((HEIGHT, 2 * WIDTH), (HEIGHT - 1, WIDTH), (28, 20)):
        with pytest.raises(ValueError, match=f"60x80 would be stretched to {width}x{height}; use `fit`"):
            keypoints.resize(height, width)


@pytest.mark.parametrize(("height", "width", "scale", "offset"), [(80, 180, 1, (60, 0)), (320, 120, 2, (0, 80))])
def test_fit_keeps_the_aspect_and_centres_the_image(height, width, scale, offset):
    keypoints = random_keypoints()
    fitted = keypoints.fit(height, width)
    np.testing.assert_allclose(fitted.xy, keypoints.xy * scale + offset, rtol=1e-5)
    assert (fitted.height, fitted.width, fitted.fps) == (height, width, FPS)


def test_crop_shifts_the_coordinates_and_keeps_points_outside():
    keypoints = random_keypoints()
    cropped = keypoints.crop(10, 20, 40, 70)
    np.testing.assert_allclose(cropped.xy, keypoints.xy - [10, 20], atol=1e-5)
    assert (cropped.height, cropped.width) == (50, 30)
    assert cropped.xy.min() < 0 and (cropped.score > 0).all()


# Conversions


def test_openpose_body_has_a_neck_between_the_shoulders():
    keypoints = random_keypoints(num_frames=2)
    keypoints.xy[1, kp.LEFT_SHOULDER] = np.nan
    keypoints.score[1, kp.LEFT_SHOULDER] = 0
    xy, score = keypoints.openpose_body()
    assert xy.shape == (2, 18, 2) and score.shape == (2, 18)
    shoulders = [kp.LEFT_SHOULDER, kp.RIGHT_SHOULDER]
    np.testing.assert_allclose(xy[0, 1], keypoints.xy[0, shoulders].mean(axis=0), rtol=1e-6)
    assert score[0, 1] == keypoints.score[0, shoulders].min()
    assert np.isnan(xy[1, 1]).all() and score[1, 1] == 0
    np.testing.assert_array_equal(xy[0, [0, 4, 7, 14, 17]], keypoints.xy[0, [0, 10, 9, 2, 3]])


def test_openpose_points_with_missing_hands():
    left_hand = [None, [(10 + index, 20) if index else None for index in range(21)]]
    keypoints = WholeBodyKeypoints.from_openpose_points(
        [openpose_body(18), None], left_hand, height=HEIGHT, width=WIDTH, fps=FPS
    )
    # OpenPose's 18: 0 nose, 2-4 right arm, 5-7 left arm, 14 right eye, 15 left eye.
    for coco, openpose in (
        (kp.NOSE, 0),
        (kp.RIGHT_WRIST, 4),
        (kp.LEFT_WRIST, 7),
        (kp.RIGHT_EYE, 14),
        (kp.LEFT_EYE, 15),
    ):
        np.testing.assert_array_equal(keypoints.xy[0, coco], [openpose, 100 + openpose])
    assert keypoints.score[0, kp.BODY] == pytest.approx(0.9)
    assert (keypoints.score[0, 17:] == 0).all()
    assert (keypoints.score[1, kp.BODY] == 0).all()
    assert keypoints.score[1, 91] == 0 and (keypoints.score[1, 92:112] == 1).all()
    np.testing.assert_array_equal(keypoints.xy[1, 95], [14, 20])


def test_openpose_points_survive_the_way_back():
    keypoints = random_keypoints()
    xy, score = keypoints.openpose_body()
    body = np.concatenate([xy, score[..., None]], axis=-1)
    back = WholeBodyKeypoints.from_openpose_points(body, height=HEIGHT, width=WIDTH, fps=FPS)
    np.testing.assert_array_equal(back.xy[:, kp.BODY], keypoints.xy[:, kp.BODY])


@pytest.mark.parametrize("num_body, big_toe", [(18, None), (25, 19)])
def test_openpose_json(tmp_path, num_body, big_toe):
    frames = [{"people": [openpose_person(num_body)]}, {"people": []}]
    for index, frame in enumerate(frames):
        (tmp_path / f"clip_{index:012d}_keypoints.json").write_text(json.dumps(frame))
    keypoints = WholeBodyKeypoints.from_openpose_json(tmp_path, HEIGHT, WIDTH, FPS)
    assert_same(keypoints, WholeBodyKeypoints.from_openpose_json(frames, HEIGHT, WIDTH, FPS))
    assert_same(keypoints, WholeBodyKeypoints.from_openpose_json(sorted(tmp_path.iterdir()), HEIGHT, WIDTH, FPS))
    left_knee = 12 if num_body == 18 else 13
    assert keypoints.xy[0, kp.LEFT_KNEE, 0] == left_knee
    if big_toe is None:
        assert (keypoints.score[0, kp.FEET] == 0).all()
    else:
        np.testing.assert_array_equal(keypoints.xy[0, kp.FEET, 0], range(19, 25))
    np.testing.assert_array_equal(keypoints.xy[0, kp.LEFT_HAND, 0], range(100, 121))
    np.testing.assert_array_equal(keypoints.xy[0, kp.RIGHT_HAND, 0], range(200, 221))
    np.testing.assert_array_equal(keypoints.xy[0, kp.FACE, 0], range(300, 368))
    assert (keypoints.score[1] == 0).all() and np.isnan(keypoints.xy[1]).all()


def test_openpose_json_follows_the_largest_person_or_takes_the_wanted_one():
    small, large = openpose_person(18), openpose_person(18)
    large["pose_keypoints_2d"] = [4 * value for value in large["pose_keypoints_2d"]]
    frames = [{"people": [small, large]}, {"people": [large, small]}, {"people": [small]}]
    wrist = kp.RIGHT_WRIST
    default = WholeBodyKeypoints.from_openpose_json(frames, HEIGHT, WIDTH, FPS)
    np.testing.assert_array_equal(default.xy[:, wrist, 0], [16, 16, np.nan])
    second = WholeBodyKeypoints.from_openpose_json(frames, HEIGHT, WIDTH, FPS, person=1)
    np.testing.assert_array_equal(second.xy[:, wrist, 0], [16, 4, np.nan])


def test_openpose_json_with_null_hands_and_a_canvas():
    person = {"pose_keypoints_2d": openpose_person(18)["pose_keypoints_2d"], "hand_left_keypoints_2d": None}
    frame = {"people": [person], "canvas_width": 2 * WIDTH, "canvas_height": HEIGHT}
    keypoints = WholeBodyKeypoints.from_openpose_json([frame], HEIGHT, WIDTH, FPS)
    np.testing.assert_array_equal(keypoints.xy[0, kp.RIGHT_WRIST], [2, 9])
    assert (keypoints.score[0, kp.LEFT_HAND] == 0).all()


def test_rtmlib_arrays_by_person():
    source = random_keypoints(num_frames=3)
    other = random_keypoints(num_frames=3, seed=1)
    stacked = WholeBodyKeypoints.from_rtmlib(source.xy, 5 * source.score, HEIGHT, WIDTH, FPS)
    np.testing.assert_array_equal(stacked.xy, source.xy)
    assert stacked.score.max() == 1
    people = [np.stack([source.xy[0], other.xy[0]]), np.empty((0, 133, 2)), source.xy[2:3]]
    scores = [np.stack([source.score[0], other.score[0]]), np.empty((0, 133)), source.score[2:3]]
    first = WholeBodyKeypoints.from_rtmlib(people, scores, HEIGHT, WIDTH, FPS)
    np.testing.assert_array_equal(first.xy[[0, 2]], source.xy[[0, 2]])
    assert (first.score[1] == 0).all()
    second = WholeBodyKeypoints.from_rtmlib(people, scores, HEIGHT, WIDTH, FPS, person=1)
    np.testing.assert_array_equal(second.xy[0], other.xy[0])
    assert (second.score[1:] == 0).all()


# Bad input

XY, SCORE = np.ones((2, 133, 2)), np.ones((2, 133))
BODY = [openpose_body(18)]
SIZE = {"height": HEIGHT, "width": WIDTH, "fps": FPS}


@pytest.mark.parametrize(
    "argument, call",
    [
        ("xy", lambda: WholeBodyKeypoints(np.ones((2, 17, 2)), SCORE, HEIGHT, WIDTH, FPS)),
        ("xy", lambda: WholeBodyKeypoints(np.ones((0, 133, 2)), np.ones((0, 133)), HEIGHT, WIDTH, FPS)),
        ("xy", lambda: WholeBodyKeypoints("points", SCORE, HEIGHT, WIDTH, FPS)),
        ("score", lambda: WholeBodyKeypoints(XY, np.ones((3, 133)), HEIGHT, WIDTH, FPS)),
        ("score", lambda: WholeBodyKeypoints(XY, None, HEIGHT, WIDTH, FPS)),
        ("height", lambda: WholeBodyKeypoints(XY, SCORE, 0, WIDTH, FPS)),
        ("height", lambda: WholeBodyKeypoints(XY, SCORE, 80.0, WIDTH, FPS)),
        ("width", lambda: WholeBodyKeypoints(XY, SCORE, HEIGHT, -60, FPS)),
        ("width", lambda: WholeBodyKeypoints(XY, SCORE, HEIGHT, True, FPS)),
        ("fps", lambda: WholeBodyKeypoints(XY, SCORE, HEIGHT, WIDTH, 0)),
        ("fps", lambda: WholeBodyKeypoints(XY, SCORE, HEIGHT, WIDTH, float("inf"))),
        ("fps", lambda: WholeBodyKeypoints(XY, SCORE, HEIGHT, WIDTH, "30")),
        ("frames", lambda: random_keypoints()[1]),
        ("frames", lambda: random_keypoints()[5:9]),
        ("height", lambda: random_keypoints().resize(0, 10)),
        ("width", lambda: random_keypoints().resize(10, 2.5)),
        ("x0", lambda: random_keypoints().crop(20, 0, 10, 10)),
        ("y1", lambda: random_keypoints().crop(0, 0, 10, HEIGHT + 1)),
        ("path", lambda: random_keypoints().save("motion.pkl")),
        ("path", lambda: WholeBodyKeypoints.load("motion.pt")),
        ("body", lambda: WholeBodyKeypoints.from_openpose_points([], **SIZE)),
        ("body", lambda: WholeBodyKeypoints.from_openpose_points(None, **SIZE)),
        ("body", lambda: WholeBodyKeypoints.from_openpose_points([openpose_body(17)], **SIZE)),
        ("body", lambda: WholeBodyKeypoints.from_openpose_points([[(1, 2, 3, 4)] * 18], **SIZE)),
        ("left_hand", lambda: WholeBodyKeypoints.from_openpose_points(BODY, [None, None], **SIZE)),
        ("right_hand", lambda: WholeBodyKeypoints.from_openpose_points(BODY, None, [[(1, 2)] * 20], **SIZE)),
        ("face", lambda: WholeBodyKeypoints.from_openpose_points(BODY, face=[[("a", "b")] * 68], **SIZE)),
        ("source", lambda: WholeBodyKeypoints.from_openpose_json([], HEIGHT, WIDTH, FPS)),
        ("source", lambda: WholeBodyKeypoints.from_openpose_json([{"persons": []}], HEIGHT, WIDTH, FPS)),
        ("source", lambda: WholeBodyKeypoints.from_openpose_json([{"people": [3]}], HEIGHT, WIDTH, FPS)),
        ("person", lambda: WholeBodyKeypoints.from_openpose_json([{"people": []}], HEIGHT, WIDTH, FPS, person=1)),
        ("keypoints", lambda: WholeBodyKeypoints.from_rtmlib(np.ones((2, 17, 2)), np.ones((2, 17)), 80, 60, FPS)),
        ("scores", lambda: WholeBodyKeypoints.from_rtmlib(XY, SCORE[:1], HEIGHT, WIDTH, FPS)),
        ("scores", lambda: WholeBodyKeypoints.from_rtmlib(XY, SCORE[:, :9], HEIGHT, WIDTH, FPS)),
        ("person", lambda: WholeBodyKeypoints.from_rtmlib(XY, SCORE, HEIGHT, WIDTH, FPS, person=3)),
        ("person", lambda: WholeBodyKeypoints.from_rtmlib(XY, SCORE, HEIGHT, WIDTH, FPS, person=-1)),
    ],
)
def test_bad_input_is_named(argument, call):
    with pytest.raises((ValueError, TypeError), match=f"`[^`]*{argument}`"):
        call()


def test_missing_and_malformed_files_are_named(tmp_path):
    absent = tmp_path / "absent.npz"
    with pytest.raises(FileNotFoundError, match=r"`path`.*absent\.npz"):
        WholeBodyKeypoints.load(absent)
    with pytest.raises(FileNotFoundError, match=r"`source`.*absent"):
        WholeBodyKeypoints.from_openpose_json(tmp_path / "absent", HEIGHT, WIDTH, FPS)
    with pytest.raises(FileNotFoundError, match=r"`source`.*absent\.json"):
        WholeBodyKeypoints.from_openpose_json([tmp_path / "absent.json"], HEIGHT, WIDTH, FPS)
    with pytest.raises(ValueError, match=r"`source` has no \.json"):
        WholeBodyKeypoints.from_openpose_json(tmp_path, HEIGHT, WIDTH, FPS)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"`source`.*not JSON.*bad\.json"):
        WholeBodyKeypoints.from_openpose_json(tmp_path, HEIGHT, WIDTH, FPS)
