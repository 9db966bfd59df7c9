# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Memory and operations of a training step of each stage, for Stable Diffusion 1.5's size. Needs no GPU.

python benchmarks/training_memory.py [--size 512x896] [--stages NAME ...] [--precisions no bf16]

One sample per process, as `examples/train_hia.py` has it: networks without a trained parameter in the precision of
mixed precision, the others in float32. In the regional stage the VAE decodes the whole image with gradient, or
("windows") a face of an eighth of its height and two hands of half of that. The optimizer is AdamW or that of
bitsandbytes with 8 bits. Memory is in GiB; `hia_diffusers.memory.training_memory` defines what counts. Operations are
those of the forward and the backward pass, with what checkpointing recomputes; a multiplication and an addition are
two. The frozen encoders that run before the step, VAE and CLIP, are not included.
"""

import argparse
import logging
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel, HIAUNetMotionModel
from hia_diffusers.memory.training_memory import TrainingSetup, count_step, estimate_training_memory, gibibytes
from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.training.stages import STAGES, trained_parts


def attention_operations(query, key, value, *args, out_shape=None, **kwargs):
    """Count the operations of attention."""
    return sdpa_flop_count(query, key, value)


def attention_backward_operations(grad, query, key, value, *args, out_shape=None, **kwargs):
    """Count the operations of its backward pass."""
    return sdpa_backward_flop_count(grad, query, key, value)


# The kernel that `hia_diffusers.memory.training_memory` has attention run on, which torch does not count.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_operations,
}


def sd15_networks():
    """Return the denoiser, the VAE and the image encoder, without data."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        denoiser = HIADenoiser(
            HIAAppearanceEncoder.from_config(dict(unet.config)),
            HIAControlNetModel.from_unet(unet, load_weights_from_unet=False),
            HIAUNetMotionModel.from_unet2d(unet, load_weights=False),
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(  # ViT-L/14
                hidden_size=1024,
                intermediate_size=4096,
                projection_dim=768,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=224,
                patch_size=14,
            )
        )
    return denoiser, vae, image_encoder


def rows(args):
    """Yield the name and the setup of each row of the table."""
    width, height = map(int, args.size.split("x"))
    side = height // 16 // 8 * 8
    for stage in args.stages:
        options = STAGES[stage]
        frames = {
            "num_frames": options.num_frames,
            "height": int(height * options.resolution_scale) // 8 * 8,
            "width": int(width * options.resolution_scale) // 8 * 8,
        }
        ways = {stage: ()}
        if stage == "regional":
            ways = {"regional": (), "regional, windows": ((1, 2 * side, 2 * side), (2, side, side))}
        for name, windows in ways.items():
            for precision in args.precisions:
                for checkpointing in (False, True):
                    yield (
                        name,
                        TrainingSetup(
                            trained_parts(options),
                            **frames,
                            windows=windows,
                            mixed_precision=precision,
                            gradient_checkpointing=checkpointing,
                        ),
                    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="512x896", help="WIDTHxHEIGHT of the frames (default: 512x896)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--precisions", nargs="+", choices=("no", "fp16", "bf16"), default=["no", "bf16"])
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    denoiser, vae, image_encoder = sd15_networks()
    columns = (
        *("stage", "size", "frames", "precision", "checkpointing", "weights", "gradients", "activations", "working"),
        *("AdamW", "8-bit", "total", "total, 8-bit", "TFLOP"),
    )
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for name, setup in rows(args):
        decoded, frozen = (vae, [image_encoder]) if name.startswith("regional") else (None, [image_encoder, vae])
        step = count_step(denoiser, setup, decoded)
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as operations:  # keeps tensors alive
            count_step(denoiser, setup, decoded)
        adamw, adamw8bit = (
            estimate_training_memory(denoiser, replace(setup, optimizer=optimizer), decoded, frozen, step)
            for optimizer in ("adamw", "adamw8bit")
        )
        sizes = (adamw.weights, adamw.gradients, adamw.activations, adamw8bit.working)
        sizes += (adamw.optimizer, adamw8bit.optimizer, adamw.total, adamw8bit.total)
        cells = (
            *(name, f"{setup.width}x{setup.height}", setup.num_frames, setup.mixed_precision),
            "yes" if setup.gradient_checkpointing else "no",
            *map(gibibytes, sizes),
            f"{operations.get_total_flops() / 1e12:.1f}",
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
