# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Scores predicted videos against the true ones, by the paper's protocol and by what it does not look at."""

import argparse
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..files import check_writable, written_whole
from ..natural_order import natural_order
from .arguments import OneLineParser, add_sampling_options, number, size
from .loading import VARIANT_HELP, check_model, choose_device, load_pipeline
from .running import run


if TYPE_CHECKING:
    from ..conditioning.keypoints import WholeBodyKeypoints
    from ..conditioning.motion_blur import MotionBlurCondition
    from ..metrics.evaluation import VideoEvaluation


VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
KEYPOINT_SUFFIXES = (".safetensors", ".npz")

MINIMUM_SIDE = 7  # of a window of SSIM

# What these options are where they are not given.
DATASET_DEFAULTS = {"cross_identity": False, "frames": 32, "size": (96, 160), "seed": 0}
MODEL_DEFAULTS = {
    "guidance_interval": [0.0, 1.0],
    "deep_cache_interval": 1,
    "motion_modules": True,
    "blur_condition": True,
    "dtype": "float32",
}

# Options whose default is what the model's call takes for the argument.
CALL_OPTIONS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "reference_noise": "reference_noise",
    "shared_noise": "shared_noise",
    "context_shift": "context_shift",
}

AGGREGATION = (
    "mean over all frames of all clips that have a value; measures over time in windows of 16 frames, each with the "
    "first frame of the next"
)
# Modules: some come in several distributions.
LIBRARIES = (
    *("torch", "torchvision", "numpy", "cv2", "av", "PIL", "diffusers", "transformers", "lpips", "torch_fidelity"),
    *("scipy", "onnxruntime"),
)


