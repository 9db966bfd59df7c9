# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Draws a person and makes up a motion for it: `picture.png` and `motion.safetensors`, the two inputs of `animate.py`.

    python examples/make_demo_inputs.py --output demo
    python examples/animate.py --image demo/picture.png --driving demo/motion.safetensors --output demo/out.mp4

The figure is measured in heights of the picture, with x = 0 in its middle and y down. Angles start straight down and
grow towards the right of the picture, which is the person's left.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hia_diffusers import WholeBodyKeypoints


FPS = 30
SUPERSAMPLING = 8

# A hand of length 1 in (along, towards the thumb): where each finger starts, its angle to the hand, and its length.
FINGERS = {
    "thumb": ((0.14, 0.13), 48, 0.44),
    "index": ((0.52, 0.19), 14, 0.43),
    "middle": ((0.55, 0.06), 3, 0.48),
    "ring": ((0.53, -0.07), -8, 0.44),
    "little": ((0.46, -0.19), -20, 0.36),
}
JOINTS = np.array([0, 0.42, 0.73, 1])

# Shirt, trousers, shoes, hair, wall, floor.
PALETTES = [
    ("#e2604a", "#34507a", "#f4efe6", "#4a2c20", "#cfe3e2", "#d9b48c"),
    ("#2f8f83", "#5b4a6f", "#f2d06b", "#1f1b24", "#f3ddc8", "#a9744f"),
    ("#e8b23a", "#3d4f4a", "#b5443c", "#8a4b22", "#d5dcf0", "#9aa38c"),
]
SKINS = ["#f1c7a5", "#d79f77", "#8d5a3b"]


def direction(degrees):
    return np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])


def face_points():
    """The 68 points of a smiling face, in halves of the head's width and height."""
    step = np.linspace(0, 1, 17)
    jaw = np.stack([-np.cos(np.pi * step), np.sin(np.pi * step)], 1) * (0.94, 0.98)
    brow = np.stack([np.linspace(-0.64, -0.22, 5), [-0.24, -0.33, -0.37, -0.36, -0.31]], 1)
    nose = np.stack([np.zeros(4), np.linspace(0, 0.27, 4)], 1)
    nostrils = np.stack([np.linspace(-0.14, 0.14, 5), 0.33 + 0.05 * np.sin(np.pi * step[::4])], 1)
    around = np.radians([180, 240, 300, 0, 60, 120])
    eye = np.stack([0.14 * np.cos(around), 0.13 * np.sin(around)], 1) + (-0.42, 0)
    smile = np.stack([np.linspace(-0.34, 0.34, 7), 0.52 + 0.05 * np.sin(np.pi * step[:14:2] / 0.75)], 1)
    chin_side = np.stack([np.linspace(0.24, -0.24, 5), 0.62 + 0.12 * np.sin(np.pi * step[::4])], 1)
    inner_top = np.stack([np.linspace(-0.27, 0.27, 5), 0.545 + 0.05 * np.sin(np.pi * step[::4])], 1)
    inner_low = np.stack([np.linspace(0.16, -0.16, 3), [0.64, 0.68, 0.64]], 1)
    mirror = np.array([-1, 1])
    other_eye = (eye * mirror)[[3, 2, 1, 0, 5, 4]]
    parts = [jaw, brow, brow[::-1] * mirror, nose, nostrils, eye, other_eye, smile, chin_side, inner_top, inner_low]
    return np.concatenate(parts)


def hand_points(wrist, angle, spread, length=0.095):
    along, across = direction(angle), direction(angle + 90)
    points = [wrist]
    for (start_along, start_across), finger_angle, finger_length in FINGERS.values():
        start = wrist + length * (start_along * along + start_across * across)
        points.extend(start + length * finger_length * JOINTS[:, None] * direction(angle + finger_angle * spread))
    return np.array(points)


