# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Train and score the paper's ablations on procedural people: the rows of benchmarks/ablation.yaml.

python benchmarks/ablation.py [--runs runs/ablation] [--only tuning|training|inference] [--rows NAME ...]

Writes docs/results/ablation.json and docs/results/ablation-*.png, and the tables between the marks in docs/results.md.
All trainings and scores are kept in the folder of runs, from which the same command resumes after an interruption.
LAUNCH is the command that runs a stage: by default two processes on a CPU, of one thread each.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from scores import COPYING, METRICS, ROOT, as_arguments, score, write_table

import hia_diffusers
from hia_diffusers.files import write_whole


matplotlib.use("agg")

ROWS = ROOT / "benchmarks" / "ablation.yaml"
RESULTS = ROOT / "docs" / "results"

STAGES = ("base", "spatial", "regional", "temporal-half", "temporal-full")


def short_hash(content):
    """Return a name for what a training or a score depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


# 1. Trainings


def stages_of_row(row, rows):
    """Return the options of each stage, in order, without the stages that the row leaves out."""
    config = yaml.safe_load((ROOT / rows["config"]).read_text())
    common = {name: value for name, value in config.items() if name != "stages"}
    common["learning_rate"] = row.get("learning_rate", rows["learning_rate"])
    stages = {}
    for stage in STAGES:
        own = row.get(stage, {} if stage in rows["stages"] else None)
        if own is None:
            continue
        of_config = config["stages"]["spatial" if stage == "base" else stage]
        options = {**common, **of_config, **rows["stages"].get(stage, {}), **own}
        options["start"] = None if stages else {**rows["start"], **row.get("start", {})}
        options["pretrained_model_name_or_path"] = None
        stages[stage] = {name: value for name, value in options.items() if value is not None}
    return stages


def starting_point(options, runs):
    """Return the folder of the pipeline that `hia-diffusers convert parts` creates with these options."""
    folder = runs / f"start-{short_hash(options)}"
    if not folder.exists():
        runs.mkdir(parents=True, exist_ok=True)
        words = as_arguments({**options, "output": str(folder)})
        command = [sys.executable, "-m", "hia_diffusers", "convert", "parts", *words]
        subprocess.run(command, check=True, cwd=ROOT)
    return folder


def train(stages, seed, runs):
    """Run the stages that have not been run yet, and return the folder of the last pipeline."""
    launch = shlex.split(os.environ.get("LAUNCH", ""))
    environment = dict(os.environ)
    if not launch:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    history, folder = [], None
    for stage, options in stages.items():
        history.append({"stage": stage, **options, "seed": seed})
        name = short_hash(history)
        previous, folder = folder, runs / f"{stage}-{name}"
        if (folder / "model_index.json").exists():
            continue
        options = options | {"seed": seed, "output_dir": str(folder), "resume_from_checkpoint": "latest"}
        options["stage"] = "spatial" if stage == "base" else stage
        start = options.pop("start", None)
        options["pretrained_model_name_or_path"] = str(previous or starting_point(start, runs.absolute()))
        print(f"Training {folder}", flush=True)
        command = [*launch, str(ROOT / "examples" / "train_hia.py"), *as_arguments(options)]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
    return folder


# 2. Scores


def score_copying(options, args):
    """Return the report of a baseline that repeats the reference image, on the clips of these options."""
    options = {name: options[name] for name in ("max_clips", "frames") if name in options} | {"baseline": "copy"}
    return score(options, args.runs / "scores" / f"copying-{short_hash(options)}.json")


def tune(rows, args):
    """Return the table of the scores with other learning rates."""
    lines = ["| | learning rate | L1 | PSNR | FVD-p |", "| --- | --- | --- | --- | --- |"]

    def add(name, rate, metrics):
        values = [f"{metrics[metric]['value']:.4g}" for metric in ("l1", "psnr", "FVD-p")]
        lines.append(f"| {name} | {rate} | {' | '.join(values)} |")

    for name, rates in rows["tuning"].items():
        for rate in rates:
            row = rows["training"][name] | {"learning_rate": rate}
            options = rows["evaluation"] | row.get("evaluation", {}) | rows["tuning_evaluation"]
            stages = stages_of_row(row, rows)
            path = args.runs / "scores" / f"tuning-{short_hash([stages, options])}.json"
            model = None if path.exists() else str(train(stages, 0, args.runs))
            add(name, rate, score({**options, "model": model}, path)["metrics"])
    add(COPYING, "", score_copying(rows["evaluation"] | rows["tuning_evaluation"], args)["metrics"])
    return "\n".join(lines)


def run_group(group, rows, args):
    """Return the reports of all seeds of each row: of all rows, or of those requested and those already scored."""
    reports = {}
    for number, (name, row) in enumerate(rows[group].items()):
        if group == "training":
            stages, own = stages_of_row(row, rows), row.get("evaluation", {})
        else:
            stages, own = {}, rows["inference_evaluation"] | row
        for seed in rows["seeds"][group]:
            # Seeds of clips follow one another from the seed of the evaluation on.
            options = {**rows["evaluation"], "seed": 1000 * seed, **own}
            path = args.runs / "scores" / f"{group}-{number}-{seed}-{short_hash([stages, options])}.json"
            if args.rows is None or name in args.rows or path.exists():
                trained = stages and not path.exists()
                model = train(stages, seed, args.runs) if trained else args.model
                reports.setdefault(name, []).append(score({**options, "model": str(model)}, path))
    options = rows["evaluation"] | ({} if group == "training" else rows["inference_evaluation"])
    reports[COPYING] = [score_copying(options, args)] * len(rows["seeds"][group])  # no seed changes it
    return reports


# 3. The page


def values_of(reports):
    """Return one value per seed of each metric."""
    return {metric: [report["metrics"][metric]["value"] for report in reports] for metric in METRICS}


def differences(reports, full):
    """Return mean and standard error, over the clips, of the difference in L1 from the full method."""
    of_clips = [
        [report["clips"][clip]["l1"] - other["clips"][clip]["l1"] for clip in other["clips"]]
        for report, other in zip(reports, full, strict=True)
    ]
    per_clip = np.mean(of_clips, axis=0)
    return float(per_clip.mean()), float(per_clip.std(ddof=1) / len(per_clip) ** 0.5)


def table(reports):
    """Return the table of a group, with the difference of each row from the full method."""
    lines = [f"| | {' | '.join(METRICS.values())} | L1 vs full | full is better |", "| --- |" + " --- |" * 11]
    full = reports.get("full")
    for name, of_row in reports.items():
        cells = []
        for values in values_of(of_row).values():
            mean = f"{np.mean(values):.4g}"
            cells.append(f"{mean} ± {np.std(values, ddof=1):.2g}" if len(set(values)) > 1 else mean)
        if name == "full" or full is None:
            cells += ["", ""]
        else:
            mean, error = (100 * value / np.mean(values_of(full)["l1"]) for value in differences(of_row, full))
            verdict = "undecided" if abs(mean) < 2 * error else "yes" if mean > 0 else "no"
            cells += [f"{mean:+.1f}% ± {error:.1f}%", verdict]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(values, path):
    """Plot L1 and FVD-p of each row, `values[row][metric]` of all seeds, as a fraction of the full method's."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(values) + 1), layout="constrained")
    rows = list(values)[::-1]
    for offset, metric in ((0.2, "l1"), (-0.2, "FVD-p")):
        full = np.mean(values["full"][metric])
        shares = [np.array(values[row][metric]) / full for row in rows]
        spread = [of_row.std(ddof=1) if len(of_row) > 1 else 0 for of_row in shares]
        places = np.arange(len(rows)) + offset
        axes.barh(places, [of_row.mean() for of_row in shares], 0.4, xerr=spread, label=METRICS[metric])
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlabel="share of the full method's; lower is better")
    axes.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder of trainings and scores")
    parser.add_argument("--model", default=hia_diffusers.HIA_TINY, help="of the inference rows (default: hia-tiny)")
    parser.add_argument("--only", choices=["tuning", "training", "inference"], help="one of the groups of rows")
    parser.add_argument("--rows", nargs="+", help="run these only, beside those that are done")
    args = parser.parse_args()
    args.runs = args.runs.resolve()  # scripts run in the repository's folder
    rows = yaml.safe_load(ROWS.read_text())
    unknown = set(args.rows or ()) - set(rows["training"]) - set(rows["inference"])
    if unknown:
        parser.error(f"--rows: {ROWS.name} has no row {', '.join(sorted(unknown))}")
    results_path = RESULTS / "ablation.json"
    results = json.loads(results_path.read_text()) if results_path.exists() else {}
    for group in ("tuning", "training", "inference") if args.only is None else (args.only,):
        if group == "tuning":
            write_table(group, tune(rows, args))
            continue
        reports = run_group(group, rows, args)
        if "full" not in reports:
            continue
        RESULTS.mkdir(exist_ok=True)
        results[group] = {name: values_of(of_row) for name, of_row in reports.items()}
        plot(results[group], RESULTS / f"ablation-{group}.png")
        write_whole(results_path, json.dumps(results, indent=1) + "\n")
        write_table(group, table(reports))


if __name__ == "__main__":
    main()
