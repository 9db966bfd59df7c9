# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline and the device of a command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..conversion.published import PUBLISHED, check_can_animate


if TYPE_CHECKING:
    import torch

    from ..pipelines.pipeline_hia import HIAPipeline


# Sets of instructions that multiply matrices in bfloat16, as PyTorch names them.
BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16")


def choose_device(name: str | None) -> str:
    """Return a device after checking that it works, by default the best available one."""
    import torch
    from diffusers.utils.torch_utils import get_device

    if name is None:
        return get_device()
    try:
        torch.zeros(1, device=name).item()
    except Exception as error:  # backends raise different errors
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"--device: {name!r} cannot be used here ({reason})") from error
    return name


def choose_dtype(name: str, device: str) -> "torch.dtype":
    """Return a dtype by name.

    `"auto"` is float16, except on the CPU: bfloat16 if the CPU has instructions for it, otherwise float32.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device != "cpu":
        return torch.float16
    # Older versions of PyTorch do not tell.
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if any(known.get(name) for name in BFLOAT16_INSTRUCTIONS) else torch.float32


def check_model(model: str | None, variant: str | None = None, revision: str | None = None) -> None:
    """Locate the index of a pipeline, so that wrong names are detected before any work."""
    if model is None:
        if variant is not None:
            raise ValueError("--variant: needs --model")
        if revision is not None:
            raise ValueError("--revision: needs --model")
        return
    if is_published(model):
        if variant is not None:
            raise ValueError(f"--variant: {model} has none; --dtype chooses its precision")
        check_can_animate(model)
        return
    if revision is not None:
        raise ValueError("--revision: needs a --model listed by `hia-diffusers models`")
    from huggingface_hub import hf_hub_download

    if Path(model).exists():
        if not Path(model, "model_index.json").is_file():
            from ..conversion.recognition import why_no_pipeline

            raise ValueError(f"--model: {why_no_pipeline(model)}")
        return
    try:
        hf_hub_download(model, "model_index.json")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model: {model!r} is not a folder, is not listed by `hia-diffusers models` and cannot be found "
            f"on the Hub ({error})"
        ) from error


def is_published(model: str) -> bool:
    """Return whether a model is a published checkpoint; a local folder of that name takes precedence."""
    return model in PUBLISHED and not Path(model).exists()


def find_model(model: str, device: str, dtype: str, revision: str | None = None) -> str:
    """Return the folder or Hub id to load; published checkpoints are downloaded and converted."""
    if not is_published(model):
        return model
    from ..conversion.hub_downloads import converted_checkpoint

    return str(converted_checkpoint(model, choose_dtype(dtype, device), revision=revision, notify=print))


def model_defaults(model: str) -> dict[str, Any]:
    """Return the `call_defaults` that a model's index states."""
    from huggingface_hub import hf_hub_download

    is_folder = Path(model).is_dir()
    index = Path(model, "model_index.json") if is_folder else Path(hf_hub_download(model, "model_index.json"))
    return json.loads(index.read_text(encoding="utf-8")).get("call_defaults") or {}


def load_pipeline(model: str, device: str, dtype: str, variant: str | None = None, revision: str | None = None) -> Any:
    """Load a `HIAPipeline` for a device, on the CPU. From then on, diffusers and transformers print only errors."""
    import diffusers
    import transformers

    from ..pipelines.pipeline_hia import HIAPipeline

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found = find_model(model, device, dtype, revision=revision)
    try:
        return HIAPipeline.from_pretrained(found, dtype=choose_dtype(dtype, device), variant=variant)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"--model: {model!r} cannot be loaded ({error})") from error


def check_memory(memory: str, device: str) -> None:
    """Check `--memory` for a device, before anything is loaded."""
    if device == "cpu" and memory not in ("auto", "none"):
        raise ValueError(f"--memory: must be auto or none on the CPU, which has nothing to offload to, got {memory}")


def place_pipeline(
    pipe: "HIAPipeline", device: str, memory: str, height: int, width: int, num_frames: int
) -> "HIAPipeline":
    """Place a pipeline on a device as `--memory` says, and print what was chosen."""
    if device == "cpu" and memory == "auto":
        return pipe.to(device)
    plan = pipe.fit_memory(height=height, width=width, num_frames=num_frames, mode=memory, device=device)
    print(f"Memory: {plan}.")
    return pipe
