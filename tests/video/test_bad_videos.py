# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with one video, or with what an earlier run has left, does not end the preparation of the others."""

import contextlib
import json
import os
import shutil
import stat
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import av
import numpy as np
import pytest
import safetensors.torch
import torch
from dancing_videos import FPS, GREY, dancer_boxes, keypoints_of, write_dance

from hia_diffusers.folder_lock import locked_folder
from hia_diffusers.preparation.clip_index import read_index
from hia_diffusers.preparation.clip_preparation import PARTIAL_FOLDER, PreparationOptions, record_name
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset


def failures_of(root):
    return {line["video"]: line for line in map(json.loads, (root / "failures.jsonl").read_text().splitlines())}


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def dance(tmp_path):
    """A folder with two good videos and their keypoints, and the options to prepare them."""
    for name in ("a", "z"):
        write_dance(tmp_path / "videos" / f"{name}.mp4", [(dancer_boxes(18), GREY)], tmp_path / "keypoints")
    return PreparationOptions(keypoints=str(tmp_path / "keypoints"), smooth=False, rules=ClipRules(min_seconds=0.5))


def prepare(tmp_path, options, **arguments):
    return prepare_dataset(tmp_path / "videos", tmp_path / "out", options, **arguments)


# Videos


def write_ffv1(path, width, height):
    """Two frames of any size; FFV1 has no limit that others have."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
        container.mux(stream.encode())


def write_sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_whatever_is_wrong_with_a_video_is_recorded_and_the_rest_goes_on(tmp_path, dance):
    folder = tmp_path / "videos"
    good = (folder / "a.mp4").read_bytes()
    (folder / "b empty.mp4").write_bytes(b"")
    (folder / "b text.mp4").write_text("no video")
    (folder / "b page.mp4").write_text("<html>404</html>")
    (folder / "b zip.mp4").write_bytes(b"PK\5\6" + bytes(18))
    (folder / "b zeros.mp4").write_bytes(bytes(10**5))
    (folder / "b half.mp4").write_bytes(good[: len(good) // 2])
    (folder / "b no index.mp4").write_bytes(good.replace(b"moov", b"xxxx"))
    write_ffv1(folder / "b codec.mkv", 64, 64)
    (folder / "b codec.mkv").write_bytes((folder / "b codec.mkv").read_bytes().replace(b"V_FFV1", b"V_XXX1"))
    (folder / "b no stream.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(1000))
    write_sound_only(folder / "b sound.mp4")
    for width, height in ((20, 20000), (16500, 16), (8, 64)):
        write_ffv1(folder / f"b {width}x{height}.mkv", width, height)
    os.mkfifo(folder / "b fifo.mp4")
    (folder / "b loop.mp4").symlink_to("b loop.mp4")
    (folder / "b broken link.mp4").symlink_to("none.mp4")
    bad = {path.name for path in folder.glob("b *")}
    for name in ("a:b.mp4", "c 12:30.mp4", "-d.mp4", "e%03d.mp4", "舞\n.mp4", "C:\\f.mp4"):
        (folder / name).write_bytes(good)
    for path in folder.iterdir():
        with contextlib.suppress(shutil.SameFileError):
            shutil.copy(tmp_path / "keypoints" / "z.safetensors", tmp_path / "keypoints" / f"{path.stem}.safetensors")

    for _ in range(2):  # the next run, too
        report = prepare(tmp_path, dance)
        assert (report["videos"], report["failed_videos"], report["clips"]) == (len(bad) + 8, len(bad), 8)
        failures = failures_of(tmp_path / "out")
        assert failures.keys() == bad
        for failure in failures.values():
            assert failure["stage"] == "decode" and failure["reason"] and "\n" not in failure["reason"]
            assert str(tmp_path) not in failure["reason"]
        assert "20x20000" in failures["b 20x20000.mkv"]["reason"]
        assert failures["b fifo.mp4"]["reason"] == "'b fifo.mp4' is not a regular file."


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the super-user makes devices")
def test_devices_are_no_videos(tmp_path, dance):
    os.mknod(tmp_path / "videos" / "zero.mp4", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    report = prepare(tmp_path, dance)
    assert (report["clips"], list(failures_of(tmp_path / "out"))) == (2, ["zero.mp4"])


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(tmp_path, dance, monkeypatch):
    (tmp_path / "videos" / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):  # to the super-user, every folder is open
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        prepare(tmp_path, dance)


# Keypoints


def bfloat16(path):
    keypoints = keypoints_of(dancer_boxes(18))
    arrays = {name: torch.as_tensor(getattr(keypoints, name)) for name in keypoints.__dataclass_fields__}
    safetensors.torch.save_file(arrays | {"xy": arrays["xy"].bfloat16()}, path)


def damaged_lzma(path):
    keypoints_of(dancer_boxes(18)).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(content)


def huge_header(path):
    header = json.dumps({"xy": {"dtype": "F32", "shape": [10**9, 133, 2], "data_offsets": [0, 1064 * 10**9]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def cut(path):
    keypoints_of(dancer_boxes(18)).save(path)
    path.write_bytes(path.read_bytes()[:-100])


def huge_values(path):
    keypoints = keypoints_of(dancer_boxes(18))
    replace(keypoints, xy=1e30 * keypoints.xy).save(path)


BAD_KEYPOINTS = {
    "b bfloat16.safetensors": bfloat16,
    "b huge header.safetensors": huge_header,
    "b huge values.safetensors": huge_values,
    "b cut.safetensors": cut,
    "b cut zip.npz": cut,
    "b lzma.npz": damaged_lzma,
    "b fifo.npz": os.mkfifo,
    "b folder.safetensors": os.mkdir,
    "b none.npz": lambda path: None,
}


def test_whatever_is_wrong_with_keypoints_is_recorded_and_the_rest_goes_on(tmp_path, dance):
    for name, write in BAD_KEYPOINTS.items():
        write(tmp_path / "keypoints" / name)
        shutil.copy(tmp_path / "videos" / "a.mp4", (tmp_path / "videos" / name).with_suffix(".mp4"))
    names = {f"{Path(name).stem}.mp4" for name in BAD_KEYPOINTS}
    for _ in range(2):
        assert prepare(tmp_path, dance)["clips"] == 2
        failures = failures_of(tmp_path / "out")
        assert failures.keys() == names - {"b huge values.mp4"}  # whose points lie outside of the image: a rule
        assert all(failure["stage"] == "keypoints" and failure["reason"] for failure in failures.values())


# Processes that are killed


def test_a_video_that_killed_an_earlier_run_and_kills_its_own_process_is_recorded(tmp_path, dance, monkeypatch):
    """The processes themselves are those of `test_engines.py`."""
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patched:
        patched.setattr(
            "hia_diffusers.preparation.clip_preparation.read_frame_rate", mock.Mock(side_effect=KeyboardInterrupt)
        )
        patched.setattr("shutil.rmtree", lambda *arguments, **options: None)  # a process that is killed tidies nothing
        prepare(tmp_path, dance)

    def kill_suspects(make, names, workers, suspects, on_killed):
        assert suspects == {"a.mp4"}
        yield from (on_killed(name) if name in suspects else make()(name) for name in names)

    monkeypatch.setattr("hia_diffusers.preparation.prepare_dataset.run_local", kill_suspects)
    for _ in range(2):
        assert prepare(tmp_path, dance)["failed_videos"] == 1
        failures = failures_of(tmp_path / "out")
        assert failures.keys() == {"a.mp4"} and failures["a.mp4"]["stage"] == "process"
        assert "was killed" in failures["a.mp4"]["reason"]
        assert [row["video"] for row in read_index(tmp_path / "out")] == ["z.mp4"]
        assert not (tmp_path / "out" / PARTIAL_FOLDER).exists()


# The state of an earlier run


def test_two_runs_do_not_write_to_one_output(tmp_path, dance):
    prepare(tmp_path, dance)
    before = files_of(tmp_path / "out")
    with locked_folder(tmp_path / "out"):
        for options in (dance, replace(dance, max_seconds=5.0)):
            with pytest.raises(RuntimeError, match="Another run is writing to .*out; wait for its end"):
                prepare(tmp_path, options)
    assert files_of(tmp_path / "out") == before
    prepare(tmp_path, dance)


DAMAGED_RECORDS = [
    *(b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 10**5),
    *({"clips": None}, {"video": "other.mp4"}, {"bytes": "many"}, {"failure": {}}, {"dropped": {"too_short": None}}),
    *({"clips": [{}]}, {"clips": {"fps": 0}}, {"clips": {"num_frames": None}}, {"clips": {"file_name": "../a.mp4"}}),
]


def test_videos_whose_records_are_damaged_are_prepared_anew(tmp_path, dance, caplog):
    names = [f"{number:02d}.mp4" for number in range(len(DAMAGED_RECORDS))]
    for name in names:
        shutil.copy(tmp_path / "videos" / "a.mp4", tmp_path / "videos" / name)
        shutil.copy(tmp_path / "keypoints" / "a.safetensors", tmp_path / "keypoints" / f"{name[:-4]}.safetensors")
    prepare(tmp_path, dance)
    before = files_of(tmp_path / "out")
    for name, damage in zip(names, DAMAGED_RECORDS, strict=True):
        path = tmp_path / "out" / record_name(name)
        if isinstance(damage, dict):
            record = json.loads(path.read_text())
            changes = [record["clips"][0] | damage["clips"]] if isinstance(damage.get("clips"), dict) else None
            damage = json.dumps(record | damage | ({"clips": changes} if changes else {})).encode()
        path.write_bytes(damage)
    prepare(tmp_path, dance)
    assert files_of(tmp_path / "out") == before
    assert len(caplog.messages) == len(names)
    for name in names:
        (message,) = [message for message in caplog.messages if record_name(name) in message]
        assert message.endswith(f"The video is prepared again: {name}")


def test_clips_that_are_gone_are_made_again(tmp_path, dance, caplog):
    prepare(tmp_path, dance)
    before = files_of(tmp_path / "out")
    for gone in ([read_index(tmp_path / "out")[1]["annotations"]], [name for name in before if "clips/" in name]):
        for name in gone:
            (tmp_path / "out" / name).unlink()
        if len(gone) > 1:
            (tmp_path / "out" / "clips").rmdir()
        prepare(tmp_path, dance)
        assert files_of(tmp_path / "out") == before
        assert "is missing" in caplog.text


def test_a_damaged_record_of_no_video_is_named(tmp_path, dance):
    prepare(tmp_path, dance)
    (tmp_path / "out" / "records" / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="records/other.json is damaged: .* It belongs to no video in `videos`"):
        prepare(tmp_path, dance)


def test_options_that_are_damaged_are_refused_once_there_are_clips(tmp_path, dance):
    prepare(tmp_path, dance)
    for damage in (b"", b"[]", b"{", b"5", b"\xff"):
        (tmp_path / "out" / "options.json").write_bytes(damage)
        before = files_of(tmp_path / "out")
        with pytest.raises(ValueError, match="`output` contains a damaged options.json, .*out; choose another folder"):
            prepare(tmp_path, dance)
        assert files_of(tmp_path / "out") == before
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "options.json").touch()
    prepare_dataset(tmp_path / "videos", tmp_path / "new", dance)
    assert len(read_index(tmp_path / "new")) == 2


def test_a_video_that_failed_may_be_replaced(tmp_path, dance):
    good = (tmp_path / "videos" / "a.mp4").read_bytes()
    (tmp_path / "videos" / "a.mp4").write_bytes(good[:1000])
    assert prepare(tmp_path, dance)["failed_videos"] == 1
    (tmp_path / "videos" / "a.mp4").write_bytes(good)
    report = prepare(tmp_path, dance)
    assert (report["failed_videos"], report["clips"]) == (0, 2)


def test_a_folder_that_was_made_for_nothing_is_deleted(tmp_path):
    with pytest.raises(ZeroDivisionError), locked_folder(tmp_path / "new" / "out"):
        assert (tmp_path / "new" / "out").is_dir()
        raise ZeroDivisionError
    assert not (tmp_path / "new" / "out").exists()
    with locked_folder(tmp_path):
        Path(tmp_path, "file").touch()
    assert [path.name for path in tmp_path.iterdir() if path.name != "new"] == ["file"]
