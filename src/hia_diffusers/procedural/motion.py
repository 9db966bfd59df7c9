# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Motion of procedural people: a dance has key poses on the beat, and gives a 3D skeleton at any time.

Axes: T times; pairs are ordered left, right (the person's). Space is measured in statures of an average adult: x to
    the right of the image (the left of a person who faces the viewer), y down with 0 on the floor, z towards the
    viewer. Angles are in degrees in tables and in radians in computations.
"""

from dataclasses import dataclass

import numpy as np


# The dance repeats after this many beats.
NUM_BEATS = 64

LEFT, RIGHT = 0, 1
SIDES = np.array([1.0, -1.0])

# Upper arm and forearm, each as its angle in the plane of the chest (0 down, 90 away from the body, 180 up) and its
# angle towards the viewer; the rotation of the palm away from the viewer; the weight of the pose.
ARM_POSES = np.array(
    [
        (15, 0, 10, 14, 150, 1.0),  # hanging
        (46, -14, -30, 12, 160, 0.8),  # hand on the hip
        (24, 14, 32, 36, 20, 0.9),  # low and open
        (22, 8, 158, 18, 8, 1.6),  # hand up beside the shoulder
        (48, 8, 174, 14, 6, 1.6),
        (76, 8, 184, 14, 10, 1.3),  # goal post
        (72, 4, 4, 18, 155, 0.6),  # robot, forearm down
        (126, 6, 202, 14, 14, 1.0),  # above the head
        (118, 0, 216, 14, 30, 0.9),
        (38, 10, -72, 38, 165, 0.9),  # in front of the belly
        (34, 16, -118, 36, 160, 1.0),  # in front of the chest
        (66, 24, -142, 30, 150, 0.8),  # before the chin
        (70, 18, 206, 26, 20, 0.9),  # beside the face
        (28, 38, 148, 44, 0, 1.0),  # pushed at the viewer
        (62, 6, 66, 22, 20, 0.2),  # stretched to the side
    ]
)

# Curl of thumb, index, middle, ring and little finger (0 straight, 1 closed), spread, and the weight of the gesture.
HAND_POSES = np.array(
    [
        (0.00, 0.00, 0.00, 0.00, 0.00, 1.0, 2.2),  # open
        (0.20, 0.05, 0.05, 0.05, 0.05, 0.45, 1.2),  # flat
        (0.20, 0.22, 0.28, 0.33, 0.38, 0.7, 1.6),  # relaxed
        (0.85, 0.95, 1.00, 1.00, 1.00, 0.2, 0.7),  # fist
        (0.75, 0.00, 0.95, 1.00, 1.00, 0.3, 0.7),  # pointing
        (0.75, 0.00, 0.00, 0.95, 1.00, 1.1, 0.8),  # victory
        (0.00, 0.95, 0.95, 0.95, 0.95, 0.3, 0.4),  # thumb up
        (0.00, 0.05, 0.95, 1.00, 0.00, 0.8, 0.4),  # rock
    ]
)

# Per finger, in hand lengths: its start along and across the hand (towards the thumb), its angle in the palm at full
# spread, and its length.
FINGERS = np.array(
    [
        (0.16, 0.17, 52, 0.48),
        (0.50, 0.185, 14, 0.42),
        (0.53, 0.06, 3, 0.47),
        (0.51, -0.065, -8, 0.43),
        (0.46, -0.18, -21, 0.35),
    ]
)
FINGER_BONES = np.array([0.46, 0.30, 0.24])
FINGER_BENDS = np.radians([[28, 48, 50], *[[78, 98, 55]] * 4])  # of the joints of a closed finger


@dataclass
class Proportions:
    """Lengths of one person's bones in statures of an average adult."""

    head_height: float
    head_width: float
    neck: float
    shoulder: float  # half the distance of the shoulder joints
    spine: float  # hips to the base of the neck
    hip: float  # half the distance of the hip joints
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shin: float
    foot: float
    ankle: float = 0.042


@dataclass
class Skeleton:
    """Joints and directions at each time; `(T, 2, ...)` are left and right.

    `head_turn`, `chest_turn` and `pelvis_turn` hold the axes of the part as columns: its left, down and forward.
    """

    pelvis: np.ndarray
    pelvis_turn: np.ndarray
    waist: np.ndarray
    neck: np.ndarray
    chest_turn: np.ndarray
    head: np.ndarray
    head_turn: np.ndarray
    shoulders: np.ndarray
    elbows: np.ndarray
    wrists: np.ndarray
    hands: np.ndarray  # (T, 2, 21, 3)
    palms: np.ndarray  # (T, 2, 3), out of the palm
    hips: np.ndarray
    knees: np.ndarray
    ankles: np.ndarray
    feet: np.ndarray  # (T, 2, 3, 3): big toe, small toe, heel
    eye_opening: np.ndarray
    mouth_opening: np.ndarray
    gaze: np.ndarray


class Dance:
    """A dance of smooth moves from key pose to key pose, one or two beats each, with an underlying groove.

    Args:
        rng (`np.random.Generator`):
            Random generator for the tempo, the poses and the character of the moves.
    """

    def __init__(self, rng: np.random.Generator):
        self.tempo = rng.uniform(1.1, 2.3)  # beats per second
        self.attack = rng.uniform(0.45, 0.95)  # duration of a move as a fraction of a beat
        self.offset = rng.uniform(0, NUM_BEATS)
        self.arms = self._draw_arms(rng)
        self.fingers = self._draw_fingers(rng)
        self.feet = self._draw_feet(rng)
        self.body = np.radians(rng.normal(0, 1, (NUM_BEATS, 8)) * [16, 5, 9, 6, 14, 7, 8, 0])
        self.body[:, 7] = rng.uniform(0, 1, NUM_BEATS) ** 3 * 0.06  # crouching
        self.body *= rng.uniform(0.6, 1.15)
        self.groove = rng.uniform([0.004, 0.006, 0.5, 1.0], [0.016, 0.02, 4.0, 5.0])
        self.groove_phase = rng.uniform(0, 2 * np.pi, 4)
        self.blinks = rng.uniform(0.3, 3.7, 16) + 4 * np.arange(16)  # seconds, of 64
        self.smile = rng.uniform(0.0, 0.5)

    def _draw_arms(self, rng: np.random.Generator) -> np.ndarray:
        """Keys `(beats, 2, 7)`: the angles of `ARM_POSES`, the bend of the wrist and the swing of the forearm."""
        chance = ARM_POSES[:, 5] * rng.uniform(0.3, 1.7, len(ARM_POSES))
        poses = rng.choice(len(ARM_POSES), (NUM_BEATS, 2), p=chance / chance.sum())
        together = rng.random(NUM_BEATS) < rng.uniform(0.2, 0.8)
        poses[together, RIGHT] = poses[together, LEFT]
        hold = rng.random((NUM_BEATS, 2)) < rng.uniform(0.1, 0.4)
        for beat in range(1, NUM_BEATS):
            poses[beat] = np.where(hold[beat], poses[beat - 1], poses[beat])
        keys = np.zeros((NUM_BEATS, 2, 7))
        keys[..., :5] = ARM_POSES[poses, :5] + rng.normal(0, 1, (NUM_BEATS, 2, 5)) * [7, 4, 8, 5, 14]
        keys[..., 5] = rng.normal(0, 14, (NUM_BEATS, 2))
        waving = rng.random((NUM_BEATS, 2)) < rng.uniform(0.05, 0.5)
        keys[..., 6] = np.where(waving, rng.uniform(10, 28, (NUM_BEATS, 2)), rng.uniform(0, 4, (NUM_BEATS, 2)))
        return np.radians(keys)

    def _draw_fingers(self, rng: np.random.Generator) -> np.ndarray:
        """Keys `(beats, 2, 6)`: curls and spread."""
        chance = HAND_POSES[:, 6] / HAND_POSES[:, 6].sum()
        poses = rng.choice(len(HAND_POSES), (NUM_BEATS, 2), p=chance)
        keys = HAND_POSES[poses, :6] + rng.uniform(-0.05, 0.12, (NUM_BEATS, 2, 6))
        return keys.clip(0, 1.2)

    def _draw_feet(self, rng: np.random.Generator) -> np.ndarray:
        """Keys `(beats, 2, 2)`: where the ankles stand, x and z; one foot steps at a time."""
        stance, step = rng.uniform(0.05, 0.085), rng.uniform(0.02, 0.065)
        keys = np.empty((NUM_BEATS, 2, 2))
        place = np.stack([SIDES * stance, np.zeros(2)], axis=1)
        for beat in range(NUM_BEATS):
            if rng.random() < 0.7:
                foot = beat % 2
                place[foot] = SIDES[foot] * (stance + rng.uniform(-0.3, 1) * step), rng.uniform(-1, 1) * step
            keys[beat] = place
        return keys

    def skeleton(self, seconds: np.ndarray, proportions: Proportions) -> Skeleton:
        """Return the joints of a person with the given proportions.

        Args:
            seconds (`np.ndarray`):
                Times `(T,)`.
            proportions (`Proportions`):
                The person's bones.
        """
        p = proportions
        beats = np.asarray(seconds, dtype=np.float64) * self.tempo + self.offset
        arms = self._keyed(self.arms, beats)
        fingers = self._keyed(self.fingers, beats)
        yaw, tilt, twist, lean, head_yaw, head_tilt, nod, crouch = self._keyed(self.body, beats).T
        pulse = 2 * np.pi * beats[:, None] * [1, 0.5, 0.5, 1] + self.groove_phase
        bounce, sway, rock, bob = (self.groove * np.sin(pulse)).T

        pelvis_turn = _turn(yaw, 0 * yaw, tilt + np.radians(rock))
        chest_turn = _turn(yaw + twist, np.radians(3), lean - 0.6 * tilt - np.radians(rock))
        head_turn = _turn(yaw + twist + head_yaw, nod + np.radians(bob), 0.5 * lean + head_tilt)

        ankles, lift = self._ankles(beats, p)
        pelvis = np.zeros((len(beats), 3))
        pelvis[:, [0, 2]] = ankles[..., [0, 2]].mean(axis=1)
        pelvis[:, 0] += sway
        hips = _beside(pelvis, pelvis_turn, p.hip)
        reach = np.square(0.992 * (p.thigh + p.shin)) - np.square((hips - ankles)[..., [0, 2]]).sum(axis=-1)
        standing = (np.sqrt(reach.clip(0.01)) - (ankles[..., 1] - lift)).min(axis=1)
        pelvis[:, 1] = -(standing - 0.003 - crouch.clip(0) - np.abs(bounce))
        hips = _beside(pelvis, pelvis_turn, p.hip)
        toes_out = yaw[:, None] * 0.5 + SIDES * np.radians(17)
        forward = np.stack([np.sin(toes_out), np.zeros_like(toes_out), np.cos(toes_out)], axis=-1)
        knees = _bend(hips, ankles, p.thigh, p.shin, forward)

        waist = pelvis - 0.36 * p.spine * pelvis_turn[:, :, 1]
        neck = waist - 0.64 * p.spine * chest_turn[:, :, 1]
        head = neck - p.neck * chest_turn[:, :, 1]
        head = head - 0.46 * p.head_height * head_turn[:, :, 1] + 0.1 * p.head_height * head_turn[:, :, 2]
        raised = ((arms[..., 0] - np.pi / 2) / (np.pi / 2)).clip(0, 1)
        shoulders = _beside(neck, chest_turn, p.shoulder * (1 - 0.1 * raised))
        shoulders += (0.024 - 0.03 * raised)[..., None] * chest_turn[:, None, :, 1]

        swing = arms[..., 6] * np.sin(2 * np.pi * 2 * beats[:, None] + self.groove_phase[:2])
        elbows = shoulders + p.upper_arm * _limb(arms[..., 0], arms[..., 1], chest_turn)
        along = _limb(arms[..., 2] + swing, arms[..., 3], chest_turn)
        wrists = elbows + p.forearm * along
        bend = arms[..., 5] + 0.7 * swing
        along = _limb(arms[..., 2] + swing + bend, arms[..., 3] * 0.6, chest_turn)
        hands, palms = _hands(wrists, along, arms[..., 4], fingers, p.hand)

        return Skeleton(
            pelvis=pelvis,
            pelvis_turn=pelvis_turn,
            waist=waist,
            neck=neck,
            chest_turn=chest_turn,
            head=head,
            head_turn=head_turn,
            shoulders=shoulders,
            elbows=elbows,
            wrists=wrists,
            hands=hands,
            palms=palms,
            hips=hips,
            knees=knees,
            ankles=ankles,
            feet=_feet(ankles, forward, lift, p),
            eye_opening=self._eye_opening(seconds),
            mouth_opening=(self.smile + 0.5 * np.sin(np.pi * beats / 4 + self.groove_phase[0])).clip(0, 1),
            gaze=0.5 * np.sin(np.pi * beats / 8 + self.groove_phase[1]) - np.sin(head_yaw),
        )

    def _keyed(self, keys: np.ndarray, beats: np.ndarray) -> np.ndarray:
        """Interpolate keys: each move starts on its beat and eases in and out."""
        beat = np.floor(beats).astype(int)
        progress = self._progress(beats).reshape(-1, *[1] * (keys.ndim - 1))
        start = keys[beat % NUM_BEATS]
        return start + progress * (keys[(beat + 1) % NUM_BEATS] - start)

    def _progress(self, beats: np.ndarray) -> np.ndarray:
        x = ((beats - np.floor(beats)) / self.attack).clip(max=1)
        return x * x * x * (x * (6 * x - 15) + 10)

    def _ankles(self, beats: np.ndarray, p: Proportions) -> tuple[np.ndarray, np.ndarray]:
        beat = np.floor(beats).astype(int)
        step = self.feet[(beat + 1) % NUM_BEATS] - self.feet[beat % NUM_BEATS]
        progress = self._progress(beats)[:, None]
        lift = 4 * progress * (1 - progress) * np.minimum(np.linalg.norm(step, axis=-1), 0.06)
        place = self._keyed(self.feet, beats)
        ankles = np.stack([place[..., 0], -p.ankle - lift, place[..., 1]], axis=-1)
        return ankles, lift

    def _eye_opening(self, seconds: np.ndarray) -> np.ndarray:
        since = np.abs((np.asarray(seconds)[:, None] - self.blinks + 32) % 64 - 32).min(axis=1)
        return (since / 0.09).clip(0.08, 1)


def _turn(yaw: np.ndarray, pitch: np.ndarray | float, roll: np.ndarray) -> np.ndarray:
    """Axes `(T, 3, 3)` of a part turned to the left of the image (yaw), nodding (pitch) and tilted (roll)."""
    pitch = np.broadcast_to(pitch, yaw.shape)
    (sy, cy), (sp, cp), (sr, cr) = ((np.sin(angle), np.cos(angle)) for angle in (yaw, pitch, roll))
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    about_y = np.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], axis=-1).reshape(-1, 3, 3)
    about_x = np.stack([one, zero, zero, zero, cp, sp, zero, -sp, cp], axis=-1).reshape(-1, 3, 3)
    about_z = np.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    return about_z @ about_y @ about_x


