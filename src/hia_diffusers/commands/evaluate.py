# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate predicted videos against the ground truth, with the metrics of the paper and additional ones."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_writable, write_whole
from ..metrics import disco
from .arguments import (
    DEVICE_HELP,
    DTYPES,
    MODEL_HELP,
    VARIANT_HELP,
    Default,
    Flag,
    OneLineParser,
    add_sampling_options,
    number,
    size,
)
from .loading import check_model, choose_device, load_pipeline
from .running import run


if TYPE_CHECKING:
    from ..metrics.evaluation import EvaluationClip, VideoEvaluation
    from ..pipelines.pipeline_hia import HIAPipeline


CONTROL_HELP = (
    "what the model must lose or need: the ground truth through its autoencoder, or frames generated from the motion "
    "or the reference image of the next clip, or with hands that move the other way"
)
CONTROLS = ("autoencoder", "other-pose", "other-reference", "reversed-motion")
PROTOCOL_HELP = "also print DisCo's metrics, and each choice that differs from its code; sets --clip_stride 1"
GUIDANCE_INTERVAL_HELP = "fractions of the steps between which there is guidance"

# Groups of options.
FOLDERS = ("predictions", "targets", "keypoints", "masks")
CALL_OPTIONS = (  # arguments of the model's call, whose defaults are the model's
    "num_inference_steps",
    "guidance_scale",
    "reference_noise",
    "shared_noise",
    "context_shift",
)
MODEL_SETTINGS = ("dtype", "motion_modules", "blur_condition", "guidance_interval", "deep_cache_interval")
MODEL_OPTIONS = ("variant", "control", *MODEL_SETTINGS, *CALL_OPTIONS)
DATASET_OPTIONS = ("model", "baseline", *MODEL_OPTIONS, "cross_identity", "num_frames", "size", "seed", "max_clips")


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the options."""
    parser = OneLineParser(prog="hia-diffusers evaluate", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help=".json file to write; an existing one is replaced")
    parser.add_argument("--device", help=DEVICE_HELP)
    parser.add_argument("--protocol", choices=["disco"], help=PROTOCOL_HELP)

    add = parser.add_argument_group("score videos in folders").add_argument
    add("--predictions", type=Path, metavar="DIR", help="videos, or folders of frames, one per clip")
    add("--targets", type=Path, metavar="DIR", help="the ground truth, of the same names, sizes and lengths")
    add("--keypoints", type=Path, metavar="DIR", help="keypoints of the targets (NAME.safetensors or .npz)")
    add("--masks", type=Path, metavar="DIR", help="NAME.safetensors with face_mask (F,H,W), hand_masks (F,2,H,W)")

    group = parser.add_argument_group("score a model on procedural people")
    add = group.add_argument
    add("--dataset", choices=["procdance-v1"], help="50 clips of 32 frames, rendered on the spot")
    add("--model", help=MODEL_HELP)
    add("--variant", help=VARIANT_HELP)
    add("--baseline", choices=["copy", "truth", "noise"], help="instead of a model: reference, targets, random pixels")
    add("--control", choices=[*CONTROLS], help=CONTROL_HELP)
    add("--cross_identity", action=Flag, default=Default(False), help="drive with another person, retargeted")
    add("--num_frames", type=number(int, 16, 10**4), default=Default(32), help="frames of each clip")
    frame_size = partial(size, smallest=16)
    add("--size", type=frame_size, default=Default((160, 96), "96x160"), help="WIDTHxHEIGHT, multiples of 8")
    add_sampling_options(group)
    fraction = number(float, 0, 1)
    add(
        "--guidance_interval",
        type=fraction,
        nargs=2,
        metavar=("START", "END"),
        default=Default([0.0, 1.0], "0 1"),
        help=GUIDANCE_INTERVAL_HELP,
    )
    add("--deep_cache_interval", type=number(int, 1, 1000), default=Default(1), help="run all blocks every N steps")
    add("--reference_noise", action=Flag, help="start from the noised reference image (default: the model's, or yes)")
    add("--shared_noise", type=fraction, help="noise common to all frames (default: the model's, or 0)")
    add("--context_shift", action=Flag, help="shift windows at each step (default: the model's, or yes)")
    add("--motion_modules", action=Flag, default=Default(True), help="layers over time")
    add(
        "--blur_condition", action=Flag, default=Default(True), help="give the model motion and sharpness of the hands"
    )
    add("--seed", type=number(int, 0, 2**62), default=Default(0), help="clip i is drawn with SEED + i")
    add("--dtype", choices=DTYPES, default=Default("float32"), help="of weights and computation")
    add("--max_clips", type=number(int, 1, 10**6), help="only the first clips")

    add = parser.add_argument_group("networks, each a file or hf://owner/name/file").add_argument
    add("--lpips", nargs="?", const="", metavar="FILE", help="backbone of LPIPS (without FILE: torchvision's)")
    add("--lpips_network", choices=["vgg", "alex", "squeeze"], default=Default("vgg"), help="which backbone it is")
    add("--inception", metavar="FILE", help="Inception-v3, for FID")
    add("--pad_fid", action="store_true", help="pad frames to squares for FID too, as the paper does")
    add("--resnet3d", metavar="FILE", help="3D ResNet-50, for FID-VID")
    add("--i3d", metavar="FILE", help="I3D, for FVD")
    add("--arcface", metavar="FILE", help="ArcFace (.onnx), for the identity of faces; needs keypoints")
    add("--clip_stride", type=number(int, 1, 10**6), default=Default(16), help="frames between the starts of clips")
    return parser


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuse incompatible options, and replace `Default` objects by their values."""
    if args.dataset is None:
        if args.predictions is None or args.targets is None:
            raise ValueError("give --predictions and --targets, or --dataset")
        _refuse(args, DATASET_OPTIONS, "needs --dataset")
        if args.arcface is not None and args.keypoints is None:
            raise ValueError("--arcface: needs --keypoints to find the faces")
    else:
        _refuse(args, FOLDERS, "cannot be combined with --dataset")
        if (args.model is None) == (args.baseline is None):
            raise ValueError("--dataset: needs either --model or --baseline")
        if args.model is None:
            _refuse(args, MODEL_OPTIONS, "needs --model")
        if args.control is not None:
            _refuse(args, ["cross_identity"], "cannot be combined with --control")
    if args.lpips is None:
        _refuse(args, ["lpips_network"], "needs --lpips")
    if args.output.suffix.lower() != ".json":
        raise ValueError(f"--output: must end in .json, got {str(args.output)!r}")
    try:
        check_writable(args.output)
    except (OSError, ValueError) as error:
        raise ValueError(f"--output: {error}") from error
    if args.protocol == "disco" and isinstance(args.clip_stride, Default):
        args.clip_stride = disco.CLIP_STRIDE
    for name, value in vars(args).items():
        if isinstance(value, Default):
            setattr(args, name, value.value)
    if args.guidance_interval[0] >= args.guidance_interval[1]:
        raise ValueError("--guidance_interval: START must be less than END")


