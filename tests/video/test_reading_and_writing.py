# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import gc
import os
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from hia_diffusers.video.reading import VideoFrames, read_frame_rate, read_frames, read_video, stream_frames
from hia_diffusers.video.sound import has_sound
from hia_diffusers.video.writing import check_output, write_video


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


def write_with(path, frames, codec="libx264", options=None, rotation=None, times=None):
    """A video that `write_video` does not write. `times` are multiples of a 1/60 second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options or {"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 60)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 60), int(times[index])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_changing_size(path):
    """Three frames of 64x48, then two of 96x32: MPEG-4 states the size before every keyframe."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        time = 0
        for frames in (moving_square(3), moving_square(2, 32, 96)):
            encoder = av.CodecContext.create("mpeg4", "w")
            encoder.height, encoder.width, encoder.pix_fmt = *frames.shape[1:3], "yuv420p"
            encoder.time_base = Fraction(1, 30)
            for pixels in frames:
                for packet in encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    packet.stream, packet.time_base = stream, Fraction(1, 30)
                    packet.pts = packet.dts = time
                    container.mux(packet)
                    time += 1


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
def test_round_trip_keeps_the_image(tmp_path, convert):
    frames = moving_square()
    write_video(tmp_path / "clip.mp4", convert(frames), fps=30)
    video = read_video(tmp_path / "clip.mp4")
    assert video.frames.dtype == np.uint8 and video.frames.shape == frames.shape
    assert min(psnr(read, written) for read, written in zip(video.frames, frames, strict=True)) > 25
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
    assert psnr(read, np.pad(frames, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")) > 25


def test_max_frames_is_the_beginning(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(), fps=30)
    whole = read_video(tmp_path / "clip.mp4").frames
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", max_frames=3).frames, whole[:3])
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", max_frames=99).frames, whole)
    with pytest.raises(ValueError, match="`max_frames` must be an integer from 1 to .*, got 0"):
        read_video(tmp_path / "clip.mp4", max_frames=0)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_metadata_is_applied(tmp_path, degrees):
    upright = moving_square()
    write_with(tmp_path / "phone.mp4", np.rot90(upright, -degrees // 90, axes=(1, 2)), rotation=degrees)
    read = read_video(tmp_path / "phone.mp4").frames
    assert read.shape == upright.shape
    assert psnr(read, upright) > 25
    np.testing.assert_array_equal(read_frames(tmp_path / "phone.mp4", [5]), read[5:6])


def test_streaming_gives_the_frames_of_reading(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(), fps=30)
    frames = read_video(tmp_path / "clip.mp4").frames
    np.testing.assert_array_equal(list(stream_frames(tmp_path / "clip.mp4")), frames)
    with open(tmp_path / "clip.mp4", "rb") as file:
        np.testing.assert_array_equal(list(stream_frames(file)), frames)


def test_frames_of_a_file_are_decoded_at_each_pass(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, moving_square(), fps=30)
    whole = read_video(path).frames
    frames = VideoFrames(path)
    assert frames.shape == whole.shape and len(frames) == 8
    for _ in range(2):
        np.testing.assert_array_equal(list(frames), whole)
    np.testing.assert_array_equal(list(frames[:3]), whole[:3])
    assert len(VideoFrames(path, max_frames=5)[:99]) == 5 and frames[:None] is frames
    for part in (slice(2, 4), slice(None, None, 2), slice(1, None, 3), slice(3, 3), slice(9, None)):
        np.testing.assert_array_equal(np.array(list(frames[part])), np.array(list(whole[part])))
        assert len(frames[part]) == len(whole[part])
        np.testing.assert_array_equal(np.array(list(frames[1:7:2][part])), np.array(list(whole[1:7:2][part])))
    with pytest.raises(TypeError, match="supports iteration and slices"):
        frames[3]
    for part in (slice(-2, None), slice(None, -2), slice(None, None, -1)):
        with pytest.raises(ValueError, match="must be a slice of numbers from 0 on"):
            frames[part]
    write_video(path, moving_square(4), fps=30)
    with pytest.raises(ValueError, match="clip.mp4' has changed since it was first read"):
        list(frames)
    with pytest.raises(FileNotFoundError, match="missing.mp4"):
        VideoFrames(tmp_path / "missing.mp4")


def test_streaming_and_writing_a_stream_need_no_memory_for_the_length(tmp_path):
    frame = moving_square(1, 240, 320)[0]

    def peak(num_frames):
        tracemalloc.start()
        write_video(tmp_path / "clip.mp4", (frame for _ in range(num_frames)), fps=30)
        assert sum(1 for _ in stream_frames(tmp_path / "clip.mp4")) == num_frames
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    assert peak(60)[0] < peak(20)[0] + frame.nbytes


def test_decoded_frames_are_gone_when_the_next_one_is_there(tmp_path):
    """Their memory is FFmpeg's, which `tracemalloc` does not see."""
    write_video(tmp_path / "clip.mp4", moving_square(), fps=30)
    gc.collect()
    gc.disable()
    try:
        assert len(list(map(np.mean, stream_frames(tmp_path / "clip.mp4")))) == 8
        assert sum(type(item) is av.VideoFrame for item in gc.get_objects()) <= 1
    finally:
        gc.enable()


def test_streaming_goes_on_where_the_size_changes(tmp_path):
    write_changing_size(tmp_path / "changing.mkv")
    assert [frame.shape[:2] for frame in stream_frames(tmp_path / "changing.mkv")] == [(48, 64)] * 3 + [(32, 96)] * 2
    with pytest.raises(ValueError, match="changing.mkv' changes its frame size at frame 3"):
        read_video(tmp_path / "changing.mkv")
    with pytest.raises(ValueError, match="changing.mkv' changes its frame size between the frames of `indices`"):
        read_frames(tmp_path / "changing.mkv", [2, 3])
    assert read_frames(tmp_path / "changing.mkv", [3, 4]).shape == (2, 32, 96, 3)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", {"g": "1"}),
        ("clip.mp4", "libx264", {"g": "2", "bf": "2"}),
        ("clip.mp4", "libx264", {"g": "8", "bf": "3", "b-pyramid": "normal"}),
        ("clip.mp4", "libx264", {"g": "8", "bf": "3", "x264-params": "open-gop=1"}),
        ("clip.mp4", "libx264", {}),
        ("clip.mkv", "libx264", {"g": "7", "bf": "2"}),
        ("clip.mov", "mpeg4", {"g": "5", "bf": "2"}),
        ("clip.webm", "libvpx-vp9", {"g": "9"}),
        ("clip.ts", "mpeg2video", {"g": "6", "bf": "2"}),
    ],
)
def test_frames_read_at_random_are_those_of_the_whole(tmp_path, name, codec, options):
    path = tmp_path / name
    write_with(path, noise(40), codec, options=options)
    frames = read_video(path).frames
    assert len(frames) == 40
    for index in range(40):
        np.testing.assert_array_equal(read_frames(path, [index])[0], frames[index])
    indices = np.random.default_rng(0).integers(0, 40, 12)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(read_frames(file, indices), frames[indices])


def test_frames_of_a_variable_frame_rate_are_read_at_random(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 24))
    write_with(tmp_path / "clip.mkv", noise(24), options={"g": "6"}, times=times)
    frames = read_video(tmp_path / "clip.mkv").frames
    np.testing.assert_array_equal(read_frames(tmp_path / "clip.mkv", np.arange(23, -1, -1)), frames[::-1])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([8], r"`indices` must be frames of .*clip.mp4', from 0 to 7, got \[8\]"),
        ([0, -1], r"from 0 to 7, got \[0, -1\]"),
        ([], "`indices` must be a non-empty list of integers"),
        ([0.5], "`indices` must be a non-empty list of integers"),
        (3, "`indices` must be a non-empty list of integers"),
    ],
)
def test_reading_frames_that_are_none(tmp_path, indices, message):
    write_video(tmp_path / "clip.mp4", moving_square(), fps=30)
    with pytest.raises(ValueError, match=message):
        read_frames(tmp_path / "clip.mp4", indices)


