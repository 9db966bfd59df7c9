# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import http.server
import threading
import zipfile

import numpy as np
import pytest
import torch
from mediapipe_wheel import MEDIAPIPE_WHEEL, needs_mediapipe

from hia_diffusers.conditioning.whole_body import (
    BODY,
    FACE,
    FEET,
    LEFT_ANKLE,
    LEFT_EYE,
    LEFT_HAND,
    LEFT_HIP,
    LEFT_WRIST,
    NOSE,
    RIGHT_ANKLE,
    RIGHT_EYE,
    RIGHT_HAND,
    RIGHT_WRIST,
    SCORE_THRESHOLD,
)
from hia_diffusers.detection import mediapipe_models
from hia_diffusers.detection.mediapipe_detector import (
    BODY_IN_POSE,
    FACE_IN_MESH,
    FEET_IN_POSE,
    MediaPipeKeypointDetector,
)
from hia_diffusers.detection.mediapipe_models import PUBLISHED_BUNDLES, read_bundles
from hia_diffusers.procedural.scene import ProceduralScene


# Names of MediaPipe's 33 points, in its order.
POSE = (
    "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear "
    "mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky "
    "right_pinky left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle left_heel right_heel left_foot_index right_foot_index"
).split()


# Correspondence of points


def test_body_and_feet_have_the_points_of_their_names():
    body = (
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
        "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
    )
    assert [POSE[index] for index in BODY_IN_POSE] == body.split()
    feet = {17: "left_foot_index", 19: "left_heel", 20: "right_foot_index", 22: "right_heel"}
    assert {point: POSE[index] for point, index in FEET_IN_POSE.items()} == feet


def test_each_face_point_is_in_the_mesh_and_differs():
    assert len(FACE_IN_MESH) == FACE.stop - FACE.start
    assert len(set(FACE_IN_MESH)) == 68 and 0 <= np.min(FACE_IN_MESH) <= np.max(FACE_IN_MESH) < 468


# What is refused


