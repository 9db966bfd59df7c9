# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Check of a tensor argument."""

from collections.abc import Sequence

import torch

from . import checks


def check_tensor(name: str, tensor: object, shape: Sequence[int | None], dtype: torch.dtype) -> None:
    """Check a floating-point tensor of a given shape, whose values must remain finite in another dtype.

    Args:
        name (`str`):
            Name of the argument.
        tensor:
            The given value.
        shape (`Sequence[int | None]`):
            The required shape; `None` means any length except zero.
        dtype (`torch.dtype`):
            Dtype to which the tensor will be converted.
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
        raise ValueError(f"`{name}` must be finite in {dtype}; it contains NaN, infinity or larger numbers.")
