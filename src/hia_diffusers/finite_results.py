# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of finite results: NaN and infinity would become black frames."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


def check_finite(what: str, made: Iterable[torch.Tensor], networks: Mapping[str, Any]) -> None:
    """Raise an error if results of networks are not finite, with the known reason.

    Args:
        what (`str`):
            Name of the results.
        made (`Iterable[torch.Tensor]`):
            The results. Tensors on the meta device have no values.
        networks (`Mapping[str, Any]`):
            The components of a pipeline by name.

    Raises:
        RuntimeError: If a number is NaN or infinite.
    """
    real = [tensor for tensor in made if not tensor.is_meta]
    if not real or torch.stack([tensor.isfinite().all() for tensor in real]).all():
        return
    modules = {name: network for name, network in networks.items() if isinstance(network, nn.Module)}
    broken = [f"`{name}`" for name, module in modules.items() if not all(map(_is_finite, module.parameters()))]
    if broken:
        reason = f"the weights of {' and '.join(broken)} are not either"
    else:
        dtypes = sorted({str(module.dtype).removeprefix("torch.") for module in modules.values()})
        reason = (
            f"numbers grew too large for {' and '.join(dtypes)}. Try bfloat16 or float32, for `vae` first, and smaller"
            " scales"
        )
    raise RuntimeError(f"{what} are not finite: {reason}.")


def _is_finite(parameter: torch.Tensor) -> bool:
    """Return the networks with weights that are not finite, except quantized, offloaded and 8-bit weights."""
    known = type(parameter) is nn.Parameter and not parameter.is_meta and parameter.element_size() > 1
    return not known or not parameter.is_floating_point() or bool(parameter.isfinite().all())
