# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import diffusers
import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
import torchvision
from forked_python import run
from huggingface_hub import constants
from onnx import helper
from PIL import Image
from random_tiny import random_tiny_pipeline

from hia_diffusers import MotionBlurConditioner, WholeBodyKeypoints
from hia_diffusers.commands import evaluate as command
from hia_diffusers.conditioning.regions import box_masks, face_boxes
from hia_diffusers.metrics import disco
from hia_diffusers.metrics.evaluation import VideoEvaluation
from hia_diffusers.metrics.extractors import PROCEDURAL_SHA256
from hia_diffusers.models.autoencoder import decode_latents, encode_images
from hia_diffusers.procedural.procdance import proc_dance_v1
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


SOURCE = Path(__file__).parents[2] / "src"
HEIGHT, WIDTH = 64, 48
LENGTHS = {"dance": 18, "walk": 3}


def images(num_frames, seed):
    """A smooth image `(F, H, W, 3)` that moves to the right."""
    noise = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    image = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return np.stack([np.roll(image, 2 * frame, axis=1) for frame in range(num_frames)])


def write_frames(folder, frames):
    """Numbered without leading zeros: by name, 10 comes before 2."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{index}.png")


def person(num_frames, seed):
    """Keypoints with a face and the left hand."""
    random = np.random.default_rng(seed)
    xy = np.full((num_frames, 133, 2), np.nan)
    xy[:, 23:91] = random.uniform((10, 5), (30, 20), (num_frames, 68, 2))
    xy[:, 91:112] = random.uniform((5, 30), (25, 50), (num_frames, 21, 2))
    return WholeBodyKeypoints(xy, np.ones(xy.shape[:2]), HEIGHT, WIDTH, 30)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Predictions as folders of frames, targets as videos and as folders of frames, with keypoints and masks."""
    root = tmp_path_factory.mktemp("inputs")
    for folder in ("videos", "keypoints", "masks"):
        (root / folder).mkdir()
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        frames = images(num_frames, seed)
        write_video(root / "videos" / f"{name}.mp4", frames, 30)
        write_frames(root / "frames" / name, frames)
        write_frames(root / "predictions" / name, (frames * 0.9).astype(np.uint8))
        person(num_frames, seed).save(root / "keypoints" / f"{name}.safetensors")
        masks = {
            "face_mask": np.zeros((num_frames, HEIGHT, WIDTH), dtype=bool),
            "hand_masks": np.zeros((num_frames, 2, HEIGHT, WIDTH), dtype=np.uint8),
        }
        masks["face_mask"][0, 10:20, 10:20] = True
        safetensors.numpy.save_file(masks, root / "masks" / f"{name}.safetensors")
    return root


@pytest.fixture(autouse=True)
def from_inputs(inputs, monkeypatch):
    """Calls run in the folder of the inputs. The script sets the log level of diffusers: it is put back."""
    monkeypatch.chdir(inputs)
    verbosity = diffusers.utils.logging.get_verbosity()
    yield
    diffusers.utils.logging.set_verbosity(verbosity)


def evaluate(output, *options, **changes):
    arguments = {"predictions": "predictions", "targets": "frames"} | changes
    words = [word for name, value in arguments.items() if value is not None for word in (f"--{name}", str(value))]
    command.main([*words, "--output", str(output), *map(str, options)])
    return json.loads(output.read_text())


def assert_one_error_line(capsys, *named):
    stderr = capsys.readouterr().err
    assert stderr.startswith("hia-diffusers evaluate: error: ") and stderr.count("\n") == 1, stderr
    assert all(name in stderr for name in named), stderr


# Folders


def test_scores_are_those_of_the_library(tmp_path):
    report = evaluate(tmp_path / "scores.json")
    expected = VideoEvaluation()
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        frames = images(num_frames, seed)
        expected.add(name, (frames * 0.9).astype(np.uint8), frames)
    assert report["metrics"] == expected.metrics()
    assert report["clips"] == expected.clips()
    assert 0.02 < report["metrics"]["l1"]["value"] < 0.1


def test_the_table_and_the_file_agree(tmp_path, capsys):
    report = evaluate(tmp_path / "scores.json")
    lines = {words[0]: words for line in capsys.readouterr().out.splitlines() if len(words := line.split()) > 3}
    for name, result in report["metrics"].items():
        value = "-" if result["value"] is None else f"{result['value']:.5g}"
        assert lines[name][1:5] == [value, result["better"], str(result["count"]), result["of"]]