def pose(seconds, phase):
    """The 133 points of the dancer, who sways, swings one arm and waves the other hand fast enough to blur it."""
    beat, wave = np.sin(2 * np.pi * 0.9 * seconds + phase), np.sin(2 * np.pi * 3 * seconds + phase)
    bounce = 0.012 * np.cos(4 * np.pi * 0.9 * seconds + 2 * phase)
    sides = np.array([[1, 1], [-1, 1]])  # the person's left and right

    hips = sides * (0.047, 0) + (0.022 * beat, 0.565 + bounce)
    shoulders = sides * (0.082, 0) + (0.012 * beat, 0.315 + bounce) + np.array([[0, -0.008], [0, 0.008]]) * beat
    ankles = sides * (0.06, 0) + (0, 0.89)
    knees = (hips + ankles) / 2 + sides * (0.012, 0) + (0.012 * beat, 0)
    feet = ankles[:, None] + sides[:, None] * [(0.008, 0.045), (0.04, 0.04), (0, 0.02)]

    upper_arms = np.array([54 + 6 * beat, -33 + 11 * beat])
    forearms = np.array([180 + 18 * wave, -14 + 18 * beat])
    hands = np.array([180 + 32 * wave, 2 + 16 * beat])
    elbows = shoulders + 0.128 * direction(upper_arms).T
    wrists = elbows + 0.115 * direction(forearms).T
    spread = 1 + 0.15 * beat

    tilt = np.radians(5 * beat)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    chin = shoulders.mean(0) - (0, 0.03)
    in_head = np.concatenate([[(0, 0.27), (0.42, 0), (-0.42, 0), (0.97, 0.03), (-0.97, 0.03)], face_points()])
    head = chin + (in_head * (0.068, 0.083) - (0, 0.083)) @ turn
    limbs = [np.ravel(joint) for joint in (shoulders, elbows, wrists, hips, knees, ankles, feet)]
    body = [head[:5], np.concatenate(limbs).reshape(-1, 2), head[5:]]
    return np.concatenate([*body, *(hand_points(*hand, spread) for hand in zip(wrists, hands, strict=True))])


class Canvas:
    """Round strokes and smooth fills in the figure's units, drawn large and reduced at the end."""

    def __init__(self, width, height, colour):
        self.scale, self.middle = height * SUPERSAMPLING, width * SUPERSAMPLING / 2
        self.size = (width, height)
        self.image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), colour)
        self.pen = ImageDraw.Draw(self.image)

    def fill(self, points, colour, rounding=0.0):
        self.pen.polygon([self._pixel(point) for point in points], fill=colour)
        if rounding:
            self.stroke([*points, points[0]], rounding, colour)

    def stroke(self, points, thickness, colour):
        pixels, radius = [self._pixel(point) for point in points], thickness * self.scale / 2
        self.pen.line(pixels, fill=colour, width=max(round(2 * radius), 1))
        for x, y in pixels:
            self.pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)

    def reduced(self):
        return self.image.resize(self.size, Image.Resampling.LANCZOS)

    def _pixel(self, point):
        return (self.middle + point[0] * self.scale, point[1] * self.scale)


def shade(colour, factor):
    return tuple(int(int(colour[i : i + 2], 16) * factor) for i in (1, 3, 5))


def ellipse(centre, axes, turn=None, start=0, stop=360):
    angles = np.radians(np.linspace(start, stop, 49))
    return centre + (np.stack([np.cos(angles), np.sin(angles)], 1) * axes) @ (np.eye(2) if turn is None else turn)


def draw_room(canvas, wall, floor):
    canvas.fill(ellipse((0.02, 0.3), (0.24, 0.24)), shade(wall, 1.05 if max(shade(wall, 1)) < 240 else 0.95))
    canvas.fill([(-9, 0.8), (9, 0.8), (9, 1), (-9, 1)], floor)
    canvas.stroke([(-9, 0.795), (9, 0.795)], 0.012, shade(wall, 0.85))
    canvas.fill(ellipse((0, 0.925), (0.16, 0.022)), shade(floor, 0.8))


def draw_hand(canvas, hand, skin):
    for grow, colour in ((0.009, shade(skin, 0.72)), (0, skin)):
        palm = hand[[0, 1, 2, 5, 9, 13, 17]]
        canvas.fill(palm, colour, 0.02 + grow)
        for finger in hand[1:].reshape(5, 4, 2):
            canvas.stroke(finger, 0.0145 + grow, colour)


