# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest
import torch
from onnx_models import write_models

from hia_diffusers.detection.choosing import choose_detector, create_detector
from hia_diffusers.detection.keypoint_detector import KeypointDetector
from hia_diffusers.detection.model_files import PERSON_DETECTORS, POSE_MODELS, download_folder


@pytest.fixture(autouse=True)
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


@pytest.fixture
def with_mediapipe(tmp_path, monkeypatch):
    """Whether the library is found, which is not imported before it is used."""
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "mediapipe.py").write_text("raise ImportError('not imported to choose')")
    monkeypatch.syspath_prepend(tmp_path / "libraries")
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)


@pytest.fixture
def without_mediapipe(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "mediapipe").is_dir()])
    monkeypatch.delitem(sys.modules, "mediapipe", raising=False)


def download_rtmpose(*names):
    table = {**PERSON_DETECTORS, **POSE_MODELS}
    for name in names:
        path = download_folder(name) / Path(table[name].url).with_suffix(".onnx").name
        path.parent.mkdir(parents=True)
        path.touch()


def test_mediapipe_is_chosen_while_rtmpose_is_not_downloaded(with_mediapipe):
    assert choose_detector() == "mediapipe"
    download_rtmpose("yolox-m", "rtmw-l-384x288")
    assert choose_detector() == "mediapipe"
    download_rtmpose("dwpose-l-384x288")
    assert choose_detector() == "rtmpose"


def test_rtmpose_is_chosen_for_what_only_it_accepts(with_mediapipe):
    assert choose_detector(device="cuda") == choose_detector(pose_model="x.onnx") == "rtmpose"
    assert choose_detector(device="cpu") == "mediapipe"


def test_mediapipe_is_chosen_for_models_that_only_it_accepts(without_mediapipe, tmp_path):
    download_rtmpose("yolox-m", "rtmw-l-384x288", "dwpose-l-384x288")
    assert choose_detector(pose_model="models.whl", device="cpu") == "mediapipe"
    assert choose_detector(pose_model=tmp_path) == "mediapipe"
    assert choose_detector(pose_model=tmp_path, feet_model=None) == "rtmpose"


def test_rtmpose_is_chosen_without_mediapipe(without_mediapipe):
    assert choose_detector() == "rtmpose"


def test_a_name_is_obeyed(with_mediapipe, tmp_path):
    assert choose_detector("openpose") == "openpose"
    detector = create_detector("rtmpose", **write_models(tmp_path))
    assert isinstance(detector, KeypointDetector) and str(detector) == "RTMPose on CPUExecutionProvider"
    with pytest.raises(ValueError, match="`detector` must be .*'yolo'"):
        create_detector("yolo")
