# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the four stages learn on procedural people in minutes, on a CPU: `make learn`. Seeds are fixed."""

import functools
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_networks import DC_VAE

from hia_diffusers import HIADataset, HIAPipeline
from hia_diffusers.conversion.parts import convert_parts
from hia_diffusers.data.clip_sources import ProceduralClips
from hia_diffusers.metrics.evaluation import VideoEvaluation


pytestmark = pytest.mark.learn

logger = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parents[2] / "examples"

HEIGHT, WIDTH = 80, 48
NUM_CLIPS, CLIP_LENGTH = 4, 300
NUM_SAMPLES, NUM_FRAMES = 8, 6

NETWORKS = {
    "unet": {
        "sample_size": 20,
        "in_channels": 16,
        "out_channels": 16,
        "block_out_channels": [32, 64, 96],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "motion_num_attention_heads": 2,
        "use_motion_mid_block": False,
    },
    "controlnet": {"conditioning_embedding_out_channels": [16, 32, 64], "zero_conv_std": 0.02},
    "vae": DC_VAE | {"decoder_layers_per_block": [0, 1, 2], "latent_channels": 16},
    "image_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
}


def run(script, folder, options):
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(EXAMPLES / script), *words, "--output_dir", str(folder)]
    environment = {"OMP_NUM_THREADS": "2", **os.environ}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


def train(folder, stage, **options):
    defaults = {
        "stage": stage,
        "procedural_clips": NUM_CLIPS,
        "samples_per_clip": 100,
        "horizontal_flip_probability": 0,
        "sizes": f"{WIDTH}x{HEIGHT}",
        "train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "lr_warmup_steps": 20,
        "lr_scheduler": "cosine",
        "checkpointing_steps": 10_000,
        "dataloader_num_workers": 1,
    }
    run("train_hia.py", folder, {**defaults, **options})
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The option that leads to new networks, with an autoencoder that was trained for a moment."""
    folder = tmp_path_factory.mktemp("start")
    networks = folder / "networks.yaml"
    networks.write_text(yaml.safe_dump(NETWORKS))
    options = {"from_scratch": networks, "procedural_clips": 10_000, "size": f"{WIDTH}x{HEIGHT}"}
    run("train_autoencoder.py", folder / "vae", {**options, "max_train_steps": 60, "validation_clips": 4})
    conversion = convert_parts(networks, vae=folder / "vae", schedule={"prediction_type": "sample"})
    conversion.save_pretrained(folder / "start")
    return {"pretrained_model_name_or_path": folder / "start"}


@pytest.fixture(scope="module")
def spatial(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spatial")
    return train(folder, "spatial", max_train_steps=1000, learning_rate=1.5e-3, **start)


@pytest.fixture(scope="module")
def regional(spatial, tmp_path_factory):
    options = {"pretrained_model_name_or_path": spatial, "max_train_steps": 200, "learning_rate": 1e-3}
    # With weights of 1, networks as small as these pay for the hands with half a decibel of all the rest.
    weights = {"face_weight": 0.2, "hand_weight": 0.2}
    return train(tmp_path_factory.mktemp("regional"), "regional", **options, **weights)


@pytest.fixture(scope="module")
def temporal_half(regional, tmp_path_factory):
    options = {"pretrained_model_name_or_path": regional, "max_train_steps": 300, "learning_rate": 3e-3}
    return train(tmp_path_factory.mktemp("half"), "temporal-half", num_frames=8, train_batch_size=2, **options)


@pytest.fixture(scope="module")
def temporal_full(temporal_half, tmp_path_factory):
    options = {"pretrained_model_name_or_path": temporal_half, "max_train_steps": 300, "learning_rate": 3e-3}
    return train(tmp_path_factory.mktemp("full"), "temporal-full", num_frames=8, train_batch_size=1, **options)


class LaterFrames(ProceduralClips):
    """What comes in the clips after all frames that are trained on."""

    def load(self, clip, frames, size, rng, with_previous=False):
        return super().load(clip, [CLIP_LENGTH + frame for frame in frames], size, rng, with_previous)


@functools.cache
def later_samples(resolution_scale=1.0):
    dataset = HIADataset(
        LaterFrames("train", NUM_CLIPS, CLIP_LENGTH),
        [(HEIGHT, WIDTH)],
        NUM_FRAMES,
        samples_per_clip=2,
        resolution_scale=resolution_scale,
    )
    return [dataset[index] for index in range(NUM_SAMPLES)]


def as_bytes(images):
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def measure(samples, generated):
    evaluation = VideoEvaluation()
    for index, (sample, frames) in enumerate(zip(samples, generated, strict=True)):
        face, hands = (sample[key].numpy() > 0 for key in ("face_mask", "hand_masks"))
        evaluation.add(str(index), frames, as_bytes(sample["pixel_values"] / 2 + 0.5), face[:, 0], hands)
    return {name: result["value"] for name, result in evaluation.metrics().items()}


def copy_metrics(samples):
    """Of the reference image in every frame."""
    references = [as_bytes(sample["reference_pixel_values"][None] / 2 + 0.5) for sample in samples]
    return measure(samples, [np.repeat(frames, NUM_FRAMES, axis=0) for frames in references])


def generate(folder, samples, references=None, conditions=None):
    """Metrics of what the pipeline makes of the samples, or of other references or conditions for their frames."""
    pipeline = HIAPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    references = references or [sample["reference_pixel_values"] for sample in samples]
    conditions = conditions or [sample["conditioning"] for sample in samples]
    generated = [
        pipeline(
            reference[None] / 2 + 0.5,
            condition,
            num_inference_steps=10,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(index),
            output_type="pt",
        ).frames[0]
        for index, (reference, condition) in enumerate(zip(references, conditions, strict=True))
    ]
    return measure(samples, [as_bytes(frames) for frames in generated])


@functools.cache
def later_metrics(folder, resolution_scale=1.0):
    return logged(f"{folder.name} x {resolution_scale}", generate(folder, later_samples(resolution_scale)))


def logged(name, metrics):
    shown = ("psnr", "face_psnr", "hands_psnr", "face_l1", "hands_l1", "flicker")
    logger.info("%s: %s", name, ", ".join(f"{metric} {metrics[metric]:.4f}" for metric in shown))
    return metrics


def swapped(samples, key):
    """Each sample's value from another clip; there are two samples of a clip."""
    values = [sample[key] for sample in samples]
    return values[2:] + values[:2]


