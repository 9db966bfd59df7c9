# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing primitives of procedural images: colours, and outlines as arrays over time.

Axes: T times, n points of an outline. Outlines are in pixels, radii `(T,)` too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


# Fractional bits of OpenCV's fixed-point coordinates.
SUBPIXEL_BITS = 4

Color = tuple[float, float, float]


def rgb(code: str) -> Color:
    """A colour written `#rrggbb`."""
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def shade(color: Sequence[float], factor: float) -> Color:
    """A colour made darker (below 1) or lighter (above 1, towards white)."""
    if factor <= 1:
        return color[0] * factor, color[1] * factor, color[2] * factor
    return mix(color, (255, 255, 255), factor - 1)


def mix(color: Sequence[float], other: Sequence[float], part: float) -> Color:
    """Mix a fraction of another colour into a colour."""
    first, second, third = (a + part * (b - a) for a, b in zip(color, other, strict=True))
    return first, second, third


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Convert pixel coordinates for OpenCV's drawing functions with `shift=SUBPIXEL_BITS`."""
    # In OpenCV, integers are pixel centres.
    return np.rint((points - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)


def jittered(rng: np.random.Generator, codes: Sequence[str], spread: float) -> Color:
    """Choose one of the colours written `#rrggbb`, and vary it slightly."""
    red, green, blue = (rgb(rng.choice(codes)) + rng.normal(0, spread, 3)).clip(0, 255).tolist()
    return red, green, blue


@dataclass
class Polygon:
    """Outlines in pixels `(T, n, 2)` and their colour. A detail lies inside the outlines before it."""

    points: np.ndarray
    color: Color
    detail: bool = False


@dataclass
class Layer:
    """Polygons drawn one after the other; layers are drawn by depth `(T,)`, the farthest first."""

    part: str
    depth: np.ndarray
    polygons: list[Polygon] = field(default_factory=list)


def direction(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along and across (to the right when walking along, y being down: clockwise)."""
    along = end - start
    along = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-6)
    return along, np.stack([-along[..., 1], along[..., 0]], axis=-1)


CAP = np.linspace(-np.pi / 2, np.pi / 2, 9)
CIRCLE = np.linspace(0, 2 * np.pi, 20, endpoint=False)


def capsule(
    start: np.ndarray,
    end: np.ndarray,
    start_radius: np.ndarray,
    end_radius: np.ndarray,
    start_cap: float = 1.0,
    end_cap: float = 1.0,
) -> np.ndarray:
    """A tapered limb whose ends are round, or flat where the cap is 0."""
    along, across = direction(start, end)
    forward, sideward = np.cos(CAP)[:, None] * along[:, None], np.sin(CAP)[:, None] * across[:, None]
    far = end[:, None] + end_radius[:, None, None] * (end_cap * forward + sideward)
    near = start[:, None] - start_radius[:, None, None] * (start_cap * forward + sideward)
    return np.concatenate([far, near], axis=1)


def ellipse(center: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The ellipse with two half axes `(T, 2)`."""
    return center[:, None] + np.cos(CIRCLE)[:, None] * first[:, None] + np.sin(CIRCLE)[:, None] * second[:, None]


def circle(center: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The circle with radius `(T,)`."""
    ring = np.stack([np.cos(CIRCLE), np.sin(CIRCLE)], axis=-1)
    return center[:, None] + radius[:, None, None] * ring


def smooth(points: np.ndarray, closed: bool = True) -> np.ndarray:
    """Twice as many points on the curve (Catmull-Rom) through the given ones."""
    before, after, second = (np.roll(points, shift, axis=1) for shift in (1, -1, -2))
    middle = (9 * (points + after) - before - second) / 16
    if not closed:
        middle[:, [0, -2]] = ((points + after) / 2)[:, [0, -2]]
    both = np.stack([points, middle], axis=2).reshape(len(points), -1, 2)
    return both if closed else both[:, :-1]


def stroke(points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """A line of some width, pointed at its ends."""
    along, across = direction(points[:, :-1], points[:, 1:])
    across = across[:, [*range(across.shape[1]), -1]]
    taper = np.ones(points.shape[1])
    taper[[0, -1]] = 0.45
    side = across * (radius[:, None] * taper)[..., None]
    return np.concatenate([points + side, (points - side)[:, ::-1]], axis=1)


def ring(outline: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The line along a closed outline."""
    center = outline.mean(axis=1, keepdims=True)
    out = outline - center
    length = np.linalg.norm(out, axis=-1, keepdims=True)
    outer = center + out * (1 + radius[:, None, None] / length)
    inner = center + out * (1 - radius[:, None, None] / length)
    return np.concatenate([outer, outer[:, :1], inner[:, :1], inner[:, ::-1]], axis=1)
