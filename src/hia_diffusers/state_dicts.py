# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""State dicts in files, read without running code from them, and with error messages of one sentence."""

import errno
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch


# Keys of a checkpoint that contain its state dict, and prefixes that wrappers of modules (DDP, torch.compile) add.
WRAPPERS = ("state_dict", "model")
WRAPPED_KEY = re.compile(r"^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")


@dataclass(frozen=True)
class StateDict:
    """The tensors in a file by key.

    Args:
        argument (`str`):
            Name of the argument for the file, for error messages.
        path (`Path`):
            The file.
        tensors (`dict[str, torch.Tensor]`):
            Tensors on the CPU, with the dtypes of the file.
    """

    argument: str
    path: Path
    tensors: dict[str, torch.Tensor]


def read_state_dict(argument: str, path: Path) -> StateDict:
    """Read a safetensors file, or a pickle with `torch.load(weights_only=True)`.

    Args:
        argument (`str`):
            Name of the argument for the file, for error messages.
        path (`Path`):
            A file with a state dict, or with a checkpoint that contains one as `"state_dict"` or `"model"`. The
            prefixes `module.` and `_orig_mod.`, which wrappers of modules add to keys, are removed.

    Raises:
        ValueError: If the file is damaged, requires running code, or contains anything other than tensors.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            _check_uncompressed(argument, path)
            # Mapped, so that the file itself needs no memory.
            is_mappable = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except Exception as error:  # torch raises errors of many classes on truncated files
        if isinstance(error, (OSError, MemoryError)) and getattr(error, "errno", 0) != errno.EINVAL:
            raise  # caused by the machine, not by the file
        if isinstance(error, ValueError) and str(error).startswith(f"`{argument}`: "):
            raise
        code = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"loading it would call {code[1]}, and only tensors are read" if code else "it is damaged or truncated"
        )
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
