# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The same motion in the forms in which other tools save it."""

import json
import os
import pickle

import numpy as np
import pytest

from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.whole_body import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND


HEIGHT, WIDTH, FPS = 96, 160, 30.0
NUM_FRAMES = 12
SIZE = {"height": HEIGHT, "width": WIDTH}


def motion(num_frames=NUM_FRAMES, x=0.0):
    """A person of 60x80 pixels who moves 3 pixels to the right in every frame."""
    random = np.random.default_rng(0)
    steps = np.stack([x + 3 * np.arange(num_frames), np.zeros(num_frames)], axis=-1)
    xy = random.uniform([20, 8], [80, 88], (133, 2)) + steps[:, None]
    score = np.broadcast_to(random.uniform(0.5, 1, 133), (num_frames, 133))
    return WholeBodyKeypoints(xy, score, HEIGHT, WIDTH, FPS)


def flat(xy, score):
    return np.concatenate([xy, score[:, None]], axis=-1).ravel().tolist()


def openpose_frame(keypoints, frame, canvas=True, scale=1.0):
    """As ComfyUI and OpenPose write it."""
    xy, score = scale * keypoints.xy[frame], keypoints.score[frame]
    body, body_score = keypoints.openpose_body()
    parts = {
        "pose_keypoints_2d": flat(scale * body[frame], body_score[frame]),
        "face_keypoints_2d": flat(np.concatenate([xy[FACE], xy[FACE][:2]]), np.append(score[FACE], [1, 1])),
        "hand_left_keypoints_2d": flat(xy[LEFT_HAND], score[LEFT_HAND]),
        "hand_right_keypoints_2d": flat(xy[RIGHT_HAND], score[RIGHT_HAND]),
    }
    return {"people": [parts], **({"canvas_height": HEIGHT, "canvas_width": WIDTH} if canvas else {})}


def without_feet(keypoints):
    score = keypoints.score.copy()
    score[:, FEET] = 0
    return WholeBodyKeypoints(keypoints.xy, score, keypoints.height, keypoints.width, keypoints.fps)


def assert_same(found, expected, atol=1e-3):
    np.testing.assert_allclose(found.xy, expected.xy, atol=atol)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-5)
    assert (found.height, found.width, found.fps) == (expected.height, expected.width, expected.fps)


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# OpenPose and ComfyUI


@pytest.mark.parametrize("name", ["pose.json", "POSE.JSON"])
def test_one_file_with_all_frames(tmp_path, name):
    frames = [openpose_frame(motion(), frame) for frame in range(NUM_FRAMES)]
    path = write_json(tmp_path / name, frames)
    expected = without_feet(motion())
    assert_same(WholeBodyKeypoints.load(path, fps=FPS), expected)
    assert_same(WholeBodyKeypoints.from_openpose_json(path, **SIZE, fps=FPS), expected)
    assert_same(WholeBodyKeypoints.from_openpose_json([str(path)], **SIZE, fps=FPS), expected)
    assert_same(WholeBodyKeypoints.from_openpose_json(frames, **SIZE, fps=FPS), expected)


@pytest.mark.parametrize("name", ["{}_keypoints.json", "clip_{:03d}.json", "frame-{} (2).json"])
def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path, name):
    for frame in range(NUM_FRAMES):
        write_json(tmp_path / name.format(frame), openpose_frame(motion(), frame, canvas=False))
    expected = without_feet(motion())
    assert_same(WholeBodyKeypoints.load(tmp_path, **SIZE, fps=FPS), expected)
    assert_same(WholeBodyKeypoints.from_openpose_json(tmp_path, **SIZE, fps=FPS), expected)


@pytest.mark.parametrize("canvas", [True, False])
def test_fractions_of_the_image_are_brought_to_pixels(tmp_path, canvas):
    unit = [1 / WIDTH, 1 / HEIGHT]
    frames = [openpose_frame(motion(), frame, canvas, unit) for frame in range(NUM_FRAMES)]
    path = write_json(tmp_path / "pose.json", frames)
    size = {} if canvas else SIZE
    assert_same(WholeBodyKeypoints.load(path, **size, fps=FPS), without_feet(motion()))
    doubled = WholeBodyKeypoints.from_openpose_json(path, 2 * HEIGHT, 2 * WIDTH, FPS)
    np.testing.assert_allclose(doubled.xy, 2 * without_feet(motion()).xy, atol=1e-3)


