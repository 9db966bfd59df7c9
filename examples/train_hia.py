# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Trains HIA in four stages: spatial, regional, temporal-half, temporal-full (paper Sec. 3.3 and A.5).

    accelerate launch examples/train_hia.py --stage spatial --train_data_dir prepared --output_dir runs/spatial \
        --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --image_encoder_name_or_path openai/clip-vit-large-patch14
    accelerate launch examples/train_hia.py --stage regional --train_data_dir prepared --output_dir runs/regional \
        --pretrained_model_name_or_path runs/spatial

Each stage reads a pipeline and writes one. Every option can also stand in a file, `--config FILE.yaml`. See
docs/training.md.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    AutocastKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    LoggerType,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
)
from diffusers.optimization import SchedulerType, get_scheduler
from diffusers.training_utils import EMAModel
from huggingface_hub import HfApi
from safetensors.torch import load_file
from tqdm.auto import tqdm

import hia_diffusers
from hia_diffusers import HIADataset
from hia_diffusers.commands import running
from hia_diffusers.commands.arguments import OneLineParser
from hia_diffusers.conditioning.regions import box_masks
from hia_diffusers.data.aspect_buckets import AspectBucketBatchSampler
from hia_diffusers.data.clips import PreparedClips, ProceduralClips
from hia_diffusers.data.dataset import SAMPLES_VERSION
from hia_diffusers.data.video import write_video
from hia_diffusers.folder_lock import FolderInUseError, locked_folder
from hia_diffusers.memory_counting import on_meta
from hia_diffusers.metrics.evaluation import VideoEvaluation
from hia_diffusers.models.autoencoder import encode_pictures
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.training.checkpoints import CheckpointFolder, damage_of, step_of
from hia_diffusers.training.components import load_components
from hia_diffusers.training.face_identity import aligned_boxes, identity_loss
from hia_diffusers.training.iresnet import IResNet
from hia_diffusers.training.losses import (
    min_snr_weights,
    noise_prediction_loss,
    noisy_latents,
    offset_noise,
    predicted_latents,
    prediction_target,
    regional_loss,
    sample_weights,
)
from hia_diffusers.training.memory import TrainingSetup, out_of_memory_advice
from hia_diffusers.training.regional_decoding import decode_windows, region_windows
from hia_diffusers.training.sample_cache import SampleCache, weights_hash
from hia_diffusers.training.stages import STAGES, TrainingStage, train_only


