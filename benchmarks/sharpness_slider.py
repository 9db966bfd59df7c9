# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the sharpness of the hands follows the requested one, and whether anything else changes with it.

python benchmarks/sharpness_slider.py --output build/sharpness [--model ID_OR_PATH] [--clips 50] [--num_frames 4]

Each clip of ProcDance-v1 is generated with the model's call defaults, from the same noise, with 11 sharpnesses from 0
to 1. Writes `slider.json` and `slider.png` to the folder, and prints

- Spearman's correlation between requested sharpness and measured variance of the Laplacian in the hand boxes (Eq. 3,
  mean over the frames), as the mean over the clips;
- the fraction of clips in which the measured variance never decreases from one requested value to the next;
- the variance at 1 relative to that of the true frames, as the median over the clips;
- the range, over the requested values, of the mean absolute error outside the hands, relative to its mean.

Finished clips are kept in the folder, from which the same command resumes.
"""

import argparse
import functools
import json
from pathlib import Path

import diffusers
import matplotlib
import numpy as np
import torch
from PIL import Image

import hia_diffusers
from hia_diffusers import HIAPipeline, MotionBlurConditioner
from hia_diffusers.conditioning.regions import box_masks
from hia_diffusers.files import write_whole
from hia_diffusers.metrics.region_metrics import rank_correlation
from hia_diffusers.procedural.procdance import proc_dance_v1


matplotlib.use("agg")

HEIGHT, WIDTH = 160, 96
REQUESTED = np.linspace(0, 1, 11)


def measure_clip(pipe, index, args):
    """Return, by requested value, variance in the hands and error outside them; and the true variance."""
    clip = proc_dance_v1()[index]
    truth = clip.target.render(range(args.num_frames), HEIGHT, WIDTH, clip.fps)
    reference = clip.target.render([clip.reference_frame], HEIGHT, WIDTH, clip.fps).frames[0]
    conditioner = MotionBlurConditioner.for_size(HEIGHT, WIDTH)

    def variance(frames):
        """Return the mean variance of the Laplacian in the hands."""
        sharpness = conditioner(truth.keypoints, frames).hand_sharpness
        return float(np.nanmean(conditioner.unsquash_sharpness(sharpness[np.isfinite(sharpness)])))

    measured, errors = [], []
    for requested in REQUESTED:
        condition = conditioner(truth.keypoints, sharpness=float(requested))
        frames = pipe(
            Image.fromarray(reference),
            condition,
            generator=torch.Generator().manual_seed(index),
            output_type="np",
        ).frames[0]
        outside = ~box_masks(condition.hand_boxes, HEIGHT, WIDTH).any(axis=1)
        measured.append(variance((frames * 255).round().astype(np.uint8)))
        errors.append(float(np.abs(frames - truth.frames / 255)[outside].mean()))
    return {"measured": measured, "error_outside": errors, "truth": variance(truth.frames)}


def kept(path, make):
    """Return the result of `make()`, from its file if that exists."""
    if not path.exists():
        write_whole(path, json.dumps(make(), indent=1))
    return json.loads(path.read_text())


def summary(clips):
    """Return the printed figures."""
    measured = np.array([clip["measured"] for clip in clips])
    errors = np.array([clip["error_outside"] for clip in clips])
    requested = torch.from_numpy(REQUESTED)
    correlations = [rank_correlation(requested, torch.from_numpy(values)) for values in measured]
    return {
        "clips": len(clips),
        "spearman": float(np.mean(correlations)),
        "spearman_lowest": float(np.min(correlations)),
        "monotone_share": float((np.diff(measured, axis=1) >= 0).all(axis=1).mean()),
        "sharpest_beside_truth": float(np.median(measured[:, -1] / [clip["truth"] for clip in clips])),
        "ratio_of_extremes": float(np.median(measured[:, -1] / measured[:, 0])),
        "error_outside_moves": float(np.mean(np.ptp(errors, axis=1) / errors.mean(axis=1))),
    }


def plot(clips, path):
    """Plot the requested against the measured sharpness."""
    from matplotlib import pyplot

    measured = np.array([clip["measured"] for clip in clips])
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(REQUESTED, measured.T, color="0.8", linewidth=0.7)
    axes.plot(REQUESTED, np.median(measured, axis=0), color="C0", linewidth=2, label="median of the clips")
    axes.axhline(
        np.median([clip["truth"] for clip in clips]), color="C1", linestyle="--", label="median of the true frames"
    )
    axes.set(xlabel="requested sharpness", ylabel="variance of the Laplacian in the hands", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for slider.json, slider.png and the clips")
    parser.add_argument("--model", default=hia_diffusers.HIA_TINY, help="a HIAPipeline (default: hia-tiny)")
    parser.add_argument("--clips", type=int, default=50, help="of ProcDance-v1, the first ones (default: 50)")
    parser.add_argument("--num_frames", type=int, default=4, help="of each clip (default: 4)")
    parser.add_argument("--dtype", default="float32", help="of weights and computation (default: float32)")
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    pipe = HIAPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    pipe.set_progress_bar_config(disable=True)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    options = {name: str(value) for name, value in vars(args).items() if name not in ("output", "clips")}
    args.output.mkdir(parents=True, exist_ok=True)
    if kept(args.output / "options.json", lambda: options) != options:
        parser.error(f"--output: {args.output} holds clips of other options")
    clips = []
    for index in range(args.clips):
        path = args.output / f"clip-{index:02d}.json"
        clips.append(kept(path, functools.partial(measure_clip, pipe, index, args)))
        print(f"{index + 1}/{args.clips}", flush=True)
    result = summary(clips)
    del options["model"]  # a path of this machine
    write_whole(args.output / "slider.json", json.dumps({**options, **result, "clips": clips}, indent=1) + "\n")
    plot(clips, args.output / "slider.png")
    for name, value in result.items():
        print(f"{name:24}{value:10.4g}")


if __name__ == "__main__":
    main()
