# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Settings and state of a training run in one process."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole, written_whole


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new run, or compare them with those of the run that is resumed.

    Args:
        path (`Path`):
            The JSON file of the settings.
        settings (`Mapping[str, Any]`):
            Everything that determines the result.

    Raises:
        ValueError: If the file contains other settings, or is damaged.
    """
    if not os.path.lexists(path):
        write_whole(path, json.dumps(settings, indent=2))
    try:
        kept = json.loads(path.read_text()) if path.is_file() else None
    except (ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(f"{path} is damaged, so the settings of the run in its folder are unknown")
    if kept != settings:
        raise ValueError(f"{path.parent} belongs to a run with other options; see {path.name}")


def save_state(path: Path, step: int, parts: Mapping[str, Any]) -> None:
    """Write the state of a run.

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
    """Load the state written by [`save_state`].

    Args:
        path (`Path`):
            The file.
        parts (`Mapping[str, Any]`):
            Networks, optimizer and the like by name.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the parts.

    Returns:
        `int`: The number of finished steps.

    Raises:
        ValueError: If the file is damaged, or contains other parts.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        state = torch.load(path, map_location=device, weights_only=True)
        step = state.pop("step")
        if state.keys() != parts.keys() or not isinstance(step, int) or step < 0:
            raise ValueError(f"it must contain step, {', '.join(parts)}")
        for name, value in state.items():
            parts[name].load_state_dict(value)
    except Exception as error:  # damaged files raise errors of many classes
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged and the only state of the run ({reason}); delete it to start over"
        ) from error
    return step
