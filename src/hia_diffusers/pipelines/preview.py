# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Live previews while a clip is denoised. Axes: B clips, C channels, F frames, h, w latent pixels."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.callbacks import PipelineCallback

from .. import checks
from ..files import check_writable, written_whole
from ..models.autoencoder import vae_scale_factor


SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


class PreviewCallback(PipelineCallback):
    """Show what a clip will look like while it is denoised, as `callback_on_step_end` of [`HIAPipeline`].

    A preview consists of frames of the clean estimate, `pred_original_sample`, evenly spaced over the clip. It is
    blurred in the first steps. To save time and memory, latents are reduced before they are decoded, and the frames
    are enlarged to the size of the result.

    Args:
        show (`Callable[[list[PIL.Image.Image]], Any]`, `str` or `os.PathLike`):
            Is called with the frames of a preview; or a `.png`, `.jpg` or `.webp` file, which is replaced by each
            preview, its frames side by side, and is complete at any time.
        every (`int`, *optional*, defaults to 1):
            Number of steps from one preview to the next. There is none after the last step.
        num_frames (`int`, *optional*, defaults to 4):
            Maximum number of frames.
        max_side (`int`, *optional*, defaults to 384):
            Maximum side of decoded frames in pixels. Larger ones have more details, and take longer.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If a number is less than 1, or a file has another suffix or cannot be replaced.
        FileNotFoundError, OSError: If a file cannot be written.
    """

    tensor_inputs = ["pred_original_sample"]

    def __init__(
        self,
        show: Callable[[list[PIL.Image.Image]], Any] | str | os.PathLike,
        every: int = 1,
        num_frames: int = 4,
        max_side: int = 384,
    ) -> None:
        super().__init__()
        if isinstance(show, (str, os.PathLike)):
            path = Path(checks.path("show", show))
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(f"`show` must end in {', '.join(SUFFIXES)}, got {str(path)!r}.")
            check_writable(path)
            show = lambda frames: write_side_by_side(path, frames)  # noqa: E731
        elif not callable(show):
            raise TypeError(f"`show` must be a function or a path, got {checks.shown(show)}.")
        self.show = show
        self.every = checks.integer("every", every)
        self.num_frames = checks.integer("num_frames", num_frames)
        self.max_side = checks.integer("max_side", max_side)

    def callback_fn(
        self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Show a preview after every N-th step but the last.

        Args:
            pipeline ([`HIAPipeline`]):
                The pipeline that denoises.
            step_index (`int`):
                Number of the step, from 0.
            timestep (`torch.Tensor`):
                Timestep of the step.
            callback_kwargs (`Mapping[str, torch.Tensor]`):
                `pred_original_sample` of shape `(B, C, F, h, w)`; the first clip is shown.

        Returns:
            `Mapping[str, torch.Tensor]`: `callback_kwargs`, unchanged.
        """
        if (step_index + 1) % self.every == 0 and step_index + 1 < pipeline.num_timesteps:
            self.show(self._frames(pipeline, callback_kwargs["pred_original_sample"][0].transpose(0, 1)))
        return callback_kwargs

    def _frames(self, pipeline: Any, estimate: torch.Tensor) -> list[PIL.Image.Image]:
        numbers = np.linspace(0, len(estimate) - 1, min(self.num_frames, len(estimate))).round().astype(int)
        estimate, factor = estimate[numbers.tolist()], vae_scale_factor(pipeline.vae)
        height, width = estimate.shape[-2:]
        scale = min(1.0, self.max_side / (factor * max(height, width)))
        if scale < 1:
            smaller = [max(1, round(side * scale)) for side in (height, width)]
            estimate = torch.nn.functional.interpolate(estimate, smaller, mode="area")
        frames = pipeline.decode(estimate.transpose(0, 1)[None], "pil", decode_chunk_size=1)[0]
        return [frame.resize((factor * width, factor * height), PIL.Image.Resampling.BICUBIC) for frame in frames]


def write_side_by_side(path: str | os.PathLike, frames: Iterable[PIL.Image.Image]) -> None:
    """Write frames side by side to an image file, which is complete at any time.

    Args:
        path (`str` or `os.PathLike`):
            A `.png`, `.jpg` or `.webp` file; an existing one is replaced.
        frames (`Iterable[PIL.Image.Image]`):
            RGB frames of one size.
    """
    image = PIL.Image.fromarray(np.hstack([np.asarray(frame) for frame in frames]))
    with written_whole(path) as partial:
        image.save(partial, SUFFIXES[Path(path).suffix.lower()])
