# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Distil an HIA pipeline into one that generates clips in 4 steps: latent consistency distillation (arXiv 2310.04378).

    accelerate launch examples/distill_hia_lcm.py --pretrained_model_name_or_path runs/dance/temporal-full \
        --train_data_dir prepared --output_dir runs/dance/lcm

The student, a copy of the teacher's UNet, learns to predict from noisy latents where the teacher's DDIM would end. One
step of DDIM leads from x_t to x_(t-k), which is on the same path and therefore has the same end: the target of the
student at x_t is the prediction of its averaged weights at x_(t-k). See docs/training.md.
"""

import copy
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import LCMScheduler
from tqdm.auto import tqdm

import hia_diffusers
from hia_diffusers.commands import running
from hia_diffusers.commands.config_parser import ConfigParser
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.training.batches import build_dataset, build_loader, encode, numbered_batches
from hia_diffusers.training.checkpoints import CheckpointFolder
from hia_diffusers.training.config import (
    BaseTrainingConfig,
    Count,
    NonNegative,
    Options,
    Positive,
    Probability,
    option,
)
from hia_diffusers.training.export import option_rows, save_whole_pipeline
from hia_diffusers.training.launch import SHARDING, build_accelerator, build_optimizer, check_fit, move, place_networks
from hia_diffusers.training.losses import noisy_latents, predicted_latents
from hia_diffusers.training.noise import sample_generators
from hia_diffusers.training.run_state import (
    Progress,
    StopSignal,
    alone_in,
    find_checkpoint,
    load_checkpoint,
    recorded_options,
    save_run_state,
    save_trained_weights_only,
    write_options,
)
from hia_diffusers.training.stages import train_only
from hia_diffusers.training.starting_point import load_starting_point


INTERRUPTED = (130, "Interrupted. With --resume_from_checkpoint latest the run resumes from its last checkpoint.\n")


# 1. Options


@dataclass(kw_only=True)
class DistillationOptions(Options):
    """Options of the teacher and the student."""

    _argument_group_name = "distillation"

    pretrained_model_name_or_path: str = field(metadata={"help": "the teacher: an HIA pipeline, by id or folder"})
    teacher_guidance_scale: list[NonNegative] = option(
        [3.5],
        "guidance of the teacher, or least and greatest, drawn between; 1 for no unconditional branch",
    )
    num_ddim_timesteps: Count = option(50, "steps of the teacher's DDIM")
    trainable: list[str] = field(
        default_factory=lambda: ["unet", "motion_modules"],
        metadata={"help": "what is trained", "choices": ("unet", "motion_modules")},
    )
    loss_type: Literal["huber", "l2"] = option("huber", "distance between student and target")
    huber_c: Positive = option(1e-3, "where Huber turns from L2 to L1")
    ema_decay: Probability = option(0.95, "decay of the student's averaged weights")


@dataclass(kw_only=True)
class DistillationConfig(DistillationOptions, BaseTrainingConfig):
    """The options of this script."""

    num_frames: Count = option(16, "frames of a sample")
    gradient_accumulation_steps: Count = option(1, "batches per optimizer step")
    max_train_steps: Count = option(1000, "optimizer steps")

    def validate(self):
        super().validate()
        scales = self.teacher_guidance_scale
        if len(scales) > 2 or scales != sorted(scales):
            raise ValueError(f"--teacher_guidance_scale must be one number, or least and greatest, got {scales}.")
        if Path(self.pretrained_model_name_or_path).resolve() == Path(self.output_dir).resolve():
            raise ValueError("--output_dir must be another folder than --pretrained_model_name_or_path.")


def build_parser():
    return ConfigParser(DistillationConfig, prog="distill_hia_lcm.py", description=__doc__.split("\n")[0])


def parse_args(argv=None):
    return build_parser().parse_args(argv)


# 2. Consistency


def student_scheduler(teacher_scheduler, num_ddim_timesteps):
    """Create the scheduler for training and running the student, with the teacher's noise schedule."""
    num_train_timesteps = teacher_scheduler.config.num_train_timesteps
    if num_ddim_timesteps > num_train_timesteps or num_train_timesteps % num_ddim_timesteps:
        # By default, LCMScheduler starts below the last timestep, but the shifted schedule has its noise there.
        raise ValueError(f"--num_ddim_timesteps must divide {num_train_timesteps}, got {num_ddim_timesteps}.")
    return LCMScheduler.from_config(teacher_scheduler.config, original_inference_steps=num_ddim_timesteps)


def per_sample(values, like):
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def solver_step(scheduler, clean, noisy, timesteps, previous):
    """Run DDIM from `timesteps` to `previous` with the predicted clean latents; -1 is the end."""
    alphas = per_sample(scheduler.alphas_cumprod[timesteps], noisy)
    ends = torch.where(previous < 0, scheduler.final_alpha_cumprod, scheduler.alphas_cumprod[previous.clamp(min=0)])
    ends = per_sample(ends, noisy)
    noise = (noisy - alphas.sqrt() * clean) / (1 - alphas).sqrt()
    return ends.sqrt() * clean + (1 - ends).sqrt() * noise


