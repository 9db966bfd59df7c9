# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The batches of a run: numbered samples of the dataset, encoded by the frozen networks."""

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
from ..models.autoencoder import encode_images
from ..pipelines.pipeline_hia import HIAPipeline
from .config import BaseTrainingConfig
from .sample_cache import SampleCache


# Images and their masks, which only the regional losses need after encoding.
IMAGES = {
    "pixel_values",
    "reference_pixel_values",
    "face_mask",
    "hand_masks",
    "face_landmarks",
    "reference_face_landmarks",
}

# The options that determine cached samples, in addition to the weights of the encoders.
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
    """Create the training dataset.

    Args:
        config ([`BaseTrainingConfig`]):
            The sources of clips and the options of samples.
        condition_dropout (`float`, *optional*, defaults to 0.0):
            As in [`HIADataset`].

    Raises:
        OSError, ValueError: If the clips cannot be read or are too short.
    """
    source: PreparedClips | ProceduralClips
    if config.train_data_dir:
        source = PreparedClips(config.train_data_dir)
    else:
        assert config.procedural_clips is not None, "`config` is validated"
        person = config.procedural_person
        source = ProceduralClips("train", config.procedural_clips, config.procedural_frames, identity=person)
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
    keep_images: bool = False,
) -> DataLoader:
    """Create the loader of this process's batches. With `cache_latents`, the cache is filled first.

    Args:
        config ([`BaseTrainingConfig`]):
            Batch size, workers and cache.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.
        dataset ([`HIADataset`]):
            Dataset of the samples.
        pipeline ([`HIAPipeline`]):
            Pipeline whose frozen networks encode cached samples.
        keep_images (`bool`, *optional*, defaults to `False`):
            Whether cached samples include images and masks, which regional losses need.
    """
    samples: Any = dataset
    if config.cache_latents:
        samples = _cached_samples(config, accelerator, dataset, pipeline, keep_images)
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
    """Iterate over the batches of a run from a given one, epoch after epoch, without end.

    Args:
        loader (`DataLoader`):
            Result of [`build_loader`].
        first (`int`):
            Number of the first batch.

    Yields:
        `tuple[int, dict[str, Any]]`: The number of the batch since the start of the run, and the batch.
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
    """Encode the images of a batch with the frozen networks.

    Args:
        pipeline ([`HIAPipeline`]):
            Pipeline with the networks.
        batch (`dict[str, Any]`):
            `pixel_values` `(B, F, 3, H, W)` and `reference_pixel_values` `(B, 3, H, W)` in [-1, 1], and other entries.

    Returns:
        `dict[str, Any]`: The batch, and float32 `latents` `(B, C, F, h, w)`, `reference_latents` `(B, C, h, w)`,
        `context` and `null_context` `(B, tokens, C)`.
    """
    targets, references = batch["pixel_values"], batch["reference_pixel_values"]
    latents = encode_images(pipeline.vae, targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
    context, null_context = pipeline.encode_image((references / 2 + 0.5).clamp(0, 1))
    return {
        **batch,
        "latents": latents.transpose(1, 2),
        "reference_latents": encode_images(pipeline.vae, references),
        "context": context.float(),
        "null_context": null_context.float(),
    }


def _cached_samples(
    config: BaseTrainingConfig,
    accelerator: Accelerator,
    dataset: HIADataset,
    pipeline: HIAPipeline,
    keep_images: bool,
) -> SampleCache:
    """Return the encoded samples of the dataset from the cache, which is filled first."""
    assert config.cache_latents is not None
    encoders = {name: pipeline.components[name] for name in ("vae", "image_encoder", "text_encoder")}
    key = {name: str(getattr(config, name)) for name in CACHE_OPTIONS}
    if config.procedural_person is not None:
        key["procedural_person"] = str(config.procedural_person)
    key |= {"sizes": str(config.frame_sizes), "samples_version": str(SAMPLES_VERSION)}
    key |= {"images": str(keep_images), "mixed_precision": accelerator.mixed_precision}
    key["encoders"] = sha256_of_weights(encoders)
    with accelerator.main_process_first():
        try:
            cache = SampleCache(dataset, config.cache_latents, config.cached_epochs, key)
        except (OSError, ValueError) as error:
            raise ValueError(f"--cache_latents: {error}") from error

    def encode_to_keep(batch: dict[str, Any]) -> dict[str, Any]:
        images = {key: batch[key].to(accelerator.device) for key in ("pixel_values", "reference_pixel_values")}
        with accelerator.autocast():
            batch = batch | {key: value.cpu() for key, value in encode(pipeline, images).items()}
        return {key: value for key, value in batch.items() if keep_images or key not in IMAGES}

    filling = cache.fill(
        encode_to_keep, accelerator.process_index, accelerator.num_processes, config.dataloader_num_workers
    )
    for missing in (bar := tqdm(filling, desc="Filling the cache", disable=not accelerator.is_local_main_process)):
        bar.set_postfix(missing=missing)
    accelerator.wait_for_everyone()
    return cache


def _leave_process_group(worker: int) -> None:
    """Ignore signals to the process group in data workers: the step needs their batches until its end."""
    os.setsid()
