# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the figures of docs/how_it_works.md, using the classes that they describe.

python docs/figures.py [--output docs/images]
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

from hia_diffusers import MotionBlurConditioner, ShiftedSNRScheduler
from hia_diffusers.pipelines.context_windows import context_windows
from hia_diffusers.procedural.scene import ProceduralScene


matplotlib.use("agg")
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "hia"})

INPUT, NETWORK, STEP = "#dbe7f5", "#fde3c8", "#e3efdc"

# Centre, half of the size, text and colour of each box of the flow.
BOXES = {
    "image": ((1.0, 4.2), (0.75, 0.45), "image\nof a person", INPUT),
    "motion": ((1.0, 1.2), (0.75, 0.45), "keypoints\nof a motion", INPUT),
    "image encoder": ((3.7, 5.2), (1.05, 0.35), "CLIP image encoder", NETWORK),
    "appearance encoder": ((3.7, 4.2), (1.05, 0.45), "HIAAppearanceEncoder\nonce per clip", NETWORK),
    "noise": ((3.7, 3.0), (1.05, 0.45), "latents of the image,\nnoised, in each frame", STEP),
    "conditioner": ((3.7, 1.2), (1.05, 0.45), "MotionBlurConditioner\n6 channels a frame", STEP),
    "unet": (
        (7.0, 4.2),
        (1.05, 1.35),
        "HIAUNetMotionModel\n\nattention in a frame,\nto the image,\nand over time",
        NETWORK,
    ),
    "controlnet": ((7.0, 1.2), (1.05, 0.45), "HIAControlNetModel", NETWORK),
    "scheduler": ((10.3, 4.2), (1.05, 0.6), "ShiftedSNRScheduler\nsteps over windows\nof the clip", STEP),
    "vae": ((10.3, 2.5), (1.05, 0.45), "autoencoder\ndecodes the frames", NETWORK),
    "video": ((10.3, 1.2), (1.05, 0.35), "video", INPUT),
}

# Arrows from the edge of one box to that of another, with labels.
ARROWS = [
    ((1.75, 4.4), (2.65, 5.1), ""),
    ((1.75, 4.2), (2.65, 4.2), ""),
    ((1.75, 4.0), (2.65, 3.1), ""),
    ((1.75, 1.2), (2.65, 1.2), ""),
    ((4.75, 5.2), (5.95, 5.2), "context"),
    ((4.75, 4.2), (5.95, 4.2), "features"),
    ((4.75, 3.0), (5.95, 3.0), "start"),
    ((4.75, 1.2), (5.95, 1.2), "condition"),
    ((7.0, 1.65), (7.0, 2.85), " residuals"),
    ((8.05, 4.45), (9.25, 4.45), "prediction"),
    ((9.25, 3.95), (8.05, 3.95), "latents"),
    ((10.3, 3.6), (10.3, 2.95), ""),
    ((10.3, 2.05), (10.3, 1.55), ""),
]


def draw_pipeline():
    """Draw the data flow of a call of the pipeline, from left to right."""
    figure, axes = plt.subplots(figsize=(9.6, 4.6))
    for (x, y), (half_width, half_height), text, color in BOXES.values():
        corner = (x - half_width, y - half_height)
        box = FancyBboxPatch(corner, 2 * half_width, 2 * half_height, boxstyle="round,pad=0,rounding_size=0.1")
        box.set(facecolor=color, edgecolor="#555555")
        axes.add_patch(box)
        axes.text(x, y, text, ha="center", va="center", fontsize=8)
    for start, end, text in ARROWS:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#555555"})
        (x0, y0), (x1, y1) = start, end
        beside = {"ha": "left", "va": "center"} if x0 == x1 else {"ha": "center", "va": "bottom"}
        axes.text((x0 + x1) / 2, (y0 + y1) / 2, text, fontsize=7, **beside)
    axes.set(xlim=(0.1, 11.5), ylim=(0.5, 5.8), aspect="equal")
    axes.axis("off")
    return figure


def draw_shifted_snr():
    """Draw the signal-to-noise ratio of the scheduler with and without its shift."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    for factor, text in (
        (1.0, "linear betas, gamma = 1"),
        (4 / 7, "shifted, gamma = 4/7 (512x896)"),
        (0.25, "gamma = 1/4"),
    ):
        alphas = ShiftedSNRScheduler(snr_shift_factor=factor).alphas_cumprod
        axes.plot(10 * torch.log10(alphas / (1 - alphas)), label=text)
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set(xlabel="timestep", ylabel="signal-to-noise ratio, dB")
    axes.legend(frameon=False)
    return figure


def draw_windows(num_frames=40, steps=6):
    """Draw the windows of a clip in some denoising steps, with and without random shifts."""
    figure, columns = plt.subplots(1, 2, figsize=(9.6, 3.2), sharex=True, sharey=True)
    generator = torch.Generator().manual_seed(0)
    for axes, shift in zip(columns, (False, True), strict=True):
        for step in range(steps):
            windows = context_windows(num_frames, 16, 4, shift, generator)
            for index, window in enumerate(windows):
                left, width = window.start, len(window)
                height = step + 0.22 * (index % 3) - 0.22
                axes.broken_barh([(left, width)], (height - 0.1, 0.2), facecolors=f"C{index % 3}")
        axes.set_title("context_shift=True" if shift else "context_shift=False", fontsize=9)
        axes.set(xlabel="frame", yticks=range(steps), xlim=(0, num_frames))
    columns[0].set_ylabel("denoising step")
    columns[0].invert_yaxis()
    return figure


def draw_condition(frame=5):
    """Draw a frame of a procedural person and the six channels of its condition."""
    height, width = 320, 192
    clip = ProceduralScene("test", identity=5, motion=5, setting=5).render(range(frame + 1), height, width)
    condition = MotionBlurConditioner.for_size(height, width)(clip.keypoints, frames=clip.frames)
    channels = condition.to_tensor()[frame].numpy()
    images = {
        "frame": clip.frames[frame],
        "0-2: pose": np.moveaxis(channels[:3], 0, -1),
        "3: motion, x": channels[3],
        "4: motion, y": channels[4],
        "5: sharpness": channels[5],
    }
    figure, columns = plt.subplots(1, len(images), figsize=(9.6, 3.2), layout="constrained")
    for axes, (title, image) in zip(columns, images.items(), strict=True):
        shown = axes.imshow(image, cmap="viridis", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.colorbar(shown, ax=columns, shrink=0.8, pad=0.02)
    return figure


FIGURES = {
    "flow.svg": draw_pipeline,
    "shifted_snr.svg": draw_shifted_snr,
    "context_windows.svg": draw_windows,
    "condition.png": draw_condition,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Draw the figures of docs/how_it_works.md.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images", help="folder to write to")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw()
        figure.patch.set_facecolor("white")  # on a dark page, too
        metadata = {"Date": None} if name.endswith(".svg") else {"Software": None}  # the same bytes each time
        figure.savefig(args.output / name, bbox_inches="tight", dpi=110, metadata=metadata)
        plt.close(figure)


if __name__ == "__main__":
    main()
