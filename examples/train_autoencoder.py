# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Train the autoencoder of a small HIA pipeline: an AutoencoderDC that is initialized as the best linear one.

    python examples/train_autoencoder.py --from_scratch examples/configs/hia-tiny-networks.yaml \
        --procedural_clips 100000 --size 96x160 --output_dir runs/vae

The result is the `--vae` of `hia-diffusers convert parts`. No later stage can restore details that the autoencoder
loses, and fast hands lose most: hands have a larger weight in the loss, and their sharpness is measured at every
checkpoint. The same command resumes an interrupted run.
"""

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_dc import DCDownBlock2d, DCUpBlock2d, ResBlock
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hia_diffusers import MotionBlurConditioner
from hia_diffusers.commands.config_parser import ConfigParser
from hia_diffusers.commands.running import run
from hia_diffusers.conditioning.regions import box_masks
from hia_diffusers.data.clip_sources import PreparedClips, ProceduralClips, UnreadableClipError
from hia_diffusers.data.dataset import MAX_SKIPPED
from hia_diffusers.folder_lock import locked_folder
from hia_diffusers.metrics.frame import psnr
from hia_diffusers.metrics.region_metrics import mean_of_known, rank_correlation, region_psnr
from hia_diffusers.training.config import Count, NonNegativeInt, Options, Positive, height_and_width, option
from hia_diffusers.training.small_runs import check_settings, load_state, save_state


# Additional weight of a pixel in a hand and in the face, and the distance around them up to which it applies.
HAND_WEIGHT, FACE_WEIGHT, MARGIN = 4.0, 2.0, 2

# Noise on the latents in training, in units of their deviation, since generated latents are not exact either.
LATENT_NOISE = 0.03

# Standard deviation of all latents before the first step.
LATENT_DEVIATION = 0.4

# Value of the channel that keeps the norm before the decoder's last layer nearly constant; pixels are in [0, 1] there.
ANCHOR = 8.0

# Of what the best linear autoencoder is found: more from one clip would be nearly the same.
NUM_IMAGES_TO_START, NUM_IMAGES_PER_CLIP = 500, 8


@dataclass(kw_only=True)
class AutoencoderConfig(Options):
    """The options of this script."""

    _argument_group_name = "training"

    from_scratch: str = field(metadata={"help": "YAML file whose entry `vae` holds the options of an AutoencoderDC"})
    output_dir: str = field(metadata={"help": "folder of the autoencoder, and of the state of the training"})
    train_data_dir: str | None = option(None, "folder or URL of prepared clips, from `hia-diffusers prepare`")
    procedural_clips: Count | None = option(None, "train on this many clips of procedural people instead")
    size: str = option("96x160", "WIDTHxHEIGHT of the images")
    max_train_steps: NonNegativeInt = option(20000, "with 0 it stays the best linear one")
    train_batch_size: Count = option(2, "clips of a step")
    frames_per_clip: Count = option(2, "images of each of them")
    learning_rate: Positive = option(4e-4, "at the beginning; it falls to 0 as a cosine")
    checkpointing_steps: Count = option(500, "steps between checkpoints, at which it is validated too")
    validation_clips: Count = option(32, "clips that are not trained on")
    dataloader_num_workers: NonNegativeInt = option(0, "processes that load data; 0 loads in the main process")
    seed: NonNegativeInt = option(0, "of new weights, samples and noise")

    def validate(self):
        height_and_width("size", self.size)
        if (self.train_data_dir is None) == (self.procedural_clips is None):
            raise ValueError("give either --train_data_dir or --procedural_clips.")


def build_parser():
    return ConfigParser(AutoencoderConfig, prog="train_autoencoder.py", description=__doc__.split("\n")[0])


# Data


class Images(Dataset):
    """Some frames of one clip after another, `count` times.

    Which frames they are depends only on the seed and the index. A clip that cannot be read is replaced by another.
    """

    def __init__(self, source, clips, count, num_frames, size, seed):
        self.source, self.clips, self.count = source, clips, count
        self.num_frames, self.size, self.seed = num_frames, size, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        for position in range(MAX_SKIPPED + 1):
            clip = self.clips[int(rng.integers(len(self.clips)))]
            frames = rng.choice(self.source.num_frames(clip), self.num_frames, replace=False)
            try:
                loaded = self.source.load(clip, sorted(frames.tolist()), self.size, rng)
            except UnreadableClipError as error:
                if position == MAX_SKIPPED:
                    raise
                print(error, flush=True)
                continue
            if rng.random() < 0.5:
                loaded = loaded.flip_horizontal()
            return {
                "images": as_images(loaded.images),
                "face": torch.from_numpy(loaded.face_mask.copy())[:, None].float(),
                "hands": torch.from_numpy(loaded.hand_masks.any(axis=1, keepdims=True)).float(),
            }


def as_images(frames):
    """Convert uint8 `(N, H, W, 3)` to `(N, 3, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))) / 127.5 - 1


def open_source(config):
    """Return the source, the clips to train on, and the held-out clips."""
    if config.train_data_dir:
        source = PreparedClips(config.train_data_dir)
        num_training = len(source) - config.validation_clips
        if num_training < 1:
            raise ValueError(
                f"--validation_clips must be less than {len(source)}, the clips of {config.train_data_dir}"
            )
    else:
        num_training = config.procedural_clips
        source = ProceduralClips("train", num_training + config.validation_clips)
    clips = range(len(source))
    shortest = min(source.num_frames(clip) for clip in clips) if config.train_data_dir else source.clip_length
    if config.frames_per_clip > shortest:
        raise ValueError(f"--frames_per_clip must be at most {shortest}, the frames of the shortest clip")
    return source, clips[:num_training], clips[num_training:]


# The autoencoder


def build_autoencoder(path):
    """Create the autoencoder from the entry `vae`.

    Its first level must have no layers, and each next one four times as many channels.
    """
    try:
        options = dict(yaml.safe_load(Path(path).read_text())["vae"])
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"--from_scratch: {path} contains no options of `vae`: {error}") from error
    if options.pop("_class_name", None) != "AutoencoderDC":
        raise ValueError(f"--from_scratch: `_class_name` of `vae` in {path} must be AutoencoderDC")
    try:
        vae = AutoencoderDC(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--from_scratch: `vae` in {path} cannot be used: {error}") from error
    config = vae.config
    widths = list(config.encoder_block_out_channels)
    if (
        config.encoder_out_shortcut
        or config.decoder_in_shortcut
        or list(config.decoder_block_out_channels) != widths
        or any(wide != 4 * narrow for narrow, wide in zip(widths[1:], widths[2:], strict=False))
        or widths[1] <= 12
        or config.encoder_layers_per_block[0] + config.decoder_layers_per_block[0] > 0
    ):
        raise ValueError(
            f"--from_scratch: `vae` in {path} must have no layers in its first level, the same channels in encoder "
            "and decoder, more than 12 in the second level and four times as many in each next one, and neither "
            "`encoder_out_shortcut` nor `decoder_in_shortcut`"
        )
    return vae


@torch.no_grad()
def start_as_principal_components(vae, images):
    """Initialize the autoencoder as nearly the best linear one of non-overlapping patches.

    Its shortcuts rearrange pixels to channels and back. All other weights are zero, except those of the layers that
    reduce and restore the channels. Channels that contain no pixel have the value `ANCHOR`, so that the norm before
    the last layer divides by nearly the same number everywhere.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for layer in vae.modules():
        if isinstance(layer, ResBlock):
            layer.norm.weight.zero_()
        elif isinstance(layer, (DCDownBlock2d, DCUpBlock2d)):
            layer.conv.weight.zero_()
            layer.conv.bias.zero_()
    encoder.conv_out.weight.zero_()
    decoder.conv_in.weight.zero_()
    for color in range(3):
        encoder.conv_in.conv.weight[color, color, 1, 1] = 0.5  # to [0, 1]
    encoder.conv_in.conv.bias[:3] = 0.5

    features = encoder.conv_in(images)
    for block in encoder.down_blocks:
        features = block(features)
    samples = features.movedim(1, -1).flatten(0, -2).double()
    mean, covariance = samples.mean(0), samples.T.cov()
    variances, components = torch.linalg.eigh(covariance)
    kept = vae.config.latent_channels
    variances, components = variances[-kept:].flip(0), components[:, -kept:].flip(1)
    # A compromise between original and whitened components: the last one neither drowns in noise nor has large errors.
    deviations = variances**0.25
    deviations *= LATENT_DEVIATION / deviations.square().mean().sqrt()
    scales = deviations / variances.sqrt()
    encoder.conv_out.weight[:, :, 1, 1] = (components * scales).T.float()
    encoder.conv_out.bias.copy_(-(mean @ components) * scales)

    empty = covariance.diagonal() == 0
    decoder.conv_in.weight[:, :, 1, 1] = (components / scales).float()
    decoder.conv_in.bias.copy_(torch.where(empty, ANCHOR, mean))
    channels = decoder.norm_out.weight.numel()
    decoder.norm_out.weight.fill_(ANCHOR * math.sqrt((channels - 12) / channels))
    decoder.norm_out.bias.zero_()
    last = decoder.conv_out.conv
    for channel in range(12):
        last.weight[channel, channel, 1, 1] = 2.0
    last.bias.fill_(-1.0)


def encode(vae, images):
    return vae.encode(images).latent


def reconstruct(vae, images):
    return vae.decode(encode(vae, images)).sample


# Training


def reconstruction_loss(predicted, batch):
    """Return the L1 of pixels and of their differences from adjacent pixels, which is what blur removes."""
    weights = 1 + HAND_WEIGHT * batch["hands"] + FACE_WEIGHT * batch["face"]
    weights = functional.max_pool2d(weights, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    error = predicted - batch["images"]
    losses = (
        weights * error.abs(),
        weights[..., 1:] * error.diff(dim=-1).abs(),
        weights[..., 1:, :] * error.diff(dim=-2).abs(),
    )
    return sum(loss.mean() for loss in losses)


@torch.no_grad()
def validate(vae, source, clips, size, device):
    """Compare images of held-out clips with their reconstructions."""
    conditioner = MotionBlurConditioner.for_size(*size)
    all_psnr, hand_psnr, true_sharpness, sharpness = [], [], [], []
    for clip in clips:
        frames = np.linspace(0, source.num_frames(clip) - 1, 4).astype(int).tolist()
        try:
            loaded = source.load(clip, frames, size, np.random.default_rng(0))
        except UnreadableClipError as error:
            if clip == clips[-1] and not all_psnr:
                raise
            print(error, flush=True)
            continue
        true = as_images(loaded.images)
        predicted = reconstruct(vae, true.to(device)).cpu().clamp(-1, 1)
        true, predicted = true / 2 + 0.5, predicted / 2 + 0.5
        condition = conditioner(loaded.keypoints, true)
        hands = torch.from_numpy(box_masks(condition.hand_boxes, *size)).amax(dim=1) > 0
        all_psnr.append(psnr(predicted, true))
        hand_psnr.append(region_psnr(predicted, true, hands))
        true_sharpness.append(conditioner.unsquash_sharpness(condition.hand_sharpness))
        sharpness.append(conditioner.unsquash_sharpness(conditioner(loaded.keypoints, predicted).hand_sharpness))
    true_sharpness, sharpness = (torch.from_numpy(np.concatenate(values)) for values in (true_sharpness, sharpness))
    return {
        "psnr": mean_of_known(torch.cat(all_psnr))[0],
        "hands_psnr": mean_of_known(torch.cat(hand_psnr))[0],
        "hand_sharpness_ratio": (sharpness / true_sharpness).nanmedian().item(),
        "hand_sharpness_correlation": rank_correlation(true_sharpness, sharpness),
    }


@torch.no_grad()
def latent_deviation(vae, images, device):
    return torch.cat([encode(vae, part.to(device)) for part in images.split(16)]).std().item()


def train(config):
    folder, size = Path(config.output_dir), height_and_width("size", config.size)
    source, training, held_out = open_source(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    vae = build_autoencoder(config.from_scratch)
    factor = vae.spatial_compression_ratio
    if any(side % factor for side in size):
        raise ValueError(f"--size must be multiples of {factor}, got {config.size}")

    settings = {
        name: str(value)
        for name, value in config.as_dict().items()
        if name not in ("output_dir", "checkpointing_steps", "validation_clips", "dataloader_num_workers")
    }
    settings["vae"] = json.dumps(dict(vae.config), default=str)
    settings_path, state_path = folder / "settings.json", folder / "state.pt"
    check_settings(settings_path, settings)

    num_first = min(NUM_IMAGES_TO_START, NUM_IMAGES_PER_CLIP * len(training))
    first = Images(source, training, -(-num_first // 4), 4, size, config.seed + 1)
    first_images = torch.cat([item["images"] for item in DataLoader(first, None)])
    if not state_path.exists():
        start_as_principal_components(vae, first_images)
    vae.to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    total = max(config.max_train_steps, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / total)) / 2
    )
    trained = {"vae": vae, "optimizer": optimizer, "schedule": schedule}
    step = 0
    if state_path.exists():
        step = load_state(state_path, trained, device)
        print(f"Resuming from step {step}.", flush=True)
    else:
        print(json.dumps({"step": 0, **validate(vae, source, held_out, size, device)}), flush=True)
    noise_scale = LATENT_NOISE * LATENT_DEVIATION

    count = config.max_train_steps * config.train_batch_size
    images = Images(source, training, count, config.frames_per_clip, size, config.seed)
    loader = DataLoader(
        images,
        config.train_batch_size,
        sampler=range(step * config.train_batch_size, count),
        num_workers=config.dataloader_num_workers,
    )
    bar = tqdm(loader, initial=step, total=config.max_train_steps)
    for batch in bar:
        batch = {name: value.flatten(0, 1).to(device) for name, value in batch.items()}
        latents = encode(vae, batch["images"])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(config.seed * 2**32 + step))
        predicted = vae.decode(latents + noise_scale * noise.to(device)).sample
        loss = reconstruction_loss(predicted, batch)
        optimizer.zero_grad()
        loss.backward()
        if not torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0).isfinite():
            raise ValueError(f"the loss of step {step + 1}, or its gradient, is not finite: lower --learning_rate")
        optimizer.step()
        schedule.step()
        step += 1
        if step % config.checkpointing_steps == 0 or step == config.max_train_steps:
            save_state(state_path, step, trained)
            metrics = validate(vae, source, held_out, size, device)
            bar.set_postfix(loss=f"{loss.item():.4f}", psnr=f"{metrics['psnr']:.2f}")
            bar.write(json.dumps({"step": step, "loss": loss.item(), **metrics}))

    vae.register_to_config(scaling_factor=1 / latent_deviation(vae, first_images, device))
    unfinished = folder / ".unfinished-vae"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    vae.save_pretrained(unfinished)
    for path in unfinished.iterdir():
        path.replace(folder / path.name)
    unfinished.rmdir()
    print(f"Wrote the autoencoder to {folder}")


def train_alone(config):
    with locked_folder(config.output_dir):
        train(config)


def main(argv=None):
    parser = build_parser()
    run(parser, train_alone, argv)


if __name__ == "__main__":
    main()