def test_a_video_without_keyframes_cannot_be_read_at_random(tmp_path):
    write_with(tmp_path / "clip.mp4", moving_square(), codec="mpeg4")
    content = bytearray((tmp_path / "clip.mp4").read_bytes())
    first_keyframe = content.index(b"stss") + 12
    content[first_keyframe : first_keyframe + 4] = (99).to_bytes(4, "big")
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="clip.mp4' contains no keyframe"):
        read_frames(tmp_path / "clip.mp4", [3])


@pytest.mark.parametrize("read", [stream_frames, read_frame_rate, lambda path: read_frames(path, [0])])
def test_every_reader_says_what_is_no_video(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="There is no video file .*missing.mp4"):
        read(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("frame\n" * 500)
    with pytest.raises(ValueError, match="text.mp4' cannot be decoded as a video"):
        list(read(tmp_path / "text.mp4"))


def test_a_short_keyframe_interval(tmp_path):
    write_video(tmp_path / "clip.mp4", moving_square(9), fps=30, keyframe_interval=4)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        keyframes = [packet.pts for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
        step = 1 / (30 * container.streams.video[0].time_base)
    assert [time / step for time in keyframes] == [0, 4, 8]
    with pytest.raises(ValueError, match="`keyframe_interval` must be an integer from 1 to .*, got 0"):
        write_video(tmp_path / "clip.mp4", moving_square(9), fps=30, keyframe_interval=0)


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
    with pytest.raises(ValueError, match="poses.txt' has no supported video or sound format"):
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
    with pytest.raises(ValueError, match=f"{name}' contains no video"):
        read_video(tmp_path / name)


def test_reading_sound_alone(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="sound.mp4' contains no video stream"):
        read_video(tmp_path / "sound.mp4")


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (moving_square(2), 0, "`fps` must be a finite number, at least 0.001 and at most 1000, got 0"),
        (moving_square(2), float("nan"), "`fps` must be .* got nan"),
        (moving_square(2), float("inf"), "`fps` must be .* got inf"),
        (moving_square(2)[:0], 30, "`frames` must contain at least one frame"),
        (moving_square(2)[0], 30, r"`frames` must be of shape \(F, H, W, 3\), got a frame of shape \(64, 3\)"),
        (moving_square(2)[:, :0, :0], 30, r"got a frame of shape \(0, 0, 3\)"),
        (moving_square(2).transpose(0, 3, 1, 2), 30, r"got a frame of shape \(3, 48, 64\)"),
        (moving_square(2).astype(np.int64), 30, "`frames` must be uint8 or floating point, got int64"),
        (moving_square(2) / 127.0, 30, r"must lie in \[0, 1\]; frame 0 does not"),
        (np.ma.masked_equal(moving_square(2), 0), 30, "`frames` must not be masked arrays; frame 0 is"),
        (np.full((2, 8, 8, 3), np.nan), 30, r"must lie in \[0, 1\]; frame 0 does not"),
        ([*moving_square(2), np.zeros((8, 8, 3), np.uint8)], 30, "`frames` must be of one size"),
    ],
)
def test_writing_bad_frames_leaves_nothing(tmp_path, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": "30"}, "`fps` must be a finite number"),
        ({"keyframe_interval": 2.5}, "`keyframe_interval` must be an integer"),
        ({"comment": 5}, "`comment` must be a str"),
        ({"audio_from": 5}, "`audio_from` must be a str or a PathLike"),
    ],
)
def test_arguments_of_another_type_are_named(tmp_path, arguments, message):
    with pytest.raises(TypeError, match=message):
        write_video(tmp_path / "clip.mp4", iter([None]), **{"fps": 30, **arguments})
    with pytest.raises(TypeError, match="`max_frames` must be an integer"):
        read_video(tmp_path / "clip.mp4", max_frames="2")


