# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Keypoints read back from drawn OpenPose skeletons: body, hands and face of one person.

Joints are discs and limbs are ellipses of known colours, of which those drawn later cover others. Therefore, each
joint has several candidates, and those are chosen between which most of the limbs' colours lie.

Axes: F frames, H, W.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from .keypoints import WholeBodyKeypoints
from .openpose import BODY_LIMBS, HAND_BONES
from .whole_body import FACE, LEFT_EYE, NOSE, RIGHT_EYE


# The i-th joint of the body has the hue of 20 i degrees, and so has the i-th limb, darker; the i-th bone of a hand has
# that of 18 i degrees. Joints of hands are blue, points of the face are white.
JOINTS, BONES = 18, len(HAND_BONES)
BLUE = 12  # as a joint of the body

# Brightness of limbs, joints and bones, and the least saturation of all of them, in [0, 255].
LIMB_VALUES, JOINT_VALUE, SATURATION = (70, 195), 205, 140
LINE_VALUE, LINE_SATURATION = 150, 110  # of the thin bones of hands, whose colours videos blur
WHITE_VALUE, WHITE_SATURATION = 170, 70

# A joint is found if a limb from it is drawn along at least this fraction of its length.
LEAST_SUPPORT = 0.45
MAX_CANDIDATES = 6

# A hand has at least so many points, the first within this distance of the wrist, and another as far from it, in
# lengths of the forearm: otherwise, its points cannot be told apart.
LEAST_HAND_POINTS, HAND_ROOT, HAND_LENGTH = 15, 0.3, 0.3

# Of the frames, this fraction must show the skeleton of a person, and not more may show several.
LEAST_FRAMES = 0.5

# Points of OpenPose's body, and the limb from the neck to the right hip.
NECK_POINT, TRUNK_POINTS, TRUNK, LEAST_POINTS = 1, (1, 2, 5), 6, 6

# The 68 points of a face that looks ahead, in hundredths of their extent.
FACE_SHAPE = (
    *((0, 16), (1, 33), (3, 49), (7, 63), (13, 76), (19, 86), (27, 94), (37, 98), (50, 100)),  # jaw
    *((63, 98), (73, 94), (81, 86), (87, 76), (93, 63), (97, 49), (99, 33), (100, 16)),
    *((15, 9), (21, 2), (27, 0), (33, 2), (40, 6), (60, 6), (67, 2), (73, 0), (79, 2), (85, 9)),  # brows
    *((50, 23), (50, 33), (50, 41), (50, 49), (41, 53), (45, 56), (50, 57), (55, 56), (59, 53)),  # nose
    *((17, 27), (23, 16), (33, 16), (40, 27), (33, 34), (23, 33)),  # eyes
    *((60, 27), (67, 16), (77, 16), (83, 27), (77, 33), (67, 34)),
    *((31, 69), (38, 67), (45, 65), (50, 66), (55, 65), (62, 67), (69, 69)),  # mouth
    *((62, 78), (55, 82), (50, 83), (45, 82), (38, 78)),
    *((33, 70), (42, 70), (50, 70), (58, 70), (67, 70), (58, 75), (50, 76), (42, 75)),
)

# Where a line between two joints is looked at.
SAMPLES = np.linspace(0, 1, 9)

Candidates = list[tuple[np.ndarray, float]]


def read_skeletons(frames: Iterable[np.ndarray], fps: float) -> WholeBodyKeypoints:
    """Read the keypoints of one person from OpenPose maps, as OpenPose, DWPose or MusePose draw them.

    Feet are not drawn and therefore missing, and so are joints that are covered or not drawn. The points of hands
    and faces are less exact than those of the body.

    Args:
        frames (`Iterable[np.ndarray]`):
            uint8 RGB `(H, W, 3)` each, of one size.
        fps (`float`):
            Frames per second.

    Returns:
        `WholeBodyKeypoints`: With scores of 1 for points that were read, and 0 for the others.

    Raises:
        ValueError: If fewer than half of the frames show such a skeleton, or half of them several.
    """
    bodies, faces, several = [], [], 0
    hands: dict[int, list] = {7: [], 4: []}  # by the wrist's number
    height = width = 0
    is_bgr: bool | None = None
    for frame in frames:
        height, width = frame.shape[:2]
        if is_bgr is None:  # decided by the first frame that shows a body
            counts = [sum(point is not None for point in _Skeleton(frame[..., ::step]).body) for step in (1, -1)]
            is_bgr = None if max(counts) < 6 else counts[1] > counts[0]
        skeleton = _Skeleton(frame[..., ::-1] if is_bgr else frame)
        several += skeleton.has_several
        bodies.append(skeleton.body)
        for wrist, read in hands.items():
            read.append(skeleton.hand(wrist))
        faces.append(skeleton.face())
    found = sum(_is_person(body) for body in bodies)
    if found < max(1, LEAST_FRAMES * len(bodies)):
        raise ValueError(f"an OpenPose-style skeleton can be read in {found} of {len(bodies)} frames only")
    if several > LEAST_FRAMES * len(bodies):
        raise ValueError("the pose video shows several people")
    keypoints = WholeBodyKeypoints.from_openpose_points(
        bodies, hands[7], hands[4], faces, height=height, width=width, fps=fps
    )
    return _with_eyes_of_face(keypoints)


