# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animate many images with Ray Data: with one actor per GPU or, without GPUs, actors with one CPU thread each.

    python examples/animate_many.py --jobs jobs.jsonl --output videos --model ID_OR_PATH

The list of jobs is a .jsonl file with a job per line, or a .json or .yaml file with a list of jobs:

    {"name": "anna", "image": "anna.png", "motion": "dance.safetensors", "sharpness": 0.8, "seed": 1}

The video is videos/anna.mp4. `sharpness`, `seed` and `image_keypoints`, to which the motion is aligned, are optional.
Paths are relative to the folder of the list. The same command resumes an interrupted run, and tries failed jobs again.
"""

import json
import re
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

import torch
import yaml
from fsspec.implementations.local import LocalFileSystem

from hia_diffusers import HIA_TINY, HIAAnimator, WholeBodyKeypoints
from hia_diffusers.checks import shown
from hia_diffusers.commands.arguments import (
    DTYPES,
    VARIANT_HELP,
    OneLineParser,
    add_sampling_options,
    number,
    sampling_arguments,
    size,
)
from hia_diffusers.commands.loading import check_model, load_pipeline
from hia_diffusers.commands.running import run
from hia_diffusers.files import UNFINISHED, write_whole
from hia_diffusers.images import load_image
from hia_diffusers.preparation.clip_index import check_inside


JOBS_HELP = (
    "list of jobs, .jsonl, .json or .yaml: name, image and motion (keypoints saved by WholeBodyKeypoints) of each; "
    "image_keypoints, sharpness and seed where wanted"
)
WORKERS_HELP = "number of Ray actors, each with a GPU or, where there is none, a CPU (default: one per GPU, or 1)"
SIZE_HELP = "WIDTHxHEIGHT of the videos, multiples of 8 (default: the motion's, rounded); images are fitted into it"


@dataclass(frozen=True)
class Job:
    name: str
    image: Path
    motion: Path
    image_keypoints: Path | None = None
    sharpness: float | str = "auto"
    seed: int = 0


class Animator:
    """Generates the videos of jobs with one pipeline. Ray Data creates one object in every actor."""

    def __init__(self, jobs, args, device):
        if device == "cpu":
            torch.set_num_threads(1)  # the number of threads changes the rounding
        self.animate = HIAAnimator(load_pipeline(args.model, device, args.dtype, args.variant).to(device))
        self.animate.pipe.set_progress_bar_config(disable=True)
        self.jobs, self.args = {job.name: job for job in jobs}, args

    def __call__(self, batch):
        job, error = self.jobs[batch["name"][0]], ""
        try:
            with begun_once(self.args.output / f".{job.name}.begun"):
                self.make_video(job)
        except Exception as exception:  # the other jobs continue after any error
            error = one_sentence(exception)
        return {"name": [job.name], "error": [error]}

    def make_video(self, job):
        height, width = self.args.size or (None, None)
        self.animate(
            load_image(job.image),
            WholeBodyKeypoints.load(job.motion),
            video_path(self.args.output, job),
            image_keypoints=job.image_keypoints,
            sharpness=job.sharpness,
            height=height,
            width=width,
            generator=torch.Generator().manual_seed(job.seed),
            **sampling_arguments(self.args),
        )


@contextmanager
def begun_once(mark):
    """Refuse a job whose process was killed, since Ray would start it in new processes again and again."""
    if mark.exists():
        mark.unlink()
        raise RuntimeError("its process was killed; was there too little memory?")
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def one_sentence(error):
    return str(error).strip().split("\n")[0] or type(error).__name__


def video_path(folder, job):
    return folder / f"{job.name}.mp4"


READERS = {
    ".jsonl": lambda text: [json.loads(line) for line in text.split("\n") if line.strip()],
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}


def is_text(value):
    return isinstance(value, str) and value != ""


def is_name(value):
    return is_text(value) and re.fullmatch(r"\w[\w .-]*", value) is not None


def is_sharpness(value):
    return value in ("auto", "unknown") or type(value) in (int, float) and 0 <= value <= 1


def is_seed(value):
    return type(value) is int and 0 <= value < 2**63


# The valid values of each key.
KEYS = {
    "name": (is_name, "made of letters, digits, '_', '-', '.' and blanks, and begin with one of the first three"),
    "image": (is_text, "a path"),
    "motion": (is_text, "a path"),
    "image_keypoints": (is_text, "a path"),
    "sharpness": (is_sharpness, "a number from 0 to 1, 'auto' or 'unknown'"),
    "seed": (is_seed, f"a whole number from 0 to {2**63 - 1}"),
}
PATHS = ("image", "motion", "image_keypoints")


def read_jobs(path):
    if path.suffix.lower() not in READERS:
        raise ValueError(f"--jobs: must end in {', '.join(READERS)}, got {str(path)!r}")
    try:
        entries = READERS[path.suffix.lower()](path.read_text(encoding="utf-8-sig"))
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--jobs: {str(path)!r} cannot be read ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"--jobs: {str(path)!r} must contain a list of jobs")
    jobs = [make_job(entry, f"--jobs: job {index}", path.parent) for index, entry in enumerate(entries, 1)]
    doubles = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if doubles:
        raise ValueError(f"--jobs: several jobs have the name {doubles[0]!r}")
    return jobs


def make_job(entry, where, folder):
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must contain keys and values, got {shown(entry)}")
    missing = [key.name for key in fields(Job) if key.default is MISSING and key.name not in entry]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    unknown = [str(key) for key in entry if key not in KEYS]
    if unknown:
        raise ValueError(f"{where} has the unknown keys {', '.join(unknown)}; valid ones are {', '.join(KEYS)}")
    for key, value in entry.items():
        is_accepted, accepted = KEYS[key]
        if not is_accepted(value):
            raise ValueError(f"{where}: {key} must be {accepted}, got {shown(value)}")
        if key in PATHS:
            check_inside(LocalFileSystem(), str(folder), value, f"{where}: {key}")
    job = Job(**entry)
    return replace(job, **{key: (folder / entry[key]).resolve() for key in PATHS if key in entry})


def make_parser():
    parser = OneLineParser(prog="animate_many.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--jobs", type=Path, required=True, help=JOBS_HELP)
    add("--output", type=Path, required=True, help="folder for the videos; those that are there are not made again")
    add("--model", help="id on the Hub or local folder of a HIAPipeline (default: hia-tiny)")
    add("--variant", help=VARIANT_HELP)
    add_sampling_options(parser)
    add("--size", type=size, help=SIZE_HELP)
    add("--dtype", choices=DTYPES, default="float32", help="of weights and computation")
    add("--workers", type=number(int, 1, 10**6), help=WORKERS_HELP)
    return parser


def run_jobs(jobs, args):
    """Generate the videos on the cluster, and return the errors of failed jobs by their names."""
    try:
        import ray.data
    except ImportError as error:
        raise ImportError("Ray is in the `ray` extra: pip install 'hia-diffusers[ray]'") from error

    ray.init(log_to_driver=False, ignore_reinit_error=True)
    resources = ray.cluster_resources()
    device, kind = ("cuda", "GPU") if "GPU" in resources else ("cpu", "CPU")
    available = int(resources[kind])
    workers = args.workers or (available if device == "cuda" else 1)
    if workers > available:
        raise ValueError(f"--workers: {workers} actors need a {kind} each, the cluster has {available}")

    names = ray.data.from_items([{"name": job.name} for job in jobs], override_num_blocks=len(jobs))
    results = names.map_batches(
        Animator,
        fn_constructor_args=(jobs, args, device),
        batch_size=1,
        # No job waits behind a long one while another actor is idle.
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(jobs)), max_tasks_in_flight_per_actor=1),
        num_gpus=1 if device == "cuda" else None,
    )
    failures = {}
    try:
        for row in results.iter_rows():
            if row["error"]:
                failures[row["name"]] = row["error"]
            print(f"{'Failed' if row['error'] else 'Wrote'}: {row['name']}", flush=True)
    except ray.exceptions.RayError as error:  # as a string, it is the traceback in the actor
        raise RuntimeError(f"A Ray actor failed: {str(error).strip().splitlines()[-1]}") from error
    return failures


def write_failures(folder, failures):
    write_whole(folder / "failures.json", json.dumps(failures, indent=1))


def animate_many(args):
    jobs = read_jobs(args.jobs)
    args.model = str(args.model or HIA_TINY)
    check_model(args.model)
    args.output.mkdir(parents=True, exist_ok=True)
    for left_over in (*args.output.glob(".*.begun"), *args.output.glob(UNFINISHED)):  # from a run that was killed
        left_over.unlink()
    write_failures(args.output, {})  # detects a folder that cannot be written to before the pipeline is loaded
    # Actors may have another working directory.
    args.output = args.output.resolve()
    args.model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model

    remaining = [job for job in jobs if not video_path(args.output, job).is_file()]
    failures = run_jobs(remaining, args) if remaining else {}
    write_failures(args.output, failures)
    made = len(remaining) - len(failures)
    print(f"{made} videos made, {len(jobs) - len(remaining)} were there before, {len(failures)} failed.")
    for name, error in failures.items():
        print(f"{name}: {error}")
    if failures:
        sys.exit(1)


def main(argv=None):
    run(make_parser(), animate_many, argv, interrupted=(130, "Interrupted. The same command resumes the run.\n"))


if __name__ == "__main__":
    main()