def test_coordinates_from_minus_one_to_one_are_refused(tmp_path):
    frames = [openpose_frame(motion(), frame) for frame in range(2)]
    for frame in frames:
        for key, values in frame["people"][0].items():
            points = np.reshape(values, (-1, 3)) / [WIDTH / 2, HEIGHT / 2, 1] - [1, 1, 0]
            frame["people"][0][key] = points.ravel().tolist()
    with pytest.raises(ValueError, match="neither pixels nor fractions of the image from 0 to 1"):
        WholeBodyKeypoints.load(write_json(tmp_path / "pose.json", frames), fps=FPS)


@pytest.mark.parametrize("absent", [None, []])
def test_missing_hands_nested_points_and_empty_frames(tmp_path, absent):
    frames = [openpose_frame(motion(), frame) for frame in range(3)]
    frames[0]["people"][0]["hand_left_keypoints_2d"] = absent
    frames[1] = {"people": []}
    for key, values in frames[2]["people"][0].items():
        frames[2]["people"][0][key] = np.reshape(values, (-1, 3)).tolist()
    keypoints = WholeBodyKeypoints.load(write_json(tmp_path / "pose.json", frames), fps=FPS)
    assert not keypoints.score[0, LEFT_HAND].any() and keypoints.score[0, RIGHT_HAND].all()
    assert not keypoints.score[1].any()
    np.testing.assert_allclose(keypoints.xy[2], without_feet(motion()).xy[2], atol=1e-3)


def test_the_largest_person_is_followed_and_that_is_said(tmp_path, caplog):
    """The order changes, and at the end another is larger."""
    frames = [openpose_frame(motion(), frame) for frame in range(NUM_FRAMES)]
    for number, frame in enumerate(frames):
        near = openpose_frame(motion(x=40.0), 0, scale=0.3 + 0.1 * number)["people"]
        frame["people"] = [*near, *frame["people"]] if number % 2 else [*frame["people"], *near]
    path = write_json(tmp_path / "pose.json", frames)
    assert_same(WholeBodyKeypoints.load(path, fps=FPS), without_feet(motion()))
    assert caplog.messages == [
        "There are up to 2 people in a frame. The largest is tracked and was found in 12 of 12 frames."
    ]
    second = WholeBodyKeypoints.load(path, fps=FPS, person=1)
    np.testing.assert_allclose(second.xy[1], without_feet(motion()).xy[1], atol=1e-3)


# MMPose and COCO


def mmpose_instance(keypoints, frame):
    return {"keypoints": keypoints.xy[frame].tolist(), "keypoint_scores": keypoints.score[frame].tolist()}


def test_mmpose_results_of_a_video(tmp_path):
    infos = [{"frame_id": 1 + frame, "instances": [mmpose_instance(motion(), frame)]} for frame in range(NUM_FRAMES)]
    for content in (infos, infos[::-1], {"meta_info": {}, "instance_info": infos}):
        path = write_json(tmp_path / "results.json", content)
        assert_same(WholeBodyKeypoints.load(path, **SIZE, fps=FPS), motion())
    for frame in range(NUM_FRAMES):
        write_json(tmp_path / f"{frame}.json", [mmpose_instance(motion(), frame)])
    (tmp_path / "results.json").unlink()
    assert_same(WholeBodyKeypoints.load(tmp_path, **SIZE, fps=FPS), motion())


@pytest.mark.parametrize("image_id", [int, "{}.jpg".format, "video_{:05d}.png".format])
def test_results_in_the_form_of_coco(tmp_path, image_id):
    frames = [frame for frame in range(NUM_FRAMES) if frame not in (4, 5)]
    results = [
        {"image_id": image_id(frame), "category_id": 1, "keypoints": flat(motion().xy[frame], motion().score[frame])}
        for frame in frames
    ]
    keypoints = WholeBodyKeypoints.load(write_json(tmp_path / "results.json", results), **SIZE, fps=FPS)
    assert len(keypoints) == NUM_FRAMES and not keypoints.score[4:6].any()
    np.testing.assert_allclose(keypoints.xy[frames], motion().xy[frames], atol=1e-3)


