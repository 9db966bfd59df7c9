# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Fit of the sharpness that `MotionBlurConditioner` expects of hands that move at a given speed.

python benchmarks/expected_sharpness.py [--clips 100] [--sizes 96x160 256x448 512x896]

Renders four frames of each of `--clips` clips of procedural people, with their motion blur and exposure times, and
measures the variance of the Laplacian of each hand, its motion and the side of its box. The relation that
`MotionBlurConditioner` documents is fitted to the logarithms of the variances, with the smallest sum of absolute
differences. It is evaluated on as many clips of the validation split: the difference between expected and measured
sharpness, in [0, 1], compared with the best constant.
"""

import argparse

import numpy as np
from scipy.optimize import minimize

from hia_diffusers import MotionBlurConditioner
from hia_diffusers.procedural.scene import ProceduralScene


FRAMES_PER_CLIP, CLIP_LENGTH = 4, 300
SIZES = [(160, 96), (448, 256), (896, 512)]
PARAMETERS = ("rest_variance", "blurring_motion", "blur_exponent", "small_box_exponent")
SPEEDS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, np.inf)


def size(text):
    """Read WIDTHxHEIGHT as height and width."""
    width, height = map(int, text.split("x"))
    return height, width


def measure_hands(split, num_clips, size):
    """Return speed, side of the box and sharpness of each hand with known motion, `(N, 3)`."""
    conditioner, hands = MotionBlurConditioner.for_size(*size), []
    for clip in range(num_clips):
        scene = ProceduralScene(split, identity=clip, motion=clip, setting=clip)
        rng = np.random.default_rng(clip)
        frames = 1 + rng.choice(CLIP_LENGTH - 1, FRAMES_PER_CLIP, replace=False)
        rendered = scene.render(frames.tolist(), *size)
        before = scene.keypoints((frames - 1).tolist(), *size)
        condition = conditioner(rendered.keypoints, rendered.frames, previous_keypoints=before)
        speed = np.linalg.norm(condition.hand_motion, axis=-1)
        side = condition.hand_boxes[..., 2] - condition.hand_boxes[..., 0]
        hands.append(np.stack([speed, side, condition.hand_sharpness], axis=-1).reshape(-1, 3))
    hands = np.concatenate(hands)
    return hands[np.isfinite(hands).all(axis=1) & (hands[:, 2] > 0)]


def fit(hands):
    """Return the parameters with the smallest error."""
    speed, side, sharpness = hands.T
    measured = np.log(MotionBlurConditioner().unsquash_sharpness(sharpness))

    def error(logarithms):
        """Return the mean error of the logarithm of the variance."""
        conditioner = MotionBlurConditioner(**dict(zip(PARAMETERS, np.exp(logarithms).tolist(), strict=True)))
        expected = conditioner.unsquash_sharpness(conditioner.expected_sharpness(speed, side))
        return np.abs(np.log(expected) - measured).mean()

    found = minimize(error, np.log([300, 0.2, 1.5, 1.5]), method="Nelder-Mead", options={"maxiter": 2000})
    return dict(zip(PARAMETERS, np.exp(found.x).tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=100, help="of each size, for the fit and again to judge it")
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="WIDTHxHEIGHT of the images")
    args = parser.parse_args()

    fitted = fit(np.concatenate([measure_hands("train", args.clips, size) for size in args.sizes]))
    print(", ".join(f"{name}={value:.3g}" for name, value in fitted.items()))
    conditioner = MotionBlurConditioner(**fitted)
    print("| size | speed | hands | measured, median | expected, median | difference, mean | of a constant |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for height, width in args.sizes:
        speed, side, measured = measure_hands("validation", args.clips, (height, width)).T
        expected, constant = conditioner.expected_sharpness(speed, side), np.median(measured)
        for low, high in zip(SPEEDS[:-1], SPEEDS[1:], strict=True):
            hands = (low <= speed) & (speed < high)
            print(
                f"| {width}x{height} | {low:g}-{high:g} | {hands.sum()} | {np.median(measured[hands]):.3f} | "
                f"{np.median(expected[hands]):.3f} | {np.abs(expected - measured)[hands].mean():.3f} | "
                f"{np.abs(constant - measured)[hands].mean():.3f} |"
            )


if __name__ == "__main__":
    main()