# What may differ between a run and its continuation.
FREE_OPTIONS = {
    *("config", "max_train_steps", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit"),
    *("validation_data_dir", "validation_steps", "validation_clips", "validation_frames", "num_inference_steps"),
    *("guidance_scale", "report_to", "logging_dir", "dataloader_num_workers", "push_to_hub", "hub_model_id"),
    *("hub_token", "max_skipped_steps", "output_dir"),
}

OPTIONS_FILE, STATE_FILE = "options.json", "run.pt"

# One process validates while the others wait.
VALIDATION_TIMEOUT = timedelta(hours=6)

INTERRUPTED = (130, "Interrupted. With --resume_from_checkpoint latest the run goes on from its last checkpoint.\n")

SHARDING = {DistributedType.FSDP: "fsdp", DistributedType.DEEPSPEED: "zero2"}


# 1. Options


def number(kind, low, high=math.inf, excluded=None):
    """An argument type: an int or a float in `[low, high]`, but finite and not `excluded`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high or value in (excluded, math.inf):
            limits = f"above {low}" if excluded == low else f"of at least {low}"
            if high < math.inf:
                limits += f" and below {high}" if excluded == high else f" and at most {high}"
            raise argparse.ArgumentTypeError(f"must be a {'whole ' * (kind is int)}number {limits}, got {text!r}")
        return value

    return parse


COUNT, ZERO_OR_MORE = number(int, 1), number(int, 0)
PROBABILITY = number(float, 0, 1)
POSITIVE, AT_LEAST_ZERO = number(float, 0, excluded=0), number(float, 0)
ABOVE_ZERO_TO_ONE, BETA = number(float, 0, 1, excluded=0), number(float, 0, 1, excluded=1)


def size(text):
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 512x896, got {text!r}")
    return int(height), int(width)


def tracker(text):
    if text not in LoggerType.list():
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(LoggerType.list())}, got {text!r}")
    if text != "all" and LoggerType(text) not in get_available_trackers():
        raise argparse.ArgumentTypeError(f"{text} is not installed")
    return text


def build_parser():
    parser = OneLineParser(
        prog="train_hia.py",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag = argparse.BooleanOptionalAction

    parser.add_argument("--stage", choices=STAGES, required=True, help="what is trained, and on what")
    parser.add_argument("--config", help="YAML file of options; those on the command line come first")
    parser.add_argument("--output_dir", required=True, help="folder of the checkpoints, and of the pipeline at last")

    group = parser.add_argument_group("starting point, each an id on the Hub or a local folder")
    group.add_argument("--pretrained_model_name_or_path", help="a HIA pipeline, or one in the layout of SD 1.5")
    group.add_argument("--controlnet_model_name_or_path", help="ControlNet of HIA, or of 3 channels, to be widened")
    group.add_argument("--motion_adapter_name_or_path", help="of AnimateDiff; it waits for the temporal stages")
    group.add_argument("--image_encoder_name_or_path", help="CLIP vision tower of the context token")
    group.add_argument("--vae_name_or_path", help="autoencoder instead of the pipeline's")
    group.add_argument("--from_scratch", help="YAML file of the networks' configurations, with random weights")

    group = parser.add_argument_group("data")
    group.add_argument("--train_data_dir", help="folder or URL that examples/prepare_dataset.py wrote")
    group.add_argument("--procedural_clips", type=COUNT, help="train on so many clips of procedural people instead")
    group.add_argument("--procedural_frames", type=COUNT, default=300, help="frames of each of these clips")
    group.add_argument("--sizes", type=size, nargs="+", default=[(896, 512)], help="WIDTHxHEIGHT of aspect buckets")
    group.add_argument("--resolution_scale", type=POSITIVE, help="factor on the sizes")
    group.add_argument("--num_frames", type=COUNT, help="frames of a sample")
    group.add_argument("--frame_stride", type=COUNT, nargs=2, default=[1, 1], help="least and greatest, drawn between")
    group.add_argument("--samples_per_clip", type=COUNT, default=1, help="samples of each clip in an epoch")
    group.add_argument("--horizontal_flip_probability", type=PROBABILITY, default=0.5)
    group.add_argument("--static_clip_probability", type=PROBABILITY, help="how often a clip is a still picture")
    group.add_argument("--condition_dropout", type=PROBABILITY, help="how often reference and ControlNet are off")
    group.add_argument("--blur_condition_dropout", type=PROBABILITY, default=0.1, help="how often the blur is unknown")
    group.add_argument("--dataloader_num_workers", type=ZERO_OR_MORE, default=0)
    group.add_argument("--cache_latents", help="folder in which to keep encoded samples, to draw each of them once")
    group.add_argument("--cached_epochs", type=COUNT, default=1, help="so many epochs are kept and come again")

    group = parser.add_argument_group("losses")
    group.add_argument("--max_timestep", type=number(int, 0, 999), help="noise is drawn for timesteps from 0 to this")
    group.add_argument("--prediction_type", choices=("epsilon", "v_prediction", "sample"), help="of a new schedule")
    group.add_argument("--snr_shift_factor", type=ABOVE_ZERO_TO_ONE, help="gamma of a new schedule, in (0, 1]")
    group.add_argument(
        "--snr_gamma", type=POSITIVE, help="weigh timesteps by min-SNR with this gamma; the paper does not"
    )
    group.add_argument(
        "--loss_on",
        choices=("prediction", "sample"),
        default="prediction",
        help='squared error of what the network predicts, as in the paper, or of the clean latents ("sample")',
    )
    group.add_argument("--noise_offset", type=AT_LEAST_ZERO, default=0.0, help="the paper has none")
    group.add_argument(
        "--spatial_trainable",
        choices=("all", "conditions"),
        default="all",
        help="what the spatial stage trains: all but motion modules, or appearance encoder and ControlNet only, as "
        "MagicAnimate does beside the UNet of its base",
    )
    group.add_argument(
        "--regional_trainable",
        choices=("appearance_encoder", "all"),
        default="appearance_encoder",
        help="what the regional stage trains: the appearance encoder, or all that the spatial stage trained",
    )
    group.add_argument("--face_weight", type=AT_LEAST_ZERO, default=1.0, help="of Eq. 1 in the face")
    group.add_argument("--hand_weight", type=AT_LEAST_ZERO, default=1.0, help="of Eq. 1 in the hands")
    group.add_argument("--identity_weight", type=AT_LEAST_ZERO, default=0.1, help="of Eq. 2")
    group.add_argument(
        "--arcface", help="weights for Eq. 2: .safetensors or .onnx, or hf://owner/name/file; without, it is off"
    )

    group = parser.add_argument_group("optimization")
    group.add_argument("--seed", type=ZERO_OR_MORE, default=0)
    group.add_argument("--max_train_steps", type=COUNT, help="optimizer steps")
    group.add_argument("--train_batch_size", type=COUNT, default=1, help="samples per process and batch")
    group.add_argument("--gradient_accumulation_steps", type=COUNT, help="batches per optimizer step")
    group.add_argument("--gradient_checkpointing", action=flag, default=False, help="less memory, slower")
    group.add_argument("--learning_rate", type=POSITIVE, default=1e-5)
    group.add_argument("--scale_lr", action=flag, default=False, help="multiply it by the samples of a step")
    group.add_argument("--lr_scheduler", choices=[kind.value for kind in SchedulerType], default="constant")
    group.add_argument("--lr_warmup_steps", type=ZERO_OR_MORE, default=500)
    group.add_argument("--lr_num_cycles", type=COUNT, default=1, help="of cosine_with_restarts")
    group.add_argument("--lr_power", type=POSITIVE, default=1.0, help="of polynomial")
    group.add_argument("--use_8bit_adam", action=flag, default=False, help="needs bitsandbytes")
    group.add_argument(
        "--use_muon",
        action=flag,
        default=False,
        help="orthogonal updates of matrices and convolutions, for training from scratch; needs pytorch-optimizer",
    )
    group.add_argument("--adam_beta1", type=BETA, default=0.9)
    group.add_argument("--adam_beta2", type=BETA, default=0.999)
    group.add_argument("--adam_weight_decay", type=AT_LEAST_ZERO, default=0.0)
    group.add_argument("--adam_epsilon", type=POSITIVE, default=1e-8)
    group.add_argument("--max_grad_norm", type=POSITIVE, default=1.0)
    group.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), help="default: that of accelerate config")
    group.add_argument("--allow_tf32", action=flag, default=False)
    group.add_argument("--enable_xformers_memory_efficient_attention", action=flag, default=False)
    group.add_argument("--use_ema", action=flag, default=False, help="save and validate averaged weights")
    group.add_argument("--ema_decay", type=PROBABILITY, default=0.9999)
    group.add_argument("--max_skipped_steps", type=COUNT, default=10, help="stop after so many bad losses in a row")

    group = parser.add_argument_group("checkpoints, validation, reports")
    group.add_argument("--checkpointing_steps", type=COUNT, default=500)
    group.add_argument("--checkpoints_total_limit", type=COUNT)
    group.add_argument("--resume_from_checkpoint", help='a checkpoint folder, or "latest", if there is any')
    group.add_argument(
        "--validation_data_dir", help="prepared clips; default: procedural people that are not trained on"
    )
    group.add_argument("--validation_steps", type=COUNT, help="generate and measure clips every so many steps")
    group.add_argument("--validation_clips", type=COUNT, default=4)
    group.add_argument("--validation_frames", type=COUNT, default=16)
    group.add_argument("--num_inference_steps", type=COUNT, default=25)
    group.add_argument("--guidance_scale", type=AT_LEAST_ZERO, default=3.5)
    group.add_argument("--report_to", type=tracker, help="tensorboard, wandb, all, or another tracker of accelerate")
    group.add_argument("--logging_dir", default="logs", help="under output_dir")
    group.add_argument("--push_to_hub", action=flag, default=False)
    group.add_argument("--hub_model_id", help="default: the name of output_dir")
    group.add_argument("--hub_token")
    return parser


def config_arguments(parser, path, stage):
    """The options of a YAML file, and those under `stages` of its stage, as arguments of a command line."""
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        parser.error(f"--config: {path} cannot be read: {error}")
    stages = config.pop("stages", None) or {} if isinstance(config, dict) else {}
    if not all(isinstance(options, dict) for options in (config, stages)):
        parser.error(f"--config: {path} must hold options, and under `stages` those of stages.")
    if unknown := [str(name) for name in stages if name not in STAGES]:
        parser.error(f"--config: {path} has the unknown stages {', '.join(unknown)}; known are {', '.join(STAGES)}.")
    if not all(isinstance(options, (dict, type(None))) for options in stages.values()):
        parser.error(f"--config: {path} must hold options under each of `stages`.")
    if stage is None and isinstance(config.get("stage"), str):
        stage = config["stage"]
    options = {**config, **(stages.get(stage) or {})}
    known = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    if unknown := [str(name) for name in options if name not in known]:
        parser.error(f"--config: {path} has the unknown options {', '.join(unknown)}.")
    for name, value in options.items():
        # Nested values are none, and may stand for many more than the file holds.
        if any(isinstance(item, (dict, list)) for item in (value if isinstance(value, list) else [value])):
            parser.error(f"--config: {name} in {path} must be a value or a list of values.")
        is_flag = isinstance(known[name], argparse.BooleanOptionalAction)
        if isinstance(value, bool) != is_flag and value is not None:
            parser.error(
                f"--config: {name} in {path} must be true or false, got {value!r}."
                if is_flag
                else f"--config: {name} in {path} is {value!r}; a word that YAML takes for one must be in quotes."
            )
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif isinstance(value, list):
            yield from (f"--{name}", *map(str, value))
        elif value is not None:
            yield f"--{name}={value}"


def parse_args(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    first = OneLineParser(prog="train_hia.py", add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--stage")
    known, _ = first.parse_known_args(argv)
    if known.config:
        argv = [*config_arguments(parser, known.config, known.stage), *argv]
    args = parser.parse_args(argv)
    for field in fields(TrainingStage):
        if getattr(args, field.name, 0) is None:
            setattr(args, field.name, getattr(STAGES[args.stage], field.name))
    if (args.train_data_dir is None) == (args.procedural_clips is None):
        parser.error("give either --train_data_dir or --procedural_clips.")
    if (args.pretrained_model_name_or_path is None) == (args.from_scratch is None):
        parser.error("give either --pretrained_model_name_or_path or --from_scratch.")
    if args.use_8bit_adam and args.use_muon:
        parser.error("give either --use_8bit_adam or --use_muon.")
    if args.snr_gamma is not None and args.loss_on == "sample":
        parser.error("give either --snr_gamma or --loss_on sample: both weigh timesteps.")
    for option, path in vars(args).items():
        if option.endswith("_name_or_path") and path and Path(path).resolve() == Path(args.output_dir).resolve():
            parser.error(f"--output_dir must be another folder than --{option}, which the run reads to its end.")
    return args


# 2. Data


def build_dataset(args):
    if args.train_data_dir:
        source = PreparedClips(args.train_data_dir)
    else:
        source = ProceduralClips("train", args.procedural_clips, args.procedural_frames)
    return HIADataset(
        source,
        args.sizes,
        num_frames=args.num_frames,
        frame_stride=args.frame_stride,
        resolution_scale=args.resolution_scale,
        samples_per_clip=args.samples_per_clip,
        static_clip_probability=args.static_clip_probability,
        horizontal_flip_probability=args.horizontal_flip_probability,
        condition_dropout=args.condition_dropout,
        blur_condition_dropout=args.blur_condition_dropout,
        on_error="skip",
        seed=args.seed,
    )


def build_loader(args, accelerator, dataset, pipeline):
    return torch.utils.data.DataLoader(
        cached_samples(args, accelerator, dataset, pipeline) if args.cache_latents else dataset,
        batch_sampler=AspectBucketBatchSampler(
            dataset, args.train_batch_size, accelerator.num_processes, accelerator.process_index, args.seed
        ),
        num_workers=args.dataloader_num_workers,
        persistent_workers=args.dataloader_num_workers > 0,
        worker_init_fn=leave_process_group,
    )


def numbered_batches(loader, first):
    """Batch number `first` of the run and all that follow, epoch after epoch."""
    sampler = loader.batch_sampler
    epoch, position = divmod(first, len(sampler))
    number = first
    while True:
        sampler.set_epoch(epoch, position)
        for batch in loader:
            yield number, batch
            number += 1
        epoch, position = epoch + 1, 0


def draw_noise(args, batch_number, rank, shape):
    """Noise of `shape` and timesteps, by the run's seed and the number of batch and sample: whatever the processes."""
    noise, timesteps = [], []
    for position in range(rank * shape[0], (rank + 1) * shape[0]):
        seed = np.random.SeedSequence([args.seed, batch_number, position]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0]))
        timesteps.append(torch.randint(args.max_timestep + 1, (), generator=generator))
        sample_noise = torch.randn((1, *shape[1:]), generator=generator)
        noise.append(offset_noise(sample_noise, args.noise_offset, generator))
    return torch.cat(noise), torch.stack(timesteps)


