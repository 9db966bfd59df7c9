# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json
import logging
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from dancing_videos import BLUE, FPS, HEIGHT, WIDTH, dancer_boxes, draw_scene, keypoints_of
from onnx_models import draw_people, write_models
from PIL import Image
from sounding_videos import sound_codec, sound_end, tone_start, write_clip

from hia_diffusers import HIAAnimator, KeypointDetector, WholeBodyKeypoints, retarget_keypoints, smooth_keypoints
from hia_diffusers.animation.driving import Driving
from hia_diffusers.conditioning.pose_maps import draw_pose_map
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.display import Display
from hia_diffusers.video.reading import Video, read_video
from hia_diffusers.video.writing import write_video


NUM_FRAMES = 5
SIZE = {"height": 64, "width": 96}
BOXES = dancer_boxes(NUM_FRAMES)
CONDITION = HIAAnimator().condition(keypoints_of(BOXES), **SIZE)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return KeypointDetector(**write_models(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def dance(tmp_path_factory):
    """A video of a person, with sound that is longer."""
    path = tmp_path_factory.mktemp("driving") / "dance.mkv"
    return write_clip(path, "pcm_s16le", frames=draw_scene(BOXES, BLUE))


@pytest.fixture
def person():
    return Image.fromarray(draw_people([[(60, 8, 76, 60)]], 64, 96)[0])


@pytest.fixture
def animator(pipe, detector):
    return HIAAnimator(pipe, detector)


def steps(seed=0):
    return {"num_inference_steps": 2, "guidance_scale": 1.0, "generator": torch.Generator().manual_seed(seed)}


class Unwanted:
    """A detector that must not be asked."""

    def detect(self, *args, **kwargs):
        raise AssertionError("looked for people")

    __call__ = detect


def test_one_call_from_a_video_to_a_video(animator, dance, person, detector, tmp_path):
    animation = animator(person, dance, **SIZE, **steps())
    assert animation.image.size == (96, 64) and animation.fps == FPS
    assert animation.driving.kind == "video" and animation.driving.frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    found = detector(read_video(dance).frames, FPS)
    np.testing.assert_array_equal(animation.detected.xy, found.xy)
    expected = smooth_keypoints(found)
    np.testing.assert_array_equal(animation.keypoints.xy, expected.xy)
    aligned = retarget_keypoints(expected, animation.image_keypoints)
    np.testing.assert_allclose(animation.retargeted.xy, aligned.xy, atol=1e-4)
    assert animation.condition.to_tensor().shape == (NUM_FRAMES, 6, 64, 96)
    assert len(animation.frames) == NUM_FRAMES and animation.frames[0].size == (96, 64)
    assert [image.size for image in animation.preview()] == [(3 * 96, 64)] * NUM_FRAMES

    animation.save(tmp_path / "saved.mp4")
    streamed = animator(person, dance, tmp_path / "streamed.mp4", **SIZE, **steps())
    assert streamed.frames is None and [image.size for image in streamed.preview()] == [(2 * 96, 64)] * NUM_FRAMES
    assert (tmp_path / "streamed.mp4").read_bytes() == (tmp_path / "saved.mp4").read_bytes()
    video = read_video(tmp_path / "saved.mp4")
    assert video.fps == FPS and len(video.frames) == NUM_FRAMES
    assert sound_codec(tmp_path / "saved.mp4") == "aac"
    assert sound_end(tmp_path / "saved.mp4") == pytest.approx(NUM_FRAMES / FPS, abs=0.002)
    with pytest.raises(ValueError, match="`frames` is None"):
        streamed.save(tmp_path / "again.mp4")


def test_every_result_can_be_given_in_place_of_being_computed(animator, dance, person):
    whole = animator(person, dance, **SIZE, **steps())
    animator.detector = Unwanted()
    given = {"driving": whole.driving, "image_keypoints": whole.image_keypoints}
    for motion in ({"detected": whole.detected}, {"keypoints": whole.keypoints}):
        again = animator.prepare(whole.image, **given, **motion, **SIZE)
        np.testing.assert_array_equal(again.retargeted.xy, whole.retargeted.xy)
    # Equal bits: what is given is what would be computed, and the rest runs on the same arrays.
    for last in ({"retargeted": whole.retargeted, **SIZE}, {"condition": whole.condition}):
        again = animator(person, dance, **last, **steps(), fps=12)
        assert again.fps == 12 and again.keypoints is None
        np.testing.assert_array_equal(again.condition.to_tensor(), whole.condition.to_tensor())
        np.testing.assert_array_equal(np.stack(again.frames), np.stack(whole.frames))
    moved = replace(whole.keypoints, xy=whole.keypoints.xy + 8)
    other = animator.prepare(person, dance, keypoints=moved, retarget=False, height=HEIGHT, width=WIDTH)
    expected = animator.condition(moved, HEIGHT, WIDTH)
    np.testing.assert_array_equal(other.condition.pose, expected.pose)


def test_a_step_can_be_replaced_in_a_subclass(pipe, detector, dance, person):
    class Mirrored(HIAAnimator):
        def detect(self, driving, person=None):
            return super().detect(driving, person).flip_horizontal()

    plain, mirrored = (kind(pipe, detector).prepare(person, dance, retarget=False) for kind in (HIAAnimator, Mirrored))
    np.testing.assert_array_equal(mirrored.detected.xy, plain.detected.flip_horizontal().xy)
    assert not np.array_equal(mirrored.condition.pose, plain.condition.pose)


def test_keypoints_and_pose_videos_need_no_detector(pipe, person, tmp_path):
    animator = HIAAnimator(pipe, Unwanted())
    keypoints = keypoints_of(BOXES)
    keypoints.save(tmp_path / "dance.safetensors")
    for driving in (keypoints, tmp_path / "dance.safetensors", str(tmp_path / "dance.safetensors")):
        animation = animator.prepare(person, driving, max_frames=3, sharpness=0.5)
        assert animation.driving.kind == "keypoints" and animation.retargeted is None
        assert animation.condition.to_tensor().shape == (3, 6, HEIGHT, WIDTH)
        np.testing.assert_array_equal(animation.keypoints.xy, keypoints.xy[:3])
    drawn = animator.condition(keypoints, HEIGHT, WIDTH).pose
    poses = animator.prepare(person, Video(drawn, 24.0))
    assert poses.driving.kind == "pose" and poses.keypoints is None and poses.fps == 24
    np.testing.assert_array_equal(poses.condition.pose, drawn)
    assert poses.condition.to_tensor()[:, 3:].abs().max() == 0


def test_a_pose_video_is_aligned_on_request(person, tmp_path, caplog):
    """Its skeleton is read back, so that the motion is that of keypoints."""
    scene = ProceduralScene("test", 1, 1, 1)
    keypoints, other = scene.keypoints(range(4), 384, 256), ProceduralScene("test", 2, 2, 2)
    image = Image.fromarray(other.render([0], 256, 192).frames[0])
    reference = other.keypoints([0], 256, 192)
    write_video(tmp_path / "pose.mp4", draw_pose_map(keypoints), 25)
    animator, size = HIAAnimator(), {"height": 256, "width": 192}
    caplog.set_level(logging.INFO, "hia_diffusers.animation")
    aligned = animator.prepare(image, tmp_path / "pose.mp4", image_keypoints=reference, **size)
    assert "The skeleton was read in 4 of 4 frames of the pose video." in caplog.text
    assert "not aligned" not in caplog.text and aligned.driving.kind == "keypoints" and aligned.fps == 25
    expected = animator.prepare(image, keypoints, image_keypoints=reference, **size)
    limbs = (slice(None), slice(5, 17))
    assert np.nanmedian(np.abs(aligned.retargeted.xy[limbs] - expected.retargeted.xy[limbs])) < 2
    unread = animator.prepare(image, tmp_path / "pose.mp4", **size)
    assert unread.driving.kind == "pose" and "The pose video is not aligned to the person" in caplog.text
    caplog.clear()
    animator.prepare(image, tmp_path / "pose.mp4", retarget=False, **size)
    assert "not aligned" not in caplog.text

    write_video(tmp_path / "dynamic.mp4", draw_pose_map(keypoints, "dynamicpose"), 25)
    with pytest.raises(ValueError, match="`retarget`: an OpenPose-style skeleton can be read in 0 of 4 frames only; "):
        animator.prepare(image, tmp_path / "dynamic.mp4", driving_type="pose", image_keypoints=reference, **size)


def test_a_stated_area_has_the_aspect_of_the_image_where_the_motion_is_aligned_to_it(person, dance):
    animator, keypoints = HIAAnimator(detector=Unwanted()), keypoints_of(BOXES)
    wide = person.resize((3 * HEIGHT, HEIGHT))
    reference = WholeBodyKeypoints(keypoints.xy[:1], keypoints.score[:1], HEIGHT, 3 * HEIGHT, FPS)

    def size(**options):
        condition = animator.prepare(wide, keypoints, max_frames=2, **options).condition
        return condition.height, condition.width

    assert size() == (HEIGHT, WIDTH)
    assert size(area=12288, image_keypoints=reference) == (64, 192)
    height, width = size(area=12288)
    assert height / width == pytest.approx(HEIGHT / WIDTH, rel=0.1) and height * width == pytest.approx(12288, rel=0.1)
    assert size(area=12288, height=64, width=64) == (64, 64)
    assert size(long_side=96) == (80, 96)
    assert size(long_side=96, image_keypoints=reference) == (32, 96)


def test_the_largest_person_in_the_image_is_animated_or_the_one_in_a_box(animator, dance, caplog):
    large, small = (4, 4, 30, 60), (60, 24, 76, 60)
    two = Image.fromarray(draw_people([[small, large]], 64, 96)[0])
    people = (
        "2 people were detected in the image, and the largest is animated. To animate another, pass `image_person`."
    )
    for box, options in ((large, {}), (small, {"image_person": (58, 20, 80, 64)})):
        caplog.clear()
        animation = animator.prepare(two, dance, **options, **SIZE)
        x0, y0, x1, y1 = box
        found = animation.image_keypoints.xy[0]
        assert (found[:, 0] > x0 - 3).all() and (found[:, 0] < x1 + 3).all()
        assert (people in caplog.messages) == (not options)
    aligned = animator.prepare(two, keypoints_of(BOXES), image_person=(58, 20, 80, 64), **SIZE)
    assert aligned.retargeted is not None
    with pytest.raises(ValueError, match="`image_person` must be a box around a person, but nobody was detected at"):
        animator.prepare(two, dance, image_person=(40, 0, 44, 5))


@pytest.mark.parametrize("kind", ["pose", "video"])
def test_memory_does_not_grow_with_the_pixels_of_the_driving(dance, person, tmp_path, monkeypatch, kind):
    """A frame more costs what is kept of it: its condition or its keypoints, and none of its 6.2 MB."""
    if kind == "pose":
        small = HIAAnimator().condition(keypoints_of(dancer_boxes(1)), 1080, 1920).pose[0]
    else:
        small = np.asarray(Image.fromarray(draw_scene(BOXES[:1], BLUE)[0]).resize((1920, 1080)))
    animator = HIAAnimator(detector={**write_models(tmp_path), "batch_size": 2})
    # Decoded frames are FFmpeg's memory, which nothing counts: here they are copies.
    show = Display.__call__
    monkeypatch.setattr(Display, "__call__", lambda self, frame: show(self, frame).copy())

    def peak(num_frames):
        path = tmp_path / f"{num_frames}.mp4"
        write_video(path, (small for _ in range(num_frames)), 30)
        tracemalloc.start()
        animation = animator.prepare(person, path, sharpness="driving" if kind == "video" else "auto", **SIZE)
        assert animation.driving.kind == kind and len(animation.condition) == num_frames
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    animator.prepare(person, dance, **SIZE)  # imports count, too
    few, many = peak(6)[0], peak(12)[0]
    kept = 64 * 96 * 3 + 16 * 133 * 3 * 4  # a pose map, and keypoints as detected, smoothed and so on
    assert many - few < 6 * 2 * kept


@pytest.mark.parametrize("chunk", [{}, {"decode_chunk_size": 2}], ids=["default", "2"])
def test_ctrl_c_while_denoising_keeps_the_estimate(animator, person, tmp_path, caplog, chunk):
    animation = animator.prepare(person, keypoints_of(BOXES), **SIZE)
    output, seen = tmp_path / "out.mp4", []

    def press(pipe, step, timestep, tensors):
        assert set(tensors) == {"latents"}
        seen.append(step)
        if step == 2:
            raise KeyboardInterrupt

    options = {**steps(), "num_inference_steps": 9, **chunk}
    with pytest.raises(KeyboardInterrupt):
        animator.generate(animation, output, callback_on_step_end=press, **options)
    assert seen == [0, 1, 2] and [path.name for path in tmp_path.iterdir()] == ["out.unfinished.mp4"]
    assert "Stopped after 3 of 9 denoising steps." in caplog.text
    assert f"The first {NUM_FRAMES} frames are kept" in caplog.text
    kept = read_video(tmp_path / "out.unfinished.mp4").frames.astype(float)

    # As the third step estimates them, and the pipeline works as before.
    estimates = []
    whole = animator.generate(
        animation,
        callback_on_step_end=lambda pipe, step, time, tensors: estimates.append(tensors["pred_original_sample"]),
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
        **{**options, "generator": torch.Generator().manual_seed(0)},
    )
    with torch.no_grad():
        expected = np.stack(animator.pipe.decode(estimates[2], "pil")[0]).astype(float)
    assert np.abs(kept - expected).mean() < np.abs(kept - np.stack(whole.frames)).mean()
    write_video(tmp_path / "expected.mp4", expected.astype(np.uint8), animation.fps)
    np.testing.assert_array_equal(kept, read_video(tmp_path / "expected.mp4").frames)


def test_ctrl_c_before_the_first_step_is_done_keeps_nothing(animator, person, tmp_path, caplog):
    animation = animator.prepare(person, keypoints_of(BOXES), **SIZE)

    def press(*args):
        raise KeyboardInterrupt

    animator.pipe.unet.register_forward_pre_hook(press)
    with pytest.raises(KeyboardInterrupt):
        animator.generate(animation, tmp_path / "out.mp4", **steps())
    assert not list(tmp_path.iterdir())
    assert "No denoising step was completed, so there are no frames to keep." in caplog.text


def test_frames_are_kept_beside_an_output(animator, person, tmp_path):
    animation = animator.prepare(person, keypoints_of(BOXES), **SIZE)
    both = animator.generate(animation, tmp_path / "out", keep_frames=True, **steps())
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    np.testing.assert_array_equal(np.stack(written), np.stack(both.frames))


def test_a_part_of_a_clip_drives_with_its_sound(animator, person, tmp_path):
    """The tone, which begins half a second after the first frame, keeps its place."""
    condition = animator.condition(keypoints_of(BOXES)[:4], 64, 48)
    frames = np.zeros((30, 48, 64, 3), np.uint8)
    clip = write_clip(tmp_path / "dance.mkv", frames=frames)
    given = {"driving_type": "pose", "condition": condition, "start": 0.4, "end": 0.7, "every": 2, "max_frames": 4}
    animation = animator(person, clip, tmp_path / "out.mp4", **given, **steps())
    assert animation.fps == FPS / 2 and len(read_video(tmp_path / "out.mp4").frames) == 4
    assert tone_start(tmp_path / "out.mp4") == pytest.approx(0.1, abs=0.03)
    assert sound_end(tmp_path / "out.mp4") == pytest.approx(4 / (FPS / 2), abs=0.002)
    animator(person, clip, tmp_path / "other.mp4", sound=clip, **given, **steps())  # another file begins at its start
    assert not (tmp_path / "other.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


def test_another_frame_rate_changes_the_speed(animator, person, caplog):
    caplog.set_level(logging.INFO, logger="hia_diffusers.animation")
    keypoints = keypoints_of(BOXES)
    assert animator.prepare(person, keypoints, every=2).fps == FPS / 2 and "times the speed" not in caplog.text
    animation = animator.prepare(person, keypoints, every=2, fps=30)
    assert animation.fps == 30 and len(animation.condition) == 3
    assert "The result plays at 2 times the speed of the driving clip; sound keeps its own." in caplog.messages


@pytest.mark.parametrize(
    ("sound", "end"), [(True, NUM_FRAMES / FPS), (False, None), ("other.mkv", 0.1), ("silent.mkv", None)]
)
def test_whose_sound(animator, dance, person, tmp_path, sound, end):
    write_clip(tmp_path / "other.mkv", "flac", seconds=0.1)
    write_clip(tmp_path / "silent.mkv", None)
    sound = tmp_path / sound if isinstance(sound, str) else sound
    condition = animator.condition(keypoints_of(BOXES), 64, 48)
    animator(person, dance, tmp_path / "out.mp4", sound, condition=condition, **steps())
    assert sound_codec(tmp_path / "out.mp4") == (None if end is None else "aac")
    assert end is None or sound_end(tmp_path / "out.mp4") == pytest.approx(end, abs=0.03)


@pytest.mark.parametrize("name", ["still.png", "moving.gif", "moving.webp"])
def test_images_that_drive_have_no_sound(animator, person, tmp_path, name):
    frames = [Image.fromarray(frame) for frame in CONDITION.pose]
    moves = {} if name.startswith("still") else {"save_all": True, "append_images": frames[1:]}
    frames[0].save(tmp_path / name, **moves)
    animator(person, tmp_path / name, tmp_path / "out.mp4", driving_type="pose", **SIZE, **steps())
    assert sound_codec(tmp_path / "out.mp4") is None
    assert len(read_video(tmp_path / "out.mp4").frames) == (NUM_FRAMES if moves else 1)


def test_a_fast_person_alone_is_found_in_every_frame_and_frames_of_others_are_counted(detector, caplog):
    caplog.set_level(logging.INFO, logger="hia_diffusers.animation")
    animator = HIAAnimator(detector=detector)
    alone = [[(x, 14, x + 36, 114)] for x in (4, 60, 116, 60, 4, 60, 116)]
    keypoints = animator.detect(animator.load_driving(Video(draw_scene(alone), 8.0)))
    np.testing.assert_allclose(keypoints.xy, keypoints_of(alone).xy, atol=2.6)

    stays, leaves = (100, 20, 130, 100), (4, 14, 44, 114)
    two = [[leaves, stays]] * 3 + [[stays]] * 2
    caplog.clear()
    animator.detect(animator.load_driving(Video(draw_scene(two), 30.0)))
    assert "The person was detected in 3 of 5 frames of the driving clip." in caplog.messages
    assert any(
        message.startswith("In 2 frames without the person, others were detected") for message in caplog.messages
    )


def test_pose_files_of_other_tools_drive(person, tmp_path):
    animator = HIAAnimator(detector=Unwanted())
    keypoints = keypoints_of(BOXES)
    people = [[{"keypoints": xy.tolist(), "keypoint_scores": [1] * 133}] for xy in keypoints.xy]
    (tmp_path / "poses").mkdir()
    for frame, instances in enumerate(people):
        (tmp_path / "poses" / f"{9 + frame}.json").write_text(json.dumps(instances))
    video = [{"frame_id": frame, "instances": instances} for frame, instances in enumerate(people)]
    (tmp_path / "poses.JSON").write_text(json.dumps(video))
    with open(tmp_path / "poses.NPZ", "wb") as file:  # NumPy would add a suffix to the name
        np.savez(file, keypoints=keypoints.xy, scores=keypoints.score)
    np.save(tmp_path / "poses.npy", keypoints.xy / [WIDTH, HEIGHT])
    known = {"driving_fps": FPS, "driving_size": (HEIGHT, WIDTH)}
    for name in ("poses", "poses.JSON", "poses.NPZ", "poses.npy"):
        for driving_type in ("auto", "keypoints"):
            animation = animator.prepare(person, tmp_path / name, driving_type=driving_type, **known)
            np.testing.assert_allclose(animation.keypoints.xy, keypoints.xy, atol=1e-3)
            assert animation.driving.kind == "keypoints" and animation.fps == FPS
    for missing, name in (("its frame rate", "driving_fps"), ("the size of its image", "driving_size")):
        given = {key: value for key, value in known.items() if key != name}
        with pytest.raises(ValueError, match=f"`driving`: .*poses.npy does not state {missing}; pass `{name}`"):
            animator.prepare(person, tmp_path / "poses.npy", **given)
    both = "does not state the size of its image or its frame rate; pass `driving_size` and `driving_fps`"
    with pytest.raises(ValueError, match=both):
        animator.prepare(person, tmp_path / "poses.npy")
    keypoints.save(tmp_path / "own.npz")
    with pytest.raises(ValueError, match="`driving_fps` must be omitted or 30, as .*own.npz states, got 25"):
        animator.prepare(person, tmp_path / "own.npz", driving_fps=25)
    with pytest.raises(ValueError, match="`driving_size` must be omitted or 128, as .*own.npz states, got 64"):
        animator.prepare(person, tmp_path / "own.npz", driving_size=(64, WIDTH))
    with pytest.raises(ValueError, match="`driving_fps` applies only to folders of images, and to pose files"):
        animator.prepare(person, keypoints, driving_fps=25)
    (tmp_path / "poses.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="`driving`: .*poses.pkl is a pickle, which can run code"):
        animator.prepare(person, tmp_path / "poses.pkl", **known)


def test_a_pose_file_of_the_image_says_where_the_person_is(animator, dance, person, tmp_path):
    head = keypoints_of([[(60, 8, 76, 60)]])
    one = [{"keypoints": head.xy[0].tolist(), "keypoint_scores": [1] * 133}]
    (tmp_path / "person.json").write_text(json.dumps(one))
    animation = animator.prepare(person, keypoints_of(BOXES), image_keypoints=tmp_path / "person.json", **SIZE)
    np.testing.assert_allclose(animation.image_keypoints.xy, head.xy, atol=1e-3)
    assert animation.image_keypoints.width == person.width and animation.retargeted is not None


def test_the_detector_is_made_when_it_is_needed(tmp_path, dance, person, caplog):
    caplog.set_level(logging.INFO, logger="hia_diffusers.animation")
    animator = HIAAnimator(detector=write_models(tmp_path))
    animator.prepare(person, keypoints_of(BOXES))
    assert isinstance(animator.detector, dict)
    animator.prepare(person, dance)
    assert isinstance(animator.detector, KeypointDetector)
    told = "\n".join(caplog.messages)
    for message in (
        "The image's 96x64 is fitted into 160x128 with bars in its border colour.",
        "The driving clip is treated as a video of a person",
        "Keypoints are detected with RTMPose on CPUExecutionProvider.",
        f"The person was detected in {NUM_FRAMES} of {NUM_FRAMES} frames of the driving clip.",
        "The motion is retargeted to the person in the image.",
    ):
        assert message in told
    with pytest.raises(ValueError, match="keypoint detector: `device`"):
        HIAAnimator(detector={**write_models(tmp_path), "device": "warp"}).prepare(person, dance)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"guidence_scale": 2.0}, TypeError, "`guidence_scale` is an argument of neither HIAAnimator nor"),
        ({"output_type": "np"}, TypeError, "`output_type`"),
        ({"output": "out.avi"}, ValueError, "must end in .mp4, .webm, .gif or .webp, or be a folder"),
        ({"output": "missing/out.mp4"}, FileNotFoundError, "no folder 'missing'"),
        ({"height": 65}, ValueError, "`height` must be a multiple of 8 from 8 to 16384, got 65"),
        ({"image": 3}, TypeError, "`image` must be a path, a PIL image, .* got int"),
        ({"image": "missing.png"}, FileNotFoundError, "`image`: there is no file 'missing.png'"),
        ({"image": Image.new("RGB", (1, 999))}, ValueError, "`image`: 1x999 pixels are too thin"),
        ({"driving": None}, TypeError, "`driving` must be a path, WholeBodyKeypoints, a Video or a Driving"),
        ({"driving": "missing.mp4"}, FileNotFoundError, "missing.mp4"),
        ({"driving": replace(keypoints_of(BOXES), fps=5000)}, ValueError, "`driving`: `fps` must be .* got 5000"),
        (
            {"driving": Video(np.zeros((2, 8, 8, 4), np.uint8), 30)},
            ValueError,
            "its frames must be uint8 RGB of shape",
        ),
        ({"driving": Video(np.zeros((2, 8, 8, 3)), 30)}, ValueError, "its frames must be uint8 .* got float64"),
        (
            {"driving_type": "depth"},
            ValueError,
            '`driving_type` must be one of "auto", "video", "keypoints", "pose", "densepose", got',
        ),
        ({"driving": keypoints_of(BOXES), "driving_type": "pose"}, ValueError, "`driving_type` is 'pose', but"),
        ({"fps": 0}, ValueError, "`fps` must be a finite number, at least 0.001"),
        ({"fps": "25"}, TypeError, "`fps` must be a finite number"),
        ({"start": -1}, ValueError, "`start` must be a finite number, at least 0"),
        ({"start": 9}, ValueError, "`start` must be before the end of the driving clip, got 9 seconds"),
        ({"start": 0.1, "end": 0.1}, ValueError, "`end` must be a finite number, above 0.1"),
        ({"end": "1"}, TypeError, "`end` must be a finite number"),
        ({"every": 0}, ValueError, "`every` must be an integer from 1"),
        ({"every": 0.5}, TypeError, "`every` must be an integer"),
        ({"max_frames": 0}, ValueError, "`max_frames` must be an integer from 1 to .* got 0"),
        ({"max_frames": "5"}, TypeError, "`max_frames` must be an integer"),
        ({"max_frames": 10**400}, ValueError, "`max_frames` must be an integer"),
        ({"width": 20000}, ValueError, "`width` must be a multiple of 8 from 8 to 16384, got 20000"),
        ({"height": np.float32(64)}, TypeError, "`height` must be a multiple of 8"),
        ({"retarget": "no"}, TypeError, "`retarget` must be True or False"),
        ({"person": (0, 0, 9)}, ValueError, "`person` must be a box x0, y0, x1, y1"),
        ({"person": (9, 0, 0, 9)}, ValueError, "`person` must be a box x0, y0, x1, y1"),
        ({"person": "left"}, TypeError, "`person` must be a box x0, y0, x1, y1"),
        ({"person": (0, 0, 9, 10**400)}, ValueError, "`person` must be a box x0, y0, x1, y1"),
        ({"image_person": (0, 0, 9)}, ValueError, "`image_person` must be a box x0, y0, x1, y1"),
        (
            {"image_person": (0, 0, 9, 9), "retarget": False},
            ValueError,
            "`image_person` has no effect with `retarget=F",
        ),
        ({"image_person": (0, 0, 9, 9), "image_keypoints": "x"}, ValueError, "has no effect with `image_keypoints`"),
        ({"image_person": (0, 0, 9, 9), "driving_type": "pose"}, ValueError, "`retarget`: an OpenPose-style skeleton"),
        ({"long_side": 65}, ValueError, "`long_side` must be a multiple of 8 from 8 to 16384, got 65"),
        (
            {"long_side": 64, "height": 64},
            ValueError,
            "`long_side` cannot be combined with `height`, `width` or `area`",
        ),
        (
            {"long_side": 64, "retargeted": keypoints_of(BOXES)},
            ValueError,
            "`long_side` has no effect with `retargeted`",
        ),
        ({"sharpness": 1.5}, ValueError, "`sharpness` must be .* got 1.5"),
        ({"sharpness": True}, TypeError, "`sharpness` must be .* got True"),
        ({"sharpness": None}, ValueError, "`sharpness` must be .* got None"),
        ({"guidance_scale": float("nan")}, ValueError, "`guidance_scale` must be a finite number"),
        ({"num_inference_steps": "2"}, TypeError, "`num_inference_steps` must be an integer"),
        ({"generator": 42}, TypeError, "`generator` must be"),
        ({"sharpness": "sharp"}, ValueError, "`sharpness` must be auto, driving, unknown or numbers"),
        ({"driving_type": "pose", "sharpness": 0.5}, ValueError, "`sharpness`: a pose video"),
        ({"driving_type": "pose", "retarget": True}, ValueError, "`retarget`: an OpenPose-style skeleton"),
        ({"driving": keypoints_of(BOXES), "sharpness": "driving"}, ValueError, "`sharpness`: it can be measured"),
        ({"driving": keypoints_of(BOXES), "person": (0, 0, 9, 9)}, ValueError, "`person`: only a video"),
        ({"image_keypoints": keypoints_of(BOXES)}, ValueError, "`image_keypoints`: must be one frame of .* got 5"),
        (
            {"image_keypoints": "x", "retarget": False},
            ValueError,
            "`image_keypoints` has no effect with `retarget=False`",
        ),
        ({"keypoints": keypoints_of(BOXES), "max_frames": 2}, ValueError, "`keypoints` must be .* 2 frames, got 5"),
        ({"retargeted": "x.npz"}, ValueError, "`retargeted` must be a WholeBodyKeypoints of .* 5 frames, got str"),
        (
            {"detected": keypoints_of(BOXES), "person": (0, 0, 9, 9)},
            ValueError,
            "`person` has no effect with `detected`",
        ),
        (
            {"keypoints": keypoints_of(BOXES), "person": (0, 0, 9, 9)},
            ValueError,
            "`person` has no effect with `keypoints`",
        ),
        (
            {"retargeted": keypoints_of(BOXES), "image_keypoints": "x"},
            ValueError,
            "`image_keypoints` has no effect with `ret",
        ),
        (
            {"retargeted": keypoints_of(BOXES), "retarget": True},
            ValueError,
            "`retarget` has no effect with `retargeted`",
        ),
        ({"condition": CONDITION, "sharpness": 0.1}, ValueError, "`sharpness` has no effect with `condition`"),
        ({"condition": CONDITION, "width": 192}, ValueError, "`width` has no effect with `condition`"),
        (
            {"driving": keypoints_of(BOXES), "detected": keypoints_of(BOXES)},
            ValueError,
            "`detected`: people are detected only in",
        ),
        ({"driving_type": "pose", "keypoints": keypoints_of(BOXES)}, ValueError, "`keypoints` and `retargeted`: a"),
    ],
)
def test_bad_calls_are_known_before_people_are_looked_for(
    pipe, dance, person, tmp_path, monkeypatch, changes, error, message
):
    monkeypatch.chdir(tmp_path)
    arguments = {"image": person, "driving": dance} | changes
    with pytest.raises(error, match=message):
        HIAAnimator(pipe, Unwanted())(**arguments)
    assert not list(tmp_path.iterdir())


