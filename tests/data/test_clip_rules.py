# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from dataclasses import fields, replace

import pytest

from hia_diffusers.data.clip_rules import RULE_NAMES, ClipMeasures, ClipRules


GOOD = ClipMeasures(
    seconds=4.0,
    person_share=1.0,
    several_share=0.0,
    person_height=0.8,
    mean_score=0.9,
    outside_share=0.0,
    body_motion=0.6,
    enlargement=1.0,
)
BROKEN = {
    "too_short": {"seconds": 0.9},
    "too_coarse": {"enlargement": 2.1},
    "no_person": {"person_share": 0.89},
    "several_people": {"several_share": 0.11},
    "small_person": {"person_height": 0.39},
    "low_scores": {"mean_score": 0.49},
    "outside_picture": {"outside_share": 0.21},
    "little_motion": {"body_motion": 0.09},
}
LIMITS = {
    "too_short": {"min_seconds": 0.8},
    "too_coarse": {"max_enlargement": 3.0},
    "no_person": {"min_person_share": 0.8},
    "several_people": {"max_several_share": 0.2},
    "small_person": {"min_person_height": 0.3},
    "low_scores": {"min_score": 0.4},
    "outside_picture": {"max_outside_share": 0.3},
    "little_motion": {"min_motion": 0.0},
}


def test_a_good_clip_breaks_no_rule():
    assert ClipRules().first_broken(GOOD) is None
    assert set(BROKEN) == set(LIMITS) == set(RULE_NAMES)
    assert len(RULE_NAMES) == len(fields(ClipRules)) == len(fields(ClipMeasures))


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_each_rule_has_its_limit(rule):
    measures = replace(GOOD, **BROKEN[rule])
    assert ClipRules().first_broken(measures) == rule
    assert ClipRules(**LIMITS[rule]).first_broken(measures) is None


def test_the_first_broken_rule_counts():
    everything = {name: value for changes in BROKEN.values() for name, value in changes.items()}
    rules = ClipRules()
    for rule in RULE_NAMES:
        assert rules.first_broken(replace(GOOD, **everything)) == rule
        rules = replace(rules, **LIMITS[rule])
    assert rules.first_broken(replace(GOOD, **everything)) is None


def test_a_limit_is_a_number():
    for rule in fields(ClipRules):
        with pytest.raises(ValueError, match=f"`{rule.name}` must be a number, got nan"):
            ClipRules(**{rule.name: float("nan")})


def test_a_clip_without_anyone_is_never_kept():
    assert ClipRules(min_person_share=0).first_broken(replace(GOOD, person_share=0.0)) == "no_person"
