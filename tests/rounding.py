# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Equality of values that are computed by two routes, on any processor."""

import torch


def assert_equal_up_to_rounding(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """
    The two are the same sums in another order.

    Another batch size, layout, alignment of the memory or number of threads makes a processor take other kernels. Each
    of the hundred or so layers of a network then moves its result by a few `eps` of the largest of its values, which
    add up as a random walk does to some tens. 256 of them is more than any processor needs, and in float32 (3e-5) far
    less than a layer that is missing or gets another input.
    """
    assert actual.dtype == expected.dtype
    bound = 256 * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)
