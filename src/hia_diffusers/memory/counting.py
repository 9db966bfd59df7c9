# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Counting of the bytes that running networks need, on torch's meta device.

Meta tensors have shapes, dtypes and lifetimes but no data, so the memory on a GPU is known before anything is
allocated. Two operations are replaced, so that the result is valid for a GPU:

- Attention keeps query, key, value, output and one number per query, as fused kernels do (flash, memory-efficient),
  and not the scores. (PyTorch's meta device uses the plain kernel, which keeps them.)
- Mixed precision follows CUDA's autocast for the operators of these networks: convolutions, linear layers, products
  and attention in the mixed dtype, group and layer norms in float32.

Not counted: the CUDA context and libraries (0.5 to 1 GiB), scratch memory inside kernels, fragmentation.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


# The operators of HIA's networks that CUDA's autocast runs in the mixed dtype, and those that it runs in float32.
IN_MIXED_DTYPE = {functional.linear, functional.conv2d, torch.matmul, torch.bmm, torch.baddbmm}
IN_FLOAT32 = {functional.group_norm, functional.layer_norm}


def gibibytes(size: int) -> str:
    """Format a number of bytes in GiB with one decimal, or three if it is small."""
    return f"{size / 2**30:.1f}" if size >= 2**30 / 10 else f"{size / 2**30:.3f}"


def on_meta(module: nn.Module) -> Any:
    """Copy a network without data. Names, options and hooks are those of the original.

    Args:
        module (`torch.nn.Module`):
            Network on any device; it is not changed.
    """
    tensors: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for parameter in module.parameters()
    }
    tensors.update((id(buffer), torch.empty_like(buffer, device="meta")) for buffer in module.buffers())
    return copy.deepcopy(module, tensors).train()


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all live tensors created by operators inside this context, and their peak.

    Args:
        known (iterable of `torch.Tensor`):
            Existing tensors, with which views share memory.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.live = self.peak = 0
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def add(self, size: int) -> None:
        """Count bytes that no operator makes.

        Args:
            size (`int`):
                The bytes; negative if they are freed.
        """
        self.live += size
        self.peak = max(self.peak, self.live)

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._storages:
            self._storages.add(storage._cdata)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._storages.remove(address)
        self.live -= size


@contextmanager
def offloaded_blocks(network: nn.Module, memory: LiveBytes) -> Iterator[None]:
    """Count the weights that are on the device while a network runs with diffusers' group offloading by blocks.

    They are those of the block that runs, of the next one, which is loaded ahead, and those outside of the blocks.

    Args:
        network (`torch.nn.Module`):
            Network whose weights are not counted otherwise.
        memory ([`LiveBytes`]):
            Counts.
    """
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList | nn.Sequential)]
    blocks = [block for blocks in lists for block in blocks]
    sizes = [num_bytes(block) for block in blocks]
    loaded = {id(network): num_bytes(network) - sum(sizes)}
    for index, block in enumerate(blocks):
        loaded[id(block)] = sum(sizes[index : index + 2])
    hooks = []
    for module in (network, *blocks):
        hooks.append(module.register_forward_pre_hook(lambda module, _: memory.add(loaded[id(module)])))
        hooks.append(module.register_forward_hook(lambda module, *_: memory.add(-loaded[id(module)])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def num_bytes(module: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of a network.

    Args:
        module (`torch.nn.Module`):
            The network.
    """
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


class GPUOperators(TorchFunctionMode):
    """Fused attention, and the dtypes of CUDA's autocast without its cache, on any device.

    Args:
        mixed_dtype (`torch.dtype` or `None`):
            Dtype of autocast; `None` for no autocast.
    """

    def __init__(self, mixed_dtype: torch.dtype | None):
        super().__init__()
        self.mixed_dtype = mixed_dtype

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self.mixed_dtype is not None:
            if function in IN_MIXED_DTYPE:
                args, kwargs = tree_map_only(Tensor, self._in_mixed_dtype, (args, kwargs))
            elif function in IN_FLOAT32:
                args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return function(*args, **kwargs)

    def _in_mixed_dtype(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.mixed_dtype) if tensor.dtype == torch.float32 else tensor

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if self.mixed_dtype is not None:
            query, key, value = (self._in_mixed_dtype(tensor) for tensor in (query, key, value))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        # This kernel keeps the same tensors as the fused kernels of GPUs, and every build has a meta version of it.
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