def test_results_of_coco_wholebody_in_parts(tmp_path):
    keys = {"keypoints": BODY, "foot_kpts": FEET, "face_kpts": FACE, "lefthand_kpts": LEFT_HAND}
    keys["righthand_kpts"] = RIGHT_HAND
    results = [
        {"image_id": 9, **{key: flat(motion().xy[0, part], motion().score[0, part]) for key, part in keys.items()}}
    ]
    keypoints = WholeBodyKeypoints.load(write_json(tmp_path / "results.json", results), **SIZE, fps=FPS)
    assert_same(keypoints, motion(1))
    with pytest.raises(ValueError, match="2 images are numbered 9 to 581929, which are not frames of a clip"):
        others = [*results, {**results[0], "image_id": 581929}]
        WholeBodyKeypoints.load(write_json(tmp_path / "results.json", others), **SIZE, fps=FPS)


# Arrays of RTMPose and DWPose


def dwpose_points(keypoints):
    """x, y, score `(F, 134, 3)`: OpenPose's body, then feet, face and hands."""
    xy, score = keypoints.openpose_body()
    xy, score = (
        np.concatenate(pair, axis=1) for pair in ((xy, keypoints.xy[:, 17:]), (score, keypoints.score[:, 17:]))
    )
    return np.concatenate([xy, score[..., None]], axis=-1)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("names", [("keypoints", "scores"), ("keypoints", "keypoint_scores"), ("candidate", "subset")])
def test_arrays_of_points_and_scores(tmp_path, names, several):
    points = dwpose_points(motion()) if names[0] == "candidate" else motion().xy
    arrays = (points[..., :2], points[..., 2]) if points.shape[-1] == 3 else (points, motion().score)
    if several:
        arrays = [array[:, None] for array in arrays]
    with open(tmp_path / "POSE.NPZ", "wb") as file:  # NumPy would add a suffix to the name
        np.savez(file, **dict(zip(names, arrays, strict=True)))
    assert_same(WholeBodyKeypoints.load(tmp_path / "POSE.NPZ", **SIZE, fps=FPS), motion())


def test_arrays_may_state_size_and_rate_and_be_fractions(tmp_path):
    points = dwpose_points(motion()) / [WIDTH, HEIGHT, 1]
    np.savez_compressed(tmp_path / "a.npz", candidate=points[..., :2], subset=points[..., 2], **SIZE, fps=FPS)
    assert_same(WholeBodyKeypoints.load(tmp_path / "a.npz"), motion())
    np.savez(tmp_path / "b.npz", points)
    np.save(tmp_path / "c.npy", points.astype(np.float32))
    for name in ("b.npz", "c.npy"):
        assert_same(WholeBodyKeypoints.load(tmp_path / name, **SIZE, fps=FPS), motion())


def test_dwpose_parts_of_one_person(tmp_path):
    points = dwpose_points(motion()) / [WIDTH, HEIGHT, 1]
    points[2, 92:113] = -1  # the left hand is not found
    hands = points[:, 92:, :2].reshape(NUM_FRAMES, 2, 21, 2)
    np.savez(tmp_path / "pose.npz", bodies=points[:, :18, :2], hands=hands, faces=points[:, None, 24:92, :2])
    keypoints = WholeBodyKeypoints.load(tmp_path / "pose.npz", **SIZE, fps=FPS)
    expected = without_feet(motion()).xy
    expected[2, LEFT_HAND] = np.nan
    np.testing.assert_allclose(keypoints.xy, expected, atol=1e-3)
    assert (keypoints.score[:, BODY] == 1).all()


# What is missing, and what cannot be read


def test_what_a_file_does_not_state_is_asked_for(tmp_path):
    path = write_json(tmp_path / "pose.json", [openpose_frame(motion(), frame, canvas=False) for frame in range(2)])
    with pytest.raises(ValueError, match="pose.json does not state the size of its image; pass `height` and `width`"):
        WholeBodyKeypoints.load(path, fps=FPS)
    with pytest.raises(ValueError, match="pose.json does not state its frame rate; pass `fps`"):
        WholeBodyKeypoints.load(path, **SIZE)
    one = write_json(tmp_path / "one.json", openpose_frame(motion(), 0))
    assert WholeBodyKeypoints.load(one).fps == 1