def _refuse(args: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    for name in names:
        value = getattr(args, name)
        if value is not None and not isinstance(value, Default):
            raise ValueError(f"--{name}: {reason}")


def _clips_of_dataset(args: argparse.Namespace, device: str) -> tuple[list["EvaluationClip"], dict[str, Any]]:
    """Return the clips, and their description for the report."""
    from ..metrics.procdance import BASELINES, generate, procdance_clips, through_autoencoder
    from ..metrics.weights import sha256_of_weights
    from ..pipelines.guidance import classifier_free_guidance

    height, width = args.size
    source = {"dataset": args.dataset, "cross_identity": args.cross_identity, "num_frames": args.num_frames}
    source |= {"size": f"{width}x{height}", "seed": args.seed}
    exchanged = None
    if args.model is None:
        predict: Callable = BASELINES[args.baseline]
        source["baseline"] = args.baseline
    else:
        pipe = load_pipeline(args.model, device, args.dtype, variant=args.variant).to(device)
        pipe.set_progress_bar_config(disable=True)
        if not args.motion_modules:
            pipe.unet.set_motion_modules(False)
        if args.deep_cache_interval > 1:
            _enable_deep_cache(pipe, args.deep_cache_interval)
        given = {name: getattr(args, name) for name in CALL_OPTIONS}
        call = {name: pipe.call_default(name) if value is None else value for name, value in given.items()}
        source |= {"model": args.model, "weights_sha256": sha256_of_weights(pipe.components), **call}
        source |= {name: getattr(args, name) for name in ("control", *MODEL_SETTINGS)}
        call["guider"] = classifier_free_guidance(call.pop("guidance_scale"), *args.guidance_interval)
        source["scheduler"] = json.loads(pipe.scheduler.to_json_string())
        if args.control == "autoencoder":
            predict = partial(through_autoencoder, pipe)
        else:
            call |= {"blur_condition": args.blur_condition, "reversed_motion": args.control == "reversed-motion"}
            predict = partial(generate, pipe, **call)
            if args.control in ("other-pose", "other-reference"):
                exchanged = args.control.removeprefix("other-")
    clips = procdance_clips(
        predict,
        num_frames=args.num_frames,
        size=args.size,
        seed=args.seed,
        cross_identity=args.cross_identity,
        exchanged=exchanged,
        max_clips=args.max_clips,
    )
    return clips, source


def _enable_deep_cache(pipe: "HIAPipeline", interval: int) -> None:
    from ..models.deep_cache import DeepCacheConfig, DeepCacheMixin

    for network in (pipe.unet, pipe.controlnet):
        if isinstance(network, DeepCacheMixin):
            network.enable_cache(DeepCacheConfig(interval))


def _make_evaluation(args: argparse.Namespace, clips: Sequence["EvaluationClip"], device: str) -> "VideoEvaluation":
    """Load the requested networks, once it is known that the clips suffice for them."""
    from ..metrics import extractors
    from ..metrics.evaluation import VideoEvaluation
    from ..metrics.frame import LPIPS
    from ..metrics.identity import ArcFace

    networks: list[tuple[str, Any, dict[str, Any]]] = [
        ("inception", extractors.InceptionFeatures, {"weights": args.inception, "pad": args.pad_fid}),
        ("resnet3d", extractors.ResNet3DFeatures, {"weights": args.resnet3d}),
        ("i3d", extractors.I3DFeatures, {"weights": args.i3d}),
        ("dataset", extractors.ProceduralFrameFeatures, {}),
        ("dataset", extractors.ProceduralClipFeatures, {}),
    ]
    wanted = [network for network in networks if getattr(args, network[0]) is not None]
    num_frames = {clip.name: clip.num_frames for clip in clips}
    for name, extractor, _ in wanted:
        _blamed_on(name, extractor.check_clips, num_frames, args.clip_stride)
    lpips = arcface = None
    if args.lpips is not None:
        lpips = _blamed_on("lpips", LPIPS, args.lpips_network, args.lpips or None, device=device)
    if args.arcface is not None:
        arcface = _blamed_on("arcface", ArcFace, args.arcface)
    loaded = [_blamed_on(name, extractor, **options, device=device) for name, extractor, options in wanted]
    return VideoEvaluation(lpips, arcface, loaded, clip_stride=args.clip_stride)


def _blamed_on(name: str, function: Callable, *arguments: Any, **options: Any) -> Any:
    """Call a function; any error that it raises names an option."""
    try:
        return function(*arguments, **options)
    except ImportError:
        raise
    except Exception as error:  # runtimes raise different errors
        raise ValueError(f"--{name}: {str(error).strip() or type(error).__name__}") from error


def _evaluate(args: argparse.Namespace) -> None:
    _check_arguments(args)
    device = choose_device(args.device)

    from .. import __version__
    from ..metrics.folders import clips_in_folders, sha256_of_folder
    from ..metrics.report import make_report, table

    if args.dataset is None:
        folders = {name: folder for name in FOLDERS if (folder := getattr(args, name)) is not None}
        clips = clips_in_folders(**folders)
        source: dict[str, Any] = {
            name: {"path": str(folder), "sha256": sha256_of_folder(folder)} for name, folder in folders.items()
        }
    else:
        check_model(args.model)
        clips, source = _clips_of_dataset(args, device)
    evaluation = _make_evaluation(args, clips, device)
    for index, clip in enumerate(clips):
        print(f"{index + 1}/{len(clips)} {clip.name}", flush=True)
        evaluation.add(clip.name, **clip.load())

    report = make_report(evaluation, source, device)
    report["versions"]["hia-diffusers"] = __version__
    if args.protocol == "disco":
        notes = disco.differences(report["metrics"], args.lpips_network, args.pad_fid, args.clip_stride)
        report["protocol"] |= {"name": "disco", "differences": notes}
    write_whole(args.output, json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(table(report["metrics"]))
    if args.protocol == "disco":
        print(disco.table(report["metrics"], notes))
    print(f"Wrote {args.output}.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Its options; by default what the process was called with.
    """
    run(make_parser(), _evaluate, argv)
