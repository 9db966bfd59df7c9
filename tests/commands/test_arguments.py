# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The options of all command lines, those of the examples included."""

import argparse
import importlib
import inspect
import runpy
from pathlib import Path

import pytest

from hia_diffusers import HIAAnimator, HIAPipeline
from hia_diffusers.__main__ import COMMANDS
from hia_diffusers.animation.driving import Driving
from hia_diffusers.commands.arguments import (
    Flag,
    OneLineParser,
    add_detector_options,
    as_options,
    detector_arguments,
)
from hia_diffusers.detection.choosing import DETECTORS, create_detector
from hia_diffusers.detection.keypoint_detector import KeypointDetector
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def parser_of(program):
    if program in COMMANDS:
        return importlib.import_module(f"hia_diffusers.commands.{program}").make_parser()
    script = runpy.run_path(str(program))
    return script.get("make_parser", script.get("build_parser"))()


def options(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from options(subparser)
        elif action.option_strings and action.dest != "help":
            yield action


@pytest.mark.parametrize("program", [*COMMANDS, *EXAMPLES], ids=lambda program: getattr(program, "name", program))
def test_an_option_has_one_spelling_and_shows_its_default(program):
    parser = parser_of(program)
    for option in options(parser):
        turned_off = [f"--no_{option.dest}"]
        assert option.option_strings in ([f"--{option.dest}"], turned_off, [f"--{option.dest}", *turned_off])
        shown = parser._get_formatter()._expand_help(option) if option.help != argparse.SUPPRESS else ""
        if shown and option.default not in (None, False, []):
            assert f"(default: {option.default})" in shown and shown.count("default:") == 1, option.dest


ARGUMENTS = {
    "animate": (
        *(HIAAnimator.prepare, HIAAnimator.generate, Driving.load, HIAPipeline.__call__),
        *(create_detector, KeypointDetector),
    ),
    "prepare": (prepare_dataset, PreparationOptions, ClipRules, create_detector, KeypointDetector),
}
# Options of `animate` that stand for an object, and those that only the command has.
OBJECTS = {
    "model",
    "variant",
    "revision",
    "dtype",
    "seed",
    "size",
    "watermark",
    "invisible_watermark",
    "detector_device",
}
OWN = OBJECTS | {"device", "memory", "preview", "preview_every"}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_options_are_named_as_arguments(command):
    names = {name for function in ARGUMENTS[command] for name in inspect.signature(function).parameters}
    assert {option.dest for option in options(parser_of(command))} - names <= OWN


def test_a_flag_is_turned_off_by_no():
    parser = OneLineParser()
    parser.add_argument("--sound_of", action=Flag)
    values = [parser.parse_args(words).sound_of for words in ([], ["--sound_of"], ["--no_sound_of"])]
    assert values == [None, True, False]


def test_arguments_in_messages_become_options():
    message = "`image`: nobody is found in it; give `image_keypoints` or `retarget=False`, not `other`"
    wanted = "--image: nobody is found in it; give --image_keypoints or --no_retarget, not `other`"
    assert as_options(message, ["image", "image_keypoints", "retarget"]) == wanted


def test_the_detectors_are_those_of_the_library():
    parser = OneLineParser()
    add_detector_options(parser)
    (option,) = (option for option in options(parser) if option.dest == "detector")
    assert option.choices == ("auto", *DETECTORS)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {"detector": "auto"}),
        (
            ["--feet_model", "none", "--pose_model", "x.onnx"],
            {"detector": "auto", "feet_model": None, "pose_model": "x.onnx"},
        ),
        (["--detector", "mediapipe", "--pose_model", "x.whl"], {"detector": "mediapipe", "pose_model": "x.whl"}),
        (["--detector", "openpose", "--pose_model", "folder"], {"detector": "openpose", "model": "folder"}),
    ],
)
def test_only_what_is_given_reaches_the_detector(words, arguments):
    parser = OneLineParser()
    add_detector_options(parser)
    assert detector_arguments(parser.parse_args(words)) == arguments


def test_a_detector_refuses_the_models_of_another():
    parser = OneLineParser()
    add_detector_options(parser)
    args = parser.parse_args(["--detector", "mediapipe", "--detector_model", "x.onnx", "--feet_model", "none"])
    with pytest.raises(ValueError, match="`detector` mediapipe has no `detector_model` and `feet_model`"):
        detector_arguments(args)
