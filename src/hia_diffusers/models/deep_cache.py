# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reuse of outputs that change little from one denoising step to the next (DeepCache, arXiv 2312.00858)."""

from dataclasses import dataclass
from typing import Any

from diffusers import CacheMixin
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import nn

from .. import checks


HOOK = "hia_deep_cache"


@dataclass(frozen=True)
class DeepCacheConfig:
    """Options of `enable_cache`: how a network reuses its deep blocks.

    Args:
        interval (`int`, *optional*, defaults to 2):
            The deep blocks run in one of `interval` steps, at least 2; in the other steps, their last outputs are
            reused.

    Raises:
        TypeError, ValueError: If `interval` is not an integer of at least 2.
    """

    interval: int = 2

    def __post_init__(self) -> None:
        checks.integer("interval", self.interval, low=2)


class DeepCacheMixin(CacheMixin):
    """A network whose deep blocks can be reused, with the interface of [`~diffusers.CacheMixin`].

    While the cache is enabled, call the network within `cache_context(name)`, with one name for each window and
    branch, whose outputs are kept separately. [`HIAPipeline`] does this, and discards the outputs at the end of a
    call.
    """

    _cache_config: DeepCacheConfig | None

    @property
    def deep_blocks(self) -> list[nn.Module]:
        """The blocks whose outputs are reused."""
        raise NotImplementedError

    def enable_cache(self, config: DeepCacheConfig) -> None:
        """Reuse the deep blocks.

        Args:
            config ([`DeepCacheConfig`]):
                The options. The other caches of diffusers are for transformers.

        Raises:
            TypeError: If `config` is that of another cache.
            ValueError: If a cache is already enabled.
        """
        checks.instance("config", config, DeepCacheConfig)
        if self.is_cache_enabled:
            raise ValueError("`enable_cache`: a cache is enabled already; call `disable_cache` first.")
        for block in self.deep_blocks:
            HookRegistry.check_if_exists_or_initialize(block).register_hook(_DeepCacheHook(config.interval), HOOK)
        HookRegistry.check_if_exists_or_initialize(self)._child_registries_cache = None  # lacks the new hooks
        self._cache_config = config

    def disable_cache(self) -> None:
        """Run all blocks in every step again."""
        for block in self.deep_blocks:
            HookRegistry.check_if_exists_or_initialize(block).remove_hook(HOOK, recurse=False)
        self._cache_config = None


class _DeepCacheState(BaseState):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls, self.output = 0, None


class _DeepCacheHook(ModelHook):
    _is_stateful = True

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval, self.states = interval, StateManager(_DeepCacheState)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state = self.states.get_state()
        if state.calls % self.interval == 0:
            state.output = self.fn_ref.original_forward(*args, **kwargs)
        state.calls += 1
        return state.output

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.states.reset()
        return module