def test_what_a_file_states_cannot_be_given_otherwise(tmp_path):
    motion().save(tmp_path / "own.npz")
    assert_same(WholeBodyKeypoints.load(tmp_path / "own.npz", **SIZE, fps=FPS), motion())
    with pytest.raises(ValueError, match="`fps` must be omitted or 30, as .*own.npz states, got 25"):
        WholeBodyKeypoints.load(tmp_path / "own.npz", fps=25)
    path = write_json(tmp_path / "pose.json", [openpose_frame(motion(), 0)])
    with pytest.raises(ValueError, match="`width` must be omitted or 160, as .*pose.json states, got 320"):
        WholeBodyKeypoints.load(path, height=HEIGHT, width=320)
    frames = [openpose_frame(motion(), 0, canvas) for canvas in (True, False)]
    with pytest.raises(ValueError, match="pose.json state several sizes"):
        WholeBodyKeypoints.load(write_json(path, frames), fps=FPS)


@pytest.mark.parametrize("name", ["pose.pkl", "pose.PT", "pose.npy", "pose.npz"])
def test_pickles_are_refused_unopened(tmp_path, name):
    class Traps:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, np.array([Traps()], dtype=object), allow_pickle=True)
    elif name.endswith("npz"):
        np.savez(path, keypoints=np.array([Traps()], dtype=object))
    else:
        path.write_bytes(pickle.dumps(Traps()))
    with pytest.raises(ValueError, match=r"`path`.*pose.*pickle|`path`.*pose.*allow_pickle=False"):
        WholeBodyKeypoints.load(path, **SIZE, fps=FPS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
        ("[]", "neither a dictionary nor a list"),
        ("3", "neither a dictionary nor a list"),
        ("[null]", "neither a dictionary nor a list"),
        ('{"version": "ap10k", "animals": []}', "none of OpenPose's `people`.* but version, animals"),
        ('{"people": 3}', "`people` must be a list"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "x, y and score of each point"),
        ('{"people": [{"pose_keypoints_2d": ["a", "b", "c"]}]}', "pose.json"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "`body` must have 18 or 25 points, got 1"),
        ('{"people": [], "canvas_width": 0, "canvas_height": 5}', "`canvas_width`"),
        ('[{"image_id": "x", "keypoints": [1, 2, 3]}]', "image_id must contain a number"),
        ('[{"image_id": 1, "keypoints": [1, 2, 3]}]', "17, 133, 134 points, got 1"),
        ('[{"instances": [{"keypoints": 3, "keypoint_scores": 4}]}]', "pose.json"),
        ('[{"instances": null}]', "pose.json"),
    ],
)
def test_damaged_and_unknown_json_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "pose.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        WholeBodyKeypoints.load(path, **SIZE, fps=FPS)
    assert "`path`" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"joints": np.zeros((2, 24, 3))}, "17, 133, 134 points, got 24"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, "it contains a, b; supported are xy and score of WholeBodyKeypoints"),
        ({"keypoints": np.zeros((2, 26, 2)), "scores": np.zeros((2, 26))}, "17, 133, 134 points, got 26"),
        ({"keypoints": np.zeros((2, 133, 2)), "scores": np.zeros((2, 17))}, r"scores must have the shape \(2, 133\)"),
        ({"keypoints": np.zeros((0, 133, 3))}, "points must have the shape"),
        ({"bodies": np.zeros((2, 36, 2))}, "bodies must contain 18 points of one person per frame"),
    ],
)
def test_unknown_arrays_are_one_sentence(tmp_path, arrays, message):
    np.savez(tmp_path / "pose.npz", **arrays)
    with pytest.raises(ValueError, match=f"`path` .*pose.npz.*{message}"):
        WholeBodyKeypoints.load(tmp_path / "pose.npz", **SIZE, fps=FPS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
@pytest.mark.parametrize("name", ["pose.json", "pose.npz", "pose.npy", "pose.safetensors"])
def test_a_fifo_is_no_file(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=name):
        WholeBodyKeypoints.load(tmp_path / name, **SIZE, fps=FPS)


def test_folders_and_suffixes_that_hold_no_poses_are_named(tmp_path):
    (tmp_path / "0001.png").write_bytes(b"")
    with pytest.raises(ValueError, match="`path` has no .json files: "):
        WholeBodyKeypoints.load(tmp_path, **SIZE, fps=FPS)
    with pytest.raises(ValueError, match="`path` must end in .safetensors, .json, .npz, .npy, or be a folder"):
        WholeBodyKeypoints.load(tmp_path / "0001.png", **SIZE, fps=FPS)
    for name in ("absent.json", "absent.npy", "absent.npz"):
        with pytest.raises(FileNotFoundError, match=f"`path`.*{name}"):
            WholeBodyKeypoints.load(tmp_path / name, **SIZE, fps=FPS)
