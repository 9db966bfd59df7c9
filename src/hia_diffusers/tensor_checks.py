# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The check of a tensor that is given as an argument."""

from collections.abc import Sequence

import torch

from . import checks


def check_tensor(name: str, tensor: object, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """A floating-point tensor of a shape, whose values stay finite in the precision that it is brought to.

    Args:
        name (`str`):
            Of the argument.
        tensor:
            What was given.
        shape (`Sequence[int | None]`):
            What is wanted; `None` stands for any length but zero.
        dtype (`torch.dtype`):
            That it is brought to.
    """
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    accepted = f"`{name}` must be a floating-point tensor of shape ({lengths}), got"
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{accepted} {checks.shown(tensor)}.")
    if not tensor.is_floating_point() or tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta:
        raise TypeError(f"{accepted} one of {tensor.dtype} on {tensor.device} with the layout {tensor.layout}.")
    fits = tensor.ndim == len(shape)
    if not fits or not all(b in (a, None) and a for a, b in zip(tensor.shape, shape, strict=True)):
        raise ValueError(f"{accepted} {tuple(tensor.shape)}.")
    if not tensor.to(dtype).isfinite().all():
        raise ValueError(f"`{name}` must be finite in {dtype}; it holds NaN, infinity or larger numbers.")
