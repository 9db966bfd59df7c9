# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from hia_diffusers.data.video import read_video, write_video


def moving_square(num_frames=8, height=48, width=64):
    """Saturated colours on a ramp, a square that moves: wrong colours, order or orientation show."""
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    frames[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    frames[:, height // 2 :, :, 1] = 200
    for index in range(num_frames):
        frames[index, 8:24, 4 * index : 4 * index + 16] = (20, 40, 250)
    return frames


def noise(num_frames=24):
    return np.random.default_rng(0).integers(0, 256, (num_frames, 64, 96, 3), dtype=np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))


def write_without_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize(
    "convert",
    [np.asarray, lambda frames: frames.astype(np.float32) / 255, lambda frames: [Image.fromarray(f) for f in frames]],
    ids=["uint8", "float", "pil"],
)
def test_round_trip_keeps_the_picture(tmp_path, convert):
    frames = moving_square()
    write_video(tmp_path / "clip.mp4", convert(frames), fps=30)
    video = read_video(tmp_path / "clip.mp4")
    assert video.frames.dtype == np.uint8 and video.frames.shape == frames.shape
    assert min(psnr(read, written) for read, written in zip(video.frames, frames, strict=True)) > 30
    # Inside flat areas even saturated colours come back: the matrix written is the matrix read.
    assert np.abs(video.frames[:, 12:20, :1].mean((0, 2)) - frames[:, 12:20, :1].mean((0, 2))).max() < 8
    np.testing.assert_allclose(video.frames[2, 16, 16], [20, 40, 250], atol=6)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (24, Fraction(24)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (30, Fraction(30)),
        (60, Fraction(60)),
        (12.5, Fraction(25, 2)),
        (1, Fraction(1)),
    ],
)
def test_frame_rate_is_exact(tmp_path, fps, expected):
    write_video(tmp_path / "clip.mp4", moving_square(3), fps)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == expected
    video = read_video(tmp_path / "clip.mp4")
    assert video.fps == float(expected) and len(video.frames) == 3


def test_file_is_h264_yuv420p_with_tagged_colours(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(1), fps=30)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)  # BT.709


def test_odd_sizes_grow_by_a_copied_edge(tmp_path):
    frames = moving_square()[:, :47, :63]
    write_video(tmp_path / "clip.mp4", frames, fps=30)
    read = read_video(tmp_path / "clip.mp4").frames
    assert read.shape == (8, 48, 64, 3)
    assert psnr(read, np.pad(frames, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")) > 30


def test_max_frames_is_the_beginning(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(), fps=30)
    whole = read_video(tmp_path / "clip.mp4").frames
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", max_frames=3).frames, whole[:3])
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", max_frames=99).frames, whole)
    with pytest.raises(ValueError, match="`max_frames` must be at least 1, got 0"):
        read_video(tmp_path / "clip.mp4", max_frames=0)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_metadata_is_applied(tmp_path, degrees):
    upright = moving_square()
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
        stored = np.rot90(upright, -degrees // 90, axes=(1, 2))
        stream.height, stream.width, stream.pix_fmt = *stored.shape[1:3], "yuv420p"
        stream.set_display_rotation(degrees)
        for frame in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    read = read_video(tmp_path / "phone.mp4").frames
    assert read.shape == upright.shape
    assert psnr(read, upright) > 30


@pytest.mark.parametrize("name", ["missing.mp4", "folder.mp4"])
def test_reading_no_file(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        read_video(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"frame, frame, frame\n" * 50, bytes(range(256)) * 8])
def test_reading_what_is_no_video(tmp_path, content):
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="text.mp4' cannot be decoded as a video"):
        read_video(tmp_path / "text.mp4")


def test_text_is_not_rendered_as_a_video(tmp_path):
    (tmp_path / "poses.txt").write_text("frame, frame, frame\n" * 50)
    with pytest.raises(ValueError, match="poses.txt' holds no video stream"):
        read_video(tmp_path / "poses.txt")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_reading_a_truncated_file(tmp_path, keep):
    write_video(tmp_path / "clip.mp4", noise(), fps=30)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match="clip.mp4' cannot be decoded as a video"):
        read_video(tmp_path / "clip.mp4")


def test_reading_a_damaged_file(tmp_path):
    write_video(tmp_path / "clip.mp4", noise(), fps=30)
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = b"\xaa" * 2000
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="clip.mp4' cannot be decoded as a video"):
        read_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["empty.mp4", "empty.avi"])
def test_reading_zero_frames(tmp_path, name):
    write_without_frames(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}' holds no video"):
        read_video(tmp_path / name)


def test_reading_sound_alone(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="sound.mp4' holds no video stream"):
        read_video(tmp_path / "sound.mp4")


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (moving_square(2), 0, r"`fps` must lie in \[0.001, 1000\], got 0"),
        (moving_square(2), float("nan"), "`fps` must lie in .* got nan"),
        (moving_square(2), float("inf"), "`fps` must lie in .* got inf"),
        (moving_square(2)[:0], 30, "`frames` must hold at least one frame"),
        (moving_square(2)[0], 30, r"`frames` must be of shape \(F, H, W, 3\), got a frame of shape \(64, 3\)"),
        (moving_square(2).transpose(0, 3, 1, 2), 30, r"got a frame of shape \(3, 48, 64\)"),
        (moving_square(2).astype(np.int64), 30, "`frames` must be uint8 or floating point, got int64"),
        (moving_square(2) / 127.0, 30, r"must lie in \[0, 1\]; frame 0 does not"),
        (np.full((2, 8, 8, 3), np.nan), 30, r"must lie in \[0, 1\]; frame 0 does not"),
        ([*moving_square(2), np.zeros((8, 8, 3), np.uint8)], 30, "`frames` must be of one size"),
    ],
)
def test_writing_bad_frames_leaves_nothing(tmp_path, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(), fps=30)
    before = (tmp_path / "clip.mp4").read_bytes()
    # Long enough that the encoder has put a part of the clip on the disk by then.
    frames = [*(noise(100) / 255), np.full((64, 96, 3), 2.0)]
    with pytest.raises(ValueError, match="frame 100 does not"):
        write_video(tmp_path / "clip.mp4", frames, fps=30)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_writing_replaces_a_file(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(8), fps=30)
    write_video(tmp_path / "clip.mp4", moving_square(3), fps=24)
    assert len(read_video(tmp_path / "clip.mp4").frames) == 3
    with pytest.raises(FileNotFoundError, match="no folder .*missing"):
        write_video(tmp_path / "missing" / "clip.mp4", moving_square(3), fps=24)
    with pytest.raises(ValueError, match="`path` must end in '.mp4', got .*clip.gif"):
        write_video(tmp_path / "clip.gif", moving_square(3), fps=24)
