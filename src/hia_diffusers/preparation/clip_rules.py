# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The filters that select training clips."""

from dataclasses import dataclass, field, fields
from typing import Any

from .. import checks


@dataclass(frozen=True)
class ClipMeasurements:
    """The values that the filters use, measured on the prepared clip.

    Args:
        seconds (`float`):
            Length of the clip.
        person_visible_ratio (`float`):
            Fraction of the frames in which the person is detected.
        multi_person_ratio (`float`):
            Fraction of the frames with two or more people, ignoring people less than half as tall as the tallest; 0 if
            the keypoints are given.
        person_height (`float`):
            Median height of the person as a fraction of the image height.
        mean_score (`float`):
            Mean score of the 17 body points in frames with the person.
        outside_ratio (`float`):
            Fraction of the detected body points that lie outside the prepared image.
        body_motion (`float`):
            Mean speed of the body points, in body heights per second.
        upscale_factor (`float`):
            Scale factor from the size in the video to the prepared size.
    """

    seconds: float
    person_visible_ratio: float
    multi_person_ratio: float
    person_height: float
    mean_score: float
    outside_ratio: float
    body_motion: float
    upscale_factor: float


def _limit(default: float, least: float, greatest: float) -> Any:
    return field(default=default, metadata={"range": (least, greatest)})


@dataclass(frozen=True)
class ClipRules:
    """Limits of the filters.

    A clip that violates one is rejected, and the first violated filter counts. The filters are listed in the order in
    which they are applied. Fractions, heights and scores lie in [0, 1].

    Args:
        min_seconds (`float`, *optional*, defaults to `1.0`):
            `too_short`: the clip is shorter, in seconds.
        max_upscale_factor (`float`, *optional*, defaults to `2.0`):
            `too_coarse`: the video must be upscaled by a larger factor to the prepared size.
        min_person_visible_ratio (`float`, *optional*, defaults to `0.9`):
            `no_person`: the person is detected in a smaller fraction of the frames.
        max_multi_person_ratio (`float`, *optional*, defaults to `0.1`):
            `several_people`: a larger fraction of the frames shows two or more people of similar height.
        min_person_height (`float`, *optional*, defaults to `0.4`):
            `small_person`: the median height of the person is a smaller fraction of the image height.
        min_score (`float`, *optional*, defaults to `0.5`):
            `low_scores`: the mean score of the body points is lower.
        max_outside_ratio (`float`, *optional*, defaults to `0.2`):
            `outside_image`: a larger fraction of the body points lies outside the prepared image.
        min_motion (`float`, *optional*, defaults to `0.1`):
            `little_motion`: the body points move less, in body heights per second.

    Raises:
        TypeError: If a limit is not a number.
        ValueError: If a limit is out of range.
    """

    min_seconds: float = _limit(1.0, 0, 86400)
    max_upscale_factor: float = _limit(2.0, 0, 1024)
    min_person_visible_ratio: float = _limit(0.9, 0, 1)
    max_multi_person_ratio: float = _limit(0.1, 0, 1)
    min_person_height: float = _limit(0.4, 0, 1)
    min_score: float = _limit(0.5, 0, 1)
    max_outside_ratio: float = _limit(0.2, 0, 1)
    min_motion: float = _limit(0.1, 0, 100)

    def __post_init__(self):
        for rule in fields(self):
            value, (least, greatest) = getattr(self, rule.name), rule.metadata["range"]
            checks.number(rule.name, value, least, greatest)

    def first_broken(self, measurements: ClipMeasurements) -> str | None:
        """Return the name of the first filter that rejects a clip, or `None`."""
        is_broken = {
            "too_short": measurements.seconds < self.min_seconds,
            "too_coarse": measurements.upscale_factor > self.max_upscale_factor,
            "no_person": measurements.person_visible_ratio < self.min_person_visible_ratio
            or measurements.person_visible_ratio == 0,
            "several_people": measurements.multi_person_ratio > self.max_multi_person_ratio,
            "small_person": measurements.person_height < self.min_person_height,
            "low_scores": measurements.mean_score < self.min_score,
            "outside_image": measurements.outside_ratio > self.max_outside_ratio,
            "little_motion": measurements.body_motion < self.min_motion,
        }
        return next((name for name in RULE_NAMES if is_broken[name]), None)


RULE_NAMES = (
    *("too_short", "too_coarse", "no_person", "several_people", "small_person", "low_scores", "outside_image"),
    "little_motion",
)
