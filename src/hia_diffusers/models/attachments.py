# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What diffusers attaches to a network without storing it in checkpoints: LoRA, fused projections, IP-Adapters."""

import sys
from typing import Any

from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from torch import nn


def lora_layers(network: nn.Module) -> list[Any]:
    """Return the layers of a network that PEFT has replaced by its own.

    Args:
        network (`nn.Module`):
            The network.
    """
    tuners = sys.modules.get("peft.tuners.tuners_utils")  # without an import of PEFT there are no such layers
    return [] if tuners is None else [m for m in network.modules() if isinstance(m, tuners.BaseTunerLayer)]


def has_fused_projections(network: nn.Module) -> bool:
    """Return whether attention computes queries, keys and values with one matrix.

    Args:
        network (`nn.Module`):
            The network.
    """
    processors = (module.processor for module in network.modules() if isinstance(module, Attention))
    return any(isinstance(processor, FusedAttnProcessor2_0) for processor in processors)


def check_no_attachments(name: str, network: nn.Module, unload: str = "unload_lora") -> None:
    """Refuse to save or convert a network whose output does not depend on its own weights alone.

    Matrices of fused projections that are no longer used are removed.

    Args:
        name (`str`):
            Name of the network in error messages.
        network (`nn.Module`):
            The network.
        unload (`str`, *optional*, defaults to `"unload_lora"`):
            Name of the method that unloads LoRA, for error messages.

    Raises:
        ValueError: If LoRA is loaded or fused, projections are fused, or an IP-Adapter is loaded. The message names
            the method to call.
    """
    layers = lora_layers(network)
    if any(layer.merged for layer in layers):
        raise ValueError(
            f"`{name}` has LoRA fused into its weights that can still be unfused: call `{unload}()` first to keep it"
            " fused, or `unfuse_lora()` before that to remove it."
        )
    if layers:
        raise ValueError(
            f"`{name}` has LoRA in addition to its weights: call `{unload}()` first, and `fuse_lora()` before that to"
            " keep it in the weights."
        )
    if has_fused_projections(network):
        raise ValueError(
            f"`{name}` has fused projections in addition to its weights: call `unfuse_qkv_projections()` first."
        )
    if hasattr(getattr(network, "encoder_hid_proj", None), "image_projection_layers"):
        raise ValueError(f"`{name}` has an IP-Adapter in addition to its weights: call `unload_ip_adapter()` first.")
    _remove_fused_projections(network)


def _remove_fused_projections(network: nn.Module) -> None:
    """Remove the matrices made by `fuse_qkv_projections`, which `unfuse_qkv_projections` of diffusers keeps."""
    for module in network.modules():
        if isinstance(module, Attention) and module.fused_projections:
            for name in ("to_qkv", "to_kv"):
                if hasattr(module, name):
                    delattr(module, name)
            module.fused_projections = False
