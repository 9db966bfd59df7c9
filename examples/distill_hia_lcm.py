# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Distils a HIA pipeline into one that makes clips in 4 steps: latent consistency distillation (arXiv 2310.04378).

    accelerate launch examples/distill_hia_lcm.py --pretrained_model_name_or_path runs/dance/temporal-full \
        --train_data_dir prepared --output_dir runs/dance/lcm

The student, a copy of the teacher's UNet, learns to tell from noisy latents where the teacher's DDIM would end. One
step of DDIM leads from x_t to x_(t-k), which is on the same path and so has the same end: what the average of the
student tells from there is what the student shall tell from x_t. See docs/training.md.
"""

import argparse
import copy
import signal
import sys
from pathlib import Path

import numpy as np
import torch
import train_hia
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration
from diffusers import LCMScheduler
from tqdm.auto import tqdm

import hia_diffusers
from hia_diffusers.commands import running
from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.training.checkpoints import CheckpointFolder
from hia_diffusers.training.components import load_components
from hia_diffusers.training.losses import noisy_latents, predicted_latents
from hia_diffusers.training.stages import train_only


# Options of train_hia.py that mean the same here.
SHARED_OPTIONS = {
    *("output_dir", "pretrained_model_name_or_path", "train_data_dir", "procedural_clips", "procedural_frames"),
    *("sizes", "resolution_scale", "num_frames", "frame_stride", "samples_per_clip", "horizontal_flip_probability"),
    *("static_clip_probability", "blur_condition_dropout", "dataloader_num_workers", "cache_latents"),
    *("cached_epochs", "seed", "max_train_steps", "train_batch_size", "gradient_accumulation_steps"),
    *("gradient_checkpointing", "learning_rate", "scale_lr", "lr_scheduler", "lr_warmup_steps", "lr_num_cycles"),
    *("lr_power", "use_8bit_adam", "use_muon", "adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon"),
    *("max_grad_norm", "max_skipped_steps", "mixed_precision", "checkpointing_steps", "checkpoints_total_limit"),
    *("resume_from_checkpoint", "report_to", "logging_dir"),
}


# 1. Options


def build_parser():
    parser = OneLineParser(
        prog="distill_hia_lcm.py",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    group = parser.add_argument_group("distillation")
    group.add_argument(
        "--teacher_guidance_scale",
        type=train_hia.AT_LEAST_ZERO,
        nargs="+",
        default=[3.5],
        help="of its animation-CFG, or least and greatest, drawn between; 1 for no unconditional branch",
    )
    group.add_argument("--num_ddim_timesteps", type=train_hia.COUNT, default=50, help="steps of the teacher's DDIM")
    group.add_argument(
        "--trainable", choices=("unet", "motion_modules"), nargs="+", default=["unet", "motion_modules"]
    )
    group.add_argument("--loss_type", choices=("huber", "l2"), default="huber")
    group.add_argument("--huber_c", type=train_hia.POSITIVE, default=1e-3, help="where Huber turns from L2 to L1")
    group.add_argument("--ema_decay", type=train_hia.PROBABILITY, default=0.95, help="of the average of the student")

    group = parser.add_argument_group("as of train_hia.py")
    for action in train_hia.build_parser()._actions:
        if action.dest in SHARED_OPTIONS:
            action.required = action.dest in ("output_dir", "pretrained_model_name_or_path")
            group._add_action(action)
    # The first two are no options: the student is never asked without its conditions.
    parser.set_defaults(
        stage="distillation",
        condition_dropout=0.0,
        num_frames=16,
        resolution_scale=1.0,
        static_clip_probability=0.0,
        gradient_accumulation_steps=1,
        max_train_steps=1000,
    )
    return parser


def parse_args(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    if (args.train_data_dir is None) == (args.procedural_clips is None):
        parser.error("give either --train_data_dir or --procedural_clips.")
    scales = args.teacher_guidance_scale
    if len(scales) > 2 or scales != sorted(scales):
        parser.error(f"--teacher_guidance_scale must be one number, or least and greatest, got {scales}.")
    if args.use_8bit_adam and args.use_muon:
        parser.error("give either --use_8bit_adam or --use_muon.")
    if Path(args.pretrained_model_name_or_path).resolve() == Path(args.output_dir).resolve():
        parser.error("--output_dir must be another folder than --pretrained_model_name_or_path.")
    return args


# 2. Consistency


def student_scheduler(teacher_scheduler, num_ddim_timesteps):
    """The scheduler that the student is trained for and run with, on the teacher's noise schedule."""
    num_train_timesteps = teacher_scheduler.config.num_train_timesteps
    if num_ddim_timesteps > num_train_timesteps or num_train_timesteps % num_ddim_timesteps:
        # LCMScheduler would start below the last timestep, where the shifted schedule has its noise.
        raise SystemExit(f"--num_ddim_timesteps must divide {num_train_timesteps}, got {num_ddim_timesteps}.")
    return LCMScheduler.from_config(teacher_scheduler.config, original_inference_steps=num_ddim_timesteps)


