# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of procedural people: rooms and places, light, camera and shutter.

Axes: T times, H, W. Space is that of `motion.py`; an image is measured in its heights, with x = 0 in the
middle and y from 0 (top) to 1 (bottom).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .shapes import SUBPIXEL_BITS, Color, fixed_point, mix, rgb, shade


# Distance of the camera and height of its axis above the floor, in statures, and the downward shift of nearer points,
# because the camera looks slightly down.
CAMERA_DISTANCE = 4.0
EYE_LEVEL = 0.62
CAMERA_PITCH = 0.10

# Width of an image, in heights, that shows a person with arms spread; narrower images are filmed from farther away.
PERSON_WIDTH = 0.6

# Margin painted beyond the image on each side for camera motion, as a fraction of the image.
MARGIN = 0.07

# Period of the camera motion in seconds, and of the shutter in frames.
CAMERA_PERIOD = 24.0
SHUTTER_PERIOD = 1009

WALLS = ["#cfdcd8", "#e6d9c6", "#b9c6d6", "#d8c3bd", "#9fb3a8", "#8d99ae", "#e3ddd2", "#c9b79c", "#7f8fa0", "#b5a3b8"]
FLOORS = ["#a67c52", "#8a6a4f", "#6f665e", "#b99b78", "#7b8084", "#c2a98a", "#5e5550", "#93856f"]
ACCENTS = [
    "#b5524a",
    "#d1a13b",
    "#3f6f8c",
    "#5a7d53",
    "#7d5a86",
    "#d98e5f",
    "#2f4b5c",
    "#a9b86c",
    "#c9707d",
    "#e9e4d8",
]
LEAVES = ["#4f7a4a", "#3d6b4f", "#6b8f4e", "#5b8262"]
WOODS = ["#7a5638", "#9b7350", "#5c4331", "#b08a62", "#e8e2d6"]
SKIES = [("#9cc4e4", "#e4eef2"), ("#f2c79a", "#f6e6cf"), ("#8fa8c8", "#d9d3d6"), ("#7fb0d9", "#cfe6ef")]


