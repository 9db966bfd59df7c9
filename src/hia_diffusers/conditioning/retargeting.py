# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Prepare detected keypoints to drive an image.

Short gaps are filled, jitter is smoothed, and the driver's limbs get the lengths of the person's limbs in the image.

Axes: F frames, K = 133 keypoints, P = 135 points: the keypoints, then the neck and the pelvis.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import checks
from .keypoints import WholeBodyKeypoints
from .whole_body import (
    FACE,
    FEET,
    LEFT_ANKLE,
    LEFT_EAR,
    LEFT_ELBOW,
    LEFT_EYE,
    LEFT_HAND,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    LEFT_WRIST,
    NOSE,
    NUM_KEYPOINTS,
    RIGHT_ANKLE,
    RIGHT_EAR,
    RIGHT_ELBOW,
    RIGHT_EYE,
    RIGHT_HAND,
    RIGHT_HIP,
    RIGHT_KNEE,
    RIGHT_SHOULDER,
    RIGHT_WRIST,
    SCORE_THRESHOLD,
)


# The wrists belong to the hands: a smoothed wrist with an unsmoothed hand would detach the hand from the arm.
SMOOTHABLE_PARTS = {
    "body": (*range(LEFT_WRIST), *range(LEFT_HIP, RIGHT_ANKLE + 1)),
    "feet": tuple(range(FEET.start, FEET.stop)),
    "face": tuple(range(FACE.start, FACE.stop)),
    "hands": (LEFT_WRIST, RIGHT_WRIST, *range(LEFT_HAND.start, RIGHT_HAND.stop)),
}
POLYNOMIAL_ORDER = 2
LONGEST = 3600.0  # maximum of windows and gaps in seconds

# COCO-WholeBody has no joint between the shoulders and none between the hips.
NECK, PELVIS = NUM_KEYPOINTS, NUM_KEYPOINTS + 1

# Weight of differences in position and size relative to differences in pose, for the choice of the driving frame most
# similar to the reference.
PLACE_WEIGHT = 0.05


@dataclass(frozen=True)
class _Limb:
    """Points attached to a joint, whose distances from it are scaled by one factor on each side of the body.

    The limb's size is the root mean square distance of its `measured` points from the joint. A size relative to the
    whole body that differs more than `max_proportion` between two people comes from foreshortening.
    """

    joints: tuple[int, ...]
    points: tuple[list[int], ...]
    measured: tuple[list[int], ...]
    max_proportion: float = 1.5


def _bone(joints: tuple[int, ...], ends: tuple[int, ...]) -> _Limb:
    points = tuple([end] for end in ends)
    return _Limb(joints, points, points)


# From the pelvis outwards.
_BONES = (
    _bone((PELVIS,), (NECK,)),
    _bone((NECK,), (NOSE,)),
    _bone((NECK, NECK), (LEFT_SHOULDER, RIGHT_SHOULDER)),
    _bone((LEFT_SHOULDER, RIGHT_SHOULDER), (LEFT_ELBOW, RIGHT_ELBOW)),
    _bone((LEFT_ELBOW, RIGHT_ELBOW), (LEFT_WRIST, RIGHT_WRIST)),
    _bone((PELVIS, PELVIS), (LEFT_HIP, RIGHT_HIP)),
    _bone((LEFT_HIP, RIGHT_HIP), (LEFT_KNEE, RIGHT_KNEE)),
    _bone((LEFT_KNEE, RIGHT_KNEE), (LEFT_ANKLE, RIGHT_ANKLE)),
)

# The ends of the chains: the head around the nose, the feet around the ankles, the hands around the wrists. The palm
# gives the size of a hand, independent of the fingers; relative to its body, a child's head is much larger than an
# adult's.
_HEAD_POINTS = [LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR, *range(FACE.start, FACE.stop)]
_FOOT_POINTS = ([*range(FEET.start, FEET.start + 3)], [*range(FEET.start + 3, FEET.stop)])
_HAND_POINTS = ([*range(LEFT_HAND.start, LEFT_HAND.stop)], [*range(RIGHT_HAND.start, RIGHT_HAND.stop)])
_PALM_POINTS = tuple([hand[knuckle] for knuckle in (5, 9, 13, 17)] for hand in _HAND_POINTS)
_ENDS = (
    _Limb((NOSE,), (_HEAD_POINTS,), (_HEAD_POINTS,), max_proportion=2.5),
    _Limb((LEFT_ANKLE, RIGHT_ANKLE), _FOOT_POINTS, _FOOT_POINTS),
    _Limb((LEFT_WRIST, RIGHT_WRIST), _HAND_POINTS, _PALM_POINTS),
)

