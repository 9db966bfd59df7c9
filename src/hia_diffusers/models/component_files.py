# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the files of a diffusers or transformers component before a library reads them.

Only the headers of weights are read, so damaged files, files outside the component's folder and weights that are not
floating-point numbers are detected before gigabytes are read.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open


CONFIG_FILES = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")

# Names in safetensors of the dtypes that weights may have; float8 and float64 are converted to the requested dtype.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Args:
        path (`Path`):
            A JSON file.

    Raises:
        ValueError: If it does not contain a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a JSON file: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object, got {json.dumps(content)[:40]}.")
    return content


def check_component_files(folder: Path, variant: str | None = None, use_safetensors: bool | None = True) -> None:
    """Refuse files that a library cannot load, or that would make it read other files.

    Args:
        folder (`Path`):
            Folder of one component.
        variant (`str`, *optional*):
            Variant of its weights.
        use_safetensors (`bool`, *optional*, defaults to `True`):
            Whether weights are read from safetensors or from pickles; `None` reads whichever exists.

    Raises:
        FileNotFoundError: If a part of sharded weights is missing, or there are only weights of another variant.
        ValueError: If a file is damaged or outside the folder, or weights are not floating-point numbers.
    """
    configs = {name: read_json_object(folder / name) for name in CONFIG_FILES if (folder / name).is_file()}
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} must contain a complete model, but adapter_config.json makes it an adapter of another."
        )
    config = configs.get("config.json", {})
    if "transformers_weights" in config:
        raise ValueError(f"{folder / 'config.json'} must not name its weights by `transformers_weights`.")
    quantized = config.get("quantization_config") is not None
    suffixes = {True: ("safetensors",), False: ("bin",), None: ("safetensors", "bin")}[use_safetensors]
    paths = list(_weight_files(folder, variant, suffixes))
    others = set() if paths else _variants(folder)
    if others:
        raise FileNotFoundError(
            f"{folder} contains weights of the variant {' or '.join(sorted(others))}: give `variant`."
        )
    for path in paths:
        for key, is_float in _stored_floats(path):
            # Old CLIP models contain the indices of their positions, which are not weights.
            if not is_float and not quantized and not key.endswith("position_ids"):
                raise ValueError(f"{path} must contain floating-point weights only, but {key} is of another dtype.")


def stored_shapes(folder: Path, variant: str | None = None) -> dict[str, list[int]]:
    """Return the shape of each tensor in the one safetensors file of a component, or nothing if there are several.

    Args:
        folder (`Path`):
            Of one component.
        variant (`str`, *optional*):
            Of its weights.
    """
    paths = list(_weight_files(folder, variant, ("safetensors",)))
    if len(paths) != 1:
        return {}
    with safe_open(paths[0], framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}


def _weight_files(folder: Path, variant: str | None, suffixes: Sequence[str]) -> Iterator[Path]:
    part = f".{variant}" if variant else ""
    for stem in STEMS:
        for suffix in suffixes:
            single = folder / f"{stem}{part}.{suffix}"
            if single.is_file():
                yield single
            for index in (folder / f"{stem}.{suffix}.index{part}.json", folder / f"{stem}{part}.{suffix}.index.json"):
                if index.is_file():
                    yield from _shards(index)
                    break


def _variants(folder: Path) -> set[str]:
    """Return the variants of which there are weights."""
    name = re.compile(rf"({'|'.join(STEMS)})\.(?P<variant>\w+)(-\d+-of-\d+)?\.(safetensors|bin)")
    return {match["variant"] for path in folder.glob("*") if (match := name.fullmatch(path.name))}


def _shards(index: Path) -> Iterator[Path]:
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} must have a `weight_map` from keys to file names.")
    for name in sorted(set(names.values())):
        if not re.fullmatch(r"[^/\\:]+\.(safetensors|bin)", name):
            raise ValueError(f"{index} must name files of its own folder only, got {name!r}.")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} names {name}, which does not exist: the checkpoint is incomplete.")
        yield index.parent / name


def _stored_floats(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each key of a file, and whether its tensor has a supported floating-point dtype."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                yield from [(key, file.get_slice(key).get_dtype() in FLOATS) for key in file.keys()]
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error
    else:
        try:
            tensors = torch.load(path, map_location="meta", weights_only=True)
            yield from [(key, tensor.dtype in FLOAT_DTYPES) for key, tensor in tensors.items()]
        except Exception as error:  # torch raises errors of many classes on truncated files
            if isinstance(error, (OSError, MemoryError)):
                raise  # caused by the machine, not by the file
            raise ValueError(f"{path} contains no tensors, or is damaged or truncated.") from error