def test_two_clips_are_learnt_by_heart(start, tmp_path):
    length = 16
    options = {"procedural_clips": 2, "procedural_frames": length, "condition_dropout": 0, "max_train_steps": 700}
    folder = train(tmp_path / "two clips", "spatial", learning_rate=2e-3, **options, **start)
    dataset = HIADataset(ProceduralClips("train", 2, length), [(HEIGHT, WIDTH)], num_frames=NUM_FRAMES)
    samples = [dataset[0], dataset[1]]
    copy = logged("copying the reference", copy_metrics(samples))
    assert copy["psnr"] < 22
    assert logged("two clips", generate(folder, samples))["psnr"] > 28


def test_the_spatial_stage_draws_face_and_hands_better_than_copying_does(spatial):
    copy, learnt = logged("copying the reference", copy_metrics(later_samples())), later_metrics(spatial)
    assert learnt["psnr"] > copy["psnr"] + 1.5
    assert learnt["face_psnr"] > copy["face_psnr"] + 2
    assert learnt["hands_psnr"] > copy["hands_psnr"] + 3


def test_references_of_others_make_it_worse(spatial):
    samples = later_samples()
    shuffled = logged("others' references", generate(spatial, samples, swapped(samples, "reference_pixel_values")))
    assert shuffled["psnr"] < later_metrics(spatial)["psnr"] - 5


def test_conditions_of_others_or_none_make_it_worse(spatial):
    samples = later_samples()
    others = logged("others' conditions", generate(spatial, samples, conditions=swapped(samples, "conditioning")))
    none = [torch.zeros_like(sample["conditioning"]) for sample in samples]
    without = logged("no conditions", generate(spatial, samples, conditions=none))
    for worse in (others, without):
        assert worse["psnr"] < later_metrics(spatial)["psnr"] - 1.5
        assert worse["face_psnr"] < later_metrics(spatial)["face_psnr"] - 2
        assert worse["hands_psnr"] < later_metrics(spatial)["hands_psnr"] - 3


def test_the_regional_stage_lowers_the_error_of_face_and_hands_and_keeps_the_whole(spatial, regional):
    before, after = later_metrics(spatial), later_metrics(regional)
    assert after["face_l1"] < before["face_l1"]
    assert after["hands_l1"] < 0.98 * before["hands_l1"]
    assert after["psnr"] > before["psnr"] - 0.3


def test_the_temporal_stages_lower_flicker(regional, temporal_half, temporal_full):
    for folder, resolution_scale in ((temporal_half, 0.5), (temporal_full, 1.0)):
        before, after = (later_metrics(model, resolution_scale) for model in (regional, folder))
        assert after["flicker"] < 0.95 * before["flicker"]