def _beside(center: np.ndarray, turn: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
    """The two points `(T, 2, 3)` to the left and right of a centre."""
    return center[:, None] + (SIDES * distance)[..., None] * turn[:, None, :, 0]


def _limb(angle: np.ndarray, towards: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Directions `(T, 2, 3)` of both sides' limbs from their angles `(T, 2)` in the plane of a part and out of it."""
    in_plane = np.cos(towards)
    local = np.stack([SIDES * np.sin(angle) * in_plane, np.cos(angle) * in_plane, np.sin(towards)], axis=-1)
    return local @ turn.transpose(0, 2, 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _bend(root: np.ndarray, end: np.ndarray, upper: float, lower: float, towards: np.ndarray) -> np.ndarray:
    """The joint of two bones between `root` and `end` that bends `towards`."""
    span = end - root
    length = np.linalg.norm(span, axis=-1, keepdims=True)
    axis = span / length
    along = (upper**2 - lower**2 + length**2) / (2 * length)
    out = _unit(towards - (towards * axis).sum(axis=-1, keepdims=True) * axis)
    return root + along * axis + np.sqrt((upper**2 - along**2).clip(0)) * out


def _feet(ankles: np.ndarray, forward: np.ndarray, lift: np.ndarray, p: Proportions) -> np.ndarray:
    outward = np.stack([forward[..., 2], np.zeros_like(lift), -forward[..., 0]], axis=-1) * SIDES[:, None]
    down = np.array([0, 1.0, 0])
    floor = ankles + 0.8 * p.ankle * down
    toe_drop = (0.6 * lift)[..., None] * down
    big_toe = floor + 0.72 * p.foot * forward - 0.10 * p.foot * outward + toe_drop
    small_toe = floor + 0.60 * p.foot * forward + 0.24 * p.foot * outward + toe_drop
    heel = floor - 0.24 * p.foot * forward
    return np.stack([big_toe, small_toe, heel], axis=2)


def _hands(
    wrists: np.ndarray, along: np.ndarray, palm_turn: np.ndarray, fingers: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """The 21 points `(T, 2, 21, 3)` of both hands, and the directions `(T, 2, 3)` out of the palms."""
    viewer = np.array([0, 0, 1.0])
    normal = _unit(viewer - along[..., 2:] * along)
    across = np.cross(along, normal) * SIDES[:, None]  # towards the thumb of a palm that faces the viewer
    cos, sin = np.cos(palm_turn)[..., None], np.sin(palm_turn)[..., None]
    normal, across = cos * normal + sin * across, cos * across - sin * normal
    points = [wrists]
    for finger, (start_along, start_across, angle, finger_length) in enumerate(FINGERS):
        curl = fingers[..., finger, None]
        # A thumb that closes lies across the palm.
        splay = np.radians(angle) * (fingers[..., 5:] if finger else 1 - 0.9 * curl)
        direction = np.cos(splay) * along + np.sin(splay) * across
        bends = np.cumsum(curl * FINGER_BENDS[finger] + 0.06, axis=-1)
        point = wrists + length * (start_along * along + start_across * across)
        points.append(point)
        for bone in range(3):
            bend = bends[..., bone, None]
            step = np.cos(bend) * direction + np.sin(bend) * normal
            point = point + length * finger_length * FINGER_BONES[bone] * step
            points.append(point)
    return np.stack(points, axis=2), normal