@dataclass
class View:
    """The camera at each time: maps space to pixels."""

    unit: float
    origin: np.ndarray
    center: np.ndarray
    zoom: np.ndarray
    shift: np.ndarray

    def scale(self, z: np.ndarray) -> np.ndarray:
        """Pixels per stature `(T, ...)` at depths `(T, ...)`."""
        zoom = self.zoom.reshape(-1, *[1] * (z.ndim - 1))
        return self.unit * zoom / (1 - z / CAMERA_DISTANCE)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels `(T, ..., 2)` of points `(T, ..., 3)`."""
        per_time = (-1, *[1] * (points.ndim - 2), 2)
        z = points[..., 2]
        nearness = 1 / (1 - z / CAMERA_DISTANCE)
        x = points[..., 0] * nearness
        y = (points[..., 1] + CAMERA_PITCH * z + EYE_LEVEL) * nearness - EYE_LEVEL
        flat = self.unit * np.stack([x, y], axis=-1) + self.origin
        return (flat - self.center) * self.zoom.reshape(-1, *[1] * (points.ndim - 1)) + self.shift.reshape(per_time)


class Setting:
    """A place with its light, the camera and its shutter.

    Args:
        rng (`np.random.Generator`):
            Random generator for all properties.
    """

    def __init__(self, rng: np.random.Generator):
        self.seed = int(rng.integers(2**62))
        self.place = str(rng.choice(["room", "room", "room", "studio", "outdoors"]))
        self.light_from_left = bool(rng.random() < 0.5)
        self.warmth = rng.uniform(-0.05, 0.07)
        self.softness = rng.uniform(0.0025, 0.0045)  # of the background, in image heights
        self.stature = rng.uniform(0.77, 0.88)  # of an average adult, in image heights
        self.floor_line = rng.uniform(0.945, 0.97)
        self.offset = rng.normal(0, 0.012)
        self.still_camera = bool(rng.random() < 0.4)
        steady = 0.0 if self.still_camera else 1.0
        self.camera_swing = steady * rng.uniform(0.004, 0.022, 3)  # x, y in image heights, zoom
        self.camera_speed = rng.integers(1, 4, 3)
        self.camera_phase = rng.uniform(0, 2 * np.pi, 3)
        self.shutter = rng.uniform(0.08, 1.0) * np.exp(rng.normal(0, rng.uniform(0.05, 0.45), SHUTTER_PERIOD))

    def exposure(self, frames: np.ndarray) -> np.ndarray:
        """Exposure times `(F,)` of frames as fractions of the frame interval."""
        return self.shutter[frames % SHUTTER_PERIOD].clip(0.03, 1.0)

    def view(self, seconds: np.ndarray, height: int, width: int) -> View:
        """Return the camera at each of the times `(T,)` for images of a given size."""
        fit = min(height, width / PERSON_WIDTH)
        swing = self.camera_swing * np.sin(
            2 * np.pi / CAMERA_PERIOD * self.camera_speed * np.asarray(seconds)[:, None] + self.camera_phase
        )
        center = np.array([width / 2, height / 2])
        origin = np.array([width / 2 + self.offset * fit, height / 2 + (self.floor_line - 0.5) * fit])
        zoom = 1 + self.camera_swing[2] + swing[:, 2]
        # The image never leaves the painted background.
        reach = MARGIN * min(height, width)
        shift = center + (swing[:, :2] * fit).clip(-reach, reach)
        return View(self.stature * fit, origin, center, zoom, shift)

    def tint(self, color: Sequence[float]) -> Color:
        """Return a colour under this light."""
        red, green, blue = color
        return min(red * (1 + self.warmth), 255.0), green, min(blue * (1 - self.warmth), 255.0)

    def paint(self, height: int, width: int) -> np.ndarray:
        """Paint the background without the person, uint8 RGB, with a margin around the image."""
        border_y, border_x = (round(MARGIN * side) for side in (height, width))
        canvas = np.zeros((height + 2 * border_y, width + 2 * border_x, 3), dtype=np.uint8)
        fit = min(height, width / PERSON_WIDTH)
        painter = _Painter(canvas, fit, np.array([border_x + width / 2, border_y + height / 2 - fit / 2]), self)
        rng = np.random.default_rng(self.seed)
        {"room": _paint_room, "studio": _paint_studio, "outdoors": _paint_outdoors}[self.place](painter, rng)
        painter.soft_ellipse((self.offset, self.floor_line + 0.004), (0.17, 0.022), 0.55)
        painter.light(rng.uniform(0.12, 0.24), rng.uniform(0.0, 0.12))
        return cv2.GaussianBlur(canvas, (0, 0), self.softness * fit)


def cut_background(painted: np.ndarray, view: View, time: int, height: int, width: int) -> np.ndarray:
    """Return the part of a painted background that the camera sees, `(height, width, 3)`."""
    border = np.array([painted.shape[1] - width, painted.shape[0] - height]) // 2
    zoom, shift = view.zoom[time], view.shift[time]
    offset = shift - zoom * (view.center + border)
    if zoom == 1 and not (shift - view.center).any():
        return painted[border[1] : border[1] + height, border[0] : border[0] + width].copy()
    # Conversion between continuous coordinates and OpenCV's, which count from pixel centres.
    offset = offset + 0.5 * zoom - 0.5
    matrix = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])
    return cv2.warpAffine(painted, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class _Painter:
    """Fill shapes given in image heights."""

    def __init__(self, canvas: np.ndarray, unit: float, origin: np.ndarray, setting: Setting):
        self.canvas, self.unit, self.origin, self.setting = canvas, unit, origin, setting
        # The whole canvas, margins included, in image heights around the middle of the image.
        self.left, self.top = -origin / unit
        self.right, self.bottom = (np.array(canvas.shape[1::-1]) - origin) / unit

    def polygon(self, points: Sequence | np.ndarray, color: Sequence[float]) -> None:
        pixels = np.asarray(points, dtype=np.float64) * self.unit + self.origin
        cv2.fillPoly(self.canvas, [fixed_point(pixels)], self.setting.tint(color), cv2.LINE_AA, SUBPIXEL_BITS)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Sequence[float]) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, center: Sequence[float], axes: Sequence[float], color: Sequence[float]) -> None:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        self.polygon(np.asarray(center) + np.stack([np.cos(angle), np.sin(angle)], 1) * axes, color)

    def gradient(self, y0: float, y1: float, top: Sequence[float], bottom: Sequence[float]) -> None:
        first, last = (round(float(y * self.unit + self.origin[1])) for y in (y0, y1))
        part = np.linspace(0, 1, max(last - first, 1))[:, None]
        colors = np.asarray(self.setting.tint(top)) * (1 - part) + np.asarray(self.setting.tint(bottom)) * part
        rows = slice(max(first, 0), max(min(last, len(self.canvas)), 0))
        self.canvas[rows] = colors[rows.start - first : rows.stop - first, None].clip(0, 255)

    def soft_ellipse(self, center: Sequence[float], axes: Sequence[float], factor: float) -> None:
        """Darken or lighten an ellipse with a smooth border."""
        # Beyond 2.3 half axes, changes are smaller than rounding.
        reach = 2.3 * np.asarray(axes) * self.unit
        middle = np.asarray(center) * self.unit + self.origin
        x0, y0 = np.maximum(np.floor(middle - reach), 0).astype(int)
        x1, y1 = np.ceil(middle + reach).clip(0).astype(int)
        part = self.canvas[y0:y1, x0:x1]
        x, y = self._distance(center)
        x, y = x[x0:x1], y[y0:y1]
        near = np.exp(-(((x / axes[0]) ** 2 + (y / axes[1]) ** 2) ** 1.5))
        _multiply(part, 1 + (factor - 1) * near)

    def light(self, fall_off: float, vignette: float) -> None:
        """Add light from one side, and darken the corners."""
        x, y = self._distance((0, 0.4))
        side = x if self.setting.light_from_left else -x
        _multiply(self.canvas, 1 - fall_off * (side + 0.3 * y) - vignette * (x**2 + y**2) * 2)

    def _distance(self, center: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance of each column `(W,)` and row `(H, 1)` from a point, in image heights."""
        height, width = self.canvas.shape[:2]
        x = (np.arange(width) + 0.5 - self.origin[0]) / self.unit - center[0]
        y = (np.arange(height)[:, None] + 0.5 - self.origin[1]) / self.unit - center[1]
        return x, y


