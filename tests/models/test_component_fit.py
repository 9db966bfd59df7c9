# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Components that do not fit are refused in one sentence, by whatever way they come in."""

import json
import re

import diffusers
import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from published_weights import tokenizer
from random_tiny import UNET
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from hia_diffusers import HIAPipeline, HIAPoseGuider, HIAUNetMotionModel, ShiftedSNRScheduler
from hia_diffusers.models.component_fit import check_components


def outline(component, **options):
    """The network with other options, on the meta device."""
    with torch.device("meta"):
        return type(component).from_config(component.config, **options)


def vision(pipe, model_class=CLIPVisionModelWithProjection, **options):
    with torch.device("meta"):
        return model_class(CLIPVisionConfig(**{**pipe.image_encoder.config.to_dict(), **options}))


def text(**options):
    small = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(**{"vocab_size": 54, "max_position_embeddings": 5, **small, **options}))


def extractor(size, **options):
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **options)


ONE_STAGE = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
WIDE = {"block_out_channels": (32, 32)}

# Name of a component -> what is put in its place, and what is said.
MISFITS = {
    "vae latents": ("vae", lambda p: outline(p.vae, latent_channels=8), "`unet` takes 4 channels but `vae` has 8"),
    "vae pictures": ("vae", lambda p: outline(p.vae, in_channels=1), "`vae`: its `in_channels` must be 3"),
    "vae stride": (
        "vae",
        lambda p: outline(p.vae, block_out_channels=[8], **ONE_STAGE),
        "`controlnet` reduces conditioning frames by 8, but `vae` reduces images by 1",
    ),
    "vae class": ("vae", lambda p: torch.nn.Linear(1, 1), "`vae` must be of class AutoencoderKL or"),
    "inpainting": ("unet", lambda p: outline(p.unet, in_channels=9), "`out_channels` must be its `in_channels`, 9"),
    "unet latents": (
        "unet",
        lambda p: outline(p.unet, in_channels=8, out_channels=8),
        "`unet` takes 8 channels but `vae` has 4 latent channels",
    ),
    "unet width": ("unet", lambda p: outline(p.unet, **WIDE), "`appearance_encoder` returns 16 channels in"),
    "unet 2d": (
        "unet",
        lambda p: UNet2DConditionModel(**{**UNET, "cross_attention_dim": 1280}),
        "`image_encoder`: its `projection_dim` must be 1280, the `cross_attention_dim` of the UNet, got 32",
    ),
    "unet positions": (
        "unet",
        lambda p: outline(p.unet, spatial_position_embedding=True),
        "`appearance_encoder`: its `spatial_position_embedding` must be True",
    ),
    "encoder latents": (
        "appearance_encoder",
        lambda p: outline(p.appearance_encoder, in_channels=8),
        "`appearance_encoder` takes 8 channels but `vae` has 4 latent channels",
    ),
    "encoder context": (
        "appearance_encoder",
        lambda p: outline(p.appearance_encoder, cross_attention_dim=48),
        "`appearance_encoder`: its `cross_attention_dim` must be 32",
    ),
    "encoder blocks": (
        "appearance_encoder",
        lambda p: outline(p.appearance_encoder, down_block_types=["DownBlock2D"] * 2),
        "`appearance_encoder` lacks the blocks down_blocks.0",
    ),
    "controlnet latents": (
        "controlnet",
        lambda p: outline(p.controlnet, in_channels=8),
        "`controlnet` takes 8 channels but `vae` has 4 latent channels",
    ),
    "controlnet width": (
        "controlnet",
        lambda p: outline(p.controlnet, **WIDE),
        "`controlnet`: its `block_out_channels` must be (16, 32)",
    ),
    "controlnet layers": (
        "controlnet",
        lambda p: outline(p.controlnet, layers_per_block=2),
        "`controlnet`: its `layers_per_block` must be 1",
    ),
    "controlnet context": (
        "controlnet",
        lambda p: outline(p.controlnet, cross_attention_dim=64),
        "`controlnet`: its `cross_attention_dim` must be 32",
    ),
    "pose guider": (
        "controlnet",
        lambda p: HIAPoseGuider(6, (8, 8, 16, 16), out_channels=32),
        "`controlnet` returns 32 channels of pose features, but `unet` expects 16",
    ),
    "image encoder width": (
        "image_encoder",
        lambda p: vision(p, projection_dim=48),
        "`image_encoder`: its `projection_dim` must be 32, the `cross_attention_dim` of the UNet, got 48",
    ),
    "image encoder size": (
        "image_encoder",
        lambda p: vision(p, image_size=16),
        "`image_encoder`: the `crop_size` of its feature extractor must be its `image_size`, 16, got 32x32",
    ),
    "image encoder class": (
        "image_encoder",
        lambda p: vision(p, CLIPVisionModel),
        "`image_encoder` must be of class CLIPVisionModelWithProjection",
    ),
    "extractor size": ("feature_extractor", lambda p: extractor(224), "its `image_size`, 32, got 224x224"),
    "extractor crop": (
        "feature_extractor",
        lambda p: extractor(32, do_center_crop=False),
        "the `size` of its feature extractor must be its `image_size`, 32, got a size that depends on the image",
    ),
    "two contexts": ("text_encoder", lambda p: text(), "Pass either `image_encoder` or `text_encoder`"),
    "scheduler class": ("scheduler", lambda p: torch.nn.Linear(1, 1), "`scheduler` must be of class SchedulerMixin"),
    "scheduler flow": (
        "scheduler",
        lambda p: diffusers.FlowMatchEulerDiscreteScheduler(),
        "`scheduler` must add noise and denoise step by step, as DDIMScheduler does, but this FlowMatchEuler",
    ),
    "scheduler prediction": (
        "scheduler",
        lambda p: diffusers.LCMScheduler(prediction_type="flow"),
        "but this LCMScheduler cannot: prediction_type given as flow must be one of",
    ),
    "scheduler betas": (
        "scheduler",
        lambda p: diffusers.DDIMScheduler(trained_betas=[0.01] * 1000, num_train_timesteps=500),
        "`scheduler`: its `num_train_timesteps` must be the number of its betas, 1000, got 500",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_component_that_does_not_fit_is_refused_in_one_sentence(pristine_pipe, animate, misfit, monkeypatch):
    name, build, message = MISFITS[misfit]
    component, before = build(pristine_pipe), dict(pristine_pipe.components)
    for make in (
        lambda: HIAPipeline(**{**before, name: component}),
        lambda: HIAPipeline.from_pipe(pristine_pipe, **{name: component}),
        lambda: pristine_pipe.register_modules(**{"feature_extractor": before["feature_extractor"], name: component}),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)) as raised:
            make()
        assert "\n" not in str(raised.value)
    assert pristine_pipe.components == before

    monkeypatch.setitem(vars(pristine_pipe), name, component)  # as assigned, without a look at the index
    said = "`scheduler|timesteps" if name == "scheduler" else re.escape(message)  # a call tries more of it
    for call in (animate, lambda pipe: pipe.stream(torch.rand(3, 64, 48), torch.rand(2, 6, 64, 48))):
        with pytest.raises((TypeError, ValueError), match=said):
            call(pristine_pipe)


@pytest.mark.parametrize("name", ["vae", "unet", "appearance_encoder", "controlnet", "scheduler"])
def test_a_component_that_was_taken_away_is_missed_at_the_next_call(pristine_pipe, animate, name, monkeypatch):
    monkeypatch.setitem(vars(pristine_pipe), name, None)
    for call in (animate, lambda pipe: pipe.stream(torch.rand(3, 64, 48), torch.rand(2, 6, 64, 48))):
        with pytest.raises(ValueError, match=f"`{name}` is missing: the pipeline was made without it"):
            call(pristine_pipe)


def test_components_may_be_exchanged_one_by_one(pipe, animate):
    """They need to fit only when they are used."""
    other = {"unet": {"in_channels": 8, "out_channels": 8}, "controlnet": {"in_channels": 8}}
    other |= {"vae": {"latent_channels": 8}, "appearance_encoder": {"in_channels": 8}}
    for name, options in other.items():
        setattr(pipe, name, type(pipe.components[name]).from_config(pipe.components[name].config, **options))
    assert animate(pipe).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 48}, "`text_encoder`: its `hidden_size` must be 32"),
        ({"vocab_size": 50}, "`tokenizer` has 54 tokens, but the `vocab_size` of `text_encoder` is 50"),
        ({"max_position_embeddings": 4}, "`tokenizer`: its `model_max_length` must be at most 4"),
    ],
)
def test_text_encoders_fit_the_unet_and_the_tokenizer(pristine_pipe, options, message, tmp_path):
    parts = {**pristine_pipe.components, "image_encoder": None, "tokenizer": tokenizer(tmp_path / "letters")}
    check_components({**parts, "text_encoder": text()})
    with pytest.raises(ValueError, match=message):
        check_components({**parts, "text_encoder": text(**options)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"block_out_channels": (32, 32)},
            r"`block_out_channels` must be .16, 32., the `block_out_channels`",
        ),
        ({"block_out_channels": (16, 32, 32)}, "`block_out_channels` must be"),
        ({"motion_layers_per_block": 2}, "`motion_layers_per_block` must be 1, the `layers_per_block` of the UNet"),
        ({"motion_norm_num_groups": 4}, "`motion_norm_num_groups` must be 8"),
        ({"motion_mid_block_layers_per_block": 2}, "`motion_mid_block_layers_per_block` must be 1"),
        ({"conv_in_channels": 9}, "it has an input convolution of 9 channels"),
    ],
)
def test_motion_adapters_fit_the_unet(options, message):
    fits = {"block_out_channels": (16, 32), "motion_layers_per_block": 1, "motion_norm_num_groups": 8}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        HIAUNetMotionModel.from_unet2d(unet, MotionAdapter(**fits), load_weights=False)
        adapter = MotionAdapter(**{**fits, **options})
    with pytest.raises(ValueError, match=f"`motion_adapter`: .*{message}"):
        HIAUNetMotionModel.from_unet2d(unet, adapter)
    with pytest.raises(TypeError, match="`motion_adapter` must be a MotionAdapter, got Linear"):
        HIAUNetMotionModel.from_unet2d(unet, torch.nn.Linear(1, 1))


def test_trying_a_scheduler_leaves_it_and_the_global_random_state_as_they_were():
    for scheduler in (ShiftedSNRScheduler(), diffusers.LCMScheduler(), diffusers.UniPCMultistepScheduler()):
        before, state = json.dumps(scheduler.config, default=str), torch.random.get_rng_state()
        check_components({"scheduler": scheduler})
        assert json.dumps(scheduler.config, default=str) == before and scheduler.num_inference_steps is None
        assert torch.equal(torch.random.get_rng_state(), state)
