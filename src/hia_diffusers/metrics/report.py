# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation as JSON, with everything that it depends on, and as a table."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from .evaluation import VideoEvaluation


AGGREGATION = (
    "mean over all frames of all clips that have a value; temporal metrics in windows of 16 frames, each with the "
    "first frame of the next"
)

# Modules that metrics depend on; some are available in several distributions.
LIBRARIES = (
    *("torch", "torchvision", "numpy", "cv2", "av", "PIL", "diffusers", "transformers", "lpips", "torch_fidelity"),
    *("scipy", "onnxruntime"),
)


def make_report(evaluation: VideoEvaluation, source: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return the metrics of all clips and of each clip, and how they were computed.

    Args:
        evaluation ([`VideoEvaluation`]):
            The evaluation of all clips.
        source (`Mapping[str, Any]`):
            Description of what was evaluated.
        device (`str`):
            Device of the networks.

    Returns:
        `dict[str, Any]`: `metrics` and `clips` of [`VideoEvaluation`], `source`, `protocol` and `versions`, as JSON
            values.
    """
    distributions = importlib.metadata.packages_distributions()
    names = {name for library in LIBRARIES for name in distributions.get(library, ())}
    return {
        "metrics": evaluation.metrics(),
        "clips": evaluation.clips(),
        "source": source,
        "protocol": {"aggregation": AGGREGATION, "clip_stride": evaluation.clip_stride, "device": device},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in sorted(names)},
    }


def table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Format one line per metric: its value, its better direction, the number of values, and the hash of its network.

    Args:
        metrics (`Mapping[str, Mapping[str, Any]]`):
            Result of [`VideoEvaluation.metrics`].
    """
    lines = [f"{'metric':28}{'value':>12}  {'better':8}{'of':24}network (SHA-256)"]
    for name, result in metrics.items():
        value = "-" if result["value"] is None else f"{result['value']:.5g}"
        count = f"{result['count']} {result['of']}"
        note = result.get("sha256", "")
        if result.get("rank_deficient"):
            note += "  (few samples: strongly biased)"
        lines.append(f"{name:28}{value:>12}  {result['better']:8}{count:24}{note}".rstrip())
    return "\n".join(lines)