def test_bad_sound_and_a_missing_pipeline_are_known_before_frames_are_made(animator, person, dance, tmp_path):
    (tmp_path / "text.mp4").write_text("no sound\n" * 100)
    animation = animator.prepare(person, keypoints_of(BOXES))
    animator.pipe.unet.register_forward_pre_hook(lambda *_: pytest.fail("the pipeline ran"))
    with pytest.raises(ValueError, match="The sound of .*text.mp4' cannot be read"):
        animator.generate(animation, tmp_path / "out.mp4", tmp_path / "text.mp4", **steps())
    animator.pipe = None
    with pytest.raises(ValueError, match="`pipe` must be an HIAPipeline"):
        animator(person, dance)


def test_nobody_to_animate(animator, person, dance):
    empty = Image.fromarray(draw_people([[]], 64, 96)[0])
    with pytest.raises(
        ValueError, match="`image`: no person was detected; pass `image_keypoints` or `retarget=False`"
    ):
        animator.prepare(empty, dance)
    with pytest.raises(ValueError, match="`driving`: no person was detected"):
        animator.prepare(person, Video(draw_people([[]] * 3), 24.0), driving_type="video")
    head = WholeBodyKeypoints(np.full((1, 133, 2), 5.0), np.ones((1, 133)) * (np.arange(133) < 5), 64, 96, 1)
    with pytest.raises(ValueError, match="`retarget`: .*shoulders"):
        animator.prepare(person, dance, image_keypoints=head)


