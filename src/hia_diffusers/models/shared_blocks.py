# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Blocks that compute the same in several calls of a network, and need to run in one of them only."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def computed_once(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Within the context, run each block in its first call only; its later calls return the same output.

    Args:
        blocks (`Iterable[nn.Module]`):
            Blocks without hooks, whose later calls have the inputs of the first.
    """
    with ExitStack() as contexts:
        for block in blocks:
            contexts.enter_context(_computed_once(block))
        yield


@contextmanager
def _computed_once(block: nn.Module) -> Iterator[None]:
    forward = block.forward
    outputs: list[Any] = []

    @functools.wraps(forward)
    def first_output(*args: Any, **kwargs: Any) -> Any:
        if not outputs:
            outputs.append(forward(*args, **kwargs))
        return outputs[0]

    block.forward = first_output
    try:
        yield
    finally:
        del block.forward
