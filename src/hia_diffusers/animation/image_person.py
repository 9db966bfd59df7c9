# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The keypoints of the person in the image: detected, given or read from a file."""

import logging
import os
from collections.abc import Sequence

import numpy as np
import PIL.Image

from .. import checks
from ..conditioning.keypoints import NotStatedError, WholeBodyKeypoints
from ..detection.people import Detector


logger = logging.getLogger(__name__)


def detect_person(image: PIL.Image.Image, detector: Detector, person: Sequence[float] | None) -> WholeBodyKeypoints:
    """Detect the keypoints of the person in an image.

    Args:
        image (`PIL.Image.Image`):
            The image.
        detector ([`~detection.people.Detector`]):
            The keypoint detector.
        person (`Sequence[float]` or `None`):
            As `image_person` of [`HIAAnimator.prepare`].

    Raises:
        ValueError: If nobody is detected, or not in the box of the person.
    """
    people = detector.detect(np.asarray(image)[None], fps=1)
    if not people.counts[0]:
        raise ValueError("`image`: no person was detected; pass `image_keypoints` or `retarget=False`")
    if person is None and people.counts[0] > 1:
        logger.warning(
            "%d people were detected in the image, and the largest is animated. To animate another, pass "
            "`image_person`.",
            people.counts[0],
        )
    try:
        return people.follow(person)
    except ValueError as error:
        raise ValueError(str(error).replace("`person`", "`image_person`")) from error


def given_keypoints(
    image: PIL.Image.Image, image_keypoints: str | os.PathLike | WholeBodyKeypoints
) -> WholeBodyKeypoints:
    """Check the given keypoints of an image.

    Args:
        image (`PIL.Image.Image`):
            The image.
        image_keypoints (`str`, `os.PathLike` or `WholeBodyKeypoints`):
            As in [`HIAAnimator.prepare`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If they cannot be read, or are not one frame of the image's size.
    """
    keypoints = image_keypoints
    if not isinstance(keypoints, WholeBodyKeypoints):
        try:
            keypoints = _load_in(image, checks.path("image_keypoints", keypoints))
        except ValueError as error:
            raise ValueError(f"`image_keypoints`: {str(error).removeprefix('`path` ')}") from error
    if len(keypoints) != 1 or (keypoints.width, keypoints.height) != image.size:
        raise ValueError(
            f"`image_keypoints`: must be one frame of the image's {image.width}x{image.height}, "
            f"got {len(keypoints)} of {keypoints.width}x{keypoints.height}"
        )
    return keypoints


def _load_in(image: PIL.Image.Image, path: str) -> WholeBodyKeypoints:
    """Load keypoints from a file, in pixels of the image if the file does not state a size."""
    try:
        return WholeBodyKeypoints.load(path)
    except NotStatedError:
        return WholeBodyKeypoints.load(path, image.height, image.width)
