# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import copy
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler
from peft import LoraConfig
from published_weights import SMALL_SIZE, draw_weights, moore_shapes, write_moore
from rounding import assert_equal_up_to_rounding

from hia_diffusers import HIAAnimator, HIAPipeline, HIAPoseGuider
from hia_diffusers.conversion.moore_animate_anyone import (
    convert_champ,
    convert_dynamicpose,
    convert_moore_animate_anyone,
    convert_musepose,
)
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.state_dicts import read_state_dict
from hia_diffusers.training.starting_point import load_starting_point
from hia_diffusers.video.reading import read_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_moore(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def conversion(folder):
    return convert_moore_animate_anyone(folder / "weights", folder / "base", folder / "variations")


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "published")
    return tmp_path / "published"


def animate(pipeline, channels=3, **options):
    pipeline.set_progress_bar_config(disable=True)
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    arguments = {
        "conditioning_frames": torch.rand(3, channels, 64, 48, generator=torch.Generator().manual_seed(1)),
        "num_inference_steps": 1,
        "reference_noise": False,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "pt",
    }
    return pipeline(image, **{**arguments, **options}).frames


def test_all_that_drives_drives_what_was_converted(conversion, tmp_path):
    pipeline = conversion.model
    pipeline.set_progress_bar_config(disable=True)
    keypoints = ProceduralScene("train", identity=0, motion=0, setting=0).keypoints(range(2), 64, 48)
    condition = HIAAnimator().condition(keypoints, 64, 48)
    expected = animate(pipeline, conditioning_frames=condition.to_tensor()[:, :3])
    assert torch.equal(animate(pipeline, conditioning_frames=condition), expected)
    poses = [PIL.Image.fromarray(pose) for pose in condition.pose]
    assert torch.equal(animate(pipeline, conditioning_frames=poses), expected)
    image = PIL.Image.new("RGB", (48, 64))
    HIAAnimator(pipeline)(image, keypoints, tmp_path / "out.mp4", num_inference_steps=1, height=64, width=48)
    assert len(read_video(tmp_path / "out.mp4").frames) == 2


def test_every_key_is_taken_but_what_nothing_depends_on(conversion):
    rows = {row.source.split("/")[-1]: row for row in conversion.report.rows}
    counts = {name: (len(row.taken), len(row.left)) for name, row in rows.items() if name.endswith(".pth")}
    assert counts == {
        "motion_module.pth": (588, 0),
        "denoising_unet.pth": (686, 0),
        "reference_unet.pth": (662, 20),
        "pose_guider.pth": (16, 0),
    }
    assert all(key.startswith("up_blocks.3.attentions.2.") for key in rows["reference_unet.pth"].left)
    assert rows["pytorch_model.bin"].left == ("vision_model.embeddings.position_ids",)
    assert not any(row.made for row in conversion.report.rows)


def test_the_configuration_is_moores(conversion):
    pipeline = conversion.model
    unet, controlnet = pipeline.unet.config, pipeline.controlnet
    assert (unet.reference_attention_blocks, unet.motion_norm, unet.resnet_norm) == ("full", "frame", "frame")
    assert unet.motion_max_seq_length == 32 and unet.use_motion_mid_block
    assert pipeline.config.reference_timestep == "zero" and pipeline.config.unconditional_controlnet
    assert type(controlnet) is HIAPoseGuider
    assert (controlnet.config.conditioning_channels, controlnet.config.out_channels) == (3, 32)
    context, unconditional = pipeline.encode_image(PIL.Image.new("RGB", (8, 8)))
    assert context.shape == (1, 1, 32) and context.any() and not unconditional.any()


def test_the_schedule_is_moores(conversion):
    scheduler = conversion.model.scheduler
    original = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    for each in (scheduler, original):
        each.set_timesteps(30)
    assert scheduler.timesteps.tolist() == original.timesteps.tolist()
    assert scheduler.timesteps[0] == 999 and scheduler.timesteps[-1] == 32
    assert scheduler.config.prediction_type == "v_prediction"
    assert torch.allclose(scheduler.alphas_cumprod, original.alphas_cumprod, rtol=1e-4, atol=1e-9)


