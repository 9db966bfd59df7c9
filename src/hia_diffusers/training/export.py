# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline that a run ends with: written whole, with a model card, and uploaded."""

import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
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
The pipeline leaves its motion modules out, as this stage did: its UNet has `use_motion_modules: false`. They come in
with the temporal stages.

"""


def training_card(config: TrainingConfig, version: str, accelerator: Accelerator) -> str:
    """
    What the model card of a trained pipeline says of its training.

    Args:
        config ([`TrainingConfig`]):
            Of the run.
        version (`str`):
            Of hia-diffusers.
        accelerator (`accelerate.Accelerator`):
            Of the run: on how many of which devices it was.
    """
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return TRAINING_CARD.format(
        stage=config.stage,
        version=version,
        steps=config.max_train_steps,
        torch=torch.__version__,
        devices=f"{accelerator.num_processes} x {name}",
        motion_modules="" if "motion_modules" in trained_parts(config) else WITHOUT_MOTION_MODULES,
        rows=option_rows(config),
    )


def option_rows(config: BaseTrainingConfig) -> str:
    """
    The rows of a model card's table of options.

    Args:
        config ([`BaseTrainingConfig`]):
            Of the run.
    """
    options = config.as_dict().items()
    return "\n".join(f"| `{name}` | {value} |" for name, value in options if name not in FREE_OPTIONS)


def save_whole_pipeline(pipeline: HIAPipeline, folder: Path, card: str) -> None:
    """
    Write a pipeline that can be loaded only when it is whole: `model_index.json` comes last.

    Args:
        pipeline ([`HIAPipeline`]):
            What is written.
        folder (`Path`):
            Where to; a pipeline in it is replaced.
        card (`str`):
            What to add to the model card.
    """
    unfinished = folder / ".unfinished-pipeline"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    pipeline.save_pretrained(unfinished)
    with open(unfinished / "README.md", "a") as file:
        file.write(card)
    (folder / "model_index.json").unlink(missing_ok=True)  # of a shorter run
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "model_index.json"):
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        path.replace(folder / path.name)
    unfinished.rmdir()


def push_to_hub(config: TrainingConfig, folder: Path) -> None:
    """
    Upload a pipeline, and nothing else that lies in its folder.

    Args:
        config ([`TrainingConfig`]):
            Of the run.
        folder (`Path`):
            Of the pipeline.

    Raises:
        `RuntimeError`: the upload fails.
    """
    api = HfApi(token=config.hub_token)
    name = config.hub_model_id or folder.resolve().name
    components = json.loads((folder / "model_index.json").read_text())
    patterns = ["model_index.json", "pipeline.py", "README.md", *(f"{component}/*" for component in components)]
    try:
        api.upload_folder(
            repo_id=api.create_repo(name, exist_ok=True).repo_id,
            folder_path=folder,
            allow_patterns=patterns,
            commit_message=f"Stage {config.stage}, {config.max_train_steps} steps",
        )
    except Exception as error:  # of the network, the Hub or its storage, which have no class in common
        raise RuntimeError(
            f"--push_to_hub: the upload to {name} failed: {' '.join(str(error).split())} The trained pipeline is in "
            f"{folder}; the same command with --resume_from_checkpoint latest uploads it without training."
        ) from error
