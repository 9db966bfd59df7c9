# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What a training in one process keeps in its folder: its settings, and its state in one file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole, written_whole


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """
    Write down the settings of a new training, or compare them with those of the one that goes on.

    Args:
        path (`Path`):
            The JSON file that keeps them.
        settings (`Mapping[str, Any]`):
            All that decides about the result.

    Raises:
        `ValueError`: the file holds other settings, or is damaged.
    """
    if not os.path.lexists(path):
        write_whole(path, json.dumps(settings, indent=2))
    try:
        kept = json.loads(path.read_text()) if path.is_file() else None
    except (ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(f"{path} is damaged, and nothing else says how the training in its folder was begun")
    if kept != settings:
        raise ValueError(f"{path.parent} is of a training with other options; see {path.name}")


def save_state(path: Path, step: int, parts: Mapping[str, Any]) -> None:
    """
    Write the state of a training.

    Args:
        path (`Path`):
            The file; an existing one is replaced.
        step (`int`):
            Number of finished steps.
        parts (`Mapping[str, Any]`):
            Networks, optimizer and the like by name.
    """
    with written_whole(path) as unfinished:
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, unfinished)


def load_state(path: Path, parts: Mapping[str, Any], device: str | torch.device = "cpu") -> int:
    """
    Bring the parts of a training to the state that [`save_state`] wrote.

    Args:
        path (`Path`):
            The file.
        parts (`Mapping[str, Any]`):
            Networks, optimizer and the like by name.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Where they are.

    Returns:
        `int`: the number of finished steps.

    Raises:
        `ValueError`: the file is damaged, or not of such parts.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        state = torch.load(path, map_location=device, weights_only=True)
        step = state.pop("step")
        if state.keys() != parts.keys() or not isinstance(step, int) or step < 0:
            raise ValueError(f"it must hold step, {', '.join(parts)}")
        for name, value in state.items():
            parts[name].load_state_dict(value)
    except Exception as error:  # damaged files lead to more of them than can be listed
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged, the only state of the training ({reason}); delete it to begin anew"
        ) from error
    return step
