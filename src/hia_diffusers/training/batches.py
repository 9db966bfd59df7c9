# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The batches of a run: samples of the dataset, drawn by their numbers, encoded by the frozen networks."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from huggingface_hub.utils import tqdm
from torch.utils.data import DataLoader

from ..data.aspect_buckets import AspectBucketBatchSampler
from ..data.clip_sources import PreparedClips, ProceduralClips
from ..data.dataset import SAMPLES_VERSION, HIADataset
from ..metrics.weights import sha256_of_weights
from ..models.autoencoder import encode_pictures
from ..pipelines.pipeline_hia import HIAPipeline
from .config import BaseTrainingConfig
from .sample_cache import SampleCache


# Images and their masks, which only the regional losses look at once they are encoded.
PICTURES = {
    "pixel_values",
    "reference_pixel_values",
    "face_mask",
    "hand_masks",
    "face_landmarks",
    "reference_face_landmarks",
}

# What the samples of a cache depend on, beside the weights of the encoders.
CACHE_OPTIONS = (
    "train_data_dir",
    "procedural_clips",
    "procedural_frames",
    "resolution_scale",
    "num_frames",
    "seed",
    "frame_stride",
    "samples_per_clip",
    "horizontal_flip_probability",
    "static_clip_probability",
)


def build_dataset(config: BaseTrainingConfig, condition_dropout: float = 0.0) -> HIADataset:
    """
    The training samples.

    Args:
        config ([`BaseTrainingConfig`]):
            Where clips come from and how samples are drawn.
        condition_dropout (`float`, *optional*, defaults to 0.0):
            As in [`HIADataset`].

    Raises:
        `OSError`, `ValueError`: the clips cannot be read or are too short.
    """
    source: PreparedClips | ProceduralClips
    if config.train_data_dir:
        source = PreparedClips(config.train_data_dir)
    else:
        assert config.procedural_clips is not None, "`config` is validated"
        source = ProceduralClips("train", config.procedural_clips, config.procedural_frames)
    least, greatest = config.frame_stride
    return HIADataset(
        source,
        config.frame_sizes,
        num_frames=config.num_frames,
        frame_stride=(least, greatest),
        resolution_scale=config.resolution_scale,
        samples_per_clip=config.samples_per_clip,
        static_clip_probability=config.static_clip_probability,
        horizontal_flip_probability=config.horizontal_flip_probability,
        condition_dropout=condition_dropout,
        blur_condition_dropout=config.blur_condition_dropout,
        on_error="skip",
        seed=config.seed,
    )


def build_loader(
    config: BaseTrainingConfig,
    accelerator: Accelerator,
    dataset: HIADataset,
    pipeline: HIAPipeline,
    keep_pictures: bool = False,
) -> DataLoader:
    """
    Batches of this process. With `cache_latents`, the cache is filled first.

    Args:
        config ([`BaseTrainingConfig`]):
            Batch size, workers and cache.
        accelerator (`accelerate.Accelerator`):
            Of the run.
        dataset ([`HIADataset`]):
            Draws the samples.
        pipeline ([`HIAPipeline`]):
            Its frozen networks encode what is cached.
        keep_pictures (`bool`, *optional*, defaults to `False`):
            Whether cached samples hold images and masks too, as regional losses need them.
    """
    samples: Any = dataset
    if config.cache_latents:
        samples = _cached_samples(config, accelerator, dataset, pipeline, keep_pictures)
    return DataLoader(
        samples,
        batch_sampler=AspectBucketBatchSampler(
            dataset, config.train_batch_size, accelerator.num_processes, accelerator.process_index, config.seed
        ),
        num_workers=config.dataloader_num_workers,
        persistent_workers=config.dataloader_num_workers > 0,
        worker_init_fn=_leave_process_group,
    )


def numbered_batches(loader: DataLoader, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    All batches of a run from one on, epoch after epoch, without end.

    Args:
        loader (`DataLoader`):
            From [`build_loader`].
        first (`int`):
            Number of the first batch.

    Yields:
        `tuple[int, dict[str, Any]]`: the number of the batch since the run began, and the batch.
    """
    sampler: Any = loader.batch_sampler
    epoch, position = divmod(first, len(sampler))
    number = first
    while True:
        sampler.set_epoch(epoch, position)
        for batch in loader:
            yield number, batch
            number += 1
        epoch, position = epoch + 1, 0


@torch.no_grad()
def encode(pipeline: HIAPipeline, batch: dict[str, Any]) -> dict[str, Any]:
    """
    A batch with what the frozen networks make of its images.

    Args:
        pipeline ([`HIAPipeline`]):
            Has the networks.
        batch (`dict[str, Any]`):
            `pixel_values` `(B, F, 3, H, W)` and `reference_pixel_values` `(B, 3, H, W)` in [-1, 1], and others.

    Returns:
        `dict[str, Any]`: the batch, and float32 `latents` `(B, C, F, h, w)`, `reference_latents` `(B, C, h, w)`,
        `context` and `null_context` `(B, tokens, C)`.
    """
    targets, references = batch["pixel_values"], batch["reference_pixel_values"]
    latents = encode_pictures(pipeline.vae, targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
    context, null_context = pipeline.encode_image((references / 2 + 0.5).clamp(0, 1))
    return {
        **batch,
        "latents": latents.transpose(1, 2),
        "reference_latents": encode_pictures(pipeline.vae, references),
        "context": context.float(),
        "null_context": null_context.float(),
    }


def _cached_samples(
    config: BaseTrainingConfig,
    accelerator: Accelerator,
    dataset: HIADataset,
    pipeline: HIAPipeline,
    keep_pictures: bool,
) -> SampleCache:
    """The encoded samples of the dataset in the folder of the cache, which is filled first."""
    assert config.cache_latents is not None
    encoders = {name: pipeline.components[name] for name in ("vae", "image_encoder", "text_encoder")}
    key = {name: str(getattr(config, name)) for name in CACHE_OPTIONS}
    key |= {"sizes": str(config.frame_sizes), "samples_version": str(SAMPLES_VERSION)}
    key |= {"pictures": str(keep_pictures), "mixed_precision": accelerator.mixed_precision}
    key["encoders"] = sha256_of_weights(encoders)
    with accelerator.main_process_first():
        try:
            cache = SampleCache(dataset, config.cache_latents, config.cached_epochs, key)
        except (OSError, ValueError) as error:
            raise ValueError(f"--cache_latents: {error}") from error

    def encode_to_keep(batch: dict[str, Any]) -> dict[str, Any]:
        pictures = {key: batch[key].to(accelerator.device) for key in ("pixel_values", "reference_pixel_values")}
        with accelerator.autocast():
            batch = batch | {key: value.cpu() for key, value in encode(pipeline, pictures).items()}
        return {key: value for key, value in batch.items() if keep_pictures or key not in PICTURES}

    filling = cache.fill(
        encode_to_keep, accelerator.process_index, accelerator.num_processes, config.dataloader_num_workers
    )
    for missing in (bar := tqdm(filling, desc="Filling the cache", disable=not accelerator.is_local_main_process)):
        bar.set_postfix(missing=missing)
    accelerator.wait_for_everyone()
    return cache


def _leave_process_group(worker: int) -> None:
    """A signal for the whole group must not reach those who load data: the step needs their batches to its end."""
    os.setsid()