def _multiply(image: np.ndarray, factor: np.ndarray) -> None:
    product = image * factor[..., None]
    np.rint(product, out=product)
    image[:] = np.clip(product, 0, 255, out=product)


def _choose(rng: np.random.Generator, codes: Sequence[str]) -> Color:
    jitter = rng.normal(0, 7, 3)
    red, green, blue = (rgb(rng.choice(codes)) + jitter).clip(0, 255).tolist()
    return red, green, blue


def _paint_room(painter: _Painter, rng: np.random.Generator) -> None:
    wall, floor, trim = _choose(rng, WALLS), _choose(rng, FLOORS), _choose(rng, WOODS)
    horizon = rng.uniform(0.70, 0.80)
    painter.gradient(painter.top, horizon, shade(wall, 1.08), shade(wall, 0.93))
    _paint_wall(painter, rng, wall, horizon)
    painter.gradient(horizon, painter.bottom, shade(floor, 0.86), shade(floor, 1.06))
    _paint_floor(painter, rng, floor, horizon)
    painter.box(painter.left, horizon - 0.022, painter.right, horizon, shade(trim, 1.05))
    painter.box(painter.left, horizon - 0.002, painter.right, horizon + 0.003, shade(floor, 0.62))
    sides = [-1, 1] if rng.random() < 0.5 else [1, -1]
    high = [_paint_window, _paint_images, _paint_shelf, _paint_curtain]
    low = [_paint_plant, _paint_lamp, _paint_cupboard, _paint_sofa]
    for side, index in zip(sides, rng.choice(len(high), 2, replace=False), strict=True):
        high[index](painter, rng, side * rng.uniform(0.19, 0.25), horizon)
    for side, index in zip(sides, rng.choice(len(low), 2, replace=False), strict=True):
        if rng.random() < 0.8:
            low[index](painter, rng, side * rng.uniform(0.2, 0.27), horizon)


