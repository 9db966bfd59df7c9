# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json
import os
import re
import resource
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import safetensors.numpy
from dancing_videos import BLUE, FPS, GREEN, GREY, HEIGHT, WIDTH, dancer_boxes, draw_scene, keypoints_of, write_dance
from onnx_models import write_models

from hia_diffusers import MotionBlurConditioner, WholeBodyKeypoints
from hia_diffusers.preparation.clip_index import COLUMNS, read_index
from hia_diffusers.preparation.clip_preparation import ClipPreparer, PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset
from hia_diffusers.preparation.video_lists import list_videos
from hia_diffusers.video.reading import read_frame_rate, read_video
from hia_diffusers.video.writing import write_video


RULES = ClipRules(min_seconds=0.5)
# Two dances, a scene that is too short, and one without anyone.
SCENES = [(dancer_boxes(20), BLUE), (dancer_boxes(26, x=30), GREEN), (dancer_boxes(4), BLUE), ([[]] * 18, GREEN)]


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def failures_of(root):
    return [json.loads(line) for line in (root / "failures.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos and, beside their folder, their keypoints."""
    folder = tmp_path_factory.mktemp("dance")
    write_dance(folder / "videos" / "a.mp4", SCENES, folder / "keypoints")
    write_dance(folder / "videos" / "more" / "b 1.mp4", [(dancer_boxes(17), GREY)], folder / "keypoints" / "more")
    return folder / "videos"


@pytest.fixture(scope="module")
def options(videos):
    return PreparationOptions(keypoints=str(videos.parent / "keypoints"), smooth=False, rules=RULES)


@pytest.fixture(scope="module")
def prepared(videos, options, tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare_dataset(videos, root, options)
    return root


def prepare_one(tmp_path, scenes, options, name="video.mp4"):
    """The report and the index of one video with keypoints."""
    write_dance(tmp_path / "videos" / name, scenes, tmp_path / "keypoints")
    options = replace(options, keypoints=str(tmp_path / "keypoints"))
    report = prepare_dataset(tmp_path / "videos", tmp_path / "prepared", options)
    return report, read_index(tmp_path / "prepared")


def test_scenes_become_clips(prepared):
    rows = read_index(prepared)
    found = [(row["video"], row["start_frame"], row["num_frames"], row["fps"]) for row in rows]
    assert found == [("a.mp4", 0, 20, FPS), ("a.mp4", 20, 26, FPS), ("more/b 1.mp4", 0, 17, FPS)]
    assert [list(row) for row in rows] == [list(COLUMNS)] * 3
    report = json.loads((prepared / "report.json").read_text())
    assert (report["videos"], report["failed_videos"], report["clips"], report["seconds"]) == (2, 0, 3, 2.1)
    assert {rule: count for rule, count in report["dropped"].items() if count} == {"too_short": 1, "no_person": 1}
    assert failures_of(prepared) == []


def test_a_clip_is_its_part_of_the_video(videos, prepared):
    video = read_video(videos / "a.mp4").frames
    clip = read_video(prepared / read_index(prepared)[1]["file_name"])
    assert clip.fps == FPS and clip.frames.shape == (26, HEIGHT, WIDTH, 3)
    assert np.abs(clip.frames.astype(int) - video[20:46]).mean() < 3
    with av.open(str(prepared / read_index(prepared)[1]["file_name"])) as container:
        keyframes = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert np.diff(np.flatnonzero(keyframes)).max() <= 12


def test_annotations_are_the_keypoints_and_what_is_measured_with_them(videos, prepared):
    path = prepared / read_index(prepared)[1]["annotations"]
    keypoints = WholeBodyKeypoints.load(path)
    expected = keypoints_of(SCENES[1][0])
    np.testing.assert_array_equal(keypoints.xy, expected.xy)
    assert (keypoints.height, keypoints.width, keypoints.fps) == (HEIGHT, WIDTH, FPS)
    annotations = safetensors.numpy.load_file(path)
    condition = MotionBlurConditioner()(expected, read_video(videos / "a.mp4").frames[20:46])
    for name in ("hand_boxes", "hand_sharpness"):
        np.testing.assert_array_equal(annotations[name], getattr(condition, name))
        assert annotations[name].dtype == np.float32
    assert "hand_motion" not in annotations, "the keypoints say it"
    face, boxes = expected.xy[:, 23:91], annotations["face_boxes"]
    assert boxes.dtype == np.float32 and boxes.shape == (26, 4)
    assert (face > boxes[:, None, :2]).all() and (face < boxes[:, None, 2:]).all()
    assert (boxes[:, 2:] - boxes[:, :2] < 2 * (face.max(axis=1) - face.min(axis=1))).all()


def test_measurements_in_the_index(prepared):
    row = read_index(prepared)[1]
    keypoints = keypoints_of(SCENES[1][0])
    height = keypoints.xy[0, :91, 1].max() - keypoints.xy[0, :91, 1].min()
    assert row["person_height"] == pytest.approx(height / HEIGHT, abs=1e-5)
    assert row["body_motion"] == pytest.approx(2 * FPS / height, rel=1e-4)  # 2 pixels a frame
    assert row["mean_score"] == 1
    condition = MotionBlurConditioner()(keypoints)
    assert row["hand_motion"] == pytest.approx(np.nanmean(np.linalg.norm(condition.hand_motion, axis=-1)), rel=1e-4)
    assert 0 <= row["hand_sharpness"] < 1


def test_unknown_measurements_are_null(tmp_path, options):
    write_dance(tmp_path / "videos" / "a.mp4", [(dancer_boxes(16), GREY)])
    keypoints = keypoints_of(dancer_boxes(16))
    keypoints.score[:, 7:11], keypoints.score[:, 23:] = 0, 0  # no elbows, wrists, faces and hands
    (tmp_path / "keypoints").mkdir()
    replace(keypoints).save(tmp_path / "keypoints" / "a.npz")
    prepare_dataset(tmp_path / "videos", tmp_path / "out", replace(options, keypoints=str(tmp_path / "keypoints")))
    row = read_index(tmp_path / "out")[0]
    assert row["hand_motion"] is None and row["hand_sharpness"] is None
    annotations = safetensors.numpy.load_file(tmp_path / "out" / row["annotations"])
    assert np.isnan(annotations["face_boxes"]).all() and np.isnan(annotations["hand_boxes"]).all()
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["hand_motion"]["count"] == 0 and statistics["hand_motion"]["mean"] is None
    assert statistics["seconds"]["mean"] == pytest.approx(16 / FPS, abs=1e-5)


def test_datasets_reads_and_streams_the_index(prepared, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = read_index(prepared)
    assert list(datasets.load_dataset(str(prepared), split="train", cache_dir=str(tmp_path))) == rows
    assert list(datasets.load_dataset(str(prepared), split="train", streaming=True)) == rows


def test_the_card_shows_the_figures_and_the_plots(prepared):
    card = (prepared / "README.md").read_text()
    assert "3 clips of one person each" in card and "| too_short | 1 |" in card
    plots = sorted(path.name for path in (prepared / "plots").iterdir())
    assert plots == ["body_motion.png", "durations.png", "hand_motion.png", "scores.png", "sharpness.png"]
    for name in plots:
        assert f"](plots/{name})" in card
        assert (prepared / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_clips_are_cropped_around_the_person_and_resized(tmp_path, options):
    boxes = [[(x, 14, x + 36, 114)] for x in np.arange(90, 110)]
    _, rows = prepare_one(tmp_path, [(boxes, BLUE)], replace(options, size=(192, 96)))
    frames = read_video(tmp_path / "prepared" / rows[0]["file_name"]).frames
    keypoints = WholeBodyKeypoints.load(tmp_path / "prepared" / rows[0]["annotations"])
    assert (
        frames.shape[1:3] == (192, 96) == (keypoints.height, keypoints.width) == (rows[0]["height"], rows[0]["width"])
    )
    # The window is 64 x 128; the middle of the dance, at x = 117.5, is its middle, but for the border of the image.
    expected = keypoints_of(boxes).crop(86, 0, 150, 128).resize(192, 96)
    np.testing.assert_allclose(keypoints.xy, expected.xy, atol=1.5)
    inside = frames[0, 30:160, int(keypoints.xy[0, 6, 0]) : int(keypoints.xy[0, 5, 0])]
    assert np.abs(inside - np.array([220, 90, 30])).max() < 60


@pytest.mark.parametrize(
    ("scene", "changes", "rule"),
    [
        (dancer_boxes(18), {"rules": replace(RULES, min_seconds=0.7)}, "too_short"),
        (dancer_boxes(18), {"size": (320, 288)}, "too_coarse"),
        (dancer_boxes(13, height=60) + [[]] * 5, {}, "no_person"),
        (dancer_boxes(18, height=60), {"rules": replace(RULES, min_person_height=0.6)}, "small_person"),
        ([[(x, 14, x + 36, 114)] for x in range(0, 120, 7)], {"size": (128, 32)}, "outside_image"),
        (dancer_boxes(18, step=0), {}, "little_motion"),
    ],
)
def test_each_rule_is_counted(tmp_path, options, scene, changes, rule):
    report, rows = prepare_one(tmp_path, [(scene, GREY)], replace(options, **changes))
    assert {name: count for name, count in report["dropped"].items() if count} == {rule: 1}
    assert rows == [] and not list((tmp_path / "prepared" / "clips").iterdir())


def test_low_scores_are_counted(tmp_path, options):
    write_dance(tmp_path / "videos" / "a.mp4", [(dancer_boxes(18), GREY)])
    keypoints = keypoints_of(dancer_boxes(18))
    (tmp_path / "keypoints").mkdir()
    replace(keypoints, score=0.4 * keypoints.score).save(tmp_path / "keypoints" / "a.npz")
    options = replace(options, keypoints=str(tmp_path / "keypoints"))
    assert prepare_dataset(tmp_path / "videos", tmp_path / "out", options)["dropped"]["low_scores"] == 1


def test_detected_people(tmp_path):
    """The models are small, but rtmlib runs them: boxes and keypoints come from the images."""
    crowd = [[*people, (120, 20, 150, 110)] for people in dancer_boxes(16, x=20)]
    (tmp_path / "models").mkdir()
    models = {name: str(path) for name, path in write_models(tmp_path / "models").items()}
    write_dance(tmp_path / "videos" / "a.mp4", [(dancer_boxes(18), BLUE), (crowd, GREEN)])
    (tmp_path / "videos" / "b.mp4").write_text("no video")
    options = PreparationOptions(detector=models, rules=RULES)
    report = prepare_dataset(tmp_path / "videos", tmp_path / "out", options)
    assert (report["clips"], report["dropped"]["several_people"], report["failed_videos"]) == (1, 1, 1)
    row = read_index(tmp_path / "out")[0]
    keypoints = WholeBodyKeypoints.load(tmp_path / "out" / row["annotations"])
    assert np.abs(keypoints.xy - keypoints_of(dancer_boxes(18)).xy)[:, :17].mean() < 3
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        options = PreparationOptions(detector=models | {"pose_model": "none.onnx"})
        prepare_dataset(tmp_path / "videos", tmp_path / "other", options)


def test_smoothing_takes_jitter_from_the_body(tmp_path, options):
    rng = np.random.default_rng(0)
    boxes = dancer_boxes(30, step=1)
    write_dance(tmp_path / "videos" / "a.mp4", [(boxes, GREY)])
    exact = keypoints_of(boxes)
    (tmp_path / "keypoints").mkdir()
    replace(exact, xy=exact.xy + rng.normal(0, 1, exact.xy.shape)).save(tmp_path / "keypoints" / "a.safetensors")
    errors = {}
    for smooth in (False, True):
        changed = replace(options, smooth=smooth, keypoints=str(tmp_path / "keypoints"))
        prepare_dataset(tmp_path / "videos", tmp_path / str(smooth), changed)
        row = read_index(tmp_path / str(smooth))[0]
        keypoints = WholeBodyKeypoints.load(tmp_path / str(smooth) / row["annotations"])
        errors[smooth] = np.abs(keypoints.xy - exact.xy)[:, 11:17].mean()
    assert errors[True] < 0.8 * errors[False]


def test_memory_does_not_grow_with_the_length(tmp_path, options):
    def peak(num_frames):
        folder = tmp_path / str(num_frames)
        write_dance(folder / "a.mp4", [(dancer_boxes(num_frames), GREY)], folder / "keypoints")
        for name in ("clips", "records"):
            (folder / name).mkdir()
        changed = replace(options, keypoints=str(folder / "keypoints"))
        prepare = ClipPreparer(str(folder), str(folder), changed)
        tracemalloc.start()
        prepare("a.mp4")
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    growth = peak(150)[0] - peak(50)[0]
    assert growth < 20 * HEIGHT * WIDTH * 3  # of 100 images and their keypoints


def write_rotated(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stored = np.rot90(frames, -1, axes=(1, 2))
        stream.height, stream.width, stream.pix_fmt = *stored.shape[1:3], "yuv420p"
        stream.set_display_rotation(90)
        for pixels in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())


def write_changing_size(path, *parts):
    """MPEG-4 states the size before every keyframe."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *parts[0].shape[1:3], "yuv420p"
        time = 0
        for frames in parts:
            encoder = av.CodecContext.create("mpeg4", "w")
            encoder.height, encoder.width, encoder.pix_fmt = *frames.shape[1:3], "yuv420p"
            encoder.time_base = Fraction(1, FPS)
            for pixels in frames:
                for packet in encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, FPS), time, time
                    container.mux(packet)
                    time += 1


def write_without_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def test_faulty_videos_are_listed_and_the_others_prepared(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    dance = draw_scene(dancer_boxes(20), GREY)
    noise = np.random.default_rng(0).integers(0, 256, (40, HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_video(folder / "good.mp4", dance, FPS)
    write_video(folder / "damaged.mp4", noise, FPS)
    content = bytearray((folder / "damaged.mp4").read_bytes())
    (folder / "truncated.mp4").write_bytes(content[: len(content) // 2])
    content[len(content) // 2 : len(content) // 2 + 2000] = b"\xaa" * 2000
    (folder / "damaged.mp4").write_bytes(content)
    (folder / "empty.mp4").write_bytes(b"")
    write_without_frames(folder / "frameless.avi")
    write_video(folder / "tiny.mp4", dance[:, :8, :], FPS)
    write_video(folder / "slow.mp4", dance, 1)
    write_rotated(folder / "phone.mp4", dance)
    write_changing_size(folder / "resized.mkv", dance, np.ascontiguousarray(dance[:18, :, 10:154]))
    (tmp_path / "models").mkdir()
    models = {name: str(path) for name, path in write_models(tmp_path / "models").items()}
    options = PreparationOptions(detector=models, rules=RULES)
    report = prepare_dataset(folder, tmp_path / "out", options)
    failures = failures_of(tmp_path / "out")
    names = ["damaged.mp4", "empty.mp4", "frameless.avi", "slow.mp4", "tiny.mp4", "truncated.mp4"]
    assert [(line["video"], line["stage"]) for line in failures] == [(name, "decode") for name in names]
    assert all(set(line) == {"video", "stage", "reason"} and "\n" not in line["reason"] for line in failures)
    assert failures[0]["reason"].startswith("'damaged.mp4' cannot be decoded as a video")
    assert failures[2]["reason"] == "'frameless.avi' contains no video frame."
    assert failures[3]["reason"] == "it states 1 frames per second, outside 5 to 240"
    assert failures[4]["reason"] == "it has frames of 160x8 pixels"
    rows = [
        (row["video"], row["start_frame"], row["num_frames"], row["width"]) for row in read_index(tmp_path / "out")
    ]
    expected = [("good.mp4", 0, 20, 160), ("phone.mp4", 0, 20, 160), ("resized.mkv", 0, 20, 160)]
    assert rows == [*expected, ("resized.mkv", 20, 18, 144)]
    assert prepare_dataset(folder, tmp_path / "out", options) == report
    assert failures_of(tmp_path / "out") == failures


@pytest.mark.parametrize(
    ("num_frames", "width", "reason"),
    [
        (19, WIDTH, "the video has more"),
        (21, WIDTH, "21 frames, the video has 20"),
        (20, 80, "of 20 frames of 80x128"),
    ],
)
def test_keypoints_of_another_video_are_a_failure(tmp_path, options, num_frames, width, reason):
    write_dance(tmp_path / "videos" / "a.mp4", [(dancer_boxes(20), GREY)], tmp_path / "keypoints")
    keypoints = replace(keypoints_of(dancer_boxes(num_frames)), width=width)
    keypoints.save(tmp_path / "keypoints" / "a.safetensors")
    options = replace(options, keypoints=str(tmp_path / "keypoints"))
    assert prepare_dataset(tmp_path / "videos", tmp_path / "out", options)["failed_videos"] == 1
    failure = failures_of(tmp_path / "out")[0]
    assert failure["stage"] == "keypoints" and reason in failure["reason"]
    assert not list((tmp_path / "out" / "clips").iterdir())


def test_the_frame_rate_is_that_of_the_video(tmp_path, options):
    """Also where keypoints state another one: the clip, its annotations and its measurements agree with the index."""
    rows = {}
    for fps in (FPS, 2 * FPS):
        folder = tmp_path / str(fps)
        write_dance(folder / "videos" / "a.mp4", [(dancer_boxes(20), GREY)])
        (folder / "keypoints").mkdir()
        replace(keypoints_of(dancer_boxes(20)), fps=fps).save(folder / "keypoints" / "a.npz")
        prepare_dataset(folder / "videos", folder / "out", replace(options, keypoints=str(folder / "keypoints")))
        rows[fps] = read_index(folder / "out")[0]
        assert read_frame_rate(folder / "out" / rows[fps]["file_name"]) == FPS
        assert WholeBodyKeypoints.load(folder / "out" / rows[fps]["annotations"]).fps == FPS
    assert rows[FPS] == rows[2 * FPS]


def test_a_second_run_takes_new_videos_only(tmp_path, options, prepared, videos):
    root = tmp_path / "out"
    (tmp_path / "list.txt").write_text("a.mp4\n")
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    prepare_dataset(folder, root, options)
    before = {path: path.stat().st_mtime_ns for path in (root / "clips").iterdir()}
    (folder / "more" / "b 1.mp4").write_bytes((videos / "more" / "b 1.mp4").read_bytes())
    prepare_dataset(folder, root, options)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert files_of(root) == files_of(prepared)


def test_other_options_and_other_videos_are_refused(tmp_path, options, videos):
    root = tmp_path / "out"
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    prepare_dataset(folder, root, options)
    files = files_of(root)
    with pytest.raises(ValueError, match=r"created with other options \(max_seconds was 10.0, is 5.0\)"):
        prepare_dataset(folder, root, replace(options, max_seconds=5.0))
    with pytest.raises(ValueError, match="created from other videos: a.mp4 is not in `videos`"):
        prepare_dataset(videos / "more", root, options)
    (folder / "a.mp4").write_bytes((videos / "more" / "b 1.mp4").read_bytes())
    with pytest.raises(ValueError, match="contains a.mp4, which changed after it was prepared"):
        prepare_dataset(folder, root, options)
    assert files_of(root) == files


def test_options_may_change_until_something_is_made(tmp_path, options, videos, prepared):
    """A mistyped model is found when the detector is made; the folder is then still good for the right one."""
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        wrong = PreparationOptions(detector={"detector_model": "none.onnx"}, rules=RULES)
        prepare_dataset(videos, tmp_path / "out", wrong)
    prepare_dataset(videos, tmp_path / "out", options)
    assert files_of(tmp_path / "out") == files_of(prepared)


def test_a_failed_video_may_be_taken_away(tmp_path, options, videos):
    folder, root = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (folder / "b.mp4").write_text("no video")
    assert prepare_dataset(folder, root, options)["failed_videos"] == 1
    (folder / "b.mp4").unlink()
    with pytest.raises(ValueError, match="b.mp4 is not in `videos`; .* or delete records/b-.*json in it if") as error:
        prepare_dataset(folder, root, options)
    (root / re.search(r"records/\S+", str(error.value))[0]).unlink()
    (root / "records" / ".DS_Store").write_bytes(b"\xff")  # as file managers leave it
    report = prepare_dataset(folder, root, options)
    assert (report["videos"], report["failed_videos"], report["clips"]) == (1, 0, 2)


def test_a_folder_of_something_else_is_not_written_to(tmp_path, options, videos):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="`output` must be an empty folder or one of an earlier run"):
        prepare_dataset(videos, tmp_path, options)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="`output` must not lie in the folder of the videos"):
        prepare_dataset(videos, videos / "prepared", options)
    (tmp_path / "link").symlink_to(videos)
    with pytest.raises(ValueError, match="`output` must not lie in the folder of the videos"):
        prepare_dataset(videos, tmp_path / "link" / "prepared", options)
    assert not (videos / "prepared").exists()
    with pytest.raises(ValueError, match="`output` must be an empty folder or one of an earlier run"):
        prepare_dataset(videos, tmp_path / "thesis.tex", options)


def test_an_output_may_lie_beside_a_list(tmp_path, options, videos):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "b 1.mp4").write_bytes((videos / "more" / "b 1.mp4").read_bytes())
    (tmp_path / "list.txt").write_text("more/b 1.mp4\n")
    for _ in range(2):
        report = prepare_dataset(tmp_path / "list.txt", tmp_path / "out", options)
        assert (report["videos"], report["clips"]) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (95, 128)}, "`size` must be an even height and width"),
        ({"size": (96,)}, "`size` must be an even height and width"),
        ({"size": (96.0, 128.0)}, "`size` must be an even height and width"),
        ({"size": "96x128"}, "`size` must be an even height and width"),
        ({"max_seconds": 0.1}, "`max_seconds` must be at least the rules' `min_seconds`"),
        ({"max_seconds": float("inf")}, "`max_seconds` must be a finite number"),
        ({"cut_threshold": 0}, "`threshold` must be a finite number, above 0"),
        ({"size": (96, 16386)}, "`size` must be an even height and width from 16 to 16384"),
        ({"keyframe_interval": 0}, "`keyframe_interval` must be an integer from 1 to 10000, got 0"),
        ({"keyframe_interval": 2**31}, "`keyframe_interval` must be an integer from 1 to 10000, got 2147483648"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match=message):
        PreparationOptions(rules=RULES, **changes)


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, options, videos):
    for changes, message in (
        ({"engine": "slurm"}, "`engine` must be"),
        ({"workers": 0}, "`workers` must be an integer from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_dataset(videos, tmp_path / "out", options, **changes)
    with pytest.raises(FileNotFoundError, match="`options.keypoints` is not a folder"):
        prepare_dataset(videos, tmp_path / "out", replace(options, keypoints=str(tmp_path / "none")))
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "a.mov"):
        (tmp_path / "videos" / name).touch()
    with pytest.raises(ValueError, match="`videos` must differ in more than the suffix"):
        prepare_dataset(tmp_path / "videos", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, options, videos, prepared):
    root = tmp_path / "out"
    sizes = sorted(path.stat().st_size for path in (prepared / "clips").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (sizes[0] // 2, sizes[2] + 1, sizes[-1] - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                prepare_dataset(videos, root, options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not (root / "index.parquet").exists()
        assert all(
            path.name in {other.name for other in (prepared / "clips").iterdir()}
            for path in (root / "clips").glob("*")
        )
    prepare_dataset(videos, root, options)
    assert files_of(root) == files_of(prepared)


def test_videos_and_output_in_an_object_store(options, videos, prepared):
    store = fsspec.filesystem("memory")
    try:
        for path in videos.rglob("*.mp4"):
            store.pipe_file(f"/videos/{path.relative_to(videos)}", path.read_bytes())
        prepare_dataset("memory://videos", "memory://out", options)
        stored = {name.removeprefix("/out/"): store.cat_file(name) for name in store.find("/out")}
        assert stored == files_of(prepared)
        assert read_index("memory://out") == read_index(prepared)
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


def test_videos_are_listed_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.mp4").touch()
    assert list_videos(tmp_path)[1] == [f"{number}.mp4" for number in range(12)]


def test_a_list_of_videos(tmp_path, videos):
    assert list_videos(videos) == (str(videos), ["a.mp4", "more/b 1.mp4"])
    (videos / "list.txt").write_bytes(b"\xef\xbb\xbfmore//b 1.mp4\r\n\r\n  \r\n./a.mp4\r\n")
    try:
        assert list_videos(videos / "list.txt") == (str(videos), ["a.mp4", "more/b 1.mp4"])
        assert list_videos(videos) == (str(videos), ["a.mp4", "more/b 1.mp4"])
    finally:
        (videos / "list.txt").unlink()


@pytest.mark.parametrize("name", ["../secret.mp4", "{outside}/secret.mp4", "sub/../../secret.mp4", "link.mp4"])
def test_a_path_in_a_list_that_leaves_its_folder_is_refused(tmp_path, name):
    (tmp_path / "secret.mp4").touch()
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    name = name.format(outside=tmp_path)
    (folder / "list.txt").write_text(f"{name}\n")
    with pytest.raises(ValueError, match="names a path that leaves its folder: .*(secret|link).mp4"):
        list_videos(folder / "list.txt")
    with pytest.raises(ValueError, match="names a path that leaves its folder: 'link.mp4'"):
        list_videos(folder)


def test_lists_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a list of videos"):
        list_videos(tmp_path / "none")
    with pytest.raises(ValueError, match="`videos` contains no videos"):
        list_videos(tmp_path)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\na.mp4\n")
    with pytest.raises(ValueError, match="`videos` names a video twice: a.mp4"):
        list_videos(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.mp4\n./a.mp4\n")
    with pytest.raises(ValueError, match="`videos` names a video twice: a.mp4"):
        list_videos(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.mp4\n")
    with pytest.raises(FileNotFoundError, match="names a file that does not exist: a.mp4"):
        list_videos(tmp_path / "list.txt")
    write_video(tmp_path / "a.mp4", draw_scene(dancer_boxes(2)), FPS)
    with pytest.raises(ValueError, match="`videos` must be a folder, or a list as text, .* in UTF-8, got .*a.mp4"):
        list_videos(tmp_path / "a.mp4")


def test_odd_names_in_a_folder(tmp_path):
    for name in ("VID 12:30.mp4", "a.GIF", "b.3gp", "notes.txt", "é\n舞.webm"):
        (tmp_path / name).touch()
    assert list_videos(tmp_path)[1] == ["VID 12:30.mp4", "a.GIF", "b.3gp", "é\n舞.webm"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(ValueError, match="`videos` contains a link to a folder, which is not followed: link"):
        list_videos(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not store such names")
def test_a_name_that_is_no_text(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    with pytest.raises(ValueError, match=r"contains a file whose name is not UTF-8: 'caf\\udce9.mp4'"):
        list_videos(tmp_path)


def test_nothing_but_the_documented_files_is_left(prepared):
    names = {path.name for path in prepared.iterdir()}
    assert names == {
        *("README.md", "clips", "failures.jsonl", "index.parquet", "options.json", "plots", "records"),
        *("report.json", "statistics.json"),
    }
    assert len(os.listdir(prepared / "clips")) == 6 and len(os.listdir(prepared / "records")) == 2
    assert not any(Path(name).name.startswith(".") for name in files_of(prepared))