def test_a_video_and_a_folder_of_frames_can_be_compared(tmp_path):
    metrics = evaluate(tmp_path / "scores.json", predictions="videos")["metrics"]
    lossy = np.concatenate([read_video(f"videos/{name}.mp4").frames for name in LENGTHS])
    true = np.concatenate([images(length, seed) for seed, length in enumerate(LENGTHS.values())])
    assert metrics["l1"]["value"] == pytest.approx(np.abs(lossy / 255 - true / 255).mean(), rel=1e-5)
    assert metrics["psnr"]["value"] > 30


def write_flat(folder, source):
    """As DisCo's code writes frames: those of all clips in one folder."""
    folder.mkdir()
    for path in Path(source).rglob("*.png"):
        shutil.copyfile(path, folder / f"TiktokDance_{path.parent.name}_{int(path.stem.split('_')[1]):04d}.png")


def test_the_frames_of_all_clips_may_be_in_one_folder(tmp_path):
    for source in ("predictions", "frames"):
        write_flat(tmp_path / source, source)
    report = evaluate(tmp_path / "scores.json", predictions=tmp_path / "predictions", targets=tmp_path / "frames")
    expected = evaluate(tmp_path / "expected.json")
    assert report["metrics"] == expected["metrics"]
    assert list(report["clips"]) == ["TiktokDance_dance", "TiktokDance_walk"]


def test_the_folders_of_the_tiktok_dataset_are_read(tmp_path):
    for name in LENGTHS:
        shutil.copytree(f"frames/{name}", tmp_path / "TikTok_dataset" / name / "images")
        shutil.copytree(f"predictions/{name}", tmp_path / "TikTok_dataset" / name / "masks")
    report = evaluate(tmp_path / "scores.json", targets=tmp_path / "TikTok_dataset")
    assert report["metrics"] == evaluate(tmp_path / "expected.json")["metrics"]
    shutil.rmtree(tmp_path / "TikTok_dataset" / "walk" / "masks")
    again = evaluate(tmp_path / "again.json", targets=tmp_path / "TikTok_dataset")
    assert again["source"]["targets"] == report["source"]["targets"]
    (tmp_path / "TikTok_dataset" / "walk" / "images" / "frame_0.png").unlink()
    write_frames(tmp_path / "other", images(1, 5))
    shutil.move(tmp_path / "other" / "frame_0.png", tmp_path / "TikTok_dataset" / "walk" / "images")
    other = evaluate(tmp_path / "other.json", targets=tmp_path / "TikTok_dataset")
    assert other["source"]["targets"] != report["source"]["targets"]


@pytest.mark.parametrize("name", ["0001", "dance", "_0001"])
def test_a_frame_among_others_needs_a_clip_and_a_number(tmp_path, capsys, name):
    write_flat(tmp_path / "predictions", "predictions")
    shutil.copyfile("frames/walk/frame_0.png", tmp_path / "predictions" / f"{name}.png")
    with pytest.raises(SystemExit):
        evaluate(tmp_path / "scores.json", predictions=tmp_path / "predictions")
    assert_one_error_line(capsys, f"{name}.png", "must be named after its clip and its number")


def test_the_protocol_of_disco_names_every_choice_that_differs(tmp_path, capsys):
    report = evaluate(tmp_path / "scores.json", "--protocol", "disco")
    differences = report["protocol"]["differences"]
    assert report["protocol"]["name"] == "disco" and report["protocol"]["clip_stride"] == 1
    assert differences["FVD"] == "not computed: give --i3d" and "floating point" in differences["PSNR"]
    table = capsys.readouterr().out.split("differs from DisCo's code\n")[1].splitlines()
    assert [line.split()[0] for line in table[:7]] == ["L1", "PSNR", "SSIM", "LPIPS", "FID", "FID-VID", "FVD"]
    assert table[0].split()[1] == f"{report['metrics']['disco_l1']['value']:.5g}"
    for name, text in differences.items():
        assert f"  {text}" in next(line for line in table if line.split()[0] == name)

    known = dict.fromkeys(("disco_l1", "psnr", "ssim", "disco_lpips", "FID", "FID-VID", "FVD"), {"value": 1.0})
    assert disco.differences(known, "vgg", False, 1).keys() == {"L1", "PSNR", "SSIM", "FID"}
    other = disco.differences(known, "alex", True, 16)
    assert "backbone is alex" in other["LPIPS"] and "--pad_fid" in other["FID"]
    assert "every 16th frame" in other["FVD"] and other["FVD"] == other["FID-VID"]
    assert "name" not in evaluate(tmp_path / "plain.json")["protocol"]