@pytest.mark.parametrize("shape", [(20000, 16), (16, 16385), (16384, 16384)])
def test_frames_that_h264_cannot_hold_are_refused_before_they_are_encoded(tmp_path, shape):
    frame = np.broadcast_to(np.zeros((), np.uint8), (*shape, 3))
    for check in (
        lambda path: write_video(path, [frame], 30),
        lambda path: check_output(path, *shape),
    ):
        with pytest.raises(ValueError, match=f"`frames` of {shape[1]}x{shape[0]} pixels are too large for H.264"):
            check(tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())
    check_output(tmp_path / "clip.mp4", 16384, 16128)


def test_what_cannot_be_written_is_known_before_the_first_frame(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, error, message in (
        (tmp_path / "folder.mp4", ValueError, "folder.mp4' is not a file that can be replaced"),
        (tmp_path / "pipe.mp4", ValueError, "pipe.mp4' is not a file that can be replaced"),
        (tmp_path / (260 * "x" + ".mp4"), OSError, "cannot be written: File name too long"),
        ("/proc/x.mp4", OSError, "'/proc/x.mp4' cannot be written"),
        (tmp_path / "missing" / "x.mp4", FileNotFoundError, "no folder"),
    ):
        with pytest.raises(error, match=message):
            write_video(path, iter([None]), 30)
        with pytest.raises(error, match=message):
            check_output(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.mp4", "pipe.mp4"]


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
    with pytest.raises(ValueError, match="`path` must end in .mp4, .webm, .gif or .webp, or be a folder.*clip.avi"):
        write_video(tmp_path / "clip.avi", moving_square(3), fps=24)


def test_colours_come_back_without_a_bias(tmp_path):
    smooth = np.linspace(0, 255, 64)[:, None, None] * np.linspace(0.3, 1, 96)[None, :, None]
    frames = np.stack([smooth * weights for weights in np.random.default_rng(0).uniform(0, 1, (8, 3))])
    write_video(tmp_path / "smooth.mp4", frames.round().astype(np.uint8), 30)
    error = read_video(tmp_path / "smooth.mp4").frames - frames.round()
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.3


def test_metadata_that_is_not_unicode_does_not_matter(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, np.zeros((2, 16, 16, 3), np.uint8), fps=10, comment="spoiled")
    content = path.read_bytes()
    assert content.count(b"spoiled") == 1
    path.write_bytes(content.replace(b"spoiled", b"sp\xff\xfeled"))
    assert len(read_video(path).frames) == 2 and not has_sound(path)
