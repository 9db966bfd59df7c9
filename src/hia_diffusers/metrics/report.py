# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, with all that the figures depend on, and as a table."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from .evaluation import VideoEvaluation


AGGREGATION = (
    "mean over all frames of all clips that have a value; measures over time in windows of 16 frames, each with the "
    "first frame of the next"
)

# Modules that a score depends on; some come in several distributions.
LIBRARIES = (
    *("torch", "torchvision", "numpy", "cv2", "av", "PIL", "diffusers", "transformers", "lpips", "torch_fidelity"),
    *("scipy", "onnxruntime"),
)


def make_report(evaluation: VideoEvaluation, source: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The metrics of all clips and of each, and how they were computed.

    Args:
        evaluation ([`VideoEvaluation`]):
            With all clips.
        source (`Mapping[str, Any]`):
            What was scored.
        device (`str`):
            On which the networks ran.

    Returns:
        `dict[str, Any]`: `measures` and `clips` as [`VideoEvaluation`] gives them, `source`, `protocol` and
        `versions`; all of it JSON.
    """
    distributions = importlib.metadata.packages_distributions()
    names = {name for library in LIBRARIES for name in distributions.get(library, ())}
    return {
        "measures": evaluation.measures(),
        "clips": evaluation.clips(),
        "source": source,
        "protocol": {"aggregation": AGGREGATION, "clip_stride": evaluation.clip_stride, "device": device},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in sorted(names)},
    }


def table(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per metric: its value, which way is better, of how many values it is, and the hash of its network.

    Args:
        measures (`Mapping[str, Mapping[str, Any]]`):
            As [`VideoEvaluation.measures`] gives them.
    """
    lines = [f"{'measure':28}{'value':>12}  {'better':8}{'of':24}network (SHA-256)"]
    for name, result in measures.items():
        value = "-" if result["value"] is None else f"{result['value']:.5g}"
        count = f"{result['count']} {result['of']}"
        note = result.get("sha256", "")
        if result.get("rank_deficient"):
            note += "  (few samples: strongly biased)"
        lines.append(f"{name:28}{value:>12}  {result['better']:8}{count:24}{note}".rstrip())
    return "\n".join(lines)
