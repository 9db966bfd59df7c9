# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""IP-Adapters with random weights, in the layout in which they are published."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


HIDDEN, PROJECTION, CONTEXT = 48, 64, 32  # of the adapters' encoder, and of the UNet's cross-attention


def encoder(hidden: int = HIDDEN, projection: int = PROJECTION) -> CLIPVisionModelWithProjection:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = CLIPVisionConfig(
            hidden_size=hidden,
            intermediate_size=64,
            projection_dim=projection,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=24,
            patch_size=8,
        )
        return CLIPVisionModelWithProjection(config).eval()


def attention_weights(unet: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor") and "motion" not in name]
    weights = {}
    for i, name in enumerate(names):
        width = unet.get_submodule(name.removesuffix(".processor")).inner_dim
        for layer in ("k", "v"):
            weights[f"{2 * i + 1}.to_{layer}_ip.weight"] = torch.randn(width, CONTEXT, generator=generator) * 0.3
    return weights


def base_projection(width: int = PROJECTION, context: int = CONTEXT) -> dict[str, torch.Tensor]:
    """The projection of ip-adapter_sd15: four tokens of one embedding."""
    generator = torch.Generator().manual_seed(3)
    return {
        "proj.weight": torch.randn(4 * context, width, generator=generator) * 0.3,
        "proj.bias": torch.zeros(4 * context),
        "norm.weight": torch.ones(context),
        "norm.bias": torch.zeros(context),
    }


def plus_projection(width: int = HIDDEN, context: int = CONTEXT, inner: int = 16) -> dict[str, torch.Tensor]:
    """The resampler of ip-adapter-plus_sd15: four layers that read the hidden states of the encoder."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"latents": (1, 5, inner), "proj_in.weight": (inner, width), "proj_in.bias": (inner,)}
    shapes |= {"proj_out.weight": (context, inner), "proj_out.bias": (context,)}
    for i in range(4):
        shapes |= {f"layers.{i}.0.to_q.weight": (64, inner), f"layers.{i}.0.to_kv.weight": (128, inner)}
        shapes |= {f"layers.{i}.0.to_out.weight": (inner, 64)}
        shapes |= {f"layers.{i}.1.1.weight": (4 * inner, inner), f"layers.{i}.1.3.weight": (inner, 4 * inner)}
    weights = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    norms = {
        "norm_out": context,
        **{f"layers.{i}.{norm}": inner for i in range(4) for norm in ("0.norm1", "0.norm2", "1.0")},
    }
    for name, channels in norms.items():
        weights |= {f"{name}.weight": torch.ones(channels), f"{name}.bias": torch.zeros(channels)}
    return weights


PROJECTIONS = {"base": base_projection, "plus": plus_projection}


def write_ip_adapter(
    folder: Path, unet: Any, weight_name: str = "ip-adapter_sd15.safetensors", kind: str = "base"
) -> None:
    """A folder like h94/IP-Adapter: an adapter, and the image encoder of all of them beside it."""
    encoder().save_pretrained(folder / "models" / "image_encoder")
    weights = {f"image_proj.{key}": value for key, value in PROJECTIONS[kind]().items()}
    weights |= {f"ip_adapter.{key}": value for key, value in attention_weights(unet).items()}
    save_file(weights, folder / "models" / weight_name)