def consistency(scheduler, output, noisy, timesteps):
    """Return the end of the path that LCMScheduler derives from the UNet's output.

    At timestep 0, this is the noisy latents.
    """
    clean = predicted_latents(scheduler, output, noisy, timesteps)
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timesteps)
    return per_sample(skip, noisy) * noisy + per_sample(out, noisy) * clean


def consistency_loss(config, prediction, target):
    difference = prediction.float() - target.float()
    if config.loss_type == "l2":
        return difference.square().mean()
    return ((difference.square() + config.huber_c**2).sqrt() - config.huber_c).mean()


def draw(config, batch_number, rank, shape):
    """Draw noise, steps of DDIM and guidance scales, which depend on the seed and the numbers of batch and sample."""
    noise, steps, scales = [], [], []
    least, *_, greatest = 2 * config.teacher_guidance_scale
    for generator in sample_generators(config.seed, batch_number, rank, shape[0]):
        steps.append(torch.randint(config.num_ddim_timesteps, (), generator=generator))
        scales.append(torch.empty(()).uniform_(least, greatest, generator=generator))
        noise.append(torch.randn((1, *shape[1:]), generator=generator))
    return torch.cat(noise), torch.stack(steps), torch.stack(scales)


class Distillation:
    """The loss of a batch."""

    def __init__(self, config, accelerator, pipeline, scheduler, student, target, teacher):
        self.config, self.accelerator, self.pipeline, self.scheduler = config, accelerator, pipeline, scheduler
        self.student, self.target, self.teacher = student, target, teacher

    def __call__(self, batch_number, batch):
        config, device, scheduler = self.config, self.accelerator.device, self.scheduler
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items() if torch.is_tensor(value)}
        if "latents" not in batch:
            batch = encode(self.pipeline, batch)
        conditions = HIAConditions(
            batch["context"],
            batch["reference_latents"],
            batch["conditioning"],
            null_encoder_hidden_states=batch["null_context"],
        )
        noise, steps, scales = draw(config, batch_number, self.accelerator.process_index, batch["latents"].shape)
        noise, steps, scales = noise.to(device), steps.to(device), scales.to(device)
        stride = scheduler.config.num_train_timesteps // config.num_ddim_timesteps
        timesteps = (steps + 1) * stride - 1
        noisy = noisy_latents(scheduler, batch["latents"], noise, timesteps)

        with torch.no_grad():
            answer = self.guided(noisy, timesteps, conditions, scales)
            clean = predicted_latents(scheduler, answer, noisy, timesteps)
            less_noisy = solver_step(scheduler, clean, noisy, timesteps, timesteps - stride)
            previous = (timesteps - stride).clamp(min=0)
            target = consistency(scheduler, self.target(less_noisy, previous, conditions), less_noisy, previous)
        prediction = consistency(scheduler, self.student(noisy, timesteps, conditions), noisy, timesteps)
        return consistency_loss(config, prediction, target)

    def guided(self, noisy, timesteps, conditions, scales):
        """Return the teacher's prediction with animation-CFG (Eq. 4), with a separate scale for each sample."""
        answer = self.teacher(noisy, timesteps, conditions)
        if set(self.config.teacher_guidance_scale) == {1}:
            return answer
        unconditional = self.teacher(noisy, timesteps, conditions.drop())
        return unconditional + per_sample(scales, noisy) * (answer - unconditional)


@torch.no_grad()
def move_towards(average, network, decay):
    for value, new in zip(average.parameters(), network.parameters(), strict=True):
        value.lerp_(new, 1 - decay)


# 3. The run


CARD = """
## Distillation

By `examples/distill_hia_lcm.py` of hia-diffusers {version}, {steps} steps with torch {torch}. Call the pipeline with
`num_inference_steps=4, guidance_scale=1`.

| option | value |
| --- | --- |
{rows}
"""


def export_pipeline(config, scheduler, unet, folder):
    """Save the teacher's pipeline with the student's averaged weights and LCMScheduler."""
    pipeline = load_starting_point(config.pretrained_model_name_or_path)
    pipeline.unet.load_state_dict(unet)
    pipeline.scheduler = scheduler
    card = CARD.format(
        version=hia_diffusers.__version__,
        steps=config.max_train_steps,
        torch=torch.__version__,
        rows=option_rows(config),
    )
    save_whole_pipeline(pipeline, folder, card)


def train(config):
    folder = Path(config.output_dir)
    accelerator = build_accelerator(config)
    if accelerator.distributed_type in SHARDING:
        raise ValueError("The average of the student needs whole weights: launch with a configuration for DDP.")
    with alone_in(folder, accelerator):
        train_in(folder, config, accelerator)


