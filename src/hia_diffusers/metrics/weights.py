# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Files of network weights, without running code that they may hold."""

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from .. import checks


def local_file(weights: str | os.PathLike) -> Path:
    """
    Where a file of weights lies on this machine; one on the Hub is downloaded to its cache first.

    Args:
        weights (`str` or `os.PathLike`):
            A local path or `hf://owner/name[@revision]/file`.

    Raises:
        `FileNotFoundError`: there is no such file on this machine.
        `ValueError`: a Hub address of another form.
        Whatever `huggingface_hub.hf_hub_download` raises.
    """
    if not str(weights).startswith("hf://"):
        if not Path(checks.path("weights", weights)).is_file():
            raise FileNotFoundError(f"There is no file of weights {str(weights)!r}.")
        return Path(weights)
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", str(weights))
    if match is None:
        raise ValueError(f"Weights on the Hub are given as hf://owner/name[@revision]/file, got {str(weights)!r}.")
    repository, revision, name = match.groups()
    return Path(hf_hub_download(repository, name, revision=revision))


def load_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """
    Read a state dict.

    Args:
        path (`str` or `os.PathLike`):
            A `.safetensors` file, or a file of `torch.save`, of which only tensors and plain containers are read. It
            may be a training checkpoint with the tensors under `state_dict`.

    Returns:
        `dict[str, torch.Tensor]`: the file's tensors by name, on the CPU; without the `module.` before each name that
        `DataParallel` adds.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: the file cannot be read, or holds something else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of weights {str(path)!r}.")
    try:
        if path.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it is damaged, or holds more than tensors and plain containers"
        raise ValueError(f"{str(path)!r} cannot be read as weights: {reason}") from error
    except Exception as error:  # the unpickler fails in as many ways as there are files that are no pickles
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{str(path)!r} cannot be read as weights: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{str(path)!r} must hold tensors by name, got {type(state).__name__}.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def sha256_of_weights(modules: Mapping[str, Any]) -> str:
    """
    The SHA-256 of the names and the values of all parameters and buffers, as they are used.

    Args:
        modules (`Mapping[str, Any]`):
            Networks by name, such as the components of a pipeline; what else it holds is not looked at.
    """
    digest = hashlib.sha256()
    for component, module in sorted(modules.items()):
        if isinstance(module, nn.Module):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{component}.{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
