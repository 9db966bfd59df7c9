# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA files in the layouts of trainers, mapped to the layers of networks.

The weights of a layer are called `lora_down` and `lora_up` by kohya, `lora.down` and `lora.up` by diffusers, `lora_A`
and `lora_B` by PEFT. Any mismatch raises an error before anything is loaded.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import _fetch_state_dict
from diffusers.utils import _get_model_file
from torch import nn

from .. import checks
from ..models.attachments import lora_layers


SOURCE = "pretrained_model_name_or_path_or_dict"
FILE_NAME = "pytorch_lora_weights"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
SHOWN = 10  # names in a message

WEIGHT = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?:(?P<peft>[AB])(?:\.[^.]+)?|(?P<kohya>down|up))"
    r"|(?:\.lora|_lora|\.lora_linear_layer)\.(?P<diffusers>down|up))\.weight"
)
ALPHA = re.compile(r"(?P<layer>.+)\.alpha")
PARTS = {"A": "down", "B": "up", "down": "down", "up": "up"}

# Prefixes of networks and of wrappers.
PREFIXES = {
    "unet.": "unet",
    "appearance_encoder.": "appearance_encoder",
    "lora_unet_": "unet",
    "text_encoder.": "text_encoder",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
}
WRAPPERS = (PEFT_PREFIX, "module.", "_orig_mod.")
TEXT_LAYER = re.compile(r"(text_model\.)?(encoder\.layers|embeddings|final_layer_norm)\..+")

# Names of the weights of other methods.
OTHER_METHODS = {
    "a LoHa of LyCORIS": re.compile(r".*\.hada_\w+"),
    "a LoKr of LyCORIS": re.compile(r".*\.lokr_\w+"),
    "a LoCon of LyCORIS with a Tucker decomposition": re.compile(r".*\.lora_mid\.weight"),
    "a GLoRA of LyCORIS": re.compile(r".*\.[ab][12]\.weight"),
    "an OFT": re.compile(r".*\.b?oft_\w+(\..+)?"),
    "an (IA)^3": re.compile(r".*\.(on_input|ia3_l(\..+)?)"),
    "a DoRA": re.compile(r".*\.(dora_scale|lora_magnitude_vector)(\..+)?"),
    "a full difference of LyCORIS": re.compile(r".*\.(diff|diff_b|w_norm|b_norm)"),
}


@dataclass
class LoraLayer:
    """The LoRA of one layer: `up @ down * alpha / rank` is added to its weight.

    Args:
        down (`torch.Tensor` of shape `(rank, in, ...)`):
            First factor.
        up (`torch.Tensor` of shape `(out, rank, ...)`):
            Second factor.
        alpha (`float`):
            Numerator of the scale; the rank if the file does not state it.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rank of the factors."""
        return self.down.shape[0]


@dataclass
class LoraFile:
    """The weights and options of a LoRA file.

    Args:
        weights (`dict[str, torch.Tensor]`):
            Weights by the keys of the file.
        options (`dict[str, Any]`, *optional*):
            Options of PEFT's configuration, for layers without an alpha of their own; by name, or by component and
            name.
    """

    weights: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


def read_lora(
    source: str | os.PathLike | Mapping[str, torch.Tensor],
    weight_name: str | None = None,
    subfolder: str | None = None,
    **hub: Any,
) -> LoraFile:
    """Read a LoRA file.

    Args:
        source (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
            A file, a folder, a Hub id, or its weights.
        weight_name (`str`, *optional*):
            Name of the file in a folder or repository.
        subfolder (`str`, *optional*):
            Folder of the file.
        hub:
            `cache_dir`, `force_download`, `local_files_only`, `proxies`, `revision`, `token`, and `use_safetensors`,
            as in diffusers.

    Raises:
        OSError: If it cannot be found.
        ValueError: If it cannot be read.
    """
    if isinstance(source, Mapping):
        return LoraFile(dict(source))
    source = Path(source) if isinstance(source, Path) or Path(str(source)).exists() else str(source)
    if isinstance(source, Path) or source.endswith(SUFFIXES):
        source = _local_file(Path(source), weight_name, subfolder)
    use_safetensors = hub.pop("use_safetensors", None)
    name = source.name if isinstance(source, Path) else weight_name or ""
    options = {key: hub.get(key) for key in ("cache_dir", "force_download", "local_files_only", "proxies")}
    options |= {key: hub.get(key) for key in ("revision", "token")}
    if unknown := sorted(set(hub) - set(options)):
        raise TypeError(f"`load_lora_weights` takes no argument `{unknown[0]}`.")
    options["subfolder"] = None if isinstance(source, Path) else subfolder
    try:
        weights, metadata = _fetch_state_dict(
            str(source),
            weight_name=None if isinstance(source, Path) else weight_name,
            use_safetensors=name.endswith(".safetensors") or not name and use_safetensors is not False,
            allow_pickle=not name and use_safetensors is None,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            **options,
        )
        weights = weights.get("state_dict", weights)  # AnimateDiff's training also saves other entries
        if metadata is None and any(key.startswith(PEFT_PREFIX) for key in weights):
            metadata = _peft_options(source, options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # libraries raise errors of many classes on damaged files
        raise ValueError(f"`{SOURCE}`: {source} cannot be read ({' '.join(str(error).split())}).") from error
    return LoraFile(dict(weights), metadata or {})


def _local_file(path: Path, weight_name: str | None, subfolder: str | None) -> Path:
    if path.is_dir():
        folder = path / (subfolder or "")
        if weight_name is not None:
            path = folder / weight_name if (folder / weight_name).is_file() else path / weight_name
        else:
            files = sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES)
            for suffix in SUFFIXES:
                of_kind = [file for file in files if file.suffix == suffix]
                named = [file for file in of_kind if file.stem == FILE_NAME]
                if len(named or of_kind) > 1:
                    names = ", ".join(file.name for file in of_kind)
                    raise ValueError(f"`weight_name` must name one of the files in {folder}: {names}.")
                if of_kind:
                    return (named or of_kind)[0]
            raise FileNotFoundError(f"`{SOURCE}`: there is no LoRA file in {folder}.")
    if not path.is_file():
        raise FileNotFoundError(f"`{SOURCE}`: there is no file {path}.")
    return path


