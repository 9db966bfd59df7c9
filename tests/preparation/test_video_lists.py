# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Where other projects have their videos: folders of frames, tables and lists of objects."""

import json
import os
import shutil
from dataclasses import replace

import fsspec
import numpy as np
import pytest
from dancing_videos import BLUE, FPS, HEIGHT, WIDTH, dancer_boxes, draw_scene, keypoints_of
from PIL import Image

from hia_diffusers import WholeBodyKeypoints
from hia_diffusers.preparation.clip_index import read_index
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset
from hia_diffusers.preparation.video_lists import list_videos
from hia_diffusers.video.frame_folders import stream_frame_folder
from hia_diffusers.video.reading import read_video


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_frames(folder, frames):
    """Without zeros before the numbers: 10 comes before 9 in the order of letters."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"{number}.png")


# Folders of frames


def test_the_layout_of_tiktok(tmp_path):
    parts = ("images/0001.png", "masks/0001.png", "densepose/0001.png")
    touch(tmp_path, *(f"{clip}/{part}" for clip in ("00001", "00002") for part in parts))
    touch(tmp_path, "plain/0001.jpg", "video.mp4", "posters/a.mp4", "posters/a.jpg", "preview.png", ".cache/1.json")
    expected = ["00001/images", "00002/images", "plain", "posters/a.mp4", "video.mp4"]
    assert list_videos(tmp_path, frames_fps=30) == (str(tmp_path), expected)
    assert list_videos(tmp_path)[1] == ["posters/a.mp4", "video.mp4"]


def test_what_is_said_where_the_frame_rate_is_missing_or_of_no_use(tmp_path):
    touch(tmp_path, "00001/images/0001.png", "00001/masks/0001.png")
    with pytest.raises(ValueError, match="no videos but folders of images, such as 00001/images: .* `frames_fps`"):
        list_videos(tmp_path)
    (tmp_path / "list.txt").write_text("00001/images\n")
    with pytest.raises(ValueError, match="names folders of images, such as 00001/images: pass .* as `frames_fps`"):
        list_videos(tmp_path / "list.txt")
    assert list_videos(tmp_path / "list.txt", 25)[1] == ["00001/images"]
    touch(tmp_path / "flat", "TiktokDance_00338_0001.png")
    for fps, message in ((None, "move the frames of each clip to a folder of its own"), (30, "no folders of images")):
        with pytest.raises(ValueError, match=message):
            list_videos(tmp_path / "flat", fps)
    touch(tmp_path / "videos", "a.mp4", "a.jpg")
    with pytest.raises(ValueError, match="contains no folders of images, which `frames_fps` requires"):
        list_videos(tmp_path / "videos", 30)
    (tmp_path / "videos" / "list.txt").write_text("a.mp4\n")
    with pytest.raises(ValueError, match="names no folders of images, which `frames_fps` requires"):
        list_videos(tmp_path / "videos" / "list.txt", 30)


def test_frames_come_in_the_order_of_their_numbers_as_they_are_shown(tmp_path):
    shades = [np.full((20, 16, 3), 10 * number, np.uint8) for number in range(12)]
    write_frames(tmp_path / "clip", shades)
    touch(tmp_path / "clip", ".DS_Store", "labels.json", ".3.png")
    np.testing.assert_array_equal(np.stack(list(stream_frame_folder(tmp_path / "clip"))), shades)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(shades[0]).save(tmp_path / "clip" / "20.png", exif=turned)
    assert [frame.shape for frame in stream_frame_folder(tmp_path / "clip")][-1] == (16, 20, 3)
    touch(tmp_path / "clip", "02.png")
    with pytest.raises(ValueError, match="have the same name or number"):
        stream_frame_folder(tmp_path / "clip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no frames"):
        stream_frame_folder(tmp_path / "empty")


@pytest.fixture
def dance(tmp_path):
    """Two dances as TikTok's layout has them, their keypoints, and the options to prepare them."""
    boxes = dancer_boxes(18)
    for clip in ("00001", "00002"):
        write_frames(tmp_path / "tiktok" / clip / "images", draw_scene(boxes, BLUE))
        (tmp_path / "keypoints" / clip).mkdir(parents=True)
        keypoints_of(boxes).save(tmp_path / "keypoints" / clip / "images.npz")
    write_frames(tmp_path / "tiktok" / "00001" / "masks", draw_scene(boxes)[:3])
    rules = ClipRules(min_seconds=0.5)
    return PreparationOptions(keypoints=str(tmp_path / "keypoints"), smooth=False, frames_fps=FPS, rules=rules)