def _paint_wall(painter: _Painter, rng: np.random.Generator, wall: Color, horizon: float) -> None:
    style, tone = rng.choice(["plain", "stripes", "panels", "bricks", "dots"]), shade(wall, rng.choice([0.92, 1.12]))
    if style == "stripes":
        step = rng.uniform(0.05, 0.1)
        for x in np.arange(painter.left, painter.right, step):
            painter.box(x, painter.top, x + 0.45 * step, horizon, tone)
    elif style == "panels":
        painter.box(painter.left, 0.55, painter.right, horizon, shade(wall, 0.84))
        painter.box(painter.left, 0.545, painter.right, 0.557, shade(wall, 1.15))
        for x in np.arange(painter.left, painter.right, 0.11):
            painter.box(x, 0.575, x + 0.09, horizon - 0.035, shade(wall, 0.9))
    elif style == "bricks":
        for row, y in enumerate(np.arange(painter.top, horizon, 0.036)):
            painter.box(painter.left, y, painter.right, y + 0.004, tone)
            for x in np.arange(painter.left - 0.08 + 0.04 * (row % 2), painter.right, 0.08):
                painter.box(x, y, x + 0.004, y + 0.036, tone)
    elif style == "dots":
        for row, y in enumerate(np.arange(painter.top, horizon, 0.055)):
            for x in np.arange(painter.left - 0.06 + 0.03 * (row % 2), painter.right, 0.06):
                painter.ellipse((x, y), (0.009, 0.009), tone)


def _paint_floor(painter: _Painter, rng: np.random.Generator, floor: Color, horizon: float) -> None:
    style, line = rng.choice(["plain", "boards", "tiles", "rug"]), shade(floor, 0.8)
    depth = painter.bottom - horizon
    if style in ("boards", "tiles"):
        for x in np.linspace(-1.2, 1.2, 25):
            painter.polygon(
                [(x * 0.45, horizon), (x * 0.45 + 0.003, horizon), (x + 0.006, painter.bottom + 0.05)], line
            )
    if style == "tiles":
        for part in np.linspace(0.15, 1, 6) ** 1.7:
            painter.box(painter.left, horizon + part * depth, painter.right, horizon + part * depth + 0.004, line)
    if style == "rug":
        rug = _choose(rng, ACCENTS)
        for size, color in ((1.0, rug), (0.86, shade(rug, 1.3)), (0.74, shade(rug, 0.9))):
            painter.ellipse((0, 0.93), (0.36 * size, 0.075 * size), color)