def make_parser(prog: str = "hia-diffusers evaluate") -> argparse.ArgumentParser:
    parser = OneLineParser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help=".json file to write; an existing one is replaced")
    parser.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: a GPU where there is one)")

    add = parser.add_argument_group("score videos in folders").add_argument
    add("--predictions", type=Path, metavar="DIR", help="videos, or folders of frames, one per clip")
    add("--targets", type=Path, metavar="DIR", help="the true ones, of the same names, sizes and lengths")
    add("--keypoints", type=Path, metavar="DIR", help="keypoints of the targets (NAME.safetensors or .npz)")
    add("--masks", type=Path, metavar="DIR", help="NAME.safetensors with face_mask (F,H,W), hand_masks (F,2,H,W)")

    group = parser.add_argument_group("score a model on procedural people")
    add = group.add_argument
    add("--dataset", choices=["procdance-v1"], help="50 clips of 32 frames, made on the spot")
    add("--model", help="id on the Hub or local folder of a HIAPipeline")
    add("--variant", help=VARIANT_HELP)
    add(
        "--baseline",
        choices=["copy", "truth", "noise"],
        help="in place of a model: reference, true frames, random pixels",
    )
    add(
        "--control",
        choices=["autoencoder", "other-pose", "other-reference"],
        help="what the model must lose or need: the true frames through its autoencoder, or frames generated from the "
        "motion or the reference picture of the next clip",
    )
    flag = argparse.BooleanOptionalAction
    add("--cross-identity", action=flag, help="drive with the same motion of another person, retargeted")
    add("--frames", type=number(int, 16, 10**4), help="of each clip (default: 32, as ProcDance-v1 has)")
    add("--size", type=functools.partial(size, smallest=16), help="WIDTHxHEIGHT, multiples of 8 (default: 96x160)")
    add_sampling_options(group)
    add(
        "--guidance-interval",
        type=number(float, 0, 1),
        nargs=2,
        metavar=("START", "END"),
        help="shares of the steps between which there is guidance (default: 0 1)",
    )
    add("--deep-cache-interval", type=number(int, 1, 1000), help="compute whole one of so many steps (default: 1)")
    add(
        "--reference-noise", action=flag, help="start from the noised reference picture (default: the model's, or yes)"
    )
    add(
        "--shared-noise",
        type=number(float, 0, 1),
        help="share of the noise that all frames have (default: the model's, or 0)",
    )
    add(
        "--context-shift",
        action=flag,
        help="shift the windows of long clips at each step (default: the model's, or yes)",
    )
    add(
        "--motion-modules",
        action=flag,
        help="layers over time; without, each frame is by itself (default: yes)",
    )
    add("--blur-condition", action=flag, help="tell motion and sharpness of the hands beside the pose (default: yes)")
    add("--seed", type=number(int, 0, 2**62), help="clip i is drawn with SEED + i (default: 0)")
    add("--dtype", choices=["float32", "float16", "bfloat16"], help="of weights and computation (default: float32)")
    add("--max-clips", type=number(int, 1, 10**6), help="only the first clips")

    add = parser.add_argument_group("networks, each a file or hf://owner/name/file").add_argument
    add(
        "--lpips",
        nargs="?",
        const="",
        metavar="FILE",
        help="LPIPS's backbone (without FILE: torchvision's, downloaded)",
    )
    add("--lpips-network", choices=["vgg", "alex", "squeeze"], help="that it is of (default: vgg, as DisCo)")
    add("--inception", metavar="FILE", help="Inception-v3, for FID")
    add("--pad-fid", action="store_true", help="pad frames to squares for FID too, as the paper does")
    add("--resnet3d", metavar="FILE", help="3D ResNet-50, for FID-VID")
    add("--i3d", metavar="FILE", help="I3D, for FVD")
    add("--arcface", metavar="FILE", help="ArcFace (.onnx), for the identity of faces; needs keypoints")
    add("--clip-stride", type=number(int, 1, 10**6), default=16, help="frames between starts of clips (default: 16)")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Fills in the defaults of a dataset, too: in folders they mean nothing."""
    folders = ("predictions", "targets", "keypoints", "masks")
    of_dataset = (
        "model",
        "variant",
        "baseline",
        "control",
        "max_clips",
        *DATASET_DEFAULTS,
        *MODEL_DEFAULTS,
        *CALL_OPTIONS,
    )
    if args.dataset is None:
        if args.predictions is None or args.targets is None:
            raise ValueError("give --predictions and --targets, or --dataset")
        refuse(args, of_dataset, "needs --dataset")
        for name in folders:
            folder = getattr(args, name)
            if folder is not None and not folder.is_dir():
                raise ValueError(f"--{name}: there is no folder {str(folder)!r}")
        if args.arcface is not None and args.keypoints is None:
            raise ValueError("--arcface: needs --keypoints to find the faces")
    else:
        refuse(args, folders, "does not go with --dataset")
        if (args.model is None) == (args.baseline is None):
            raise ValueError("--dataset: needs either --model or --baseline")
        if args.model is None:
            refuse(args, ["variant", "control", *MODEL_DEFAULTS, *CALL_OPTIONS], "needs --model")
        if args.control is not None:
            refuse(args, ["cross_identity"], "does not go with --control")
        for name, value in (DATASET_DEFAULTS | MODEL_DEFAULTS).items():
            if getattr(args, name) is None:
                setattr(args, name, value)
        if args.guidance_interval[0] >= args.guidance_interval[1]:
            raise ValueError("--guidance-interval: START must be less than END")
    if args.lpips is None:
        refuse(args, ["lpips_network"], "needs --lpips")
    if args.output.suffix.lower() != ".json":
        raise ValueError(f"--output: must end in .json, got {str(args.output)!r}")
    try:
        check_writable(args.output)
    except (OSError, ValueError) as error:
        raise ValueError(f"--output: {error}") from error


def refuse(args: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: {reason}")


@dataclass
class Clip:
    """`load()` gives the keyword arguments of `VideoEvaluation.add`."""

    num_frames: int
    load: Callable


# Clips from folders


def folder_clips(args: argparse.Namespace) -> dict[str, Clip]:
    """The clips by name, once all files are known to be there, whole, and of the same sizes and lengths."""
    predictions, targets = find_clips("--predictions", args.predictions), find_clips("--targets", args.targets)
    check_same_names("--predictions", predictions, "--targets", targets)
    keypoints = find_annotations("--keypoints", args.keypoints, KEYPOINT_SUFFIXES, targets)
    masks = find_annotations("--masks", args.masks, (".safetensors",), targets)
    clips = {}
    for name, path in targets.items():
        shape = shape_of_clip(path)
        predicted = shape_of_clip(predictions[name])
        if predicted != shape:
            raise ValueError(
                "--predictions: {!r} has {} frames of {}x{}, but {!r} in --targets has {} of {}x{}".format(
                    str(predictions[name]), *predicted, str(path), *shape
                )
            )
        if min(shape[1:]) < MINIMUM_SIDE:
            raise ValueError(f"--targets: {str(path)!r} is smaller than {MINIMUM_SIDE}x{MINIMUM_SIDE} pixels")
        if path.is_dir() and predictions[name].is_dir():
            stems = ({frame.stem: frame for frame in frame_files(folder)} for folder in (predictions[name], path))
            check_same_names(f"--predictions {name}", next(stems), f"--targets {name}", next(stems))
        annotations: dict[str, Any] = {}
        if keypoints:
            annotations["keypoints"] = load_keypoints(keypoints[name], *shape)
        if masks:
            load_masks(masks[name], *shape)
            annotations["masks"] = masks[name]
        clips[name] = Clip(shape[0], functools.partial(load_pair, predictions[name], path, shape, **annotations))
    return clips


def visible(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(paths, key=lambda path: natural_order(path.name))


def find_clips(option: str, folder: Path) -> dict[str, Path]:
    """Videos and folders in a folder by their name without suffix."""
    from ..preparation.frame_folders import is_frame

    found: dict[str, Path] = {}
    for path in visible(folder):
        if not path.is_dir() and path.suffix.lower() not in VIDEO_SUFFIXES:
            advice = "; put the frames of each clip into a folder of its own" if is_frame(path.name) else ""
            raise ValueError(
                f"{option}: {str(path)!r} is neither a video ({', '.join(VIDEO_SUFFIXES)}) nor a folder{advice}"
            )
        add_new(found, path.name if path.is_dir() else path.stem, path, option)
    if not found:
        raise ValueError(f"{option}: {str(folder)!r} holds no clips")
    return found


def find_annotations(
    option: str, folder: Path | None, suffixes: Sequence[str], targets: Mapping[str, Path]
) -> dict[str, Path] | None:
    if folder is None:
        return None
    found: dict[str, Path] = {}
    for path in visible(folder):
        if path.suffix.lower() in suffixes:
            add_new(found, path.stem, path, option)
    check_same_names(option, found, "--targets", targets)
    return found


def add_new(found: dict, name: str | tuple, path: Path, option: str) -> None:
    if name in found:
        raise ValueError(f"{option}: {str(path)!r} and {str(found[name])!r} have the same name")
    found[name] = path


def check_same_names(option: str, found: Mapping[str, Path], other_option: str, expected: Mapping[str, Path]) -> None:
    differences = [
        message.format(listed(names), other_option)
        for names, message in (
            (expected.keys() - found.keys(), "there is no {}, which is in {}"),
            (found.keys() - expected.keys(), "{} is not in {}"),
        )
        if names
    ]
    if differences:
        raise ValueError(f"{option}: {'; '.join(differences)}")


def listed(names: Iterable[str], most: int = 5) -> str:
    words = [repr(name) for name in sorted(names)]
    return ", ".join([*words[:most], *([f"{len(words) - most} more"] if len(words) > most else [])])


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder, 2 before 10."""
    from ..preparation.frame_folders import FRAME_SUFFIXES, in_order

    for path in visible(folder):
        if path.suffix.lower() not in FRAME_SUFFIXES:
            raise ValueError(f"{str(path)!r} is no frame ({', '.join(FRAME_SUFFIXES)})")
    files = in_order(visible(folder))
    if not files:
        raise ValueError(f"{str(folder)!r} holds no frames")
    return files