def test_folders_of_frames_become_clips(tmp_path, dance):
    for _ in range(2):
        assert prepare_dataset(tmp_path / "tiktok", tmp_path / "out", dance)["clips"] == 2
    row = read_index(tmp_path / "out")[0]
    assert (row["video"], row["num_frames"], row["fps"]) == ("00001/images", 18, FPS)
    clip = read_video(tmp_path / "out" / row["file_name"])
    assert clip.fps == FPS and clip.frames.shape == (18, HEIGHT, WIDTH, 3)
    assert np.abs(clip.frames.astype(int) - draw_scene(dancer_boxes(18), BLUE)).mean() < 3
    expected = keypoints_of(dancer_boxes(18)).xy
    np.testing.assert_array_equal(WholeBodyKeypoints.load(tmp_path / "out" / row["annotations"]).xy, expected)

    with pytest.raises(ValueError, match=r"created with other options \(frames_fps was 30, is 25\)"):
        prepare_dataset(tmp_path / "tiktok", tmp_path / "out", replace(dance, frames_fps=25))
    (tmp_path / "tiktok" / "00001" / "images" / "18.png").unlink()
    with pytest.raises(ValueError, match="contains 00001/images, which changed after it was prepared"):
        prepare_dataset(tmp_path / "tiktok", tmp_path / "out", dance)
    for fps in (1, 300, float("nan")):
        with pytest.raises(ValueError, match="`frames_fps` must be a finite number, at least 5 and at most 240"):
            replace(dance, frames_fps=fps)


def test_a_frame_that_cannot_be_read_is_the_failure_of_its_folder(tmp_path, dance):
    for damage in (lambda path: path.write_bytes(b"no image"), lambda path: [path.unlink(), os.mkfifo(path)]):
        damage(tmp_path / "tiktok" / "00001" / "images" / "7.png")
        report = prepare_dataset(tmp_path / "tiktok", tmp_path / "out", dance)
        assert (report["clips"], report["failed_videos"]) == (1, 1)
        failure = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
        assert failure["video"] == "00001/images" and failure["stage"] == "decode" and "7.png" in failure["reason"]
        shutil.rmtree(tmp_path / "out")


def test_folders_of_frames_in_an_object_store(tmp_path, dance):
    store = fsspec.filesystem("memory")
    try:
        store.put(str(tmp_path / "tiktok"), "/tiktok", recursive=True)
        prepare_dataset("memory://tiktok", tmp_path / "remote", dance)
        prepare_dataset(tmp_path / "tiktok", tmp_path / "local", dance)
        assert read_index(tmp_path / "remote") == read_index(tmp_path / "local")
    finally:
        store.store.clear()
        store.pseudo_dirs[:] = [""]


# Lists


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "video,pose\nfashion/a.mp4,pose/a.mp4\nfashion/b.mp4,pose/b.mp4\n"),
        ("ubc.csv", '\ufeffid,video_path\r\n1,"fashion/a.mp4"\r\n2,fashion//b.mp4\r\n'),
        ("meta.json", [{"video_path": "fashion/a.mp4", "kps_path": "a"}, {"video_path": "./fashion/b.mp4"}]),
        ("paths.json", ["fashion/b.mp4", "fashion/a.mp4"]),
        ("absolute.json", ["{folder}/fashion/b.mp4", "fashion/a.mp4"]),
        ("meta.jsonl", '{"file_name": "fashion/a.mp4"}\n\n"fashion/b.mp4"\n'),
        ("LIST.TXT", "fashion/a.mp4\n{folder}/fashion/b.mp4\n"),
    ],
)
def test_lists_of_other_projects(tmp_path, name, content, caplog):
    touch(tmp_path, "fashion/a.mp4", "fashion/b.mp4")
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text.replace("{folder}", str(tmp_path)), encoding="utf-8")
    assert list_videos(tmp_path / name) == (str(tmp_path), ["fashion/a.mp4", "fashion/b.mp4"])
    unread = {"train.csv": "pose", "ubc.csv": "id", "meta.json": "kps_path"}.get(name)
    assert caplog.messages == (
        [f"From {tmp_path / name}, only the videos are read, not ['{unread}']; pass keypoints separately."]
        if unread
        else []
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "cannot be read as a .json file"),
        ("a.json", "[" * 10**5, "cannot be read as a .json file"),
        ("a.json", "{}", "must contain a list of paths or objects"),
        ("a.json", "[]", "contains no videos"),
        (
            "a.json",
            '[{"video_path": "a.mp4"}, {"clip": "b.mp4"}]',
            "entry 1 must be a path, or contain one as one of video",
        ),
        ("a.json", '[{"video_path": null}]', "entry 0 must be a path"),
        ("a.json", '[["a.mp4"]]', "entry 0 must be a path"),
        ("a.jsonl", '{"video": "a.mp4"}\n{"video":', "cannot be read as a .jsonl file"),
        (
            "a.csv",
            "a.mp4,b\nb.mp4,c\n",
            "entry 0 must be a path, or contain one as one of video_path, video, file_name",
        ),
        ("a.csv", 'video\n"a.mp4', "cannot be read as a .csv file"),
        ("a.csv", "video\n", "contains no videos"),
        ("a.json", '["../a.mp4"]', "names a path that leaves its folder: '../a.mp4'"),
        ("a.csv", "video\n/etc/passwd\n", "names a path that leaves its folder: '/etc/passwd'"),
        ("a.jsonl", '"s3://bucket/a.mp4"', "names a (path that leaves|file that does not exist)"),
        ("a.json", '["a.mp4", "a.mp4"]', "names a video twice: a.mp4"),
        ("a.json", "\ud83d", "must be a folder, or a list as text, .csv, .json or .jsonl in UTF-8"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, name, content, message):
    touch(tmp_path, "a.mp4")
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        list_videos(tmp_path / name)
    assert "`videos`" in str(error.value) and len(str(error.value)) < 500