def per_sample(values, like):
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def solver_step(scheduler, clean, noisy, timesteps, previous):
    """DDIM from `timesteps` to `previous`, of which -1 is the end, given the clean latents that are predicted."""
    alphas = per_sample(scheduler.alphas_cumprod[timesteps], noisy)
    ends = torch.where(previous < 0, scheduler.final_alpha_cumprod, scheduler.alphas_cumprod[previous.clamp(min=0)])
    ends = per_sample(ends, noisy)
    noise = (noisy - alphas.sqrt() * clean) / (1 - alphas).sqrt()
    return ends.sqrt() * clean + (1 - ends).sqrt() * noise


def consistency(scheduler, output, noisy, timesteps):
    """Where the path ends, as LCMScheduler reads the UNet's answer; the noisy latents themselves at timestep 0."""
    clean = predicted_latents(scheduler, output, noisy, timesteps)
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timesteps)
    return per_sample(skip, noisy) * noisy + per_sample(out, noisy) * clean


def consistency_loss(args, prediction, target):
    difference = prediction.float() - target.float()
    if args.loss_type == "l2":
        return difference.square().mean()
    return ((difference.square() + args.huber_c**2).sqrt() - args.huber_c).mean()


def draw(args, batch_number, rank, shape):
    """Noise, steps of DDIM and guidance scales, by the run's seed and the number of batch and sample."""
    noise, steps, scales = [], [], []
    least, *_, greatest = 2 * args.teacher_guidance_scale
    for position in range(rank * shape[0], (rank + 1) * shape[0]):
        seed = np.random.SeedSequence([args.seed, batch_number, position]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0]))
        steps.append(torch.randint(args.num_ddim_timesteps, (), generator=generator))
        scales.append(torch.empty(()).uniform_(least, greatest, generator=generator))
        noise.append(torch.randn((1, *shape[1:]), generator=generator))
    return torch.cat(noise), torch.stack(steps), torch.stack(scales)


