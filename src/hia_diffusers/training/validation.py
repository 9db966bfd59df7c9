# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Validation: clips outside the training data are generated and evaluated during training."""

from pathlib import Path

import numpy as np
import torch

from ..data.clip_sources import PreparedClips, ProceduralClips
from ..data.dataset import HIADataset
from ..metrics.evaluation import VideoEvaluation
from ..pipelines.pipeline_hia import HIAPipeline
from ..video.writing import write_video
from .config import TrainingConfig


class Validation:
    """Generate clips with the networks in training, and evaluate them.

    Args:
        config ([`TrainingConfig`]):
            Config with the clips, their number and the options of generation.
        pipeline ([`HIAPipeline`]):
            Pipeline with the networks in training.

    Raises:
        OSError, ValueError: If the clips cannot be read, or are fewer than `validation_clips`.
    """

    def __init__(self, config: TrainingConfig, pipeline: HIAPipeline) -> None:
        self.config, self.pipeline = config, pipeline
        source: PreparedClips | ProceduralClips
        if config.validation_data_dir:
            source = PreparedClips(config.validation_data_dir)
        else:
            source = ProceduralClips("validation", config.validation_clips)
        self.dataset = HIADataset(
            source,
            config.frame_sizes,
            config.validation_frames,
            resolution_scale=config.resolution_scale,
            on_error="skip",
        )
        if config.validation_clips > len(self.dataset):
            raise ValueError(
                f"`validation_clips` must be at most {len(self.dataset)}, the number of long enough clips, got "
                f"{config.validation_clips}."
            )

    @torch.no_grad()
    def run(self, folder: Path) -> dict[str, float]:
        """Generate and evaluate the clips.

        Args:
            folder (`Path`):
                Output folder for videos of reference, conditioning, generated and ground-truth frames side by side.

        Returns:
            `dict[str, float]`: The metrics that have a value.
        """
        evaluation = VideoEvaluation()
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(self.config.validation_clips):
            sample = self.dataset[index]
            reference = sample["reference_pixel_values"][None] / 2 + 0.5
            frames = self.pipeline(
                reference,
                sample["conditioning"],
                num_inference_steps=self.config.num_inference_steps,
                guidance_scale=self.config.guidance_scale,
                generator=torch.Generator().manual_seed(index),
                output_type="pt",
            ).frames[0]
            targets = sample["pixel_values"] / 2 + 0.5
            generated, ground_truth = _as_bytes(frames), _as_bytes(targets)
            face_mask, hand_masks = (sample[key].numpy() > 0 for key in ("face_mask", "hand_masks"))
            evaluation.add(sample["clip"], generated, ground_truth, face_mask[:, 0], hand_masks)
            condition = _as_bytes(sample["conditioning"][:, :3])
            columns = [_as_bytes(reference.expand_as(targets)), condition, generated, ground_truth]
            write_video(folder / f"{index}.mp4", np.concatenate(columns, axis=2), fps=30)
        return {name: result["value"] for name, result in evaluation.metrics().items() if result["value"] is not None}


def _as_bytes(frames: torch.Tensor) -> np.ndarray:
    """Convert `(F, 3, H, W)` in [0, 1] to uint8 `(F, H, W, 3)`."""
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