@torch.no_grad()
def encode(pipeline, batch):
    """The batch with what the frozen networks make of its pictures."""
    targets, references = batch["pixel_values"], batch["reference_pixel_values"]
    latents = encode_pictures(pipeline.vae, targets.flatten(0, 1)).unflatten(0, targets.shape[:2])
    context, null_context = pipeline.encode_image((references / 2 + 0.5).clamp(0, 1))
    return {
        **batch,
        "latents": latents.transpose(1, 2),
        "reference_latents": encode_pictures(pipeline.vae, references),
        "context": context.float(),
        "null_context": null_context.float(),
    }


# Pictures and their masks, which only the regional stage looks at once they are encoded.
PICTURES = {
    *("pixel_values", "reference_pixel_values", "face_mask", "hand_masks"),
    *("face_landmarks", "reference_face_landmarks"),
}

# What the samples of a cache depend on, beside the weights of the encoders.
CACHE_OPTIONS = (
    *("train_data_dir", "procedural_clips", "procedural_frames", "sizes", "resolution_scale", "num_frames", "seed"),
    *("frame_stride", "samples_per_clip", "horizontal_flip_probability", "static_clip_probability"),
)


def cached_samples(args, accelerator, dataset, pipeline):
    """The samples of the dataset, encoded, from the folder of the cache, which is filled first."""
    keeps_pictures = args.stage == "regional"
    encoders = (pipeline.vae, pipeline.image_encoder, pipeline.text_encoder)
    key = {name: str(getattr(args, name)) for name in CACHE_OPTIONS} | {"samples_version": str(SAMPLES_VERSION)}
    key |= {"pictures": str(keeps_pictures), "mixed_precision": accelerator.mixed_precision}
    key["encoders"] = weights_hash(network for network in encoders if network is not None)
    with accelerator.main_process_first():
        try:
            cache = SampleCache(dataset, args.cache_latents, args.cached_epochs, key)
        except (OSError, ValueError) as error:
            raise SystemExit(f"--cache_latents: {error}") from error

    def encode_to_keep(batch):
        pictures = {key: batch[key].to(accelerator.device) for key in ("pixel_values", "reference_pixel_values")}
        with accelerator.autocast():
            batch = batch | {key: value.cpu() for key, value in encode(pipeline, pictures).items()}
        return {key: value for key, value in batch.items() if keeps_pictures or key not in PICTURES}

    filling = cache.fill(
        encode_to_keep, accelerator.process_index, accelerator.num_processes, args.dataloader_num_workers
    )
    for missing in (bar := tqdm(filling, desc="Filling the cache", disable=not accelerator.is_local_main_process)):
        bar.set_postfix(missing=missing)
    accelerator.wait_for_everyone()
    return cache