# The joint to which each point is attached; the pelvis has none.
_JOINT_OF = np.full(NUM_KEYPOINTS + 2, PELVIS)
for _limb in (*_BONES, *_ENDS):
    for _joint, _points in zip(_limb.joints, _limb.points, strict=True):
        _JOINT_OF[_points] = _joint

# One of these pairs is required for a size and a position. Visible ankles give a better position.
_CORE_PAIRS = {"hips": [LEFT_HIP, RIGHT_HIP], "shoulders": [LEFT_SHOULDER, RIGHT_SHOULDER]}
_ANKLES = [LEFT_ANKLE, RIGHT_ANKLE]

# The joints that define a pose.
_POSE_JOINTS = [NOSE, *range(LEFT_SHOULDER, RIGHT_ANKLE + 1)]


def fill_gaps(
    keypoints: WholeBodyKeypoints, max_gap: float = 0.1, score_threshold: float = SCORE_THRESHOLD
) -> WholeBodyKeypoints:
    """Interpolate points over short gaps.

    A gap of a point is a run of frames in which its score is not above the threshold. It is filled by the cubic
    through the two detected frames before and after it or, near the ends of the clip, by the parabola or line through
    the available frames. The score in the gap is `1 - distance / (n + 1)` of the way from the threshold to the lower
    score of the two frames next to the gap, where distance is that to the nearer of them and n the longest gap, in
    frames. The point therefore counts as detected, but less than its neighbours. A longer gap, or one at the beginning
    or end of the clip, is not filled.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person in every frame.
        max_gap (`float`, *optional*, defaults to `0.1`):
            The longest gap to fill, in seconds, rounded to whole frames; 0 fills none.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points count as detected when their score is above this, in `[0, 1)`.

    Returns:
        `WholeBodyKeypoints`: The clip with its short gaps filled.

    Raises:
        TypeError: If `keypoints` are not `WholeBodyKeypoints`, or another argument is not a number.
        ValueError: If `max_gap` is negative or more than an hour, or `score_threshold` is outside `[0, 1)`.
    """
    checks.instance("keypoints", keypoints, WholeBodyKeypoints)
    checks.number("max_gap", max_gap, 0, LONGEST)
    checks.number("score_threshold", score_threshold, 0, below=1)
    longest = round(max_gap * keypoints.fps)
    xy, score = keypoints.xy.copy(), keypoints.score.copy()
    for point in range(NUM_KEYPOINTS):
        found = np.flatnonzero(keypoints.score[:, point] > score_threshold)
        for index in np.flatnonzero(np.diff(found) > 1):
            before, after = found[index : index + 2]
            gap = np.arange(before + 1, after)
            if len(gap) > longest:
                continue
            knots = found[max(index - 1, 0) : index + 3]
            curve = np.linalg.solve(np.vander(knots - before), keypoints.xy[knots, point])
            xy[gap, point] = np.vander(gap - before, len(knots)) @ curve
            distance = np.minimum(gap - before, after - gap)
            margin = score[[before, after], point].min() - score_threshold
            score[gap, point] = score_threshold + margin * (1 - distance / (longest + 1))
    return replace(keypoints, xy=xy, score=score)


