# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import av
import numpy as np
import pytest
from sounding_videos import FPS, TONE, last_sound, sound_codec, sound_end, sound_packets, tone_start, write_clip

from hia_diffusers.video.reading import read_video
from hia_diffusers.video.sound import has_sound
from hia_diffusers.video.writing import write_video


FRAMES = np.zeros((24, 48, 64, 3), np.uint8)  # 0.8 seconds
NEAR = 0.03  # seconds: AAC smears the beginning of the tone


@pytest.mark.parametrize(
    ("name", "arguments", "output"),
    [
        ("clip.mp4", {}, "out.mp4"),
        ("clip.mkv", {"rate": 48000}, "out.mp4"),
        ("clip.mkv", {"rate": 22050, "channels": 1}, "out.mp4"),
        ("clip.ts", {"video": "mpeg2video"}, "out.mp4"),
        ("clip.mkv", {"sound": "libopus", "rate": 48000}, "out.webm"),
    ],
    ids=str,
)
def test_what_all_players_support_is_copied_and_cut(tmp_path, name, arguments, output):
    clip = write_clip(tmp_path / name, **arguments)
    write_video(tmp_path / output, FRAMES, FPS, audio_from=clip)
    assert sound_codec(tmp_path / output) == sound_codec(clip)
    copied, source = sound_packets(tmp_path / output), sound_packets(clip)
    assert 0 < len(copied) < len(source)
    # Of MPEG transport streams the header of every packet goes.
    assert all(ours == theirs or theirs.endswith(ours) for ours, theirs in zip(copied, source, strict=False))
    assert last_sound(tmp_path / output) == pytest.approx(0.8, abs=0.002)
    assert tone_start(tmp_path / output) == pytest.approx(tone_start(clip), abs=0.002)
    assert len(read_video(tmp_path / output).frames) == 24


@pytest.mark.parametrize(
    ("name", "arguments", "rate"),
    [
        ("clip.avi", {"sound": "pcm_s16le", "video": "mpeg4", "rate": 22050}, 22050),
        ("clip.mkv", {"sound": "pcm_s16le", "rate": 48000, "channels": 1}, 48000),
        ("clip.mkv", {"sound": "pcm_s24le", "rate": 37000}, 48000),
        ("clip.mkv", {"sound": "mp2", "rate": 44100}, 44100),
        ("clip.avi", {"sound": "libmp3lame", "video": "mpeg4"}, 44100),
        ("clip.mkv", {"sound": "libopus", "rate": 48000}, 48000),
        ("clip.mkv", {"sound": "flac"}, 44100),
        ("clip.mkv", {"sound": "ac3", "rate": 48000}, 48000),
    ],
    ids=str,
)
@pytest.mark.parametrize(("output", "codec"), [("out.mp4", "aac"), ("out.webm", "opus")])
def test_what_some_players_lack_is_encoded_and_cut(tmp_path, name, arguments, rate, output, codec):
    clip = write_clip(tmp_path / name, **arguments)
    write_video(tmp_path / output, FRAMES, FPS, audio_from=clip)
    assert sound_codec(tmp_path / output) == codec
    with av.open(str(tmp_path / output)) as container:
        stream = container.streams.audio[0]
        assert stream.rate == (rate if codec == "aac" else 48000)
        assert stream.channels == arguments.get("channels", 2)
    assert last_sound(tmp_path / output) == pytest.approx(0.8, abs=0.002)
    assert tone_start(tmp_path / output) == pytest.approx(TONE, abs=NEAR)


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
@pytest.mark.parametrize("output", ["out.mp4", "out.webm"])
def test_sound_from_the_middle_of_a_file(tmp_path, sound, output):
    clip = write_clip(tmp_path / "clip.mkv", sound, video_start=0.1, sound_start=0.2)
    write_video(tmp_path / output, FRAMES[:18], FPS, audio_from=clip, audio_start=0.4)
    assert tone_start(tmp_path / output) == pytest.approx(TONE + 0.1 - 0.4, abs=NEAR)
    assert 0.598 < last_sound(tmp_path / output) < 0.622  # of Opus, whole packets
    write_video(tmp_path / output, FRAMES[:3], FPS, audio_from=clip, audio_start=9)
    assert sound_codec(tmp_path / output) is None or not sound_packets(tmp_path / output)


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
def test_shorter_sound_keeps_its_length(tmp_path, sound):
    clip = write_clip(tmp_path / "clip.mkv", sound, seconds=0.6)
    write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=clip)
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(0.6, abs=0.03)
    assert tone_start(tmp_path / "out.mp4") == pytest.approx(TONE, abs=NEAR)