def _paint_window(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    frame, (high, low) = _choose(rng, WOODS[-2:]), SKIES[rng.integers(len(SKIES))]
    width, top, bottom = rng.uniform(0.085, 0.12), rng.uniform(0.08, 0.14), rng.uniform(0.42, 0.5)
    painter.box(x - width - 0.014, top - 0.014, x + width + 0.014, bottom + 0.014, frame)
    bands = np.linspace(top, bottom, 9)
    for index in range(8):
        painter.box(x - width, bands[index], x + width, bands[index + 1], mix(rgb(high), rgb(low), index / 7))
    hills = [(x + width * u, bottom - 0.06 - 0.03 * np.sin(3 * u + x * 9)) for u in np.linspace(-1, 1, 9)]
    painter.polygon([*hills, (x + width, bottom), (x - width, bottom)], _choose(rng, LEAVES))
    painter.box(x - 0.005, top, x + 0.005, bottom, frame)
    painter.box(x - width, (top + bottom) / 2 - 0.005, x + width, (top + bottom) / 2 + 0.005, frame)
    painter.box(x - width - 0.025, bottom + 0.012, x + width + 0.025, bottom + 0.026, shade(frame, 0.9))


def _paint_images(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    y = rng.uniform(0.12, 0.16)
    for _ in range(rng.integers(1, 3)):
        width, height = rng.uniform(0.05, 0.08), rng.uniform(0.12, 0.18)
        painter.box(x - width - 0.01, y - 0.01, x + width + 0.01, y + height + 0.01, shade(_choose(rng, WOODS), 0.8))
        painter.box(x - width, y, x + width, y + height, _choose(rng, ACCENTS[-2:] + WALLS[:3]))
        if rng.random() < 0.5:
            painter.ellipse((x, y + 0.4 * height), (0.5 * width, 0.26 * height), _choose(rng, ACCENTS))
        painter.box(x - width, y + rng.uniform(0.55, 0.7) * height, x + width, y + height, _choose(rng, ACCENTS))
        y += height + 0.05


def _paint_shelf(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    wood = _choose(rng, WOODS)
    for y in (0.2, 0.36)[: rng.integers(1, 3)]:
        position = x - 0.09
        while position < x + 0.08:
            width, height = rng.uniform(0.014, 0.026), rng.uniform(0.06, 0.1)
            painter.box(position, y - height, position + width * 0.88, y, _choose(rng, ACCENTS))
            position += width
        painter.box(x - 0.11, y, x + 0.11, y + 0.014, wood)


def _paint_curtain(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    cloth, width = _choose(rng, ACCENTS), rng.uniform(0.08, 0.12)
    painter.box(x - width, painter.top, x + width, horizon - 0.03, cloth)
    for fold in np.linspace(x - width, x + width, 7)[:-1]:
        painter.box(fold, painter.top, fold + width / 9, horizon - 0.03, shade(cloth, 0.82))


def _paint_plant(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    leaf, pot, y = _choose(rng, LEAVES), _choose(rng, ACCENTS + WOODS), horizon + 0.03
    for angle in np.radians(np.linspace(-75, 75, 9) + rng.normal(0, 6, 9)):
        length = rng.uniform(0.13, 0.23)
        along, across = np.array([np.sin(angle), -np.cos(angle)]), np.array([np.cos(angle), np.sin(angle)])
        base = np.array([x, y - 0.07])
        outline = [base, base + 0.5 * length * along + 0.022 * across, base + length * along]
        outline.append(base + 0.5 * length * along - 0.022 * across)
        painter.polygon(outline, shade(leaf, rng.uniform(0.75, 1.2)))
    painter.polygon([(x - 0.05, y - 0.08), (x + 0.05, y - 0.08), (x + 0.036, y + 0.01), (x - 0.036, y + 0.01)], pot)
    painter.box(x - 0.055, y - 0.09, x + 0.055, y - 0.07, shade(pot, 1.1))


def _paint_lamp(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    pole, cloth = shade(_choose(rng, WOODS), 0.6), mix(_choose(rng, ACCENTS), (255, 240, 210), 0.6)
    y = rng.uniform(0.3, 0.4)
    painter.box(x - 0.005, y, x + 0.005, horizon + 0.03, pole)
    painter.ellipse((x, horizon + 0.03), (0.045, 0.01), pole)
    painter.soft_ellipse((x, y + 0.03), (0.16, 0.16), 1.16)
    painter.polygon([(x - 0.04, y - 0.04), (x + 0.04, y - 0.04), (x + 0.07, y + 0.06), (x - 0.07, y + 0.06)], cloth)


def _paint_cupboard(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    wood, top, bottom = _choose(rng, WOODS), rng.uniform(0.52, 0.6), horizon + 0.02
    painter.box(x - 0.11, top, x + 0.11, bottom, shade(wood, 0.85))
    painter.box(x - 0.12, top - 0.012, x + 0.12, top + 0.006, shade(wood, 1.1))
    for y0, y1 in ((top + 0.02, (top + bottom) / 2 - 0.006), ((top + bottom) / 2 + 0.006, bottom - 0.014)):
        painter.box(x - 0.1, y0, x + 0.1, y1, wood)
        painter.ellipse((x, (y0 + y1) / 2), (0.01, 0.006), shade(wood, 0.5))
    vase = [(x - 0.06, top - 0.012), (x - 0.065, top - 0.07), (x - 0.03, top - 0.07), (x - 0.035, top - 0.012)]
    painter.polygon(vase, _choose(rng, ACCENTS))


def _paint_sofa(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    cloth, side = _choose(rng, ACCENTS), np.sign(x)
    near, far = sorted((x - 0.13 * side, x + 0.3 * side))
    painter.box(near, 0.53, far, horizon + 0.02, shade(cloth, 0.85))
    painter.box(near, 0.65, far, horizon + 0.03, cloth)
    painter.ellipse((x - 0.12 * side, 0.66), (0.032, 0.045), shade(cloth, 1.08))
    painter.box(x - 0.12 * side - 0.03, 0.66, x - 0.12 * side + 0.03, horizon + 0.03, shade(cloth, 1.08))


def _paint_studio(painter: _Painter, rng: np.random.Generator) -> None:
    backdrop, horizon = _choose(rng, WALLS + ACCENTS[:6]), rng.uniform(0.74, 0.82)
    painter.gradient(painter.top, horizon, shade(backdrop, 0.95), shade(backdrop, 1.12))
    for _ in range(rng.integers(2, 5)):
        x, y, radius = rng.uniform(-0.35, 0.35), rng.uniform(0.05, 0.6), rng.uniform(0.06, 0.2)
        color = mix(backdrop, _choose(rng, ACCENTS), rng.uniform(0.35, 0.7))
        if rng.random() < 0.5:
            painter.ellipse((x, y), (radius, radius), color)
            painter.ellipse((x, y), (0.72 * radius, 0.72 * radius), shade(color, 1.15))
        else:
            angle = rng.uniform(0, np.pi) + np.arange(3) * 2 * np.pi / 3
            painter.polygon(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1), color)
    painter.gradient(horizon, painter.bottom, shade(backdrop, 0.8), shade(backdrop, 1.02))
    _paint_floor(painter, rng, shade(backdrop, 0.85), horizon)


def _paint_outdoors(painter: _Painter, rng: np.random.Generator) -> None:
    (high, low), horizon = SKIES[rng.integers(len(SKIES))], rng.uniform(0.66, 0.76)
    painter.gradient(painter.top, horizon, rgb(high), rgb(low))
    for _ in range(3):
        x, y = rng.uniform(-0.35, 0.35), rng.uniform(0.05, 0.25)
        for step in (-0.05, 0, 0.055):
            painter.ellipse((x + step, y - 0.2 * abs(step)), (0.055, 0.022), mix(rgb(low), (255, 255, 255), 0.5))
    if rng.random() < 0.5:
        position = painter.left - 0.05
        while position < painter.right:
            width, top, tone = rng.uniform(0.09, 0.16), rng.uniform(0.25, 0.5), _choose(rng, WALLS + WOODS[:2])
            painter.box(position, top, position + width, horizon, shade(tone, 0.9))
            for y in np.arange(top + 0.03, horizon - 0.04, 0.06):
                for x in np.arange(position + 0.018, position + width - 0.02, 0.034):
                    painter.box(x, y, x + 0.018, y + 0.032, shade(tone, rng.choice([0.55, 0.65, 1.3])))
            position += width + 0.004
        ground = _choose(rng, FLOORS[2:5:2] + WALLS[7:9])
    else:
        across = np.linspace(painter.left, painter.right, 24)
        for rise, tint in ((0.16, 1.15), (0.08, 0.95)):
            wave = horizon - rise + 0.04 * np.sin(7 * across + rng.uniform(0, 6)) + 0.02 * np.sin(17 * across)
            hill = [*zip(across, wave, strict=True), (painter.right, horizon), (painter.left, horizon)]
            painter.polygon(hill, shade(mix(_choose(rng, LEAVES), rgb(low), 0.35), tint))
        ground = _choose(rng, LEAVES)
    for side in (-1, 1):
        if rng.random() < 0.7:
            _paint_tree(painter, rng, side * rng.uniform(0.22, 0.3), horizon)
    painter.gradient(horizon, painter.bottom, shade(ground, 0.92), shade(ground, 1.12))
    path = shade(mix(ground, rgb("#c9b79c"), 0.7), 1.1)
    painter.polygon(
        [(-0.06, horizon), (0.06, horizon), (0.42, painter.bottom + 0.02), (-0.42, painter.bottom + 0.02)], path
    )


def _paint_tree(painter: _Painter, rng: np.random.Generator, x: float, horizon: float) -> None:
    leaf, trunk = _choose(rng, LEAVES), _choose(rng, WOODS[:3])
    painter.polygon(
        [(x - 0.014, 0.4), (x + 0.014, 0.4), (x + 0.022, horizon + 0.01), (x - 0.022, horizon + 0.01)], trunk
    )
    for _ in range(9):
        center = (x + rng.normal(0, 0.045), 0.32 + rng.normal(0, 0.06))
        painter.ellipse(center, (rng.uniform(0.05, 0.075),) * 2, shade(leaf, rng.uniform(0.8, 1.2)))