def train_in(folder, config, accelerator):
    # 1. Checkpoints
    checkpoints = CheckpointFolder(folder, config.checkpoints_total_limit)
    options = recorded_options(config, accelerator)
    checkpoint = find_checkpoint(config, options, accelerator)

    # 2. Networks
    dataset = build_dataset(config)
    pipeline = load_starting_point(config.pretrained_model_name_or_path)
    check_fit(config, pipeline)
    scheduler = student_scheduler(pipeline.scheduler, config.num_ddim_timesteps)
    teacher, target, student = (HIADenoiser.of_pipeline(pipeline) for _ in range(3))
    for other in (teacher, target):
        other.unet = copy.deepcopy(pipeline.unet).requires_grad_(False)
    has_motion = pipeline.unet.config.use_motion_modules
    if "motion_modules" in config.trainable and not has_motion:
        raise ValueError(
            f"--trainable: the UNet of {config.pretrained_model_name_or_path} leaves its motion modules out, as after "
            "a spatial stage; give --trainable unet, or a pipeline of a temporal stage."
        )
    parameters = train_only(student, config.trainable)
    student.unet.set_motion_modules(has_motion)  # as the teacher
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    if config.gradient_checkpointing:
        student.unet.enable_gradient_checkpointing()
    place_networks(config, accelerator, pipeline, student)
    move(teacher.unet, accelerator.device, pipeline.vae.dtype)
    target.unet.to(accelerator.device)

    # 3. Data
    loader = build_loader(config, accelerator, dataset, pipeline)

    # 4. Optimizer
    optimizer, lr_scheduler = build_optimizer(config, parameters, accelerator.num_processes)
    model, optimizer = accelerator.prepare(student, optimizer)

    # 5. Resume
    progress = Progress()
    save_trained_weights_only(accelerator, trained)
    save_run_state(accelerator, progress, lr_scheduler, target.unet)
    if checkpoint is not None:
        load_checkpoint(accelerator, checkpoint, progress)
    checkpoints.delete_unfinished(accelerator)
    if accelerator.is_main_process:
        write_options(folder, options)
    if config.report_to:
        accelerator.init_trackers("hia", {name: str(value) for name, value in options.items()})
    stop = StopSignal(signal.SIGTERM)

    # 6. Training loop
    compute_loss = Distillation(config, accelerator, pipeline, scheduler, model, target, teacher)
    bar = tqdm(initial=progress.step, total=config.max_train_steps, disable=not accelerator.is_local_main_process)
    batches = numbered_batches(loader, progress.batches)
    total = 0.0
    while progress.step < config.max_train_steps:
        number, batch = next(batches)
        progress.count_unreadable(batch["skipped"])
        with accelerator.accumulate(model):
            with accelerator.autocast():
                loss = compute_loss(number, batch)
            accelerator.backward(loss)
            total += loss.detach() / config.gradient_accumulation_steps
            progress.batches = number + 1
            if not accelerator.sync_gradients:
                continue
            # A single exchange between the processes: all of them get the mean, and stop together.
            sums = torch.stack([total, total.new_tensor(float(stop.received))])
            mean, received = accelerator.reduce(sums, "mean").tolist()
            total = 0.0
            grad_norm = float(accelerator.clip_grad_norm_(parameters, config.max_grad_norm))
            # The scaler of fp16 skips steps whose gradients overflow, and lowers its scale.
            if not np.isfinite(mean) or (accelerator.scaler is None and not np.isfinite(grad_norm)):
                raise RuntimeError(
                    f"The loss of step {progress.step + 1}, or its gradient, is not finite: lower --learning_rate, or "
                    "use --mixed_precision bf16 or no."
                )
            optimizer.step()
            is_step = not optimizer.step_was_skipped
            if is_step:
                lr_scheduler.step()
                move_towards(target.unet, student.unet, config.ema_decay)
                bar.update()
            progress.count_step(is_step)
            optimizer.zero_grad()
        if is_step:
            bar.set_postfix(loss=f"{mean:.4f}")
            accelerator.log(
                {"loss": mean, "grad_norm": grad_norm, "lr": lr_scheduler.get_last_lr()[0]}, step=progress.step
            )
        else:
            accelerator.print(f"Step {progress.step + 1} skipped: its gradient overflows in fp16.")
            if progress.skipped_in_a_row >= config.max_skipped_steps:
                raise RuntimeError(
                    f"The gradient overflowed in fp16 {progress.skipped_in_a_row} times in a row: lower "
                    "--learning_rate, or use --mixed_precision bf16 or no."
                )
        is_due = is_step and (
            progress.step == config.max_train_steps or progress.step % config.checkpointing_steps == 0
        )
        if is_due or (received and progress.step not in (0, *checkpoints.steps())):
            checkpoints.save(progress.step, accelerator.save_state, accelerator)
        if received:
            accelerator.print(f"Stopped by SIGTERM at step {progress.step}; --resume_from_checkpoint latest resumes.")
            accelerator.end_training()
            sys.exit(128 + signal.SIGTERM)

    # 7. Pipeline
    if accelerator.is_main_process:
        export_pipeline(config, scheduler, target.unet.state_dict(), folder)
    for line, times in progress.state_dict()["unreadable"].items():
        accelerator.print(f"Another clip replaced one that cannot be read: {line} ({times} times)")
    accelerator.end_training()


def main(argv=None):
    parser = build_parser()
    running.run(parser, train, argv, INTERRUPTED)


if __name__ == "__main__":
    main()