def test_the_pipeline_runs_and_comes_back_from_disk(conversion, tmp_path):
    frames = animate(conversion.model)
    assert frames.shape == (1, 3, 3, 64, 48) and torch.isfinite(frames).all() and frames.std() > 0.01
    conversion.save_pretrained(tmp_path / "converted")
    assert_equal_up_to_rounding(animate(HIAPipeline.from_pretrained(tmp_path / "converted")), frames)


@pytest.mark.parametrize("options", [{"batch_guidance": True}, {"context_frames": 2, "context_overlap": 1}])
def test_pose_features_reach_every_way_of_denoising(conversion, options):
    """Guidance in one call gives the same, windows another result; and in all of them the pose matters."""
    whole = animate(conversion.model, output_type="latent")
    frames = animate(conversion.model, output_type="latent", **options)
    if "batch_guidance" in options:
        assert (frames - whole).abs().max() < 1e-3 * whole.abs().max()
    other = animate(conversion.model, output_type="latent", controlnet_conditioning_scale=0.0, **options)
    assert (frames - other).abs().max() > 1e-2


def test_pose_features_of_another_shape_are_refused(conversion):
    unet = conversion.model.unet
    sample, context = torch.zeros(1, 4, 3, 8, 6), torch.zeros(1, 1, 32)
    with pytest.raises(ValueError, match=r"`pose_features` must have the shape \(3, 32, 8, 6\), got \(3, 31, 8, 6\)"):
        unet(sample, 0, context, pose_features=torch.zeros(3, 31, 8, 6))


def test_pose_features_do_not_vanish_behind_an_adapter_of_the_first_convolution(conversion):
    unet = copy.deepcopy(conversion.model.unet)
    unet.add_adapter(LoraConfig(r=2, target_modules=["conv_in"]))
    inputs = (torch.zeros(1, 4, 3, 8, 6), 0, torch.zeros(1, 1, 32))
    assert unet(*inputs).sample.shape == (1, 4, 3, 8, 6)
    with pytest.raises(ValueError, match="`pose_features` cannot be given while an adapter changes"):
        unet(*inputs, pose_features=torch.zeros(3, 32, 8, 6))


def test_a_pose_guider_of_another_width_is_refused(conversion):
    pipeline = conversion.model
    other = HIAPoseGuider.from_config(pipeline.controlnet.config, out_channels=64)
    with pytest.raises(ValueError, match="`controlnet` returns 64 channels of pose features, but `unet` expects 32"):
        HIAPipeline(**{**pipeline.components, "controlnet": other})


def test_training_starts_from_the_result(conversion, tmp_path):
    """With three more input channels, and the same prediction as before they are trained."""
    conversion.save_pretrained(tmp_path / "converted")
    pipeline = load_starting_point(tmp_path / "converted")
    assert pipeline.config.unconditional_controlnet and type(pipeline.controlnet) is HIAPoseGuider
    assert pipeline.controlnet.config.conditioning_channels == 6
    condition = torch.rand(3, 6, 64, 48, generator=torch.Generator().manual_seed(1))
    frames = animate(pipeline, conditioning_frames=condition)
    assert torch.allclose(frames, animate(conversion.model, conditioning_frames=condition[:, :3]), atol=1e-5)

    denoiser = HIADenoiser.of_pipeline(pipeline)
    for network in denoiser.children():
        network.enable_gradient_checkpointing()
    conditions = HIAConditions(
        torch.randn(2, 1, 32),
        torch.randn(2, 4, 8, 6),
        torch.stack([condition, condition]),
        unconditional=torch.tensor([True, False]),
    )
    output = denoiser.train()(torch.randn(2, 4, 3, 8, 6), torch.tensor([999, 500]), conditions)
    output.square().mean().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []
    gradient = pipeline.controlnet.controlnet_cond_embedding.conv_in.weight.grad
    assert gradient[:, :3].any() and gradient[:, 3:].any()


@torch.no_grad()
def test_a_dropped_clip_keeps_its_pose_in_training_as_in_guidance(conversion):
    pipeline = conversion.model
    networks = (pipeline.appearance_encoder, pipeline.controlnet, pipeline.unet)
    latents, reference, context = torch.randn(1, 4, 3, 8, 6), torch.randn(1, 4, 8, 6), torch.randn(1, 1, 32)
    poses = torch.rand(1, 3, 3, 64, 48), torch.rand(1, 3, 3, 64, 48)

    def difference(kept, dropped):
        denoiser = HIADenoiser(*networks, unconditional_controlnet=kept)
        predicted = [
            denoiser(latents, torch.tensor([999]), HIAConditions(context, reference, pose).drop(dropped))
            for pose in poses
        ]
        return (predicted[0] - predicted[1]).abs().max()

    for dropped in (True, torch.tensor([True])):
        assert difference(True, dropped) > 1e-3 and difference(False, dropped) == 0


