# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup of the device of a call, once: diffusers searches the hooks of all modules of all networks for it."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline


Call = TypeVar("Call", bound=Callable[..., Any])


class ExecutionDeviceMixin(DiffusionPipeline):
    """Remembers the execution device during a call."""

    _is_called = False
    _device_of_call: torch.device | None = None

    @property
    def _execution_device(self) -> torch.device:
        device = self._device_of_call or super()._execution_device
        if self._is_called:
            self._device_of_call = device
        return device


def on_one_device(call: Call) -> Call:
    """Let all stages of a pipeline's call use the execution device that the first of them finds.

    Args:
        call (`Callable`):
            A method of the pipeline.
    """

    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._is_called = True
        try:
            return call(self, *args, **kwargs)
        finally:
            self._is_called, self._device_of_call = False, None

    return called  # type: ignore[return-value]
