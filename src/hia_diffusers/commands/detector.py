# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The options of the models that find keypoints in videos of a person."""

import argparse
from typing import Any


FEET_MODEL_HELP = "as --pose-model, for the feet; none keeps the feet of --pose-model (default: dwpose-l-384x288)"


def add_detector_options(parser: Any) -> None:
    """To a parser, or to a group of its options."""
    add = parser.add_argument
    add("--detector-model", default="yolox-m", help="name or ONNX file of the person detector (default: yolox-m)")
    add("--pose-model", default="rtmw-l-384x288", help="name or ONNX file of the pose model (default: rtmw-l-384x288)")
    add("--feet-model", default="dwpose-l-384x288", help=FEET_MODEL_HELP)
    add("--detector-device", default="cpu", help="cpu, cuda or cuda:N, for the three models above (default: cpu)")


def detector_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Of a `KeypointDetector`."""
    return {
        "detector_model": args.detector_model,
        "pose_model": args.pose_model,
        "feet_model": None if args.feet_model == "none" else args.feet_model,
        "device": args.detector_device,
    }
