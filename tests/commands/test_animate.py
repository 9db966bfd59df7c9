# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import itertools
import json
import os
from pathlib import Path

import av
import diffusers
import numpy as np
import pytest
from forked_python import run
from hub_server import HubServer
from onnx_models import draw_people, points_in, write_models
from PIL import Image
from sounding_videos import write_clip

from hia_diffusers import MotionBlurConditioner, WholeBodyKeypoints
from hia_diffusers.animation.driving import Driving
from hia_diffusers.commands import animate
from hia_diffusers.conditioning.retargeting import smooth_keypoints
from hia_diffusers.detection.keypoint_detector import KeypointDetector
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An image, its motion as keypoints and as a pose video, and files that are none of them."""
    folder = tmp_path_factory.mktemp("inputs")
    made = run(EXAMPLES / "make_demo_inputs.py", "--output", folder, "--size", "48x80", "--num_frames", 4, cwd=folder)
    assert made.returncode == 0, made.stderr
    poses = np.zeros((5, 62, 46, 3), dtype=np.uint8)
    poses[:, 20:40, 20:26] = (255, 85, 0)
    write_video(folder / "poses.mp4", poses, fps=29.97)
    with av.open(str(folder / "empty.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    (folder / "text.mp4").write_text("not a video\n" * 100)
    (folder / "text.png").write_text("no image\n" * 100)
    (folder / "text.safetensors").write_text("no keypoints\n" * 100)
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(folder / "float.tiff")
    image = (folder / "image.png").read_bytes()
    (folder / "cut.png").write_bytes(image[: len(image) // 2])
    (folder / "folder.mp4").mkdir()
    (folder / "out_preview.mp4").mkdir()
    write_models(folder)
    write_video(folder / "walk.mp4", walk()[0], fps=24)
    write_video(folder / "nobody.mp4", draw_people([[]] * 3), fps=24)
    Image.fromarray(draw_people([IN_IMAGE], *IMAGE_SIZE[::-1])[0]).save(folder / "person.png")
    Image.fromarray(draw_people([[]], *IMAGE_SIZE[::-1])[0]).save(folder / "nobody.png")
    image_keypoints().save(folder / "person.safetensors")
    keypoints = image_keypoints()
    keypoints.score[:, 5:] = 0
    keypoints.save(folder / "head.safetensors")
    xy = np.stack([points_in(box) for box in walk()[1]])
    WholeBodyKeypoints(xy, np.ones(xy.shape[:2]), 128, 160, 24.0).save(folder / "walk.safetensors")
    return folder


IN_IMAGE, IMAGE_SIZE = [(60, 8, 76, 60)], (96, 64)
MODELS = {"detector_model": "detector.onnx", "pose_model": "pose.onnx", "feet_model": "feet.onnx"}


def walk():
    """Frames with a person who walks beside a smaller one, and the boxes of the first."""
    boxes = [(20 + 4 * frame, 20, 60 + 4 * frame, 120) for frame in range(5)]
    frames = draw_people([[box, (130, 60, 150, 100)] for box in boxes])
    texture = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    frames[..., 1] = np.where(frames[..., 0] > 128, texture, frames[..., 1])
    return frames, boxes


def image_keypoints():
    return WholeBodyKeypoints(points_in(IN_IMAGE[0])[None], np.ones((1, 133)), *IMAGE_SIZE[::-1], fps=1)


@pytest.fixture(autouse=True)
def from_inputs(inputs, monkeypatch):
    """Calls run in the folder of the inputs. The script sets the log level of diffusers: it is put back."""
    monkeypatch.chdir(inputs)
    verbosity = diffusers.utils.logging.get_verbosity()
    yield
    diffusers.utils.logging.set_verbosity(verbosity)


GOOD = {"--image": "image.png", "--driving": "motion.safetensors", "--output": "out.mp4"}


def call(**changes):
    options = GOOD | {f"--{name}": value for name, value in changes.items()}
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    return [word for word in words if word is not True]


def assert_one_error_line(stderr, *named):
    assert stderr.startswith("hia-diffusers animate: error: ") and stderr.count("\n") == 1, stderr
    assert all(name in stderr for name in named), stderr


def test_demo_inputs_fit_together(inputs):
    keypoints = WholeBodyKeypoints.load(inputs / "motion.safetensors")
    image = Image.open(inputs / "image.png")
    assert image.size == (keypoints.width, keypoints.height) == (48, 80)
    assert len(keypoints) == 4 and keypoints.fps == 30 and (keypoints.score > 0).all()
    xy = keypoints.xy[0]
    shoulders, hands = xy[[5, 6]], (xy[91:112], xy[112:133])
    assert shoulders[0, 0] > shoulders[1, 0]  # the person faces us: the left is at larger x
    for wrist, hand in zip(xy[[9, 10]], hands, strict=True):
        np.testing.assert_array_equal(hand[0], wrist)
    # Both hands are where the keypoints say: the skin of the face is there too.
    pixels = np.asarray(image, dtype=int)
    face, *palms = (
        pixels[tuple(np.int64(point[::-1]))] for point in (xy[23 + 27], *(h[[0, 5, 17]].mean(0) for h in hands))
    )
    for palm in palms:
        assert np.abs(palm - face).max() < 40


def test_keypoints_to_video(inputs, tmp_path):
    output = tmp_path / "out.mp4"
    options = ["--image", "image.png", "--driving", "motion.safetensors", "--output", output]
    result = run(
        "-m",
        "hia_diffusers",
        "animate",
        *options,
        "--num_inference_steps",
        2,
        "--sharpness",
        0.5,
        "--preview",
        "--device",
        "cpu",
        cwd=inputs,
    )
    assert result.returncode == 0, result.stderr
    assert animate.HIA_TINY_LIMITS in result.stdout.splitlines()
    video = read_video(output)
    assert video.frames.shape == (4, 80, 48, 3) and video.fps == 30
    preview = read_video(tmp_path / "out_preview.mp4")
    assert preview.frames.shape == (4, 80, 3 * 48, 3) and preview.fps == 30
    reference, result = preview.frames[:, :, :48].astype(int), preview.frames[:, :, 96:].astype(int)
    assert np.abs(reference - np.asarray(Image.open("image.png"), dtype=int)).mean() < 8
    assert np.abs(result - video.frames).mean() < 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out_preview.mp4"]


def test_pose_video_to_video(tmp_path, capsys):
    output = tmp_path / "out.mp4"
    output.write_bytes(b"an older result")
    options = ["--image", "image.png", "--driving", "poses.mp4", "--output", str(output), "--device", "cpu"]
    animate.main([*options, "--num_inference_steps", "2", "--max_frames", "3"])
    video = read_video(output)
    assert video.frames.shape == (3, 64, 48, 3) and video.fps == 30000 / 1001
    printed = capsys.readouterr().out
    assert "hia-tiny from the package, which supports only procedural people" in printed
    assert "For a photograph: --model moore-animate-anyone;" in printed
    assert "The driving's 46x62 is rounded to 48x64." in printed
    assert "The image's 48x80 is fitted into 48x64 with bars in its border colour." in printed


@pytest.mark.parametrize("name", ["out.GIF", "frames/"])
def test_an_animated_image_or_a_folder_says_that_it_is_without_sound(tmp_path, capsys, caplog, name):
    sounding = write_clip(tmp_path / "sounding.mkv", frames=read_video("poses.mp4").frames, seconds=0.5)
    animate.main(call(driving=str(sounding), output=f"{tmp_path}/{name}", num_inference_steps="1", device="cpu"))
    printed = capsys.readouterr().out
    assert f"{name} is without the sound of {sounding}: only .mp4 and .webm files have sound." in printed
    assert f"{name}: 5 frames of 48x64 at 30 frames per second." in printed
    if name == "frames/":
        assert len(list((tmp_path / name).glob("frame_*.png"))) == 5
    else:
        assert read_video(tmp_path / name).frames.shape[1:] == (64, 48, 3)


@pytest.mark.parametrize("form", ["folder", "GIF", "webp", "json", "folder of json"])
def test_every_form_of_a_motion(tmp_path, form):
    frames = read_video("poses.mp4").frames
    person = {"pose_keypoints_2d": [*np.array([[20.0, 30.0, 0.9]] * 18).ravel()]}
    frame = {"people": [person], "canvas_width": 46, "canvas_height": 62}
    driving, options, count = tmp_path / f"poses.{form}", {}, 5
    if form == "folder":
        write_video(f"{driving}/", frames, 25)
        options = {"driving_fps": "25"}
    elif form in ("GIF", "webp"):
        frames[:, 0, 0, 0] = 50 * np.arange(5)  # else they are merged
        write_video(driving, frames, 25)
    elif form == "json":
        driving.write_text(json.dumps(frame))
        count = 1
    else:
        driving.mkdir()
        for index in range(5):
            (driving / f"dance_{index}_keypoints.json").write_text(json.dumps(frame))
        options = {"driving_fps": "25"}
    output = tmp_path / "out.mp4"
    animate.main(call(driving=str(driving), output=str(output), num_inference_steps="1", device="cpu", **options))
    video = read_video(output)
    assert len(video.frames) == count and video.fps == (1 if form == "json" else 25)


def test_a_part_of_the_motion_at_another_rate(tmp_path, capsys):
    output = str(tmp_path / "out.mp4")
    part = {"start": "0.05", "end": "0.15", "every": "2", "fps": "12"}
    animate.main(call(driving="poses.mp4", output=output, num_inference_steps="1", device="cpu", **part))
    video = read_video(output)
    assert len(video.frames) == 2 and video.fps == 12
    assert "The result plays at 0.801 times the speed of the driving clip" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "said"), [(60, "Denoising takes about 0:03:00 more."), (1, "")])
def test_the_time_that_denoising_takes_is_said_after_its_first_step(tmp_path, capsys, monkeypatch, seconds, said):
    clock = itertools.count(step=seconds)
    monkeypatch.setattr(animate.time, "monotonic", lambda: next(clock))
    animate.main(call(output=str(tmp_path / "out.mp4"), max_frames="1", num_inference_steps="4", device="cpu"))
    printed = capsys.readouterr().out
    assert printed.count("Denoising takes") == bool(said) and said in printed


def test_previews_while_denoising(tmp_path, capsys):
    live = []
    for name, watermark in (("plain", None), ("marked", "AI")):
        options = {"num_inference_steps": "4", "preview_every": "2", "watermark": watermark}
        animate.main([str(word) for word in call(output=tmp_path / f"{name}.mp4", **options)])
        assert f"Previews are written to {tmp_path / name}_live.png while" in capsys.readouterr().out
        live.append(np.asarray(Image.open(tmp_path / f"{name}_live.png"), int))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("marked.mp4", "marked_live.png", "plain.mp4", "plain_live.png"),
    ]
    assert live[0].shape == live[1].shape == (80, 4 * 48, 3)
    label = np.abs(live[1] - live[0]).reshape(80, 4, 48, 3).max(axis=-1)
    assert (label[65:, :, 30:].max(axis=(0, 2)) > 90).all() and not label[:60].any()  # in each frame


def test_the_seed_decides_the_frames(tmp_path):
    def frames(seed):
        changes = {
            "output": str(tmp_path / "out.mp4"),
            "device": "cpu",
            "num_inference_steps": "2",
            "max_frames": "2",
            "seed": seed,
        }
        animate.main(call(**changes))
        return read_video(tmp_path / "out.mp4").frames

    first = frames("0")
    np.testing.assert_array_equal(first, frames("0"))
    assert not np.array_equal(first, frames("1"))


def condition_of(size, **changes):
    """The condition that a call makes."""
    words = call(**changes, size="{}x{}".format(*size))
    args = animate.make_parser().parse_args(words)
    with animate.log_to_stdout(vars(args)):
        return animate.prepare(args)[1].condition


def drawn_box(pose):
    """x0, y0, x1, y1 of what is drawn in a frame of the pose map."""
    y, x = np.nonzero(pose.any(axis=-1))
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def test_sharpness_and_size_reach_the_condition():
    condition = condition_of((96, 160), sharpness="0.25", max_frames="3").to_tensor()
    assert condition.shape == (3, 6, 160, 96)
    assert set(condition[:, 5].unique().tolist()) == {0, 0.25}
    by_itself = condition_of((96, 160))
    assert (by_itself.hand_sharpness > 0).any() and by_itself.to_tensor()[:, 3:].any()
    assert not condition_of((96, 160), sharpness="unknown").to_tensor()[:, 3:].any()


def test_video_of_a_person_to_video(tmp_path, capsys):
    output = tmp_path / "out.mp4"
    options = {
        "image": "person.png",
        "driving": "walk.mp4",
        "output": str(output),
        "device": "cpu",
        "num_inference_steps": "2",
    }
    animate.main(call(**options, **MODELS, size="96x64"))
    video = read_video(output)
    assert video.frames.shape == (5, 64, 96, 3) and video.fps == 24
    printed = capsys.readouterr().out
    assert "The driving clip is treated as a video of a person: 0% of its pixels are black" in printed
    assert "Keypoints are detected with RTMPose on CPUExecutionProvider." in printed
    assert "The person was detected in 5 of 5 frames of the driving clip." in printed
    assert "The motion is retargeted to the person in the image." in printed


def test_the_motion_of_a_video_is_drawn_where_the_person_is():
    """At the size of the video and as it is there. The largest person is followed, or the one in a box."""
    options = {"image": "person.png", "driving": "walk.mp4", "no_retarget": True, **MODELS}
    condition = condition_of((160, 128), **options)
    for pose, (x0, y0, x1, y1) in zip(condition.pose, walk()[1], strict=True):
        assert abs(drawn_box(pose) - [x0, y0, x1, y1]).max() < 12
    small = condition_of((160, 128), **options, person="125,55,155,105")
    for pose in small.pose:
        assert abs(drawn_box(pose) - [130, 60, 150, 100]).max() < 8


def test_the_motion_of_a_video_is_smoothed():
    video = read_video("walk.mp4")
    keypoints = KeypointDetector(**MODELS)(video.frames, video.fps)
    smooth = smooth_keypoints(keypoints)
    assert np.abs(smooth.xy - keypoints.xy).max() > 0.1
    condition = condition_of((160, 128), image="person.png", driving="walk.mp4", no_retarget=True, **MODELS)
    np.testing.assert_array_equal(condition.pose, animate_conditioner((160, 128))(smooth).pose)


@pytest.mark.parametrize(
    "changes",
    [
        {"driving": "walk.mp4", **MODELS},
        {"driving": "walk.mp4", **MODELS, "image_keypoints": "person.safetensors"},
        {"driving": "walk.safetensors", "image_keypoints": "person.safetensors"},
        {"driving": "walk.safetensors", "retarget": True, **MODELS},
    ],
)
def test_the_motion_is_aligned_to_the_person_in_the_image(changes, capsys):
    """Twice as large, the image has bars above and below."""
    condition = condition_of((192, 192), image="person.png", **changes)
    x0, y0, x1, y1 = drawn_box(condition.pose[0])
    assert abs(y1 - y0 - 2 * 52 * 0.94) < 12 and abs(x1 - x0 - 2 * 16) < 20
    assert abs((y0 + y1) / 2 - (32 + 2 * 34)) < 8
    assert "The motion is retargeted to the person in the image." in capsys.readouterr().out


def test_the_longer_side_of_the_result():
    words = call(image="person.png", driving="walk.mp4", **MODELS, long_side="48", image_person="58,6,78,62")
    animation = animate.prepare(animate.make_parser().parse_args(words), {"area": 10**5})[1]
    assert (animation.condition.width, animation.condition.height) == (48, 32)  # of the image


def test_keypoints_are_not_aligned_unless_asked(capsys):
    condition = condition_of((48, 80))
    expected = WholeBodyKeypoints.load("motion.safetensors")
    np.testing.assert_array_equal(condition.pose, animate_conditioner((48, 80))(expected).pose)
    assert "aligned" not in capsys.readouterr().out


def animate_conditioner(size):
    return MotionBlurConditioner(line_scale=min(1.0, min(size) / 512))


def test_the_sharpness_of_the_driving_is_measured_before_the_motion_is_aligned():
    options = {"image": "person.png", "driving": "walk.mp4", "sharpness": "driving", **MODELS}
    aligned, as_it_is = condition_of((96, 64), **options), condition_of((160, 128), **options, no_retarget=True)
    assert (as_it_is.hand_sharpness > 0.2).all()
    np.testing.assert_array_equal(aligned.hand_sharpness, as_it_is.hand_sharpness)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("poses.mp4", "pose", "an OpenPose-style pose video: 9"),
        ("drawn.mp4", "pose", "an OpenPose-style pose video: 8"),
        ("walk.mp4", "video", "a video of a person: 0% of its pixels are black, and"),
        ("stage.mp4", "video", "a video of a person: 8"),
        ("dark.mp4", "video", "a video of a person: 100% of its pixels are black, and 0%"),
    ],
)
def test_videos_are_told_apart_aloud(tmp_path, capsys, name, kind, said):
    """Also a person in the spotlight of a black stage, and one in the dark."""
    keypoints = WholeBodyKeypoints(points_in((10, 5, 86, 155))[None].repeat(3, axis=0), np.ones((3, 133)), 160, 96, 30)
    write_video(tmp_path / "drawn.mp4", animate_conditioner((96, 160))(keypoints).pose, fps=30)
    stage = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "dark.mp4", stage, fps=30)
    stage[:, 10:60, 24:40] = (200, 150, 125)
    write_video(tmp_path / "stage.mp4", stage, fps=30)
    path = tmp_path / name if (tmp_path / name).exists() else Path(name)
    with animate.log_to_stdout(["driving_type"]):
        assert Driving.load(path).kind == kind
    printed = capsys.readouterr().out
    assert said in printed and "--driving_type" in printed
    other = {"pose": "video", "video": "pose"}[kind]
    with animate.log_to_stdout(["driving_type"]):
        assert Driving.load(path, other).kind == other
    assert capsys.readouterr().out == ""


BAD_CALLS = [
    ({"image": None}, "--image"),
    ({"driving": None}, "--driving"),
    ({"output": None}, "--output"),
    ({"image": "missing.png"}, "--image", "missing.png"),
    ({"image": "."}, "--image", "'.'"),
    ({"image": "text.png"}, "--image", "text.png"),
    ({"image": "cut.png"}, "--image", "cut.png"),
    ({"image": "float.tiff"}, "--image", "float.tiff"),
    ({"driving": "missing.mp4"}, "--driving", "missing.mp4"),
    ({"driving": "folder.mp4"}, "--driving", "folder.mp4"),
    ({"driving": "text.mp4"}, "text.mp4", "cannot be decoded"),
    ({"driving": "empty.avi"}, "empty.avi", "no video frame"),
    ({"driving": "text.safetensors"}, "text.safetensors"),
    ({"driving": "poses.mp4", "sharpness": "0.5"}, "--sharpness", "pose video"),
    (
        {"driving": "poses.mp4", "retarget": True},
        "--retarget: an OpenPose-style skeleton",
        "a pose file with its keypoints, as --driving",
    ),
    ({"driving": "poses.mp4", "image_keypoints": "person.safetensors"}, "--retarget", "skeleton"),
    ({"driving": "poses.mp4", "person": "1,2,3,4"}, "--person"),
    ({"driving": "walk.mp4", "driving_type": "depth"}, "--driving_type", "depth"),
    ({"driving": "walk.mp4", "driving_type": "keypoints"}, "walk.mp4", ".safetensors"),
    ({"driving": "motion.safetensors", "driving_type": "video"}, "motion.safetensors", "cannot be decoded"),
    ({"driving": "walk.mp4", **MODELS, "pose_model": "missing.onnx"}, "--pose_model", "missing.onnx"),
    ({"driving": "walk.mp4", **MODELS, "detector_device": "warp"}, "keypoint detector: --device", "warp"),
    ({"driving": "walk.mp4", **MODELS, "person": "0,0,9,9"}, "--person", "nobody"),
    ({"driving": "nobody.mp4", **MODELS}, "--driving", "no person was detected"),
    ({"driving": "walk.mp4", **MODELS, "image": "nobody.png"}, "--image", "no person was detected", "--no_retarget"),
    ({"retarget": True, **MODELS, "image": "nobody.png"}, "--image", "no person was detected"),
    ({"person": "1,2,3"}, "--person", "1,2,3"),
    ({"image_person": "1,2,3"}, "--image_person", "1,2,3"),
    ({"image_person": "1,2,3,4", "no_retarget": True}, "--image_person has no effect with --no_retarget"),
    ({"image_person": "0,0,9,9", "image": "person.png", **MODELS}, "--image_person", "nobody"),
    ({"long_side": "100"}, "--long_side must be a multiple of 8", "got 100"),
    ({"long_side": "96", "size": "64x64"}, "--size", "--long_side"),
    ({"person": "9,2,3,4"}, "--person", "9,2,3,4"),
    ({"sharpness": "driving"}, "--sharpness", "video of a person"),
    ({"image_keypoints": "missing.npz"}, "--image_keypoints", "missing.npz"),
    ({"image_keypoints": "person.safetensors"}, "--image_keypoints", "48x80", "96x64"),
    ({"image_keypoints": "walk.safetensors", "image": "person.png"}, "--image_keypoints", "got 5 of"),
    ({"image_keypoints": "head.safetensors", "image": "person.png"}, "--retarget", "shoulders"),
    ({"image_keypoints": "person.safetensors", "no_retarget": True}, "--image_keypoints", "--no_retarget"),
    ({"sharpness": "1.5"}, "--sharpness", "1.5"),
    ({"sharpness": "nan"}, "--sharpness", "nan"),
    ({"sharpness": "sharp"}, "--sharpness", "sharp"),
    ({"size": "512"}, "--size", "512"),
    ({"size": "0x64"}, "--size", "0x64"),
    ({"size": "64x65"}, "--size", "64x65"),
    ({"num_inference_steps": "0"}, "--num_inference_steps", "'0'"),
    ({"num_inference_steps": "2.5"}, "--num_inference_steps", "2.5"),
    ({"guidance_scale": "-1"}, "--guidance_scale", "-1"),
    ({"guidance_scale": "inf"}, "--guidance_scale", "inf"),
    ({"seed": "-1"}, "--seed", "-1"),
    ({"max_frames": "0"}, "--max_frames", "'0'"),
    ({"start": "-1"}, "--start", "-1"),
    ({"start": "9"}, "--start must be before the end of the driving clip, got 9 seconds"),
    ({"start": "2", "end": "1"}, "--end must be", "above 2", "got 1"),
    ({"every": "0"}, "--every", "'0'"),
    ({"fps": "0"}, "--fps", "'0'"),
    ({"fps": "60", "output": "out.gif"}, "--fps of a .gif file must be from 0.01 to 50, got 60"),
    ({"dtype": "int8"}, "--dtype", "int8"),
    ({"device": "warp"}, "--device", "warp"),
    ({"device": "meta"}, "--device", "meta"),
    ({"output": "out.avi"}, "--output: must end in .mp4, .webm, .gif or .webp, or be a folder", "out.avi"),
    ({"output": "."}, "--output", "not the name of a new folder"),
    ({"output": "missing/out.mp4"}, "--output", "missing"),
    ({"output": "image.png/out.mp4"}, "--output", "image.png"),
    ({"output": "folder.mp4"}, "--output", "folder.mp4"),
    ({"output": "poses.mp4", "driving": "poses.mp4"}, "--output", "poses.mp4"),
    ({"preview": True}, "--output", "out_preview.mp4"),
    ({"speed": "2"}, "--speed"),
    ({"sharp": "0.5"}, "--sharp"),
    ({"model": "/missing/model"}, "--model", "/missing/model"),
    ({"model": "folder.mp4"}, "--model", "folder.mp4", "model_index.json"),
]


@pytest.mark.parametrize(("changes", "named"), [(call[0], call[1:]) for call in BAD_CALLS], ids=str)
def test_bad_call_is_one_line_and_leaves_nothing(inputs, capsys, changes, named):
    before = {path: path.is_file() and path.read_bytes() for path in inputs.iterdir()}
    with pytest.raises(SystemExit) as exit_:
        animate.main(call(**changes))
    assert exit_.value.code == 2
    assert_one_error_line(capsys.readouterr().err, *named)
    assert {path: path.is_file() and path.read_bytes() for path in inputs.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "/missing/model"}, "/missing/model"),
        ({"image": "nobody.png"}, "--image"),
        ({"image_keypoints": "walk.safetensors"}, "--image_keypoints"),
    ],
)
def test_a_bad_call_is_known_before_the_motion_is_detected(capsys, changes, named):
    with pytest.raises(SystemExit):
        animate.main(call(**({"image": "person.png", "driving": "walk.mp4", **MODELS} | changes)))
    printed = capsys.readouterr()
    assert_one_error_line(printed.err, named)
    assert "was detected in" not in printed.out


def test_memory_is_planned_for_the_device(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(inputs)
    animate.main([*call(memory="none", output=str(tmp_path / "out.mp4")), "--num_inference_steps", "1"])
    assert "Memory: all weights on the device, " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        animate.main(call(memory="model"))
    assert_one_error_line(capsys.readouterr().err, "--memory: ", "on the CPU")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "magic-animate", "driving_type": "auto"}, ("--driving_type", "reads DensePose maps")),
        ({"model": "musepose", "driving_type": "densepose"}, ("--driving_type", "reads skeletons")),
        ({"model": "musepose", "driving": "text.mp4"}, ("text.mp4", "cannot be decoded")),
        ({"model": "musepose", "image": "cut.png"}, ("--image", "cut.png")),
        ({"model": "musepose", "driving": "nobody.mp4", **MODELS}, ("--driving", "no person was detected")),
    ],
)
def test_a_clip_that_a_published_model_cannot_read_is_refused_before_its_download(
    monkeypatch, tmp_path, capsys, changes, named
):
    with HubServer(tmp_path) as server:
        server.take_the_hubs_place(monkeypatch, tmp_path / "cache")
        with pytest.raises(SystemExit):
            animate.main(call(**changes))
        assert server.requests == []
    assert_one_error_line(capsys.readouterr().err, *named)


def test_a_model_that_the_hub_lacks(monkeypatch, tmp_path, capsys):
    with HubServer(tmp_path) as server, pytest.raises(SystemExit):
        server.take_the_hubs_place(monkeypatch, tmp_path / "cache")
        animate.main(call(model="missing/model"))
    named = ("--model: 'missing/model' is not a folder", "`hia-diffusers models`", "on the Hub")
    assert_one_error_line(capsys.readouterr().err, *named)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": "missing.png"}, "missing.png"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_bad_call_of_the_real_program(inputs, changes, named):
    result = run("-m", "hia_diffusers", "animate", *call(**changes), cwd=inputs)
    assert (result.returncode, result.stdout) == (2, "")
    assert_one_error_line(result.stderr, named)
    assert not (inputs / "out.mp4").exists()


@pytest.mark.skipif(os.access("/", os.W_OK), reason="root may write everywhere")
def test_an_output_folder_without_the_right_to_write(tmp_path, capsys):
    tmp_path.chmod(0o555)
    with pytest.raises(SystemExit):
        animate.main(call(output=str(tmp_path / "out.mp4")))
    assert_one_error_line(capsys.readouterr().err, "--output", str(tmp_path))
