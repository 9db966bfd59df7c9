# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler
from published_weights import SMALL_SIZE, draw_weights, magic_animate_shapes, write_magic_animate
from rounding import assert_equal_up_to_rounding

from hia_diffusers import HIAPipeline
from hia_diffusers.conversion.magic_animate import convert_magic_animate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_magic_animate(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def conversion(folder):
    return convert_magic_animate(folder / "weights", folder / "base")


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "published")
    return tmp_path / "published"


def animate(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    image = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    arguments = {
        "conditioning_frames": torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(1)),
        "num_inference_steps": 2,
        "guidance_scale": 7.5,
        "reference_noise": False,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "pt",
    }
    return pipeline(image, **{**arguments, **options}).frames


def test_every_key_is_taken(conversion):
    taken = {
        (row.component, row.source.split("/")[-1]): (len(row.taken), len(row.left)) for row in conversion.report.rows
    }
    assert taken[("unet", "diffusion_pytorch_model.safetensors")] == (686, 0)
    assert taken[("unet", "temporal_attention.ckpt")] == (560, 0)
    assert taken[("appearance_encoder", "diffusion_pytorch_model.safetensors")] == (662, 0)
    assert taken[("controlnet", "diffusion_pytorch_model.safetensors")] == (340, 0)
    assert all(row.made == row.left == () for row in conversion.report.rows)
    assert {row.component for row in conversion.report.rows} == {
        *("unet", "appearance_encoder", "controlnet", "vae", "text_encoder"),
    }


def test_the_configuration_is_magic_animates(conversion):
    pipeline = conversion.model
    unet = pipeline.unet.config
    assert (unet.reference_attention_blocks, unet.motion_norm, unet.resnet_norm) == ("midup", "frame", "clip")
    assert unet.motion_max_seq_length == 24 and not unet.use_motion_mid_block
    assert pipeline.config.reference_timestep == "current" and pipeline.config.unconditional_controlnet
    assert pipeline.controlnet.config.conditioning_channels == 3
    context, unconditional = pipeline.encode_image(PIL.Image.new("RGB", (8, 8)))
    assert context.shape == (1, 5, 32) and torch.equal(context, unconditional)


def test_the_schedule_is_magic_animates(conversion):
    scheduler = conversion.model.scheduler
    original = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False
    )
    for each in (scheduler, original):
        each.set_timesteps(25)
    assert scheduler.timesteps.tolist() == original.timesteps.tolist() == list(range(961, 0, -40))
    assert torch.allclose(scheduler.alphas_cumprod, original.alphas_cumprod, rtol=1e-5)


def test_the_pipeline_runs_and_comes_back_from_disk(conversion, tmp_path):
    frames = animate(conversion.model)
    assert frames.shape == (1, 3, 3, 64, 48) and torch.isfinite(frames).all() and frames.std() > 0.01
    conversion.save_pretrained(tmp_path / "converted")
    assert_equal_up_to_rounding(animate(HIAPipeline.from_pretrained(tmp_path / "converted")), frames)


def test_guidance_compares_branches_that_both_have_the_controlnet(conversion):
    """Without a reference both branches are the same, so guidance changes nothing, with whatever pose."""
    pipeline = conversion.model

    def difference():
        latents = [animate(pipeline, guidance_scale=scale, output_type="latent") for scale in (1.0, 3.0)]
        return (latents[0] - latents[1]).abs().max()

    readers = [module for module in pipeline.unet.modules() if getattr(module, "reference_names", None)]
    kept = [module.reference_names for module in readers]
    try:
        for module in readers:
            module.reference_names = []
        assert difference() < 1e-4
        pipeline.register_to_config(unconditional_controlnet=False)
        assert difference() > 1e-2
    finally:
        pipeline.register_to_config(unconditional_controlnet=True)
        for module, names in zip(readers, kept, strict=True):
            module.reference_names = names


def test_a_whole_unet_in_the_temporal_file_goes_before_the_base(copied):
    """Under another prefix, and where the file lies in the other place."""
    whole = draw_weights(magic_animate_shapes(SMALL_SIZE)["unet"], "other")
    shutil.rmtree(copied / "weights" / "temporal_attention")
    torch.save(
        {f"unet.{key}": tensor for key, tensor in whole.items()}, copied / "weights" / "temporal_attention.ckpt"
    )
    conversion = convert_magic_animate(copied / "weights", copied / "base")
    base, temporal = (row for row in conversion.report.rows if row.component == "unet")
    assert len(base.left) == 686 and not base.taken and len(temporal.taken) == 1246
    assert torch.equal(conversion.model.unet.conv_in.weight, whole["conv_in.weight"])


def test_half_precision(copied):
    conversion = convert_magic_animate(copied / "weights", copied / "base", dtype=torch.float16)
    pipeline = conversion.model
    modules = (pipeline.unet, pipeline.controlnet, pipeline.appearance_encoder, pipeline.vae, pipeline.text_encoder)
    assert {module.dtype for module in modules} == {torch.float16}


@pytest.mark.parametrize(
    ("lost", "argument"),
    [
        ("weights/temporal_attention", "weights"),
        ("weights/appearance_encoder", "weights"),
        ("weights/densepose_controlnet", "weights"),
        ("base/unet", "base"),
        ("base/vae", "base"),
        ("base/text_encoder", "base"),
        ("base/tokenizer", "base"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_read(copied, lost, argument, monkeypatch):
    shutil.rmtree(copied / lost)
    monkeypatch.setattr("hia_diffusers.conversion.magic_animate.read_state_dict", None)
    with pytest.raises(FileNotFoundError, match=f"`{argument}`: there is no file .*{lost}"):
        convert_magic_animate(copied / "weights", copied / "base")


def test_folders_that_are_none_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="`base` must be a local folder, but there is none at nowhere"):
        convert_magic_animate(folder / "weights", "nowhere")
    with pytest.raises(FileNotFoundError, match="`vae` must be a local folder"):
        convert_magic_animate(folder / "weights", folder / "base", vae="nowhere")
    with pytest.raises(TypeError, match="`weights` must be the path of a folder, got None"):
        convert_magic_animate(None, folder / "base")


def test_another_autoencoder_may_be_given_with_names_of_old(copied):
    """As sd-vae-ft-mse has them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    expected = convert_magic_animate(copied / "weights", copied / "base").model.vae.state_dict()
    renamed = {}
    for key, tensor in expected.items():
        for new, name in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        renamed[key] = tensor + 1
    vae = copied / "vae"
    shutil.copytree(copied / "base" / "vae", vae)
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(renamed, vae / "diffusion_pytorch_model.bin")
    found = convert_magic_animate(copied / "weights", copied / "base", vae=vae).model.vae.state_dict()
    assert all(torch.equal(found[key], expected[key] + 1) for key in expected)


def test_a_file_without_motion_modules_is_refused(copied):
    torch.save({"a": torch.ones(1)}, copied / "weights" / "temporal_attention" / "temporal_attention.ckpt")
    with pytest.raises(ValueError, match="`weights`: .*temporal_attention.ckpt must contain motion modules"):
        convert_magic_animate(copied / "weights", copied / "base")
