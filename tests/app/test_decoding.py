# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Files that nobody vouches for: what is read of them, and that they cannot hang, fill or take over the server."""

import io
import json
import multiprocessing
import os
import struct
import sys
import time
import zipfile
import zlib
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from hia_diffusers import WholeBodyKeypoints
from hia_diffusers.app import readers
from hia_diffusers.app.decoding import Decoder, _received
from hia_diffusers.app.limits import Limits
from hia_diffusers.video.writing import write_video


LIMITS = Limits(seconds=60)


@pytest.fixture(scope="module")
def decoder():
    return Decoder(LIMITS)


def frames_of(count, height=32, width=24):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def write_repeated(path, count, height, width):
    """A small file of many frames: the same compressed image over and over."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
        data = bytes((stream.encode(frame.reformat(format="yuv420p")) + stream.encode())[0])
        for number in range(count):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 30)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return path


def png_header(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"\0" * 1000)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_images_keep_their_pixels_and_large_ones_are_scaled_down(tmp_path, decoder):
    pixels = frames_of(1)[0]
    Image.fromarray(pixels).save(tmp_path / "small.png")
    assert np.array_equal(np.asarray(decoder.image(tmp_path / "small.png")), pixels)
    Image.new("L", (4096, 1024), 9).save(tmp_path / "large.webp")
    assert decoder.image(tmp_path / "large.webp").size == (2048, 512)


def test_only_the_beginning_of_a_motion_is_read(tmp_path, decoder):
    video = write_repeated(tmp_path / "long.mkv", 5000, 16, 16)
    motion = decoder.motion(video, 4)
    assert motion.frames.shape == (4, 16, 16, 3) and motion.fps == 30

    xy = np.random.default_rng(0).uniform(0, 20, (9, 133, 2)).astype(np.float32)
    keypoints = WholeBodyKeypoints(xy, np.ones((9, 133), np.float32), 32, 24, 25.0)
    for name in ("motion.safetensors", "motion.npz"):
        keypoints.save(tmp_path / name)
        read = decoder.motion(tmp_path / name, 4)
        assert np.array_equal(read.xy, xy[:4]) and (read.height, read.width, read.fps) == (32, 24, 25.0)


def test_pose_files_of_other_tools_are_read_or_say_what_to_do(decoder, tmp_path):
    frame = {"people": [{"pose_keypoints_2d": [20, 30, 1] * 18}], "canvas_height": 160, "canvas_width": 96}
    (tmp_path / "POSE.JSON").write_text(json.dumps(frame))
    assert (decoder.motion(tmp_path / "POSE.JSON", 3).height, len(decoder.motion(tmp_path / "POSE.JSON", 3))) == (
        160,
        1,
    )
    (tmp_path / "poses.json").write_text(json.dumps([frame] * 2))
    with pytest.raises(
        ValueError, match="^'poses.json' does not state its frame rate: give that to WholeBodyKeypoints"
    ):
        decoder.motion(tmp_path / "poses.json", 3)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON: deep.json"):
        decoder.motion(tmp_path / "deep.json", 3)


def test_a_short_large_video_is_read_however_long_it_might_be_and_scaled_down(tmp_path):
    frames = np.zeros((2, 1080, 1920, 3), np.uint8)
    frames[0, 540:, :960] = 255
    write_video(tmp_path / "phone.mp4", frames, 30)
    read = Decoder(replace(LIMITS, max_frames=10000)).motion(tmp_path / "phone.mp4", 10000).frames
    assert read.shape == (2, 720, 1280, 3)
    assert read[0, 364:, :636].min() > 250 and read[0, :356].max() < 5 and read[1].max() < 5


def hostile_motions(folder):
    write_video(folder / "whole.mp4", frames_of(8), 30)
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "secret.txt").write_text("not for you")
    pickled = io.BytesIO()
    np.savez(pickled, xy=np.array([{"a": 1}], dtype=object))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nwhole.mp4\n#EXT-X-ENDLIST\n"
    contents = {
        "cut.mp4": (whole[:300], "contains no video stream"),
        "half.mp4": (whole[: len(whole) // 2], "cannot be decoded as a video"),
        "nothing.mp4": (b"", "cannot be read as an MP4"),
        "text.mp4": (b"I am a text.\n" * 99, "cannot be read as an MP4"),
        "playlist.mp4": (playlist.encode(), "cannot be read as an MP4"),
        "script.mp4": (b"ffconcat version 1.0\nfile whole.mp4\n", "cannot be read as an MP4"),
        "pickle.npz": (pickled.getvalue(), "cannot be read as a .npz file"),
        "cut.safetensors": (struct.pack("<Q", 2**60) + b"{}", "cannot be read as a .safetensors file"),
    }
    for name, (content, message) in contents.items():
        (folder / name).write_bytes(content)
        yield name, message
    yield write_repeated(folder / "huge.mkv", 1, 2048, 2048).name, "2048x2048 is too large"


def test_hostile_motions_are_refused_in_a_sentence_without_paths(tmp_path, decoder):
    for name, message in hostile_motions(tmp_path):
        with pytest.raises(ValueError, match=message) as error:
            decoder.motion(tmp_path / name, 4)
        assert str(tmp_path) not in str(error.value), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(60000, 60000), "60000x60000 is too large: at most 50 million pixels"),
        (png_header(600, 600), "cannot be read as a"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as a JPEG, PNG or WebP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read as a JPEG, PNG or WebP image"),
    ],
    ids=["bomb", "cut", "eps", "svg"],
)
def test_hostile_images_are_refused(tmp_path, decoder, content, message):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        decoder.image(tmp_path / "image.png")
    assert str(tmp_path) not in str(error.value)


def test_what_takes_too_long_is_killed(tmp_path):
    video = write_repeated(tmp_path / "slow.mkv", 6000, 360, 640)
    assert video.stat().st_size < 20e6
    start = time.monotonic()
    with pytest.raises(ValueError, match="'slow.mkv' takes more than 1 seconds to read"):
        Decoder(Limits(max_frames=6000, seconds=1, memory_bytes=8 * 2**30)).motion(video, 6000)
    assert time.monotonic() - start < 30


def test_what_takes_too_much_memory_is_refused(tmp_path):
    """A file of 200 kB that unpacks to 200 MB."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (2 * 10**8,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xy.npy", array.getvalue() + bytes(2 * 10**8))
    assert (tmp_path / "bomb.npz").stat().st_size < 10**6
    with pytest.raises(ValueError, match="'bomb.npz' takes too much memory"):
        Decoder(replace(LIMITS, memory_bytes=10**8)).motion(tmp_path / "bomb.npz", 4)


