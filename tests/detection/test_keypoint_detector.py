# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import http.server
import shutil
import sys
import threading
import warnings
import zipfile

import numpy as np
import onnx.parser
import pytest
import torch
from onnx_models import draw_people, points_in, write_detector, write_models, write_pose_model

from hia_diffusers.conditioning.whole_body import BODY, FACE, FEET, LEFT_HAND, LEFT_WRIST, RIGHT_HAND
from hia_diffusers.detection import keypoint_detector
from hia_diffusers.detection.keypoint_detector import KeypointDetector
from hia_diffusers.detection.model_files import PERSON_DETECTORS, POSE_MODELS, OnnxModel
from hia_diffusers.detection.openpose_detector import OpenPoseKeypointDetector, import_openpose
from hia_diffusers.detection.people import DetectedPeople


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def detector(models):
    return KeypointDetector(**models)


@pytest.fixture(scope="module")
def fine_detector(tmp_path_factory):
    """Larger images and crops: points are found to a fraction of a pixel."""
    folder = tmp_path_factory.mktemp("fine")
    detector_model = write_detector(folder / "detector.onnx", height=128, width=160)
    pose_model = write_pose_model(folder / "pose.onnx", height=384, width=288)
    return KeypointDetector(detector_model, pose_model, feet_model=None)


def walk(num_frames=10):
    """Frames with a tall person who walks to the right and a short one who walks to the left, and their boxes."""
    tall = [(10 + 3 * frame, 10, 50 + 3 * frame, 118) for frame in range(num_frames)]
    short = [(130 - 2 * frame, 60, 152 - 2 * frame, 116) for frame in range(num_frames)]
    boxes = [list(people) for people in zip(tall, short, strict=True)]
    return draw_people(boxes), boxes


# Detection


def test_points_of_everyone_are_where_they_are(fine_detector):
    frames, boxes = walk()
    people = fine_detector.detect(frames, fps=25.0)
    assert (people.counts == 2).all() and people.counts.shape == (10,)
    assert (people.height, people.width, people.fps) == (128, 160, 25.0)
    errors = []
    for frame, expected in enumerate(boxes):
        order = people.boxes[frame][:, 0].argsort()
        np.testing.assert_allclose(people.boxes[frame][order], expected, atol=1)
        assert people.xy[frame].shape == (2, 133, 2) and people.xy[frame].dtype == np.float32
        errors += [people.xy[frame][order] - [points_in(box) for box in expected]]
    # Half a pixel is the difference between the centre of a pixel and its corner.
    assert np.abs(errors).max() < 0.4 and np.abs(np.mean(errors, axis=(0, 1, 2))).max() < 0.1
    assert all(0.7 < score.min() and score.max() < 0.8 for score in people.score)  # 0.9 * 220 / 255


def test_nobody_is_found_in_an_empty_frame(detector):
    frames, boxes = walk(3)
    frames[1] = 20
    people = detector.detect(frames, fps=30)
    np.testing.assert_array_equal(people.counts, [2, 0, 2])
    assert [array.shape for array in (people.xy[1], people.score[1], people.boxes[1])] == [
        (0, 133, 2),
        (0, 133),
        (0, 4),
    ]
    keypoints = detector(frames, fps=30)
    assert not keypoints.score[1].any() and keypoints.score[[0, 2]].all()

    nobody = detector(frames[[1, 1]], fps=30)
    assert len(nobody) == 2 and not nobody.score.any() and np.isnan(nobody.xy).all()


def test_models_see_the_colours_that_they_were_trained_on(detector, tmp_path):
    """YOLOX takes BGR and RTMPose RGB; these models find only what is red."""
    box = [[(20, 20, 60, 110)]]
    red, blue = draw_people(box, color=(255, 30, 30)), draw_people(box, color=(30, 30, 255))
    assert detector.detect(blue, fps=30).counts == [0]
    people = detector.detect(red, fps=30)
    assert people.counts == [1]
    np.testing.assert_allclose(people.score[0], 0.9, atol=0.01)