# 3. Losses


class HIALosses:
    """The losses of a batch by name, each `(B,)`, one per sample."""

    def __init__(self, args, accelerator, model, pipeline, arcface):
        self.args, self.accelerator = args, accelerator
        self.model, self.pipeline, self.arcface = model, pipeline, arcface
        self.weights = {"noise": 1.0}
        if args.stage == "regional":
            self.weights |= {"face": args.face_weight, "hands": args.hand_weight}
            if arcface is not None:
                self.weights["identity"] = args.identity_weight

    def __call__(self, batch_number, batch):
        args, device, scheduler = self.args, self.accelerator.device, self.pipeline.scheduler
        windows = self.windows(batch) if args.stage == "regional" else None
        dropped = batch["drop_conditions"].to(device) if batch["drop_conditions"].any() else None
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items() if torch.is_tensor(value)}
        if not args.cache_latents:
            batch = encode(self.pipeline, batch)
        latents = batch["latents"]
        conditions = HIAConditions(
            batch["context"],
            batch["reference_latents"],
            batch["conditioning"],
            null_encoder_hidden_states=batch["null_context"],
            unconditional=False if dropped is None else dropped,
        )
        noise, timesteps = draw_noise(args, batch_number, self.accelerator.process_index, latents.shape)
        noise, timesteps = noise.to(device), timesteps.to(device)
        noisy = noisy_latents(scheduler, latents, noise, timesteps)

        output = self.model(noisy, timesteps, conditions)
        target = prediction_target(scheduler, latents, noise, timesteps)
        losses = {"noise": noise_prediction_loss(output, target, self.timestep_weights(timesteps))}
        if args.stage == "regional":
            clean = predicted_latents(scheduler, output, noisy, timesteps)
            losses |= self.regional(clean.transpose(1, 2).flatten(0, 1), windows, batch)
        return losses

    def timestep_weights(self, timesteps):
        scheduler = self.pipeline.scheduler
        if self.args.snr_gamma is not None:
            return min_snr_weights(scheduler, timesteps, self.args.snr_gamma)
        return sample_weights(scheduler, timesteps) if self.args.loss_on == "sample" else None

    def total(self, losses):
        return sum(self.weights[name] * values.mean() for name, values in losses.items())

    def windows(self, batch):
        """Where to decode faces and hands; those of faces hold all that ArcFace sees. The masks are on the host."""
        faces, hands = (batch[key].flatten(0, 1) for key in ("face_mask", "hand_masks"))
        if self.arcface is not None:
            boxes = aligned_boxes(batch["face_landmarks"].flatten(0, 1)).numpy()
            faces = faces.maximum(torch.from_numpy(box_masks(boxes, *faces.shape[-2:]))[:, None])
        return [region_windows(masks, self.pipeline.vae_scale_factor) for masks in (faces, hands)]

    def regional(self, latents, windows, batch):
        """Eq. 1 in faces and hands, and Eq. 2, on pictures `x0'` that are decoded with gradient."""
        num_frames = batch["pixel_values"].shape[1]
        frames = {name: values.flatten(0, 1) for name, values in batch.items() if values.ndim > 2}
        left, right = frames["hand_masks"].unbind(1)
        hand_masks = torch.stack([left, right * (1 - left)], dim=1)  # pixels of both hands count once
        losses, predicted = {}, decode_windows(self.pipeline.vae, latents, windows)
        masks = (frames["face_mask"], hand_masks)
        for name, group, pictures, mask in zip(("face", "hands"), windows, predicted, masks, strict=True):
            losses[name] = regional_loss(pictures, group.cut(frames["pixel_values"]), group.cut(mask[:, :, None]))
        if self.arcface is not None:
            corners = self.pipeline.vae_scale_factor * windows[0].corners.flip(-1).to(latents.device)
            landmarks = frames["face_landmarks"].clone()
            landmarks[..., :2] -= corners
            losses["identity"] = identity_loss(
                self.arcface,
                predicted[0][:, 0],
                batch["reference_pixel_values"].repeat_interleave(num_frames, dim=0),
                landmarks,
                batch["reference_face_landmarks"].repeat_interleave(num_frames, dim=0),
            )
        kept = 1 - batch["drop_conditions"].float()
        return {name: values.unflatten(0, (-1, num_frames)).mean(dim=1) * kept for name, values in losses.items()}


# 4. Validation


