# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Weights in files: found, read without running code from them, and refused in one sentence."""

import errno
import json
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


# What diffusers and transformers call the weights of a component, in the order in which they are looked for.
WEIGHT_FILES = tuple(
    f"{stem}{variant}.{suffix}"
    for variant in ("", ".fp16")
    for stem, suffix in (
        *(("diffusion_pytorch_model", "safetensors"), ("diffusion_pytorch_model", "bin")),
        *(("model", "safetensors"), ("pytorch_model", "bin")),
    )
)


# What a state dict is wrapped in, and what wrappers of modules (DDP, torch.compile) put before keys.
WRAPPERS = ("state_dict", "model")
WRAPPED_KEY = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")

SHOWN_FILES = 5


@dataclass(frozen=True)
class StateDict:
    """Tensors by key, as a file has them.

    Args:
        argument (`str`):
            Name of the argument that leads to the file, for errors.
        path (`Path`):
            The file.
        tensors (`dict[str, torch.Tensor]`):
            On the CPU, in the dtypes of the file.
    """

    argument: str
    path: Path
    tensors: dict[str, torch.Tensor]


def as_folder(argument: str, path: str | os.PathLike) -> Path:
    """
    The folder that an argument leads to.

    Args:
        argument (`str`):
            Its name, for errors.
        path (`str` or `os.PathLike`):
            Its value.

    Raises:
        TypeError: If it is no path.
        FileNotFoundError: If there is no such folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`{argument}` must be the path of a folder, got {path!r}.")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"`{argument}` must be a local folder, but there is none at {path}.")
    return Path(path)


def find_file(argument: str, *candidates: Path) -> Path:
    """
    The first file that is there, or the only one whose name has a number of steps, as in `denoising_unet-30000.pth`.

    Args:
        argument (`str`):
            Name of the argument that leads to the files, for errors.
        candidates (`Path`):
            Files, the preferred one first.

    Raises:
        FileNotFoundError: If there is none of them, or only several with a number.
    """
    for path in candidates:
        if path.is_file():
            return path
    numbered = sorted(other for path in candidates for other in path.parent.glob(f"{path.stem}-*{path.suffix}"))
    if len(numbered) == 1:
        return numbered[0]
    names = ", ".join(map(str, numbered[:SHOWN_FILES]))
    found = f", but there are {names}: give the one to use the name above" if numbered else ""
    if folders := [str(path) for path in candidates if path.is_dir()]:
        found = f": {folders[0]} is a folder"
    raise FileNotFoundError(f"`{argument}`: there is no file {' or '.join(map(str, candidates))}{found}.")


def find_weights(argument: str, folder: Path) -> Path:
    """
    The weights of a component of diffusers or transformers, in float32 before those in float16.

    Args:
        argument (`str`):
            Name of the argument that leads to the folder, for errors.
        folder (`Path`):
            The component's.

    Raises:
        FileNotFoundError: If it has no `config.json`, or none of `WEIGHT_FILES`.
    """
    find_file(argument, folder / "config.json")
    return find_file(argument, *(folder / name for name in WEIGHT_FILES))


def read_config(argument: str, folder: Path) -> dict[str, Any]:
    """
    The configuration of a component.

    Args:
        argument (`str`):
            Name of the argument that leads to the folder, for errors.
        folder (`Path`):
            The component's.

    Raises:
        FileNotFoundError: If it has no `config.json`.
        ValueError: If that cannot be read.
    """
    path = find_file(argument, folder / "config.json")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"`{argument}`: {path} is no JSON of a configuration: {error}") from error


def read_state_dict(argument: str, path: Path) -> StateDict:
    """
    Read a safetensors file, or a pickle by `torch.load(weights_only=True)`.

    Args:
        argument (`str`):
            Name of the argument that leads to the file, for errors.
        path (`Path`):
            The file; a state dict, or a checkpoint that has one as `"state_dict"` or `"model"`. What wrappers of
            modules put before keys, `module.` and `_orig_mod.`, is taken away.

    Raises:
        ValueError: If the file is damaged, wants to run code, or holds anything but tensors.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            _check_uncompressed(argument, path)
            # Mapped, so that memory holds what is made of the file and not the file.
            is_mappable = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except Exception as error:  # torch raises errors of many classes on files that are cut off
        if isinstance(error, (OSError, MemoryError)) and getattr(error, "errno", 0) != errno.EINVAL:
            raise  # the machine's trouble
        if isinstance(error, ValueError) and str(error).startswith(f"`{argument}`: "):
            raise
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"loading it would call {code[1]}, and only tensors are read" if code else "it is damaged or cut off"
        raise ValueError(f"`{argument}`: {path} cannot be read: {reason}.") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if (
        not isinstance(content, dict)
        or not all(isinstance(key, str) for key in content)
        or not all(isinstance(value, torch.Tensor) for value in content.values())
    ):
        raise ValueError(f"`{argument}`: {path} must hold a state dict of tensors and nothing else.")
    tensors = {WRAPPED_KEY.sub("", key): tensor for key, tensor in content.items()}
    if len(tensors) < len(content):
        raise ValueError(f"`{argument}`: {path} must hold each key once, with `module.` before it or without.")
    return StateDict(argument, path, tensors)


def _check_uncompressed(argument: str, path: Path) -> None:
    """torch writes archives that are not compressed; compressed ones grow to any size where they are read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError(f"`{argument}`: {path} must not be compressed, as torch.save writes no such files.")
