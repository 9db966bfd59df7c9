# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Train HIA in four stages: spatial, regional, temporal-half, temporal-full (paper Sec. 3.3 and A.5).

    accelerate launch examples/train_hia.py --stage spatial --train_data_dir prepared --output_dir runs/spatial \
        --pretrained_model_name_or_path runs/start
    accelerate launch examples/train_hia.py --stage regional --train_data_dir prepared --output_dir runs/regional \
        --pretrained_model_name_or_path runs/spatial

Each stage reads a pipeline and writes one; `hia-diffusers convert` creates the first, here runs/start. With
`--lora_rank`, the spatial and the temporal stages train LoRA, and write that instead of a pipeline. Every option can
also be given in a file with `--config FILE.yaml`. See docs/training.md.
"""

import json
import math
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

import hia_diffusers
from hia_diffusers.commands import running
from hia_diffusers.commands.config_parser import ConfigParser
from hia_diffusers.memory.counting import on_meta
from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.training.batches import build_dataset, build_loader, numbered_batches
from hia_diffusers.training.checkpoints import CheckpointFolder
from hia_diffusers.training.config import TrainingConfig
from hia_diffusers.training.export import push_to_hub, save_whole_pipeline, trained_call_defaults, training_card
from hia_diffusers.training.iresnet import IResNet
from hia_diffusers.training.launch import build_accelerator, build_optimizer, check_fit, check_launch, place_networks
from hia_diffusers.training.lora import add_lora, save_lora
from hia_diffusers.training.objective import HIALosses
from hia_diffusers.training.out_of_memory import out_of_memory_as_advice
from hia_diffusers.training.run_state import (
    Progress,
    StopSignal,
    alone_in,
    averaged_weights,
    find_checkpoint,
    load_checkpoint,
    recorded_options,
    save_run_state,
    save_trained_weights_only,
    write_options,
)
from hia_diffusers.training.stages import STAGES, train_only, trained_parts
from hia_diffusers.training.starting_point import load_starting_point
from hia_diffusers.training.validation import Validation


INTERRUPTED = (130, "Interrupted. With --resume_from_checkpoint latest the run resumes from its last checkpoint.\n")


def build_parser():
    return ConfigParser(TrainingConfig, STAGES, prog="train_hia.py", description=__doc__.split("\n")[0])


def parse_args(argv=None):
    return build_parser().parse_args(argv)


def load_arcface(config, accelerator):
    if config.stage != "regional":
        return None
    if config.arcface is None:
        accelerator.print("No --arcface: the identity loss (Eq. 2) is off.")
        return None
    return IResNet.from_weights(config.arcface).to(accelerator.device)


def train(config):
    folder = Path(config.output_dir)
    accelerator = build_accelerator(config)
    check_launch(config, accelerator)
    with alone_in(folder, accelerator):
        train_in(folder, config, accelerator)


def train_in(folder, config, accelerator):
    # 1. Checkpoints
    checkpoints = CheckpointFolder(folder, config.checkpoints_total_limit)
    options = recorded_options(config, accelerator)
    checkpoint = find_checkpoint(config, options, accelerator)

    # 2. Networks
    dataset = build_dataset(config, config.condition_dropout)
    pipeline = load_starting_point(config.pretrained_model_name_or_path)
    check_fit(config, pipeline)
    model = HIADenoiser.of_pipeline(pipeline)
    if config.lora_rank is not None:
        add_lora(model, config)
    parameters = train_only(model, trained_parts(config))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.gradient_checkpointing:
        for network in (model.appearance_encoder, model.controlnet, model.unet):
            network.enable_gradient_checkpointing()
    place_networks(config, accelerator, pipeline, model)
    arcface = load_arcface(config, accelerator)

    # 3. Data
    loader = build_loader(config, accelerator, dataset, pipeline, keep_images=config.stage == "regional")
    validation = Validation(config, pipeline) if config.validation_steps else None

    # 4. Optimizer
    optimizer, lr_scheduler = build_optimizer(config, parameters, accelerator.num_processes)
    networks = on_meta(model)  # to count their memory, before it may be divided between processes
    model, optimizer = accelerator.prepare(model, optimizer)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]  # new ones under FSDP
    ema = None
    if config.use_ema:
        ema = EMAModel(parameters, decay=config.ema_decay)
        ema.to(accelerator.device)

    # 5. Resume
    progress = Progress()
    save_trained_weights_only(accelerator, trained)
    save_run_state(accelerator, progress, lr_scheduler, ema)
    if checkpoint is not None:
        load_checkpoint(accelerator, checkpoint, progress)
    checkpoints.delete_unfinished(accelerator)
    if accelerator.is_main_process:
        write_options(folder, options)
    if config.report_to:
        accelerator.init_trackers("hia", {name: str(value) for name, value in options.items()})
    stop = StopSignal(signal.SIGTERM)

    # 6. Training loop
    compute_losses = HIALosses(config, accelerator, model, pipeline, arcface)
    sums, clips = {}, []  # of the batches of a step
    bar = tqdm(initial=progress.step, total=config.max_train_steps, disable=not accelerator.is_local_main_process)
    batches = numbered_batches(loader, progress.batches)
    while progress.step < config.max_train_steps:
        number, batch = next(batches)
        progress.count_unreadable(batch["skipped"])
        clips += [
            f"{clip}, frames {frames.tolist()}" for clip, frames in zip(batch["clip"], batch["frames"], strict=True)
        ]
        with accelerator.accumulate(model), out_of_memory_as_advice(compute_losses, networks, batch):
            with accelerator.autocast():
                losses = compute_losses(number, batch)
                loss = compute_losses.total(losses)
            accelerator.backward(loss)
            for name, values in losses.items():
                sums[name] = sums.get(name, 0) + values.detach().mean() / config.gradient_accumulation_steps
            sums["stop"] = loss.new_tensor(float(stop.received))
            progress.batches = number + 1
            if not accelerator.sync_gradients:
                continue

            # A single exchange between the processes: all of them get the means, and take the same decision.
            means = dict(zip(sums, accelerator.reduce(torch.stack([*sums.values()]), "mean").tolist(), strict=True))
            is_step = bool(np.isfinite([*means.values()]).all())
            if is_step:
                grad_norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                is_step = accelerator.scaler is not None or math.isfinite(grad_norm)
            if is_step:
                optimizer.step()
                is_step = not optimizer.step_was_skipped  # in fp16, the scaler skips steps whose gradients overflow
            if is_step:
                lr_scheduler.step()
                if ema is not None:
                    ema.step(parameters)
                bar.update()
            progress.count_step(is_step)
            optimizer.zero_grad()
        stopped = means.pop("stop") > 0

        # 6.1 Report
        if is_step:
            total = sum(compute_losses.weights[name] * value for name, value in means.items())
            bar.set_postfix({"loss": f"{total:.4f}", **{name: f"{value:.4f}" for name, value in means.items()}})
            logs = {f"loss/{name}": value for name, value in means.items()}
            logs |= {"loss": total, "lr": lr_scheduler.get_last_lr()[0], "grad_norm": float(grad_norm)}
            accelerator.log({**logs, "skipped_steps": progress.skipped_steps}, step=progress.step)
        else:
            accelerator.print(f"Step {progress.step + 1} skipped: loss or gradient is not finite ({means}).")
            if progress.skipped_in_a_row >= config.max_skipped_steps:
                raise RuntimeError(
                    f"The loss or its gradient was not finite {progress.skipped_in_a_row} times in a row, last with "
                    f"{'; '.join(gather_object(clips))}. Lower --learning_rate, use --mixed_precision bf16 or no, or "
                    "look at these clips."
                )
        sums, clips = {}, []

        # 6.2 Checkpoint and validation
        is_last = progress.step == config.max_train_steps
        is_due = is_step and (is_last or progress.step % config.checkpointing_steps == 0)
        # Steps skipped since the last checkpoint will be skipped again.
        if is_due or (stopped and progress.step not in (0, *checkpoints.steps())):
            checkpoints.save(progress.step, accelerator.save_state, accelerator)
        if stopped:
            accelerator.print(f"Stopped by SIGTERM at step {progress.step}; --resume_from_checkpoint latest resumes.")
            accelerator.end_training()
            sys.exit(128 + signal.SIGTERM)
        if validation is not None and is_step and (is_last or progress.step % config.validation_steps == 0):
            with averaged_weights(ema, parameters), accelerator.autocast():
                if accelerator.is_main_process:
                    metrics = validation.run(folder / "validation" / f"step-{progress.step}")
                    accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, progress.step)
                    accelerator.print(json.dumps({"step": progress.step, **metrics}))
            accelerator.wait_for_everyone()

    # 7. Pipeline
    with averaged_weights(ema, parameters):
        # Copies, because the trained weights are restored in place.
        state = {name: value.cpu().clone() for name, value in accelerator.get_state_dict(model).items()}
    if accelerator.is_main_process:
        state = {name: state[name] for name in trained}
        if config.lora_rank is None:
            export_pipeline(config, state, folder, accelerator)
        else:
            save_lora(pipeline, state, config, training_card(config, hia_diffusers.__version__, accelerator))
            print(f"The LoRA is in {folder}.")
    unreadable = progress.state_dict()["unreadable"]
    if unreadable:
        accelerator.print(f"{sum(unreadable.values())} samples replaced clips that cannot be read:")
        accelerator.print("\n".join(f"  {line} ({times} times)" for line, times in sorted(unreadable.items())))
    accelerator.end_training()
    if config.push_to_hub and accelerator.is_main_process:
        push_to_hub(config, folder)


def export_pipeline(config, trained, folder, accelerator):
    """Save the starting point with the trained weights, in full precision."""
    pipeline = load_starting_point(config.pretrained_model_name_or_path)
    model = HIADenoiser.of_pipeline(pipeline)
    train_only(model, trained_parts(config))  # enables motion modules as in training
    model.load_state_dict(trained, strict=False)
    pipeline.register_to_config(call_defaults={**pipeline.config.call_defaults, **trained_call_defaults(config)})
    save_whole_pipeline(pipeline, folder, training_card(config, hia_diffusers.__version__, accelerator))
    print(f"The pipeline is in {folder}.")


def main(argv=None):
    parser = build_parser()
    running.run(parser, train, argv, INTERRUPTED)


if __name__ == "__main__":
    main()
