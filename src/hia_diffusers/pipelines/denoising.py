# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A denoising step over windows of time, for [`HIAPipeline`] and the modular blocks.

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
    """The windows of every denoising step; they do not move while networks reuse outputs.

    Args:
        denoiser ([`~models.denoiser.HIADenoiser`]):
            The denoiser, whose caches are cleared before a step that runs the full networks.
        num_frames (`int`):
            F, the number of frames.
        options ([`~pipelines.inputs.DenoisingOptions`]):
            The options of the windows.
    """

    def __init__(self, denoiser: HIADenoiser, num_frames: int, options: DenoisingOptions) -> None:
        self.denoiser, self.num_frames, self.options = denoiser, num_frames, options
        # A fixed seed instead of the call's generator: a clip's offsets must not depend on its batch or the device.
        self._offsets = torch.Generator().manual_seed(0)
        self._windows: list[range] = []
        self._settings: tuple[Any, ...] = ()
        self._age = 0

    def next(self, *settings: Any) -> list[range]:
        """Return the windows of the next step.

        Args:
            settings:
                Settings that a step must share with the last full step to reuse its outputs.
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
    """Predict the noise of each window, and average the predictions where windows overlap.

    Args:
        denoiser ([`~models.denoiser.HIADenoiser`]):
            The denoiser.
        guider ([`~diffusers.guiders.BaseGuidance`]):
            The guider, in the state of the current step.
        sample (`torch.Tensor` of shape `(B, C, F, h, w)`):
            Noisy latents, scaled for the networks.
        timestep (`torch.Tensor`):
            The timestep, on the device of the sample.
        conditions ([`~models.denoiser.HIAConditions`]):
            The conditions of B clips and F frames.
        windows (`list[range]`):
            The windows of [`WindowSchedule`].
        options ([`~pipelines.inputs.DenoisingOptions`]):
            The options; they set how many windows, and whether both branches, run in one call.
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