def _peft_options(source: Path | str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read PEFT's configuration next to its weights."""
    try:
        folder = str(source.parent if isinstance(source, Path) else source)
        config = json.loads(Path(_get_model_file(folder, weights_name=PEFT_CONFIG, **options)).read_text())
    except OSError:
        return None
    checks.instance(PEFT_CONFIG, config, dict)
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise ValueError(f"{PEFT_CONFIG} says that it is {config['peft_type']}, not LoRA")
    return config


def shown(names: Iterable[str]) -> str:
    """Format names for a message: the first ones, and the number of others."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def layers_of(
    file: LoraFile, networks: Mapping[str, nn.Module | None]
) -> tuple[dict[str, dict[str, LoraLayer]], list]:
    """Find the layer of each weight.

    Args:
        file ([`LoraFile`]):
            The file.
        networks (`Mapping[str, nn.Module | None]`):
            `"unet"`, `"appearance_encoder"` and `"text_encoder"`, which may be None. Layers without a prefix are
            those of the UNet or the text encoder.

    Returns:
        `tuple[dict[str, dict[str, LoraLayer]], list[str]]`: By network, the names of its modules with their LoRA; and
        the names in the file of layers of a missing text encoder.

    Raises:
        ValueError: If it is not a LoRA, a layer does not exist or has another shape, or weights are missing or not
            finite.
    """
    parts, names = _parts_of(file.weights)
    modules = {name: dict(network.named_modules()) for name, network in networks.items() if network is not None}
    tables = {name: _module_names(name, network) for name, network in networks.items() if network is not None}
    found: dict[str, dict[str, LoraLayer]] = {name: {} for name in tables}
    without_text_encoder, unknown = [], []
    for layer, weights in parts.items():
        component, module = _find(layer, tables)
        if module is not None:
            if module in found[component]:
                raise ValueError(f"`{SOURCE}` has two LoRA for {module} of the {component}.")
            found[component][module] = _checked_layer(
                component, module, modules[component][module], weights, names[layer], file.options
            )
        elif component == "text_encoder" and networks.get("text_encoder") is None:
            without_text_encoder.append(names[layer])
        else:
            unknown.append(names[layer])
    if unknown:
        raise ValueError(
            f"`{SOURCE}` must contain LoRA for layers of this pipeline, but {len(unknown)} of its {len(parts)} layers "
            f"are not: {shown(unknown)}."
        )
    if not any(found.values()):
        raise ValueError(
            f"`{SOURCE}` must contain LoRA for layers of this pipeline, but all of its {len(parts)} layers are those "
            f"of a text encoder, which the pipeline does not have: {shown(without_text_encoder)}."
        )
    return {name: layers for name, layers in found.items() if layers}, without_text_encoder


def _parts_of(weights: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return layers by their names without wrappers, with `down`, `up` and `alpha`; and their names in the file."""
    if not weights:
        raise ValueError(f"`{SOURCE}` contains no weights.")
    for method, pattern in OTHER_METHODS.items():
        if keys := [key for key in weights if pattern.fullmatch(str(key))]:
            raise ValueError(
                f"`{SOURCE}` is {method}, not a LoRA (see {keys[0]}), and cannot be loaded: merge it into a UNet"
                " with the tool that made it."
            )
    parts: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    other = []
    for key, value in weights.items():
        match = WEIGHT.fullmatch(str(key)) or ALPHA.fullmatch(str(key))
        if match is None:
            other.append(str(key))
            continue
        groups = match.groupdict()
        part = next((PARTS[groups[name]] for name in ("peft", "kohya", "diffusers") if groups.get(name)), "alpha")
        name = _without_wrappers(match["layer"])
        names.setdefault(name, match["layer"])
        if part in parts.setdefault(name, {}):
            raise ValueError(f"`{SOURCE}` has two weights for {name}, one of them {key}.")
        parts[name][part] = value
    if other:
        kind = "contains no LoRA but" if not parts else "must contain LoRA alone, but has"
        raise ValueError(f"`{SOURCE}` {kind} {len(other)} other keys: {shown(other)}.")
    return parts, names


def _without_wrappers(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.removeprefix(next(prefix for prefix in WRAPPERS if name.startswith(prefix)))
    return name


def _module_names(component: str, network: nn.Module) -> dict[str, str]:
    """Return the linear and convolutional modules of a network by all of their names in files."""
    table = {}
    skipped: tuple[str, ...] = ()
    replaced = {id(layer) for layer in lora_layers(network)}  # by loaded LoRA
    for name, module in network.named_modules():
        if name.startswith(skipped):
            continue
        if id(module) in replaced:
            skipped = (*skipped, f"{name}.")
        elif not isinstance(module, (nn.Linear, nn.Conv2d)):
            continue
        aliases = [name, name.removesuffix(".0")] if name.endswith(".to_out.0") else [name]
        if component == "text_encoder":
            name_in_text_model = name.removeprefix("text_model.")
            aliases = [name_in_text_model, f"text_model.{name_in_text_model}"]
            aliases += [re.sub(r"\.(\w+)_proj$", r".to_\1", alias) for alias in aliases]
        for alias in aliases:
            table[alias] = table[alias.replace(".", "_")] = name
    return table


def _find(layer: str, tables: Mapping[str, Mapping[str, str]]) -> tuple[str, str | None]:
    """Return the network of a layer and the name of its module; an empty name and None if there is none."""
    for prefix, component in PREFIXES.items():
        if layer.startswith(prefix):
            name = _without_wrappers(layer.removeprefix(prefix))
            return component, tables.get(component, {}).get(_module_name(name))
    name = _module_name(layer)
    for component in ("unet", "text_encoder"):
        if name in tables.get(component, {}):
            return component, tables[component][name]
    return ("text_encoder" if TEXT_LAYER.fullmatch(name) else ""), None


def _module_name(name: str) -> str:
    """Return the module name for a name used by attention processors of diffusers or motion modules of AnimateDiff."""
    name = name.replace(".processor", "").replace(".temporal_transformer.", ".")
    return re.sub(r"\.attention_blocks\.([01])\b", lambda match: f".attn{int(match[1]) + 1}", name)


def _checked_layer(
    component: str,
    name: str,
    module: Any,
    weights: Mapping[str, Any],
    name_in_file: str,
    options: Mapping[str, Any],
) -> LoraLayer:
    """Return the LoRA of a module after checking that it fits."""
    start = f"`{SOURCE}`: {name_in_file}"
    for part in ("down", "up"):
        if part not in weights:
            raise ValueError(f"{start} lacks one of its two weights, the one for `{part}`.")
        tensor = weights[part]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{start} must have floating-point tensors, got {checks.shown(tensor)}.")
        if not tensor.isfinite().all():
            raise ValueError(f"{start} has weights that are not finite.")
    module = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    down, up = weights["down"], weights["up"]
    rank = down.shape[0] if down.ndim else 0
    expected: tuple[tuple[int, ...], tuple[int, ...]]
    if isinstance(module, nn.Conv2d):
        expected = (rank, module.in_channels // module.groups, *module.kernel_size), (module.out_channels, rank, 1, 1)
    else:
        expected = (rank, module.in_features), (module.out_features, rank)
    if rank == 0 or (tuple(down.shape), tuple(up.shape)) != expected:
        raise ValueError(
            f"{start} must have weights of shapes {expected[0]} and {expected[1]} for {name} of the {component}, got"
            f" {tuple(down.shape)} and {tuple(up.shape)}: it was made for another network."
        )
    if "alpha" in weights:
        alpha = weights["alpha"]
        alpha = checks.number(f"{name_in_file}.alpha", alpha.item() if isinstance(alpha, torch.Tensor) else alpha)
    else:
        alpha = _alpha_of_options(component, name, rank, options)
    return LoraLayer(down, up, alpha)


def _alpha_of_options(component: str, name: str, rank: int, options: Mapping[str, Any]) -> float:
    """Return the alpha of a module in PEFT's configuration; by default its rank, which means a scale of one."""
    options = {key.removeprefix(f"{component}."): value for key, value in options.items()}
    for option in ("use_dora", "lora_bias", "modules_to_save"):
        if options.get(option):
            raise ValueError(f"`{SOURCE}` was made with `{option}` of PEFT, and cannot be loaded.")
    if options.get("lora_alpha") is None:
        return float(rank)
    patterns = options.get("alpha_pattern") or {}
    pattern = next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", name)), None)
    alpha = float(patterns[pattern] if pattern is not None else options["lora_alpha"])
    return alpha * math.sqrt(rank) if options.get("use_rslora") else alpha
