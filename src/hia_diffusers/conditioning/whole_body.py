# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The 133 keypoints of COCO-WholeBody: their order, their mirror image, and the same points in OpenPose's bodies."""

import numpy as np


NUM_KEYPOINTS = 133

# Points with a score of at most this are taken for missing where nothing else is said.
SCORE_THRESHOLD = 0.3

BODY = slice(0, 17)
FEET = slice(17, 23)
FACE = slice(23, 91)
LEFT_HAND = slice(91, 112)
RIGHT_HAND = slice(112, 133)

NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = range(5, 11)
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = range(11, 17)

# For each COCO body point, its index in OpenPose's 18-point and 25-point bodies. Neck and mid-hip have no counterpart.
BODY_IN_OPENPOSE = {
    18: [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10],
    25: [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11],
}
FEET_IN_OPENPOSE_25 = slice(19, 25)
OPENPOSE_NECK = 1


def _mirror_permutation() -> np.ndarray:
    """Return, for each keypoint, the index of the keypoint that replaces it when the image is mirrored."""
    face_68 = [
        *reversed(range(0, 17)),  # jaw
        *reversed(range(17, 27)),  # brows
        *range(27, 31),  # nose bridge
        *reversed(range(31, 36)),  # nostrils
        *(45, 44, 43, 42, 47, 46),  # the eye on the right of the image, corner to corner, then its lower lid
        *(39, 38, 37, 36, 41, 40),
        *reversed(range(48, 55)),  # outer lip, upper then lower
        *reversed(range(55, 60)),
        *reversed(range(60, 65)),  # inner lip, upper then lower
        *reversed(range(65, 68)),
    ]
    order = np.arange(NUM_KEYPOINTS)
    body = [NOSE, *(index + 1 if index % 2 else index - 1 for index in range(LEFT_EYE, RIGHT_ANKLE + 1))]
    parts = [order[BODY][body], np.roll(order[FEET], 3), order[FACE][face_68], order[RIGHT_HAND], order[LEFT_HAND]]
    return np.concatenate(parts)


MIRROR = _mirror_permutation()
