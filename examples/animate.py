# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animates the person in a picture with the motion of a person in a video, of a keypoint file or of a pose video.

python examples/animate.py --image picture.png --driving dance.mp4 --output out.mp4 --model ID_OR_PATH
"""

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


KEYPOINT_SUFFIXES = (".safetensors", ".npz")
DRIVING_HELP = (
    "the motion: a video of a person, keypoints (.safetensors or .npz, saved by WholeBodyKeypoints) or an "
    "OpenPose-style pose video; the result has its frame rate"
)
DRIVING_TYPE_HELP = "what --driving is (default: auto, by its suffix and the colours of the video; prints its choice)"
PERSON_HELP = "box around the person to follow in --driving, in pixels (default: the largest in the first frame)"
RETARGET_HELP = (
    "give the motion the proportions and the place of the person in the picture "
    "(default: yes for a video of a person and where --image-keypoints is given)"
)
IMAGE_KEYPOINTS_HELP = "keypoints of the person in the picture, one frame (default: detected, where they are needed)"
FEET_MODEL_HELP = "as --pose-model, for the feet; none keeps the feet of --pose-model (default: dwpose-l-384x288)"
SHARPNESS_HELP = (
    "how sharp the hands shall be, from 0 (all motion blur) to 1; driving: as in a --driving that is a video of a "
    "person; not for pose videos (default: auto, the model chooses)"
)
SIZE_HELP = (
    "WIDTHxHEIGHT of the result, multiples of 8 (default: the driving's, rounded). A picture of another aspect ratio "
    "is fitted into it whole, with bars in the colour of its border"
)
HIA_TINY_LIMITS = (
    "No --model given: using the hia-tiny of the package, which knows procedural people at 96x160 and nothing else."
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
    return text if text in ("auto", "driving") else number(float, 0, 1)(text)


def box(text):
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        x0 = x1 = y0 = y1 = 0.0
    if not (0 <= x0 < x1 < np.inf and 0 <= y0 < y1 < np.inf):
        raise argparse.ArgumentTypeError(f"must be X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1, got {text!r}")
    return x0, y0, x1, y1


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
    add("--driving-type", choices=["auto", "video", "keypoints", "pose"], default="auto", help=DRIVING_TYPE_HELP)
    add("--output", type=Path, required=True, help=".mp4 file to write; an existing one is replaced")
    add("--model", help="id on the Hub or local folder of a HIAPipeline (default: hia-tiny, for tries)")
    add("--sharpness", type=sharpness, default="auto", help=SHARPNESS_HELP)
    add("--steps", type=number(int, 1, 1000), default=25, help="denoising steps (default: 25)")
    add("--guidance", type=number(float, 0, 100), default=3.5, help="guidance scale (default: 3.5)")
    add("--size", type=size, help=SIZE_HELP)
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, help="seed of the noise (default: 0)")
    add("--device", help="such as cpu, cuda or cuda:1 (default: a GPU where there is one)")
    add("--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="of weights and computation")
    add("--max-frames", type=number(int, 1, 10**6), help="use only the beginning of the motion")
    add("--preview", action="store_true", help="also write OUTPUT_preview.mp4: reference, condition, result")
    add = parser.add_argument_group("keypoints").add_argument
    add("--retarget", action=argparse.BooleanOptionalAction, help=RETARGET_HELP)
    add("--image-keypoints", type=Path, metavar="FILE", help=IMAGE_KEYPOINTS_HELP)
    add("--person", type=box, metavar="X0,Y0,X1,Y1", help=PERSON_HELP)
    add("--detector-model", default="yolox-m", help="name or ONNX file of the person detector (default: yolox-m)")
    add("--pose-model", default="rtmw-l-384x288", help="name or ONNX file of the pose model (default: rtmw-l-384x288)")
    add("--feet-model", default="dwpose-l-384x288", help=FEET_MODEL_HELP)
    add("--detector-device", default="cpu", help="cpu, cuda or cuda:N, for the three models above (default: cpu)")
    return parser


def preview_path(output):
    return output.with_name(f"{output.stem}_preview.mp4")


def check_arguments(args):
    inputs = {"--image": args.image, "--driving": args.driving, "--image-keypoints": args.image_keypoints}
    inputs = {option: path for option, path in inputs.items() if path is not None}
    for option, path in inputs.items():
        if not path.is_file():
            raise ValueError(f"{option}: there is no file {str(path)!r}")
    if args.image_keypoints and args.retarget is False:
        raise ValueError("--image-keypoints: with --no-retarget there is no use for them")
    if args.output.suffix != ".mp4":
        raise ValueError(f"--output: must end in .mp4, got {str(args.output)!r}")
    folder = args.output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"--output: {str(folder)!r} is no folder that can be written to")
    for path in [args.output, preview_path(args.output)] if args.preview else [args.output]:
        if path.is_dir():
            raise ValueError(f"--output: {str(path)!r} is a folder")
        if path.resolve() in [given.resolve() for given in inputs.values()]:
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
    """
    The whole picture in `size`, and its place (x, y, width, height) there; where its aspect differs, bars in the
    median colour of the edges they join.
    """
    fitted = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
    place = ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2, *fitted.size)
    if fitted.size == size:
        return fitted, place
    print("The picture's {}x{} is fitted into {}x{} with bars in its border colour.".format(*picture.size, *size))
    pixels = np.asarray(picture)
    edges = pixels[[0, -1]] if fitted.width == size[0] else pixels[:, [0, -1]]
    padded = Image.new("RGB", size, tuple(np.median(edges, axis=(0, 1)).astype(int).tolist()))
    padded.paste(fitted, place[:2])
    return padded, place


def fit_keypoints(keypoints, place, size):
    """The picture's keypoints after `fit_picture`."""
    x, y, width, height = place
    fitted = keypoints.resize(height, width)
    return replace(fitted, xy=fitted.xy + np.float32([x, y]), width=size[0], height=size[1])


