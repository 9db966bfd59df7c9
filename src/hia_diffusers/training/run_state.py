# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""State of a run: progress, stopping, saving and resuming."""

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import nn

from ..files import written_whole
from ..folder_lock import FolderInUseError, locked_folder
from .checkpoints import CheckpointFolder, damage_of, step_of
from .config import BaseTrainingConfig


OPTIONS_FILE, STATE_FILE = "options.json", "run.pt"

# Options that may change when a run resumes.
FREE_OPTIONS = {
    "max_train_steps",
    "resume_from_checkpoint",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "validation_data_dir",
    "validation_steps",
    "validation_clips",
    "validation_frames",
    "num_inference_steps",
    "guidance_scale",
    "report_to",
    "logging_dir",
    "dataloader_num_workers",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "max_skipped_steps",
    "output_dir",
}


class Progress:
    """Progress of the run; part of every checkpoint."""

    def __init__(self) -> None:
        self.step = 0  # optimizer steps
        self.batches = 0  # batches of each process
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.unreadable: Counter[str] = Counter()  # reason -> how often another clip replaced the unreadable one

    def count_step(self, is_step: bool) -> None:
        """Count a step.

        Args:
            is_step (`bool`):
                Whether weights changed. If not, because a loss or gradient was not finite, the step was skipped.
        """
        if is_step:
            self.step += 1
            self.skipped_in_a_row = 0
        else:
            self.skipped_steps += 1
            self.skipped_in_a_row += 1

    def count_unreadable(self, skipped: Iterable[str]) -> None:
        """Count the unreadable clips of a batch.

        Args:
            skipped (`Iterable[str]`):
                `skipped` of each sample.
        """
        self.unreadable.update(line for text in skipped for line in text.splitlines())

    def state_dict(self) -> dict[str, Any]:
        """Return the state, combined over all processes, each of which counts its own unreadable clips."""
        unreadable: Counter[str] = Counter()
        for line, times in gather_object(list(self.unreadable.items())):
            unreadable[line] += times
        return {**vars(self), "unreadable": dict(unreadable)}

    def load_state_dict(self, state: dict[str, Any], is_main_process: bool) -> None:
        """Load a state.

        Args:
            state (`dict[str, Any]`):
                Result of `state_dict`.
            is_main_process (`bool`):
                Whether this is the main process, which alone keeps the combined counts.
        """
        vars(self).update(state, unreadable=Counter(state["unreadable"] if is_main_process else {}))


class StopSignal:
    """Record a signal, so that the loop stops at the end of its step.

    Args:
        number (`int`, *optional*, defaults to `signal.SIGTERM`):
            The signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.received = False
        signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.received = True


@contextlib.contextmanager
def averaged_weights(ema: EMAModel | None, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Use the averaged weights instead of the trained ones, if there are any.

    Args:
        ema (`diffusers.training_utils.EMAModel` or `None`):
            Averaged weights.
        parameters (`Sequence[torch.nn.Parameter]`):
            The averaged parameters.
    """
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


# Saving and resuming


