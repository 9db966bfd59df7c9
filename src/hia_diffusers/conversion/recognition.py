# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Recognition of the layout of local weights from the names of files and keys, without reading tensors."""

import os
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..state_dicts import WRAPPED_KEY, WRAPPERS


# Title of a layout, and its source in `hia-diffusers convert`.
MOORE = ("Moore-AnimateAnyone, which MusePose and DynamicPose share", "moore-animate-anyone")
CHAMP = ("Champ", "champ")
MAGIC_ANIMATE = ("MagicAnimate", "magic-animate")
ANIMATEDIFF = ("the motion modules of AnimateDiff", "motion-adapter")
STABLE_DIFFUSION = ("Stable Diffusion 1.5 in a single file", "stable-diffusion")
CONTROLNET = ("a ControlNet in a single file", "controlnet")


def recognize_layout(path: str | os.PathLike) -> str | None:
    """Return a sentence that names the layout of a file or folder and explains how to convert it.

    Args:
        path (`str` or `os.PathLike`):
            A local file or folder that is not a pipeline of diffusers.

    Returns:
        `str` or `None`: `None` if no known layout is recognized.
    """
    layout = _folder_layout(Path(path)) if Path(path).is_dir() else _file_layout(_keys(Path(path)))
    if layout is None:
        return None
    title, source = layout
    return f"{path} has the layout of {title}: convert it by `hia-diffusers convert {source}`"


def why_no_pipeline(path: str | os.PathLike) -> str:
    """Explain why a path is not the folder of a pipeline.

    Args:
        path (`str` or `os.PathLike`):
            A local file, or a folder without `model_index.json`.
    """
    kind = "a folder without model_index.json" if Path(path).is_dir() else "a file, not the folder of a pipeline"
    return recognize_layout(path) or f"{str(path)!r} is {kind}"


def _folder_layout(folder: Path) -> tuple[str, str] | None:
    if (folder / "densepose_controlnet").is_dir() and (folder / "appearance_encoder").is_dir():
        return MAGIC_ANIMATE
    # Training scripts add the step: denoising_unet-30000.pth.
    if not any(folder.glob("denoising_unet*.pth")) or not any(folder.glob("reference_unet*.pth")):
        return None
    return CHAMP if any(folder.glob("guidance_encoder_*.pth")) else MOORE


def _file_layout(keys: list[str]) -> tuple[str, str] | None:
    if any(key.startswith("model.diffusion_model.") for key in keys):
        return STABLE_DIFFUSION
    if any(key.startswith("control_model.") for key in keys):
        return CONTROLNET
    if keys and all(".motion_modules." in key for key in keys):
        return ANIMATEDIFF
    return None


def _keys(path: Path) -> list[str]:
    """Return the keys of a state dict; none if the file is not one, or is damaged."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return [*file.keys()]
        content = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError, SafetensorError):
        return []
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    return [WRAPPED_KEY.sub("", str(key)) for key in content] if isinstance(content, dict) else []