class Distillation:
    """The loss of a batch."""

    def __init__(self, args, accelerator, pipeline, scheduler, student, target, teacher):
        self.args, self.accelerator, self.pipeline, self.scheduler = args, accelerator, pipeline, scheduler
        self.student, self.target, self.teacher = student, target, teacher

    def __call__(self, batch_number, batch):
        args, device, scheduler = self.args, self.accelerator.device, self.scheduler
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items() if torch.is_tensor(value)}
        if not args.cache_latents:
            batch = train_hia.encode(self.pipeline, batch)
        conditions = HIAConditions(
            batch["context"],
            batch["reference_latents"],
            batch["conditioning"],
            null_encoder_hidden_states=batch["null_context"],
        )
        noise, steps, scales = draw(args, batch_number, self.accelerator.process_index, batch["latents"].shape)
        noise, steps, scales = noise.to(device), steps.to(device), scales.to(device)
        stride = scheduler.config.num_train_timesteps // args.num_ddim_timesteps
        timesteps = (steps + 1) * stride - 1
        noisy = noisy_latents(scheduler, batch["latents"], noise, timesteps)

        with torch.no_grad():
            answer = self.guided(noisy, timesteps, conditions, scales)
            clean = predicted_latents(scheduler, answer, noisy, timesteps)
            less_noisy = solver_step(scheduler, clean, noisy, timesteps, timesteps - stride)
            previous = (timesteps - stride).clamp(min=0)
            target = consistency(scheduler, self.target(less_noisy, previous, conditions), less_noisy, previous)
        prediction = consistency(scheduler, self.student(noisy, timesteps, conditions), noisy, timesteps)
        return consistency_loss(args, prediction, target)

    def guided(self, noisy, timesteps, conditions, scales):
        """The teacher's answer under animation-CFG (Eq. 4), with a scale of its own for each sample."""
        answer = self.teacher(noisy, timesteps, conditions)
        if set(self.args.teacher_guidance_scale) == {1}:
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


def export_pipeline(args, scheduler, unet, folder):
    """The teacher with the student's averaged weights and LCMScheduler."""
    pipeline = load_components(pretrained_model_name_or_path=args.pretrained_model_name_or_path).pipeline
    pipeline.unet.load_state_dict(unet)
    pipeline.scheduler = scheduler
    card = CARD.format(
        version=hia_diffusers.__version__,
        steps=args.max_train_steps,
        torch=torch.__version__,
        rows=train_hia.option_rows(args),
    )
    train_hia.save_whole_pipeline(pipeline, folder, card)


def main(args):
    folder = Path(args.output_dir)
    accelerator = Accelerator(
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=args.gradient_accumulation_steps),
        mixed_precision=args.mixed_precision,
        log_with=args.report_to,
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder / args.logging_dir),
    )
    if accelerator.distributed_type in train_hia.SHARDING:
        raise SystemExit("The average of the student needs whole weights: launch with a configuration for DDP.")
    with train_hia.alone_in(folder, accelerator):
        run(args, accelerator, folder)


