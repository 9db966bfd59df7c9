# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""
A processor whose kernels round by shape and layout as much as any may: `pytest --other-rounding`.

Processors differ in how they split sums and in which kernel they take for which batch, layout and number of threads:
two routes to one value give the same bits on one of them and not on another. Under this mode they differ everywhere.
The result of each kernel that adds up, or computes a function by an approximation, is moved by up to half an `eps`, by
noise that depends on the shapes and strides that the kernel is given, and on nothing else.
"""

import re

import torch
from torch.utils._python_dispatch import TorchDispatchMode


SUMS = re.compile(r"mm$|mv$|dot$|linear|conv|attention|norm|softmax|sum|mean|var|std|upsample|pool|sampler|fft|cdist")
FUNCTIONS = re.compile(r"exp|silu|gelu|tanh|sigmoid|sin|cos|log|pow|erf|lerp|addc|fused")
EXACT = re.compile(r"expand|to_copy|normal|exponential|uniform|bernoulli|multinomial")  # or drawn

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 2**20  # values in a tensor; weights are larger
DRAWN = 2 * torch.rand(2 * LARGEST, generator=torch.Generator().manual_seed(0)) - 1
NOISE = {dtype: DRAWN.to(dtype) for dtype in DTYPES}


def layout(value) -> str:
    """Shapes, strides and numbers in the arguments of a kernel."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}{value.stride()}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(layout, value))}]"
    return repr(value) if isinstance(value, (int, float, str, type(None))) else ""


class OtherRounding(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name()
        kernel = func._schema.name.removeprefix("aten::").rstrip("_")
        is_sum = SUMS.search(kernel) is not None
        if EXACT.search(kernel) or not (is_sum or FUNCTIONS.search(kernel)):
            return func(*args, **kwargs)
        given = name + layout(args) + layout([*kwargs.values()])
        results = func(*args, **kwargs)
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, torch.Tensor) and result.device.type == "cpu" and result.dtype in DTYPES:
                move(result, given, is_sum)
        return results


def move(result: torch.Tensor, given: str, is_sum: bool) -> None:
    size = result.abs()
    if not 0 < result.numel() < LARGEST or not size.mean().isfinite() or torch.equal(size, size.round()):
        return  # whole numbers add up exactly
    start = int.from_bytes(given.encode(), "big") % (LARGEST - 3)
    noise = NOISE[result.dtype][start : start + result.numel()].view(result.shape)
    if is_sum:  # of values that may cancel: as large as its neighbours are; exact zeros stay
        size += size.mean() * (size != 0)
    result.add_(size.mul_(noise), alpha=torch.finfo(result.dtype).eps / 2)
