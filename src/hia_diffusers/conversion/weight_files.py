# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Finding and checking the files of published components, with error messages of one sentence."""

import json
import os
from pathlib import Path
from typing import Any


# Names that diffusers and transformers give to the weights of a component, in order of preference.
WEIGHT_FILES = tuple(
    f"{stem}{variant}.{suffix}"
    for variant in ("", ".fp16")
    for stem, suffix in (
        *(("diffusion_pytorch_model", "safetensors"), ("diffusion_pytorch_model", "bin")),
        *(("model", "safetensors"), ("pytorch_model", "bin")),
    )
)

SHOWN_FILES = 5


def as_folder(argument: str, path: str | os.PathLike) -> Path:
    """Return the folder given by an argument.

    Args:
        argument (`str`):
            Name of the argument in error messages.
        path (`str` or `os.PathLike`):
            Its value.

    Raises:
        TypeError: If it is not a path.
        FileNotFoundError: If there is no such folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`{argument}` must be the path of a folder, got {path!r}.")
    if not Path(path).is_dir():
        raise FileNotFoundError(f"`{argument}` must be a local folder, but there is none at {path}.")
    return Path(path)


def find_file(argument: str, *candidates: Path) -> Path:
    """Return the first file that exists.

    Otherwise, return the only one whose name contains a number of steps, as in `denoising_unet-30000.pth`.

    Args:
        argument (`str`):
            Name of the argument for the files, for error messages.
        candidates (`Path`):
            Files, in order of preference.

    Raises:
        FileNotFoundError: If none exists, or only several with a number.
    """
    for path in candidates:
        if path.is_file():
            return path
    numbered = sorted(other for path in candidates for other in path.parent.glob(f"{path.stem}-*{path.suffix}"))
    if len(numbered) == 1:
        return numbered[0]
    names = ", ".join(map(str, numbered[:SHOWN_FILES]))
    found = f", but there are {names}: rename the one to use to the name above" if numbered else ""
    if folders := [str(path) for path in candidates if path.is_dir()]:
        found = f": {folders[0]} is a folder"
    raise FileNotFoundError(f"`{argument}`: there is no file {' or '.join(map(str, candidates))}{found}.")


def find_weights(argument: str, folder: Path) -> Path:
    """Return the file with the weights of a diffusers or transformers component, preferably in float32.

    Args:
        argument (`str`):
            Name of the argument for the folder, for error messages.
        folder (`Path`):
            Folder of the component.

    Raises:
        FileNotFoundError: If it has no `config.json`, or none of `WEIGHT_FILES`.
    """
    find_file(argument, folder / "config.json")
    return find_file(argument, *(folder / name for name in WEIGHT_FILES))


def read_config(argument: str, folder: Path) -> dict[str, Any]:
    """Read the configuration of a component.

    Args:
        argument (`str`):
            Name of the argument for the folder, for error messages.
        folder (`Path`):
            Folder of the component.

    Raises:
        FileNotFoundError: If it has no `config.json`.
        ValueError: If it cannot be read.
    """
    path = find_file(argument, folder / "config.json")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"`{argument}`: {path} is not JSON of a configuration: {error}") from error
