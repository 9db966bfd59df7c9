# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""State dicts in files: read without running code from them, and refused in one sentence."""

import errno
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


# What a state dict is wrapped in, and what wrappers of modules (DDP, torch.compile) put before keys.
WRAPPERS = ("state_dict", "model")
WRAPPED_KEY = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")


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


def read_state_dict(argument: str, path: Path) -> StateDict:
    """Read a safetensors file, or a pickle by `torch.load(weights_only=True)`.

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
        raise ValueError(f"`{argument}`: {path} must contain a state dict of tensors and nothing else.")
    tensors = {WRAPPED_KEY.sub("", key): tensor for key, tensor in content.items()}
    if len(tensors) < len(content):
        raise ValueError(f"`{argument}`: {path} must contain each key once, with `module.` before it or without.")
    return StateDict(argument, path, tensors)


def _check_uncompressed(argument: str, path: Path) -> None:
    """Refuse compressed archives, which may grow to any size when read; torch writes uncompressed ones."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError(f"`{argument}`: {path} must not be compressed, as torch.save writes no such files.")