def test_other_places_of_models_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`pose_model` must be a folder or a wheel of MediaPipe, got 3"):
        read_bundles(3)
    with pytest.raises(FileNotFoundError, match="`pose_model` must be a folder with pose_landmarker_full.task and "):
        read_bundles(tmp_path / "none.whl")
    (tmp_path / "holistic_landmarker.task").touch()
    with pytest.raises(FileNotFoundError, match="a folder without pose_landmarker_full.task"):
        read_bundles(tmp_path)
    with zipfile.ZipFile(tmp_path / "new.whl", "w") as wheel:
        wheel.writestr("mediapipe/__init__.py", "")
    for content in (tmp_path / "new.whl", tmp_path / "holistic_landmarker.task"):
        with pytest.raises(ValueError, match="`pose_model` must be a wheel of MediaPipe that contains its models"):
            read_bundles(content)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Publishes the files of a folder as bundles, and counts requests."""
    (tmp_path / "published").mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "published"))

        def log_message(self, _, request, *args):
            requests.append(request)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever).start()
        address = f"http://127.0.0.1:{running.server_address[1]}"
        urls = {name: f"{address}/{url.rsplit('/', 1)[1]}" for name, url in PUBLISHED_BUNDLES.items()}
        monkeypatch.setattr(mediapipe_models, "PUBLISHED_BUNDLES", urls)
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
        yield tmp_path / "published", requests
        running.shutdown()


def test_bundles_are_downloaded_once_and_whole(server, tmp_path):
    folder, requests = server
    with pytest.raises(ConnectionError, match="MediaPipe's models cannot be downloaded .*pass a folder or a wheel"):
        read_bundles(None)
    for name in ("pose_landmarker_full.task", "holistic_landmarker.task"):
        with zipfile.ZipFile(folder / name, "w") as bundle:
            bundle.writestr("model.tflite", name * 100)
    whole = (folder / "holistic_landmarker.task").read_bytes()
    (folder / "holistic_landmarker.task").write_bytes(whole[:50])
    with pytest.raises(ConnectionError, match="the download was truncated"):
        read_bundles(None)
    (folder / "holistic_landmarker.task").write_bytes(whole)
    assert read_bundles(None)["holistic"] == whole
    before = len(requests)
    assert read_bundles(None) == read_bundles(tmp_path / "hub" / "hia_diffusers" / "mediapipe")
    assert len(requests) == before


# Detection


@pytest.fixture(scope="module")
def detector():
    return MediaPipeKeypointDetector(MEDIAPIPE_WHEEL)


@pytest.fixture(scope="module")
def clip():
    """A procedural person who shows face, hands and feet."""
    return ProceduralScene("test", 3, 3, 3).render([0, 20, 40, 60], 448, 256)


@needs_mediapipe
def test_the_points_of_a_drawn_person_are_where_they_are(detector, clip):
    found = detector(clip.frames, clip.keypoints.fps)
    exact = clip.keypoints
    height = np.ptp(exact.xy[:, BODY, 1], axis=1)[:, None]
    error = np.linalg.norm(found.xy - exact.xy, axis=-1) / height
    head = [NOSE, LEFT_EYE, RIGHT_EYE]
    tolerances = ((BODY, 0.03), (FEET, 0.04), (FACE, 0.01), (head, 0.01), (LEFT_HAND, 0.04), (RIGHT_HAND, 0.04))
    for part, tolerance in tolerances:
        both = (exact.score[:, part] == 1) & (found.score[:, part] > SCORE_THRESHOLD)
        assert both.any() and np.median(error[:, part][both]) < tolerance
    small_toes = found.score[:, [18, 21]]
    assert found.score[:, FACE].all()
    assert (small_toes == 0).all() and np.isnan(found.xy[:, [18, 21]]).all()


@needs_mediapipe
def test_a_frame_does_not_depend_on_those_before(detector, clip):
    alone = detector.detect(clip.frames[2:3], fps=30)
    after = detector.detect(clip.frames, fps=30)
    np.testing.assert_allclose(alone.xy[0], after.xy[2], atol=0.01)
    np.testing.assert_allclose(alone.score[0], after.score[2], atol=1e-3)


@needs_mediapipe
def test_several_people_have_their_own_faces_and_hands(detector, clip):
    other = ProceduralScene("test", 0, 0, 0).render([0], 448, 256)
    frame = np.concatenate([clip.frames[0], other.frames[0]], axis=1)
    people = detector.detect(frame[None], fps=30)
    assert people.counts.tolist() == [2]
    order = people.boxes[0][:, 0].argsort()
    for person, exact, offset in zip(order, (clip.keypoints, other.keypoints), (0, 256), strict=True):
        box = people.boxes[0][person]
        assert offset <= box[0] < box[2] <= offset + 256
        nose, eyes = people.xy[0][person, NOSE], people.xy[0][person, FACE][36:48].mean(axis=0)
        assert np.linalg.norm(nose - exact.xy[0, NOSE] - (offset, 0)) < 10 and np.linalg.norm(nose - eyes) < 20
    assert len(MediaPipeKeypointDetector(MEDIAPIPE_WHEEL, max_people=1).detect(frame[None], fps=30).xy[0]) == 1


@needs_mediapipe
def test_nobody_is_found_in_an_empty_frame(detector):
    people = detector.detect(np.full((1, 96, 64, 3), 90, np.uint8), fps=30)
    assert people.counts.tolist() == [0] and people.xy[0].shape == (0, 133, 2)


@needs_mediapipe
def test_a_photograph(detector):
    """The astronaut of scikit-image is shown to the hips: shoulders, face and no legs."""
    astronaut = pytest.importorskip("skimage.data").astronaut()
    found = detector(astronaut[None], fps=1)
    assert (found.score[0, BODY][:7] > 0.9).all() and (found.score[0, FACE] == 1).all()
    assert (found.score[0, [LEFT_ANKLE, RIGHT_ANKLE]] < SCORE_THRESHOLD).all()
    for point, xy in {NOSE: (223, 127), LEFT_EYE: (246, 103), RIGHT_EYE: (204, 102)}.items():  # as seen in the image
        assert np.linalg.norm(found.xy[0, point] - xy) < 5


@needs_mediapipe
def test_wrong_arguments_are_refused(tmp_path):
    for arguments, message in (
        ({"device": "cuda"}, "`device` must be 'cpu'"),
        ({"max_people": 0}, "`max_people` must be an integer from 1"),
        ({"min_confidence": 2}, "`min_confidence` must be a finite number, at least 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=message):
            MediaPipeKeypointDetector(MEDIAPIPE_WHEEL, **arguments)
    for name in ("pose_landmarker_full.task", "holistic_landmarker.task"):
        with zipfile.ZipFile(tmp_path / name, "w") as bundle:
            bundle.writestr("pose_detector.tflite", b"no model")
    with pytest.raises(ValueError, match="`pose_model` cannot be loaded by MediaPipe"):
        MediaPipeKeypointDetector(tmp_path)


@needs_mediapipe
def test_bundles_may_be_files(detector, clip, tmp_path):
    for name, content in read_bundles(MEDIAPIPE_WHEEL).items():
        (tmp_path / PUBLISHED_BUNDLES[name].rsplit("/", 1)[1]).write_bytes(content)
    expected = detector(clip.frames[:1], fps=30)
    np.testing.assert_allclose(MediaPipeKeypointDetector(tmp_path)(clip.frames[:1], fps=30).xy, expected.xy, atol=0.01)


@needs_mediapipe
def test_left_and_right_are_the_persons(detector, clip):
    found = detector(clip.frames[:1], fps=30)
    for hand, wrist in ((LEFT_HAND, LEFT_WRIST), (RIGHT_HAND, RIGHT_WRIST)):
        if found.score[0, hand].any():
            assert np.linalg.norm(found.xy[0, hand][0] - found.xy[0, wrist]) < 30
    assert found.xy[0, LEFT_HIP, 0] > found.xy[0, LEFT_HIP + 1, 0]