def test_batches_change_nothing(models, tmp_path):
    frames, _ = walk(7)
    frames[3] = 20
    one_by_one = KeypointDetector(
        write_detector(tmp_path / "detector.onnx", batch=1),
        write_pose_model(tmp_path / "pose.onnx", batch=1),
        write_pose_model(tmp_path / "feet.onnx", batch=1),
    )
    expected = one_by_one.detect(frames, fps=30)
    for batch_size in (1, 4, 100):
        detector = KeypointDetector(**models, batch_size=batch_size)
        for people in (detector.detect(frames, fps=30), detector.detect(iter(frames), fps=30)):
            for name in ("xy", "score", "boxes"):
                for given, wanted in zip(getattr(people, name), getattr(expected, name), strict=True):
                    np.testing.assert_allclose(given, wanted, atol=1e-4)


def test_batches_are_run_at_once(models):
    detector = KeypointDetector(**models, batch_size=4)
    lengths = {}
    for role, network in detector._networks.items():
        session = network.tool.session

        class Watched:
            def run(self, names, inputs, session=session, role=role):
                lengths.setdefault(role, []).append(len(next(iter(inputs.values()))))
                return session.run(names, inputs)

        network.tool.session = Watched()
    detector.detect(walk(6)[0], fps=30)
    assert lengths == {"detector": [4, 2], "pose": [4, 4, 4], "feet": [4, 4, 4]}


def test_feet_come_from_the_feet_model(models, tmp_path):
    frames, boxes = walk(1)
    shifted = write_pose_model(tmp_path / "feet.onnx", score=0.5, shift=(0.1, -0.2))
    with_feet = KeypointDetector(**{**models, "feet_model": shifted})(frames, fps=30)
    without = KeypointDetector(**{**models, "feet_model": None})(frames, fps=30)
    expected = points_in(boxes[0][0])
    np.testing.assert_allclose(without.xy[0], expected, atol=2.5)
    others = np.setdiff1d(np.arange(133), np.arange(133)[FEET])
    np.testing.assert_array_equal(with_feet.xy[0, others], without.xy[0, others])
    np.testing.assert_array_equal(with_feet.score[0, others], without.score[0, others])
    np.testing.assert_allclose(with_feet.xy[0, FEET] - without.xy[0, FEET], [[4, -21.6]] * 6, atol=2.5)
    np.testing.assert_allclose(with_feet.score[0, FEET], 0.5 * 220 / 255, atol=0.01)


def test_missing_points_and_scores_above_one(models, tmp_path):
    score = np.linspace(0, 1.4, 133)
    pose_model = write_pose_model(tmp_path / "pose.onnx", score=score)
    frames = draw_people([[(20, 20, 60, 110)]], color=(255, 0, 0))
    people = KeypointDetector(models["detector_model"], pose_model, None).detect(frames, fps=30)
    assert people.score[0][0, 0] == 0 and np.isnan(people.xy[0][0, 0]).all()
    assert np.isfinite(people.xy[0][0, 1:]).all()
    np.testing.assert_allclose(people.score[0][0], score.clip(0, 1), atol=0.01)