def test_keypoints_are_drawn_as_the_weights_of_the_pipeline_know_them(pipe, person):
    keypoints = keypoints_of(BOXES)
    before = pipe.config.call_defaults
    try:
        pipe.register_to_config(call_defaults={"pose_map": "dynamicpose"})
        pose = HIAAnimator(pipe).prepare(person, keypoints, **SIZE).condition.pose
    finally:
        pipe.register_to_config(call_defaults=before)
    np.testing.assert_array_equal(pose, draw_pose_map(keypoints.fit(**SIZE), "dynamicpose"))
    pose = HIAAnimator(call_defaults={"pose_map": "musepose"}).prepare(person, keypoints, **SIZE).condition.pose
    np.testing.assert_array_equal(pose, draw_pose_map(keypoints.fit(**SIZE), "musepose"))


def test_pipelines_read_densepose_or_skeletons(pipe, person, tmp_path):
    maps = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    densepose = Driving("densepose", 24.0, frames=maps)
    reader = HIAAnimator(call_defaults={"pose_map": "densepose"})
    animation = reader.prepare(person, densepose)
    np.testing.assert_array_equal(animation.condition.pose, maps)
    write_video(tmp_path / "densepose.mp4", maps, 24)
    loaded = reader.prepare(person, tmp_path / "densepose.mp4", driving_type="densepose")
    assert loaded.driving.kind == "densepose" and len(loaded.condition) == 3
    with pytest.raises(ValueError, match="`driving_type` must be densepose and"):
        reader.prepare(person, tmp_path / "densepose.mp4", driving_type="video")
    with pytest.raises(ValueError, match="`driving_type` must be densepose and"):
        reader.prepare(person, keypoints_of(BOXES))
    with pytest.raises(ValueError, match="`driving_type`: the pipeline reads skeletons, not DensePose maps"):
        HIAAnimator(pipe).prepare(person, densepose)
    with pytest.raises(ValueError, match="`driving_type`: the pipeline reads skeletons, not DensePose maps"):
        HIAAnimator(pipe).generate(animation, **steps())
