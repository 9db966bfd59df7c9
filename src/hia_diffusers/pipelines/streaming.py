# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a clip one by one, decoded ahead of whoever takes them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..exclusive_use import USED_HERE, exclusive_use, is_used_here


def stream_frames(pipe: Any, latents: torch.Tensor, output_type: str, decode_chunk_size: int) -> Iterator[Any]:
    """Decode a clip in a thread, a chunk ahead of the frames that are handed out.

    Args:
        pipe ([`HIAPipeline`]):
            Decodes.
        latents (`torch.Tensor` of shape `(1, C, F, h, w)`):
            Clean latents.
        output_type (`str`):
            `"pil"`, `"np"` or `"pt"`.
        decode_chunk_size (`int`):
            Frames that the VAE of each process decodes at a time.

    Returns:
        `Iterator`: as of [`HIAPipeline.stream`].
    """
    num_processes = 1 if pipe._window_group is None else pipe._window_group.size

    @torch.no_grad()  # which each thread has for itself
    def decode(chunk: torch.Tensor) -> Any:
        with exclusive_use([pipe.vae]):
            return pipe.decode(chunk, output_type, decode_chunk_size)[0]

    chunks = latents.split(decode_chunk_size * num_processes, dim=2)
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
        # A thread whose call uses the VAE must not wait for one that waits for the VAE.
        ahead.shutdown(wait=not is_used_here(pipe.vae), cancel_futures=True)
    pipe.maybe_free_model_hooks()
