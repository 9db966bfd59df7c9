# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animates the person in a picture with the motion of a pose video or of a keypoint file.

python examples/animate.py --image picture.png --driving motion.safetensors --output out.mp4 --model ID_OR_PATH
"""

import argparse
import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


KEYPOINT_SUFFIXES = (".safetensors", ".npz")
DRIVING_HELP = (
    "the motion: keypoints (.safetensors or .npz, saved by WholeBodyKeypoints) or an OpenPose-style pose video; "
    "the result has its frame rate"
)
SHARPNESS_HELP = (
    "how sharp the hands shall be, from 0 (all motion blur) to 1; needs keypoints (default: auto, the model chooses)"
)
SIZE_HELP = (
    "WIDTHxHEIGHT of the result, multiples of 8 (default: the driving's, rounded). A picture of another aspect ratio "
    "is fitted into it whole, with bars in the colour of its border"
)
RANDOM_WEIGHTS = (
    "No --model given: using a small pipeline with RANDOM weights; "
    "the frames will be noise, this only shows that everything runs."
)


class OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def number(kind, low, high):
    """An argument type: an int or a float in `[low, high]`."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"must be a {whole}number from {low} to {high}, got {text!r}")
        return value

    return parse


def sharpness(text):
    return text if text == "auto" else number(float, 0, 1)(text)


def size(text):
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = map(int, match.groups()) if match else (0, 0)
    if not (width and height) or width % 8 or height % 8:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT in multiples of 8, such as 512x768, got {text!r}")
    return width, height


def make_parser():
    parser = OneLineParser(prog="animate.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--image", type=Path, required=True, help="picture of the person")
    add("--driving", type=Path, required=True, help=DRIVING_HELP)
    add("--output", type=Path, required=True, help=".mp4 file to write; an existing one is replaced")
    add("--model", help="id on the Hub or local folder of a HIAPipeline (default: random weights)")
    add("--sharpness", type=sharpness, default="auto", help=SHARPNESS_HELP)
    add("--steps", type=number(int, 1, 1000), default=25, help="denoising steps (default: 25)")
    add("--guidance", type=number(float, 0, 100), default=3.5, help="guidance scale (default: 3.5)")
    add("--size", type=size, help=SIZE_HELP)
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, help="seed of the noise (default: 0)")
    add("--device", help="such as cpu, cuda or cuda:1 (default: a GPU where there is one)")
    add("--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="of weights and computation")
    add("--max-frames", type=number(int, 1, 10**6), help="use only the beginning of the motion")
    add("--preview", action="store_true", help="also write OUTPUT_preview.mp4: reference, condition, result")
    return parser


def preview_path(output):
    return output.with_name(f"{output.stem}_preview.mp4")


def check_arguments(args):
    for option, path in (("--image", args.image), ("--driving", args.driving)):
        if not path.is_file():
            raise ValueError(f"{option}: there is no file {str(path)!r}")
    if args.sharpness != "auto" and args.driving.suffix not in KEYPOINT_SUFFIXES:
        raise ValueError("--sharpness: a pose video does not say where the hands are; give keypoints or leave it out")
    if args.output.suffix != ".mp4":
        raise ValueError(f"--output: must end in .mp4, got {str(args.output)!r}")
    folder = args.output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"--output: {str(folder)!r} is no folder that can be written to")
    for path in [args.output, preview_path(args.output)] if args.preview else [args.output]:
        if path.is_dir():
            raise ValueError(f"--output: {str(path)!r} is a folder")
        if path.resolve() in (args.image.resolve(), args.driving.resolve()):
            raise ValueError(f"--output: {str(path)!r} is one of the inputs")


def load_picture(path):
    """Any picture that Pillow reads as 8-bit RGB: upright, 16-bit greys scaled down, transparency on white."""
    try:
        picture = ImageOps.exif_transpose(Image.open(path))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"--image: {str(path)!r} cannot be read as a picture ({error})") from error
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = np.asarray(picture)
        if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"--image: {str(path)!r} is not 8-bit or 16-bit")
        picture = Image.fromarray((grey / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def fit_picture(picture, size):
    """The whole picture in `size`; where its aspect differs, bars in the median colour of the edges they join."""
    fitted = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
    if fitted.size == size:
        return fitted
    print("The picture's {}x{} is fitted into {}x{} with bars in its border colour.".format(*picture.size, *size))
    pixels = np.asarray(picture)
    edges = pixels[[0, -1]] if fitted.width == size[0] else pixels[:, [0, -1]]
    colour = tuple(np.median(edges, axis=(0, 1)).astype(int).tolist())
    return ImageOps.pad(fitted, size, color=colour)


def load_driving(path, max_frames):
    """Keypoints or a pose video, and its (width, height)."""
    if path.suffix in KEYPOINT_SUFFIXES:
        from hia_diffusers import WholeBodyKeypoints

        keypoints = WholeBodyKeypoints.load(path)[:max_frames]
        return keypoints, (keypoints.width, keypoints.height)

    from hia_diffusers.data.video import read_video

    video = read_video(path, max_frames)
    return video, (video.frames.shape[2], video.frames.shape[1])


def make_condition(driving, size, sharpness):
    from hia_diffusers import MotionBlurConditioner, WholeBodyKeypoints

    conditioner = MotionBlurConditioner(line_scale=min(1.0, min(size) / 512))
    if isinstance(driving, WholeBodyKeypoints):
        width, height = size
        return conditioner(driving.resize(height, width), sharpness=sharpness)
    frames = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in driving.frames]
    return conditioner.from_pose_video(frames)


def choose_device(name):
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except Exception as error:  # each backend has its own way to say that it is not there
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"--device: {name!r} cannot be used here ({reason})") from error
    return name


def load_pipeline(model, seed, device, dtype):
    import diffusers
    import torch

    diffusers.utils.logging.set_verbosity_error()
    if model is None:
        from hia_diffusers.assets.random_tiny import random_tiny_pipeline

        print(RANDOM_WEIGHTS)
        return random_tiny_pipeline(seed).to(device, getattr(torch, dtype))

    from hia_diffusers import HIAPipeline

    try:
        pipe = HIAPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: {model!r} cannot be loaded ({error})") from error
    return pipe.to(device)


def animate(args):
    check_arguments(args)
    device = choose_device(args.device)
    picture = load_picture(args.image)
    driving, driving_size = load_driving(args.driving, args.max_frames)
    width, height = args.size or (max(8, round(side / 8) * 8) for side in driving_size)
    if args.size is None and (width, height) != driving_size:
        print("The driving's {}x{} is rounded to {}x{}.".format(*driving_size, width, height))
    picture = fit_picture(picture, (width, height))
    condition = make_condition(driving, (width, height), args.sharpness)

    import torch

    from hia_diffusers.data.video import write_video

    pipe = load_pipeline(args.model, args.seed, device, args.dtype)
    frames = pipe(
        image=picture,
        conditioning_frames=condition,
        height=height,
        width=width,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        generator=torch.Generator("cpu").manual_seed(args.seed),
        output_type="np",
    ).frames[0]

    write_video(args.output, frames, driving.fps)
    print(f"Wrote {args.output}: {len(frames)} frames of {width}x{height} at {driving.fps:g} frames per second.")
    if args.preview:
        result = (frames * 255).round().astype(np.uint8)
        columns = zip([np.asarray(picture)] * len(result), condition.preview(), result, strict=True)
        write_video(preview_path(args.output), [np.hstack(column) for column in columns], driving.fps)
        print(f"Wrote {preview_path(args.output)}: reference, condition and result side by side.")


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        animate(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