def test_the_truth_against_itself(tmp_path):
    metrics = evaluate(tmp_path / "scores.json", predictions="videos", targets="videos", keypoints="keypoints")
    values = {name: result["value"] for name, result in metrics["metrics"].items()}
    assert values["l1"] == values["flicker"] == values["hand_sharpness_error"] == values["hands_l1"] == 0
    assert values["psnr"] == values["face_psnr"] == 100
    assert values["hand_sharpness_correlation"] == pytest.approx(1)


def test_regions_are_boxes_around_face_and_hands(tmp_path):
    targets = np.full((4, HEIGHT, WIDTH, 3), 100, dtype=np.uint8)
    predictions = targets.copy()
    keypoints = person(4, seed=0)
    keypoints.xy[3, 23:91], keypoints.score[3, 23:91] = np.nan, 0
    for frame, mask in enumerate(box_masks(face_boxes(keypoints[:3]), HEIGHT, WIDTH)):
        predictions[frame, mask] += 51
    for name, frames in (("predictions", predictions), ("targets", targets)):
        write_frames(tmp_path / name / "a", frames)
    (tmp_path / "keypoints").mkdir()
    keypoints.save(tmp_path / "keypoints" / "a.npz")
    folders = {name: tmp_path / name for name in ("predictions", "targets", "keypoints")}
    metrics = evaluate(tmp_path / "scores.json", **folders)["metrics"]
    assert metrics["face_l1"]["value"] == pytest.approx(0.2) and metrics["face_l1"]["count"] == 3
    assert metrics["hands_l1"]["value"] < 0.01 and metrics["hands_l1"]["count"] == 4
    assert metrics["hand_sharpness_error"]["count"] == 4


