# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Locating and hashing the weights of metric networks."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import nn

from .. import checks


def local_file(weights: str | os.PathLike) -> Path:
    """Return the local path of a weights file; a file on the Hub is downloaded to its cache first.

    Args:
        weights (`str` or `os.PathLike`):
            A local path or `hf://owner/name[@revision]/file`.

    Raises:
        FileNotFoundError: If there is no such file on this machine.
        ValueError: If a Hub address has another form.
        Exception: As in `huggingface_hub.hf_hub_download`.
    """
    if not str(weights).startswith("hf://"):
        if not Path(checks.path("weights", weights)).is_file():
            raise FileNotFoundError(f"There is no file of weights {str(weights)!r}.")
        return Path(weights)
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", str(weights))
    if match is None:
        raise ValueError(f"Weights on the Hub must be given as hf://owner/name[@revision]/file, got {str(weights)!r}.")
    repository, revision, name = match.groups()
    return Path(hf_hub_download(repository, name, revision=revision))


def sha256_of_weights(modules: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the names and values of all parameters and buffers in use.

    Args:
        modules (`Mapping[str, Any]`):
            Networks by name, such as the components of a pipeline; other objects are ignored.
    """
    digest = hashlib.sha256()
    for component, module in sorted(modules.items()):
        if isinstance(module, nn.Module):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{component}.{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
