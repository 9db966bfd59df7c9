# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Distance of detected keypoints from the exact ones of procedural people.

python benchmarks/keypoint_errors.py --detector mediapipe --pose_model mediapipe-0.10.21-....whl

Errors are those of the visible points of the parts that were detected, in percent of the person's height. `--overlays`
writes frames with the detected points for inspection.
"""

import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from hia_diffusers.commands.arguments import OneLineParser, add_detector_options, detector_arguments, number, size
from hia_diffusers.commands.running import run
from hia_diffusers.conditioning.whole_body import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, SCORE_THRESHOLD
from hia_diffusers.detection.choosing import create_detector
from hia_diffusers.procedural.procdance import proc_dance_v1


PARTS = {"body": BODY, "feet": FEET, "face": FACE, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
COLORS = ((255, 60, 60), (255, 160, 0), (255, 255, 255), (60, 255, 60), (60, 160, 255))
FRAMES = range(0, 120, 20)


def make_parser():
    """Create the parser of the options."""
    parser = OneLineParser(prog="keypoint_errors.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--num_clips", type=number(int, 1, 50), default=8, help="clips of ProcDance-v1")
    add("--size", type=partial(size, multiple_of=1), default="256x448", help="WIDTHxHEIGHT of the frames")
    add("--overlays", type=Path, metavar="FOLDER", help="where to write the frames with what was detected")
    add_detector_options(parser)
    return parser


def errors_of_parts(detected, exact):
    """Return the fraction of frames with each part, and the errors of its points in percent of the height."""
    y = np.where(exact.score > 0, exact.xy[..., 1], np.nan)
    heights = np.nanmax(y, axis=1) - np.nanmin(y, axis=1)
    results = {}
    for name, part in PARTS.items():
        visible = exact.score[:, part] == 1
        both = visible & (detected.score[:, part] > SCORE_THRESHOLD)
        shown = visible.sum(axis=1) >= 3
        distance = np.linalg.norm(detected.xy[:, part] - exact.xy[:, part], axis=-1) / heights[:, None]
        results[name] = (both.any(axis=1)[shown], 100 * distance[both])
    return results


def draw(frame, keypoints, index):
    """Draw the detected points on a frame."""
    image = np.ascontiguousarray(frame)
    radius = max(1, len(image) // 300)
    for part, color in zip(PARTS.values(), COLORS, strict=True):
        for xy, score in zip(keypoints.xy[index, part], keypoints.score[index, part], strict=True):
            if score > SCORE_THRESHOLD:
                cv2.circle(image, np.int32(xy).tolist(), radius, color, -1, cv2.LINE_AA)
    return image


def measure(args):
    """Detect the people of the clips, and print the table."""
    detector = create_detector(**detector_arguments(args))
    found, errors, seconds = {name: [] for name in PARTS}, {name: [] for name in PARTS}, 0.0
    for clip in proc_dance_v1()[: args.num_clips]:
        exact = clip.target.render(FRAMES, *args.size, clip.fps)
        start = time.perf_counter()
        detected = detector(exact.frames, clip.fps)
        seconds += time.perf_counter() - start
        for name, (is_found, distance) in errors_of_parts(detected, exact.keypoints).items():
            found[name].extend(is_found)
            errors[name].extend(distance)
        if args.overlays is not None:
            args.overlays.mkdir(parents=True, exist_ok=True)
            frames = [draw(frame, detected, index) for index, frame in enumerate(exact.frames)]
            PIL.Image.fromarray(np.concatenate(frames, axis=1)).save(args.overlays / f"{clip.name}.png")
    num_frames = args.num_clips * len(FRAMES)
    height, width = args.size
    print(f"{detector}: {num_frames} frames of {width}x{height}, {1000 * seconds / num_frames:.0f} ms per frame")
    for name in PARTS:
        distances = errors[name] or [np.nan]
        print(
            f"{name:10}: found in {sum(found[name])} of {len(found[name])} frames that show it, "
            f"median {np.median(distances):.2f}%, 90% below {np.percentile(distances, 90):.2f}%"
        )


if __name__ == "__main__":
    run(make_parser(), measure)
