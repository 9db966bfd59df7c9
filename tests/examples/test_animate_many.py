# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import io
import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner, retarget_keypoints
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


ray = pytest.importorskip("ray")

EXAMPLES = Path(__file__).parents[2] / "examples"
HEIGHT, WIDTH, FPS, NUM_FRAMES, NUM_STEPS = 80, 48, 30, 3, 2

GOOD = [
    {"name": "sharp", "image": "images/0.png", "motion": "dance.safetensors", "sharpness": 0.8, "seed": 1},
    {"name": "aligned", "image": "images/1.png", "motion": "dance.safetensors", "image_keypoints": "1.safetensors"},
]
BAD = [
    {"name": "bad image", "image": "text.png", "motion": "dance.safetensors"},
    {"name": "bad motion", "image": "images/0.png", "motion": "text.safetensors"},
    {"name": "no image", "image": "missing.png", "motion": "dance.safetensors"},
]
KILLING = {"name": "killing", "image": "images/killing.png", "motion": "dance.safetensors"}


def load_script():
    sys.path.insert(0, str(EXAMPLES))  # as for a script that is run
    try:
        spec = importlib.util.spec_from_file_location("example_animate_many", EXAMPLES / "animate_many.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


animate_many = load_script()


def arguments(jobs, output, workers):
    options = {
        "--jobs": jobs,
        "--output": output,
        "--num_inference_steps": NUM_STEPS,
        "--guidance_scale": 1,
        "--workers": workers,
    }
    return [str(word) for option in options.items() for word in option]


def scene(identity):
    return ProceduralScene("test", identity=identity, motion=0, setting=0)


def keypoints(identity, frames):
    return scene(identity).keypoints(frames, HEIGHT, WIDTH, FPS)


def image(identity):
    return Image.fromarray(scene(identity).render([9], HEIGHT, WIDTH, FPS).frames[0])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Images of two people, a dance of the first, and files that are none."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    for name, identity in {"0": 0, "1": 1, "killing": 0}.items():
        image(identity).save(folder / "images" / f"{name}.png")
    keypoints(0, range(NUM_FRAMES)).save(folder / "dance.safetensors")
    keypoints(1, [9]).save(folder / "1.safetensors")
    (folder / "text.png").write_text("no image")
    (folder / "text.safetensors").write_text("no keypoints")
    for engine, jobs in (("here", [*BAD, *GOOD]), ("ray", [KILLING, *BAD, *GOOD])):
        (folder / f"{engine}.jsonl").write_text("".join(f"{json.dumps(job)}\n" for job in jobs))
    return folder


@pytest.fixture(scope="module", params=["here", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request):
    """What runs the jobs: this process, or actors on a cluster, of which one job kills its process."""
    return request.param


@pytest.fixture(scope="module")
def output(engine, tmp_path_factory):
    return tmp_path_factory.mktemp("output") / "videos"


real_load_image = animate_many.load_image


def load_image_or_die(path):
    if path.name == "killing.png":
        signal.raise_signal(signal.SIGKILL)
    return real_load_image(path)


def run_here(jobs, args):
    animator = animate_many.Animator(jobs, args, "cpu")
    errors = {job.name: animator({"name": [job.name]})["error"][0] for job in jobs}
    return {name: error for name, error in errors.items() if error}


@pytest.fixture(scope="module")
def run(engine, inputs, output):
    """Runs the script without GPU; returns the exit status and what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        if engine == "ray":
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            ray.init(num_cpus=2, log_to_driver=False)
        else:
            patch.setattr(animate_many, "run_jobs", run_here)

        def run_with(workers):
            printed, status = io.StringIO(), 0
            with redirect_stdout(printed):
                try:
                    animate_many.main(arguments(inputs / f"{engine}.jsonl", output, workers))
                except SystemExit as stopped:
                    status = stopped.code
            return status, printed.getvalue()

        yield run_with
    if engine == "ray":
        ray.shutdown()


@pytest.fixture(scope="module")
def first_run(engine, run):
    """Two actors make the videos."""
    if engine == "ray":
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(animate_many, "load_image", load_image_or_die)
        return run(workers=2)


def test_what_can_be_made_is_made_and_the_rest_is_listed(engine, output, first_run):
    status, printed = first_run
    assert status == 1
    made = {f"{job['name']}.mp4" for job in GOOD}
    assert {path.name for path in output.iterdir()} == {*made, "failures.json"}
    reasons = {
        "bad image": "text.png' cannot be read as an image",
        "bad motion": "text.safetensors",
        "no image": "missing.png",
        **({"killing": "its process was killed"} if engine == "ray" else {}),
    }
    failures = json.loads((output / "failures.json").read_text())
    assert failures.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in failures[name]
        assert f"\n{name}: {failures[name]}\n" in printed
    assert f"2 videos made, 0 were there before, {len(reasons)} failed.\n" in printed


def test_the_videos_are_those_of_the_pipeline(output, first_run, tmp_path):
    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    pipe.set_progress_bar_config(disable=True)
    conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)
    dance = keypoints(0, range(NUM_FRAMES))

    def difference(name, identity, motion, seed, sharpness="auto"):
        """Mean difference in levels of a video from what the pipeline makes of the arguments."""
        options = {"num_inference_steps": NUM_STEPS, "guidance_scale": 1.0}
        generator = torch.Generator().manual_seed(seed)
        condition = conditioner(motion, sharpness=sharpness)
        frames = pipe(image(identity), condition, generator=generator, **options).frames[0]
        write_video(tmp_path / "expected.mp4", frames, FPS)
        expected, made = read_video(tmp_path / "expected.mp4"), read_video(output / f"{name}.mp4")
        assert expected.fps == made.fps
        return np.abs(expected.frames.astype(float) - made.frames).mean()

    aligned = retarget_keypoints(dance, keypoints(1, [9]))
    rounding = 0.1
    assert difference("sharp", 0, dance, 1, 0.8) < rounding
    assert difference("aligned", 1, aligned, 0) < rounding
    assert difference("sharp", 0, dance, 0, 0.8) > 1
    assert difference("sharp", 0, dance, 1) > 1
    assert difference("aligned", 1, dance, 0) > 1


def test_only_what_is_missing_is_made_again_and_comes_out_the_same(engine, output, first_run, run):
    """By one actor instead of two. What failed is tried again."""
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.glob("*.mp4")}
    (output / "sharp.mp4").unlink()
    (output / ".sharp.begun").touch()  # as if the first run had been killed
    status, printed = run(workers=1)
    assert status == 1
    assert f"{2 if engine == 'ray' else 1} videos made, 1 were there before, 3 failed.\n" in printed
    assert (output / "killing.mp4").is_file() == (engine == "ray")
    assert (output / "aligned.mp4").stat().st_mtime_ns == before["aligned.mp4"][1]
    assert (output / "sharp.mp4").stat().st_mtime_ns > before["sharp.mp4"][1]
    for name, (content, _) in before.items():
        assert (output / name).read_bytes() == content
    assert json.loads((output / "failures.json").read_text()).keys() == {job["name"] for job in BAD}


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_where_all_is_made_nothing_is_done(tmp_path, monkeypatch, capsys, suffix):
    monkeypatch.setattr(animate_many, "run_jobs", None)
    jobs = tmp_path / f"jobs{suffix}"
    jobs.write_text(json.dumps(GOOD) if suffix == ".json" else yaml.safe_dump(GOOD))
    for job in GOOD:
        (tmp_path / f"{job['name']}.mp4").touch()
    animate_many.main(arguments(jobs, tmp_path, workers=1))
    assert capsys.readouterr().out == "0 videos made, 2 were there before, 0 failed.\n"
    assert (tmp_path / "failures.json").read_text() == "{}"


JOB = {"name": "a", "image": "a.png", "motion": "a.safetensors"}
NAMED = "made of letters, digits, '_', '-', '.' and blanks, and begin with one of the first three"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--jobs: 'jobs.json' cannot be read ([Errno 2] No such file or directory: 'jobs.json')"),
        ("[", "--jobs: 'jobs.json' cannot be read (Expecting value: line 1 column 2 (char 1))"),
        ("[]", "--jobs: 'jobs.json' must contain a list of jobs"),
        (json.dumps(JOB), "--jobs: 'jobs.json' must contain a list of jobs"),
        (
            "[" * 10**5,
            "--jobs: 'jobs.json' cannot be read (maximum recursion depth exceeded while decoding a JSON array from a "
            "unicode string)",
        ),
        ("[1]", "--jobs: job 1 must contain keys and values, got 1"),
        ('[{"name": "a"}]', "--jobs: job 1 lacks image, motion"),
        (
            [{**JOB, "speed": 2, "Seed": 1}],
            "--jobs: job 1 has the unknown keys speed, Seed; valid ones are name, image, motion, image_keypoints, "
            "sharpness, seed",
        ),
        ([JOB, {**JOB, "name": "b"}, JOB], "--jobs: several jobs have the name 'a'"),
        ([JOB, {**JOB, "name": "/a"}], f"--jobs: job 2: name must be {NAMED}, got '/a'"),
        ([{**JOB, "name": ".."}], f"--jobs: job 1: name must be {NAMED}, got '..'"),
        ([{**JOB, "name": "a/b"}], f"--jobs: job 1: name must be {NAMED}, got 'a/b'"),
        ([{**JOB, "name": 1}], f"--jobs: job 1: name must be {NAMED}, got 1"),
        ([{**JOB, "image": "/a.png"}], "--jobs: job 1: image names a path that leaves its folder: '/a.png'."),
        ([{**JOB, "motion": "../a"}], "--jobs: job 1: motion names a path that leaves its folder: '../a'."),
        ([{**JOB, "image": "link"}], "--jobs: job 1: image names a path that leaves its folder: 'link'."),
        ([{**JOB, "image": ""}], "--jobs: job 1: image must be a path, got ''"),
        ([{**JOB, "image_keypoints": None}], "--jobs: job 1: image_keypoints must be a path, got None"),
        (
            [{**JOB, "sharpness": 2}],
            "--jobs: job 1: sharpness must be a number from 0 to 1, 'auto' or 'unknown', got 2",
        ),
        ([{**JOB, "seed": True}], f"--jobs: job 1: seed must be a whole number from 0 to {2**63 - 1}, got True"),
    ],
)
def test_bad_lists_are_refused_in_one_sentence(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(EXAMPLES)
    if text is not None:
        Path("jobs.json").write_text(text if isinstance(text, str) else json.dumps(text))
    assert_refused("jobs.json", capsys, message)


def test_a_list_of_another_kind_is_refused(tmp_path, capsys):
    path = tmp_path / "jobs.txt"
    assert_refused(path, capsys, f"--jobs: must end in .jsonl, .json, .yaml, .yml, got {str(path)!r}")


def assert_refused(jobs, capsys, message):
    with pytest.raises(SystemExit) as stopped:
        animate_many.main(arguments(jobs, Path(jobs).with_name("out"), workers=1))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"animate_many.py: error: {message}\n"
    assert not Path(jobs).with_name("out").exists()