class Validation:
    """Clips that are not trained on, generated by the pipeline and measured."""

    def __init__(self, args, pipeline):
        self.args, self.pipeline = args, pipeline
        if args.validation_data_dir:
            source = PreparedClips(args.validation_data_dir)
        else:
            source = ProceduralClips("validation", args.validation_clips)
        self.dataset = HIADataset(
            source, args.sizes, args.validation_frames, resolution_scale=args.resolution_scale, on_error="skip"
        )
        if args.validation_clips > len(self.dataset):
            raise ValueError(
                f"--validation_clips must be at most {len(self.dataset)}, the clips that are long enough, got "
                f"{args.validation_clips}."
            )

    @torch.no_grad()
    def run(self, folder):
        """Writes reference, condition, generated and true frames side by side; returns the measures."""
        evaluation = VideoEvaluation()
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(self.args.validation_clips):
            sample = self.dataset[index]
            reference = sample["reference_pixel_values"][None] / 2 + 0.5
            frames = self.pipeline(
                reference,
                sample["conditioning"],
                num_inference_steps=self.args.num_inference_steps,
                guidance_scale=self.args.guidance_scale,
                generator=torch.Generator().manual_seed(index),
                output_type="pt",
            ).frames[0]
            targets = sample["pixel_values"] / 2 + 0.5
            generated, true = as_bytes(frames), as_bytes(targets)
            face_mask, hand_masks = (sample[key].numpy() > 0 for key in ("face_mask", "hand_masks"))
            evaluation.add(sample["clip"], generated, true, face_mask[:, 0], hand_masks)
            condition = as_bytes(sample["conditioning"][:, :3])
            rows = [as_bytes(reference.expand_as(targets)), condition, generated, true]
            write_video(folder / f"{index}.mp4", np.concatenate(rows, axis=2), fps=30)
        return {name: result["value"] for name, result in evaluation.measures().items() if result["value"] is not None}


def as_bytes(pictures):
    """`(F, 3, H, W)` in [0, 1] as uint8 `(F, H, W, 3)`."""
    return (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


# 5. Parts of the run


def freeze_in_half_precision(pipeline, model, accelerator):
    """Networks without a trained parameter are kept in the precision they run in. FSDP wants one precision."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    for network in (pipeline.vae, pipeline.image_encoder, pipeline.text_encoder):
        if network is not None:
            move(network.requires_grad_(False), accelerator.device, dtype)
    if accelerator.distributed_type == DistributedType.FSDP:
        dtype = torch.float32
    for network in model.children():
        trained = any(parameter.requires_grad for parameter in network.parameters())
        move(network, accelerator.device, torch.float32 if trained else dtype)


def move(network, device, dtype):
    network.to(device)
    if network.dtype != dtype:  # diffusers warns at every change of precision
        network.to(dtype)


def leave_process_group(worker):
    """A signal for the whole group must not reach those who load data: the step needs their batches to its end."""
    os.setsid()


class StopSignal:
    """Notes a signal, for the loop to stop at the end of its step."""

    def __init__(self, number):
        self.received = False
        signal.signal(number, self._note)

    def _note(self, number, frame):
        self.received = True


@contextlib.contextmanager
def averaged_weights(ema, parameters):
    """The averaged weights in place of the trained ones, where there are any."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


@contextlib.contextmanager
def out_of_memory_as_advice(compute_losses, networks, batch):
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        traceback.clear_frames(error.__traceback__)  # the failed step's tensors: an estimate needs memory, too
        raise SystemExit(advice(compute_losses, networks, batch)) from error


def advice(compute_losses, networks, batch):
    args, accelerator, pipeline = compute_losses.args, compute_losses.accelerator, compute_losses.pipeline
    device = accelerator.device
    if device.type == "cuda":
        device_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        device_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    vae, windows = None, []
    frozen = [pipeline.image_encoder, pipeline.text_encoder, compute_losses.arcface]
    if args.stage == "regional":
        vae, windows = pipeline.vae, compute_losses.windows(batch)
    else:
        frozen.append(pipeline.vae)
    setup = TrainingSetup(
        parts=trained_parts(args),
        height=batch["conditioning"].shape[-2],
        width=batch["conditioning"].shape[-1],
        num_frames=args.num_frames,
        batch_size=args.train_batch_size,
        mixed_precision=accelerator.mixed_precision,
        gradient_checkpointing=args.gradient_checkpointing,
        optimizer="adamw8bit" if args.use_8bit_adam else "muon" if args.use_muon else "adamw",
        ema=args.use_ema,
        num_processes=accelerator.num_processes,
        sharding=SHARDING.get(accelerator.distributed_type, "ddp"),
        windows=tuple(
            (group.corners.shape[1], *(pipeline.vae_scale_factor * side for side in (group.height, group.width)))
            for group in windows
        ),
    )
    frozen = [network for network in frozen if network is not None]
    return out_of_memory_advice(networks, setup, device_bytes, vae, frozen)


def trained_parts(args):
    if args.stage == "spatial" and args.spatial_trainable == "conditions":
        return ("appearance_encoder", "controlnet")
    if args.stage == "regional" and args.regional_trainable == "all":
        return STAGES["spatial"].parts
    return STAGES[args.stage].parts


def save_trained_weights_only(accelerator, trained):
    """Checkpoints leave out what no step changes. FSDP and DeepSpeed save in their own ways."""

    def keep_trained(models, weights, folder):
        for state in weights:
            for name in [name for name in state if name.removeprefix("module.") not in trained]:
                del state[name]

    def load_trained(models, folder):
        while models:
            network = accelerator.unwrap_model(models.pop())
            state = load_file(Path(folder) / "model.safetensors")
            state = {name.removeprefix("module."): value for name, value in state.items()}
            if state.keys() != trained:
                raise SystemExit(f"--resume_from_checkpoint: {folder} holds the weights of other layers.")
            network.load_state_dict(state, strict=False)

    accelerator.register_save_state_pre_hook(keep_trained)
    accelerator.register_load_state_pre_hook(load_trained)


def save_run_state(accelerator, progress, lr_scheduler, ema):
    """What accelerate does not know of, or would load from a pickle that may run code."""

    def save(models, weights, folder):
        state = {"progress": progress.state_dict(), "lr_scheduler": lr_scheduler.state_dict()}
        if ema is not None:
            state["ema"] = ema.state_dict()
        if accelerator.is_main_process:
            torch.save(state, Path(folder) / STATE_FILE)

    def load(models, folder):
        state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
        progress.load_state_dict(state["progress"], accelerator.is_main_process)
        lr_scheduler.load_state_dict(state["lr_scheduler"])
        if ema is not None:
            ema.load_state_dict(state["ema"])
            ema.to(accelerator.device)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def build_components(args):
    return load_components(
        pretrained_model_name_or_path=args.pretrained_model_name_or_path,
        controlnet_model_name_or_path=args.controlnet_model_name_or_path,
        motion_adapter_name_or_path=args.motion_adapter_name_or_path,
        image_encoder_name_or_path=args.image_encoder_name_or_path,
        vae_name_or_path=args.vae_name_or_path,
        from_scratch=args.from_scratch,
        snr_shift_factor=args.snr_shift_factor,
        prediction_type=args.prediction_type,
        seed=args.seed,
    )


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


def option_rows(args):
    """Of a table in a model card."""
    return "\n".join(f"| `{name}` | {value} |" for name, value in vars(args).items() if name not in FREE_OPTIONS)


def training_card(args, devices):
    return TRAINING_CARD.format(
        stage=args.stage,
        version=hia_diffusers.__version__,
        steps=args.max_train_steps,
        torch=torch.__version__,
        devices=devices,
        motion_modules="" if "motion_modules" in trained_parts(args) else WITHOUT_MOTION_MODULES,
        rows=option_rows(args),
    )


def save_whole_pipeline(pipeline, folder, training_card):
    """What is told of the training goes to the end of the model card; `model_index.json` comes last."""
    unfinished = folder / ".unfinished-pipeline"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    pipeline.save_pretrained(unfinished)
    with open(unfinished / "README.md", "a") as card:
        card.write(training_card)
    (folder / "model_index.json").unlink(missing_ok=True)  # of a shorter run
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "model_index.json"):
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        path.replace(folder / path.name)
    unfinished.rmdir()