def shape_of_clip(path: Path) -> tuple[int, int, int]:
    """Number of frames, width and height. All is decoded, so that damage is found before the work begins."""
    from ..video.reading import stream_frames

    frames = map(load_frame, frame_files(path)) if path.is_dir() else stream_frames(path)
    sizes = [frame.shape[1::-1] for frame in frames]
    if len(set(sizes)) > 1:
        raise ValueError(f"{str(path)!r} changes its frame size")
    return len(sizes), *sizes[0]


def load_frames(path: Path) -> np.ndarray:
    """uint8 `(F, H, W, 3)`."""
    from ..video.reading import read_video

    if not path.is_dir():
        return read_video(path).frames
    return np.stack([load_frame(file) for file in frame_files(path)])


def load_frame(path: Path) -> np.ndarray:
    """uint8 `(H, W, 3)`, upright."""
    from ..images import load_image

    frame = np.asarray(load_image(path, "frame"))
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{str(path)!r} holds several images")
    return frame


def load_keypoints(path: Path, num_frames: int, width: int, height: int) -> "WholeBodyKeypoints":
    from ..conditioning.keypoints import WholeBodyKeypoints

    keypoints = WholeBodyKeypoints.load(path)
    found = (len(keypoints), keypoints.width, keypoints.height)
    if found != (num_frames, width, height):
        raise ValueError(
            "--keypoints: {!r} is of {} frames of {}x{}, but the clip has {} of {}x{}".format(
                str(path), *found, num_frames, width, height
            )
        )
    return keypoints