class _Skeleton:
    """What is drawn in one frame."""

    def __init__(self, frame: np.ndarray) -> None:
        frame, self.corner = _without_margins(frame)
        hsv = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
        self.hue, saturation, value = hsv[..., 0], 255 * hsv[..., 1], 255 * hsv[..., 2]
        is_coloured = saturation >= SATURATION
        self.is_bright = is_coloured & (value >= JOINT_VALUE)
        self.is_line = (saturation >= LINE_SATURATION) & (value >= LINE_VALUE)
        is_dim = is_coloured & (value >= LIMB_VALUES[0]) & (value < LIMB_VALUES[1])
        nearest = np.rint(self.hue / 20).astype(np.int8) % JOINTS
        self.joints = np.where(self.is_bright, nearest, -1)
        self.limbs = np.where(is_dim, nearest, -1)
        self.white = (saturation < WHITE_SATURATION) & (value >= WHITE_VALUE)
        self.discs = {joint: _discs(self.joints == joint) for joint in range(JOINTS)}
        radii = [radius for discs in self.discs.values() for _, radius in discs[:1]]
        self.radius = float(np.median(radii)) if radii else 1.0
        self.discs = {
            joint: [(center, radius) for center, radius in discs if radius > 0.5 * self.radius]
            for joint, discs in self.discs.items()
        }
        self.joints_of_body = self._read_body()

    @property
    def has_several(self) -> bool:
        """Whether there are several people."""
        necks, hips = ([center for center, _ in self.discs[joint]] for joint in (NECK_POINT, 8))
        if len(necks) < 2 or len(hips) < 2:
            return False
        trunks = _fraction_along(self.limbs == TRUNK, np.array(necks)[:, None], np.array(hips)[None])
        return bool((trunks > 0.8).any(axis=1).sum() > 1)

    @property
    def body(self) -> list[np.ndarray | None]:
        """The 18 points of the body, None if they are not drawn."""
        return self._in_frame(self.joints_of_body)

    def _in_frame(self, points: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        return [None if point is None else point + self.corner for point in points]

    def _read_body(self) -> list[np.ndarray | None]:
        candidates: list[Candidates] = [
            [(center, 0.3) for center, _ in self.discs[joint][:MAX_CANDIDATES]] for joint in range(JOINTS)
        ]
        lengths = []
        for limb, joints in enumerate(BODY_LIMBS):
            ends = _ends(self.limbs == limb, self.radius)
            lengths.append(0.0 if ends is None else float(np.linalg.norm(ends[1] - ends[0])))
            for joint in joints:
                candidates[joint] += [] if ends is None else [(end, 0.0) for end in ends]

        def support(limb: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
            drawn = _fraction_along(self.limbs == limb, first, second)
            return drawn * (np.linalg.norm(second - first, axis=-1) / max(lengths[limb], 1.0)).clip(max=1)

        return _best(BODY_LIMBS, NECK_POINT, candidates, support)

    def hand(self, wrist: int) -> list[np.ndarray | None] | None:
        """Return the 21 points of the hand at a wrist, a point of the body, or None if it is not drawn."""
        place, elbow = self.joints_of_body[wrist], self.joints_of_body[wrist - 1]
        if place is None or elbow is None:
            return None
        forearm = float(np.linalg.norm(place - elbow))
        reach = 1.2 * forearm + 2 * self.radius
        blue = (self.joints == BLUE) & (_distance(self.hue.shape, place) < reach)
        points = [(point, 0.0) for point in _centers(blue, self.radius)]
        if len(points) < 2:
            return None
        near_wrist = [(point, 2 - 4 * float(np.linalg.norm(point - place)) / reach) for point, _ in points]
        bones = np.where(self.is_line, np.rint(self.hue / 18).astype(np.int8) % BONES, -1)

        def support(bone: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
            length = np.linalg.norm(second - first, axis=-1)
            margin = (0.8 * self.radius / length.clip(min=1)).clip(max=0.4)
            visible = _fraction_along(bones == bone, first, second, margin)
            covered = 0.25 * (length / self.radius).clip(max=1) * _fraction_along(blue, first, second)
            return np.where(length < 2 * self.radius, covered, visible)

        hand = _best(HAND_BONES, 0, [near_wrist, *[points] * 20], support, LEAST_SUPPORT / 4)
        found = np.array([point for point in hand if point is not None])
        if len(found) < LEAST_HAND_POINTS or np.linalg.norm(found[0] - place) > HAND_ROOT * forearm:
            return None
        is_blob = np.linalg.norm(found - found[0], axis=1).max() < HAND_LENGTH * forearm
        return None if is_blob else self._in_frame(hand)

    def face(self) -> list[np.ndarray | None] | None:
        """Return the 68 points of the face, or None if it is not drawn."""
        side = 2 * round(3 * self.radius) + 1
        near = cv2.dilate(self.white.astype(np.uint8), np.ones((side, side), np.uint8))
        _, labels = cv2.connectedComponents(near)
        labels = np.where(self.white, labels, 0)
        sizes = np.bincount(labels.ravel())[1:]
        if not len(sizes) or sizes.max() < 68:
            return None
        rows, columns = np.nonzero(labels == 1 + sizes.argmax())
        pixels = np.stack([columns, rows], axis=1) + 0.5
        shape = np.array(FACE_SHAPE, dtype=np.float64) / 100
        low, high = pixels.min(axis=0) + self.radius, pixels.max(axis=0) - self.radius
        points = low + shape * (high - low)
        design = np.concatenate([shape, np.ones((len(shape), 1))], axis=1)
        for _ in range(10):
            distances = ((points[:, None] - pixels[None]) ** 2).sum(axis=-1)
            nearest = pixels[distances.argmin(axis=1)]
            points = design @ np.linalg.lstsq(design, nearest, rcond=None)[0]
        dots = np.array(_centers(labels == 1 + sizes.argmax(), self.radius)).reshape(-1, 2)
        distances = np.linalg.norm(points[:, None] - dots[None], axis=-1)
        is_near = distances.min(axis=1, initial=np.inf) < 2 * self.radius
        points[is_near] = dots[distances[is_near].argmin(axis=1)]
        return self._in_frame(list(points))


def _is_person(body: Sequence[np.ndarray | None]) -> bool:
    has_trunk = all(body[point] is not None for point in TRUNK_POINTS)
    return has_trunk and sum(point is not None for point in body) >= LEAST_POINTS


def _without_margins(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a frame in which something is drawn, and its corner."""
    is_drawn = frame.max(axis=-1) >= LIMB_VALUES[0]
    rows, columns = np.flatnonzero(is_drawn.any(axis=1)), np.flatnonzero(is_drawn.any(axis=0))
    if not len(rows):
        return frame[:1, :1], np.zeros(2)
    first_row, first_column = max(rows[0] - 2, 0), max(columns[0] - 2, 0)
    part = frame[first_row : rows[-1] + 3, first_column : columns[-1] + 3]
    return part, np.array([first_column, first_row], dtype=np.float64)


def _discs(mask: np.ndarray) -> Candidates:
    """Return the centre and radius of each connected part of a mask, the largest first."""
    count, labels, _, centers = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return []
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    radii = np.zeros(count)
    np.maximum.at(radii, labels[mask], depth[mask])
    return [(centers[part] + 0.5, float(radii[part])) for part in np.argsort(-radii) if part > 0]


def _centers(mask: np.ndarray, radius: float) -> list[np.ndarray]:
    """Return the centres of overlapping discs of a radius."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    size = 2 * max(1, round(radius / 2)) + 1
    is_peak = (depth >= cv2.dilate(depth, np.ones((size, size)))) & (depth > 0.6 * radius)
    count, _, _, centers = cv2.connectedComponentsWithStats(is_peak.astype(np.uint8), connectivity=8)
    return [center + 0.5 for center in centers[1:count]]


def _ends(mask: np.ndarray, radius: float) -> np.ndarray | None:
    """Return both ends of the largest part of a limb, whose tips discs cover."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    part = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[part, cv2.CC_STAT_AREA] < 4:
        return None
    rows, columns = np.nonzero(labels == part)
    pixels = np.stack([columns, rows], axis=1) + 0.5
    center = pixels.mean(axis=0)
    axis = np.linalg.svd(pixels - center, full_matrices=False)[2][0]
    along = (pixels - center) @ axis
    return center + np.array([[along.min() - radius], [along.max() + radius]]) * axis


def _fraction_along(mask: np.ndarray, first: np.ndarray, second: np.ndarray, margin: Any = 0.2) -> np.ndarray:
    """Return the fraction of lines `(..., 2)` without their ends, of a fraction `margin` each, that lies in a mask."""
    margin = np.asarray(margin)[..., None, None]
    places = first[..., None, :] + (margin + (1 - 2 * margin) * SAMPLES[:, None]) * (second - first)[..., None, :]
    columns, rows = np.moveaxis(places.astype(int).clip(0, np.array(mask.shape[::-1]) - 1), -1, 0)
    return mask[rows, columns].mean(axis=-1)


def _distance(shape: Sequence[int], point: np.ndarray) -> np.ndarray:
    return np.hypot(np.arange(shape[1]) + 0.5 - point[0], np.arange(shape[0])[:, None] + 0.5 - point[1])


def _best(
    limbs: Sequence[tuple[int, int]],
    root: int,
    candidates: Sequence[Candidates],
    support: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    least: float = LEAST_SUPPORT,
) -> list[np.ndarray | None]:
    """Choose a candidate per joint of a tree, or None, so that the limbs between them have the most support.

    Args:
        limbs (`Sequence[tuple[int, int]]`):
            The joints at both ends of each limb.
        root (`int`):
            The joint at which the tree begins.
        candidates (`Sequence[Candidates]`):
            For each joint, places and how much each is preferred.
        support (`Callable[[int, np.ndarray, np.ndarray], np.ndarray]`):
            Returns how much of a limb is drawn between places `(..., 2)`.
        least (`float`, *optional*):
            The least support of a limb that shows its joints.
    """
    children: dict[int, list[tuple[int, int]]] = {}  # per joint, its limbs and the joints at their other ends
    order, reached = [root], {root}
    for joint in order:
        for limb, ends in enumerate(limbs):
            for end, other in (ends, ends[::-1]):
                if end == joint and other not in reached:
                    children.setdefault(joint, []).append((limb, other))
                    reached.add(other)
                    order.append(other)

    places = [np.array([place for place, _ in given]).reshape(-1, 2) for given in candidates]
    scores: dict[int, np.ndarray] = {}
    chosen: dict[int, np.ndarray] = {}  # per joint, for each candidate of its parent, the number of its own or -1
    for joint in reversed(order):
        own = np.array([preferred for _, preferred in candidates[joint]])
        for limb, child in children.get(joint, ()):
            pairs = support(limb, places[joint][:, None], places[child][None])
            total = np.where(pairs >= least, pairs + scores[child], -1.0)
            total = np.concatenate([np.zeros((len(total), 1)), total], axis=1)  # or the child is missing
            chosen[child] = total.argmax(axis=1) - 1
            own = own + total.max(axis=1)
        scores[joint] = own

    best: list[np.ndarray | None] = [None] * len(candidates)
    if not len(scores[root]):
        return best
    numbers = {root: int(scores[root].argmax())}
    for joint in order:
        for _, child in children.get(joint, ()):
            numbers[child] = -1 if numbers[joint] < 0 else int(chosen[child][numbers[joint]])
            if numbers[child] >= 0:
                best[child] = places[child][numbers[child]]
    if any(place is not None for place in best):
        best[root] = places[root][numbers[root]]
    return best


def _with_eyes_of_face(keypoints: WholeBodyKeypoints) -> WholeBodyKeypoints:
    """Return the keypoints with nose and eyes of the face where its points cover them."""
    xy, score = keypoints.xy.copy(), keypoints.score.copy()
    face, has_face = xy[:, FACE], score[:, FACE].all(axis=1)
    for joint, points in ((NOSE, slice(30, 31)), (LEFT_EYE, slice(42, 48)), (RIGHT_EYE, slice(36, 42))):
        is_covered = has_face & (score[:, joint] == 0)
        xy[is_covered, joint] = face[is_covered, points].mean(axis=1)
        score[is_covered, joint] = 1
    return WholeBodyKeypoints(xy, score, keypoints.height, keypoints.width, keypoints.fps)