def load_driving(path, kind, max_frames):
    """The motion, as keypoints or as a video, and which of "keypoints", "pose" and "video" it is."""
    if kind == "keypoints" or kind == "auto" and path.suffix in KEYPOINT_SUFFIXES:
        from hia_diffusers import WholeBodyKeypoints

        return WholeBodyKeypoints.load(path)[:max_frames], "keypoints"

    from hia_diffusers.data.video import read_video

    video = read_video(path, max_frames)
    return video, recognise_video(video.frames) if kind == "auto" else kind


def recognise_video(frames):
    """Tells "pose", which has vivid or white lines on black, from "video", and prints why."""
    sample = frames[:: -(-len(frames) // 16), ::2, ::2]
    brightest, darkest = sample.max(axis=-1), sample.min(axis=-1)
    black = (brightest < 16).mean()
    drawn = brightest >= 48
    vivid = ((brightest - darkest > 0.6 * brightest) | (darkest >= 160))[drawn].mean() if drawn.any() else 0.0
    kind, meaning = "video", "a video of a person"
    if black >= 0.5 and vivid >= 0.7:
        kind, meaning = "pose", "an OpenPose-style pose video"
    print(
        f"The driving is taken as {meaning}: {black:.0%} of its pixels are black, and {vivid:.0%} of the bright ones "
        "vivid or white. Where that is wrong, say so with --driving-type."
    )
    return kind


def check_use(args, kind):
    """Options that the kind of motion has no use for."""
    if kind == "pose" and args.sharpness != "auto":
        raise ValueError("--sharpness: a pose video does not say where the hands are; give keypoints or leave it out")
    if kind != "video" and args.sharpness == "driving":
        raise ValueError("--sharpness: it can be measured on a --driving that is a video of a person only")
    if kind == "pose" and (args.retarget or args.image_keypoints):
        raise ValueError("--retarget: a pose video has no keypoints that could be aligned to the picture")
    if kind != "video" and args.person:
        raise ValueError("--person: only a video of a person can show several")


def make_detector(args):
    from hia_diffusers.conditioning.detection import KeypointDetector

    feet_model = None if args.feet_model == "none" else args.feet_model
    try:
        detector = KeypointDetector(args.detector_model, args.pose_model, feet_model, args.detector_device)
    except ValueError as error:
        raise ValueError(f"keypoint detector: {error}") from error
    print(f"Keypoints are detected with onnxruntime's {detector.providers['pose']}.")
    return detector


def detect_motion(detector, video, person):
    from hia_diffusers.conditioning.retargeting import smooth_keypoints

    keypoints = detector(video.frames, video.fps, person)
    found = keypoints.score.any(axis=1).sum()
    if not found:
        raise ValueError("--driving: nobody is found in it")
    print(f"The person is found in {found} of {len(keypoints)} frames of the driving.")
    return smooth_keypoints(keypoints)


def reference_keypoints(args, detector, picture):
    """The keypoints of the person in the picture, given or detected."""
    from hia_diffusers import WholeBodyKeypoints

    if args.image_keypoints is None:
        keypoints = (detector or make_detector(args))(np.asarray(picture)[None], fps=1)
        if not keypoints.score.any():
            raise ValueError("--image: nobody is found in it; give --image-keypoints or --no-retarget")
        return keypoints
    keypoints = WholeBodyKeypoints.load(args.image_keypoints)
    if len(keypoints) != 1 or (keypoints.width, keypoints.height) != picture.size:
        raise ValueError(
            f"--image-keypoints: must be one frame of the picture's {picture.width}x{picture.height}, "
            f"got {len(keypoints)} of {keypoints.width}x{keypoints.height}"
        )
    return keypoints


def make_condition(args, driving, kind, picture, place, size):
    from hia_diffusers import MotionBlurConditioner
    from hia_diffusers.conditioning.retargeting import retarget_keypoints

    width, height = size
    conditioner = MotionBlurConditioner.for_size(height, width)
    if kind == "pose":
        frames = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in driving.frames]
        return conditioner.from_pose_video(frames)

    detector = make_detector(args) if kind == "video" else None
    retarget = kind == "video" or args.image_keypoints if args.retarget is None else args.retarget
    reference = fit_keypoints(reference_keypoints(args, detector, picture), place, size) if retarget else None
    keypoints = detect_motion(detector, driving, args.person) if kind == "video" else driving
    sharpness = args.sharpness
    if sharpness == "driving":
        sharpness = conditioner(keypoints, driving.frames).hand_sharpness
    if reference is not None:
        try:
            keypoints = retarget_keypoints(keypoints, reference)
        except ValueError as error:
            raise ValueError(f"--retarget: {error}") from error
        print("The motion is aligned to the person in the picture.")
    return conditioner(keypoints.resize(height, width), sharpness=sharpness)


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


def check_model(model):
    """Finds the pipeline's index, so that a wrong name is known before the motion is detected."""
    from huggingface_hub import hf_hub_download

    if Path(model).is_dir():
        if not Path(model, "model_index.json").is_file():
            raise ValueError(f"--model: {model!r} is a folder without model_index.json")
        return
    try:
        hf_hub_download(model, "model_index.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: {model!r} is no folder and cannot be found on the Hub ({error})") from error


def load_pipeline(model, device, dtype):
    import diffusers
    import torch

    from hia_diffusers import HIA_TINY, HIAPipeline

    diffusers.utils.logging.set_verbosity_error()
    if model is None:
        print(HIA_TINY_LIMITS)
        model = HIA_TINY
    try:
        pipe = HIAPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise ValueError(f"--model: {model!r} cannot be loaded ({error})") from error
    return pipe.to(device)


def animate(args):
    check_arguments(args)
    device = choose_device(args.device)
    if args.model is not None:
        check_model(args.model)
    picture = load_picture(args.image)
    driving, kind = load_driving(args.driving, args.driving_type, args.max_frames)
    check_use(args, kind)
    driving_size = (driving.width, driving.height) if kind == "keypoints" else driving.frames.shape[2:0:-1]
    width, height = args.size or (max(8, round(side / 8) * 8) for side in driving_size)
    if args.size is None and (width, height) != driving_size:
        print("The driving's {}x{} is rounded to {}x{}.".format(*driving_size, width, height))
    fitted, place = fit_picture(picture, (width, height))
    condition = make_condition(args, driving, kind, picture, place, (width, height))

    import torch

    from hia_diffusers.data.video import write_video

    pipe = load_pipeline(args.model, device, args.dtype)
    frames = pipe(
        image=fitted,
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
        columns = zip([np.asarray(fitted)] * len(result), condition.preview(), result, strict=True)
        write_video(preview_path(args.output), [np.hstack(column) for column in columns], driving.fps)
        print(f"Wrote {preview_path(args.output)}: reference, condition and result side by side.")


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        animate(args)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