def push_to_hub(args, folder):
    """The pipeline, and nothing else that lies in its folder."""
    api = HfApi(token=args.hub_token)
    name = args.hub_model_id or folder.resolve().name
    components = json.loads((folder / "model_index.json").read_text())
    try:
        api.upload_folder(
            repo_id=api.create_repo(name, exist_ok=True).repo_id,
            folder_path=folder,
            allow_patterns=[
                *("model_index.json", "pipeline.py", "README.md"),
                *(f"{component}/*" for component in components),
            ],
            commit_message=f"Stage {args.stage}, {args.max_train_steps} steps",
        )
    except Exception as error:  # of the network, the Hub or its storage, which have no class in common
        raise SystemExit(
            f"--push_to_hub: the upload to {name} failed: {' '.join(str(error).split())} The trained pipeline is in "
            f"{folder}; the same command with --resume_from_checkpoint latest uploads it without training."
        ) from error


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.write_text(json.dumps(content, indent=2))
    unfinished.rename(path)


def export_pipeline(args, trained, folder, devices):
    """The starting point with the trained weights, in full precision."""
    pipeline = build_components(args).pipeline
    model = HIADenoiser.of_pipeline(pipeline)
    train_only(model, trained_parts(args))  # motion modules take part as in training
    model.load_state_dict(trained, strict=False)
    save_whole_pipeline(pipeline, folder, training_card(args, devices))


# 6. The run


class Progress:
    """Where the run is; part of every checkpoint."""

    def __init__(self):
        self.step = 0  # optimizer steps
        self.batches = 0  # batches of each process
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.unreadable = Counter()  # what was wrong with a clip -> how often another took its place

    def state_dict(self):
        """On all processes together: each knows its own unreadable clips."""
        lines = gather_object(list(self.unreadable.items()))
        unreadable = Counter()
        for line, times in lines:
            unreadable[line] += times
        return {**vars(self), "unreadable": dict(unreadable)}

    def load_state_dict(self, state, is_main_process):
        vars(self).update(state, unreadable=Counter(state["unreadable"] if is_main_process else {}))


def check_resumable(args, folder, checkpoints, accelerator):
    """The checkpoint to go on from, or none. Options that would change the run are refused."""
    options = {name: value for name, value in vars(args).items() if name not in FREE_OPTIONS}
    options |= {"mixed_precision": accelerator.mixed_precision, "num_processes": accelerator.num_processes}
    options = json.loads(json.dumps(options))
    steps = checkpoints.steps()
    if args.resume_from_checkpoint is None:
        if steps:
            raise SystemExit(
                f"--output_dir: {folder} holds checkpoints of a run; go on with --resume_from_checkpoint latest, or "
                "give another folder."
            )
        return None, options
    if args.resume_from_checkpoint == "latest":
        if not steps:
            return None, options
        checkpoint = checkpoints.path(steps[-1])
    else:
        checkpoint = Path(args.resume_from_checkpoint).resolve()
        if not (checkpoint.is_dir() and step_of(checkpoint)):
            raise SystemExit(f"--resume_from_checkpoint: there is no checkpoint {args.resume_from_checkpoint}.")
        later = [step for step in steps if step > step_of(checkpoint)]
        if later:
            raise SystemExit(
                f"--resume_from_checkpoint: {folder} holds a later checkpoint, of step {later[-1]}; give another "
                "--output_dir to go on from an earlier one."
            )
    refuse_damaged(checkpoint, accelerator)
    path = checkpoint.parent / OPTIONS_FILE
    try:
        before = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise SystemExit(
            f"--resume_from_checkpoint: {path}, which holds the run's options, is missing or damaged. The last "
            f"checkpoint that is whole is {checkpoint}."
        )
    changed = [name for name in options if before.get(name) != options[name]]
    if changed:
        listed = ", ".join(f"--{name} was {before.get(name)}, is {options[name]}" for name in changed)
        raise SystemExit(f"--resume_from_checkpoint: the run in {checkpoint.parent} had other options: {listed}.")
    if step_of(checkpoint) > args.max_train_steps:
        raise SystemExit(
            f"--max_train_steps must be at least {step_of(checkpoint)}, the step of {checkpoint}, got "
            f"{args.max_train_steps}."
        )
    return checkpoint, options