def run(args, accelerator, folder):
    checkpoints = CheckpointFolder(folder, args.checkpoints_total_limit)
    checkpoint, options = train_hia.check_resumable(args, folder, checkpoints, accelerator)

    # Networks
    dataset = train_hia.build_dataset(args)
    pipeline = load_components(pretrained_model_name_or_path=args.pretrained_model_name_or_path).pipeline
    train_hia.check_fit(args, pipeline)
    scheduler = student_scheduler(pipeline.scheduler, args.num_ddim_timesteps)
    teacher, target, student = (HIADenoiser.of_pipeline(pipeline) for _ in range(3))
    for other in (teacher, target):
        other.unet = copy.deepcopy(pipeline.unet).requires_grad_(False)
    has_motion = pipeline.unet.config.use_motion_modules
    if "motion_modules" in args.trainable and not has_motion:
        raise SystemExit(
            f"--trainable: the UNet of {args.pretrained_model_name_or_path} leaves its motion modules out, as after a "
            "spatial stage; give --trainable unet, or a pipeline of a temporal stage."
        )
    parameters = train_only(student, args.trainable)
    student.unet.set_motion_modules(has_motion)  # as the teacher
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    if args.gradient_checkpointing:
        student.unet.enable_gradient_checkpointing()
    train_hia.freeze_in_half_precision(pipeline, student, accelerator)
    train_hia.move(teacher.unet, accelerator.device, pipeline.vae.dtype)
    target.unet.to(accelerator.device)

    # Data
    loader = train_hia.build_loader(args, accelerator, dataset, pipeline)

    # Optimizer
    optimizer, lr_scheduler = train_hia.build_optimizer(args, parameters, accelerator.num_processes)
    model, optimizer = accelerator.prepare(student, optimizer)
    progress = train_hia.Progress()
    train_hia.save_trained_weights_only(accelerator, trained)
    train_hia.save_run_state(accelerator, progress, lr_scheduler, target.unet)
    if checkpoint is not None:
        train_hia.load_checkpoint(accelerator, checkpoint, progress)
    checkpoints.delete_unfinished(accelerator)
    if accelerator.is_main_process:
        train_hia.write_json(folder / train_hia.OPTIONS_FILE, options)
    if args.report_to:
        accelerator.init_trackers("hia", {name: str(value) for name, value in options.items()})
    stop = train_hia.StopSignal(signal.SIGTERM)

    # Training
    compute_loss = Distillation(args, accelerator, pipeline, scheduler, model, target, teacher)
    bar = tqdm(initial=progress.step, total=args.max_train_steps, disable=not accelerator.is_local_main_process)
    batches = train_hia.numbered_batches(loader, progress.batches)
    total = 0.0
    while progress.step < args.max_train_steps:
        number, batch = next(batches)
        progress.unreadable.update(line for text in batch["skipped"] for line in text.splitlines())
        with accelerator.accumulate(model):
            with accelerator.autocast():
                loss = compute_loss(number, batch)
            accelerator.backward(loss)
            total += loss.detach() / args.gradient_accumulation_steps
            progress.batches = number + 1
            if not accelerator.sync_gradients:
                continue
            # One exchange between the processes: all know the mean, and all stop together.
            sums = torch.stack([total, total.new_tensor(float(stop.received))])
            mean, received = accelerator.reduce(sums, "mean").tolist()
            total = 0.0
            grad_norm = float(accelerator.clip_grad_norm_(parameters, args.max_grad_norm))
            # The scaler of fp16 skips steps whose gradients overflow, and lowers its scale.
            if not np.isfinite(mean) or (accelerator.scaler is None and not np.isfinite(grad_norm)):
                raise SystemExit(
                    f"The loss of step {progress.step + 1}, or its gradient, is not finite: lower --learning_rate, or "
                    "use --mixed_precision bf16 or no."
                )
            optimizer.step()
            is_step = not optimizer.step_was_skipped
            if is_step:
                progress.skipped_in_a_row = 0
                lr_scheduler.step()
                move_towards(target.unet, student.unet, args.ema_decay)
                progress.step += 1
                bar.update()
            else:
                progress.skipped_in_a_row += 1
                progress.skipped_steps += 1
            optimizer.zero_grad()
        if is_step:
            bar.set_postfix(loss=f"{mean:.4f}")
            accelerator.log(
                {"loss": mean, "grad_norm": grad_norm, "lr": lr_scheduler.get_last_lr()[0]}, step=progress.step
            )
        else:
            accelerator.print(f"Step {progress.step + 1} skipped: its gradient overflows in fp16.")
            if progress.skipped_in_a_row >= args.max_skipped_steps:
                raise SystemExit(
                    f"The gradient overflowed in fp16 {progress.skipped_in_a_row} times in a row: lower "
                    "--learning_rate, or use --mixed_precision bf16 or no."
                )
        is_due = is_step and (progress.step == args.max_train_steps or progress.step % args.checkpointing_steps == 0)
        if is_due or (received and progress.step not in (0, *checkpoints.steps())):
            checkpoints.save(progress.step, accelerator.save_state, accelerator)
        if received:
            accelerator.print(f"Stopped by SIGTERM at step {progress.step}; --resume_from_checkpoint latest goes on.")
            accelerator.end_training()
            sys.exit(128 + signal.SIGTERM)

    if accelerator.is_main_process:
        export_pipeline(args, scheduler, target.unet.state_dict(), folder)
    for line, times in progress.state_dict()["unreadable"].items():
        accelerator.print(f"Another clip took the place of one that cannot be read: {line} ({times} times)")
    accelerator.end_training()


def command(argv=None):
    """Runs what the options say; whatever goes wrong is one sentence and status 2."""
    running.run(build_parser(), main, argv, interrupted=train_hia.INTERRUPTED, parse=parse_args)


if __name__ == "__main__":
    command()
