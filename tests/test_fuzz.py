# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Every way in, given what nobody expects: it answers with a finite result, or with an error that says what is wrong.

`FUZZ_EFFORT=10 pytest tests/test_fuzz.py` tries forty times as many cases; `make test-slow` tries four times as many.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import math
import os
import shutil
import signal
import struct
import sys
import warnings
from pathlib import Path

import av
import diffusers
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from published_weights import SMALL_SIZE, draw_weights, motion_shapes

from hia_diffusers import (
    HIAAnimator,
    HIADataset,
    MotionBlurCondition,
    MotionBlurConditioner,
    ShiftedSNRScheduler,
    WholeBodyKeypoints,
    retarget_keypoints,
    smooth_keypoints,
)
from hia_diffusers.animation.driving import Driving
from hia_diffusers.commands import animate, app, convert, evaluate, prepare
from hia_diffusers.commands.running import run
from hia_diffusers.conditioning.regions import face_boxes
from hia_diffusers.conversion.animatediff import convert_motion_adapter
from hia_diffusers.conversion.sd_controlnet import convert_controlnet
from hia_diffusers.data.clip_sources import PreparedClips, ProceduralClips, UnreadableClipError
from hia_diffusers.images import image_tensors, load_image
from hia_diffusers.metrics import frame as frame_metrics
from hia_diffusers.metrics import region_metrics as regions
from hia_diffusers.metrics.evaluation import VideoEvaluation
from hia_diffusers.metrics.weights import local_file
from hia_diffusers.pipelines.context_windows import context_windows, frame_weights
from hia_diffusers.preparation.clip_index import COLUMNS, encode_index
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.video_lists import list_videos
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.state_dicts import read_state_dict
from hia_diffusers.video.reading import VideoFrames, read_comment, read_frame_rate, read_frames, read_video
from hia_diffusers.video.sound import has_sound
from hia_diffusers.video.writing import write_video


EFFORT = float(os.environ.get("FUZZ_EFFORT", "0.25"))
SECONDS = 60  # of a case, on a machine that is busy

SIDE = 16  # pixels
CLIP = torch.rand(2, 6, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
IMAGE = PIL.Image.new("RGB", (SIDE, SIDE), "navy")


def tries(number):
    """The same cases on every machine."""
    return settings(
        max_examples=math.ceil(number * EFFORT),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        report_multiple_bugs=False,
    )


class Hang(BaseException):
    pass


def _hang(*_):
    raise Hang(f"a case took longer than {SECONDS} seconds")


@contextlib.contextmanager
def time_limit():
    before = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(named, function, *args, **kwargs):
    """What a call gives; `None` where it ends with an error that has one of the names in it."""
    with time_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*args, **kwargs)
        except (OSError, TypeError, ValueError) as error:
            message = str(error)
            if not any(name in message for name in named) or len(message) > 1000:
                raise AssertionError(f"the error names none of {named}: {message[:1000]}") from error
    return None


def arguments_of(function):
    return [f"`{name}" for name in inspect.signature(function).parameters if name != "self"]


def check_finite(result):
    if isinstance(result, torch.Tensor):
        assert result.isfinite().all()
    elif isinstance(result, np.ndarray) and result.dtype.kind == "f":
        assert np.isfinite(result).all()
    elif isinstance(result, (list, tuple)):
        for value in result:
            check_finite(value)
    elif isinstance(result, float):
        assert math.isfinite(result)


# What is given in place of a number, a word or an object.
HUGE = [2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400)]
WHOLE = st.integers(-2, 3) | st.sampled_from(HUGE)
NUMBERS = st.one_of(
    WHOLE,
    st.floats(),
    st.sampled_from([True, False, np.bool_(True), np.int64(3), np.uint8(2), np.float32(0.5), np.float16("inf"), 1j]),
    st.sampled_from([np.array(2), np.array([2.0]), torch.tensor(1), torch.tensor([0.5]), np.datetime64("NaT")]),
)
ANYTHING = st.one_of(
    st.none(),
    NUMBERS,
    st.text(max_size=4),
    st.binary(max_size=4),
    st.lists(NUMBERS | st.none() | st.text(max_size=2), max_size=3),
    st.lists(NUMBERS, min_size=2, max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2),
    st.sampled_from([object(), len, int, range(2), {1}, float("nan"), slice(2), np.zeros((0, 3)), torch.zeros(0)]),
)
ARRAYS = stn.arrays(
    st.sampled_from(["u1", "u2", ">u2", "i4", "f2", "f4", ">f4", "f8", "c8", "?", "S2"]),
    stn.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)


def some_of(good, odd=ANYTHING, most=2):
    """Values of some of the arguments: a few odd ones beside good ones."""

    @st.composite
    def draw(pick):
        chosen = pick(st.lists(st.sampled_from(sorted(good)), unique=True, max_size=4))
        values = {name: pick(good[name]) for name in chosen}
        for name in pick(st.lists(st.sampled_from(sorted(good)), unique=True, max_size=most)):
            values[name] = pick(odd)
        return values

    return draw()


@st.composite
def damaged(pick, contents):
    """The bytes of a good file, with some changed, left out, doubled or cut off."""
    content = bytearray(pick(st.sampled_from(contents)))
    for _ in range(pick(st.integers(0, 4))):
        if not content:
            break
        place = pick(st.integers(0, min(len(content), 400)) | st.integers(0, len(content)))
        match pick(st.sampled_from(["change", "number", "insert", "delete", "cut", "double"])):
            case "change" if place < len(content):
                content[place] = pick(st.integers(0, 255))
            case "number":
                content[place : place + 4] = pick(
                    st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"])
                )
            case "insert":
                content[place:place] = pick(st.binary(max_size=8))
            case "delete":
                del content[place : place + pick(st.integers(1, 64))]
            case "cut":
                del content[place:]
            case "double":
                content[place:place] = content[place : place + 64]
    return bytes(content)