def smooth_keypoints(
    keypoints: WholeBodyKeypoints,
    window: float = 0.25,
    parts: Sequence[str] = ("body",),
    max_gap: float = 0.1,
    score_threshold: float = SCORE_THRESHOLD,
) -> WholeBodyKeypoints:
    """Fill short gaps, then remove jitter from the body.

    Each run of frames in which a point is detected is smoothed with a Savitzky-Golay filter: quadratics fitted over a
    moving window, which neither lag behind the motion nor flatten it as an average would. Hands are much faster than
    the rest of the body, and [`MotionBlurConditioner`] uses their motion. By default, hands are therefore not
    smoothed, and neither are the wrists, so that hands stay attached to the arms.

    Args:
        keypoints (`WholeBodyKeypoints`):
            The person in every frame.
        window (`float`, *optional*, defaults to `0.25`):
            Length of the moving window in seconds, rounded to an odd number of frames. If this is 3 or less, as it is
            below 16 frames per second by default, jitter cannot be distinguished from motion, and nothing is smoothed.
        parts (`Sequence[str]`, *optional*, defaults to `("body",)`):
            Parts to smooth: `"body"` (without the wrists), `"feet"`, `"face"`, `"hands"` (with the wrists).
        max_gap (`float`, *optional*, defaults to `0.1`):
            The longest gap to fill, in seconds, as in [`fill_gaps`]; gaps are filled in every part.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points count as detected when their score is above this, in `[0, 1)`. Other points are neither changed nor
            used.

    Returns:
        `WholeBodyKeypoints`: The smoothed clip, with the scores of [`fill_gaps`].

    Raises:
        ImportError: If scipy is not installed.
        TypeError: If `keypoints` are not `WholeBodyKeypoints`, `parts` is not a list, or a number is of another type.
        ValueError: If a number is out of range, or an entry of `parts` is unknown.
    """
    checks.instance("keypoints", keypoints, WholeBodyKeypoints)
    checks.number("window", window, above=0, high=LONGEST)
    for part in checks.instance("parts", parts, (list, tuple)):
        checks.one_of("parts", part, SMOOTHABLE_PARTS)
    try:
        from scipy.signal import savgol_filter
    except ImportError as error:
        raise ImportError("Smoothing needs the `pose` extra: pip install 'hia-diffusers[pose]'.") from error
    filled = fill_gaps(keypoints, max_gap, score_threshold)
    xy = filled.xy.copy()
    window_frames = 2 * round((window * keypoints.fps - 1) / 2) + 1
    for point in sorted(index for part in set(parts) for index in SMOOTHABLE_PARTS[part]):
        found = np.flatnonzero(filled.score[:, point] > score_threshold)
        for run in np.split(found, np.flatnonzero(np.diff(found) > 1) + 1):
            length = min(window_frames, len(run) - 1 + len(run) % 2)
            if length > POLYNOMIAL_ORDER + 1:
                xy[run, point] = savgol_filter(xy[run, point], length, POLYNOMIAL_ORDER, axis=0)
    return replace(filled, xy=xy)


