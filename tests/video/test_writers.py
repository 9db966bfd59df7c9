# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import logging
import os

import av
import numpy as np
import pytest
from PIL import Image
from sounding_videos import write_clip

from hia_diffusers.video.reading import read_comment, read_frame_rate, read_video, stream_frames
from hia_diffusers.video.writing import check_output, output_kind, write_video


FRAMES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)


def psnr(frames, others):
    return 10 * np.log10(255**2 / max(1e-9, np.mean((np.float64(frames) - others) ** 2)))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.MP4", "clip.webm", "clip.WebM", "a b:c%d.mp4"])
def test_every_player_can_open_what_is_written(tmp_path, name):
    clip = write_clip(tmp_path / "sound.mkv", "flac")
    write_video(tmp_path / name, FRAMES[:, :47, :63], 29.97, audio_from=clip, comment="erzeugt: ü")
    with av.open(f"file:{tmp_path / name}") as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        formats = container.format.name.split(",")
        codecs = (video.codec_context.name, sound.codec_context.name)
        assert (video.codec_context.width, video.codec_context.height) == (64, 48)
        assert video.codec_context.pix_fmt == "yuv420p" and video.average_rate == pytest.approx(30000 / 1001, abs=0.01)
    if name.lower().endswith(".mp4"):
        assert "mp4" in formats and codecs == ("h264", "aac")
        content = (tmp_path / name).read_bytes()
        assert 0 < content.index(b"moov") < content.index(b"mdat")  # plays before all of it is there
    else:
        assert "webm" in formats and codecs == ("vp9", "opus")
    assert read_comment(tmp_path / name) == "erzeugt: ü"
    assert len(read_video(tmp_path / name).frames) == 7


@pytest.mark.parametrize(("name", "kind"), [("clip.gif", "GIF"), ("clip.GIF", "GIF"), ("clip.webp", "WEBP")])
@pytest.mark.parametrize("fps", [12, 29.97, 50])
def test_animated_images(tmp_path, name, kind, fps):
    write_video(tmp_path / name, FRAMES, fps, comment="erzeugt: ü")
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.n_frames, image.info["loop"]) == (kind, 7, 0)
    read = read_video(tmp_path / name)
    assert psnr(read.frames, FRAMES) > 25 and read.fps == pytest.approx(fps, rel=0.1)
    assert read_comment(tmp_path / name) == "erzeugt: ü"


def test_rates_of_animated_images_do_not_drift(tmp_path):
    write_video(tmp_path / "clip.gif", FRAMES[np.arange(91) % 7], 30)
    assert read_frame_rate(tmp_path / "clip.gif") == pytest.approx(30, rel=1e-9)
    for name in ("one.gif", "one.webp"):
        write_video(tmp_path / name, FRAMES[:1], 30)
        assert len(read_video(tmp_path / name).frames) == 1


@pytest.mark.parametrize("name", ["frames", "v1.5/", "frames/"])
def test_a_folder_of_images(tmp_path, name):
    for number in (7, 3):  # in place of an earlier one
        write_video(f"{tmp_path}/{name}", FRAMES[:number, :47], 30, comment="erzeugt: ü")
    folder = tmp_path / name
    assert sorted(path.name for path in folder.iterdir()) == [f"frame_{index:06d}.png" for index in (1, 2, 3)]
    for index, path in enumerate(sorted(folder.iterdir())):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), FRAMES[index, :47])
        assert read_comment(path) == "erzeugt: ü"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_folder_with_other_content_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name, error, message in (
        ("mine", ValueError, "mine' is a folder with other content, such as 'thesis.txt'"),
        ("mine/", ValueError, "other content"),
        ("file", ValueError, "file' is not a folder that can be replaced"),
        ("link", ValueError, "link' is not a folder that can be replaced"),
        ("mine/..", ValueError, "is not the name of a new folder"),
        ("missing/frames", FileNotFoundError, "no folder"),
        ("x" * 260, OSError, "cannot be written"),
    ):
        for write in (check_output, lambda path: write_video(path, iter([None]), 30)):
            with pytest.raises(error, match=message):
                write(f"{tmp_path}/{name}")
    for path in ("", ".", "/"):
        with pytest.raises(ValueError, match="is not the name of a new folder"):
            check_output(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "mine"] and os.listdir(tmp_path / "mine") == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "size", "fps", "message"),
    [
        ("out.avi", (48, 64), 30, "`path` must end in .mp4, .webm, .gif or .webp, or be a folder"),
        ("out.gif", (48, 64), 60, "`fps` of a .gif file must be from 0.01 to 50, got 60"),
        ("out.webp", (48, 64), 120, "`fps` of a .webp file must be from 0.01 to 80, got 120"),
        ("out.webp", (16384, 64), 30, "`frames` of 64x16384 pixels are too large for WebP"),
        ("out.webm", (16385, 64), 30, "`frames` of 64x16385 pixels are too large"),
        ("out.mp4", (48, 64), 2000, "`fps` must be a finite number"),
    ],
)
def test_what_a_kind_cannot_hold_is_known_before_it_is_made(tmp_path, name, size, fps, message):
    with pytest.raises(ValueError, match=message):
        check_output(tmp_path / name, *size, fps)
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, [np.broadcast_to(np.uint8(0), (*size, 3))], fps)
    assert not list(tmp_path.iterdir())


def test_sound_of_a_kind_that_has_none(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv")
    for name in ("out.gif", "out.webp", "out"):
        with pytest.raises(ValueError, match="`audio_from`: .*out.* can have no sound"):
            write_video(tmp_path / name, FRAMES, 30, audio_from=clip)


@pytest.mark.parametrize("name", ["out.mp4", "out.webm", "out.gif", "out.webp", "out"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_written_before_an_interruption_can_be_kept(tmp_path, caplog, name, error):
    def interrupted():
        yield from FRAMES[:5]
        raise error

    sound = write_clip(tmp_path / "clip.mkv") if output_kind(name) in ("mp4", "webm") else None
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(error):
        write_video(tmp_path / name, interrupted(), 20, audio_from=sound)
    assert sorted(path.name for path in tmp_path.iterdir()) == before and not caplog.messages
    caplog.set_level(logging.WARNING)
    with pytest.raises(error):
        write_video(tmp_path / name, interrupted(), 20, audio_from=sound, keep_unfinished=True)
    kept = tmp_path / name.replace("out", "out.unfinished")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, kept.name])
    assert caplog.messages == [f"The first 5 frames are kept in {kept}."]
    if kept.is_dir():
        assert len(list(kept.iterdir())) == 5
    else:
        assert psnr(np.stack(list(stream_frames(kept))), FRAMES[:5]) > 20
    with pytest.raises(ValueError, match="`frames` must contain at least one frame"):
        write_video(tmp_path / name, [], 20, keep_unfinished=True)
