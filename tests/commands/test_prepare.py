# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json
import random
import re
import time
from dataclasses import fields

import forked_python
import pytest
from dancing_videos import BLUE, GREEN, GREY, dancer_boxes, write_dance
from onnx_models import write_models

from hia_diffusers.commands import prepare
from hia_diffusers.preparation.clip_index import read_index
from hia_diffusers.preparation.clip_preparation import PARTIAL_FOLDER
from hia_diffusers.preparation.clip_rules import ClipRules


NUM_VIDEOS, NUM_KILLS = 6, 20


def run(*arguments):
    return forked_python.run("-m", "hia_diffusers", "prepare", *arguments, timeout=600)


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Videos, one of them broken, and the detector that finds the people in them."""
    folder = tmp_path_factory.mktemp("inputs")
    for index in range(NUM_VIDEOS):
        scenes = [
            (dancer_boxes(18 + index, x=30 + 5 * index), BLUE),
            (dancer_boxes(20), GREEN),
            (dancer_boxes(5), GREY),
        ]
        write_dance(folder / "videos" / f"{index}.mp4", scenes, folder / "keypoints")
    (folder / "videos" / "broken.mp4").write_text("no video")
    (folder / "models").mkdir()
    write_models(folder / "models")
    return folder


def detecting(inputs, output):
    models = ("detector", "pose", "feet")
    options = [word for name in models for word in (f"--{name}_model", inputs / "models" / f"{name}.onnx")]
    return ["--videos", inputs / "videos", "--output", output, "--min_seconds", "0.5", "--size", "96x128", *options]


def with_keypoints(inputs, output):
    keypoints = ["--keypoints", inputs / "keypoints"]
    return ["--videos", inputs / "videos", "--output", output, "--min_seconds", "0.5", *keypoints]


@pytest.fixture(scope="module")
def detected(inputs, tmp_path_factory):
    """A dataset that the script made, and what it printed."""
    root = tmp_path_factory.mktemp("detected")
    done = run(*detecting(inputs, root))
    assert done.returncode == 0, done.stderr
    return root, done.stdout


def test_the_script_makes_a_dataset_and_reports(detected):
    root, printed = detected
    rows = read_index(root)
    assert len(rows) == 2 * NUM_VIDEOS and {row["width"] for row in rows} == {96}
    assert re.match(rf"{len(rows)} clips, [0-9.]+ seconds, from {NUM_VIDEOS + 1} videos\.\n", printed)
    assert "Keypoints were detected with RTMPose." in printed
    assert f"{NUM_VIDEOS:6} clips rejected: too_short" in printed
    assert "1 videos could not be used; see failures.jsonl." in printed
    failure = json.loads((root / "failures.jsonl").read_text())
    assert failure["video"] == "broken.mp4" and failure["stage"] == "decode"


def test_two_workers_make_the_same_bytes(inputs, detected, tmp_path):
    done = run(*detecting(inputs, tmp_path / "out"), "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == files_of(detected[0])


@pytest.mark.slow
def test_two_ray_actors_make_the_same_bytes(inputs, detected, tmp_path):
    pytest.importorskip("ray")
    done = run(*detecting(inputs, tmp_path / "out"), "--engine", "ray", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == files_of(detected[0])


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(inputs, tmp_path):
    def start(output):
        command = ["-m", "hia_diffusers", "prepare", *with_keypoints(inputs, output)]
        return forked_python.start(command, tmp_path / "printed.txt")

    def wait_for_work(output, process):
        """Until the process writes: from there on, a moment is as good as any other to kill it."""
        folder = output / PARTIAL_FOLDER
        before = folder.stat().st_mtime_ns if folder.exists() else None
        while process.is_alive() and not (folder.exists() and folder.stat().st_mtime_ns != before):
            time.sleep(0.002)

    def finished_in(output):
        return len(list(output.glob("records/*")))

    whole = start(tmp_path / "whole")
    wait_for_work(tmp_path / "whole", whole)
    begin = time.monotonic()
    whole.join()
    duration = time.monotonic() - begin
    assert whole.exitcode == 0

    rng = random.Random(0)
    kills, finished_videos = 0, []
    output = tmp_path / "output-0"
    while kills < NUM_KILLS:
        process = start(output)
        wait_for_work(output, process)
        # Every other process finishes a video, however slow the machine is.
        finished = finished_in(output) + rng.randrange(2)
        while process.is_alive() and finished_in(output) < finished:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, duration / 6))
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert files_of(output) == files_of(tmp_path / "whole")
            output = tmp_path / f"output-{kills}"
        else:
            kills += 1
            finished_videos.append(finished_in(output))
    last = start(output)
    last.join()
    assert last.exitcode == 0
    assert files_of(output) == files_of(tmp_path / "whole")
    assert len(set(finished_videos)) >= 3, f"kills must come at different moments, came after {finished_videos}"


SIZE = "argument --size: must be WIDTHxHEIGHT in multiples of 2 from 16 to 16384, at most 35651584 pixels in all"
SHARE = "a finite number, at least 0 and at most 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--videos", "none"], "--videos is neither a folder nor a list of videos: none."),
        *((["--size", size], f"{SIZE}, such as 512x768, got {size!r}") for size in ("96", "97x128", "16386x16")),
        (["--pose_model", "x.onnx"], "--keypoints: keypoints are not detected then; omit --pose_model"),
        (["--min_person_visible_ratio", "inf"], f"--min_person_visible_ratio must be {SHARE}, got inf."),
        (["--max_multi_person_ratio", "-1"], f"--max_multi_person_ratio must be {SHARE}, got -1.0."),
        (
            ["--keyframe_interval", "2147483648"],
            "--keyframe_interval must be an integer from 1 to 10000, got 2147483648.",
        ),
        (["--workers", "0"], "--workers must be an integer from 1 to 2147483647, got 0."),
    ],
)
def test_mistakes_are_one_line(inputs, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        prepare.main([*map(str, with_keypoints(inputs, tmp_path / "out")), *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"hia-diffusers prepare: error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_every_rule_is_an_option():
    helps = " ".join(prepare.make_parser().format_help().split())
    for rule in fields(ClipRules):
        assert f"--{rule.name}" in helps and f"(default: {rule.default})" in helps