def load_masks(path: Path, num_frames: int, width: int, height: int) -> dict[str, np.ndarray]:
    """`face_masks` and `hand_masks` as `VideoEvaluation.add` takes them."""
    import safetensors.numpy

    shapes = {"face_mask": (num_frames, height, width), "hand_masks": (num_frames, 2, height, width)}
    try:
        arrays = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"--masks: {str(path)!r} cannot be read ({error})") from error
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape:
            found = arrays[name].shape if name in arrays else "none"
            raise ValueError(f"--masks: {str(path)!r} must hold {name} of shape {shape}, got {found}")
    return {"face_masks": arrays["face_mask"].astype(bool), "hand_masks": arrays["hand_masks"].astype(bool)}


def load_pair(
    prediction: Path,
    target: Path,
    shape: tuple[int, int, int],
    keypoints: "WholeBodyKeypoints | None" = None,
    masks: Path | None = None,
) -> dict[str, np.ndarray]:
    clip = {"predictions": load_frames(prediction), "targets": load_frames(target)}
    if keypoints is not None:
        clip |= from_keypoints(keypoints, clip["predictions"], clip["targets"])
    if masks is not None:
        clip |= load_masks(masks, *shape)
    return clip


def from_keypoints(
    keypoints: "WholeBodyKeypoints", predictions: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Boxes of face and hands as masks, sharpness of the hands in predictions and targets, points of the face."""
    from ..conditioning.keypoints import FACE
    from ..conditioning.motion_blur import MotionBlurConditioner
    from ..conditioning.regions import box_masks, face_boxes

    conditioner = MotionBlurConditioner()
    wanted = conditioner(keypoints, targets)
    boxes = np.concatenate([face_boxes(keypoints)[:, None], wanted.hand_boxes], axis=1)
    masks = box_masks(boxes, *targets.shape[1:3])
    return {
        "face_masks": masks[:, 0],
        "hand_masks": masks[:, 1:],
        "wanted_sharpness": wanted.hand_sharpness,
        "measured_sharpness": conditioner(keypoints, predictions).hand_sharpness,
        "face_landmarks": keypoints.xy[:, FACE],
    }


# Clips of procedural people


def procdance_clips(args: argparse.Namespace, device: str) -> tuple[dict[str, Clip], dict[str, Any]]:
    """The clips by name, and what the report says about where they are from."""
    from ..procedural.procdance import proc_dance_v1

    source = {"dataset": args.dataset, "cross_identity": args.cross_identity}
    source |= {"frames": args.frames, "width_height": args.size}
    if args.model is None:
        pipe = None
        source |= {"baseline": args.baseline, "seed": args.seed}
    else:
        pipe = load_pipeline(args.model, device, args.dtype, args.variant)
        pipe.set_progress_bar_config(disable=True)
        if not args.motion_modules:
            pipe.unet.set_motion_modules(False)
        if args.deep_cache_interval > 1:
            enable_deep_cache(pipe, args.deep_cache_interval)
        for option, argument in CALL_OPTIONS.items():
            if getattr(args, option) is None:
                setattr(args, option, pipe.call_default(argument))
        source |= {"model": args.model, "weights_sha256": sha256_of_weights(pipe)}
        source |= {name: getattr(args, name) for name in ("control", "seed", *CALL_OPTIONS, *MODEL_DEFAULTS)}
        source["scheduler"] = json.loads(pipe.scheduler.to_json_string())
    clips = {}
    all_clips = [replace(clip, frames=range(args.frames)) for clip in proc_dance_v1()]
    for index, clip in enumerate(all_clips[: args.max_clips]):
        following = all_clips[(index + 1) % len(all_clips)]
        load = functools.partial(load_procedural, clip, following, args, pipe, args.seed + index)
        clips[clip.name] = Clip(len(clip.frames), load)
    return clips, source


def sha256_of_weights(pipe: Any) -> str:
    """Of the names and the values of all parameters and buffers, as they are used."""
    import torch

    digest = hashlib.sha256()
    for component, module in sorted(pipe.components.items()):
        if isinstance(module, torch.nn.Module):
            for name, tensor in sorted(module.state_dict().items()):
                digest.update(f"{component}.{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_procedural(
    clip: Any, following: Any, args: argparse.Namespace, pipe: Any, seed: int
) -> dict[str, np.ndarray]:
    from ..conditioning.keypoints import FACE
    from ..conditioning.motion_blur import MotionBlurConditioner
    from ..conditioning.retargeting import retarget_keypoints

    width, height = args.size
    truth = clip.target.render(clip.frames, height, width, clip.fps)
    reference = clip.target.render([clip.reference_frame], height, width, clip.fps)
    conditioner = MotionBlurConditioner.for_size(height, width)
    if args.cross_identity:
        driving = clip.driving.render(clip.frames, height, width, clip.fps)
        keypoints = retarget_keypoints(driving.keypoints, reference.keypoints)
        sharpness = conditioner(driving.keypoints, driving.frames).hand_sharpness
        condition = conditioner(keypoints, sharpness=sharpness)
    else:
        keypoints = truth.keypoints
        condition = conditioner(keypoints, truth.frames)

    if args.control == "other-pose":
        other = following.target.render(following.frames, height, width, following.fps)
        condition = conditioner(other.keypoints, other.frames)
    elif args.control == "other-reference":
        reference = following.target.render([following.reference_frame], height, width, following.fps)

    if args.baseline == "truth":
        predictions = truth.frames
    elif args.baseline == "copy":
        predictions = reference.frames.repeat(len(truth.frames), axis=0)
    elif args.baseline == "noise":
        predictions = np.random.default_rng(seed).integers(0, 256, truth.frames.shape, dtype=np.uint8)
    elif args.control == "autoencoder":
        predictions = round_trip(pipe, truth.frames)
    else:
        predictions = generate(pipe, reference.frames[0], condition, args, seed)
    return {
        "predictions": predictions,
        "targets": truth.frames,
        "face_masks": truth.face_mask,
        "hand_masks": truth.hand_masks,
        "wanted_sharpness": condition.hand_sharpness,
        "measured_sharpness": conditioner(keypoints, predictions).hand_sharpness,
        "face_landmarks": truth.keypoints.xy[:, FACE],
    }


def enable_deep_cache(pipe: Any, interval: int) -> None:
    from ..models.deep_cache import DeepCacheConfig, DeepCacheMixin

    for network in (pipe.unet, pipe.controlnet):
        if isinstance(network, DeepCacheMixin):
            network.enable_cache(DeepCacheConfig(interval))


def round_trip(pipe: Any, frames: np.ndarray) -> np.ndarray:
    """Frames, uint8 `(F, H, W, 3)`, through the autoencoder and back."""
    import torch

    from ..finite_results import check_finite
    from ..models.autoencoder import decode_latents, encode_pictures

    pictures = torch.from_numpy(frames).movedim(-1, 1).to(pipe.device) / 127.5 - 1
    with torch.no_grad():
        decoded = decode_latents(pipe.vae, encode_pictures(pipe.vae, pictures))
    check_finite("The frames", [decoded], pipe.components)
    return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()


def generate(
    pipe: Any, reference: np.ndarray, condition: "MotionBlurCondition", args: argparse.Namespace, seed: int
) -> np.ndarray:
    import torch

    from ..pipelines.guidance import classifier_free_guidance

    if not args.blur_condition:
        condition = replace(condition, hand_sharpness=np.full_like(condition.hand_sharpness, np.nan))
    frames = pipe(
        image=Image.fromarray(reference),
        conditioning_frames=condition,
        guider=classifier_free_guidance(args.guidance, *args.guidance_interval),
        **{argument: getattr(args, option) for option, argument in CALL_OPTIONS.items() if option != "guidance"},
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
    ).frames[0]
    return (frames * 255).round().astype(np.uint8)


# Networks and results


def make_evaluation(args: argparse.Namespace, clips: Mapping[str, Clip], device: str) -> "VideoEvaluation":
    """Loads the networks that are asked for, once the clips are known to suffice for them."""
    from ..metrics import extractors
    from ..metrics.evaluation import VideoEvaluation
    from ..metrics.frame import LPIPS
    from ..metrics.identity import ArcFace

    networks = [
        ("--inception", extractors.InceptionFeatures, {"weights": args.inception, "pad": args.pad_fid}),
        ("--resnet3d", extractors.ResNet3DFeatures, {"weights": args.resnet3d}),
        ("--i3d", extractors.I3DFeatures, {"weights": args.i3d}),
    ]
    wanted = [network for network in networks if network[-1]["weights"] is not None]
    if args.dataset is not None:
        wanted += [
            ("--dataset", extractors.ProceduralFrameFeatures, {}),
            ("--dataset", extractors.ProceduralClipFeatures, {}),
        ]
    for option, kind, _ in wanted:
        check_lengths(option, kind, clips, args.clip_stride)
    return VideoEvaluation(
        lpips=None
        if args.lpips is None
        else load_network("--lpips", LPIPS, args.lpips_network or "vgg", args.lpips or None, device),
        face_embedder=None if args.arcface is None else load_network("--arcface", ArcFace, args.arcface),
        extractors=[load_network(option, kind, **arguments, device=device) for option, kind, arguments in wanted],
        clip_stride=args.clip_stride,
    )


def load_network(option: str, kind: Callable, *arguments: Any, **options: Any) -> Any:
    try:
        return kind(*arguments, **options)
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own way to say that a file is none of its networks
        raise ValueError(f"{option}: {str(error).strip() or type(error).__name__}") from error


def check_lengths(option: str, kind: Any, clips: Mapping[str, Clip], stride: int) -> None:
    length = kind.clip_length or 1
    samples = 0
    for name, clip in clips.items():
        if clip.num_frames < length:
            raise ValueError(f"{option}: {kind.name} needs clips of {length} frames; {name!r} has {clip.num_frames}")
        samples += 1 + (clip.num_frames - length) // (stride if kind.clip_length else 1)
    if samples < 2:
        raise ValueError(f"{option}: {kind.name} compares distributions; it needs more than one sample, got {samples}")


def installed_versions() -> dict[str, str]:
    """Of Python and of the distributions that the libraries come in; those of an extra may be absent."""
    from .. import __version__

    distributions = importlib.metadata.packages_distributions()
    names = {name for library in LIBRARIES for name in distributions.get(library, ())}
    versions = {name: importlib.metadata.version(name) for name in sorted(names)}
    return {"python": platform.python_version(), "hia-diffusers": __version__} | versions


def sha256_of_folder(folder: Path) -> str:
    """Of the names and the contents of the files in the folder and in its clips."""
    from ..metrics.weights import sha256_of

    digest = hashlib.sha256()
    for path in visible(folder):
        for file in visible(path) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\0".encode())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def print_table(measures: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'measure':28}{'value':>12}  {'better':8}{'of':24}network (SHA-256)")
    for name, result in measures.items():
        value = "-" if result["value"] is None else f"{result['value']:.5g}"
        count = f"{result['count']} {result['of']}"
        note = result.get("sha256", "")
        if result.get("rank_deficient"):
            note += "  (few samples: strongly biased)"
        print(f"{name:28}{value:>12}  {result['better']:8}{count:24}{note}".rstrip())


def evaluate(args: argparse.Namespace) -> None:
    check_arguments(args)
    device = choose_device(args.device)
    if args.dataset is None:
        clips = folder_clips(args)
        source = {
            option: {"path": str(folder), "sha256": sha256_of_folder(folder)}
            for option in ("predictions", "targets", "keypoints", "masks")
            if (folder := getattr(args, option)) is not None
        }
    else:
        check_model(args.model)
        clips, source = procdance_clips(args, device)
    evaluation = make_evaluation(args, clips, device)
    for index, (name, clip) in enumerate(clips.items()):
        print(f"{index + 1}/{len(clips)} {name}", flush=True)
        evaluation.add(name, **clip.load())

    measures = evaluation.measures()
    protocol = {"aggregation": AGGREGATION, "clip_stride": args.clip_stride, "device": device}
    report = {"measures": measures, "clips": evaluation.clips(), "source": source, "protocol": protocol}
    write_json(args.output, report | {"versions": installed_versions()})
    print_table(measures)
    print(f"Wrote {args.output}.")


def main(argv: Sequence[str] | None = None, prog: str = "hia-diffusers evaluate") -> None:
    """
    Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options. The default is what the process was called with.
        prog (`str`, *optional*, defaults to `"hia-diffusers evaluate"`):
            Its name in messages.
    """
    run(make_parser(prog), evaluate, argv)