def test_scores_of_another_scale(models, tmp_path):
    frames = draw_people([[(20, 20, 60, 110)]], color=(255, 0, 0))
    pose_model = write_pose_model(tmp_path / "pose.onnx", score=4.0)
    with pytest.warns(UserWarning, match=r"scores of the pose model reach 4.0 .* `score_scale`"):
        keypoints = KeypointDetector(models["detector_model"], pose_model, None)(frames, fps=30)
    assert (keypoints.score == 1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = KeypointDetector(models["detector_model"], pose_model, models["feet_model"], score_scale=5.0)
        keypoints = detector(frames, fps=30)
    np.testing.assert_allclose(keypoints.score[0, BODY], 0.8, atol=0.01)
    np.testing.assert_allclose(keypoints.score[0, FEET], 0.9, atol=0.01)


def test_a_local_file_is_known_by_its_name(models, tmp_path):
    known = POSE_MODELS["rtmw-m-256x192"]
    name = "rtmw-dw-l-m_simcc-cocktail14_270e-256x192_20231122.onnx"
    pose_model = write_pose_model(tmp_path / name, height=256, width=192, score=3.0)
    frames = draw_people([[(20, 20, 60, 110)]], color=(255, 0, 0))
    keypoints = KeypointDetector(models["detector_model"], pose_model, None)(frames, fps=30)
    np.testing.assert_allclose(keypoints.score, 3.0 / known.score_scale, atol=0.01)


@pytest.mark.parametrize(("with_nms", "label", "count"), [(True, 0, 2), (True, 2, 0), (False, 0, 2), (False, 1, 0)])
def test_only_people_are_kept_of_both_forms_of_yolox(models, tmp_path, with_nms, label, count):
    detector_model = write_detector(tmp_path / "detector.onnx", with_nms=with_nms, label=label)
    frames, boxes = walk(3)
    people = KeypointDetector(detector_model, models["pose_model"], None).detect(frames, fps=30)
    assert (people.counts == count).all()
    for found, expected in zip(people.boxes, boxes, strict=True):
        if count:
            np.testing.assert_allclose(found[found[:, 0].argsort()], expected, atol=2.6)


def test_boxes_without_a_class_are_people_and_empty_ones_are_left_out(models, tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> boxes (float[1, 3, 64, 64] image) => (float[1, 3, 5] dets)'
        "{ dets = Constant <value = float[1, 3, 5] {8,8,24,44,0.9, 64,10,64,30,0.9, 30,8,40,44,0.2}> () }"
    )
    onnx.save(model, tmp_path / "detector.onnx")
    detector = KeypointDetector(tmp_path / "detector.onnx", models["pose_model"], None)
    people = detector.detect(walk(2)[0], fps=30)
    np.testing.assert_allclose(people.boxes, [[[20, 20, 60, 110]]] * 2)


def test_a_person_at_the_border_is_found(fine_detector):
    boxes = [[(-20, 30, 20, 150)], [(140, -30, 180, 60)]]
    people = fine_detector.detect(draw_people(boxes), fps=30)
    visible = [(0, 30, 20, 128), (140, 0, 160, 60)]
    for found, expected in zip(people.xy, visible, strict=True):
        np.testing.assert_allclose(found[0], points_in(expected), atol=1)


def test_nothing_is_printed(models, capsys):
    KeypointDetector(**models).detect(walk(1)[0], fps=30)
    assert capsys.readouterr().out == ""


# Following


def made_people(boxes):
    """People whose first keypoint tells who they are: `boxes` holds per frame a dictionary of boxes by number."""
    xy = [np.full((len(people), 133, 2), 0.0) + np.reshape(list(people), (-1, 1, 1)) for people in boxes]
    score = [np.ones((len(people), 133)) for people in boxes]
    arrays = [np.reshape(list(people.values()), (-1, 4)).astype(np.float32) for people in boxes]
    return DetectedPeople(xy, score, arrays, 200, 300, 30.0)


def followed(people, person=None):
    """Who is followed in every frame, NaN where nobody."""
    return people.follow(person).xy[:, 0, 0]


def test_the_largest_person_at_first_is_followed_though_another_grows_larger(fine_detector):
    near = [(10 + frame, 20, 60 + frame, 120) for frame in range(12)]
    grows = [(100 - 2 * frame, 60 - 5 * frame, 120 + 2 * frame, 100 + 2 * frame) for frame in range(12)]
    boxes = [list(people) for people in zip(near, grows, strict=True)]
    size = [[(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in people] for people in boxes]
    assert size[0][0] > size[0][1] and size[-1][0] < size[-1][1]
    keypoints = fine_detector(draw_people(boxes), fps=30)
    np.testing.assert_allclose(keypoints.xy, [points_in(box) for box in near], atol=0.6)


def test_the_order_in_a_frame_does_not_matter():
    left, right = (10, 10, 50, 110), (100, 10, 130, 100)
    people = made_people([{1: left, 2: right}, {2: right, 1: left}, {2: right, 1: left}])
    np.testing.assert_array_equal(followed(people), [1, 1, 1])
    np.testing.assert_array_equal(followed(people, (95, 5, 135, 105)), [2, 2, 2])


def test_a_short_gap_is_missing_and_does_not_go_to_the_neighbour():
    """The neighbour's box overlaps the last box of the one who is missed."""
    mine, neighbour = (10, 10, 60, 110), (35, 15, 85, 105)
    people = made_people([{1: mine, 2: neighbour}, {2: neighbour}, {2: neighbour}, {2: neighbour, 1: mine}])
    np.testing.assert_array_equal(followed(people), [1, np.nan, np.nan, 1])
    keypoints = people.follow()
    assert not keypoints.score[1:3].any() and keypoints.score[[0, 3]].all()
    assert (keypoints.height, keypoints.width, keypoints.fps) == (200, 300, 30.0)


def test_frames_before_the_first_person_are_missing():
    mine = (10, 10, 60, 110)
    np.testing.assert_array_equal(followed(made_people([{}, {}, {1: mine}])), [np.nan, np.nan, 1])


def test_someone_who_appears_elsewhere_beside_others_is_not_followed():
    neighbour = (200, 10, 240, 110)
    for other in ((100, 10, 180, 190), (55, 10, 105, 110)):
        with_neighbour = {2: other, 3: neighbour}
        people = made_people([{1: (10, 10, 60, 110), 3: neighbour}, with_neighbour, with_neighbour])
        np.testing.assert_array_equal(followed(people, (10, 10, 60, 110)), [1, np.nan, np.nan])


def test_a_box_names_the_person_in_the_first_frame_where_he_is_found():
    first, late = (10, 10, 60, 110), (200, 50, 230, 120)
    people = made_people([{1: first}, {1: first, 2: late}, {1: first, 2: (205, 50, 235, 120)}])
    np.testing.assert_array_equal(followed(people, (190, 40, 235, 125)), [np.nan, 2, 2])
    with pytest.raises(ValueError, match=r"`person` .* nobody was detected at \[100.0, 100.0, 120.0, 150.0\]"):
        people.follow((100, 100, 120, 150))


@pytest.mark.parametrize("person", [(1, 2, 3), (10, 10, 5, 20), (0, 0, np.nan, 5), (10, 10, 10, 20)])
def test_a_box_that_is_none_is_named(person):
    with pytest.raises(ValueError, match="`person` must be a box"):
        made_people([{1: (0, 0, 10, 10)}]).follow(person)


def test_people_who_cross_keep_their_tracks():
    boxes = [{1: (10 + 5 * i, 10, 60 + 5 * i, 110), 2: (130 - 5 * i, 60, 180 - 5 * i, 190)} for i in range(25)]
    people = made_people(boxes)
    assert (followed(people, boxes[0][1]) == 1).all() and (followed(people, boxes[0][2]) == 2).all()


def test_someone_who_walks_past_a_hidden_person_is_not_taken_for_him():
    boxes = [{1: (10 + 7 * i, 10, 60 + 7 * i, 110), 2: (100, 12, 148, 112)} for i in range(30)]
    for people in boxes[7:19]:
        del people[2]
    people = made_people(boxes)
    assert (followed(people, boxes[0][1]) == 1).all()
    np.testing.assert_array_equal(followed(people, boxes[0][2]), [*7 * [2], *12 * [np.nan], *11 * [2]])


def test_a_box_without_area_does_not_disturb_the_others():
    people = made_people([{1: (10, 10, 60, 110), 2: (100, 50, 120, 50)}] * 3)
    np.testing.assert_array_equal(followed(people), [1, 1, 1])


# Files, providers and checksums


def test_provider_and_digest_of_every_model(models, detector):
    assert detector.providers == dict.fromkeys(["detector", "pose", "feet"], "CPUExecutionProvider")
    roles = {"detector": "detector_model", "pose": "pose_model", "feet": "feet_model"}
    assert detector.sha256 == {
        role: hashlib.sha256(models[name].read_bytes()).hexdigest() for role, name in roles.items()
    }
    assert KeypointDetector(**models, sha256=detector.sha256).sha256 == detector.sha256
    assert set(KeypointDetector(**{**models, "feet_model": None}).providers) == {"detector", "pose"}


def test_cuda_that_is_not_there_is_an_error_that_names_the_extra(models):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=r"`device` is 'cuda.*CPUExecutionProvider.*hia-diffusers\[gpu\]"):
            KeypointDetector(**models, device=device)


def test_a_session_that_fell_back_to_the_cpu_is_an_error(detector):
    session = detector._networks["pose"].tool.session
    assert keypoint_detector._checked_provider(session, "cpu") == "CPUExecutionProvider"
    with pytest.raises(ValueError, match="`device` is 'cuda:1' but onnxruntime could only start CPUExecutionProvider"):
        keypoint_detector._checked_provider(session, "cuda:1")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "mps", None])
