# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What training on clips of one person takes: memory, operations and hours, as a table. Needs no GPU.

python benchmarks/finetuning.py [--configs NAME ...] [--rates 25 100]

Nothing here is measured. Networks have Stable Diffusion 1.5's size, with the pose guider of Moore-AnimateAnyone, and
options are those of examples/configs. Memory of a step and operations of a sample are counted as in
training_memory.py, with those of the encoders that run before. Hours are the operations of a stage at the rates that a
card sustains, in TFLOP/s; time for data, and all else that keeps a card from this rate, is not in them.
"""

import argparse
import logging
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from training_memory import ATTENTION, sd15_networks

from hia_diffusers import HIAPoseGuider
from hia_diffusers.commands.config_parser import ConfigParser
from hia_diffusers.memory.counting import gibibytes, on_meta
from hia_diffusers.memory.training_memory import TrainingSetup, count_step, estimate_training_memory
from hia_diffusers.models.autoencoder import encode_images
from hia_diffusers.training.config import TrainingConfig
from hia_diffusers.training.lora import add_lora
from hia_diffusers.training.stages import STAGES, trained_parts


CONFIGS = Path(__file__).parents[1] / "examples" / "configs"


def read_config(name, stage):
    parser = ConfigParser(TrainingConfig, STAGES)
    arguments = ["--stage", stage, "--config", str(CONFIGS / f"{name}.yaml"), "--train_data_dir", "dataset"]
    arguments += ["--output_dir", "run", *([] if stage == "spatial" else ["--pretrained_model_name_or_path", "start"])]
    return parser.parse_args(arguments)


def setup_of(config):
    height, width = (int(side * config.resolution_scale) // 8 * 8 for side in config.frame_sizes[0])
    side = height // 16 // 8 * 8
    return TrainingSetup(
        trained_parts(config),
        height=height,
        width=width,
        num_frames=config.num_frames,
        batch_size=config.train_batch_size,
        mixed_precision=config.mixed_precision,
        gradient_checkpointing=config.gradient_checkpointing,
        optimizer="adamw8bit" if config.use_8bit_adam else "adamw",
        windows=((1, 2 * side, 2 * side), (2, side, side)) if config.stage == "regional" else (),
    )


def operations_of(denoiser, vae, image_encoder, setup, decoded):
    """Of a sample: forward and backward pass, and the encoders."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as operations:
        count_step(denoiser, setup, decoded)
        with torch.no_grad():
            encode_images(vae, torch.zeros(setup.num_frames + 1, 3, setup.height, setup.width, device="meta"))
            image_encoder(torch.zeros(1, 3, 224, 224, device="meta"))
    return operations.get_total_flops()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configs", nargs="+", default=["finetune-24gb", "lora-12gb"], help="names of configs")
    parser.add_argument("--rates", type=float, nargs=2, default=[25, 100], help="TFLOP/s (default: 25 100)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    networks, vae, image_encoder = sd15_networks()
    with torch.device("meta"):
        networks.controlnet = HIAPoseGuider(networks.unet.config.block_out_channels[0])
    slow, fast = args.rates
    columns = ("config", "stage", "size", "frames", "GiB", "samples", "TFLOP per sample")
    columns += (f"hours at {slow:g} TFLOP/s", f"at {fast:g} TFLOP/s")
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for name in args.configs:
        for stage in STAGES:
            config = read_config(name, stage)
            if name.startswith("lora") and config.lora_rank is None:
                continue
            denoiser = on_meta(networks)
            if config.lora_rank is not None:
                add_lora(denoiser, config)
            setup = setup_of(config)
            decoded, frozen = (vae, [image_encoder]) if stage == "regional" else (None, [image_encoder, vae])
            memory = estimate_training_memory(denoiser, setup, decoded, frozen)
            operations = operations_of(denoiser, vae, image_encoder, setup, decoded) / config.train_batch_size
            samples = config.max_train_steps * config.gradient_accumulation_steps * config.train_batch_size
            hours = (f"{samples * operations / (rate * 1e12) / 3600:.1f}" for rate in args.rates)
            cells = (name, stage, f"{setup.width}x{setup.height}", setup.num_frames, gibibytes(memory.total))
            cells += (f"{samples:,}", f"{operations / 1e12:.1f}", *hours)
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