def test_motion_modules_in_the_denoising_unet_go_first(copied):
    other = draw_weights(moore_shapes(SMALL_SIZE)["unet"], "other")
    torch.save(other, copied / "weights" / "denoising_unet.pth")
    conversion = convert_moore_animate_anyone(copied / "weights", copied / "base", copied / "variations")
    motion, whole = (row for row in conversion.report.rows if row.component == "unet")
    assert len(motion.left) == 588 and not motion.taken and len(whole.taken) == 1274


@pytest.mark.parametrize("name", ["denoising_unet", "motion_module", "reference_unet", "pose_guider"])
def test_a_missing_file_is_named(copied, name, monkeypatch):
    (copied / "weights" / f"{name}.pth").unlink()
    monkeypatch.setattr("hia_diffusers.conversion.moore_animate_anyone.read_state_dict", None)
    with pytest.raises(FileNotFoundError, match=f"`weights`: there is no file .*{name}.pth"):
        convert_moore_animate_anyone(copied / "weights", copied / "base", copied / "variations")


def test_files_with_a_number_of_steps_are_taken_where_there_is_one_and_named_where_there_are_several(copied):
    for path in (copied / "weights").glob("*.pth"):
        path.rename(path.with_name(f"{path.stem}-30000.pth"))
    convert = functools.partial(
        convert_moore_animate_anyone, copied / "weights", copied / "base", copied / "variations"
    )
    assert "reference_unet-30000.pth" in {Path(row.source).name for row in convert().report.rows}
    shutil.copy(copied / "weights/reference_unet-30000.pth", copied / "weights/reference_unet-60000.pth")
    with pytest.raises(FileNotFoundError, match="there is no file .*but there are .*-30000.pth, .*-60000.pth"):
        convert()


@pytest.mark.parametrize("convert", [convert_moore_animate_anyone, convert_champ])
def test_what_does_not_fit_is_refused_before_weights_are_read(copied, convert, monkeypatch):
    monkeypatch.setattr("hia_diffusers.conversion.moore_animate_anyone.read_state_dict", None)
    for name, options, match in (
        (
            "variations/image_encoder/config.json",
            {"projection_dim": 48},
            "`image_encoder`: its `projection_dim` must be 32",
        ),
        (
            "variations/feature_extractor/preprocessor_config.json",
            {"crop_size": 16},
            "its `image_size`, 32, got 16x16",
        ),
        ("base/vae/config.json", {"latent_channels": 8}, "`unet` takes 4 channels but `vae` has 8 latent channels"),
        (
            "base/unet/config.json",
            {"in_channels": 9},
            "must take the 4 channels of latents, but takes 9, as one for inp",
        ),
    ):
        path = copied / name
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | options))
        with pytest.raises(ValueError, match=match):
            convert(copied / "weights", copied / "base", copied / "variations")
        path.write_text(before)


def test_musepose_and_dynamicpose_keep_their_betas(copied):
    """As their configurations have them, within the rounding of a thousand factors in float32."""
    arguments = (copied / "weights", copied / "base", copied / "variations")
    for pipeline in (
        convert_musepose(*arguments),
        convert_dynamicpose(*arguments),
        convert_moore_animate_anyone(*arguments, beta_schedule="scaled_linear"),
    ):
        scheduler = pipeline.model.scheduler
        plain = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
        )
        assert scheduler.config.beta_schedule == "scaled_linear"
        assert (scheduler.alphas_cumprod - plain.alphas_cumprod).abs().max() < 1e-6


def test_pipelines_know_the_pose_maps_and_settings_of_their_authors(copied, conversion):
    arguments = (copied / "weights", copied / "base", copied / "variations")
    wanted = [
        made.model.config.call_defaults
        for made in (conversion, convert_musepose(*arguments), convert_dynamicpose(*arguments))
    ]
    assert [defaults["pose_map"] for defaults in wanted] == ["moore-animate-anyone", "musepose", "dynamicpose"]
    assert [defaults["num_inference_steps"] for defaults in wanted] == [30, 20, 30]
    assert [defaults["area"] for defaults in wanted] == [512 * 784, 768 * 768, 512 * 784]


