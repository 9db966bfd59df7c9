# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from dataclasses import fields, replace
from typing import get_args

import pytest
from diffusers.optimization import SchedulerType

from hia_diffusers.training.config import SchedulerName, TrainingConfig
from hia_diffusers.training.stages import STAGES, trained_parts


def config(**options):
    return TrainingConfig(stage="spatial", output_dir="run", **options)


def test_every_option_has_a_help_text_and_one_group():
    names = [option.name for group in TrainingConfig.groups() for option in fields(group)]
    assert sorted(names) == sorted(option.name for option in fields(TrainingConfig))
    assert all(option.metadata["help"] for option in fields(TrainingConfig))
    assert list(config().as_dict()) == names


def test_schedules_of_the_learning_rate_are_those_of_diffusers():
    assert set(get_args(SchedulerName)) == {kind.value for kind in SchedulerType}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 0}, ValueError, "`learning_rate` must be a finite number, above 0, got 0."),
        ({"learning_rate": "1e-5"}, TypeError, "`learning_rate` must be a finite number, above 0, got '1e-5'."),
        ({"num_frames": 1.5}, TypeError, "`num_frames` must be an integer from 1 to 2147483647, got 1.5."),
        ({"use_ema": 1}, TypeError, "`use_ema` must be True or False, got 1."),
        (
            {"mixed_precision": "fp8"},
            ValueError,
            '`mixed_precision` must be one of "no", "fp16", "bf16", got \'fp8\'.',
        ),
        ({"arcface": 5}, TypeError, "`arcface` must be text, got 5."),
        ({"sizes": "512x896"}, TypeError, "`sizes` must be a list that is not empty, got '512x896'."),
        ({"sizes": []}, TypeError, "`sizes` must be a list that is not empty, got []."),
        ({"sizes": ["8x"]}, ValueError, "`sizes` must be WIDTHxHEIGHT, such as 512x896, got '8x'."),
        ({"frame_stride": [1, 2, 3]}, ValueError, "`frame_stride` must be two integers, got [1, 2, 3]."),
        ({"frame_stride": [1, 0]}, ValueError, "`frame_stride` must be an integer from 1 to 2147483647, got 0."),
    ],
)
def test_values_that_an_option_does_not_take_are_refused(options, error, message):
    with pytest.raises(error) as raised:
        config(**options)
    assert str(raised.value) == message
    with pytest.raises(error):
        replace(STAGES["regional"], **options)


def test_sizes_are_height_and_width():
    assert config(sizes=["512x896", "96x160"]).frame_sizes == [(896, 512), (160, 96)]


def test_stages_train_their_parts():
    spatial, regional = STAGES["spatial"], STAGES["regional"]
    networks = ("appearance_encoder", "controlnet", "unet")
    assert trained_parts(spatial) == trained_parts(replace(regional, regional_trainable="all")) == networks
    assert trained_parts(replace(spatial, spatial_trainable="conditions")) == networks[:2]
    assert trained_parts(regional) == networks[:1]
    assert trained_parts(STAGES["temporal-half"]) == trained_parts(STAGES["temporal-full"]) == ("motion_modules",)