def test_masks_take_the_place_of_boxes(tmp_path):
    metrics = evaluate(tmp_path / "scores.json", keypoints="keypoints", masks="masks")["metrics"]
    assert metrics["face_l1"]["count"] == 2 and metrics["hands_l1"]["count"] == 0
    assert metrics["hands_l1"]["value"] is None
    expected = [
        np.abs(frames[0] / 255 - (frames[0] * 0.9).astype(np.uint8) / 255)[10:20, 10:20].mean()
        for frames in (images(length, seed) for seed, length in enumerate(LENGTHS.values()))
    ]
    assert metrics["face_l1"]["value"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_report_tells_what_was_measured_with_what(tmp_path):
    report = evaluate(tmp_path / "scores.json", "--clip_stride", 4)
    assert report["protocol"]["clip_stride"] == 4
    assert {"python", "hia-diffusers", "torch", "numpy"} <= report["versions"].keys()
    source = report["source"]
    assert source["predictions"]["path"] == "predictions" and len(source["predictions"]["sha256"]) == 64
    assert source["predictions"]["sha256"] != source["targets"]["sha256"]
    again = evaluate(tmp_path / "scores.json", predictions="frames")["source"]
    assert again["predictions"]["sha256"] == again["targets"]["sha256"] == source["targets"]["sha256"]


def test_what_is_not_looked_at_does_not_change_the_hash(tmp_path):
    expected = evaluate(tmp_path / "scores.json")
    shutil.copytree("frames", tmp_path / "frames")
    (tmp_path / "frames" / ".notes").write_text("hidden")
    (tmp_path / "frames" / "walk" / ".notes").write_text("hidden")
    (tmp_path / "frames" / "walk").rename(tmp_path / "elsewhere")
    (tmp_path / "frames" / "walk").symlink_to(tmp_path / "elsewhere")
    report = evaluate(tmp_path / "scores.json", targets=tmp_path / "frames")
    assert report["source"]["targets"]["sha256"] == expected["source"]["targets"]["sha256"]
    assert report["metrics"] == expected["metrics"]
    (tmp_path / "elsewhere" / "frame_0.png").write_bytes(Path("frames/walk/frame_1.png").read_bytes())
    report = evaluate(tmp_path / "scores.json", targets=tmp_path / "frames")
    assert report["source"]["targets"]["sha256"] != expected["source"]["targets"]["sha256"]


def test_grey_palette_and_opaque_frames_count_as_the_colours_they_show(tmp_path):
    grey = images(4, seed=0)[..., 0]
    kinds = {
        "grey": Image.fromarray(grey[0]),
        "palette": Image.fromarray(grey[1]).convert("P"),
        "opaque": Image.fromarray(grey[2]).convert("RGBA"),
        "rotated": Image.fromarray(grey[3]).transpose(Image.Transpose.ROTATE_90),
    }
    (tmp_path / "predictions" / "a").mkdir(parents=True)
    for name, image in kinds.items():
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "rotated" else 1  # to be turned clockwise
        image.save(tmp_path / "predictions" / "a" / f"{name}.PNG", exif=exif)
    (tmp_path / "targets" / "a").mkdir(parents=True)
    for name, frame in zip(kinds, grey, strict=True):
        Image.fromarray(np.repeat(frame[..., None], 3, axis=-1)).save(tmp_path / "targets" / "a" / f"{name}.png")
    folders = {name: tmp_path / name for name in ("predictions", "targets")}
    assert evaluate(tmp_path / "scores.json", **folders)["metrics"]["l1"]["value"] == 0


def test_it_runs_as_a_program(tmp_path):
    words = ["-m", "hia_diffusers", "evaluate", "--predictions", "predictions", "--targets", "videos", "--output"]
    done = run(*words, tmp_path / "scores.json")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.splitlines()[-1] == f"Wrote {tmp_path / 'scores.json'}."
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
    failed = run(*words, tmp_path / "scores.txt")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "--output" in failed.stderr


# Procedural people


def score_dance(output, *options):
    command.main(["--dataset", "procdance-v1", *map(str, options), "--output", str(output)])
    return json.loads(output.read_text())


SMALL = ["--size", "32x48", "--max_clips", 1]


@pytest.fixture(scope="module")
def dance():
    """The first clip, its reference image and the truth."""
    clip = proc_dance_v1()[0]
    reference = clip.target.render([clip.reference_frame], 48, 32, clip.fps)
    return reference.frames, clip.target.render(clip.frames, 48, 32, clip.fps)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """The metrics of each."""
    output = tmp_path_factory.mktemp("baselines") / "scores.json"
    return {
        baseline: score_dance(output, *SMALL, "--baseline", baseline)["metrics"]
        for baseline in ("truth", "copy", "noise")
    }


def test_the_truth_is_perfect(baselines):
    values = {name: result["value"] for name, result in baselines["truth"].items()}
    assert values["psnr"] == values["face_psnr"] == values["hands_psnr"] == 100
    assert values["l1"] == values["flicker"] == values["hand_sharpness_error"] == 0
    assert abs(values["FID-p"]) < 1e-6 and abs(values["FVD-p"]) < 1e-6


def test_copying_the_reference_is_better_than_noise(baselines):
    values = {baseline: {name: result["value"] for name, result in of.items()} for baseline, of in baselines.items()}
    for name in ("psnr", "ssim"):
        assert values["truth"][name] > values["copy"][name] > values["noise"][name]
    for name in ("l1", "flicker", "FID-p", "FVD-p"):
        assert values["truth"][name] < values["copy"][name] < values["noise"][name]


def test_the_reference_is_copied(baselines, dance):
    reference, true = dance
    error = np.abs(reference / 255 - true.frames / 255)
    metrics = baselines["copy"]
    assert metrics["l1"]["value"] == pytest.approx(error.mean(), rel=1e-5)
    hands = true.hand_masks.any(axis=1)
    per_frame = [frame[mask].mean() for frame, mask in zip(error, hands, strict=True) if mask.any()]
    assert metrics["hands_l1"]["value"] == pytest.approx(np.mean(per_frame), rel=1e-5)
    assert metrics["hands_l1"]["count"] == len(per_frame)
    assert metrics["static_change"]["value"] == 0


def test_a_model_is_scored_on_what_it_generates(tmp_path, dance):
    reference, true = dance
    pipe = random_tiny_pipeline(seed=0)
    pipe.save_pretrained(tmp_path / "model")
    options = [*SMALL, "--model", tmp_path / "model", "--num_inference_steps", 1, "--guidance_scale", 1, "--seed", 3]
    report = score_dance(tmp_path / "scores.json", *options)
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        image=Image.fromarray(reference[0]),
        conditioning_frames=MotionBlurConditioner(line_scale=32 / 512)(true.keypoints, true.frames),
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).frames[0]
    error = np.abs((frames * 255).round() / 255 - true.frames / 255)
    assert report["metrics"]["l1"]["value"] == pytest.approx(error.mean(), rel=1e-4)
    assert report["metrics"]["FID-p"]["sha256"] == PROCEDURAL_SHA256
    source = report["source"]
    assert (source["seed"], source["num_inference_steps"], source["guidance_scale"], source["dtype"]) == (
        3,
        1,
        1,
        "float32",
    )
    assert source["size"] == "32x48" and len(source["weights_sha256"]) == 64
    assert source["scheduler"]["_class_name"] == "ShiftedSNRScheduler"
    again = score_dance(tmp_path / "again.json", *options)
    assert again == report
    cross = score_dance(tmp_path / "cross.json", *options, "--cross_identity")
    assert cross["source"] == source | {"cross_identity": True}
    assert cross["metrics"]["l1"]["value"] != report["metrics"]["l1"]["value"]