def recorded_options(config: BaseTrainingConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Return the options that must be the same when a run resumes.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.

    Returns:
        `dict[str, Any]`: Options by name, as JSON values.
    """
    options = {name: value for name, value in config.as_dict().items() if name not in FREE_OPTIONS}
    options |= {"sizes": config.frame_sizes, "mixed_precision": accelerator.mixed_precision}
    options["num_processes"] = accelerator.num_processes
    return json.loads(json.dumps(options))


def find_checkpoint(config: BaseTrainingConfig, options: dict[str, Any], accelerator: Accelerator) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run.

    Args:
        config ([`BaseTrainingConfig`]):
            Config of the run.
        options (`dict[str, Any]`):
            Result of [`recorded_options`].
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.

    Raises:
        ValueError: If there is no such checkpoint, it is damaged or not the last of its run, the run had other
            options, or `output_dir` contains checkpoints and resuming was not requested.
    """
    folder = Path(config.output_dir)
    steps = CheckpointFolder(folder).steps()
    if config.resume_from_checkpoint is None:
        if steps:
            raise ValueError(
                f"--output_dir: {folder} contains checkpoints of a run; resume with --resume_from_checkpoint latest, "
                "or use another folder."
            )
        return None
    if config.resume_from_checkpoint == "latest":
        if not steps:
            return None
        checkpoint = CheckpointFolder(folder).path(steps[-1])
    else:
        checkpoint = Path(config.resume_from_checkpoint).resolve()
        if not (checkpoint.is_dir() and step_of(checkpoint)):
            raise ValueError(f"--resume_from_checkpoint: there is no checkpoint {config.resume_from_checkpoint}.")
    step = step_of(checkpoint) or 0
    if later := [number for number in steps if number > step]:
        raise ValueError(
            f"--resume_from_checkpoint: {folder} contains a later checkpoint, of step {later[-1]}; use another "
            "--output_dir to resume from an earlier one."
        )
    _refuse_damaged(checkpoint, accelerator)
    _refuse_other_options(checkpoint, options)
    if step > config.max_train_steps:
        raise ValueError(
            f"--max_train_steps must be at least {step}, the step of {checkpoint}, got {config.max_train_steps}."
        )
    return checkpoint


def save_trained_weights_only(accelerator: Accelerator, trained: set[str]) -> None:
    """Exclude constant weights from checkpoints. FSDP and DeepSpeed save in their own formats.

    Args:
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.
        trained (`set[str]`):
            Names of the parameters that are trained.
    """

    def keep_trained(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        for state in weights:
            for name in [name for name in state if name.removeprefix("module.") not in trained]:
                del state[name]

    def load_trained(models: list[nn.Module], folder: str) -> None:
        while models:
            network = accelerator.unwrap_model(models.pop())
            state = load_file(Path(folder) / "model.safetensors")
            state = {name.removeprefix("module."): value for name, value in state.items()}
            if state.keys() != trained:
                raise ValueError("it contains the weights of other layers.")
            network.load_state_dict(state, strict=False)

    accelerator.register_save_state_pre_hook(keep_trained)
    accelerator.register_load_state_pre_hook(load_trained)


def save_run_state(accelerator: Accelerator, progress: Progress, lr_scheduler: Any, average: Any) -> None:
    """Add state to checkpoints that accelerate does not save, or would load from a pickle that may run code.

    Args:
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.
        progress ([`Progress`]):
            Progress of the run.
        lr_scheduler:
            Learning rate scheduler.
        average ([`~diffusers.training_utils.EMAModel`], `torch.nn.Module` or `None`):
            Averaged weights.
    """

    def save(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        state = {"progress": progress.state_dict(), "lr_scheduler": lr_scheduler.state_dict()}
        if average is not None:
            state["ema"] = average.state_dict()
        if accelerator.is_main_process:
            torch.save(state, Path(folder) / STATE_FILE)

    def load(models: list[nn.Module], folder: str) -> None:
        state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
        progress.load_state_dict(state["progress"], accelerator.is_main_process)
        lr_scheduler.load_state_dict(state["lr_scheduler"])
        if average is not None:
            average.load_state_dict(state["ema"])
            average.to(accelerator.device)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def load_checkpoint(accelerator: Accelerator, checkpoint: Path, progress: Progress) -> None:
    """Resume from a checkpoint with intact files. Whether they belong to these networks is known only after loading.

    Args:
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.
        checkpoint (`Path`):
            Result of [`find_checkpoint`].
        progress ([`Progress`]):
            Progress of the run, which is set to that of the checkpoint.

    Raises:
        ValueError: If the checkpoint belongs to other networks, or to another step than its name.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--resume_from_checkpoint: {checkpoint} belongs to other networks: {reason}") from error
    if progress.step != step_of(checkpoint):
        raise ValueError(f"--resume_from_checkpoint: {checkpoint / STATE_FILE} belongs to step {progress.step}.")
    accelerator.print(f"Resuming from {checkpoint}, step {progress.step}.")


def write_options(folder: Path, options: dict[str, Any]) -> None:
    """Write the options of a run.

    Args:
        folder (`Path`):
            Folder of the run.
        options (`dict[str, Any]`):
            Result of [`recorded_options`].
    """
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / OPTIONS_FILE) as path:
        path.write_text(json.dumps(options, indent=2))


@contextlib.contextmanager
def alone_in(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Lock a folder against other runs; the main process does so for all.

    Args:
        folder (`Path`):
            Folder of the run.
        accelerator (`accelerate.Accelerator`):
            Accelerator of the run.

    Raises:
        ValueError: If the folder is in use or not writable; raised on all processes.
    """
    message = None
    with contextlib.ExitStack() as lock:
        if accelerator.is_main_process:
            try:
                lock.enter_context(locked_folder(folder))
            except (OSError, FolderInUseError) as error:
                message = f"--output_dir: {error}"
        _raise_together(message)
        yield


def _refuse_damaged(checkpoint: Path, accelerator: Accelerator) -> None:
    """Check on one process for all."""
    message = None
    if accelerator.is_main_process and (damage := damage_of(checkpoint)):
        whole = CheckpointFolder(checkpoint.parent).last_whole(step_of(checkpoint) or 0)
        advice = "no earlier one is intact" if whole is None else f"{whole} is the last intact one"
        message = f"--resume_from_checkpoint: {damage}. Delete this checkpoint to resume an earlier one: {advice}."
    _raise_together(message)


def _refuse_other_options(checkpoint: Path, options: dict[str, Any]) -> None:
    path = checkpoint.parent / OPTIONS_FILE
    try:
        before = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise ValueError(
            f"--resume_from_checkpoint: {path}, which contains the run's options, is missing or damaged. The last "
            f"intact checkpoint is {checkpoint}."
        )
    changed = [name for name in options if before.get(name) != options[name]]
    if changed:
        listed = ", ".join(f"--{name} was {before.get(name)}, is {options[name]}" for name in changed)
        raise ValueError(f"--resume_from_checkpoint: the run in {checkpoint.parent} had other options: {listed}.")


def _raise_together(message: str | None) -> None:
    """Raise an error on all processes, if the main process has a message."""
    (message,) = broadcast_object_list([message])
    if message:
        raise ValueError(message)
