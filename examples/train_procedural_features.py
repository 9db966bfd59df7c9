# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Train the two small networks whose features FID-p and FVD-p compare, on procedural people.

    python examples/train_procedural_features.py --output features.safetensors --work_dir runs/features

They learn to predict the renderer's labels of a frame or a clip: the positions of joints and fingertips, clothes and
colours, the blur of hands and feet, and all motion. Half of the frames and clips are degraded, and the networks also
predict the kind and the amount of degradation, so that distances grow with it. Clips are rendered once and kept in the
work folder, together with the state of the training, from which an interrupted run resumes.
"""

import functools
import hashlib
import json
import math
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from hia_diffusers.checks import MAX_COUNT
from hia_diffusers.commands.arguments import OneLineParser, number
from hia_diffusers.commands.running import run
from hia_diffusers.files import write_whole
from hia_diffusers.folder_lock import locked_folder
from hia_diffusers.procedural.feature_networks import ProceduralClipNetwork, ProceduralFrameNetwork
from hia_diffusers.procedural.person import BOTTOMS, HAIR_STYLES, PATTERNS, TOPS
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.training.small_runs import check_settings, load_state, save_state


MINIMUM_CLIPS = 16
HELD_OUT = 1 / 16  # of the clips

SAVE_EVERY = 200  # steps
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05

# Maximum strengths, in pixels of the networks' input and in the range [0, 1] of its values.
FULL_BLUR = 2.5
FULL_NOISE = 0.15
FULL_WARP = 2.5
FULL_JITTER = 3.0

WRISTS_AND_ANKLES = [9, 10, 15, 16]
FINGERTIPS = [4, 8, 12, 16, 20]
COLOURS = ("skin", "hair", "top_color", "pattern_color", "bottom_color", "shoes")
LOOKS = {
    "top": TOPS,
    "pattern": PATTERNS,
    "bottom": BOTTOMS,
    "hair_style": HAIR_STYLES,
    "glasses": (True,),
    "beard": (True,),
}


def make_parser():
    description = __doc__.split("\n")[0]
    parser = OneLineParser(prog="train_procedural_features.py", description=description)
    add = parser.add_argument
    add("--output", type=Path, required=True, help=".safetensors file to write; an existing one is replaced")
    add("--work_dir", type=Path, required=True, help="folder for rendered clips and the state of the training")
    add("--clips", type=number(int, MINIMUM_CLIPS, MAX_COUNT), default=1400, help="clips of 16 frames")
    add("--frame_steps", type=number(int, 1, MAX_COUNT), default=1500, help="steps for the 2D network")
    add("--clip_steps", type=number(int, 1, MAX_COUNT), default=1000, help="steps for the 3D network")
    add("--workers", type=number(int, 1, MAX_COUNT), default=2, help="processes that render")
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="of everything that is drawn")
    return parser


# Data


def render_clips(folder, num_clips, seed, num_workers):
    """Render the clips that do not exist yet."""
    missing = [index for index in range(num_clips) if not (folder / f"{index:05d}.safetensors").exists()]
    if not missing:
        return
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        rendered = pool.imap_unordered(functools.partial(render_clip, folder, seed), missing, chunksize=4)
        for number, _ in enumerate(rendered, start=num_clips - len(missing) + 1):
            if number % 100 == 0:
                print(f"rendered {number} of {num_clips} clips", flush=True)


def render_clip(folder, seed, index):
    """Render one clip and write its frames and labels."""
    scene = ProceduralScene(split="train", identity=index, motion=index, setting=index)
    first = int(np.random.default_rng((seed, index)).integers(600))
    clip = scene.render(frames=range(first, first + 16), height=160, width=96)
    tensors = {"frames": clip.frames, **frame_labels(clip, scene.person)}
    write_whole(folder / f"{index:05d}.safetensors", safetensors.numpy.save(tensors))


def frame_labels(clip, person):
    """Return the labels of each frame by name, float32 `(F, ...)`; NaN if a point is outside the image."""
    num_frames, height, width = clip.frames.shape[:3]
    seen = clip.keypoints.score > 0
    xy = np.where(seen[..., None], clip.keypoints.xy, np.nan)
    joints, hands = xy[:, :17], xy[:, 91:].reshape(num_frames, 2, 21, 2)
    speed = np.linalg.norm(np.gradient(joints[:, WRISTS_AND_ANKLES], axis=0), axis=-1)
    colours = [getattr(person, name) for name in COLOURS]
    looks = [getattr(person, name) == choice for name, choices in LOOKS.items() for choice in choices]
    labels = {
        "joints": joints / (width, height),
        "fingertips": (hands[:, :, FINGERTIPS] - hands[:, :, :1]) / width,
        "thumbnail": np.stack([cv2.resize(frame, (4, 5), interpolation=cv2.INTER_AREA) for frame in clip.frames]),
        "blur": np.log1p(speed * clip.shutter[:, None]),
        "areas": np.stack([clip.face_mask.mean((1, 2)), *clip.hand_masks.mean((2, 3)).T], axis=1) ** 0.5,
        "colours": np.broadcast_to(colours, (num_frames, len(COLOURS), 3)),
        "looks": np.broadcast_to(looks, (num_frames, len(looks))),
    }
    return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in labels.items()}


def load_clip(folder, seed, index):
    """Load the result of `render_clip`; if it is damaged, render it again."""
    path = folder / f"{index:05d}.safetensors"
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        print(f"{path} is damaged and rendered again ({error})", flush=True)
        render_clip(folder, seed, index)
        return safetensors.torch.load_file(path)


def load_clips(folder, num_clips, seed):
    """Return frames `(N, 16, 3, H, W)`, uint8, and labels `(N, 16, ...)` by name."""
    clips = [load_clip(folder, seed, index) for index in range(num_clips)]
    labels = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0] if name != "frames"}
    return torch.stack([clip["frames"].permute(0, 3, 1, 2) for clip in clips]), labels


def clip_labels(labels):
    """Return the labels of each clip, from those of its frames: means, and the motion of the joints."""
    joints = labels["joints"]
    velocity = joints.diff(dim=1)
    return {
        "joints": joints.nanmean(1),
        "thumbnail": labels["thumbnail"].mean(1),
        "blur": labels["blur"].nanmean(1),
        "colours": labels["colours"][:, 0],
        "displacement": torch.cat([joints[:, 7] - joints[:, 0], joints[:, 15] - joints[:, 8]], dim=1),
        "speed": (velocity.square().nanmean(1).sqrt() * 100).log1p(),
        "acceleration": (velocity.diff(dim=1).square().nanmean(1).sqrt() * 100).log1p(),
    }


# Degradations. Each takes inputs in [0, 1], a strength in [0, 1] for each of them, and a generator.


def blur_frames(frames, strength, generator=None):
    """Blur frames `(N, 3, H, W)`."""
    offsets = torch.arange(-6, 7.0)
    blurred = []
    for frame, sigma in zip(frames, FULL_BLUR * strength + 0.2, strict=True):
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        padded = functional.pad(frame[None], (6, 6, 6, 6), mode="replicate")
        rows = functional.conv2d(padded, kernel, groups=3)
        blurred.append(functional.conv2d(rows, kernel.transpose(2, 3), groups=3)[0])
    return torch.stack(blurred)


def blur_clips(clips, strength, generator=None):
    """Blur clips `(N, F, 3, H, W)`."""
    return blur_frames(clips.flatten(0, 1), strength.repeat_interleave(clips.shape[1])).view_as(clips)


def add_noise(inputs, strength, generator):
    scale = FULL_NOISE * strength.view(-1, *[1] * (inputs.ndim - 1))
    return (inputs + scale * torch.randn(inputs.shape, generator=generator)).clamp(0, 1)


def warp_frames(frames, strength, generator):
    """Shift regions of `(N, 3, H, W)` against each other."""
    coarse = torch.randn(len(frames), 2, 10, 6, generator=generator) * strength.view(-1, 1, 1, 1)
    return shift(frames, FULL_WARP * functional.interpolate(coarse, frames.shape[-2:], mode="bicubic"))


def jitter_clips(clips, strength, generator):
    """Move each frame of `(N, F, 3, H, W)`."""
    pixels = torch.randn(*clips.shape[:2], 2, 1, 1, generator=generator) * strength.view(-1, 1, 1, 1, 1)
    return shift(clips.flatten(0, 1), FULL_JITTER * pixels.flatten(0, 1)).view_as(clips)


def shift(frames, pixels):
    """Move the content of `(N, 3, H, W)` by `(N, 2, H, W)` or `(N, 2, 1, 1)` pixels in x and y."""
    height, width = frames.shape[-2:]
    places = functional.affine_grid(torch.eye(2, 3).expand(len(frames), 2, 3), frames.shape, align_corners=False)
    offsets = pixels.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])
    return functional.grid_sample(frames, places - offsets, padding_mode="border", align_corners=False)


def shuffle_clips(clips, strength, generator):
    """Shuffle some of the frames of `(N, F, 3, H, W)`."""
    shuffled = clips.clone()
    for clip, result, part in zip(clips, shuffled, strength.tolist(), strict=True):
        places = torch.randperm(len(clip), generator=generator)[: 2 + round(part * (len(clip) - 2))]
        result[places] = clip[places.roll(1)]
    return shuffled


FRAME_WAYS = (blur_frames, add_noise, warp_frames)
CLIP_WAYS = (blur_clips, add_noise, jitter_clips, shuffle_clips)


def degrade(inputs, ways, generator):
    """Degrade half of the N inputs, each in one way, and return the strengths `(N, ways)`."""
    chosen = torch.randint(2 * len(ways), (len(inputs),), generator=generator)
    strength = torch.rand(len(inputs), generator=generator)
    amounts = torch.zeros(len(inputs), len(ways))
    inputs = inputs.clone()
    for index, way in enumerate(ways):
        affected = (chosen == index).nonzero().flatten()
        if len(affected):
            inputs[affected] = way(inputs[affected], strength[affected], generator)
            amounts[affected, index] = strength[affected]
    return inputs, amounts


# Training


def standardise(labels, training):
    """Return all labels as `(N, L)`, with mean 0 and variance 1 over the training samples, and the slice of each."""
    columns, slices, start = [], {}, 0
    for name, values in labels.items():
        values = values.flatten(1)
        known = values[training]
        mean = known.nanmean(0)
        deviation = (known - mean).square().nanmean(0).sqrt().clamp(min=1e-3)
        columns.append((values - mean) / deviation)
        slices[name] = slice(start, start := start + values.shape[1])
    return torch.cat(columns, dim=1), slices


def error_by_group(predicted, labels, slices):
    """Return the mean squared error of each group, over known labels."""
    known = ~labels.isnan()
    errors = (predicted - labels.nan_to_num()).square() * known
    return {name: errors[:, part].sum() / known[:, part].sum().clamp(min=1) for name, part in slices.items()}


def fit(network, memory_format, samples, labels, ways, num_steps, batch_size, state_path, seed):
    """Train one network and return how well it does on the last samples, which it does not see in training.

    `samples` is a function from indices to inputs in [0, 1]. The result is the fraction of the variance of each group
    of labels that the network explains.
    """
    num_samples = len(next(iter(labels.values())))
    num_training = num_samples - int(num_samples * HELD_OUT)
    targets, slices = standardise(labels, slice(num_training))
    slices["degradation"] = slice(targets.shape[1], targets.shape[1] + len(ways))

    torch.manual_seed(seed)
    network = network().to(memory_format=memory_format)
    head = nn.Linear(network.NUM_FEATURES, slices["degradation"].stop)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    trained = {"network": network, "head": head, "optimizer": optimizer}
    step = 0
    if state_path.exists():
        step = load_state(state_path, trained)
        print(f"{state_path.stem}: resuming from step {step}", flush=True)

    def predict(indices, generator):
        inputs, amounts = degrade(samples(indices), ways, generator)
        features = network(2 * inputs - 1 if inputs.ndim == 4 else 2 * inputs.transpose(1, 2) - 1)
        return head(features), torch.cat([targets[indices], 4 * amounts], dim=1)

    while step < num_steps:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / num_steps)) / 2
        generator = torch.Generator().manual_seed(seed * 2**32 + step)
        predicted, wanted = predict(torch.randint(num_training, (batch_size,), generator=generator), generator)
        errors = error_by_group(predicted, wanted, slices)
        loss = torch.stack(list(errors.values())).mean()
        optimizer.zero_grad()
        loss.backward()
        if not torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).isfinite():
            raise ValueError(f"{state_path.stem}: the loss of step {step + 1}, or its gradient, is not finite")
        optimizer.step()
        step += 1
        if step % SAVE_EVERY == 0 or step == num_steps:
            save_state(state_path, step, trained)
            print(f"{state_path.stem}: step {step}, loss {loss.item():.3f}", flush=True)

    network.eval()
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(seed)
        held_out = torch.arange(num_training, num_samples).split(batch_size)
        pairs = [predict(indices, generator) for indices in held_out]
    predicted, wanted = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    for name, error in error_by_group(predicted, wanted, slices).items():
        columns = wanted[:, slices[name]]
        variance = (columns - columns.nanmean(0)).square().nanmean()
        print(f"{state_path.stem}: explains {1 - error / variance:.0%} of {name} on held-out clips", flush=True)
    return network.state_dict()


def train(args):
    if args.output.suffix.lower() != ".safetensors" or not args.output.parent.is_dir():
        raise ValueError(f"--output: must end in .safetensors in a folder that exists, got {str(args.output)!r}")
    folder = args.work_dir / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(args, name) for name in ("clips", "frame_steps", "clip_steps", "seed")}
    check_settings(args.work_dir / "settings.json", settings)

    render_clips(folder, args.clips, args.seed, args.workers)
    clips, labels = load_clips(folder, args.clips, args.seed)

    frames = clips.flatten(0, 1)
    frame_weights = fit(
        ProceduralFrameNetwork,
        torch.channels_last,
        samples=lambda indices: frames[indices] / 255,
        labels={name: values.flatten(0, 1) for name, values in labels.items()},
        ways=FRAME_WAYS,
        num_steps=args.frame_steps,
        batch_size=32,
        state_path=args.work_dir / "frame.pt",
        seed=args.seed,
    )
    small = torch.cat(
        [functional.interpolate(part / 255, (80, 48), mode="bilinear", antialias=True) for part in clips]
    )
    small = small.view(-1, 16, 3, 80, 48)
    clip_weights = fit(
        ProceduralClipNetwork,
        torch.channels_last_3d,
        samples=lambda indices: small[indices],
        labels=clip_labels(labels),
        ways=CLIP_WAYS,
        num_steps=args.clip_steps,
        batch_size=16,
        state_path=args.work_dir / "clip.pt",
        seed=args.seed + 1,
    )
    weights = {f"frame.{name}": value.contiguous() for name, value in frame_weights.items()}
    weights |= {f"clip.{name}": value.contiguous() for name, value in clip_weights.items()}
    # A single entry, since safetensors writes several in any order, which would change the hash.
    content = safetensors.torch.save(weights, {"training": json.dumps(settings)})
    write_whole(args.output, content)
    print(f"Wrote {args.output}, SHA-256 {hashlib.sha256(content).hexdigest()}")


def train_alone(args):
    with locked_folder(args.work_dir):
        train(args)


def main(argv=None):
    run(make_parser(), train_alone, argv)


if __name__ == "__main__":
    main()