def taken_over(path, limits):
    """What a decoder may try that does what a file says: to take back its limits, and to write."""
    import resource

    with path.open("wb", buffering=0) as file:
        if os.geteuid() == 0:
            os.setuid(65534)  # root may raise every limit
        raised = 0
        for bound in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
            try:
                resource.setrlimit(bound, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                raised += 1
            except ValueError:
                pass
        try:
            written = file.write(b"0123456789")
        except OSError:
            written = 0
    return {"raised": raised, "written": written}, {}


def answer_taken_over(sender, path):
    readers.READERS["taken over"] = taken_over
    readers.answer(sender, "taken over", path, LIMITS)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit less")
def test_a_reader_that_was_taken_over_cannot_take_back_its_limits(tmp_path):
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=answer_taken_over, args=(sender, tmp_path / "file"))
    process.start()
    sender.close()
    numbers, _ = _received(receiver, 0)
    process.join()
    assert numbers == {"raised": 0, "written": 0}


def answer_and_stay(sender, kind, path, limits):
    sender.send_bytes(json.dumps({"error": "This is no image."}).encode())
    time.sleep(10 * LIMITS.seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")
def test_a_reader_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "answer", answer_and_stay)
    decoder = Decoder(LIMITS)
    decoder._processes = multiprocessing.get_context("fork")
    start = time.monotonic()
    with pytest.raises(ValueError, match="This is no image"):
        decoder.image(tmp_path / "image.png")
    assert time.monotonic() - start < LIMITS.seconds


def limit_memory_again(sender):
    """As where the machine allows less memory than reading might take."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
    if os.geteuid() == 0:
        os.setuid(65534)
    readers._limit_resources(replace(LIMITS, memory_bytes=2**37))
    sender.send(resource.getrlimit(resource.RLIMIT_AS))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit less")
def test_a_stricter_limit_of_the_machine_stays():
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=limit_memory_again, args=(sender,))
    process.start()
    sender.close()
    assert receiver.recv() == (2**36, 2**36)
    process.join()


def test_all_arrays_of_an_answer_together_are_bounded():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arrays = [("xy", "uint8", [60]), ("score", "uint8", [60])]
    for _ in range(2):
        sender.send_bytes(json.dumps({"numbers": {}, "arrays": arrays}).encode())
        for _ in arrays:
            sender.send_bytes(bytes(60))
    assert list(_received(receiver, 120)[1]) == ["xy", "score"]
    with pytest.raises(ValueError, match="score of .* is more than a file may contain"):
        _received(receiver, 119)


def test_a_reader_that_was_taken_over_cannot_fill_the_memory_with_text():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    os.write(sender.fileno(), struct.pack("!i", 2**30))  # the announced length
    with pytest.raises(OSError, match="bad message length"):
        _received(receiver, 2**30)
