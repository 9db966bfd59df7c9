# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Parser of a typed config from a YAML file and the command line."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from .arguments import OneLineParser, as_options


class ConfigParser(OneLineParser, HfArgumentParser):
    """Turns the fields of a config into options; `parse_args` returns the config.

    `--config FILE.yaml` contains options by their names, and under `stages` those of individual stages. Options on the
    command line override those in the file, which override the preset of the stage.

    Args:
        config_class (`type`):
            A dataclass of groups of options, such as [`~hia_diffusers.training.config.TrainingConfig`].
        presets (`Mapping[str, Any]`, *optional*):
            Configs whose values are the defaults for each value of the option `stage`.
        kwargs:
            Arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, config_class: Any, presets: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(config_class.groups(), **kwargs)
        self.config_class = config_class
        self.presets = presets or {}
        self.options = {option.name: option for option in fields(config_class)}
        for name in filter(self._is_flag, self.options):  # turns off a flag that a file turns on
            self.add_argument(f"--no_{name}", dest=name, action="store_false", help=argparse.SUPPRESS)
        for spelling in [word for word in self._option_string_actions if "-" in word[2:]]:  # HfArgumentParser's
            action = self._option_string_actions.pop(spelling)
            action.option_strings = [word for word in action.option_strings if word != spelling]
        self.add_argument("--config", help="YAML file of options; those on the command line come first")
        for option in self.options.values():
            if option.default is not MISSING:
                self.set_defaults(**{option.name: option.default})

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> Any:  # type: ignore[override]
        """Return the config given by a command line and its file. Any error ends the process with one sentence.

        Args:
            args (`Sequence[str]`, *optional*):
                The options, by default those of the process.
            namespace:
                As in `argparse`.
        """
        words = list(sys.argv[1:] if args is None else args)
        first = OneLineParser(prog=self.prog, add_help=False)
        first.add_argument("--config")
        first.add_argument("--stage")
        known, _ = first.parse_known_args(words)
        stage = known.stage
        if known.config:
            options, stages = self._content(known.config)
            if stage is None and isinstance(options.get("stage"), str):
                stage = options["stage"]
            words = [*self._as_words(known.config, options | (stages.get(stage) or {})), *words]
        if stage in self.presets:
            preset = vars(self.presets[stage])
            self.set_defaults(**{name: value for name, value in preset.items() if self._has_default(name)})
        values = vars(super().parse_args(words, namespace))
        del values["config"]
        try:
            config = self.config_class(**values)
            config.validate()
        except (TypeError, ValueError) as error:
            self.error(as_options(str(error), self.options))
        return config

    def _is_flag(self, name: str) -> bool:
        return self.options[name].type is bool

    def _has_default(self, name: str) -> bool:
        option = self.options[name]
        return option.default is not MISSING or option.default_factory is not MISSING

    def _content(self, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of a file for all stages, and those of each stage."""
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
            self.error(f"--config: {path} cannot be read: {error}")
        stages = content.pop("stages", None) or {} if self.presets and isinstance(content, dict) else {}
        if not all(isinstance(options, dict) for options in (content, stages)):
            self.error(f"--config: {path} must contain options, and under `stages` those of stages.")
        if unknown := [str(name) for name in stages if name not in self.presets]:
            known = ", ".join(self.presets)
            self.error(f"--config: {path} has the unknown stages {', '.join(unknown)}; valid ones are {known}.")
        if not all(isinstance(options, (dict, type(None))) for options in stages.values()):
            self.error(f"--config: {path} must contain options under each of `stages`.")
        return content, stages

    def _as_words(self, path: str, options: Mapping[str, Any]) -> Iterator[str]:
        """Return the options of a file as words of a command line, so that all options are parsed in one way."""
        if unknown := [str(name) for name in options if name not in self.options]:
            self.error(f"--config: {path} has the unknown options {', '.join(unknown)}.")
        for name, value in options.items():
            # Nested values are not options, and YAML aliases may expand them to a huge number.
            if any(isinstance(item, (dict, list)) for item in (value if isinstance(value, list) else [value])):
                self.error(f"--config: {name} in {path} must be a value or a list of values.")
            if value is None:
                continue
            if self._is_flag(name) != isinstance(value, bool):
                self.error(
                    f"--config: {name} in {path} must be true or false, got {value!r}."
                    if self._is_flag(name)
                    else f"--config: {name} in {path} is {value!r}; put words that YAML reads as true or false in"
                    " quotes."
                )
            if isinstance(value, list):
                yield from (f"--{name}", *map(str, value))
            else:
                yield f"--{name}={value}"