def refuse_damaged(checkpoint, accelerator):
    """One process looks, for all."""
    message = None
    if accelerator.is_main_process and (damage := damage_of(checkpoint)):
        whole = CheckpointFolder(checkpoint.parent).last_whole(step_of(checkpoint))
        advice = "no earlier one is whole" if whole is None else f"{whole} is the last one that is whole"
        message = f"--resume_from_checkpoint: {damage}. Delete this checkpoint to go on from an earlier one: {advice}."
    exit_together(message)


def exit_together(message):
    """On all processes, if the main process has a message."""
    (message,) = broadcast_object_list([message])
    if message:
        raise SystemExit(message)


@contextlib.contextmanager
def alone_in(folder, accelerator):
    """Keeps other runs out of the folder; the main process does so for all."""
    message = None
    with contextlib.ExitStack() as lock:
        if accelerator.is_main_process:
            try:
                lock.enter_context(locked_folder(folder))
            except (OSError, FolderInUseError) as error:
                message = f"--output_dir: {error}"
        exit_together(message)
        yield


def load_checkpoint(accelerator, checkpoint, progress):
    """Its files are whole; but whether they are of these networks, and of this step, only loading tells."""
    try:
        accelerator.load_state(checkpoint)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SystemExit(f"--resume_from_checkpoint: {checkpoint} is not of these networks: {reason}") from error
    if progress.step != step_of(checkpoint):
        raise SystemExit(f"--resume_from_checkpoint: {checkpoint / STATE_FILE} is of step {progress.step}.")
    accelerator.print(f"Going on from {checkpoint}, step {progress.step}.")


def check_fit(args, pipeline):
    """Sizes and lengths that the networks cannot take."""
    factor = pipeline.vae_scale_factor
    for height, width in args.sizes:
        if any(side * args.resolution_scale % factor for side in (height, width)):
            raise SystemExit(
                f"--sizes must be multiples of {factor} times --resolution_scale {args.resolution_scale:g}, got "
                f"{width}x{height}."
            )
    longest = pipeline.unet.config.motion_max_seq_length
    if args.num_frames > longest:
        raise SystemExit(
            f"--num_frames must be at most {longest}, what the motion modules can tell apart, got {args.num_frames}."
        )


def agree_with_launcher(args, accelerator):
    """Refuses options that do not go with the way accelerate was launched, and hands DeepSpeed its share of them."""
    kind = accelerator.distributed_type
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and kind != DistributedType.FSDP:
        raise SystemExit("accelerate uses FSDP between several GPUs only: launch with a configuration for DDP here.")
    for option in ("use_ema", "use_muon"):
        if getattr(args, option) and kind in SHARDING:
            raise SystemExit(f"--{option} cannot be used with FSDP or DeepSpeed, which split the weights.")
    if args.validation_steps and kind == DistributedType.FSDP:
        raise SystemExit("--validation_steps cannot be used with FSDP: no process holds the whole weights.")
    if kind == DistributedType.DEEPSPEED:  # it accumulates and clips by itself
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=args.train_batch_size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            gradient_clipping=args.max_grad_norm,
        )


def build_optimizer(args, parameters, num_processes):
    """The optimizer and its schedule of learning rates."""
    learning_rate = args.learning_rate
    if args.scale_lr:
        learning_rate *= args.train_batch_size * args.gradient_accumulation_steps * num_processes
    adam = {
        "lr": learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.adam_weight_decay,
        "eps": args.adam_epsilon,
    }
    if args.use_muon:
        try:
            from pytorch_optimizer import Muon
        except ImportError as error:
            raise SystemExit("--use_muon needs pytorch-optimizer: pip install pytorch-optimizer") from error
        matrices, others = ([p for p in parameters if (p.ndim >= 2) is wanted] for wanted in (True, False))
        # Updates of the size of Adam's, so that they have its learning rate.
        muon = {"lr": learning_rate, "weight_decay": args.adam_weight_decay, "use_adjusted_lr": True}
        optimizer = Muon(
            [{"params": matrices, "use_muon": True, **muon}, {"params": others, "use_muon": False, **adam}]
        )
    elif args.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise SystemExit("--use_8bit_adam needs bitsandbytes: pip install bitsandbytes") from error
        optimizer = AdamW8bit(parameters, **adam)
    else:
        optimizer = torch.optim.AdamW(parameters, **adam)
    return optimizer, get_scheduler(
        args.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=args.max_train_steps,
        num_cycles=args.lr_num_cycles,
        power=args.lr_power,
    )


def main(args):
    folder = Path(args.output_dir)
    autocast = AutocastKwargs()
    accelerator = Accelerator(
        # `gradient_accumulation_steps` would give way to that of accelerate's configuration.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=args.gradient_accumulation_steps),
        mixed_precision=args.mixed_precision,
        log_with=args.report_to,
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder / args.logging_dir),
        kwargs_handlers=[
            autocast,
            InitProcessGroupKwargs(timeout=VALIDATION_TIMEOUT),
        ],
    )
    # Keeps cast copies of all weights through the step: saves a fifth of the time on a CPU, and is too much for a GPU.
    autocast.cache_enabled = accelerator.device.type == "cpu"
    agree_with_launcher(args, accelerator)
    with alone_in(folder, accelerator):
        run(args, accelerator, folder)