def test_inference_techniques_layers_over_time_and_blur_condition_can_be_left_out(tmp_path):
    """At two windows of time all of them act."""
    random_tiny_pipeline(seed=0).save_pretrained(tmp_path / "model")
    options = [
        *SMALL,
        "--model",
        tmp_path / "model",
        "--num_inference_steps",
        2,
        "--num_frames",
        32,
        "--guidance_scale",
        2,
    ]
    full = score_dance(tmp_path / "full.json", *options)
    assert full["metrics"]["l1"]["count"] == 32
    errors = {full["metrics"]["l1"]["value"]}
    left_out = ("reference_noise", "context_shift", "motion_modules", "blur_condition")
    for name in left_out:
        report = score_dance(tmp_path / "without.json", *options, f"--no_{name}")
        assert report["source"] == full["source"] | {name: False}
        assert report["metrics"]["hand_sharpness_error"]["count"] > 0
        errors.add(report["metrics"]["l1"]["value"])
    report = score_dance(tmp_path / "without.json", *options, "--guidance_interval", 0, 0.5)
    assert report["source"] == full["source"] | {"guidance_interval": [0, 0.5]}
    errors.add(report["metrics"]["l1"]["value"])
    report = score_dance(tmp_path / "without.json", *options, "--deep_cache_interval", 2)
    assert report["source"] == full["source"] | {"deep_cache_interval": 2}
    errors.add(report["metrics"]["l1"]["value"])
    report = score_dance(tmp_path / "without.json", *options, "--shared_noise", 0.5)
    assert report["source"] == full["source"] | {"shared_noise": 0.5}
    errors.add(report["metrics"]["l1"]["value"])
    assert len(errors) == 4 + len(left_out)


def test_controls_change_what_the_model_is_given_or_take_the_autoencoder_alone(tmp_path, dance):
    reference, true = dance
    following = proc_dance_v1()[1]
    pipe = random_tiny_pipeline(seed=0)
    pipe.save_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    conditioner = MotionBlurConditioner(line_scale=32 / 512)
    motion = following.target.render(following.frames, 48, 32, following.fps)
    image = following.target.render([following.reference_frame], 48, 32, following.fps).frames[0]

    def generated(image, clip, **changed):
        return pipe(
            image=Image.fromarray(image),
            conditioning_frames=replace(conditioner(clip.keypoints, clip.frames), **changed),
            num_inference_steps=1,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).frames[0]

    hand_motion = conditioner(true.keypoints, true.frames).hand_motion
    assert np.nanmax(np.abs(hand_motion)) > 0
    images = torch.from_numpy(true.frames).movedim(-1, 1) / 127.5 - 1
    decoded = decode_latents(pipe.vae, encode_images(pipe.vae, images)).detach().movedim(1, -1)
    expected = {
        "other-pose": generated(reference[0], motion),
        "other-reference": generated(image, true),
        "reversed-motion": generated(reference[0], true, hand_motion=-hand_motion),
        "autoencoder": (decoded / 2 + 0.5).clamp(0, 1).numpy(),
    }
    options = [*SMALL, "--model", tmp_path / "model", "--num_inference_steps", 1, "--guidance_scale", 1]
    for control, frames in expected.items():
        report = score_dance(tmp_path / "scores.json", *options, "--control", control)
        error = np.abs((frames * 255).round() / 255 - true.frames / 255).mean()
        assert report["metrics"]["l1"]["value"] == pytest.approx(error, rel=1e-4), control
        assert report["source"]["control"] == control


