# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Sliding windows over time for clips longer than the UNet supports (paper Sec. 3.4, "prompt travelling")."""

import torch

from .. import checks


def context_windows(
    num_frames: int,
    context_frames: int,
    context_overlap: int,
    shift: bool = False,
    generator: torch.Generator | None = None,
) -> list[range]:
    """Return windows of equal length that cover every frame.

    With 10 frames, windows of 4 and an overlap of 1, unshifted and shifted by 2::

        0 1 2 3 4 5 6 7 8 9        0 1 2 3 4 5 6 7 8 9
        -------                    -------
              -------                  -------          (the first window stays, the others move)
                    -------                  -------
                                                 -------  cut back to end at the last frame: 6 7 8 9

    Windows do not wrap around, since the first and the last frame of a clip are not adjacent.

    Args:
        num_frames (`int`):
            F, the number of frames.
        context_frames (`int`):
            Number of frames per window. A clip of at most this length is one window.
        context_overlap (`int`):
            Number of frames that adjacent windows share, less than `context_frames`.
        shift (`bool`, *optional*, defaults to `False`):
            Whether to shift the windows by a random offset. With a new offset in each denoising step, the seams move
            and average out.
        generator (`torch.Generator`, *optional*):
            Generator of the offset.

    Returns:
        `list[range]`: Frame numbers of each window, in order.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is out of range.
    """
    num_frames = checks.integer("num_frames", num_frames)
    context_frames = checks.integer("context_frames", context_frames)
    context_overlap = checks.integer("context_overlap", context_overlap, low=0, high=context_frames - 1)
    checks.flag("shift", shift)
    if num_frames <= context_frames:
        return [range(num_frames)]
    stride = context_frames - context_overlap
    last = num_frames - context_frames
    first = int(torch.randint(1, stride + 1, (), generator=generator)) if shift else stride
    starts = [0, *range(first, last, stride), last]
    return [range(start, start + context_frames) for start in starts]


def frame_weights(windows: list[range], num_frames: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the weight of each window's prediction in each frame: 1 / the number of windows that contain the frame.

    Args:
        windows (`list[range]`):
            Result of [`context_windows`].
        num_frames (`int`):
            F, the number of frames.
        device (`torch.device` or `str`, *optional*):
            Device of the weights, by default the CPU.

    Returns:
        `torch.Tensor` of shape `(F,)`: The weights. For every frame, they add up to one over the windows that contain
            it.
    """
    counts = torch.zeros(num_frames, dtype=torch.float32, device=device)
    for window in windows:
        counts[window.start : window.stop] += 1
    return 1 / counts
