# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""One clip on several processes (gloo, on the CPU) against the same clip on one."""

import forked_python
import numpy as np
import pytest
import torch.multiprocessing
from random_tiny import random_tiny_pipeline
from shared_clips import make_clips, share_clips

from hia_diffusers.pipelines.window_parallelism import WindowGroup


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_that_share_a_clip_make_what_one_would(tmp_path, size):
    forked_python.ensure_running()
    torch.multiprocessing.start_processes(share_clips, (size, tmp_path), nprocs=size, start_method="forkserver")
    pipe = random_tiny_pipeline()
    windows = []
    pipe.unet.register_forward_pre_hook(lambda module, args: windows.append(args[0].shape[2]))
    alone = make_clips(pipe)
    shares = []
    for rank in range(size):
        shared = np.load(tmp_path / f"{rank}.npz")
        for index, expected in enumerate(alone):
            np.testing.assert_allclose(shared[f"arr_{index}"], expected, atol=1e-5)
        shares.append(int(shared["windows"]))
        assert "`generator` must be the same on all processes" in (tmp_path / f"{rank}.txt").read_text()
    assert sum(shares) == len(windows) and max(shares) < len(windows)


def test_processes_of_torch_distributed_are_needed():
    with pytest.raises(RuntimeError, match="torchrun"):
        random_tiny_pipeline().enable_window_parallelism()


def test_shares_cover_all_in_order():
    group = object.__new__(WindowGroup)
    for size in (1, 2, 3, 5):
        for count in (0, 1, 4, 7):
            group.size, shared = size, []
            for group.rank in range(size):
                shared += group.share(range(count))
            assert shared == list(range(count))