def run(args, accelerator, folder):
    checkpoints = CheckpointFolder(folder, args.checkpoints_total_limit)
    checkpoint, options = check_resumable(args, folder, checkpoints, accelerator)
    if args.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True

    dataset = build_dataset(args)

    # Networks
    loaded = build_components(args)
    pipeline = loaded.pipeline
    check_fit(args, pipeline)
    accelerator.print(loaded.report)
    model = HIADenoiser.of_pipeline(pipeline)
    parameters = train_only(model, trained_parts(args))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if args.gradient_checkpointing:
        for network in (model.appearance_encoder, model.controlnet, model.unet):
            network.enable_gradient_checkpointing()
    if args.enable_xformers_memory_efficient_attention:
        pipeline.enable_xformers_memory_efficient_attention()
    freeze_in_half_precision(pipeline, model, accelerator)
    arcface = None
    if args.stage == "regional":
        if args.arcface:
            arcface = IResNet.from_weights(args.arcface).to(accelerator.device)
        else:
            accelerator.print("No --arcface: the identity loss (Eq. 2) is off.")

    # Data
    loader = build_loader(args, accelerator, dataset, pipeline)
    validation = Validation(args, pipeline) if args.validation_steps else None

    # Optimizer
    optimizer, lr_scheduler = build_optimizer(args, parameters, accelerator.num_processes)
    networks = on_meta(model)  # to count their memory, before processes may divide it
    model, optimizer = accelerator.prepare(model, optimizer)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]  # new ones under FSDP
    progress = Progress()
    ema = None
    if args.use_ema:
        ema = EMAModel(parameters, decay=args.ema_decay)
        ema.to(accelerator.device)
    save_trained_weights_only(accelerator, trained)
    save_run_state(accelerator, progress, lr_scheduler, ema)

    # Resume
    if checkpoint is not None:
        load_checkpoint(accelerator, checkpoint, progress)
    checkpoints.delete_unfinished(accelerator)
    if accelerator.is_main_process:
        write_json(folder / OPTIONS_FILE, options)
    if args.report_to:
        accelerator.init_trackers("hia", {name: str(value) for name, value in options.items()})
    stop = StopSignal(signal.SIGTERM)

    # Training
    compute_losses = HIALosses(args, accelerator, model, pipeline, arcface)
    sums, clips = {}, []
    bar = tqdm(initial=progress.step, total=args.max_train_steps, disable=not accelerator.is_local_main_process)
    batches = numbered_batches(loader, progress.batches)
    while progress.step < args.max_train_steps:
        number, batch = next(batches)
        progress.unreadable.update(line for text in batch["skipped"] for line in text.splitlines())
        clips += [
            f"{clip}, frames {frames.tolist()}" for clip, frames in zip(batch["clip"], batch["frames"], strict=True)
        ]
        with accelerator.accumulate(model), out_of_memory_as_advice(compute_losses, networks, batch):
            with accelerator.autocast():
                losses = compute_losses(number, batch)
                loss = compute_losses.total(losses)
            accelerator.backward(loss)
            for name, values in losses.items():
                sums[name] = sums.get(name, 0) + values.detach().mean() / args.gradient_accumulation_steps
            sums["stop"] = loss.new_tensor(float(stop.received))
            progress.batches = number + 1
            if not accelerator.sync_gradients:
                continue

            # One exchange between the processes: all know the means, and all do the same.
            means = dict(zip(sums, accelerator.reduce(torch.stack([*sums.values()]), "mean").tolist(), strict=True))
            sums = {}
            is_step = bool(np.isfinite([*means.values()]).all())
            if is_step:
                grad_norm = accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
                is_step = accelerator.scaler is not None or math.isfinite(grad_norm)
            if is_step:
                optimizer.step()
                is_step = not optimizer.step_was_skipped  # in fp16, by the scaler, where gradients overflow
            if is_step:
                progress.skipped_in_a_row = 0
                lr_scheduler.step()
                if ema is not None:
                    ema.step(parameters)
                progress.step += 1
                bar.update()
            else:
                progress.skipped_in_a_row += 1
                progress.skipped_steps += 1
            optimizer.zero_grad()
        received = means.pop("stop") > 0
        clips_of_step, clips = clips, []
        if not is_step:
            accelerator.print(f"Step {progress.step + 1} skipped: loss or gradient is not finite ({means}).")
            if progress.skipped_in_a_row >= args.max_skipped_steps:
                raise SystemExit(
                    f"The loss or its gradient was not finite {progress.skipped_in_a_row} times in a row, last with "
                    f"{'; '.join(gather_object(clips_of_step))}. Lower --learning_rate, use --mixed_precision bf16 or "
                    "no, or look at these clips."
                )
        else:
            total = sum(compute_losses.weights[name] * value for name, value in means.items())
            bar.set_postfix({"loss": f"{total:.4f}", **{name: f"{value:.4f}" for name, value in means.items()}})
            logs = {f"loss/{name}": value for name, value in means.items()}
            logs |= {"loss": total, "lr": lr_scheduler.get_last_lr()[0], "grad_norm": float(grad_norm)}
            logs["skipped_steps"] = progress.skipped_steps
            accelerator.log(logs, step=progress.step)
        is_last = progress.step == args.max_train_steps
        is_due = is_step and (is_last or progress.step % args.checkpointing_steps == 0)
        # Steps that were skipped since the last checkpoint will be skipped again.
        if is_due or (received and progress.step not in (0, *checkpoints.steps())):
            checkpoints.save(progress.step, accelerator.save_state, accelerator)
        if received:
            accelerator.print(f"Stopped by SIGTERM at step {progress.step}; --resume_from_checkpoint latest goes on.")
            accelerator.end_training()
            sys.exit(128 + signal.SIGTERM)
        if validation is not None and is_step and (is_last or progress.step % args.validation_steps == 0):
            with averaged_weights(ema, parameters), accelerator.autocast():
                if accelerator.is_main_process:
                    measures = validation.run(folder / "validation" / f"step-{progress.step}")
                    accelerator.log({f"validation/{name}": value for name, value in measures.items()}, progress.step)
                    accelerator.print(json.dumps({"step": progress.step, **measures}))
            accelerator.wait_for_everyone()

    # The pipeline
    with averaged_weights(ema, parameters):
        # Copies: the trained weights come back in place.
        state = {name: value.cpu().clone() for name, value in accelerator.get_state_dict(model).items()}
    if accelerator.is_main_process:
        devices = f"{accelerator.num_processes} x {device_name(accelerator.device)}"
        export_pipeline(args, {name: state[name] for name in trained}, folder, devices)
        print(f"The pipeline is in {folder}.")
    unreadable = progress.state_dict()["unreadable"]
    if unreadable:
        accelerator.print(f"{sum(unreadable.values())} samples took the place of clips that cannot be read:")
        accelerator.print("\n".join(f"  {line} ({times} times)" for line, times in sorted(unreadable.items())))
    accelerator.end_training()
    if args.push_to_hub and accelerator.is_main_process:
        push_to_hub(args, folder)


def command(argv=None):
    """Runs what the options say; whatever goes wrong is one sentence and status 2."""
    running.run(build_parser(), main, argv, interrupted=INTERRUPTED, parse=parse_args)


if __name__ == "__main__":
    command()
