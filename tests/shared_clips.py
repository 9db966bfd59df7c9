# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What each process of a test of shared windows runs; processes find it by the name of this module."""

import numpy as np
import torch
import torch.distributed as dist
from random_tiny import random_tiny_pipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_clips(pipe, seed=0, lengths=(7, 3)):
    """Of three windows, and of one; whole, and frame by frame."""
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(3, 64, 48, generator=seeded(1))
    results = []
    for num_frames in lengths:
        condition = torch.rand(num_frames, 6, 64, 48, generator=seeded(2))
        arguments = {"num_inference_steps": 2, "context_frames": 4, "context_overlap": 2, "decode_chunk_size": 2}
        results.append(pipe(image, condition, generator=seeded(seed), output_type="np", **arguments).frames[0])
        results.append(np.stack(list(pipe.stream(image, condition, "np", generator=seeded(seed), **arguments))))
    return results


def share_clips(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    pipe = random_tiny_pipeline()
    pipe.enable_window_parallelism()
    windows = []
    pipe.unet.register_forward_pre_hook(lambda module, args: windows.append(args[0].shape[2]))
    np.savez(folder / f"{rank}.npz", *make_clips(pipe), windows=len(windows))
    try:
        make_clips(pipe, seed=rank, lengths=(5,))
    except ValueError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    pipe.disable_window_parallelism()
    assert make_clips(pipe, lengths=(5,))
    dist.destroy_process_group()