@pytest.mark.parametrize("sound", ["aac", "flac", "pcm_s16le"])
@pytest.mark.parametrize(("sound_start", "video_start"), [(0.2, 0.0), (0.0, 0.2), (1.0, 1.2)])
def test_sound_and_images_stay_together_where_one_begins_later(tmp_path, sound, sound_start, video_start):
    clip = write_clip(tmp_path / "clip.mkv", sound, sound_start=sound_start, video_start=video_start)
    write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=clip)
    assert tone_start(tmp_path / "out.mp4") == pytest.approx(TONE + sound_start - video_start, abs=NEAR)
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(0.8, abs=0.002)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].start_time == 0


@pytest.mark.parametrize(("name", "sound"), [("clip.mp4", "aac"), ("clip.mov", "pcm_s16le")])
def test_sound_of_a_variable_frame_rate_is_cut_to_the_result(tmp_path, name, sound):
    times = np.array([0, 1, 2, 6, 7, 12, 13, 14, 20, 27]) / FPS
    clip = write_clip(tmp_path / name, sound, frames=FRAMES[:10], times=times, seconds=3)
    video = read_video(clip)
    assert video.fps == pytest.approx(10 / (28 / FPS), rel=0.05)
    write_video(tmp_path / "out.mp4", video.frames, video.fps, audio_from=clip)
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(10 / video.fps, abs=0.002)
    assert tone_start(tmp_path / "out.mp4") == pytest.approx(TONE, abs=NEAR)


def test_no_sound_gives_no_sound(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", None)
    write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=silent)
    write_video(tmp_path / "plain.mp4", FRAMES, FPS)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()
    assert not has_sound(silent)
    late = write_clip(tmp_path / "late.mkv", "aac", sound_start=2)
    write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=late)
    assert has_sound(late) and sound_codec(tmp_path / "out.mp4") is None


def test_a_file_of_sound_alone_will_do(tmp_path):
    with av.open(str(tmp_path / "music.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100)
        stream.layout = "mono"
        samples = (0.5 * np.sin(np.arange(44100) / 10) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=tmp_path / "music.wav")
    assert sound_codec(tmp_path / "out.mp4") == "aac"
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
def test_the_same_sound_gives_the_same_bytes(tmp_path, sound):
    clip = write_clip(tmp_path / "clip.mkv", sound)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, iter(FRAMES), FPS, audio_from=clip)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def damage_sound(path):
    """Zeros in place of the packets of the tone; those of silence are all alike."""
    content = path.read_bytes()
    for packet in sound_packets(path)[25:]:
        content = content.replace(packet, bytes(len(packet)))
    path.write_bytes(content)


def test_sound_that_cannot_be_read_leaves_nothing(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", "mp2")
    damage_sound(clip)
    (tmp_path / "text.mp4").write_text("no sound\n" * 100)
    for name, message in {
        "clip.mkv": "The sound of .*clip.mkv' cannot be read",
        "text.mp4": "The sound of .*",
    }.items():
        with pytest.raises(ValueError, match=message):
            has_sound(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=tmp_path / name)
    with pytest.raises(FileNotFoundError, match="There is no file .*missing.mp4' to take sound from"):
        write_video(tmp_path / "out.mp4", FRAMES, FPS, audio_from=tmp_path / "missing.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv", "text.mp4"]


def test_damage_beyond_the_result_does_not_matter(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", "mp2")
    damage_sound(clip)
    assert has_sound(clip, 12 / FPS)
    write_video(tmp_path / "out.mp4", FRAMES[:12], FPS, audio_from=clip)
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(12 / FPS, abs=0.002)
