# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics, plots and the card of a prepared dataset."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


# Column, label and maximum value of each plot.
PLOTS = {
    "durations": ("seconds", "length of a clip in seconds", None),
    "scores": ("mean_score", "mean score of the body points of a clip", 1),
    "body_motion": ("body_motion", "mean speed of the body points, in body heights per second", None),
    "hand_motion": ("hand_motion", "mean speed of the hands, in hand boxes per frame at 30 frames per second", None),
    "sharpness": ("hand_sharpness", "mean sharpness of the hands", 1),
}

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: index.parquet
tags:
- hia-diffusers
- human-image-animation
---

# Prepared clips for human image animation

{clips} clips of one person each, {hours:.2f} hours, created from {used_videos} of {videos} videos by `hia-diffusers
prepare` of hia-diffusers.

Each row of `index.parquet` is a clip: `file_name` is the video, `annotations` a safetensors file with 133
COCO-WholeBody keypoints, hand boxes, motion and sharpness, and face boxes for every frame. `options.json` contains the
options of the dataset, `records/` the outcome for each video, `failures.jsonl` the videos that could not be used.

| | mean | minimum | median | maximum |
| --- | --- | --- | --- | --- |
{statistics}

Rejected clips, by the first filter that rejected them:

| filter | clips |
| --- | --- |
{dropped}

{plots}
"""


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Compute statistics over the clips of an index.

    Args:
        rows (`Sequence[Mapping[str, Any]]`):
            The rows of the index.

    Returns:
        `dict`: For `seconds` and each measured column, the number of clips with a value (`count`), `mean`, `std`, and
        the quantiles `min`, `q25`, `median`, `q75`, `max`; `None` without values.
    """
    names = ["seconds", "person_height", "mean_score", "body_motion", "hand_motion", "hand_sharpness"]
    return {name: _statistics(_values(rows, name)) for name in names}


def draw_plots(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Draw histograms over the clips of an index. Needs the `train` extra.

    Args:
        rows (`Sequence[Mapping[str, Any]]`):
            The rows of the index.

    Returns:
        `dict[str, bytes]`: PNG files by name.

    Raises:
        ImportError: If the `train` extra is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("Plots need the `train` extra: pip install 'hia-diffusers[train]'.") from error

    files = {}
    for name, (column, label, greatest) in PLOTS.items():
        values = _values(rows, column)
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel=label, ylabel="clips")
        axes.hist(values, bins=40, range=(0, greatest or max(values, default=1)), color="#34507a")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        files[f"{name}.png"] = buffer.getvalue()
    return files


def write_card(rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> str:
    """Return the `README.md` of a prepared dataset, whose header configures `datasets.load_dataset`.

    Args:
        rows (`Sequence[Mapping[str, Any]]`):
            The rows of the index.
        report (`Mapping[str, Any]`):
            The report, with `videos` and, by filter, `dropped`.
    """

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    statistics = [
        f"| {name} | " + " | ".join(cell(of_column[key]) for key in ("mean", "min", "median", "max")) + " |"
        for name, of_column in summarize(rows).items()
    ]
    return CARD.format(
        clips=len(rows),
        hours=sum(_values(rows, "seconds")) / 3600,
        used_videos=len({row["video"] for row in rows}),
        videos=report["videos"],
        statistics="\n".join(statistics),
        dropped="\n".join(f"| {rule} | {count} |" for rule, count in report["dropped"].items()),
        plots="\n".join(f"![{label}](plots/{name}.png)" for name, (_, label, _) in PLOTS.items()),
    )


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    if name == "seconds":
        return [row["num_frames"] / row["fps"] for row in rows]
    return [row[name] for row in rows if row[name] is not None]


def _statistics(values: Sequence[float]) -> dict[str, float | None]:
    names = ("mean", "std", "min", "q25", "median", "q75", "max")
    if not values:
        return {"count": 0, **dict.fromkeys(names)}
    quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    figures = (np.mean(values), np.std(values), *quantiles)
    return {"count": len(values), **{name: round(float(x), 6) for name, x in zip(names, figures, strict=True)}}
