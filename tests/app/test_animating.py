# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""From a request to video files, with a small pipeline and without a browser."""

import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hia_diffusers import HIA_TINY, HIAAnimator, HIAPipeline, MotionBlurConditioner
from hia_diffusers.animation.result import COMMENT
from hia_diffusers.app.animating import AnimationRequest, Animations
from hia_diffusers.app.example_motions import MOTIONS, PEOPLE
from hia_diffusers.app.jobs import Cancelled, Job, Jobs
from hia_diffusers.app.limits import Limits
from hia_diffusers.app.server import delete_old
from hia_diffusers.video.reading import read_comment, read_video
from hia_diffusers.video.watermark import Watermark, read_watermark
from hia_diffusers.video.writing import write_video


WIDTH, HEIGHT = 48, 64


@pytest.fixture
def animations(pristine_pipe, tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    return Animations(HIAAnimator(pristine_pipe), (WIDTH, HEIGHT), Limits(max_frames=4), folder)


@pytest.fixture
def asked(animations, tmp_path):
    animations.examples.images[0].save(tmp_path / "example.png")
    motion = next(iter(MOTIONS))
    image = tmp_path / "example.png"
    return AnimationRequest(image, motion, 3, sharpness=None, steps=2, guidance=1, seed=0, fit=False)


def test_an_example_motion_and_an_example_become_two_videos(animations, asked):
    reports = []
    made = animations.make(asked, Job(lambda *report: reports.append(report)))
    assert read_video(made.video).frames.shape == (3, HEIGHT, WIDTH, 3)
    assert read_video(made.preview).frames.shape == (3, HEIGHT, 3 * WIDTH, 3)
    assert read_comment(made.video) == read_comment(made.preview) == COMMENT
    assert made.about == f"3 frames of {WIDTH}x{HEIGHT} at 30 frames per second"
    assert [report for report in reports if report[0] == "Denoising"] == [("Denoising", done, 2) for done in range(3)]
    assert [report for report in reports if report[0] == "Decoding"] == [("Decoding", done, 3) for done in range(3)]


def test_previews_are_shown_while_denoising(animations, asked):
    shown = []
    made = animations.make(
        replace(asked, steps=9),
        Job(lambda *report: None),
        lambda path: shown.append((path, Image.open(path).size)),
    )
    assert [size for _, size in shown] == [(3 * WIDTH, HEIGHT)] * 4  # after 2, 4, 6 and 8 steps
    assert len({path for path, _ in shown}) == 4 and {path.parent for path, _ in shown} == {made.video.parent}


def test_a_single_frame(animations, asked):
    made = animations.make(replace(asked, num_frames=1), Job(lambda *report: None))
    assert made.about == f"1 frame of {WIDTH}x{HEIGHT} at 30 frames per second"


def test_the_kind_of_a_file_can_be_chosen(pristine_pipe, animations, asked, tmp_path):
    write_video(tmp_path / "motion.mp4", np.full((2, HEIGHT, WIDTH, 3), (68, 1, 84), np.uint8), 25)
    asked, job = replace(asked, motion=tmp_path / "motion.mp4"), Job(lambda *report: None)
    image = animations.examples.images[0]
    assert animations.prepare(image, replace(asked, kind="pose"), job).driving.kind == "pose"
    pipe = HIAPipeline(**pristine_pipe.components, call_defaults={"pose_map": "densepose"})
    (tmp_path / "densepose").mkdir()
    animations = Animations(HIAAnimator(pipe), (WIDTH, HEIGHT), Limits(max_frames=4), tmp_path / "densepose")
    with pytest.raises(ValueError, match="must be densepose"):
        animations.make(asked, job)
    made = animations.make(replace(asked, kind="densepose"), job)
    assert read_video(made.video).frames.shape == (2, HEIGHT, WIDTH, 3)


def test_results_have_the_watermark_of_the_animator(asked, tmp_path):
    """A label, which is white on black, and the invisible mark, which needs larger frames."""
    pipe = HIAPipeline.from_pretrained(HIA_TINY)
    made = {}
    for name, watermark in (("plain", None), ("marked", Watermark("AI", invisible=True))):
        (tmp_path / name).mkdir()
        animator = HIAAnimator(pipe, watermark=watermark)
        animations = Animations(animator, (256, 256), Limits(), tmp_path / name)
        made[name] = animations.make(replace(asked, num_frames=2, steps=1), Job(lambda *report: None))
    assert read_watermark(made["marked"].video) > 0.9 > read_watermark(made["plain"].video)
    for file, left in (("video", 0), ("preview", 512)):
        plain, marked = (read_video(getattr(result, file)).frames[:, :, left:] for result in made.values())
        label = np.abs(plain.astype(int) - marked)[:, 225:, 215:].max(axis=(1, 2, 3))
        assert (label > 90).all(), file


def test_each_example_dances_with_its_own_body_and_another_image_with_somebody_elses(animations):
    examples = animations.examples
    assert len(examples.images) == len(PEOPLE)
    moved = [examples.motion("Pointing", 2, image).xy for image in examples.images]
    assert len({xy.tobytes() for xy in moved}) == len(PEOPLE)
    stranger = Image.new("RGB", (WIDTH, HEIGHT))
    assert examples.keypoints(stranger) is None and len(examples.motion("Pointing", 2, stranger)) == 2
    assert np.isfinite(examples.keypoints(examples.images[0]).xy).all()


def test_uploaded_keypoints_are_fitted_to_an_example_and_pose_videos_are_not(animations, asked, tmp_path):
    image, other = animations.examples.images[:2]
    keypoints = animations.examples.motion("Pointing", 4, other)
    keypoints.save(tmp_path / "motion.npz")
    pose = MotionBlurConditioner.for_size(HEIGHT, WIDTH)(keypoints).pose
    write_video(tmp_path / "pose.mp4", pose, 25)

    def prepared(name):
        return animations.prepare(image, replace(asked, motion=tmp_path / name), Job(lambda *report: None))

    fitted = prepared("motion.npz")
    assert fitted.retargeted is not None and len(fitted.condition) == 3
    posed = prepared("pose.mp4")
    assert posed.driving.kind == "pose" and posed.fps == 25 and len(posed.condition) == 3


def test_a_cancelled_job_ends_between_steps_and_leaves_nothing(animations, asked):
    steps = []

    def report(stage, done, total):
        if stage == "Denoising":
            steps.append(done)
            if done == 1:
                job.cancel()

    job = Job(report)
    with pytest.raises(Cancelled, match="Denoising 2/50"):
        animations.make(replace(asked, steps=50), job)
    assert steps == [0, 1] and not list(animations.folder.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": "../../etc"}, "There is no motion '../../etc'."),
        ({"num_frames": 5}, "Number of frames must be a whole number from 1 to 4, got 5."),
        ({"kind": "mesh"}, "There is no kind of motion 'mesh'."),
        ({"steps": 10**9}, "Steps must be a whole number from 1 to 100, got 1000000000."),
        ({"steps": "2"}, "Steps must be a whole number from 1 to 100, got '2'."),
        ({"guidance": None}, "Guidance must be a number from 1 to 20, got None."),
        ({"guidance": float("nan")}, "Guidance must be a number from 1 to 20, got nan."),
        ({"seed": -1}, "Seed must be a whole number from 0 to"),
        ({"sharpness": True}, "Sharpness of the hands must be a number from 0 to 1, got True."),
    ],
)
def test_a_request_that_no_page_sends_is_refused(animations, asked, change, message):
    with pytest.raises(ValueError) as error:
        animations.make(replace(asked, **change), Job(lambda *report: None))
    assert str(error.value).startswith(message)


def test_old_files_are_deleted_and_then_the_folders_that_they_were_in(tmp_path):
    for name in ("kept.png", "a/result.mp4", "b/upload.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    kept, jobs = frozenset({tmp_path / "kept.png"}), Jobs()
    for left in (["a", "b", "b/upload.png", "kept.png"], ["b", "b/upload.png", "kept.png"]):
        time.sleep(0.6)
        (tmp_path / "b/upload.png").write_bytes(b"y")
        delete_old(tmp_path, 0.3, kept, jobs)
        assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == left


def test_files_of_waiting_jobs_are_new_for_gradio_too(tmp_path):
    upload, gone = tmp_path / "upload.png", tmp_path / "gone.png"
    upload.write_bytes(b"x")
    jobs = Jobs()
    jobs.join("me", frozenset({upload, gone}))
    stored = upload.stat().st_ctime
    time.sleep(0.6)
    delete_old(tmp_path, 0.3, frozenset(), jobs)
    assert upload.stat().st_ctime > stored
