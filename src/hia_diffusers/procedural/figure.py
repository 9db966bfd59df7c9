# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Appearance of procedural people: a person in a pose, seen by a camera, as layers of outlines.

Axes: T times; pairs are ordered left, right (the person's). Space is that of `motion.py`.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from .head import Head
from .motion import LEFT, RIGHT, Skeleton
from .person import Person
from .setting import View
from .shapes import (
    CIRCLE,
    Color,
    Layer,
    Polygon,
    capsule,
    direction,
    ellipse,
    mix,
    rgb,
    shade,
    smooth,
)


class Figure:
    """A person in a pose, seen by a camera: the shapes to draw and the keypoints.

    Args:
        person (`Person`):
            The person.
        skeleton (`Skeleton`):
            The pose at each time `(T,)`.
        view (`View`):
            The camera at each time.
        light_from_left (`bool`):
            Whether the light comes from the left of the image.
    """

    def __init__(self, person: Person, skeleton: Skeleton, view: View, light_from_left: bool):
        self.person, self.skeleton, self.view = person, skeleton, view
        self.light = np.array([-1.0 if light_from_left else 1.0, -0.55]) / np.hypot(1, 0.55)
        s = skeleton
        self.size = view.scale(s.neck[:, 2])  # pixels per stature at the body
        self.neck, self.shoulders, self.elbows, self.wrists, self.hips, self.knees, self.ankles, self.hands = (
            view.project(part)
            for part in (s.neck, s.shoulders, s.elbows, s.wrists, s.hips, s.knees, s.ankles, s.hands)
        )
        self.feet = view.project(s.feet)
        self.head = Head(person, skeleton, view, self.light)

    # Keypoints

    def keypoints(self) -> np.ndarray:
        """The 133 COCO-WholeBody points in pixels, `(T, 133, 2)`."""
        face = self.head.face
        eyes = np.stack([face[:, 42:48].mean(axis=1), face[:, 36:42].mean(axis=1)], axis=1)
        ears = self.head.on_head([(0.97, 0.05, -0.1), (-0.97, 0.05, -0.1)])
        pairs = [self.shoulders, self.elbows, self.wrists, self.hips, self.knees, self.ankles]
        feet = self.feet.reshape(len(self.feet), 6, 2)
        hands = self.hands.reshape(len(self.hands), 42, 2)
        return np.concatenate([face[:, 30:31], eyes, ears, *pairs, feet, face, hands], axis=1)

    # Shapes

    def layers(self) -> list[Layer]:
        """Return everything that is drawn."""
        layers = [self.head.hair_behind(), *self.head.ears(), self._neck(), self._pelvis(), *self._torso()]
        for side in (LEFT, RIGHT):
            layers += [*self._leg(side), *self._arm(side), *self._hand(side)]
        return [*layers, self.head.front(), self.head.hair_in_front()]

    def _round(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: Sequence[float],
        color: Color,
        joined: bool = False,
        end_cap: float = 1.0,
    ) -> list[Polygon]:
        """A limb, dark at the rim and lit from one side; one that is `joined` continues the limb before it."""
        first, second = (radius * self.size for radius in radii)
        shift = self.light * (0.13 * (first + second) / 2)[:, None]
        rim = capsule(start, end, first, second, 0.0 if joined else 1.0, end_cap)
        lit = capsule(start + shift, end + shift, 0.83 * first, 0.83 * second, 1.0, 0.83 * end_cap)
        return [Polygon(rim, shade(color, 0.68)), Polygon(lit, color, detail=not joined)]

    # Trunk

    def _neck(self) -> Layer:
        p = self.person
        chin = self.head.around_head([(0, 0.55, 0.0)])[:, 0]
        base = self.neck + 0.012 * self.size[:, None] * np.array([0, 1.0])
        radius = 0.25 * p.proportions.head_width
        limb = self._round(base, chin, (1.1 * radius, radius), shade(p.skin, 0.9), joined=True)
        return Layer("neck", np.full(len(self.size), 0.001), limb)

    @cached_property
    def _trunk_rings(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cross-sections of the trunk from the neck to the hem: centres and two half axes, each `(T, 6, 3)`."""
        s, p, girth = self.skeleton, self.person.proportions, self.person.girth
        spine = [s.waist + part * (s.neck - s.waist) for part in (0.9, 0.62, 0.12)]
        hem = s.pelvis + 0.14 * p.spine * s.pelvis_turn[:, :, 1]
        centers = np.stack([s.neck, *spine, s.pelvis, hem], axis=1)
        waist_turn = (s.chest_turn + s.pelvis_turn) / 2
        turns = np.stack([*[s.chest_turn] * 3, waist_turn, *[s.pelvis_turn] * 2], axis=1)
        chest = [0.9 * p.shoulder * girth**0.5, 0.72 * p.shoulder * girth]
        widths = np.array([0.042, p.shoulder + 0.008, *chest, p.hip + 0.044 * girth, p.hip + 0.05 * girth])
        depths = np.array([0.035, 0.05, 0.062 * girth, 0.052 * girth, 0.06 * girth, 0.062 * girth])
        return centers, turns[..., 0] * widths[:, None], turns[..., 2] * depths[:, None]

    @cached_property
    def _trunk_sides(self) -> tuple[np.ndarray, np.ndarray]:
        """The outline of the trunk at its cross-sections, on the left and on the right of the image, `(T, 6, 2)`."""
        centers, across, deep = self._trunk_rings
        middle = self.view.project(centers)
        along = np.gradient(middle, axis=1)
        along = along / np.linalg.norm(along, axis=-1, keepdims=True)
        normal = np.stack([along[..., 1], -along[..., 0]], axis=-1)  # to the right of the image
        reach = np.hypot((across[..., :2] * normal).sum(axis=-1), (deep[..., :2] * normal).sum(axis=-1))
        offset = normal * (reach * self.size[:, None])[..., None]
        return middle - offset, middle + offset

    def _on_trunk(self, angle: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Points of the trunk's surface in pixels `(T, n, 2)`.

        Angles `(n,)` or `(T, n)` go around it, 0 being the middle of the front; heights `(n,)` go from 0 at the neck
        to 5 at the hem.
        """
        angle = np.broadcast_to(angle, (len(self.size), len(height)))[..., None]
        ring = np.minimum(height.astype(int), 4)
        part = (height - ring)[:, None]
        center, side, front = ((1 - part) * axes[:, ring] + part * axes[:, ring + 1] for axes in self._trunk_rings)
        return self.view.project(center + np.sin(angle) * side + np.cos(angle) * front)

    def _print(self, angle: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Return a shape printed on the front, given as for `_on_trunk`; parts that are turned away have no area."""
        turn = self.skeleton.chest_turn
        yaw = np.arctan2(turn[:, 0, 2], turn[:, 2, 2])[:, None]
        return self._on_trunk(np.clip(angle, -np.pi / 2 - yaw, np.pi / 2 - yaw), height)

    def _band(self, top: float, bottom: float, half_angle: float = np.pi / 2, steps: int = 9) -> np.ndarray:
        """The part of the trunk's front between two heights."""
        angles = np.linspace(-half_angle, half_angle, steps)
        return self._print(np.concatenate([angles, angles[::-1]]), np.repeat([top, bottom], steps))

    def _column(self, angle: float, half_angle: float, bottom: float) -> np.ndarray:
        """A stripe down the trunk's front."""
        heights = np.linspace(0.85, bottom, 5)
        angles = np.repeat([angle - half_angle, angle + half_angle], 5)
        return self._print(angles, np.concatenate([heights, heights[::-1]]))

    def _dot(self, angle: float, height: float, wide: float, tall: float) -> np.ndarray:
        """A round spot on the trunk's front."""
        return self._print(angle + wide * np.cos(CIRCLE), height + tall * np.sin(CIRCLE))

    def _pelvis(self) -> Layer:
        p = self.person
        left, right = self._trunk_sides
        crotch = self.hips.mean(axis=1) + 0.05 * self.size[:, None] * np.array([0, 1.0])
        outline = np.concatenate([left[:, 3:], crotch[:, None], right[:, :2:-1]], axis=1)
        outline = crotch[:, None] + 0.9 * (outline - crotch[:, None])
        return Layer("pelvis", np.full(len(left), -0.08), [Polygon(outline, shade(p.bottom_color, 0.8))])

    def _torso(self) -> list[Layer]:
        p = self.person
        left, right = self._trunk_sides
        hem = 6 if p.bottom in ("trousers", "wide trousers", "shorts") else 5
        left, right = left[:, :hem], right[:, :hem]
        outline = np.concatenate([smooth(left, closed=False), smooth(right[:, ::-1], closed=False)], axis=1)
        near, far = (0.05, 0.8) if self.light[0] < 0 else (0.2, 0.95)
        lit = [smooth(left + part * (right - left), closed=False) for part in (near, far)]
        bottom = hem - 1 - 0.02
        polygons = [
            Polygon(outline, shade(p.top_color, 0.7)),
            Polygon(np.concatenate([lit[0], lit[1][:, ::-1]], axis=1), p.top_color, detail=True),
        ]
        polygons += [Polygon(points, color, detail=True) for points, color in self._pattern(bottom)]
        wide, deep = {"tank top": (1.05, 1.35), "hoodie": (0.7, 0.75)}.get(p.top, (0.84, 0.95))
        angles = np.linspace(-np.pi / 2, np.pi / 2, 7)
        collar = self._on_trunk(wide * angles, deep * np.cos(angles) ** 0.7)
        if p.top != "tank top":
            middle = collar.mean(axis=1, keepdims=True)
            trim = p.accent if p.top == "hoodie" else shade(p.top_color, 0.8)
            polygons.append(Polygon(middle + 1.3 * (collar - middle), trim, detail=True))
        polygons.append(Polygon(collar, shade(p.skin, 0.9), detail=True))
        if p.top == "hoodie":
            polygons.append(Polygon(self._band(3.2, 4.3, 0.75, 7), shade(p.top_color, 0.82), detail=True))
        layers = [Layer("torso", np.zeros(len(left)), polygons)]
        if p.bottom in ("skirt", "long skirt"):
            layers.append(self._skirt())
        return layers

    def _pattern(self, bottom: float) -> list[tuple[np.ndarray, Color]]:
        """Return the print on the top: outlines and colours."""
        p, color = self.person, self.person.pattern_color
        if p.pattern == "stripes":
            return [(self._band(v, min(v + 0.3, bottom)), color) for v in np.arange(1.0, bottom, 0.62)]
        if p.pattern == "pinstripes":
            return [(self._column(angle, 0.075, bottom), color) for angle in np.arange(-1.2, 1.21, 0.4)]
        if p.pattern == "checks":
            soft = mix(p.top_color, color, 0.55)
            across = [(self._band(v, v + 0.22), soft) for v in np.arange(1.0, bottom - 0.2, 0.75)]
            return across + [(self._column(angle, 0.1, bottom), soft) for angle in np.arange(-1.1, 1.2, 0.55)]
        if p.pattern == "colour block":
            return [(self._band(0.55 * bottom, bottom), color)]
        if p.pattern == "badge":
            return [(self._dot(0.0, 1.75, 0.62, 0.52), color), (self._dot(0.0, 1.75, 0.36, 0.3), p.accent)]
        if p.pattern == "dots":
            rows = enumerate(np.arange(1.1, bottom - 0.15, 0.52))
            places = [(angle, v) for row, v in rows for angle in np.arange(-1.25 + 0.25 * (row % 2), 1.3, 0.5)]
            return [(self._dot(angle, v, 0.15, 0.14), color) for angle, v in places]
        if p.pattern == "zigzag":
            angles = np.linspace(-np.pi / 2, np.pi / 2, 13)
            waves = [v + 0.16 * (-1.0) ** np.arange(13) for v in (1.5, 2.3, 3.1)]
            around = np.concatenate([angles, angles[::-1]])
            return [(self._print(around, np.concatenate([wave, wave[::-1] + 0.26])), color) for wave in waves]
        return []

    def _skirt(self) -> Layer:
        p = self.person
        left, right = self._trunk_sides
        if p.bottom == "skirt":
            ends, flare = self.hips + 0.78 * (self.knees - self.hips), 0.085
        else:
            ends, flare = self.knees + 0.35 * (self.ankles - self.knees), 0.075
        low, down = ends[..., 1].max(axis=1), self.size[:, None] * np.array([0, 1.0])
        aside = self.size[:, None] * np.array([flare, 0])
        hem_left = np.stack([ends[..., 0].min(axis=1), low], axis=-1) - aside
        hem_right = np.stack([ends[..., 0].max(axis=1), low], axis=-1) + aside
        waist_left, waist_right = left[:, 3], right[:, 3]
        hem = [
            hem_left + part * (hem_right - hem_left) + 0.012 * np.sin(np.pi * part) * down
            for part in np.linspace(0, 1, 5)
        ]
        outline = np.stack([waist_left, left[:, 4], *hem, right[:, 4], waist_right], axis=1)
        polygons = [Polygon(outline, shade(p.bottom_color, 0.72))]
        for x in np.arange(0.06, 0.95, 0.18):
            upper = [waist_left + part * (waist_right - waist_left) for part in (x, x + 0.1)]
            lower = [hem_left + part * (hem_right - hem_left) + 0.004 * down for part in (x + 0.13, x)]
            polygons.append(Polygon(np.stack(upper + lower, axis=1), p.bottom_color, detail=True))
        below = [side[:, 3] * 0.7 + 0.3 * side[:, 4] for side in (right, left)]
        belt = np.stack([waist_left, waist_right, *below], axis=1)
        polygons.append(Polygon(belt, shade(p.bottom_color, 0.6), detail=True))
        return Layer("skirt", np.full(len(left), -0.001), polygons)

    # Limbs

    def _leg(self, side: int) -> list[Layer]:
        p, s = self.person, self.skeleton
        girth = p.girth**0.7
        hip, knee, ankle = self.hips[:, side], self.knees[:, side], self.ankles[:, side]
        depth = -0.2 + 0.1 * s.knees[:, side, 2]
        leg = Layer(f"leg {side}", depth)
        if p.bottom in ("trousers", "wide trousers"):
            wide = 1.0 if p.bottom == "trousers" else 1.3
            leg.polygons += self._round(hip, knee, (0.052 * girth, 0.04 * girth * wide**0.7), p.bottom_color)
            ankle_radius = 0.027 if p.bottom == "trousers" else 0.042
            leg.polygons += self._round(
                knee, ankle, (0.039 * girth * wide**0.7, ankle_radius), p.bottom_color, joined=True, end_cap=0.3
            )
        else:
            calf, root = knee + 0.3 * (ankle - knee), hip + 0.3 * (knee - hip)
            leg.polygons += self._round(root, knee, (0.046 * girth, 0.033 * girth), p.skin)
            leg.polygons += self._round(knee, calf, (0.031 * girth, 0.034 * girth), p.skin, joined=True)
            leg.polygons += self._round(calf, ankle, (0.034 * girth, 0.019), p.skin, joined=True)
            if p.bottom == "shorts":
                end = hip + 0.66 * (knee - hip)
                leg.polygons += self._round(hip, end, (0.054 * girth, 0.056 * girth), p.bottom_color, end_cap=0.2)
        return [self._shoe(side, depth - 0.001), leg]

    def _shoe(self, side: int, depth: np.ndarray) -> Layer:
        p = self.person
        big, small, heel = (self.feet[:, side, point] for point in range(3))
        ankle, up = self.ankles[:, side], self.size[:, None] * np.array([0, -1.0])
        front = (0.6 * big + 0.4 * small) + 0.012 * up
        back = heel + 0.014 * up
        sole = capsule(back - 0.008 * up, front - 0.008 * up, 0.022 * self.size, 0.029 * self.size)
        polygons = [Polygon(sole, shade(p.shoes, 0.5) if sum(p.shoes) > 300 else (225, 222, 214))]
        polygons += self._round(ankle, 0.5 * (back + front), (0.026, 0.026), shade(p.shoes, 0.92))
        polygons += self._round(back, front, (0.022, 0.028), p.shoes)
        top, tip = (ankle + part * (front - ankle) for part in (0.55, 0.8))
        polygons.append(Polygon(capsule(top, tip, 0.008 * self.size, 0.01 * self.size), p.accent, detail=True))
        return Layer(f"foot {side}", depth, polygons)

    def _arm_depths(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the depths of upper arm and forearm: in front of the trunk unless they are well behind it."""
        s = self.skeleton
        elbow, wrist = (joints[:, side, 2] - s.neck[:, 2] for joints in (s.elbows, s.wrists))
        upper = elbow + 0.055
        return upper, np.maximum((elbow + wrist) / 2 + 0.065, upper + 0.002)

    def _arm(self, side: int) -> list[Layer]:
        p = self.person
        girth = p.girth**0.6
        shoulder, elbow, wrist = self.shoulders[:, side], self.elbows[:, side], self.wrists[:, side]
        upper_depth, fore_depth = self._arm_depths(side)
        upper, fore = Layer(f"upper arm {side}", upper_depth), Layer(f"forearm {side}", fore_depth)
        if p.top in ("long sleeves", "hoodie"):
            wide = 1.0 if p.top == "long sleeves" else 1.15
            upper.polygons += self._round(
                shoulder, elbow, (0.036 * girth * wide, 0.031 * girth * wide), p.top_color, joined=True
            )
            end, cuff = (elbow + part * (wrist - elbow) for part in (0.92, 0.84))
            fore.polygons += self._round(end, wrist, (0.02, 0.019), p.skin)
            fore.polygons += self._round(
                elbow, end, (0.03 * girth * wide, 0.024 * wide), p.top_color, joined=True, end_cap=0.2
            )
            fore.polygons += self._round(
                cuff, end, (0.025 * wide, 0.0245 * wide), shade(p.top_color, 0.8), end_cap=0.2
            )
        else:
            upper.polygons += self._round(shoulder, elbow, (0.032 * girth, 0.027 * girth), p.skin, joined=True)
            fore.polygons += self._round(elbow, wrist, (0.026 * girth, 0.019), p.skin, joined=True)
            if p.top == "t-shirt":
                end = shoulder + 0.5 * (elbow - shoulder)
                upper.polygons += self._round(
                    shoulder, end, (0.036 * girth, 0.038 * girth), p.top_color, joined=True, end_cap=0.15
                )
        return [upper, fore]

    def _hand(self, side: int) -> list[Layer]:
        """Return a palm, and fingers of two pieces each, ordered by the direction in which the hand is turned."""
        p, s = self.person, self.skeleton
        points, space = self.hands[:, side], s.hands[:, side]
        size = self.view.scale(s.wrists[:, side, 2]) * p.proportions.hand
        depth = self._arm_depths(side)[1] + 0.001
        facing = s.palms[:, side, 2]  # 1: the palm to the viewer
        wrist, thumb, index, middle, little = (points[:, i] for i in (0, 1, 5, 9, 17))
        skin = mix(p.skin, rgb("#e8907a"), 0.10)
        rim = shade(skin, 0.55)

        along, across = direction(wrist, middle)
        narrow = (0.13 * size)[:, None] * across
        edge = np.stack([wrist - narrow, wrist + narrow], axis=1)
        first_near = ((index - wrist) * across).sum(axis=-1) > 0
        edge = np.where(first_near[:, None, None], edge[:, ::-1], edge)
        ball = 0.5 * (wrist + thumb) + 0.06 * size[:, None] * along
        palm = np.stack([edge[:, 0], thumb, index, points[:, 9], points[:, 13], little, edge[:, 1]], axis=1)
        center = palm.mean(axis=1, keepdims=True)
        out = palm - center
        length = np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-6)
        grown = palm + out / length * (0.085 * size)[:, None, None]
        lit = palm + out / length * (0.03 * size)[:, None, None]
        lit[:, [0, -1]] -= 0.13 * (size[:, None] * along)[:, None]  # no rim between hand and forearm
        ball = ellipse(ball, 0.1 * size[:, None] * along, 0.075 * size[:, None] * across)
        polygons = [
            Polygon(smooth(grown), rim),
            Polygon(smooth(lit) + (self.light * (0.012 * size)[:, None])[:, None], skin, detail=True),
            Polygon(ball, shade(skin, 0.93), detail=True),
        ]
        layers = [Layer(f"hand {side}", depth, polygons)]
        palm_z = space[:, [0, 5, 17], 2].mean(axis=1)
        shift = self.light * (0.01 * size)[:, None]
        for finger, thick in enumerate((0.1, 0.083, 0.083, 0.083, 0.074)):
            for piece, (start, end) in enumerate(((1, 2), (2, 4))):
                start, end = start + 4 * finger, end + 4 * finger
                first, last = points[:, start], points[:, end]
                first_radius, last_radius = ((1.0, 0.95), (0.95, 0.8))[piece]
                radii = thick * size * first_radius, thick * size * last_radius
                rim_radii = radii[0] + 0.035 * size, radii[1] + 0.035 * size
                ahead = space[:, start : end + 1, 2].mean(axis=1) - palm_z
                order = depth + 1e-4 * np.tanh(ahead / 0.02) + 1e-6 * facing * (piece + 0.1 * finger)
                outline = capsule(first, last, *rim_radii, start_cap=1.0 - piece)
                inner = capsule(first + shift, last + shift, 0.86 * radii[0], 0.86 * radii[1])
                tone = shade(skin, 1.06) if piece else skin
                layers.append(Layer(f"hand {side}", order, [Polygon(outline, rim), Polygon(inner, tone, detail=True)]))
        return layers
