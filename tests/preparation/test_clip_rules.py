# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from dataclasses import fields, replace

import pytest

from hia_diffusers.preparation.clip_rules import RULE_NAMES, ClipMeasurements, ClipRules


GOOD = ClipMeasurements(
    seconds=4.0,
    person_visible_ratio=1.0,
    multi_person_ratio=0.0,
    person_height=0.8,
    mean_score=0.9,
    outside_ratio=0.0,
    body_motion=0.6,
    upscale_factor=1.0,
)
BROKEN = {
    "too_short": {"seconds": 0.9},
    "too_coarse": {"upscale_factor": 2.1},
    "no_person": {"person_visible_ratio": 0.89},
    "several_people": {"multi_person_ratio": 0.11},
    "small_person": {"person_height": 0.39},
    "low_scores": {"mean_score": 0.49},
    "outside_image": {"outside_ratio": 0.21},
    "little_motion": {"body_motion": 0.09},
}
LIMITS = {
    "too_short": {"min_seconds": 0.8},
    "too_coarse": {"max_upscale_factor": 3.0},
    "no_person": {"min_person_visible_ratio": 0.8},
    "several_people": {"max_multi_person_ratio": 0.2},
    "small_person": {"min_person_height": 0.3},
    "low_scores": {"min_score": 0.4},
    "outside_image": {"max_outside_ratio": 0.3},
    "little_motion": {"min_motion": 0.0},
}


def test_a_good_clip_breaks_no_rule():
    assert ClipRules().first_broken(GOOD) is None
    assert set(BROKEN) == set(LIMITS) == set(RULE_NAMES)
    assert len(RULE_NAMES) == len(fields(ClipRules)) == len(fields(ClipMeasurements))


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_each_rule_has_its_limit(rule):
    measurements = replace(GOOD, **BROKEN[rule])
    assert ClipRules().first_broken(measurements) == rule
    assert ClipRules(**LIMITS[rule]).first_broken(measurements) is None


def test_the_first_broken_rule_counts():
    everything = {name: value for changes in BROKEN.values() for name, value in changes.items()}
    rules = ClipRules()
    for rule in RULE_NAMES:
        assert rules.first_broken(replace(GOOD, **everything)) == rule
        rules = replace(rules, **LIMITS[rule])
    assert rules.first_broken(replace(GOOD, **everything)) is None


@pytest.mark.parametrize("rule", [rule.name for rule in fields(ClipRules)])
def test_a_limit_outside_its_range_is_refused(rule):
    least, greatest = next(field.metadata["range"] for field in fields(ClipRules) if field.name == rule)
    for value in (least, greatest):
        ClipRules(**{rule: value})
    for value in (-1, greatest * 1.01, float("nan"), float("inf"), -float("inf"), 10**400):
        accepted = f"a finite number, at least {least} and at most {greatest}"
        with pytest.raises(ValueError, match=f"`{rule}` must be {accepted}, got "):
            ClipRules(**{rule: value})
    for value in ("1", None, True, [1]):
        with pytest.raises(TypeError, match=f"`{rule}` must be {accepted}"):
            ClipRules(**{rule: value})


def test_a_clip_without_anyone_is_never_kept():
    assert ClipRules(min_person_visible_ratio=0).first_broken(replace(GOOD, person_visible_ratio=0.0)) == "no_person"
