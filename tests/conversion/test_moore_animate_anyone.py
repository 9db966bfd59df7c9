# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import copy
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler
from peft import LoraConfig
from published_weights import SMALL_SIZE, draw_weights, moore_shapes, write_moore
from rounding import assert_equal_up_to_rounding

from hia_diffusers import HIAPipeline
from hia_diffusers.conversion.moore_animate_anyone import convert_champ, convert_moore_animate_anyone
from hia_diffusers.training.components import load_components
from hia_diffusers.training.denoiser import ConditionalDenoiser


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
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    arguments = {
        "conditioning_frames": torch.rand(3, channels, 64, 48, generator=torch.Generator().manual_seed(1)),
        "num_inference_steps": 2,
        "reference_noise": False,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "pt",
    }
    return pipeline(picture, **{**arguments, **options}).frames


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
    assert controlnet.config.embedding_only and controlnet.config.conditioning_channels == 3
    assert sum(p.numel() for p in controlnet.parameters()) == sum(
        p.numel() for p in controlnet.controlnet_cond_embedding.parameters()
    )
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
    other = type(pipeline.controlnet).from_config(
        {**pipeline.controlnet.config, "block_out_channels": (64, 64, 96, 96)}
    )
    with pytest.raises(ValueError, match="`controlnet` gives pose features of 64 channels but `unet` takes 32"):
        HIAPipeline(**{**pipeline.components, "controlnet": other})


def test_training_starts_from_the_result(conversion, tmp_path):
    """With three more input channels, and the same prediction as before they are trained."""
    conversion.save_pretrained(tmp_path / "converted")
    loaded = load_components(tmp_path / "converted")
    pipeline = loaded.pipeline
    assert pipeline.config.unconditional_controlnet and pipeline.controlnet.config.embedding_only
    assert pipeline.controlnet.config.conditioning_channels == 6
    condition = torch.rand(3, 6, 64, 48, generator=torch.Generator().manual_seed(1))
    frames = animate(pipeline, conditioning_frames=condition)
    assert torch.allclose(frames, animate(conversion.model, conditioning_frames=condition[:, :3]), atol=1e-5)

    config = pipeline.config
    denoiser = ConditionalDenoiser(
        *(pipeline.appearance_encoder, pipeline.controlnet, pipeline.unet),
        *(config.reference_timestep, config.unconditional_controlnet),
    )
    for network in denoiser.children():
        network.enable_gradient_checkpointing()
    inputs = (
        *(torch.randn(2, 4, 3, 8, 6), torch.tensor([999, 500]), torch.randn(2, 1, 32)),
        *(torch.randn(2, 4, 8, 6), torch.stack([condition, condition])),
    )
    denoiser.train()(*inputs, dropped=torch.tensor([True, False])).square().mean().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []
    gradient = pipeline.controlnet.controlnet_cond_embedding.conv_in.weight.grad
    assert gradient[:, :3].any() and gradient[:, 3:].any()


@torch.no_grad()
def test_a_dropped_clip_keeps_its_pose_in_training_as_in_guidance(conversion):
    pipeline = conversion.model
    networks = (pipeline.appearance_encoder, pipeline.controlnet, pipeline.unet)
    latents, reference, context = torch.randn(1, 4, 3, 8, 6), torch.randn(1, 4, 8, 6), torch.randn(1, 1, 32)
    poses = torch.rand(1, 3, 3, 64, 48), torch.rand(1, 3, 3, 64, 48)

    def difference(kept):
        denoiser = ConditionalDenoiser(*networks, unconditional_controlnet=kept)
        predicted = [
            denoiser(latents, torch.tensor([999]), context, reference, pose, torch.tensor([True])) for pose in poses
        ]
        return (predicted[0] - predicted[1]).abs().max()

    assert difference(True) > 1e-3 and difference(False) == 0


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


def test_a_file_of_something_else_is_refused(copied):
    torch.save({"conv_in.weight": torch.ones(3)}, copied / "weights" / "pose_guider.pth")
    with pytest.raises(ValueError, match="`weights`: .*pose_guider.pth must hold a pose guider"):
        convert_moore_animate_anyone(copied / "weights", copied / "base", copied / "variations")


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
