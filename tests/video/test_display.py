# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Videos are read as a player shows them: which way up, in what shape and in what colours."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from PIL import Image

from hia_diffusers.video.reading import read_frame_rate, read_frames, read_video


COLOURS = [(230, 20, 20), (20, 200, 20), (20, 20, 230), (220, 220, 20)]  # upper left and right, lower left and right

# A display matrix (where x points, where y points, each right and down) -> which stored corner is seen in each corner.
MATRICES = {
    (1, 0, 0, 1): [0, 1, 2, 3],
    (-1, 0, 0, 1): [1, 0, 3, 2],
    (1, 0, 0, -1): [2, 3, 0, 1],
    (-1, 0, 0, -1): [3, 2, 1, 0],
    (0, 1, 1, 0): [0, 2, 1, 3],
    (0, 1, -1, 0): [2, 0, 3, 1],
    (0, -1, 1, 0): [1, 3, 0, 2],
    (0, -1, -1, 0): [3, 1, 2, 0],
}


def quarters(height=32, width=48):
    """One frame with a colour in each corner."""
    frame = np.zeros((1, height, width, 3), np.uint8)
    for corner, colour in enumerate(COLOURS):
        row, column = divmod(corner, 2)
        frame[0, row * height // 2 :][: height // 2, :, :][:, column * width // 2 :][:, : width // 2] = colour
    return frame


def seen_corners(frame):
    """The colour in each corner, as its number among `COLOURS`."""
    height, width = frame.shape[:2]
    pixels = [frame[y, x].astype(int) for y in (4, height - 5) for x in (4, width - 5)]
    return [min(range(4), key=lambda corner: np.abs(pixel - COLOURS[corner]).sum()) for pixel in pixels]


def write_turned(path, matrix):
    """An MP4 file whose track header holds a display matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters()[0], format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    right_x, down_x, right_y, down_y = (round(value * 65536) for value in matrix)
    numbers = np.array([right_x, down_x, 0, right_y, down_y, 0, 0, 0, 2**30], ">i4")
    content[place : place + 36] = numbers.tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix_is_applied(tmp_path, matrix):
    write_turned(tmp_path / "clip.mp4", matrix)
    frames = read_video(tmp_path / "clip.mp4").frames
    assert frames.shape == ((1, 32, 48, 3) if matrix[0] else (1, 48, 32, 3))
    assert seen_corners(frames[0]) == MATRICES[matrix]
    np.testing.assert_array_equal(read_frames(tmp_path / "clip.mp4", [0]), frames)


def test_other_angles_are_refused(tmp_path):
    write_turned(tmp_path / "slanted.mp4", (0.8, 0.6, -0.6, 0.8))
    with pytest.raises(ValueError, match="slanted.mp4' has a display rotation of 37 degrees; make it upright first"):
        read_video(tmp_path / "slanted.mp4")
    write_turned(tmp_path / "level.mp4", (1, 0.01, -0.01, 1))
    assert seen_corners(read_video(tmp_path / "level.mp4").frames[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
@pytest.mark.parametrize(("aspect", "shape"), [((16, 11), (32, 70)), ((8, 9), (36, 48)), ((1, 1), (32, 48))])
def test_pixels_that_are_not_square_become_so(tmp_path, name, aspect, shape):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(quarters()[0], format="rgb24")))
        container.mux(stream.encode())
    frames = read_video(tmp_path / name).frames
    assert frames.shape == (1, *shape, 3) and seen_corners(frames[0]) == [0, 1, 2, 3]
    np.testing.assert_array_equal(read_frames(tmp_path / name, [0]), frames)


# Alpha


def cutouts(num_frames=4):
    """RGBA: what is not seen is green, a red square that moves, a blue one that is half there."""
    frames = np.zeros((num_frames, 48, 64, 4), np.uint8)
    frames[...] = (0, 255, 0, 0)
    frames[:, 32:48, :32] = (20, 20, 250, 128)
    for index in range(num_frames):
        frames[index, 8:24, 8 * index : 8 * index + 16] = (250, 20, 20, 255)
    return frames


def write_see_through(path, codec, pixel_format, options=None, alpha_mode=False):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        if alpha_mode:
            stream.metadata["alpha_mode"] = "1"
        for pixels in cutouts():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())


def save_moving(path, **options):
    frames = [Image.fromarray(pixels) for pixels in cutouts()]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0, **options)


SEE_THROUGH = {
    "vp9.webm": lambda path: write_see_through(path, "libvpx-vp9", "yuva420p", {"crf": "10"}, alpha_mode=True),
    "vp8.webm": lambda path: write_see_through(path, "libvpx", "yuva420p", {"auto-alt-ref": "0"}, alpha_mode=True),
    "prores.mov": lambda path: write_see_through(path, "prores_ks", "yuva444p10le", {"profile": "4444"}),
    "animation.mov": lambda path: write_see_through(path, "qtrle", "argb"),
    "ffv1.mkv": lambda path: write_see_through(path, "ffv1", "bgra"),
    "moving.png": save_moving,
    "moving.webp": lambda path: save_moving(path, lossless=True),
    "moving.gif": lambda path: save_moving(path, disposal=2),
}


@pytest.mark.parametrize("name", SEE_THROUGH)
def test_alpha_is_laid_on_white(tmp_path, name):
    path = tmp_path / name
    SEE_THROUGH[name](path)
    video = read_video(path)
    assert video.frames.shape == (4, 48, 64, 3) and video.fps == 10
    for index, frame in enumerate(video.frames.astype(int)):
        assert frame[2:6, 40:].min() > 245  # what is transparent
        assert np.abs(frame[12:20, 8 * index + 4 : 8 * index + 12] - (250, 20, 20)).max() < 20
        half = (20, 20, 250) if name == "moving.gif" else (137, 137, 252)  # GIF knows all or nothing
        assert np.abs(frame[36:44, 4:12] - half).max() < 12
    if path.suffix in (".webm", ".mov", ".mkv"):
        np.testing.assert_array_equal(read_frames(path, [3, 0]), video.frames[[3, 0]])


# Colours


# Numbers of matrices in files -> what red and blue weigh in luma.
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}


def as_yuv(pixels, matrix, full_range):
    """8-bit Y'CbCr `(3, H, W)` by the definition."""
    red, green, blue = np.moveaxis(pixels / 255, -1, 0)
    of_red, of_blue = WEIGHTS[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = [(blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)]
    luma = 255 * luma if full_range else 16 + 219 * luma
    return np.stack([luma, *(128 + (255 if full_range else 224) * part for part in chroma)]).round().astype(np.uint8)


def write_tagged(path, pixels, matrix, full_range, **tags):
    """A lossless video in the matrix and range that it states."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv444p"
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, ColorRange.JPEG if full_range else ColorRange.MPEG
        for name, value in tags.items():
            setattr(context, name, value)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(as_yuv(pixels, matrix, full_range), format="yuv444p")))
        container.mux(stream.encode())


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_colours_are_those_of_the_stated_matrix_and_range(tmp_path, matrix, full_range):
    write_tagged(tmp_path / "clip.mp4", quarters()[0], matrix, full_range)
    frame = read_video(tmp_path / "clip.mp4").frames[0].astype(int)
    corners = [frame[y, x] for y in (4, 27) for x in (4, 43)]
    np.testing.assert_allclose(corners, COLOURS, atol=3)


def test_a_wide_gamut_becomes_that_of_every_screen(tmp_path):
    """Display P3's (200, 120, 60) by its formula, with the curve of a television, a power of 2.4."""
    pixels = np.full((32, 48, 3), (200, 120, 60), np.uint8)
    tags = {"color_primaries": ColorPrimaries.SMPTE432, "color_trc": ColorTrc.BT709}
    write_tagged(tmp_path / "clip.mp4", pixels, 1, False, **tags)
    np.testing.assert_allclose(read_video(tmp_path / "clip.mp4").frames[0, 8, 8], (213, 115, 38), atol=3)


def pq(nits):
    """SMPTE ST 2084: the signal of a luminance."""
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@pytest.mark.parametrize(
    ("transfer", "signals"),
    [(ColorTrc.SMPTE2084, [pq(0.0), pq(10), pq(203), pq(1000)]), (ColorTrc.ARIB_STD_B67, [0, 0.3, 0.75, 1])],
    ids=["PQ", "HLG"],
)
def test_high_dynamic_range_is_compressed_and_not_cut(tmp_path, transfer, signals):
    """Four greys: black stays, the white of paper is bright, and what is brighter is brighter still."""
    with av.open(str(tmp_path / "hdr.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 16, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range = 9, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT2020, transfer
        frame = av.VideoFrame(64, 16, "yuv420p10le")
        for plane, channel in zip(frame.planes, "yuv", strict=True):
            levels = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
            levels[:] = 512
            if channel == "y":
                levels[:, :64] = np.repeat([round(64 + 876 * signal) for signal in signals], 16)
        for _ in range(2):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = read_video(tmp_path / "hdr.mkv").frames
    np.testing.assert_array_equal(frames[0], frames[1])
    greys = frames[0, 8, 8::16].astype(int)
    assert np.ptp(greys, axis=1).max() <= 1
    black, dark, paper, bright = greys[:, 0]
    assert black == 0 and 20 < dark < 100 and 130 < paper < 190 and paper + 30 < bright <= 255


# Frame rates


def write_without_rate(path, milliseconds):
    """A WebM file as browsers record: time stamps, and neither rate nor duration."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in milliseconds:
            frame = av.VideoFrame.from_ndarray(quarters()[0], format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), int(time)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = path.read_bytes()
    place = content.index(b"\x23\xe3\x83\x84")  # the element of the duration of a frame becomes one that is void
    path.write_bytes(content[:place] + b"\xec\x86" + bytes(6) + content[place + 8 :])


def test_the_rate_of_a_recording_is_that_of_its_time_stamps(tmp_path):
    times = np.arange(60) * 1000 / 30 + np.random.default_rng(0).uniform(-9, 9, 60)
    times[0] = 0
    write_without_rate(tmp_path / "webcam.webm", times)
    with av.open(str(tmp_path / "webcam.webm")) as container:
        assert container.streams.video[0].average_rate is None
    expected = 59 / (int(times[-1]) - 0) * 1000
    assert read_video(tmp_path / "webcam.webm").fps == pytest.approx(expected, rel=1e-6)
    assert 29.5 < expected < 30.5


@pytest.mark.parametrize("name", ["screen.mkv", "screen.flv", "screen.avi"])
def test_the_rate_of_a_recording_with_frames_left_out_is_that_of_its_time_stamps(tmp_path, name):
    times = np.flatnonzero(np.random.default_rng(0).random(90) < 0.4)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("flv" if name.endswith("flv") else "mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for time in times:
            frame = av.VideoFrame.from_ndarray(quarters()[0], format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 30), int(time)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].average_rate == 30
    expected = (len(times) - 1) / (times[-1] - times[0]) * 30
    assert read_video(tmp_path / name).fps == pytest.approx(expected, rel=0.02)  # AVI counts from before the first
    assert expected < 15


def test_a_rate_that_no_video_has_is_an_error(tmp_path):
    write_without_rate(tmp_path / "fast.webm", range(40))
    with pytest.raises(ValueError, match="fast.webm' has 1000 frames per second; a video must have 1 to 240"):
        read_frame_rate(tmp_path / "fast.webm")


@pytest.mark.parametrize(
    ("name", "durations", "expected"),
    [
        ("clip.gif", [100, 100, 100, 2000], 10),  # the last one is shown for longer
        ("clip.webp", [40, 40, 40, 40], 25),
        ("clip.png", [50, 150, 100, 100], 10),
        ("clip.gif", [0, 0, 0, 0], 10),  # as browsers show what is to be shown for no time
        ("clip.webp", [50], 25),  # an image that does not move
    ],
)
def test_rates_of_images_that_move(tmp_path, name, durations, expected):
    frames = [Image.fromarray(np.roll(quarters()[0], 8 * index, axis=1)) for index in range(len(durations))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    video = read_video(tmp_path / name)
    assert video.fps == pytest.approx(expected) and len(video.frames) == len(durations)


def test_damaged_images_that_move(tmp_path):
    save_moving(tmp_path / "moving.webp")
    content = (tmp_path / "moving.webp").read_bytes()
    (tmp_path / "moving.webp").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="moving.webp'"):
        read_video(tmp_path / "moving.webp")
