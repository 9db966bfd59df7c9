# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline that a command runs, and the device that it runs on."""

from pathlib import Path
from typing import Any


def choose_device(name: str | None) -> str:
    """The device of that name once it is known to work, or the best there is."""
    import torch
    from diffusers.utils.torch_utils import get_device

    if name is None:
        return get_device()
    try:
        torch.zeros(1, device=name).item()
    except Exception as error:  # each backend has its own way to say that it is not there
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"--device: {name!r} cannot be used here ({reason})") from error
    return name


def check_model(model: str | None, variant: str | None = None) -> None:
    """Finds the pipeline's index, so that a wrong name is known before anything else is done."""
    if model is None:
        if variant is not None:
            raise ValueError("--variant: needs --model")
        return
    from huggingface_hub import hf_hub_download

    if Path(model).is_dir():
        if not Path(model, "model_index.json").is_file():
            raise ValueError(f"--model: {model!r} is a folder without model_index.json")
        return
    try:
        hf_hub_download(model, "model_index.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: {model!r} is no folder and cannot be found on the Hub ({error})") from error


def load_pipeline(model: str, device: str, dtype: str, variant: str | None = None) -> Any:
    """A `HIAPipeline` on a device. diffusers prints nothing but errors from then on."""
    import diffusers
    import torch

    from ..pipelines.pipeline_hia import HIAPipeline

    diffusers.utils.logging.set_verbosity_error()
    try:
        pipe = HIAPipeline.from_pretrained(model, dtype=getattr(torch, dtype), variant=variant)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"--model: {model!r} cannot be loaded ({error})") from error
    return pipe.to(device)
