# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""FFmpeg gets files, whatever their names are, never addresses, patterns or lists of other files."""

import os
import socket

import numpy as np
import pytest
from PIL import Image
from sounding_videos import write_clip

from hia_diffusers.video.reading import read_comment, read_frame_rate, read_frames, read_video, stream_frames
from hia_diffusers.video.sound import has_sound
from hia_diffusers.video.writing import write_video


NAMES = [
    *("2025-01-05T12:30:10.mp4", "a:b.mp4", "concat:a.mp4", "pipe:0.mp4", "file:x.mp4", "-y.mp4", "%03d.mp4"),
    *("[x] {y} *?.mp4", "人物 результат.mp4", " blank .mp4", "quote'\".mp4", "line\nbreak.mp4", "UPPER.MP4"),
    *("\udcff\udcfe.mp4", 237 * "x" + ".mp4", 251 * "x" + ".mp4", 83 * "人" + ".mp4"),
]
FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_name_is_written_and_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    sound = write_clip(tmp_path / "sound.mkv", "aac")
    write_video(name, FRAMES, 25, audio_from=sound, comment="ours")
    assert sorted(os.listdir()) == sorted([name, "sound.mkv"])
    assert len(read_video(name).frames) == len(list(stream_frames(name))) == len(read_frames(name, [0, 1])) == 2
    assert read_frame_rate(name) == 25 and read_comment(name) == "ours" and has_sound(name)
    write_video("out.mp4", FRAMES, 25, audio_from=name)
    assert has_sound("out.mp4")


def test_a_file_that_is_named_like_an_address_is_the_file(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        folder = tmp_path / "http:" / f"127.0.0.1:{server.getsockname()[1]}"
        folder.mkdir(parents=True)
        write_video(folder / "x.mp4", FRAMES, 25)
        monkeypatch.chdir(tmp_path)
        address = f"http:/{folder.name}/x.mp4"
        assert len(read_video(address).frames) == 2 and not has_sound(address)
        with pytest.raises(BlockingIOError):  # nobody has knocked
            server.accept()


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "list.txt": "{}\n" * 50,
}


@pytest.mark.parametrize("suffix", ["", ".mp4"])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_other_files_are_refused(tmp_path, name, suffix):
    private = write_clip(tmp_path / "private.ts", "aac", video="mpeg2video")
    path = tmp_path / (name + suffix)
    path.write_text(LISTS[name].replace("{}", str(private)))
    for read in (read_video, read_frame_rate, has_sound, lambda path: list(stream_frames(path))):
        with pytest.raises(ValueError, match=f"{name}{suffix}' (has no supported|cannot be)"):
            read(path)
    with open(path, "rb") as file, pytest.raises(ValueError, match="has no supported|cannot be decoded"):
        read_frames(file, [0])


def test_patterns_pipes_and_folders_are_no_files(tmp_path):
    for index in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{index}.bmp")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("%d.bmp", "*.bmp", "pipe.mp4", "."):
        for read in (read_video, read_frame_rate, has_sound):
            with pytest.raises(FileNotFoundError, match="There is no"):
                read(tmp_path / name)
    assert len(read_video(tmp_path / "1.bmp").frames) == 1