def retarget_keypoints(
    driving: WholeBodyKeypoints, reference: WholeBodyKeypoints, score_threshold: float = SCORE_THRESHOLD
) -> WholeBodyKeypoints:
    """Retarget the driver's motion to the person in the reference image.

    Every limb keeps the driver's direction and takes the length that it has in the image.

    In the driving frame with the pose most similar to the reference, the result has the size of the reference and
    stands on the same spot: its ankles, or otherwise its hips or shoulders, are where they are in the image. The
    driver's path relative to this spot is kept, scaled by the leg length, and so is the camera: if the driver comes
    closer and grows, the result grows by the same factor.

    Each limb has one factor for the whole clip: its length in the reference divided by its length in the most similar
    driving frame in which it is detected. Equal poses are foreshortened equally, so the ratio is unaffected. Of a pair
    of limbs, the longer one is measured, since foreshortening only shortens; its factor also applies to a limb that
    the reference does not show. Head, hands and feet have their own factors and are attached to nose, wrists and
    ankles. If a limb is not detected in both, or its length relative to the body differs by more than a factor of 1.5
    (2.5 for the head), the factor of the whole body is used: the median over its bones.

    If the reference is a frame of the driving clip, the clip is unchanged.

    Args:
        driving (`WholeBodyKeypoints`):
            The driver in every frame.
        reference (`WholeBodyKeypoints`):
            One frame: the person in the reference image.
        score_threshold (`float`, *optional*, defaults to `0.3`):
            Points are measured when their score is above this, in `[0, 1)`. Other points of the driver move along.

    Returns:
        `WholeBodyKeypoints`: The driving motion in the reference's image, with the driver's scores and frame rate.
        Missing points stay missing.

    Raises:
        TypeError: If `driving` or `reference` are not `WholeBodyKeypoints`, or `score_threshold` is not a number.
        ValueError: If `reference` has several frames, `reference` shows neither both shoulders nor both hips,
            `driving` never shows the same two of them, or `score_threshold` is outside `[0, 1)`.
    """
    checks.instance("driving", driving, WholeBodyKeypoints)
    checks.instance("reference", reference, WholeBodyKeypoints)
    checks.number("score_threshold", score_threshold, 0, below=1)
    if len(reference) != 1:
        raise ValueError(f"`reference` must have one frame, such as keypoints[:1], got {len(reference)}.")
    target, source = _found_points(reference, score_threshold)[0], _found_points(driving, score_threshold)
    pairs = {name: pair for name, pair in _CORE_PAIRS.items() if np.isfinite(target[pair]).all()}
    if not pairs:
        raise ValueError(f"`reference` must show both shoulders or both hips with scores above {score_threshold}.")
    shown = np.stack([np.isfinite(source[:, pair]).all(axis=(1, 2)) for pair in pairs.values()]).any(axis=0)
    bone_ratios = np.stack([_size_ratios(bone, target, source) for bone in _BONES])
    usable = shown & np.isfinite(bone_ratios).any(axis=0)
    if not usable.any():
        needed = " or ".join(f"both {name}" for name in pairs)
        raise ValueError(f"`driving` must show {needed} in some frame with scores above {score_threshold}.")

    body_ratio = np.full(len(driving), np.nan)
    body_ratio[usable] = np.nanmedian(bone_ratios[:, usable], axis=0)
    distance = _pose_distance(target, source, (reference.width, reference.height), (driving.width, driving.height))
    distance[~usable] = np.inf
    # Frames with equal body poses may differ in the hands.
    rest = np.where(np.isfinite(source - target), np.abs(source - target), 0).sum(axis=(1, 2))
    ranking = np.lexsort((rest, distance))[: usable.sum()]
    anchor = ranking[0]

    scale = np.empty(NUM_KEYPOINTS + 2)
    for limb in (*_BONES, *_ENDS):
        proportion = _proportion(limb, _size_ratios(limb, target, source)[ranking] / body_ratio[ranking])
        for points in limb.points:
            scale[points] = body_ratio[anchor] * proportion
    scale[PELVIS] = scale[[LEFT_KNEE, LEFT_ANKLE]].mean()

    joints = _joints_in_every_frame(source)
    placed = np.empty_like(joints)
    placed[:, PELVIS] = scale[PELVIS] * joints[:, PELVIS]
    for joint, end in _bone_ends():
        placed[:, end] = placed[:, joint] + scale[end] * (joints[:, end] - joints[:, joint])
    held = next(pair for pair in (_ANKLES, *pairs.values()) if np.isfinite([target[pair], source[anchor, pair]]).all())
    placed += (target[held] - placed[anchor, held]).mean(axis=0)

    joint_of, point_scale = _JOINT_OF[:NUM_KEYPOINTS], scale[:NUM_KEYPOINTS, None]
    xy = placed[:, joint_of] + point_scale * (driving.xy - joints[:, joint_of])
    return replace(driving, xy=xy, height=reference.height, width=reference.width)


