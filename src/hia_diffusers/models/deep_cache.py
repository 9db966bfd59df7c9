# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reuse of what changes little from one denoising step to the next (DeepCache, arXiv 2312.00858)."""

from collections.abc import Callable
from typing import Any, TypeVar

from diffusers import UNetMotionModel
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn


Output = TypeVar("Output")

HOOK = "hia_deep_cache"


class DeepCache:
    """Lets the deep blocks of a UNet, all but the outermost two, give what they gave in an earlier step.

    A context manager: outside of it the UNet is as it was.

    Args:
        unet (`UNetMotionModel`):
            The UNet.
        interval (`int`):
            Every so many steps all is computed. With 1 nothing is kept and the UNet is not touched.
    """

    def __init__(self, unet: UNetMotionModel, interval: int):
        self.interval, self.reuse = interval, False
        self._blocks = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]] if interval > 1 else []
        self._outputs: dict[Any, Any] = {}
        self._window: Any = None
        self._key: Any = None
        self._settings: tuple[Any, ...] | None = None
        self._age = 0

    def __enter__(self) -> "DeepCache":
        for block in self._blocks:
            HookRegistry.check_if_exists_or_initialize(block).register_hook(_ReusedBlock(self), HOOK)
        return self

    def __exit__(self, *error: Any) -> None:
        for block in self._blocks:
            HookRegistry.check_if_exists_or_initialize(block).remove_hook(HOOK, recurse=False)
        self._outputs.clear()

    def begin_step(self, *settings: Any) -> None:
        """Decides whether the step is one of reuse, which `reuse` says then. Where `settings` change it is not."""
        self._age += 1
        self.reuse = settings == self._settings and self._age < self.interval
        if not self.reuse:
            self._settings, self._age = settings, 0
            self._outputs.clear()

    def begin_window(self, window: Any) -> None:
        """What is kept from here on is that of `window`, such as the number of its first frame."""
        self._window = window

    def run(self, key: Any, network: Callable[[], Output]) -> Output:
        """The network's output; its deep blocks are those of `key`, such as a branch."""
        self._key = key
        return network()

    def output(self, key: Any, compute: Callable[[], Output]) -> Output:
        """What `compute` gives, or gave for this window and `key` in the last step that was not one of reuse."""
        if self.interval == 1:
            return compute()
        if not self.reuse:
            self._outputs[self._window, key] = compute()
        return self._outputs[self._window, key]

    def block_output(self, block: nn.Module, compute: Callable[[], Output]) -> Output:
        """Likewise for a block of the network that runs."""
        return self.output((self._key, block), compute)


class _ReusedBlock(ModelHook):
    def __init__(self, cache: DeepCache):
        super().__init__()
        self.cache = cache

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.cache.block_output(module, lambda: self.fn_ref.original_forward(*args, **kwargs))