def test_an_unknown_device_is_named(models, device):
    with pytest.raises(ValueError, match="`device` must be"):
        KeypointDetector(**models, device=device)


def test_a_wrong_checksum_is_found_before_the_file_is_loaded(models, detector, tmp_path):
    broken = tmp_path / "pose.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ValueError, match=f"`sha256` of the pose model must be {detector.sha256['pose']}, got"):
        KeypointDetector(**{**models, "pose_model": broken}, sha256=detector.sha256)
    with pytest.raises(ValueError, match="`pose_model` cannot be loaded by onnxruntime"):
        KeypointDetector(**{**models, "pose_model": broken})


@pytest.mark.parametrize("sha256", [{"hand": "0" * 64}, {"pose": "123"}, {"pose": 5}])
def test_an_invalid_checksum_is_named(models, sha256):
    with pytest.raises(ValueError, match="`sha256` must"):
        KeypointDetector(**models, sha256=sha256)


def test_a_missing_file_is_named_with_the_known_models(models):
    with pytest.raises(FileNotFoundError, match=r"`detector_model` must be one of yolox-m, .* got 'missing.onnx'"):
        KeypointDetector(**{**models, "detector_model": "missing.onnx"})
    with pytest.raises(FileNotFoundError, match=r"`feet_model` must be one of rtmw-l-384x288, .* got 'yolox-m'"):
        KeypointDetector(**{**models, "feet_model": "yolox-m"})
    with pytest.raises(TypeError, match="`pose_model` must be a name or a path, got None"):
        KeypointDetector(**{**models, "pose_model": None})