@pytest.fixture
def folder(tmp_path):
    """Where nothing may be left but what a test names."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# The pipeline

IMAGES = st.one_of(
    st.just(IMAGE),
    st.sampled_from(["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"]).map(lambda mode: PIL.Image.new(mode, (9, 20))),
    st.integers(1, 4).map(lambda channels: np.full((5, 7, channels), 0.5, np.float32)),
    st.just(torch.zeros(3, 8, 8)),
    st.just([IMAGE]),
)
CLIPS = st.one_of(st.just(CLIP), st.just(CLIP[:1]), st.just(CLIP[None]), st.just([IMAGE] * 3))
CALL = {
    "image": IMAGES,
    "conditioning_frames": CLIPS,
    "height": st.sampled_from([None, 16, 24]),
    "width": st.sampled_from([None, 16, 24]),
    "num_inference_steps": st.integers(1, 2),
    "timesteps": st.none(),
    "sigmas": st.none(),
    "guidance_scale": st.floats(0, 20),
    "controlnet_conditioning_scale": st.floats(-2, 2),
    "control_guidance_start": st.floats(0, 0.5),
    "control_guidance_end": st.floats(0.5, 1),
    "guider": st.none(),
    "reference_noise": st.booleans(),
    "shared_noise": st.floats(0, 1),
    "context_frames": st.integers(1, 16),
    "context_overlap": st.just(0),
    "context_shift": st.booleans(),
    "context_batch_size": st.integers(1, 2),
    "batch_guidance": st.booleans(),
    "num_videos_per_prompt": st.integers(1, 2),
    "eta": st.floats(0, 1),
    "generator": st.just(torch.Generator().manual_seed(0)),
    "latents": st.just(torch.zeros(1, 4, 2, 2, 2)),
    "image_embeds": st.just(torch.zeros(1, 1, 32)),
    "prompt_embeds": st.just(torch.zeros(1, 1, 32)),
    "ip_adapter_image": st.none(),
    "ip_adapter_image_embeds": st.none(),
    "output_type": st.sampled_from(["np", "pt", "latent"]),
    "return_dict": st.booleans(),
    "cross_attention_kwargs": st.sampled_from([None, {"scale": 0.5}]),
    "decode_chunk_size": st.integers(1, 3),
    "callback_on_step_end": st.just(lambda pipe, step, timestep, tensors: {}),
    "callback_on_step_end_tensor_inputs": st.just(["latents"]),
}


def test_the_calls_know_every_argument(pristine_pipe):
    assert {*CALL, "kwargs"} >= {*inspect.signature(pristine_pipe.__call__).parameters} >= {*CALL}


@tries(40)
@given(arguments=some_of(CALL, ANYTHING | ARRAYS))
def test_calls_of_the_pipeline(pristine_pipe, arguments):
    call = {"image": IMAGE, "conditioning_frames": CLIP, "num_inference_steps": 1, "output_type": "np"} | arguments
    result = answer(arguments_of(pristine_pipe.__call__), pristine_pipe, **call)
    check_finite(None if result is None else result[0] if isinstance(result, tuple) else result.frames)


STREAM = {name: CALL[name] for name in ("output_type", "decode_chunk_size", "num_videos_per_prompt", "image")}


@tries(10)
@given(arguments=some_of(STREAM))
def test_streams_of_the_pipeline(pristine_pipe, arguments):
    call = {"image": IMAGE, "conditioning_frames": CLIP, "num_inference_steps": 1, "output_type": "np"} | arguments
    named = [*arguments_of(pristine_pipe.stream), *arguments_of(pristine_pipe.__call__)]
    check_finite(answer(named, lambda: list(pristine_pipe.stream(**call))))


SCHEDULE = st.lists(NUMBERS, max_size=4) | ANYTHING | ARRAYS | st.lists(st.integers(0, 999), max_size=4)


@tries(40)
@given(
    name=st.sampled_from(["DDPMScheduler", "EulerDiscreteScheduler", "LCMScheduler", "ShiftedSNRScheduler"]),
    timesteps=st.none() | SCHEDULE,
    sigmas=st.none() | SCHEDULE,
    steps=st.integers(1, 30) | ANYTHING,
)
def test_schedules(pristine_pipe, name, timesteps, sigmas, steps):
    pipe, own = pristine_pipe, pristine_pipe.scheduler
    scheduler_class = ShiftedSNRScheduler if name == "ShiftedSNRScheduler" else getattr(diffusers, name)
    pipe.scheduler = scheduler_class.from_config(own.config)
    try:
        named = ["`timesteps", "`sigmas", "`num_inference_steps", "`scheduler"]
        check_finite(answer(named, pipe.prepare_timesteps, steps, timesteps=timesteps, sigmas=sigmas))
    finally:
        pipe.scheduler = own


SCHEDULER = {name: st.just(value.default) for name, value in inspect.signature(ShiftedSNRScheduler).parameters.items()}


@tries(60)
@given(arguments=some_of(SCHEDULER))
def test_schedulers(arguments):
    scheduler = answer(arguments_of(ShiftedSNRScheduler), ShiftedSNRScheduler, **arguments)
    if scheduler is not None:
        check_finite(scheduler.alphas_cumprod)
        answer(["`num_inference_steps", "num_train_timesteps"], scheduler.set_timesteps, 3)


# Keypoints and pose files

POINTS = np.full((2, 133, 2), 8, np.float32), np.ones((2, 133), np.float32)
KEYPOINTS = WholeBodyKeypoints(*POINTS, SIDE, SIDE, 30.0)
SIZE = st.integers(1, 64)
FPS = st.floats(0.1, 120)
POSES = {
    "xy": st.just(POINTS[0]) | stn.arrays("f4", (2, 133, 2)),
    "score": st.just(POINTS[1]) | stn.arrays("f4", (2, 133)),
    "height": SIZE,
    "width": SIZE,
    "fps": FPS,
}


@tries(60)
@given(arguments=some_of(POSES, ANYTHING | ARRAYS), size=st.tuples(SIZE | NUMBERS, SIZE | NUMBERS), odd=ANYTHING)
def test_keypoints(arguments, size, odd):
    defaults = {"xy": POINTS[0], "score": POINTS[1], "height": SIDE, "width": SIDE, "fps": 30.0}
    keypoints = answer(arguments_of(WholeBodyKeypoints), WholeBodyKeypoints, **defaults | arguments)
    if keypoints is None:
        return
    assert np.isfinite(keypoints.xy[keypoints.score > 0]).all() and np.isfinite(keypoints.score).all()
    answer(["`height", "`width"], keypoints.resize, *size)
    answer(["`height", "`width"], keypoints.fit, *size)
    answer(["`max_gap", "`score_threshold", "`window", "`parts"], smooth_keypoints, keypoints, odd)
    answer(["`driving"], retarget_keypoints, keypoints, KEYPOINTS[:1])


def keypoint_files(folder):
    """Good files of every kind, by their suffix."""
    frame = {"people": [{"pose_keypoints_2d": [1.0, 2.0, 0.5] * 18, "hand_left_keypoints_2d": None}]}
    canvas = {"canvas_height": 64, "canvas_width": 48}
    instance = {"keypoints": [[1.0, 2.0]] * 133, "keypoint_scores": [0.5] * 133}
    coco = {"image_id": "1.png", "keypoints": [1.0, 2.0, 0.5] * 17, "category_id": 1, "score": 1}
    contents = [frame, [frame | canvas] * 2, {"instance_info": [{"frame_id": 1, "instances": [instance]}]}, [coco] * 2]
    files = {".json": [json.dumps(content).encode() for content in contents]}
    dwpose = {"bodies": np.ones((2, 18, 2)), "hands": np.ones((4, 21, 2)), "faces": np.ones((2, 68, 2))}
    arrays = [
        {"keypoints": np.ones((2, 1, 133, 2)), "scores": np.ones((2, 1, 133))},
        dwpose | {"height": 9, "width": 9},
    ]
    buffers = [io.BytesIO() for _ in range(3)]
    for buffer, save, values in zip(buffers, (np.savez, np.savez_compressed), arrays, strict=False):
        save(buffer, **values)
    np.save(buffers[2], np.ones((2, 134, 3)))
    files[".npy"] = [buffers.pop().getvalue()]
    files[".npz"] = [buffer.getvalue() for buffer in buffers]
    for suffix in (".npz", ".safetensors"):
        KEYPOINTS.save(folder / f"good{suffix}")
        files.setdefault(suffix, []).append((folder / f"good{suffix}").read_bytes())
        (folder / f"good{suffix}").unlink()
    return files


@pytest.fixture
def kept_keypoint_files(tmp_path):
    return keypoint_files(tmp_path)


@tries(150)
@given(data=st.data())
def test_damaged_keypoint_files(kept_keypoint_files, folder, data):
    suffix = data.draw(st.sampled_from(sorted(kept_keypoint_files)))
    path = folder / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(kept_keypoint_files[suffix])))
    stated = {name: data.draw(st.none() | good) for name, good in {"height": SIZE, "width": SIZE, "fps": FPS}.items()}
    keypoints = answer([str(path)], WholeBodyKeypoints.load, path, **stated)
    if keypoints is not None:
        assert np.isfinite(keypoints.xy[keypoints.score > 0]).all()


@tries(60)
@given(
    header=st.dictionaries(
        st.sampled_from(["xy", "score", "height", "width", "fps", "__metadata__", "x"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "I64", "BOOL", "F64", "X", 3]),
                "shape": st.lists(st.sampled_from([0, 1, 2, 133, 2**40, -1, 1.5, None]), max_size=3),
                "data_offsets": st.lists(st.sampled_from([0, 8, 64, 2**40, 2**64, -1]), min_size=1, max_size=2),
            }
        )
        | st.sampled_from([None, 1, "x", [], {}]),
    ),
    length=st.none() | st.sampled_from([0, 7, 2**20, 2**63, 2**64 - 1]),
    rest=st.binary(max_size=64),
)
def test_safetensors_headers(folder, header, length, rest):
    content = json.dumps(header).encode()
    path = folder / "header.safetensors"
    path.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content + rest)
    answer([str(path)], WholeBodyKeypoints.load, path)


@tries(60)
@given(
    name=st.sampled_from(["xy", "keypoints", "bodies", "candidate", "score", "scores", "subset", "arr_0", "faces"]),
    array=ARRAYS,
    rest=st.dictionaries(
        st.sampled_from(["height", "width", "fps", "score", "hands", "body_scores"]), ARRAYS, max_size=3
    ),
)
def test_arrays_of_keypoint_files(folder, name, array, rest):
    path = folder / "arrays.npz"
    np.savez(path, **rest | {name: array})
    answer([str(path)], WholeBodyKeypoints.load, path, SIDE, SIDE, 30.0)


KEYS = ["people", "pose_keypoints_2d", "face_keypoints_2d", "canvas_width", "canvas_height", "instances", "frame_id"]
KEYS += ["instance_info", "keypoints", "keypoint_scores", "image_id", "hand_left_keypoints_2d", "foot_kpts"]
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.5, 1e308, 10**30, float("nan"), "1.png", "", "9" * 30, []])
    | st.sampled_from([[0.5] * 51, [1.0] * 54, [[1, 2]] * 17, [0.5] * 17, [None] * 54, [3, "2", 1] * 18]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
PERSON = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3)
FRAMES = st.lists(
    st.fixed_dictionaries(
        {}, optional={"people": st.lists(PERSON | JSON, max_size=2), "canvas_width": JSON, "canvas_height": JSON}
    )
    | st.fixed_dictionaries({"instances": st.lists(PERSON | JSON, max_size=2)}, optional={"frame_id": JSON})
    | st.fixed_dictionaries({"keypoints": JSON}, optional={"image_id": JSON, "keypoint_scores": JSON}),
    max_size=3,
)


@tries(200)
@given(content=FRAMES | PERSON | JSON, person=st.none() | st.integers(-1, 2) | ANYTHING)
def test_json_of_other_tools(folder, content, person):
    path = folder / "pose.json"
    path.write_text(json.dumps(content))
    answer([str(path), "`person"], WholeBodyKeypoints.load, path, SIDE, SIDE, 30.0, person=person)
    answer(["`source", "`person"], WholeBodyKeypoints.from_openpose_json, content, SIDE, SIDE, 30.0)


# Images


def images_of_every_kind():
    images = {"RGB": IMAGE, "I;16": PIL.Image.new("I;16", (5, 4), 300), "CMYK": PIL.Image.new("CMYK", (5, 4))}
    kinds = [("PNG", "RGB"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "RGB"), ("WEBP", "RGB")]
    kinds += [("TIFF", "I;16"), ("TIFF", "CMYK"), ("BMP", "RGB"), ("PPM", "RGB"), ("ICO", "RGB"), ("TGA", "RGB")]
    kinds += [("PCX", "RGB"), ("DDS", "RGB"), ("SGI", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB"), ("ICNS", "RGB")]
    contents = []
    for kind, mode in kinds:
        buffer = io.BytesIO()
        with contextlib.suppress(KeyError, OSError):  # not every Pillow can write all of them
            exif = PIL.Image.Exif()
            exif[274] = 6
            images[mode].save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
            contents.append(buffer.getvalue())
    contents += [b"qoif\0\0\0\x04\0\0\0\x04\x03\0" + b"\xc0" * 4 + b"\0" * 7 + b"\1", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
    return contents


IMAGE_FILES = images_of_every_kind()


@tries(200)
@given(content=damaged(IMAGE_FILES) | st.binary(max_size=32))
def test_damaged_images(folder, content):
    path = folder / "image"
    path.write_bytes(content)
    image = answer([f"`image`: {str(path)!r}"], load_image, path)
    assert image is None or image.mode == "RGB"


@tries(80)
@given(
    image=ARRAYS
    | ARRAYS.filter(lambda array: array.dtype.kind not in "S" and array.dtype.isnative).map(torch.as_tensor)
    | ANYTHING
)
def test_images_as_numbers(image):
    tensors = answer(["`image"], image_tensors, image)
    assert tensors is None or all(0 <= tensor.min() <= tensor.max() <= 1 for tensor in tensors)
    loaded = answer(["`image"], load_image, image)
    assert loaded is None or loaded.mode == "RGB"


# Videos


def videos_of_every_kind(folder):
    """Two to four frames each, by the suffix."""
    frames = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    write_video(folder / "clip.mp4", frames, 8)
    for name, codec, pixel_format in (
        ("clip.webm", "libvpx", "yuv420p"),
        ("clip.mkv", "mjpeg", "yuvj420p"),
        ("clip.avi", "mpeg4", "yuv420p"),
    ):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, 8, width=SIDE, height=SIDE, pix_fmt=pixel_format)
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    first, *others = map(PIL.Image.fromarray, frames)
    for suffix in ("gif", "webp", "png"):
        first.save(folder / f"clip.{suffix}", save_all=True, append_images=others, duration=125)
    contents = {path.suffix: path.read_bytes() for path in sorted(folder.iterdir())}
    for path in folder.iterdir():
        path.unlink()
    return contents


@pytest.fixture
def videos(tmp_path):
    (tmp_path / "videos").mkdir()
    return videos_of_every_kind(tmp_path / "videos")


@tries(100)
@given(data=st.data())
def test_damaged_videos(videos, folder, data):
    suffix = data.draw(st.sampled_from(sorted(videos)))
    path = folder / f"damaged{data.draw(st.just(suffix) | st.sampled_from(sorted(videos)))}"
    path.write_bytes(data.draw(damaged([videos[suffix]])))
    most = data.draw(st.none() | st.integers(1, 3))
    video = answer([repr(str(path))], read_video, path, most)
    if video is not None:
        assert video.frames.dtype == np.uint8 and video.frames.ndim == 4 and math.isfinite(video.fps)
    indices = data.draw(st.lists(st.integers(0, 4), max_size=3) | ANYTHING | ARRAYS)
    answer([repr(str(path)), "`indices"], read_frames, path, indices)


FRAME_LISTS = st.one_of(
    st.just(np.zeros((2, SIDE, SIDE, 3), np.uint8)),
    stn.arrays(st.sampled_from(["u1", "f4", "f8"]), st.tuples(*[st.integers(0, 3)] * 3, st.integers(1, 4))),
    ARRAYS,
    st.lists(ARRAYS | st.just(IMAGE) | st.none(), max_size=3),
    ANYTHING,
)
WRITE = {
    "frames": FRAME_LISTS,
    "fps": FPS | st.sampled_from([29.97, 23.976, 1000, 0.001]),
    "keyframe_interval": st.none() | st.integers(1, 5),
    "audio_from": st.none(),
    "audio_start": st.floats(0, 2),
    "comment": st.none() | st.text(max_size=8),
    "keep_unfinished": st.just(False),
}


@tries(60)
@given(
    arguments=some_of(WRITE),
    name=st.sampled_from(["out.mp4", "out.webm", "out.gif", "out.webp", "out.avi", "out", "no/out.mp4", "a:b%d.MP4"]),
)
def test_videos_to_write(folder, arguments, name):
    path = folder / name
    call = {"frames": np.zeros((2, SIDE, SIDE, 3), np.uint8), "fps": 8} | arguments
    named = [f"`{name}" for name in WRITE] + ["`path", repr(str(path)), repr(str(path.parent)), "frame "]
    done = answer(named, lambda: write_video(path, **call) or True)
    assert [left for left in left_in(folder) if "frame_" not in left] == ([name] if done else [])
    if path.is_dir():
        shutil.rmtree(path)
    elif done:
        assert len(VideoFrames(path)) > 0
        path.unlink()


# Conditions

CONDITIONER = {
    name: st.just(value.default) for name, value in inspect.signature(MotionBlurConditioner).parameters.items()
}
CONDITION = {
    "pose": st.just(np.zeros((2, SIDE, SIDE, 3), np.uint8)),
    "hand_boxes": st.just(np.full((2, 2, 4), np.nan)) | stn.arrays("f4", (2, 2, 4)),
    "hand_motion": st.just(np.full((2, 2, 2), np.nan)) | stn.arrays("f4", (2, 2, 2)),
    "hand_sharpness": st.just(np.full((2, 2), np.nan)) | stn.arrays("f4", (2, 2)),
    "max_motion": st.floats(0.1, 4),
}
KEYPOINT_VALUES = st.builds(
    lambda xy, score, size: WholeBodyKeypoints(xy, score, *size, 30.0),
    stn.arrays(
        "f4", (2, 133, 2), elements=st.floats(-40, 80, width=32) | st.floats(width=32), fill=st.floats(0, 16, width=32)
    ),
    stn.arrays("f4", (2, 133), elements=st.floats(0, 1, width=32), fill=st.floats(0, 1, width=32)),
    st.sampled_from([(SIDE, SIDE), (1, 40)]),
)


@tries(60)
@given(
    options=some_of(CONDITIONER, most=1),
    keypoints=KEYPOINT_VALUES,
    frames=st.none() | st.just(np.zeros((2, SIDE, SIDE, 3), np.uint8)) | FRAME_LISTS,
    sharpness=st.sampled_from(["auto", "unknown", 0.5]) | ANYTHING | ARRAYS,
    previous=st.none() | KEYPOINT_VALUES | ANYTHING,
)
def test_conditioners(options, keypoints, frames, sharpness, previous):
    conditioner = answer(arguments_of(MotionBlurConditioner), MotionBlurConditioner, **options)
    if conditioner is not None:
        condition = answer(
            arguments_of(conditioner.__call__), conditioner, keypoints, frames, sharpness, previous_keypoints=previous
        )
        if condition is not None:
            tensor = condition.to_tensor()
            assert tensor.isfinite().all() and 0 <= tensor.min() <= tensor.max() <= 1
            assert len(condition.preview()) == len(condition)


@tries(60)
@given(arguments=some_of(CONDITION, ANYTHING | ARRAYS))
def test_conditions(arguments):
    good = {name: np.full((2, 2, *last), np.nan) for name, last in (("hand_boxes", (4,)), ("hand_motion", (2,)))}
    good |= {"hand_sharpness": np.full((2, 2), np.nan), "pose": np.zeros((2, SIDE, SIDE, 3), np.uint8)}
    condition = answer(arguments_of(MotionBlurCondition), MotionBlurCondition, **good | arguments)
    if condition is not None:
        tensor = condition.to_tensor()
        assert tensor.isfinite().all() and 0 <= tensor.min() <= tensor.max() <= 1


@tries(150)
@given(
    num_frames=st.integers(1, 60) | ANYTHING,
    context_frames=st.integers(1, 20) | ANYTHING,
    context_overlap=st.integers(0, 20) | ANYTHING,
    shift=st.booleans() | ANYTHING,
)
def test_windows(num_frames, context_frames, context_overlap, shift):
    if isinstance(num_frames, int) and num_frames > 10**6:
        num_frames = 10**6 + num_frames
    windows = answer(
        arguments_of(context_windows), context_windows, num_frames, context_frames, context_overlap, shift
    )
    if windows is not None:
        weights = frame_weights(windows, int(num_frames))
        assert {frame for window in windows for frame in window} == {*range(int(num_frames))} and weights.max() <= 1


# The animator

ANIMATION = {
    "image": IMAGES,
    "driving": st.just(KEYPOINTS) | KEYPOINT_VALUES,
    "person": st.none(),
    "retarget": st.just(False),
    "image_keypoints": st.none(),
    "sharpness": st.just("auto"),
    "height": st.just(16),
    "width": st.just(24),
    "detected": st.none(),
    "keypoints": st.none(),
    "retargeted": st.none(),
    "condition": st.none(),
    "fps": FPS,
    "area": st.none() | st.just(384),
    "long_side": st.none(),
    "image_person": st.none(),
}
DRIVING = {
    "driving_type": st.just("keypoints"),
    "max_frames": st.integers(1, 2),
    "driving_fps": st.none(),
    "driving_size": st.none(),
    "start": st.none() | st.floats(0, 0.05),
    "end": st.none() | st.floats(0.05, 1),
    "every": st.integers(1, 3),
}


def test_the_animations_know_every_argument():
    assert {"self", "driving_options", *ANIMATION} == {*inspect.signature(HIAAnimator.prepare).parameters}
    assert {"driving", *DRIVING} == {*inspect.signature(Driving.load).parameters}


@tries(100)
@given(arguments=some_of(ANIMATION | DRIVING, ANYTHING | ARRAYS | KEYPOINT_VALUES))
def test_animations(arguments):
    call = {"image": IMAGE, "driving": KEYPOINTS} | arguments
    animator = HIAAnimator(detector={"detector_model": "none.onnx"})  # would be downloaded otherwise
    files = [repr(value) for value in arguments.values() if isinstance(value, str)]
    named = ["`detector_model", *arguments_of(animator.prepare), *arguments_of(Driving.load), *files]
    animation = answer(named, animator.prepare, **call)
    if animation is not None:
        assert animation.condition.to_tensor().isfinite().all() and math.isfinite(animation.fps)


OUTPUTS = ["out.mp4", "out.avi", "no/out.mp4", "..", "a" * 300 + ".mp4", "a\0.mp4", "a\0"]


@tries(12)
@given(
    arguments=some_of(CALL, most=1),
    sound=st.sampled_from([True, False, "none.mp3"]) | ANYTHING,
    name=st.sampled_from(OUTPUTS),
)
def test_animated_files(pristine_pipe, folder, arguments, sound, name):
    call = {"num_inference_steps": 1} | {
        key: arguments[key] for key in arguments if key not in ("image", "conditioning_frames", "width", "height")
    }
    output = folder / name
    named = [
        *arguments_of(pristine_pipe.__call__),
        *arguments_of(HIAAnimator.generate),
        "`path",
        repr(str(output)),
        str(output.parent),
    ]
    named += ["null byte", "none.mp3"]
    done = answer(named, HIAAnimator(pristine_pipe), IMAGE, KEYPOINTS, output, sound, **call)
    assert left_in(folder) == ([name] if done else [])
    if done:
        assert len(read_video(output).frames) == 2
        output.unlink()


# Paths

PATHS = {
    "path": [WholeBodyKeypoints.load, KEYPOINTS.save, read_video, read_frame_rate, read_comment, VideoFrames],
    "audio_from": [has_sound],
    "videos": [list_videos],
    "root": [PreparedClips],
    "weights": [convert_motion_adapter, convert_controlnet, local_file],
    "driving": [Driving.load],
    "image": [load_image],
}


@pytest.mark.parametrize(("named", "function"), [(name, call) for name, calls in PATHS.items() for call in calls])
@tries(10)
@given(path=ANYTHING | st.text())
def test_paths_that_are_none(folder, monkeypatch, named, function, path):
    monkeypatch.chdir(folder)
    answer([f"`{named}", repr(path)], function, path)
    assert left_in(folder) == []


# Datasets

ROW = {
    **dict.fromkeys(
        ("clip", "video", "file_name", "annotations"),
        st.text(max_size=6) | st.sampled_from(["../a.mp4", "/a", "a\0", "c.mp4", "c.npz"]),
    ),
    **dict.fromkeys(
        ("start_frame", "num_frames", "height", "width"), st.integers(-(2**63), 2**63 - 1) | st.integers(0, 64)
    ),
    **dict.fromkeys(
        ("fps", "mean_score", "person_height", "body_motion", "hand_motion", "hand_sharpness"), st.floats()
    ),
}


@pytest.fixture
def prepared(folder, videos):
    """A dataset of one clip, and the row of its index."""
    (folder / "c.mp4").write_bytes(videos[".mp4"])
    keypoints = WholeBodyKeypoints(np.full((4, 133, 2), 8), np.ones((4, 133)), SIDE, SIDE, 8.0)
    condition = MotionBlurConditioner.for_size(SIDE, SIDE)(keypoints, read_video(folder / "c.mp4").frames)
    arrays = {name: np.asarray(getattr(keypoints, name)) for name in ("xy", "score", "height", "width", "fps")}
    arrays |= {"face_boxes": face_boxes(keypoints), "hand_boxes": condition.hand_boxes}
    safetensors.numpy.save_file(arrays | {"hand_sharpness": condition.hand_sharpness}, folder / "c.safetensors")
    row = dict.fromkeys(COLUMNS, 0.5) | {
        "clip": "c",
        "video": "v.mp4",
        "file_name": "c.mp4",
        "annotations": "c.safetensors",
    }
    row |= {"start_frame": 0, "num_frames": 4, "fps": 8.0, "height": SIDE, "width": SIDE}
    (folder / "index.parquet").write_bytes(encode_index([row]))
    return folder, row


@tries(80)
@given(changes=some_of(ROW, st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_rows_of_an_index(prepared, changes):
    folder, row = prepared
    try:
        content = encode_index([row | changes])
    except (TypeError, ValueError):  # pyarrow's, where a column cannot hold it
        return
    (folder / "index.parquet").write_bytes(content)
    source = answer([str(folder)], PreparedClips, folder)
    if source is not None:
        load_clip(source)


def load_clip(source):
    dataset = answer(["`num_frames", "`sizes"], HIADataset, source, [(SIDE, SIDE)], num_frames=1)
    if dataset is not None:
        with time_limit(), contextlib.suppress(UnreadableClipError):
            check_finite([value for value in dataset[0].values() if isinstance(value, torch.Tensor)])


@tries(60)
@given(data=st.data())
def test_damaged_clips(prepared, data):
    folder, _ = prepared
    name = data.draw(st.sampled_from(["c.safetensors", "c.mp4", "index.parquet"]))
    before = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(data.draw(damaged([before])))
        source = answer([str(folder)], PreparedClips, folder)
        if source is not None:
            load_clip(source)
    finally:
        (folder / name).write_bytes(before)


DATASET = {
    "sizes": st.lists(st.tuples(st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=2),
    "num_frames": st.integers(1, 4),
    "frame_stride": st.integers(1, 3) | st.just((1, 2)),
    "resolution_scale": st.sampled_from([1, 1.0, 2]),
    "samples_per_clip": st.integers(1, 2),
    "static_clip_probability": st.floats(0, 1),
    "horizontal_flip_probability": st.floats(0, 1),
    "condition_dropout": st.floats(0, 1),
    "blur_condition_dropout": st.floats(0, 1),
    "allow_same_frame": st.booleans(),
    "conditioner": st.none(),
    "on_error": st.sampled_from(["raise", "skip"]),
    "seed": st.integers(0, 9),
}


@tries(60)
@given(arguments=some_of(DATASET))
def test_datasets(arguments):
    source = ProceduralClips("train", 2, 8)
    dataset = answer(arguments_of(HIADataset), HIADataset, source, **{"sizes": [(SIDE, SIDE)]} | arguments)
    assert dataset is None or len(dataset) >= 2


@tries(40)
@given(
    scene=some_of(
        {"split": st.just("test"), **dict.fromkeys(("identity", "motion", "setting"), st.integers(0, 3))}, most=1
    ),
    shot=some_of(
        {
            "frames": st.lists(st.integers(0, 9), min_size=1, max_size=2),
            "height": st.just(SIDE),
            "width": st.just(SIDE),
            "fps": FPS,
        },
        most=1,
    ),
)
def test_scenes(scene, shot):
    defaults = {"split": "test", "identity": 0, "motion": 0, "setting": 0}
    made = answer(arguments_of(ProceduralScene), ProceduralScene, **defaults | scene)
    if made is not None:
        call = {"frames": [0], "height": SIDE, "width": SIDE} | shot
        keypoints = answer(arguments_of(made.keypoints), made.keypoints, **call)
        assert keypoints is None or np.isfinite(keypoints.xy[keypoints.score > 0]).all()


OPTIONS = {
    field.name: st.just(field.default) for field in dataclasses.fields(PreparationOptions) if field.name != "detector"
}
RULES = {field.name: st.just(field.default) for field in dataclasses.fields(ClipRules)}


@tries(100)
@given(options=some_of(OPTIONS, most=1), rules=some_of(RULES, most=1))
def test_options_of_the_preparation(options, rules):
    answer([*arguments_of(PreparationOptions), "`threshold"], PreparationOptions, **options)
    answer(arguments_of(ClipRules), ClipRules, **rules)


ENTRY = st.one_of(
    st.sampled_from(
        ["a.mp4", "b/c.mp4", "none.mp4", "../x.mp4", "/etc/passwd", "a\\b.mp4", "", "a.mp4\0", "x.txt", "file:a.mp4"]
    ),
    st.text(max_size=6),
)
LISTS = {
    ".json": st.one_of(
        st.lists(ENTRY | JSON, max_size=3), st.lists(st.fixed_dictionaries({"video": ENTRY | JSON}), max_size=2), JSON
    ).map(json.dumps),
    ".jsonl": st.lists(ENTRY | JSON, max_size=3).map(lambda entries: "\n".join(map(json.dumps, entries))),
    ".csv": st.lists(
        st.lists(ENTRY | st.sampled_from(["video", "path", '"', "x,y"]), max_size=3).map(",".join), max_size=4
    ).map("\n".join),
    ".txt": st.lists(ENTRY, max_size=3).map("\n".join),
}


@tries(100)
@given(data=st.data())
def test_lists_of_videos(folder, data):
    (folder / "b").mkdir(exist_ok=True)
    for name in ("a.mp4", "b/c.mp4"):
        (folder / name).touch()
    suffix = data.draw(st.sampled_from(sorted(LISTS)))
    path = folder / f"list{suffix}"
    content = data.draw(LISTS[suffix]).encode("utf-8", "surrogatepass")
    path.write_bytes(data.draw(st.just(content) | damaged([content])))
    found = answer([str(path), "`videos"], list_videos, path, data.draw(st.none() | FPS | ANYTHING))
    if found is not None:
        assert all(Path(found[0], name).resolve().is_relative_to(folder.resolve()) for name in found[1])


# Weights of others

ADAPTER = draw_weights(motion_shapes(SMALL_SIZE, 24, False), "unet")


@st.composite
def changed_tensors(pick, tensors):
    """A state dict that differs from a good one."""
    tensors = dict(tensors)
    for key in pick(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)):
        tensor = tensors.pop(key)
        match pick(st.sampled_from(["leave out", "rename", "part", "scalar", "dtype", "NaN", "number", "prefix"])):
            case "rename":
                tensors[pick(st.text(min_size=1, max_size=8))] = tensor
            case "part":
                tensors[key] = tensor[:1].clone()
            case "scalar":
                tensors[key] = torch.tensor(1.0)
            case "dtype":
                tensors[key] = tensor.to(pick(st.sampled_from([torch.int64, torch.bool, torch.complex64, torch.half])))
            case "NaN":
                tensors[key] = tensor * float("nan")
            case "number":
                tensors[key.replace("0", "9")] = tensor
            case "prefix":
                tensors[f"module.{key}"] = tensor
    return tensors


@tries(10)
@given(tensors=changed_tensors(ADAPTER))
def test_motion_modules_of_others(folder, tensors):
    path = folder / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    conversion = answer(["`weights", str(path)], convert_motion_adapter, path)
    if conversion is not None:
        check_finite([*conversion.model.state_dict().values()])


CONTENTS = st.one_of(
    st.dictionaries(
        st.text(max_size=4) | st.sampled_from(["state_dict", "model", "module.a", "a", 3]),
        st.just(torch.ones(2)) | st.sampled_from([3, None, "x", {"a": torch.ones(1)}, {3: 3}, [torch.ones(1)]]),
        max_size=3,
    ),
    st.sampled_from([None, 3, [], torch.ones(1), "x"]),
)


@tries(60)
@given(
    content=CONTENTS, suffix=st.sampled_from([".ckpt", ".safetensors", ".bin"]), legacy=st.booleans(), data=st.data()
)
def test_state_dicts_of_others(folder, content, suffix, legacy, data):
    buffer = io.BytesIO()
    if suffix == ".safetensors":
        buffer.write(safetensors.torch.save({"a": torch.ones(2), "b.c": torch.zeros(1, 1)}))
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    path = folder / f"weights{suffix}"
    path.write_bytes(data.draw(damaged([buffer.getvalue()])))
    weights = answer([f"`weights`: {path}"], read_state_dict, "weights", path)
    assert weights is None or all(isinstance(tensor, torch.Tensor) for tensor in weights.tensors.values())


# Commands

WORDS = st.sampled_from(
    ["", "0", "-1", "1e400", "nan", "9" * 21, "16x16", "x", "--", "-", "none.mp4", "none.png", "a\0b", "auto", "cpu"]
    + ["1,2,3,4", "float32", "motion-adapter", "controlnet"]
)
COMMANDS = {
    module: [word for action in module.make_parser()._actions for word in action.option_strings]
    for module in (animate, app, convert, evaluate, prepare)
}


@tries(100)
@given(command=st.sampled_from([*COMMANDS]), data=st.data())
def test_arguments_of_commands(folder, command, data, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    words = data.draw(st.lists(st.sampled_from(COMMANDS[command]) | WORDS | st.text(max_size=3), max_size=6))
    with time_limit(), pytest.raises(SystemExit) as end:
        if command is app:  # which would serve its page
            run(app.make_parser(), lambda args: sys.exit(0), words)
        else:
            command.main(words)
    assert end.value.code in (0, 2)
    printed = capsys.readouterr().err
    if end.value.code == 2:
        assert "error: " in printed.splitlines()[-1] and "unexpected" not in printed, printed
    assert left_in(folder) == []


# Metrics

FRAME_TENSORS = st.one_of(
    st.just(torch.full((1, 3, SIDE, SIDE), 0.5)),
    stn.arrays(
        "f4",
        st.tuples(st.integers(0, 2), st.just(3), st.integers(1, 20), st.integers(1, 20)),
        elements=st.floats(0, 1, width=32),
    ).map(torch.from_numpy),
    ARRAYS.filter(lambda array: array.dtype.kind not in "S" and array.dtype.isnative).map(torch.as_tensor),
    ANYTHING,
)
METRICS = [
    frame_metrics.l1,
    frame_metrics.disco_l1,
    frame_metrics.psnr,
    frame_metrics.ssim,
    regions.region_l1,
    regions.region_psnr,
]
METRICS += [
    regions.flicker,
    regions.static_change,
    regions.sharpness_error,
    regions.sharpness_ratio,
    regions.rank_correlation,
]
METRICS += [regions.identity_similarity, regions.mean_of_known]


@tries(150)
@given(metric=st.sampled_from(METRICS), values=st.tuples(*[FRAME_TENSORS] * 3), same=st.booleans())
def test_metrics(metric, values, same):
    number = len([p for p in inspect.signature(metric).parameters.values() if p.default is p.empty])
    values = (values[0],) * number if same else values[:number]
    answer(arguments_of(metric), metric, *values)


@tries(40)
@given(
    clips=st.lists(FRAME_LISTS, min_size=2, max_size=2),
    more=some_of(
        dict.fromkeys(["face_masks", "hand_masks", "wanted_sharpness", "measured_sharpness", "face_landmarks"], ARRAYS)
    ),
    same=st.booleans(),
)
def test_evaluations(clips, more, same):
    evaluation = VideoEvaluation()
    clips = [clips[0], clips[0]] if same else clips
    answer(arguments_of(evaluation.add), evaluation.add, "a", *clips, **more)
    if evaluation.clips():
        for result in evaluation.metrics().values():
            assert result["value"] is None or not math.isnan(result["value"])