def test_a_model_that_generates_no_numbers_is_no_black_video(tmp_path, capsys):
    pipe = random_tiny_pipeline(seed=0)
    pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit):
        score_dance(tmp_path / "scores.json", *SMALL, "--model", tmp_path / "model", "--num_inference_steps", 1)
    last_line = capsys.readouterr().err.splitlines()[-1]  # after diffusers' progress bars
    assert "error: --model: " in last_line and "not finite" in last_line
    assert not (tmp_path / "scores.json").exists()


def test_a_folder_that_holds_no_model_is_known_before_anything_is_drawn(tmp_path, capsys):
    with pytest.raises(SystemExit):
        score_dance(tmp_path / "scores.json", *SMALL, "--model", tmp_path)
    assert_one_error_line(capsys, "--model: ", "is a folder without model_index.json")


def test_clips_may_be_longer(tmp_path):
    longer, usual = (
        score_dance(tmp_path / "scores.json", *SMALL, "--baseline", "copy", *more)
        for more in (["--num_frames", 48], [])
    )
    counts = [report["metrics"]["l1"]["count"] for report in (longer, usual)]
    assert counts == [longer["source"]["num_frames"], usual["source"]["num_frames"]] == [48, 32]


def test_another_person_drives(tmp_path, baselines):
    """The truth keeps its own sharpness, which is not the other's."""
    own = baselines["truth"]
    cross = score_dance(tmp_path / "scores.json", *SMALL, "--baseline", "truth", "--cross_identity")["metrics"]
    assert own["psnr"]["value"] == cross["psnr"]["value"] == 100
    assert 0.01 < cross["hand_sharpness_error"]["value"] < 0.5
    assert cross["hand_sharpness_correlation"]["value"] < 0.999 < own["hand_sharpness_correlation"]["value"]


# Networks


def test_networks_are_read_from_files_and_told_beside_their_figures(tmp_path, capsys):
    squeezenet, arcface = tmp_path / "squeezenet.pth", tmp_path / "arcface.onnx"
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), squeezenet)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["face"], ["cells"], kernel_shape=[28, 28], strides=[28, 28]),
            helper.make_node("Flatten", ["cells"], ["embedding"]),
        ],
        "embed",
        [helper.make_tensor_value_info("face", onnx.TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["N", 48])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), arcface)
    networks = ["--lpips", squeezenet, "--lpips_network", "squeeze", "--arcface", arcface]
    metrics = evaluate(tmp_path / "scores.json", *networks, keypoints="keypoints")["metrics"]
    table = capsys.readouterr().out
    for name, file in (("lpips", squeezenet), ("disco_lpips", squeezenet), ("identity", arcface)):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert metrics[name]["sha256"] == digest
        assert any(line.startswith(f"{name} ") and digest in line for line in table.splitlines())
    assert 0 < metrics["disco_lpips"]["value"] != metrics["lpips"]["value"]
    assert 0.5 < metrics["identity"]["value"] < 1 and metrics["identity"]["count"] == sum(LENGTHS.values())


# Bad folders


def break_nothing(folder):
    pass


def remove_clip(folder):
    for frame in (folder / "walk").iterdir():
        frame.unlink()
    (folder / "walk").rmdir()


def rename_clip(folder):
    (folder / "walk").rename(folder / "Walk")


def add_clip(folder):
    write_frames(folder / "jump", images(3, 0))


def add_file(folder):
    (folder / "notes.txt").write_text("no clip")


def add_frame(folder):
    (folder / "TiktokDance_00338_0001.png").touch()


def add_twin(folder):
    write_video(folder / "walk.mp4", images(3, 1), 30)


