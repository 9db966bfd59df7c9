# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Options of networks that a UNet of Stable Diffusion and a motion UNet share, and their defaults."""

import inspect
from collections.abc import Collection
from typing import Any

from diffusers import UNet2DConditionModel

from ..models.modeling_hia import same_option


# Options of a UNet2DConditionModel that a motion UNet has or may ignore. All others must have their defaults.
SPATIAL_OPTIONS = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps"),
    *("cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "num_attention_heads"),
    *("use_linear_projection", "upcast_attention"),
}
SPATIAL_BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}


def check_spatial_options(unet2d: UNet2DConditionModel) -> None:
    """Refuse a UNet with options that a motion UNet lacks; diffusers' `from_unet2d` ignores them."""
    config = unet2d.config
    for name, default in constructor_defaults(UNet2DConditionModel).items():
        if name not in SPATIAL_OPTIONS and not same_option(config[name], default):
            raise ValueError(f"its `{name}` must be {default!r} for a motion UNet, got {config[name]!r}.")
    if unknown := {*config.down_block_types, *config.up_block_types} - SPATIAL_BLOCKS:
        raise ValueError(
            f"`down_block_types` and `up_block_types` must be among {', '.join(sorted(SPATIAL_BLOCKS))}, got"
            f" {', '.join(sorted(unknown))}."
        )
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"it must return as many channels as it takes, {config.in_channels}, got {config.out_channels}."
        )


def constructor_defaults(model_class: type, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return the defaults of a constructor's options: all, or some."""
    parameters = dict(inspect.signature(model_class).parameters)
    return {name: parameters[name].default for name in (parameters if names is None else names)}
