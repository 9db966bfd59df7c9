# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of the frames of a clip one by one, ahead of their use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ..exclusive_use import USED_HERE, exclusive_use, is_used_here


def stream_frames(
    pipe: DiffusionPipeline, latents: torch.Tensor, output_type: str, decode_chunk_size: int | None = None
) -> Iterator[Any]:
    """Decode a clip in a thread, one chunk ahead of the frames that are returned.

    Args:
        pipe ([`HIAPipeline`]):
            The pipeline that decodes.
        latents (`torch.Tensor` of shape `(1, C, F, h, w)`):
            Clean latents.
        output_type (`str`):
            `"pil"`, `"np"` or `"pt"`.
        decode_chunk_size (`int`, *optional*):
            Number of frames that the VAE of each process decodes at a time, by default that of the device.

    Returns:
        `Iterator`: As in [`HIAPipeline.stream`].
    """
    chunk_size = decode_chunk_size or pipe._default_chunk_size(latents.device)
    num_processes = 1 if pipe._window_group is None else pipe._window_group.size

    @torch.no_grad()  # it applies to one thread only
    def decode(chunk: torch.Tensor) -> Any:
        with exclusive_use([pipe.vae]):
            return pipe.decode(chunk, output_type, chunk_size)[0]

    chunks = latents.split(chunk_size * num_processes, dim=2)
    ahead = ThreadPoolExecutor(1)
    try:
        decoding = ahead.submit(decode, chunks[0])
        for chunk in (*chunks[1:], None):
            if is_used_here(pipe.vae):
                raise RuntimeError(USED_HERE)
            frames = decoding.result()
            if chunk is not None:
                decoding = ahead.submit(decode, chunk)
            yield from frames
    finally:
        # Otherwise, a thread whose call uses the VAE could wait for a thread that waits for the VAE.
        ahead.shutdown(wait=not is_used_here(pipe.vae), cancel_futures=True)
    pipe.maybe_free_model_hooks()