def test_a_model_of_the_wrong_kind_is_named(models, tmp_path):
    with pytest.raises(ValueError, match="`detector_model` must have the outputs of YOLOX"):
        KeypointDetector(**{**models, "detector_model": models["pose_model"]})
    for role in ("pose", "feet"):
        with pytest.raises(ValueError, match=f"`{role}_model` must output SimCC for 133 keypoints"):
            KeypointDetector(**{**models, f"{role}_model": models["detector_model"]})
    known = tmp_path / "rtmpose-m_simcc-ucoco_dw-ucoco_270e-256x192-c8b76419_20230728.onnx"
    shutil.copy(models["pose_model"], known)
    with pytest.raises(ValueError, match="`pose_model` does not run on 192x256 pixels"):
        KeypointDetector(**{**models, "pose_model": known})


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1.5}, {"score_scale": 0}, {"score_scale": -1}])
def test_bad_options_are_named(models, options):
    with pytest.raises((TypeError, ValueError), match=f"`{next(iter(options))}`"):
        KeypointDetector(**models, **options)


FRAMES = np.zeros((2, 64, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("argument", "frames", "fps"),
    [
        ("frames", FRAMES.astype(np.float32), 30),
        ("frames", FRAMES[0], 30),
        ("frames", FRAMES[:0], 30),
        ("frames", FRAMES[..., :1], 30),
        ("frames", [], 30),
        ("frames", [FRAMES[0], FRAMES[0][:9]], 30),
        ("frames", [FRAMES[0].astype(np.float32)], 30),
        ("frames", 5, 30),
        ("fps", FRAMES, 0),
        ("fps", FRAMES, float("nan")),
        ("fps", FRAMES, "30"),
    ],
)
def test_bad_frames_are_named(detector, argument, frames, fps):
    with pytest.raises((TypeError, ValueError), match=f"`{argument}` must"):
        detector.detect(frames, fps)


@pytest.mark.parametrize("library", ["rtmlib", "onnxruntime"])
def test_a_missing_library_names_the_extra(models, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"`pose` extra: pip install 'hia-diffusers\[pose\]'"):
        KeypointDetector(**models)


# Download


@pytest.fixture
def server(tmp_path):
    """An address that serves the files of `tmp_path / "served"`, and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path / "served")

        def log_message(self, *args):
            asked.append(self.path)

    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_named_models_are_downloaded_once(models, tmp_path, server, monkeypatch):
    address, asked = server
    for role, name in (("detector_model", "yolox"), ("pose_model", "pose")):
        with zipfile.ZipFile(tmp_path / "served" / f"{name}.zip", "w") as archive:
            archive.write(models[role], "20230831/end2end.onnx")
            archive.writestr("20230831/pipeline.json", "{}")
    monkeypatch.setitem(PERSON_DETECTORS, "yolox-m", OnnxModel(f"{address}/yolox.zip", 64, 64))
    monkeypatch.setitem(POSE_MODELS, "rtmw-l-384x288", OnnxModel(f"{address}/pose.zip", 64, 48, score_scale=3.0))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    frames, boxes = walk(1)
    for _ in range(2):
        detector = KeypointDetector(feet_model=None)
        keypoints = detector(frames, fps=30)
        np.testing.assert_allclose(keypoints.xy[0], points_in(boxes[0][0]), atol=2.5)
        np.testing.assert_allclose(keypoints.score, 0.3 * 220 / 255, atol=0.01)
    assert asked == ["/yolox.zip", "/pose.zip"]
    files = [path.relative_to(tmp_path / "hub").as_posix() for path in (tmp_path / "hub").rglob("*.onnx")]
    assert sorted(files) == ["hia_diffusers/rtmw-l-384x288/pose.onnx", "hia_diffusers/yolox-m/yolox.onnx"]


def test_a_failed_download_names_the_model(models, tmp_path, server, monkeypatch):
    address, _ = server
    monkeypatch.setitem(POSE_MODELS, "dwpose-l-384x288", OnnxModel(f"{address}/missing.zip", 384, 288))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    with pytest.raises(
        ConnectionError, match=r"`feet_model` 'dwpose-l-384x288' cannot be downloaded .*missing.zip.*`mediapipe`"
    ):
        KeypointDetector(models["detector_model"], models["pose_model"])
    (tmp_path / "served" / "missing.zip").write_bytes(b"no zip file")
    with pytest.raises(ConnectionError, match="`feet_model`"):
        KeypointDetector(models["detector_model"], models["pose_model"])


@pytest.fixture
def served_pose_model(models, tmp_path, server, monkeypatch):
    """A pose model that is served, and how to make one from it; the archive, the folder of downloads and requests."""
    address, asked = server
    archive = tmp_path / "served" / "pose.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(models["pose_model"], "20230831/end2end.onnx")
    monkeypatch.setitem(POSE_MODELS, "rtmw-m-256x192", OnnxModel(f"{address}/pose.zip", 64, 48))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))

    def make():
        return KeypointDetector(models["detector_model"], "rtmw-m-256x192", feet_model=None)

    return make, archive, tmp_path / "hub" / "hia_diffusers" / "rtmw-m-256x192", asked


@pytest.mark.parametrize("name", ["pose.zip", "pose.onnx"])
def test_half_a_download_that_is_kept_is_fetched_again(models, served_pose_model, name):
    make, archive, folder, asked = served_pose_model
    whole = archive if name.endswith("zip") else models["pose_model"]
    folder.mkdir(parents=True)
    (folder / name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert make()(walk(1)[0], fps=30).score.any()
    assert asked == ["/pose.zip"] and make() and asked == ["/pose.zip"]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "pose.onnx"]


def test_a_download_that_is_cut_off_is_tried_twice_named_and_repaired_by_the_next_run(served_pose_model):
    make, archive, folder, asked = served_pose_model
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConnectionError, match=rf"pose.zip to {folder} \({folder / archive.name} was truncated"):
        make()
    assert asked == ["/pose.zip"] * 2 and sorted(path.name for path in folder.iterdir()) == [".lock"]
    archive.write_bytes(whole)
    assert make()(walk(1)[0], fps=30).score.any()


def test_the_tables_agree_with_rtmlib():
    from rtmlib import Wholebody

    used = {(entry["det"], *entry["det_input_size"][::-1]) for entry in Wholebody.MODE.values()}
    assert used == {(known.url, known.height, known.width) for known in PERSON_DETECTORS.values()}
    used = {(entry["pose"], *entry["pose_input_size"][::-1]) for entry in Wholebody.MODE.values()}
    known = {(known.url, known.height, known.width) for known in POSE_MODELS.values()}
    assert used & known
    for name, entry in POSE_MODELS.items():
        assert name.endswith(f"{entry.height}x{entry.width}") and f"{entry.height}x{entry.width}" in entry.url


# OpenPose


@pytest.fixture(scope="module")
def openpose_folder(tmp_path_factory):
    """The files of controlnet-aux's networks with random weights, in the layout of the published ones."""
    openpose = import_openpose()
    face, model = openpose.face, openpose.model
    folder = tmp_path_factory.mktemp("openpose")
    torch.manual_seed(0)
    for name, network in (("body_pose_model", model.bodypose_model()), ("hand_pose_model", model.handpose_model())):
        weights = {key.partition(".")[2]: value for key, value in network.state_dict().items()}
        torch.save(weights, folder / f"{name}.pth")
    torch.save(face.FaceNet().state_dict(), folder / "facenet.pth")
    return folder


@pytest.fixture(scope="module")
def openpose(openpose_folder):
    return OpenPoseKeypointDetector(openpose_folder)


def test_openpose_runs_its_networks_behind_the_same_interface(openpose, openpose_folder):
    """Random weights find nobody."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 80, 48, 3), dtype=np.uint8)
    people = openpose.detect(frames, fps=24.0)
    np.testing.assert_array_equal(people.counts, [0])
    assert people.xy[0].shape == (0, 133, 2) and people.boxes[0].shape == (0, 4)
    keypoints = people.follow()
    assert (len(keypoints), keypoints.height, keypoints.width, keypoints.fps) == (1, 80, 48, 24.0)
    assert openpose.providers == dict.fromkeys(["body", "hand", "face"], "cpu")
    files = {"body": "body_pose_model.pth", "hand": "hand_pose_model.pth", "face": "facenet.pth"}
    assert openpose.sha256 == {
        role: hashlib.sha256((openpose_folder / name).read_bytes()).hexdigest() for role, name in files.items()
    }


class Dots:
    """In place of a network: point k is where a channel of the BGR image has the value `step * (k + 1)`."""

    def __init__(self, channel, step, count):
        self.channel, self.step, self.count = channel, step, count

    def find(self, image):
        found = [np.argwhere(image[..., self.channel] == self.step * (k + 1)) for k in range(self.count)]
        return [pixels.mean(axis=0)[::-1] if len(pixels) else None for pixels in found]


class DotBody(Dots):
    def __call__(self, image):
        found = self.find(image)
        rows = [(*point, 0.5, k) for k, point in enumerate(found) if point is not None]
        numbers = iter(range(len(rows)))
        indices = [-1 if point is None else next(numbers) for point in found]
        subset = [[*indices, 9.0, len(rows)]] if rows else np.empty((0, 20))
        return np.array(rows), np.array(subset, dtype=float)

    def format_body_result(self, candidate, subset):
        from controlnet_aux.open_pose.body import Body

        return Body.format_body_result(candidate, subset)


class DotHand(Dots):
    def __call__(self, image):
        return np.array([(0, 0) if point is None else point for point in self.find(image)])


class DotFace(Dots):
    def __call__(self, image):
        return image

    def compute_peaks_from_heatmaps(self, image):
        return np.array([point for point in self.find(image) if point is not None])


def grid(center, count, columns):
    """Points around the centre, 8 pixels apart."""
    rows, columns = np.divmod(np.arange(count), columns)
    return np.array(center) + 8 * np.stack([columns, rows], axis=1) - 24


def draw_dots(frame, channel, step, points):
    for number, point in enumerate(points):
        x, y = point
        frame[y - 2 : y + 2, x - 2 : x + 2, channel] = step * (number + 1)


def dotted_person(height=1024, width=1280):
    """A frame with a person's dots, and his body (18 OpenPose points), hands and face. The left knee is missing."""
    body = np.array(
        [
            *((600, 200), (600, 300), (500, 300), (440, 420), (400, 540), (700, 300), (760, 420), (800, 540)),
            *((540, 560), (540, 720), (540, 880), (660, 560), (0, 0), (660, 880)),
            *((580, 180), (620, 180), (552, 188), (648, 188)),
        ]
    )
    right_hand, left_hand, face = grid((388, 580), 21, 7), grid((812, 580), 21, 7), grid((600, 200), 71, 8)
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    draw_dots(frame, 0, 10, body)  # of the point in the corner, nothing is inside the frame
    draw_dots(frame, 2, 10, right_hand)
    draw_dots(frame, 2, 10, left_hand)
    draw_dots(frame, 1, 3, face)
    return frame, body, left_hand, right_hand, face


@pytest.fixture
def dot_detector(openpose, monkeypatch):
    """controlnet-aux around the stand-ins for its networks. It halves images of 1024 pixels before it looks."""
    monkeypatch.setattr(openpose._openpose, "body_estimation", DotBody(2, 10, 18))
    monkeypatch.setattr(openpose._openpose, "hand_estimation", DotHand(0, 10, 21))
    monkeypatch.setattr(openpose._openpose, "face_estimation", DotFace(1, 3, 71))
    return openpose


def test_openpose_points_are_put_where_they_are_in_the_frame(dot_detector):
    frame, body, left_hand, right_hand, face = dotted_person()
    people = dot_detector.detect(np.stack([frame, 0 * frame]), fps=30)
    np.testing.assert_array_equal(people.counts, [1, 0])
    keypoints = people.follow()
    xy, score = keypoints.openpose_body()
    others = np.setdiff1d(np.arange(18), [1, 12])  # the neck is the middle of the shoulders
    np.testing.assert_allclose(xy[0, others], body[others], atol=1e-3)
    assert (score[0, others] == 1).all() and score[0, 12] == 0 and np.isnan(xy[0, 12]).all()
    np.testing.assert_allclose(keypoints.xy[0, LEFT_HAND], left_hand, atol=1e-3)
    np.testing.assert_allclose(keypoints.xy[0, RIGHT_HAND], right_hand, atol=1e-3)
    np.testing.assert_allclose(keypoints.xy[0, FACE], face[:68], atol=1e-3)
    assert (keypoints.score[0, 23:] == 1).all() and not keypoints.score[0, FEET].any()
    found = keypoints.xy[0][keypoints.score[0] > 0]
    np.testing.assert_allclose(people.boxes[0][0], [*found.min(axis=0), *found.max(axis=0)])
    assert not keypoints.score[1].any()


def test_openpose_points_that_are_not_found_are_missing(dot_detector):
    frame, _, left_hand, _, face = dotted_person()
    for channel, (x, y) in ((2, left_hand[7]), (1, face[30])):
        frame[y - 2 : y + 2, x - 2 : x + 2, channel] = 0
    keypoints = dot_detector(frame[None], fps=30)
    np.testing.assert_array_equal(keypoints.score[0, LEFT_HAND], np.arange(21) != 7)
    assert (keypoints.score[0, RIGHT_HAND] == 1).all()
    # The face network leaves the point out and does not say which: none of the others can be named.
    assert not keypoints.score[0, FACE].any()


def test_openpose_runs_the_real_face_network_on_a_person_without_arms(dot_detector, openpose_folder, monkeypatch):
    from controlnet_aux.open_pose import Face

    monkeypatch.setattr(dot_detector._openpose, "face_estimation", Face(openpose_folder / "facenet.pth"))
    frame = dotted_person()[0]
    frame[..., 0][np.isin(frame[..., 0], [50, 80])] = 0
    keypoints = dot_detector(frame[None], fps=30)
    assert keypoints.score[0, BODY].any() and not keypoints.score[0, LEFT_WRIST]
    assert not keypoints.score[0, 91:].any()


def test_openpose_files_are_checked(openpose_folder, openpose, tmp_path):
    with pytest.raises(
        ValueError, match=f"`sha256` of the hand model must be {'0' * 64}, got {openpose.sha256['hand']}"
    ):
        OpenPoseKeypointDetector(openpose_folder, sha256={"hand": "0" * 64})
    with pytest.raises(ValueError, match="`sha256` must name models among body, hand, face, got 'pose'"):
        OpenPoseKeypointDetector(openpose_folder, sha256={"pose": "0" * 64})
    with pytest.raises(FileNotFoundError, match="`model` is a folder without body_pose_model.pth"):
        OpenPoseKeypointDetector(tmp_path)
    for name in ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="`model` contains a file that is no body model"):
        OpenPoseKeypointDetector(tmp_path)
    with pytest.raises(ValueError, match="`device` cannot be used here: 'warp'"):
        OpenPoseKeypointDetector(openpose_folder, device="warp")


def test_openpose_without_its_library_names_the_extra(openpose_folder, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("controlnet_aux")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "controlnet_aux", None)
    with pytest.raises(ImportError, match=r"`OpenPoseKeypointDetector` needs the `pose` extra"):
        OpenPoseKeypointDetector(openpose_folder)
