# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The final pipeline of a run: written atomically, with a model card. And the upload of a run's result."""

import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from huggingface_hub import HfApi

from ..pipelines.pipeline_hia import HIAPipeline
from .config import BaseTrainingConfig, TrainingConfig
from .run_state import FREE_OPTIONS
from .stages import trained_parts


TRAINING_CARD = """
## Training

Stage `{stage}` of `examples/train_hia.py` of hia-diffusers {version}, {steps} steps with torch {torch} on {devices}.

{motion_modules}| option | value |
| --- | --- |
{rows}
"""

WITHOUT_MOTION_MODULES = """\
The motion modules of this pipeline are disabled, as in this stage: its UNet has `use_motion_modules: false`. The
temporal stages enable them.

"""


def training_card(config: TrainingConfig, version: str, accelerator: Accelerator) -> str:
    """Return the section of a trained pipeline's model card about its training.

    Args:
        config ([`TrainingConfig`]):
            Config of the run.
        version (`str`):
            Version of hia-diffusers.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run, which determines the number and kind of devices.
    """
    device = accelerator.device
    is_without = config.lora_rank is None and "motion_modules" not in trained_parts(config)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return TRAINING_CARD.format(
        stage=config.stage,
        version=version,
        steps=config.max_train_steps,
        torch=torch.__version__,
        devices=f"{accelerator.num_processes} x {name}",
        motion_modules=WITHOUT_MOTION_MODULES if is_without else "",
        rows=option_rows(config),
    )


def option_rows(config: BaseTrainingConfig) -> str:
    """Return the rows of a model card's table of options.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.
    """
    options = config.as_dict().items()
    return "\n".join(f"| `{name}` | {value} |" for name, value in options if name not in FREE_OPTIONS)


def trained_call_defaults(config: TrainingConfig) -> dict[str, int]:
    """Return what a call should take by default because the weights were trained with it.

    That is the area of the largest frames and, after a temporal stage, the length of the samples as that of a window.

    Args:
        config ([`TrainingConfig`]):
            Config of the run.
    """
    defaults = {"area": max(height * width for height, width in config.frame_sizes)}
    if config.num_frames > 1:
        defaults |= {"context_frames": config.num_frames, "context_overlap": max(1, config.num_frames // 4)}
    return defaults


def save_whole_pipeline(pipeline: HIAPipeline, folder: Path, card: str) -> None:
    """Write a pipeline that can be loaded only when it is complete: `model_index.json` is written last.

    Args:
        pipeline ([`HIAPipeline`]):
            The pipeline to write.
        folder (`Path`):
            Output folder; a pipeline in it is replaced.
        card (`str`):
            Text to append to the model card.
    """
    unfinished = folder / ".unfinished-pipeline"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    pipeline.save_pretrained(unfinished)
    with open(unfinished / "README.md", "a") as file:
        file.write(card)
    (folder / "model_index.json").unlink(missing_ok=True)  # left by a shorter run
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "model_index.json"):
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        path.replace(folder / path.name)
    unfinished.rmdir()


def push_to_hub(config: TrainingConfig, folder: Path) -> None:
    """Upload a pipeline or LoRA, without other files in its folder.

    Args:
        config ([`TrainingConfig`]):
            Config of the run.
        folder (`Path`):
            Folder of the result.

    Raises:
        RuntimeError: If the upload fails.
    """
    api = HfApi(token=config.hub_token)
    name = config.hub_model_id or folder.resolve().name
    if config.lora_rank is not None:
        patterns = [LORA_WEIGHT_NAME_SAFE, "README.md"]
    else:
        components = json.loads((folder / "model_index.json").read_text())
        patterns = ["model_index.json", "pipeline.py", "README.md", *(f"{component}/*" for component in components)]
    try:
        api.upload_folder(
            repo_id=api.create_repo(name, exist_ok=True).repo_id,
            folder_path=folder,
            allow_patterns=patterns,
            commit_message=f"Stage {config.stage}, {config.max_train_steps} steps",
        )
    except Exception as error:  # from the network, the Hub or its storage, without a common class
        raise RuntimeError(
            f"--push_to_hub: the upload to {name} failed: {' '.join(str(error).split())} The result is in "
            f"{folder}; the same command with --resume_from_checkpoint latest uploads it without training."
        ) from error