def draw_head(canvas, face, skin, hair):
    right, left = face[0], face[16]
    centre, across = (right + left) / 2, (left - right) / 2
    turn = np.array([across, (-across[1], across[0])]) / np.hypot(*across)
    size = np.hypot(*across) / 0.94 * np.array([1, 0.083 / 0.068])
    canvas.fill(ellipse(centre - (0, 0.008), size * 1.14, turn, start=165, stop=375), hair)
    for ear in (right, left):
        canvas.stroke([ear, ear + (0, 0.012)], 0.026, skin)
    canvas.fill(ellipse(centre, size, turn), skin)
    fringe = np.concatenate([ellipse((0, 0), (1.03, 1.03), start=188, stop=352), [(0.5, -0.5), (-0.3, -0.66)]])
    canvas.fill(centre + (fringe * size) @ turn, hair, 0.008)
    for brow in (face[17:22], face[22:27]):
        canvas.stroke(brow, 0.006, shade(hair, 0.8))
    for eye in (face[36:42], face[42:48]):
        canvas.fill(eye, "#2b2226", 0.008)
        canvas.stroke([eye.mean(0) - (0.003, 0.004)], 0.006, "white")
    canvas.stroke(face[[30, 33]], 0.008, shade(skin, 0.82))
    canvas.fill(face[48:60], "#b8463f", 0.004)
    canvas.fill(face[60:68], "white")


def draw_person(points, width, height, palette, skin):
    """The person in a room, seen from the front."""
    shirt, trousers, shoes, hair, wall, floor = palette
    canvas = Canvas(width, height, wall)
    draw_room(canvas, wall, floor)
    face, hands = points[23:91], (points[91:112], points[112:133])
    for side in (0, 1):
        hip, knee, ankle = points[[11 + side, 13 + side, 15 + side]]
        big_toe, small_toe, heel = points[17 + 3 * side : 20 + 3 * side]
        canvas.fill([heel, big_toe - (0, 0.012), small_toe - (0, 0.012)], shoes, 0.036)
        canvas.stroke([hip, knee, ankle], 0.066, trousers)
    shoulders, hips = points[5:7], points[11:13]
    neck = shoulders.mean(0)
    canvas.fill([*hips, hips.mean(0) + (0, 0.03)], trousers, 0.07)
    for side in (0, 1):
        shoulder, elbow, wrist = points[[5 + side, 7 + side, 9 + side]]
        canvas.stroke([shoulder, elbow, wrist], 0.036, skin)
        canvas.stroke([shoulder, shoulder + 0.55 * (elbow - shoulder)], 0.056, shade(shirt, 0.92))
    waist = hips + np.array([[0.006, -0.03], [-0.006, -0.03]])
    canvas.fill([shoulders[0] - (0.012, 0), shoulders[1] + (0.012, 0), waist[1], waist[0]], shirt, 0.056)
    canvas.stroke([neck - (0, 0.06), neck - (0, 0.012)], 0.05, shade(skin, 0.86))
    draw_head(canvas, face, skin, hair)
    for hand in hands:
        draw_hand(canvas, hand, skin)
    return canvas.reduced()


def size(text):
    width, height = (int(number) for number in text.lower().split("x"))
    return width, height


def main():
    parser = argparse.ArgumentParser(description="Draw a person and a motion for animate.py.")
    parser.add_argument("--output", type=Path, required=True, help="folder for picture.png and motion.safetensors")
    parser.add_argument("--size", type=size, default=(96, 160), help="WIDTHxHEIGHT in pixels (default: 96x160)")
    parser.add_argument("--frames", type=int, default=16, help=f"length at {FPS} frames per second (default: 16)")
    parser.add_argument(
        "--seed", type=int, default=0, help="chooses colours and the beginning of the dance (default: 0)"
    )
    args = parser.parse_args()
    if args.frames < 1 or args.seed < 0 or min(args.size) < 16:
        parser.error("--frames must be at least 1, --seed at least 0 and --size at least 16x16")

    width, height = args.size
    rng = np.random.default_rng(args.seed)
    palette, skin, phase = PALETTES[rng.integers(len(PALETTES))], SKINS[rng.integers(len(SKINS))], rng.uniform(0, 6.28)
    points = np.stack([pose(frame / FPS, phase) for frame in range(args.frames)])
    xy = (points * height + (width / 2, 0)).astype(np.float32)

    args.output.mkdir(parents=True, exist_ok=True)
    keypoints = WholeBodyKeypoints(xy=xy, score=np.ones(xy.shape[:2], np.float32), height=height, width=width, fps=FPS)
    keypoints.save(args.output / "motion.safetensors")
    draw_person(points[0], width, height, palette, skin).save(args.output / "picture.png")
    print(f"Wrote {args.output / 'picture.png'} and {args.output / 'motion.safetensors'}: {args.frames} frames.")


if __name__ == "__main__":
    main()