def _found_points(keypoints: WholeBodyKeypoints, score_threshold: float) -> np.ndarray:
    """Return the points `(F, P, 2)` in float64, with NaN for scores not above the threshold."""
    found = np.where(keypoints.score[..., None] > score_threshold, keypoints.xy, np.nan).astype(np.float64)
    neck = found[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(axis=1, keepdims=True)
    pelvis = found[:, [LEFT_HIP, RIGHT_HIP]].mean(axis=1, keepdims=True)
    return np.concatenate([found, neck, pelvis], axis=1)


def _size_ratios(limb: _Limb, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return the limb's size in the target `(P, 2)` divided by that in each source frame `(F, P, 2)`.

    It is NaN if unknown.
    """
    squared_sizes = np.zeros((2, len(source)))
    for joint, points in zip(limb.joints, limb.measured, strict=True):
        offsets = np.stack(np.broadcast_arrays(target[points] - target[joint], source[:, points] - source[:, [joint]]))
        common = np.isfinite(offsets).all(axis=(0, -1))
        squares = np.where(common, np.square(offsets).sum(axis=-1), 0)
        squared_sizes = np.maximum(squared_sizes, squares.sum(axis=-1) / np.maximum(common.sum(axis=-1), 1))
    squared_sizes[:, (squared_sizes == 0).any(axis=0)] = np.nan
    return np.sqrt(squared_sizes[0] / squared_sizes[1])


def _proportion(limb: _Limb, proportions: np.ndarray) -> float:
    """Return the first known proportion of a limb, or 1 if there is none or it is not plausible for a person."""
    known = proportions[np.isfinite(proportions)]
    plausible = len(known) and 1 / limb.max_proportion <= known[0] <= limb.max_proportion
    return known[0] if plausible else 1.0


def _pose_distance(
    target: np.ndarray, source: np.ndarray, target_size: tuple[int, int], source_size: tuple[int, int]
) -> np.ndarray:
    """Return the difference of the poses `(F,)`, independent of size and position.

    A small weight for the difference of sizes and positions is added. Joints of the target that the source lacks count
    as different.
    """
    target, source = target[_POSE_JOINTS], source[:, _POSE_JOINTS]
    common = np.isfinite(target).all(axis=-1) & np.isfinite(source).all(axis=-1)
    count = np.maximum(common.sum(axis=-1), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(common[..., None], values, 0).sum(axis=1) / count[:, None]

    centered_target = target - mean(np.broadcast_to(target, source.shape))[:, None]
    centered_source = source - mean(source)[:, None]
    product = mean(centered_target * centered_source).sum(axis=-1)
    norms = np.sqrt(mean(centered_target**2).sum(axis=-1) * mean(centered_source**2).sum(axis=-1))
    cosine = np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)
    coverage = common.sum(axis=-1) / np.isfinite(target).all(axis=-1).sum()
    place = mean(np.abs(target / target_size - source / source_size)).sum(axis=-1)
    return 1 - coverage * cosine + PLACE_WEIGHT * place


def _joints_in_every_frame(found: np.ndarray) -> np.ndarray:
    """Return the points `(F, P, 2)` with every joint in every frame.

    A missing joint keeps its position relative to the joint to which it is attached, interpolated over time. A joint
    that no frame shows coincides with the joint to which it is attached.
    """
    joints = found.copy()
    for middle, left, right in ((NECK, LEFT_SHOULDER, RIGHT_SHOULDER), (PELVIS, LEFT_HIP, RIGHT_HIP)):
        half = _over_time((found[:, right] - found[:, left]) / 2)
        _fill(joints[:, middle], found[:, left] + half)
        _fill(joints[:, middle], found[:, right] - half)
    _fill(joints[:, PELVIS], joints[:, NECK] - _over_time(joints[:, NECK] - joints[:, PELVIS]))
    _fill(joints[:, PELVIS], _over_time(joints[:, PELVIS]))
    for joint, end in _bone_ends():
        _fill(joints[:, end], joints[:, joint] + _over_time(joints[:, end] - joints[:, joint]))
    return joints


def _fill(points: np.ndarray, values: np.ndarray) -> None:
    """Replace points `(F, 2)` that are NaN by values."""
    np.copyto(points, values, where=np.isnan(points))


def _over_time(vectors: np.ndarray) -> np.ndarray:
    """Interpolate vectors `(F, 2)` over NaN, constant before the first and after the last, zero if all are NaN."""
    known = np.flatnonzero(np.isfinite(vectors).all(axis=-1))
    if len(known) == 0:
        return np.zeros_like(vectors)
    return np.stack([np.interp(np.arange(len(vectors)), known, column[known]) for column in vectors.T], axis=-1)


def _bone_ends() -> Iterator[tuple[int, int]]:
    """Iterate over the bones as pairs of joints, from the pelvis outwards."""
    for bone in _BONES:
        for joint, (end,) in zip(bone.joints, bone.points, strict=True):
            yield joint, end