def shorten(folder):
    (folder / "walk" / "frame_2.png").unlink()


def rename_frame(folder):
    (folder / "walk" / "frame_2.png").rename(folder / "walk" / "frame_3.png")


def resize_all(folder):
    for frame in (folder / "walk").iterdir():
        Image.new("RGB", (WIDTH, HEIGHT + 2)).save(frame)


def resize_one(folder):
    Image.new("RGB", (WIDTH, HEIGHT + 2)).save(folder / "walk" / "frame_1.png")


def damage(folder):
    (folder / "walk" / "frame_1.png").write_text("no image")


def cut_off(folder):
    content = (folder / "walk" / "frame_1.png").read_bytes()
    (folder / "walk" / "frame_1.png").write_bytes(content[: len(content) // 2])


def animate(folder):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), (level, 0, 0)) for level in (0, 99)]
    frames[0].save(folder / "walk" / "frame_1.png", save_all=True, append_images=frames[1:])


def number_twice(folder):
    (folder / "walk" / "frame_2.png").rename(folder / "walk" / "frame_01.png")


def add_sound(folder):
    (folder / "walk" / "frame_1.wav").write_text("no image")


def empty(folder):
    for path in list(folder.iterdir()):
        for frame in path.iterdir():
            frame.unlink()
        path.rmdir()


def empty_clip(folder):
    for frame in (folder / "walk").iterdir():
        frame.unlink()


@pytest.mark.parametrize(
    "change, named",
    [
        (remove_clip, ["--predictions", "there is no 'walk', which is in --targets"]),
        (rename_clip, ["--predictions", "there is no 'walk', which is in --targets; 'Walk' is not in --targets"]),
        (add_clip, ["--predictions", "'jump' is not in --targets"]),
        (add_file, ["notes.txt", "neither a video"]),
        (add_frame, ["00338_0001.png", "put the frames of each clip into a folder of its own"]),
        (add_twin, ["walk.mp4", "the same name"]),
        (shorten, ["predictions/walk", "2 frames of 48x64", "frames/walk", "3 frames of 48x64"]),
        (rename_frame, ["--predictions walk", "there is no 'frame_2'", "'frame_3' is not in --targets walk"]),
        (number_twice, ["frame_1.png", "frame_01.png", "the same name"]),
        (resize_all, ["predictions/walk", "3 frames of 48x66", "3 frames of 48x64"]),
        (resize_one, ["predictions/walk", "changes its frame size"]),
        (damage, ["frame_1.png", "cannot be read as an image"]),
        (cut_off, ["walk/frame_1.png", "cannot be read as an image"]),
        (animate, ["walk/frame_1.png", "several images"]),
        (add_sound, ["frame_1.wav", "is not a frame"]),
        (empty, ["--predictions", "contains no clips"]),
        (empty_clip, ["predictions/walk", "contains no frames"]),
    ],
)
def test_a_wrong_file_is_named_before_anything_is_measured(tmp_path, capsys, change, named):
    for seed, (name, num_frames) in enumerate(LENGTHS.items()):
        write_frames(tmp_path / "predictions" / name, images(num_frames, seed))
    change(tmp_path / "predictions")
    with pytest.raises(SystemExit):
        evaluate(tmp_path / "scores.json", predictions=tmp_path / "predictions")
    assert_one_error_line(capsys, *named)
    assert not (tmp_path / "scores.json").exists()


def test_all_that_is_missing_or_extra_is_named(tmp_path, capsys):
    for name in [f"extra{index}" for index in range(7)]:
        write_frames(tmp_path / "predictions" / name, images(1, 0))
    with pytest.raises(SystemExit):
        evaluate(tmp_path / "scores.json", predictions=tmp_path / "predictions")
    assert_one_error_line(
        capsys, "no 'dance', 'walk', which", "'extra0', 'extra1', 'extra2', 'extra3', 'extra4', 2 more is not"
    )


