# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Frames per second of `KeypointDetector` with the small models of the tests.

python benchmarks/detection.py [--people 1] [--num_frames 240] [--batch_size 8] [--device cpu]

These models cost almost nothing, so this is the cost of everything around the networks.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from hia_diffusers import KeypointDetector


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from onnx_models import MAX_PEOPLE, draw_people, write_models  # noqa: E402


HEIGHT, WIDTH, FPS = 480, 640, 30
REPETITIONS = 3


def video_of(num_people, num_frames):
    """Draw people side by side, each of whom moves to and fro."""
    room = WIDTH // num_people
    boxes = []
    for frame in range(num_frames):
        step = 2 * abs(frame % 20 - 10)
        boxes.append([(person * room + step, 100, person * room + step + 72, 400) for person in range(num_people)])
    return draw_people(boxes, HEIGHT, WIDTH)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--people", type=int, default=1, help=f"people in each frame, 1 to {MAX_PEOPLE} (default: 1)")
    parser.add_argument("--num_frames", type=int, default=240, help="frames to read (default: 240)")
    parser.add_argument("--batch_size", type=int, default=8, help="frames per batch (default: 8)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    args = parser.parse_args()
    if not 1 <= args.people <= MAX_PEOPLE:
        parser.error(f"--people must be 1 to {MAX_PEOPLE}, got {args.people}.")
    if args.num_frames < 1:
        parser.error(f"--num_frames must be positive, got {args.num_frames}.")
    frames = video_of(args.people, args.num_frames)
    with tempfile.TemporaryDirectory() as folder:
        detector = KeypointDetector(**write_models(Path(folder)), device=args.device, batch_size=args.batch_size)
        print(f"{args.num_frames} frames of {WIDTH}x{HEIGHT}, {args.people} people in each, on {detector.providers}")
        for _ in range(REPETITIONS):
            start, processor_start = time.perf_counter(), time.process_time()
            people = detector.detect(frames, FPS)
            seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
            print(
                f"  {args.num_frames / seconds:.0f} per second, {args.num_frames / processor_seconds:.0f} per second "
                f"of processor time, {sum(people.counts)} people found"
            )


if __name__ == "__main__":
    main()
