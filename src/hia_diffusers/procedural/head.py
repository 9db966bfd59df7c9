# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The heads of procedural people: face, ears, and hair or hats, as layers of outlines.

Axes: T times; pairs are ordered left, right (the person's). Space is that of `motion.py`. A head is measured
in halves of its width, height and depth: u to the left of a person who faces the viewer, v down, w forward.
"""

from collections.abc import Sequence

import numpy as np

from .motion import SIDES, Skeleton
from .person import Person
from .setting import View
from .shapes import (
    Color,
    Layer,
    Polygon,
    circle,
    ellipse,
    mix,
    rgb,
    ring,
    shade,
    smooth,
    stroke,
)


# Hair and hats over the forehead: how much wider than the skull, where they end at the sides (v), and the hairline
# from the left to the right temple (u, v).
CROWNS = {
    "short": (
        *(1.07, 0.0),
        [(0.9, 0.05), (0.83, -0.3), (0.55, -0.6), (0, -0.66), (-0.55, -0.6), (-0.83, -0.3), (-0.9, 0.05)],
    ),
    "buzz": (
        *(1.03, -0.1),
        [(0.92, -0.1), (0.8, -0.42), (0.5, -0.66), (0, -0.7), (-0.5, -0.66), (-0.8, -0.42), (-0.92, -0.1)],
    ),
    "side": (
        *(1.12, 0.05),
        [(0.92, 0.1), (0.84, -0.25), (0.6, -0.66), (0.3, -0.72), (-0.2, -0.46), (-0.7, -0.3), (-0.94, 0.15)],
    ),
    "bob": (
        *(1.15, 0.1),
        [(0.96, 0.55), (0.82, -0.1), (0.5, -0.36), (0, -0.38), (-0.5, -0.36), (-0.82, -0.1), (-0.96, 0.55)],
    ),
    "long": (
        *(1.14, 0.1),
        [(0.97, 0.7), (0.86, 0.0), (0.55, -0.5), (0.05, -0.8), (-0.55, -0.5), (-0.86, 0.0), (-0.97, 0.7)],
    ),
    "afro": (
        *(1.08, -0.1),
        [(0.92, -0.1), (0.8, -0.42), (0.5, -0.6), (0, -0.62), (-0.5, -0.6), (-0.8, -0.42), (-0.92, -0.1)],
    ),
    "cap": (
        *(1.1, -0.2),
        [(0.97, -0.2), (0.8, -0.42), (0.45, -0.52), (0, -0.55), (-0.45, -0.52), (-0.8, -0.42), (-0.97, -0.2)],
    ),
    "beanie": (
        *(1.14, -0.2),
        [(1.0, -0.2), (0.8, -0.36), (0.45, -0.45), (0, -0.48), (-0.45, -0.45), (-0.8, -0.36), (-1.0, -0.2)],
    ),
}
CROWNS["ponytail"] = CROWNS["bun"] = CROWNS["short"]

CURLS = [
    *((-1, 0.0), (1, 0.0), (-1.02, -0.4), (1.02, -0.4), (-0.8, -0.8), (0.8, -0.8)),
    *((-0.4, -1.02), (0.4, -1.02), (0, -1.05)),
]
BRIM = [
    *((0.82, -0.42, 0.6), (0.5, -0.3, 1.45), (0, -0.24, 1.6), (-0.5, -0.3, 1.45)),
    *((-0.82, -0.42, 0.6), (0, -0.55, 0.9)),
]
CUFF = [(0.98, -0.22), (0.8, -0.38), (0.45, -0.47), (0, -0.5), (-0.45, -0.47), (-0.8, -0.38), (-0.98, -0.22)]

FRAME_COLOR = rgb("#26262b")  # of glasses


class Head:
    """A person's head in a pose, seen by a camera.

    Args:
        person (`Person`):
            The person.
        skeleton (`Skeleton`):
            The pose at each time `(T,)`.
        view (`View`):
            The camera at each time.
        light (`np.ndarray` of shape `(2,)`):
            Direction in the image from which the light comes.
    """

    def __init__(self, person: Person, skeleton: Skeleton, view: View, light: np.ndarray):
        self.person, self.skeleton, self.view, self.light = person, skeleton, view, light
        s, p = skeleton, person.proportions
        self.half = np.array([p.head_width / 2, p.head_height / 2, 0.54 * p.head_width])
        self.center = self.view.project(s.head)
        self.size = self.view.scale(s.head[:, 2])
        down = self.view.project(s.head + 0.1 * s.head_turn[:, :, 1]) - self.center
        self.down = down / np.linalg.norm(down, axis=-1, keepdims=True)
        self.side = np.stack([self.down[:, 1], -self.down[:, 0]], axis=-1)
        self.forward = s.head_turn[:, :2, 2] * self.half[2]  # how far the face's front moves in the image
        self.forward[:, 1] += 0.1 * self.half[2]
        self.face = self._face_points()

    def on_head(self, points: Sequence[tuple[float, ...]] | np.ndarray) -> np.ndarray:
        """Points `(u, v)` on the surface of the head, or `(u, v, w)`, in pixels; `(T, n, ...)` or `(n, ...)`."""
        points = np.asarray(points, dtype=np.float64)
        if points.shape[-1] == 2:
            front = np.sqrt((1 - points[..., 0] ** 2 - 0.6 * points[..., 1] ** 2).clip(0.04))
            points = np.concatenate([points, front[..., None]], axis=-1)
        local = points * self.half
        turned = local @ self.skeleton.head_turn.transpose(0, 2, 1)
        return self.view.project(self.skeleton.head[:, None] + turned)

    def around_head(self, points: Sequence[tuple[float, ...]] | np.ndarray) -> np.ndarray:
        """Outline points `(u, v, w)` in pixels: the width of a head does not change as it turns."""
        u, v, w = np.asarray(points, dtype=np.float64).T
        flat = (u * self.half[0])[:, None] * self.side[:, None] + (v * self.half[1])[:, None] * self.down[:, None]
        return self.center[:, None] + self.size[:, None, None] * (flat + w[:, None] * self.forward[:, None])

    def _jaw(self) -> np.ndarray:
        angle = np.linspace(0, np.pi, 17)
        narrowing = 0.72 + 0.2 * self.person.jaw
        u = -0.97 * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** narrowing
        v = -0.08 + 1.06 * np.sin(angle) ** 0.95
        return np.stack([u, v, 0.55 * np.sin(angle) ** 2], axis=1)

    def _face_points(self) -> np.ndarray:
        """The 68 landmarks in pixels."""
        s, times = self.skeleton, len(self.center)
        brow = np.stack([np.linspace(-0.68, -0.2, 5), [-0.20, -0.29, -0.32, -0.30, -0.25]], axis=1)
        bridge = np.array([(0, -0.02, 1.0), (0, 0.1, 1.08), (0, 0.2, 1.16), (0, 0.3, 1.22)])
        nostrils = np.array(
            [(-0.17, 0.37, 0.94), (-0.09, 0.4, 1.02), (0, 0.42, 1.06), (0.09, 0.4, 1.02), (0.17, 0.37, 0.94)]
        )
        upper = 0.15 * s.eye_opening[:, None]
        eye = np.zeros((times, 6, 2))
        eye[..., 0] = np.array([-0.64, -0.52, -0.32, -0.20, -0.32, -0.52])
        eye[..., 1] = 0.03
        eye[:, 1:3, 1] -= upper
        eye[:, 4:, 1] += 0.6 * upper
        other_eye = (eye * [-1, 1])[:, [3, 2, 1, 0, 5, 4]]
        opening = 0.16 * s.mouth_opening[:, None]
        corner = 0.36 + 0.04 * s.mouth_opening
        outer = np.zeros((times, 12, 2))
        outer[..., 0] = corner[:, None] * np.array([-1, -0.6, -0.25, 0, 0.25, 0.6, 1, 0.62, 0.28, 0, -0.28, -0.62])
        outer[..., 1] = 0.62 + np.array(
            [-0.03, -0.06, -0.09, -0.075, -0.09, -0.06, -0.03, 0.05, 0.085, 0.095, 0.085, 0.05]
        )
        outer[:, 7:, 1] += opening * np.array([0.7, 1, 1, 1, 0.7])
        inner = np.zeros((times, 8, 2))
        inner[..., 0] = corner[:, None] * np.array([-0.86, -0.4, 0, 0.4, 0.86, 0.4, 0, -0.4])
        inner[..., 1] = 0.62 + np.array([-0.025, -0.03, -0.025, -0.03, -0.025, 0.0, 0.005, 0.0])
        inner[:, 5:, 1] += 0.9 * opening
        flat = [brow, brow[::-1] * [-1, 1], bridge, nostrils, eye, other_eye, outer, inner]
        parts = [self.around_head(self._jaw()), *(self.on_head(part) for part in flat)]
        return np.concatenate(parts, axis=1)

    def _depth(self) -> np.ndarray:
        return np.full(len(self.center), 0.03)

    def ears(self) -> list[Layer]:
        """Return the ears, with earrings."""
        skin, layers = self.person.skin, []
        for side, sign in enumerate(SIDES):
            center = self.on_head([(0.97 * sign, 0.05, -0.1)])[:, 0]
            size = self.size[:, None] * self.half[1]
            down, across = 0.21 * size * self.down, 0.13 * size * self.side
            polygons = [
                Polygon(ellipse(center, across, down), shade(skin, 0.72)),
                Polygon(ellipse(center, 0.7 * across, 0.75 * down), shade(skin, 0.92), detail=True),
            ]
            if self.person.earrings:
                polygons.append(Polygon(circle(center + 1.1 * down, 0.075 * size[:, 0]), rgb("#e8c65a")))
            layers.append(Layer(f"ear {side}", self._depth() - 0.002, polygons))
        return layers

    def front(self) -> Layer:
        """Return the face, with a beard or glasses."""
        p, face = self.person, self.face
        unit = self.size * self.half[1]
        angle = np.linspace(0, np.pi, 13)[1:-1]
        crown = np.stack([0.97 * np.cos(angle), -0.08 - 0.92 * np.sin(angle), 0 * angle], axis=1)
        outline = np.concatenate([face[:, :17], self.around_head(crown)], axis=1)
        center = self.around_head([(0, 0.02, 0.1)])
        lit = center + 0.9 * (outline - center) + (self.light * (0.07 * unit)[:, None])[:, None]
        polygons = [Polygon(outline, shade(p.skin, 0.72)), Polygon(lit, p.skin, detail=True)]

        def add(points: np.ndarray, color: Color) -> None:
            polygons.append(Polygon(points, color, detail=True))

        for side in (-1, 1):  # cheeks
            middle = self.on_head([(0.5 * side, 0.36)])[:, 0]
            axes = self.on_head([(0.5 * side + 0.17, 0.36), (0.5 * side, 0.47)]) - middle[:, None]
            add(ellipse(middle, axes[:, 0], axes[:, 1]), mix(p.skin, rgb("#d8574f"), 0.22))
        if p.beard:
            rim = self.on_head([(0.62, 0.42), (0.4, 0.46), (0, 0.47), (-0.4, 0.46), (-0.62, 0.42)])
            add(np.concatenate([face[:, 2:15], rim], axis=1), mix(p.skin, shade(p.hair, 0.8), 0.85))
        for eye in (face[:, 36:42], face[:, 42:48]):
            grown = eye.mean(axis=1, keepdims=True)
            add(grown + 1.3 * (eye - grown), shade(p.skin, 0.6))
            add(eye, (250, 250, 247))
            opening = np.linalg.norm(eye[:, [1, 2]].mean(axis=1) - eye[:, [4, 5]].mean(axis=1), axis=-1)
            iris = eye.mean(axis=1) + (0.05 * self.skeleton.gaze * unit)[:, None] * self.side
            tall = 0.5 * opening[:, None] * self.down
            wide = np.minimum(0.105 * unit, 0.3 * np.linalg.norm(eye[:, 0] - eye[:, 3], axis=-1))[:, None]
            add(ellipse(iris, wide * self.side, tall), p.eyes)
            add(ellipse(iris, 0.5 * wide * self.side, 0.55 * tall), (18, 14, 14))
            spark = iris - 0.3 * tall + 0.4 * wide * self.side * self.light[0]
            add(circle(spark, 0.25 * wide[:, 0] * self.skeleton.eye_opening), (255, 255, 255))
            add(stroke(eye[:, [0, 1, 2, 3]], 0.035 * unit), (40, 26, 24))
        brow_color = shade(p.hair, 0.75) if p.hair_style != "bald" else mix(p.hair, p.skin, 0.3)
        for brow in (face[:, 17:22], face[:, 22:27]):
            add(stroke(brow, 0.05 * unit), brow_color)
        shadow = -1 if self.light[0] > 0 else 1
        nose = self.on_head([(0.06 * shadow, 0.0, 1.0), (0.0, 0.3, 1.22), (0.17 * shadow, 0.37, 0.95)])
        add(nose, shade(p.skin, 0.8))
        add(stroke(face[:, 31:36], 0.035 * unit), shade(p.skin, 0.62))
        tip = face[:, 30] + self.light * (0.03 * unit)[:, None]
        add(circle(tip, 0.05 * unit), shade(p.skin, 1.18))
        add(face[:, 48:60], p.lips)
        add(face[:, 60:68], mix(rgb("#4a1f22"), p.lips, 0.15))
        teeth = np.concatenate([face[:, 61:64], 0.45 * face[:, 65:68] + 0.55 * face[:, [63, 62, 61]]], axis=1)
        add(teeth, (246, 243, 236))
        if p.glasses:
            for eye in (face[:, 36:42], face[:, 42:48]):
                middle = eye.mean(axis=1) + 0.02 * unit[:, None] * self.down
                across = 0.72 * (eye[:, [3]] - eye[:, [0]])[:, 0]
                rim = ellipse(middle, across, 0.25 * unit[:, None] * self.down)
                add(ring(rim, 0.02 * unit), FRAME_COLOR)
            middle = face[:, 27] * 0.5 + 0.25 * (face[:, 39] + face[:, 42])
            add(stroke(np.stack([face[:, 39], middle, face[:, 42]], axis=1), 0.03 * unit), FRAME_COLOR)
        return Layer("face", self._depth(), polygons)

    def hair_behind(self) -> Layer:
        """Return the hair behind the head."""
        p = self.person
        polygons: list[Polygon] = []
        dark, unit = shade(p.hair, 0.7), self.size * self.half[1]
        if p.hair_style in ("bob", "long"):
            length = 1.05 if p.hair_style == "bob" else 2.1
            half = [(0.0, -1.1), (0.7, -0.98), (1.12, -0.45), (1.22, 0.2), (1.24, 0.3 + 0.3 * length), (1.08, length)]
            outline = [(u, v, -0.3) for u, v in half] + [(-u, v, -0.3) for u, v in half[:0:-1]]
            polygons.append(Polygon(smooth(self.around_head(outline)), dark))
        elif p.hair_style == "ponytail":
            tail = [(0.1, -0.9), (0.75, -0.85), (1.15, -0.1), (1.25, 0.9), (0.85, 1.5), (0.75, 0.6), (0.5, -0.3)]
            polygons.append(Polygon(smooth(self.around_head([(u, v, -1.0) for u, v in tail])), dark))
        elif p.hair_style == "bun":
            polygons.append(Polygon(circle(self.around_head([(0, -1.18, -0.4)])[:, 0], 0.4 * unit), dark))
        elif p.hair_style == "afro":
            angle = np.linspace(0, 2 * np.pi, 44, endpoint=False)
            radius = 1.28 + 0.035 * np.cos(11 * angle)
            around = [1.25 * radius * np.sin(angle), -0.3 - radius * np.cos(angle), -0.2 + 0 * angle]
            curls = self.around_head(np.stack(around, axis=1))
            middle = curls.mean(axis=1, keepdims=True) + 0.04 * unit[:, None, None] * self.light
            polygons += [Polygon(curls, dark), Polygon(middle + 0.93 * (curls - middle), p.hair, detail=True)]
        return Layer("hair behind", np.full(len(self.center), -0.3), polygons)

    def hair_in_front(self) -> Layer:
        """Return the hair or the hat over the forehead."""
        p = self.person
        layer = Layer("hair", self._depth() + 0.001)
        unit = self.size * self.half[1]
        color = p.accent if p.hair_style in ("cap", "beanie") else p.hair
        if p.hair_style in CROWNS:
            layer.polygons += self._crown(*CROWNS[p.hair_style], color)
        if p.hair_style == "curly":
            curls = [circle(self.around_head([(u, v, 0.1)])[:, 0], 0.3 * unit) for u, v in CURLS]
            layer.polygons += [Polygon(curl, shade(p.hair, 0.72)) for curl in curls]
            shift = self.light * (0.06 * unit)[:, None]
            for u, v in [*CURLS, (-0.5, -0.72), (0.0, -0.78), (0.5, -0.72)]:
                spot = self.around_head([(u, v, 0.25)])[:, 0] + shift
                layer.polygons.append(Polygon(circle(spot, 0.23 * unit), p.hair))
        elif p.hair_style == "cap":
            layer.polygons.append(Polygon(smooth(self.on_head(BRIM)), shade(p.accent, 0.6)))
        elif p.hair_style == "beanie":
            layer.polygons.append(Polygon(stroke(self.on_head(CUFF), 0.13 * unit), shade(p.accent, 0.82)))
        return layer

    def _crown(self, out: float, low: float, hairline: Sequence[tuple[float, float]], color: Color) -> list[Polygon]:
        """The top of the head, `out` times as wide as the skull, down to the hairline."""
        angle = np.linspace(np.pi, 0, 13)
        top = np.stack([out * np.cos(angle), low - (out - 0.02 + low) * np.sin(angle), 0 * angle], axis=1)
        line = smooth(self.on_head(hairline), closed=False)
        outline = np.concatenate([self.around_head(top), line], axis=1)
        # An afro continues behind the head, without a rim in between.
        rim = color if self.person.hair_style == "afro" else shade(color, 0.72)
        center = self.around_head([(0, -0.55, 0.2)])
        shift = (self.light * (0.05 * self.size * self.half[1])[:, None])[:, None]
        return [Polygon(outline, rim), Polygon(center + 0.86 * (outline - center) + shift, color, detail=True)]