def test_wrapped_weights_are_taken_from_all_files_alike(copied, conversion):
    files = sorted((copied / "weights").glob("*.pth"))
    for path, wrap in zip(
        files,
        (
            lambda weights: {"model": {f"module.{key}": value for key, value in weights.items()}},
            lambda weights: {"state_dict": {f"_orig_mod.{key}": value for key, value in weights.items()}, "epoch": 3},
            lambda weights: {f"module._orig_mod.{key}": value for key, value in weights.items()},
            lambda weights: {key.replace("blocks.", "blocks._orig_mod.", 1): value for key, value in weights.items()},
        ),
        strict=True,
    ):
        torch.save(wrap(torch.load(path)), path)
    converted = convert_moore_animate_anyone(copied / "weights", copied / "base", copied / "variations").model
    for name in ("unet", "appearance_encoder", "controlnet"):
        weights = conversion.model.components[name].state_dict()
        assert all(torch.equal(weights[k], v) for k, v in converted.components[name].state_dict().items())


def test_an_image_encoder_needs_no_preprocessor_config(copied):
    """As Moore-AnimateAnyone's own instructions lay it down: config.json and pytorch_model.bin."""
    arguments = (copied / "weights", copied / "base")
    expected = convert_moore_animate_anyone(*arguments, copied / "variations").model.feature_extractor
    shutil.rmtree(copied / "variations" / "feature_extractor")
    for place in (copied / "variations", copied / "variations" / "image_encoder"):
        made = convert_moore_animate_anyone(*arguments, place)
        assert made.model.feature_extractor.to_dict() == expected.to_dict()
        assert "feature_extractor: CLIP's at 32 x 32 pixels" in str(made.report)


def test_a_file_of_something_else_is_refused(copied):
    torch.save({"conv_in.weight": torch.ones(3)}, copied / "weights" / "pose_guider.pth")
    with pytest.raises(ValueError, match="`weights`: .*pose_guider.pth must contain a pose guider"):
        convert_moore_animate_anyone(copied / "weights", copied / "base", copied / "variations")


def test_a_pose_guider_of_another_base_is_refused_before_weights_are_read(copied, monkeypatch):
    path = copied / "weights" / "pose_guider.pth"
    weights = torch.load(path)
    weights |= {key: torch.cat([weights[key]] * 2) for key in ("conv_out.weight", "conv_out.bias")}
    torch.save(weights, path)
    read = []
    monkeypatch.setattr(
        "hia_diffusers.conversion.moore_animate_anyone.read_state_dict",
        lambda argument, path: read.append(path.name) or read_state_dict(argument, path),
    )
    with pytest.raises(ValueError, match="`weights`: the pose guider must return the 32 channels of `base`, got 64"):
        convert_moore_animate_anyone(copied / "weights", copied / "base", copied / "variations")
    assert read == ["pose_guider.pth"]


def test_champ_shares_all_but_the_pose(copied):
    weights = copied / "weights"
    (weights / "pose_guider.pth").unlink()
    for name in ("depth", "normal"):
        torch.save({}, weights / f"guidance_encoder_{name}.pth")
    conversion = convert_champ(weights, copied / "base", copied / "variations")
    expected = convert_moore_animate_anyone_unet(conversion)
    assert all(torch.equal(conversion.model.unet.state_dict()[key], tensor) for key, tensor in expected.items())
    assert [name.split("/")[-1] for name in conversion.report.left_over] == [
        *("guidance_encoder_depth.pth", "guidance_encoder_normal.pth"),
    ]
    (new,) = (row for row in conversion.report.rows if row.component == "controlnet")
    assert new.source == "new" and len(new.made) == 16
    without = animate(conversion.model, controlnet_conditioning_scale=0.0)
    assert torch.allclose(animate(conversion.model), without, atol=1e-6)


def convert_moore_animate_anyone_unet(conversion):
    """Spatial weights of the UNet under their published names."""
    weights = draw_weights(moore_shapes(SMALL_SIZE)["unet"], "unet")
    return {key: tensor for key, tensor in weights.items() if ".motion_modules." not in key}
