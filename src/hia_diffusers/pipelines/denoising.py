# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A denoising step over windows of time, of [`HIAPipeline`] and of the modular blocks.

Axes: B clips, C channels, F frames, h, w latent pixels.
"""

from typing import Any

import torch
from diffusers.guiders import BaseGuidance

from ..models.denoiser import HIAConditions, HIADenoiser
from .context_windows import context_windows, frame_weights
from .inputs import DenoisingOptions
from .window_parallelism import WindowGroup


class WindowSchedule:
    """The windows of every denoising step, which stay where they are while networks reuse outputs.

    Args:
        denoiser ([`~models.denoiser.HIADenoiser`]):
            Whose caches are cleared before a step that is computed whole.
        num_frames (`int`):
            F.
        options ([`~pipelines.inputs.DenoisingOptions`]):
            Of the windows.
    """

    def __init__(self, denoiser: HIADenoiser, num_frames: int, options: DenoisingOptions) -> None:
        self.denoiser, self.num_frames, self.options = denoiser, num_frames, options
        # Seeded, not drawn from the call's generator: a clip's offsets depend neither on its batch nor on the device.
        self._offsets = torch.Generator().manual_seed(0)
        self._windows: list[range] = []
        self._settings: tuple[Any, ...] = ()
        self._age = 0

    def next(self, *settings: Any) -> list[range]:
        """The windows of the next step.

        Args:
            settings:
                What a step of reuse must have in common with that which was computed whole.
        """
        self._age += 1
        if not self._windows or settings != self._settings or self._age >= self.denoiser.cache_interval:
            self.denoiser.reset_cache()
            self._settings, self._age = settings, 0
            self._windows = context_windows(
                self.num_frames,
                self.options.context_frames,
                self.options.context_overlap,
                shift=self.options.context_shift,
                generator=self._offsets,
            )
        return self._windows


def predict_noise(
    denoiser: HIADenoiser,
    guider: BaseGuidance,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: HIAConditions,
    windows: list[range],
    options: DenoisingOptions,
    window_group: WindowGroup | None = None,
) -> torch.Tensor:
    """Predict the noise of each window, and average where windows overlap.

    Args:
        denoiser ([`~models.denoiser.HIADenoiser`]):
            Denoises.
        guider ([`~diffusers.guiders.BaseGuidance`]):
            In the state of the step.
        sample (`torch.Tensor` of shape `(B, C, F, h, w)`):
            Noisy latents, scaled for the networks.
        timestep (`torch.Tensor`):
            On the device of the sample.
        conditions ([`~models.denoiser.HIAConditions`]):
            Of B clips and F frames.
        windows (`list[range]`):
            From [`WindowSchedule`].
        options ([`~pipelines.inputs.DenoisingOptions`]):
            How many windows, and whether both branches, are one call.
        window_group ([`WindowGroup`], *optional*):
            Processes that share the windows.

    Returns:
        `torch.Tensor` of shape `(B, C, F, h, w)`.
    """
    noise_pred = torch.zeros_like(sample)
    weights = frame_weights(windows, sample.shape[2], sample.device).to(sample.dtype)[:, None, None]
    own_windows = windows if window_group is None else window_group.share(windows)
    for first in range(0, len(own_windows), options.context_batch_size):
        batch = own_windows[first : first + options.context_batch_size]
        predicted = denoiser.guided(
            torch.cat([sample[:, :, window.start : window.stop] for window in batch]),
            timestep,
            conditions.window(*batch),
            guider=guider,
            batch_guidance=options.batch_guidance,
            window=str(first),
        )
        for window, prediction in zip(batch, predicted.chunk(len(batch)), strict=True):
            frames = slice(window.start, window.stop)
            noise_pred[:, :, frames] += weights[frames] * prediction
    if window_group is not None:
        window_group.sum_(noise_pred)
    return noise_pred
