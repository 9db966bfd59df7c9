# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Options of networks as small as they get, for `hia-diffusers convert parts --base`."""

import torch

from hia_diffusers.conversion.parts import convert_parts


# An autoencoder that is quick on a CPU and blurs little.
DC_VAE = {
    "_class_name": "AutoencoderDC",
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": [16, 16, 64],
    "decoder_block_out_channels": [16, 16, 64],
    "encoder_layers_per_block": [0, 1, 1],
    "decoder_layers_per_block": [0, 1, 1],
    "encoder_qkv_multiscales": [[], [], []],
    "decoder_qkv_multiscales": [[], [], []],
    "encoder_out_shortcut": False,
    "decoder_in_shortcut": False,
    "latent_channels": 12,
}

NETWORKS = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "motion_num_attention_heads": 2,
    },
    "controlnet": {"conditioning_embedding_out_channels": [4, 8], "zero_conv_std": 0.02},
    "vae": {
        "block_out_channels": [4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
    },
    "image_encoder": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "projection_dim": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    },
}


def autoencoder_dc(num_stages: int = 4, **options) -> dict:
    """Options of an `AutoencoderDC` that halves images `num_stages - 1` times; with four it fits `random_tiny`."""
    channels = [16] * (num_stages - 1) + [32]
    sides = {
        f"{side}_{option}": value
        for side in ("encoder", "decoder")
        for option, value in (
            ("block_out_channels", channels),
            ("layers_per_block", [0] + [1] * (num_stages - 1)),
            ("qkv_multiscales", [[]] * num_stages),
        )
    }
    return {"latent_channels": 4, "encoder_out_shortcut": False, "decoder_in_shortcut": False, **sides, **options}


def write_pipeline(folder, networks):
    """Without a weight that is zero and stays so."""
    pipeline = convert_parts(networks).model
    generator = torch.Generator().manual_seed(0)
    for network in (pipeline.unet, pipeline.appearance_encoder, pipeline.controlnet):
        for parameter in network.parameters():
            with torch.no_grad():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    pipeline.save_pretrained(folder)
    return folder
