# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The objective of a stage: noise prediction, and in the regional stage Eq. 1 and Eq. 2 on decoded faces and hands."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..conditioning.regions import box_masks
from ..models.denoiser import HIAConditions
from ..pipelines.pipeline_hia import HIAPipeline
from .batches import encode
from .config import TrainingConfig
from .face_identity import aligned_boxes, identity_loss
from .iresnet import IResNet
from .losses import (
    min_snr_weights,
    noise_prediction_loss,
    noisy_latents,
    predicted_latents,
    prediction_target,
    regional_loss,
    sample_weights,
)
from .noise import draw_noise, sample_generators
from .regional_decoding import RegionWindows, decode_windows, region_windows


class HIALosses:
    """The losses of a batch by name, each of shape `(B,)`: one per sample.

    Args:
        config ([`TrainingConfig`]):
            The stage, and the options of its losses.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.
        model (`torch.nn.Module`):
            The trained denoiser, prepared by the accelerator.
        pipeline ([`HIAPipeline`]):
            Pipeline with the frozen networks for encoding and decoding, and the noise schedule.
        arcface ([`IResNet`], *optional*):
            The face network of Eq. 2; `None` disables this loss.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        model: nn.Module,
        pipeline: HIAPipeline,
        arcface: IResNet | None = None,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.model, self.pipeline, self.arcface = model, pipeline, arcface
        self.is_regional = config.stage == "regional"
        self.weights = {"noise": 1.0}
        if self.is_regional:
            self.weights |= {"face": config.face_weight, "hands": config.hand_weight}
            if arcface is not None:
                self.weights["identity"] = config.identity_weight

    def __call__(self, batch_number: int, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Draw noise and predict it.

        Args:
            batch_number (`int`):
                Number of the batch since the start of the run, which determines noise and timesteps.
            batch (`dict[str, Any]`):
                Batch on the CPU, from [`~hia_diffusers.training.batches.build_loader`].
        """
        config, device, scheduler = self.config, self.accelerator.device, self.pipeline.scheduler
        windows = self.windows(batch) if self.is_regional else []
        dropped = batch["drop_conditions"].to(device) if batch["drop_conditions"].any() else None
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items() if torch.is_tensor(value)}
        if "latents" not in batch:
            batch = encode(self.pipeline, batch)
        latents = batch["latents"]
        conditions = HIAConditions(
            batch["context"],
            batch["reference_latents"],
            batch["conditioning"],
            null_encoder_hidden_states=batch["null_context"],
            unconditional=False if dropped is None else dropped,
        )
        batch_size, *shape = latents.shape
        generators = sample_generators(config.seed, batch_number, self.accelerator.process_index, batch_size)
        noise, timesteps = draw_noise(
            generators, shape, config.max_timestep, config.noise_offset, config.shared_noise_probability
        )
        noise, timesteps = noise.to(device), timesteps.to(device)
        noisy = noisy_latents(scheduler, latents, noise, timesteps)

        output = self.model(noisy, timesteps, conditions)
        target = prediction_target(scheduler, latents, noise, timesteps)
        losses = {"noise": noise_prediction_loss(output, target, self._timestep_weights(timesteps))}
        if self.is_regional:
            clean = predicted_latents(scheduler, output, noisy, timesteps)
            losses |= self._regional(clean.transpose(1, 2).flatten(0, 1), windows, batch)
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the mean losses, which is minimized."""
        weighted = [self.weights[name] * values.mean() for name, values in losses.items()]
        return sum(weighted[1:], start=weighted[0])

    def windows(self, batch: dict[str, Any]) -> list[RegionWindows]:
        """Return the windows to decode around faces and hands; face windows contain all inputs of ArcFace.

        Args:
            batch (`dict[str, Any]`):
                Batch on the CPU, because its masks determine shapes.
        """
        faces, hands = (batch[key].flatten(0, 1) for key in ("face_mask", "hand_masks"))
        if self.arcface is not None:
            boxes = aligned_boxes(batch["face_landmarks"].flatten(0, 1)).numpy()
            faces = faces.maximum(torch.from_numpy(box_masks(boxes, *faces.shape[-2:]))[:, None])
        return [region_windows(masks, self.pipeline.vae_scale_factor) for masks in (faces, hands)]

    def _timestep_weights(self, timesteps: Tensor) -> Tensor | None:
        scheduler = self.pipeline.scheduler
        if self.config.snr_gamma is not None:
            return min_snr_weights(scheduler, timesteps, self.config.snr_gamma)
        return sample_weights(scheduler, timesteps) if self.config.loss_on == "sample" else None

    def _regional(self, latents: Tensor, windows: list[RegionWindows], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute Eq. 1 for faces and hands, and Eq. 2, on images `x0'` decoded with gradients."""
        num_frames = batch["pixel_values"].shape[1]
        frames = {name: values.flatten(0, 1) for name, values in batch.items() if values.ndim > 2}
        left, right = frames["hand_masks"].unbind(1)
        hand_masks = torch.stack([left, right * (1 - left)], dim=1)  # pixels in both hands count once
        losses, predicted = {}, decode_windows(self.pipeline.vae, latents, windows)
        masks = (frames["face_mask"], hand_masks)
        for name, group, pixels, mask in zip(("face", "hands"), windows, predicted, masks, strict=True):
            losses[name] = regional_loss(pixels, group.cut(frames["pixel_values"]), group.cut(mask[:, :, None]))
        if self.arcface is not None:
            corners = self.pipeline.vae_scale_factor * windows[0].corners.flip(-1).to(latents.device)
            landmarks = frames["face_landmarks"].clone()
            landmarks[..., :2] -= corners
            losses["identity"] = identity_loss(
                self.arcface,
                predicted[0][:, 0],
                batch["reference_pixel_values"].repeat_interleave(num_frames, dim=0),
                landmarks,
                batch["reference_face_landmarks"].repeat_interleave(num_frames, dim=0),
            )
        kept = 1 - batch["drop_conditions"].float()
        return {name: values.unflatten(0, (-1, num_frames)).mean(dim=1) * kept for name, values in losses.items()}
