# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json
import tracemalloc

import numpy as np
import pytest
from dancing_videos import BLUE, dancer_boxes, draw_scene, keypoints_of
from PIL import Image

from hia_diffusers import MotionBlurConditioner
from hia_diffusers.animation.driving import Driving
from hia_diffusers.video.display import Display
from hia_diffusers.video.reading import Video, VideoFrames, read_video
from hia_diffusers.video.writing import write_video


BOXES = dancer_boxes(13)
FPS = 10


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The same clip in every form, and its frames or points."""
    folder = tmp_path_factory.mktemp("clips")
    frames = draw_scene(BOXES, BLUE)
    for name in ("dance.mp4", "dance.webp", "dance.gif"):
        write_video(folder / name, frames, FPS)
    keypoints = keypoints_of(BOXES)
    keypoints = type(keypoints)(keypoints.xy, keypoints.score, keypoints.height, keypoints.width, FPS)
    keypoints.save(folder / "dance.npz")
    forms = {
        name: (folder / name, read_video(folder / name).frames) for name in ("dance.mp4", "dance.webp", "dance.gif")
    }
    forms["Video"] = Video(frames, FPS), frames
    forms["Driving"] = Driving.load(folder / "dance.mp4"), forms["dance.mp4"][1]
    forms["keypoints"] = keypoints, keypoints.xy
    forms["dance.npz"] = folder / "dance.npz", keypoints.xy
    return forms


@pytest.mark.parametrize(
    "form", ["dance.mp4", "dance.webp", "dance.gif", "Video", "Driving", "keypoints", "dance.npz"]
)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, slice(None)),
        ({"start": 0.3}, slice(3, None)),
        ({"start": 0.35}, slice(3, None)),  # shown until 0.4
        ({"end": 0.3}, slice(0, 3)),
        ({"start": 0.29, "end": 0.31}, slice(2, 4)),
        ({"end": 1e-3}, slice(0, 1)),
        ({"end": 99.0}, slice(None)),
        ({"every": 3}, slice(0, None, 3)),
        ({"start": 0.2, "end": 0.9, "every": 2}, slice(2, 9, 2)),
        ({"start": 0.2, "every": 4, "max_frames": 2}, slice(2, 7, 4)),
        ({"max_frames": 2}, slice(0, 2)),
    ],
    ids=str,
)
def test_a_part_of_every_kind_of_clip(clips, form, options, expected):
    driving, whole = clips[form]
    clip = Driving.load(driving, **options)
    if clip.keypoints is None:
        np.testing.assert_array_equal(np.stack(list(clip.frames)), whole[expected])
        assert clip.kind == "video"
    else:
        np.testing.assert_array_equal(clip.keypoints.xy, whole[expected])
        assert clip.keypoints.fps == clip.fps
    assert len(clip) == len(whole[expected]) and clip.fps == pytest.approx(FPS / options.get("every", 1))
    assert clip.sound_start == pytest.approx((expected.start or 0) / FPS)
    with pytest.raises(ValueError, match="`start` must be before the end of the driving clip, got 1.3 seconds"):
        Driving.load(driving, start=1.3)


def test_a_folder_of_images_in_the_order_of_their_numbers(tmp_path):
    frames = draw_scene(BOXES, BLUE)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"dance_{index + 1}.png")  # 10 after 9
    (tmp_path / "notes.txt").write_text("not a frame")
    with pytest.raises(ValueError, match="`driving`: .* does not state its frame rate; pass `driving_fps`"):
        Driving.load(tmp_path)
    clip = Driving.load(tmp_path, driving_fps=FPS, start=0.8, every=2)
    assert (clip.kind, clip.fps, clip.sound) == ("video", FPS / 2, None)
    np.testing.assert_array_equal(np.stack(list(clip.frames)), frames[8::2])
    with pytest.raises(ValueError, match="`driving_fps` must be a finite number"):
        Driving.load(tmp_path, driving_fps=0)
    keypoints = {"people": [{"pose_keypoints_2d": [1.0, 2.0, 0.5] * 18}], "canvas_width": 160, "canvas_height": 128}
    (tmp_path / "dance_1.json").write_text(json.dumps(keypoints))  # beside its rendered image
    assert Driving.load(tmp_path).kind == "keypoints"
    assert len(Driving.load(tmp_path, "video", driving_fps=FPS)) == len(frames)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`driving`: .*empty contains neither images nor .json files"):
        Driving.load(tmp_path / "empty", driving_fps=FPS)


def test_parts_of_parts(clips):
    driving, whole = clips["dance.mp4"]
    clip = Driving.load(Driving.load(driving, start=0.2, every=2), start=0.2, every=2)
    np.testing.assert_array_equal(np.stack(list(clip.frames)), whole[2:][::2][1:][::2])
    assert clip.sound_start == pytest.approx(0.4) and clip.fps == FPS / 4


def test_the_motion_of_a_hand_is_that_since_the_frame_that_was_shown_before(clips):
    keypoints = clips["keypoints"][0]
    every = MotionBlurConditioner()(Driving.load(keypoints, every=2).keypoints)
    whole = MotionBlurConditioner()(keypoints)
    # Both in units per frame at a nominal rate: mean speeds, which do not depend on how many frames are shown.
    speeds = (whole.hand_motion[1:-1:2] + whole.hand_motion[2::2]) / 2
    np.testing.assert_allclose(every.hand_motion[1:], speeds, rtol=0.05, atol=0.02)


def test_frames_that_are_skipped_take_no_memory_and_are_not_converted(tmp_path, monkeypatch):
    frame = np.zeros((480, 640, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", (frame for _ in range(60)), 30)
    shown = []
    show = Display.__call__
    monkeypatch.setattr(Display, "__call__", lambda self, frame: shown.append(1) or show(self, frame).copy())
    for options, count in (({"start": 1.9}, 3), ({"every": 20}, 3), ({"end": 0.1}, 3)):
        shown.clear()
        tracemalloc.start()
        clip = Driving.load(tmp_path / "clip.mp4", "video", **options)
        assert isinstance(clip.frames, VideoFrames) and sum(1 for _ in clip.frames) == count
        assert tracemalloc.get_traced_memory()[1] < 4 * frame.nbytes and len(shown) <= count + 1
        tracemalloc.stop()
