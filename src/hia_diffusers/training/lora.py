# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA of a run: added to the networks with PEFT, and saved in diffusers' layout."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from torch import Tensor, nn

from ..files import write_whole, written_whole
from ..models.denoiser import HIADenoiser
from ..pipelines.pipeline_hia import HIAPipeline
from .config import LORA_NETWORKS, LORA_TARGET_MODULES, TrainingConfig
from .stages import part_of, trained_parts


ADAPTER = "default"

CARD = """\
---
license: other
library_name: hia-diffusers
pipeline_tag: image-to-video
base_model: {base}
tags:
- diffusers
- lora
- human-image-animation
---

# {name}

LoRA of rank {rank} for [hia-diffusers](https://pypi.org/project/hia-diffusers), for a pipeline with the weights of
`{base}`. It is bound to the licences of these weights and of the training data.

```python
from hia_diffusers import HIAPipeline

pipe = HIAPipeline.from_pretrained("{base}")
pipe.load_lora_weights("{name}")
```

`pipe.set_adapters("default_0", 0.7)` scales it, `pipe.fuse_lora()` merges it into the weights, and
`pipe.unload_lora_weights()` removes it.
"""


def add_lora(denoiser: HIADenoiser, config: TrainingConfig) -> None:
    """Add LoRA to the layers that a run trains. At first, it has no effect.

    Args:
        denoiser ([`HIADenoiser`]):
            The networks.
        config ([`TrainingConfig`]):
            Config with `lora_rank`.

    Raises:
        ImportError: If PEFT is not installed.
        ValueError: If a network has none of the layers.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("--lora_rank needs the `train` extra: pip install 'hia-diffusers[train]'.") from error
    rank = config.lora_rank
    assert rank is not None  # without it, a run trains the networks
    parts = trained_parts(config)
    endings = tuple(f".{name}" for name in config.lora_target_modules or LORA_TARGET_MODULES)
    for network_name in LORA_NETWORKS:
        network = getattr(denoiser, network_name)
        trained = [name for name, _ in network.named_modules() if part_of(f"{network_name}.{name}.") in parts]
        layers = [
            name
            for name in trained
            if isinstance(network.get_submodule(name), (nn.Linear, nn.Conv2d)) and f".{name}".endswith(endings)
        ]
        if trained and not layers:
            given = " ".join(config.lora_target_modules or LORA_TARGET_MODULES)
            raise ValueError(f"--lora_target_modules must be layers of the {network_name}, got {given}.")
        if layers:
            options = LoraConfig(
                r=rank,
                lora_alpha=config.lora_alpha or rank,  # type: ignore[arg-type]
                target_modules=layers,
                init_lora_weights="gaussian",
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                network.add_adapter(options, ADAPTER)


def save_lora(pipeline: HIAPipeline, trained: Mapping[str, Tensor], config: TrainingConfig, card: str) -> None:
    """Write the LoRA of a run to `output_dir`, in diffusers' layout and with a model card.

    Args:
        pipeline ([`HIAPipeline`]):
            Pipeline whose networks have the LoRA of [`add_lora`].
        trained (`Mapping[str, torch.Tensor]`):
            The trained weights by their names in [`HIADenoiser`].
        config ([`TrainingConfig`]):
            Config of the run.
        card (`str`):
            Text to append to the model card.
    """
    arguments: dict[str, dict] = {}
    for name in LORA_NETWORKS:
        layers = {key: value for key, value in trained.items() if key.startswith(f"{name}.")}
        if layers:
            arguments[f"{name}_lora_layers"] = {
                key.removeprefix(f"{name}.").replace(f".{ADAPTER}.", "."): value for key, value in layers.items()
            }
            arguments[f"{name}_lora_adapter_metadata"] = getattr(pipeline, name).peft_config[ADAPTER].to_dict()
    folder = Path(config.output_dir)
    with written_whole(folder / LORA_WEIGHT_NAME_SAFE) as path:
        HIAPipeline.save_lora_weights(path.parent, weight_name=path.name, **arguments)
    base, name = config.pretrained_model_name_or_path, config.hub_model_id or folder.resolve().name
    write_whole(folder / "README.md", CARD.format(base=base, name=name, rank=config.lora_rank) + card)
