# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A small HIA pipeline with random weights: everything runs, nothing has been learnt."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from hia_diffusers.models.appearance_encoder import HIAAppearanceEncoder
from hia_diffusers.models.controlnet import HIAControlNetModel
from hia_diffusers.models.unet_motion import HIAUNetMotionModel
from hia_diffusers.pipelines.pipeline_hia import HIAPipeline
from hia_diffusers.schedulers.scheduling_shifted_snr import ShiftedSNRScheduler


UNET = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}


def random_tiny_pipeline(seed: int = 0) -> HIAPipeline:
    """Build the pipeline; the same seed gives the same weights.

    Layers that training would start at zero are random as well, so that every condition changes the output.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 16, 16, 16),
            latent_channels=4,
            norm_num_groups=8,
        )
        unet2d = UNet2DConditionModel(**UNET)
        unet = HIAUNetMotionModel.from_unet2d(unet2d)
        controlnet = HIAControlNetModel.from_unet(unet2d, conditioning_embedding_out_channels=(8, 8, 16, 16))
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                projection_dim=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
            )
        )
        for model in (unet, controlnet):
            for parameter in model.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    nn.init.normal_(parameter, std=0.5)
    return HIAPipeline(
        vae=vae.eval(),
        image_encoder=image_encoder.eval(),
        unet=unet.eval(),
        appearance_encoder=HIAAppearanceEncoder.from_unet(unet2d).eval(),
        controlnet=controlnet.eval(),
        scheduler=ShiftedSNRScheduler(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