def test_a_damaged_video_is_named(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    for name in LENGTHS:
        content = Path("videos", f"{name}.mp4").read_bytes()
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(content if name == "dance" else content[: len(content) // 2])
    with pytest.raises(SystemExit):
        evaluate(tmp_path / "scores.json", predictions=tmp_path / "videos")
    assert_one_error_line(capsys, "walk.mp4", "cannot be decoded")


def test_wrong_annotations_are_named(tmp_path, capsys):
    for folder, suffix in (("keypoints", "safetensors"), ("masks", "safetensors")):
        (tmp_path / folder).mkdir()
        content = Path(folder, f"dance.{suffix}").read_bytes()
        (tmp_path / folder / f"dance.{suffix}").write_bytes(content)
        with pytest.raises(SystemExit):
            evaluate(tmp_path / "scores.json", **{folder: tmp_path / folder})
        assert_one_error_line(capsys, f"--{folder}", "there is no 'walk'")
        (tmp_path / folder / f"walk.{suffix}").write_bytes(content)
        with pytest.raises(SystemExit):
            evaluate(tmp_path / "scores.json", **{folder: tmp_path / folder})
        assert_one_error_line(capsys, f"--{folder}", "walk.safetensors", "18")
    shutil.copyfile("keypoints/walk.safetensors", tmp_path / "keypoints" / "walk.safetensors")
    (tmp_path / "keypoints" / ".walk.safetensors").write_text("hidden")
    evaluate(tmp_path / "scores.json", keypoints=tmp_path / "keypoints")
    WholeBodyKeypoints.load("keypoints/walk.safetensors").save(tmp_path / "keypoints" / "walk.npz")
    with pytest.raises(SystemExit):
        evaluate(tmp_path / "scores.json", keypoints=tmp_path / "keypoints")
    assert_one_error_line(capsys, "--keypoints", "walk.npz", "walk.safetensors", "the same name")


# Bad options

PAIR = ["--predictions", "predictions", "--targets", "frames"]
COPY = ["--dataset", "procdance-v1", "--baseline", "copy"]


@pytest.mark.parametrize(
    "options, named",
    [
        ([], ["--predictions and --targets, or --dataset"]),
        (PAIR[:2], ["--predictions and --targets, or --dataset"]),
        ([*PAIR, "--model", "here"], ["--model", "needs --dataset"]),
        ([*PAIR, "--cross_identity"], ["--cross_identity", "needs --dataset"]),
        ([*PAIR, "--seed", "0"], ["--seed", "needs --dataset"]),
        ([*PAIR[:2], "--targets", "nowhere"], ["--targets", "there is no folder 'nowhere'"]),
        ([*PAIR, "--keypoints", "nowhere"], ["--keypoints", "there is no folder 'nowhere'"]),
        ([*PAIR, "--arcface", "face.onnx"], ["--arcface", "needs --keypoints"]),
        ([*PAIR, "--inception", "nowhere.pth"], ["nowhere.pth"]),
        ([*PAIR, "--lpips", "nowhere.pth"], ["nowhere.pth"]),
        ([*PAIR, "--lpips_network", "alex"], ["--lpips_network", "needs --lpips"]),
        ([*PAIR, "--i3d", "nowhere.pth"], ["--i3d", "FVD needs clips of 16 frames", "'walk' has 3"]),
        ([*PAIR, "--device", "tpu7"], ["--device", "tpu7"]),
        ([*PAIR, "--clip_stride", "0"], ["--clip_stride", "whole number from 1"]),
        (["--dataset", "procdance-v1"], ["--dataset", "either --model or --baseline"]),
        ([*COPY, "--control", "other-pose"], ["--control", "needs --model"]),
        (
            [*COPY[:2], "--model", "here", "--control", "autoencoder", "--cross_identity"],
            ["--cross_identity", "cannot be combined with --control"],
        ),
        ([*COPY, "--model", "here"], ["--dataset", "either --model or --baseline"]),
        ([*COPY, *PAIR], ["--predictions", "cannot be combined with --dataset"]),
        ([*COPY, "--num_inference_steps", "10"], ["--num_inference_steps", "needs --model"]),
        ([*COPY, "--size", "97x160"], ["--size", "97x160"]),
        ([*COPY, "--size", "8x160"], ["--size", "8x160"]),
        (["--dataset", "procdance-v2", "--baseline", "copy"], ["--dataset", "procdance-v2"]),
        (["--dataset", "procdance-v1", "--model", "nowhere"], ["--model", "nowhere"]),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, monkeypatch, options, named):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit):
        command.main([*options, "--output", str(tmp_path / "scores.json")])
    assert_one_error_line(capsys, *named)
    assert not list(tmp_path.iterdir())
