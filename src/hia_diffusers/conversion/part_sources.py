# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a pipeline come from, and the parts that were added so far."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import nn

from ..models.modeling_hia import load_without_mismatch
from ..models.unet_motion import HIAUNetMotionModel
from .key_tables import ComponentKeys


NEW = "new"


@dataclass(frozen=True)
class Source:
    """A checkpoint, and the argument for it."""

    argument: str
    path: str
    subfolder: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.subfolder}" if self.subfolder else self.path

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of `from_pretrained` for its location; transformers does not accept None for them."""
        return {} if self.subfolder is None else {"subfolder": self.subfolder}

    def config(self, config_class: type[ConfigMixin]) -> dict[str, Any]:
        """Read a configuration."""
        with self.named_in_errors():
            return config_class.load_config(self.path, **self.arguments)

    def read(self, *accepted: Any, weights: bool) -> Any:
        """Load a model of one of the accepted classes, or create it on the meta device if `weights` is false."""
        config = self.config(accepted[0])
        class_name = config.get("_class_name")
        model_class = {c.__name__: c for c in accepted}.get(class_name)
        if model_class is None:
            raise ValueError(
                f"`{self.argument}` must lead to a model of class {class_names(accepted)}, got {class_name} in {self}."
            )
        with self.named_in_errors():
            if not weights:
                return model_class.from_config(config)
            arguments = {**self.arguments, "variant": self.variant, "use_safetensors": True}
            return load_without_mismatch(model_class, self.path, dtype=torch.float32, **arguments)

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Name the argument and the source in errors."""
        try:
            yield
        except OSError as error:
            if error.errno is not None:  # caused by the machine, not by the argument
                raise
            raise FileNotFoundError(f"`{self.argument}`: {self} cannot be read: {error}") from error
        except (ValueError, RuntimeError) as error:
            reason = re.sub(r"^`\w+`: ", "", str(error))  # the argument of the function that raised it
            raise ValueError(f"`{self.argument}`: {self} cannot be read: {reason}") from error


def source_for(argument: str, path: object) -> Source:
    """Check the path of an argument."""
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise TypeError(f"`{argument}` must be a Hub id or the path of a local folder, got {path!r}.")
    return Source(argument, str(path))


def class_names(classes: Collection[type]) -> str:
    """Format classes for a message."""
    return " or ".join(c.__name__ for c in classes)


@dataclass
class Parts:
    """Components by their names in the pipeline, and their rows of the report."""

    modules: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, ComponentKeys] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)

    def add(
        self, name: str, module: object, source: object, made: Sequence[str] = (), left: Sequence[str] = ()
    ) -> None:
        """Add a component; `made` are the keys of initialized weights, `left` those of unused ones."""
        self.modules[name] = module
        self._add_row(name, weight_keys(module), source, made, left)

    def add_motion_modules(self, unet: HIAUNetMotionModel, source: object) -> None:
        """Add motion modules, as a UNet that has them."""
        self.modules["unet"] = unet
        self._add_row("motion_modules", weight_keys(unet, motion=True), source)

    def _add_row(
        self, name: str, keys: Sequence[str], source: object, made: Sequence[str] = (), left: Sequence[str] = ()
    ) -> None:
        """Add a row to the report. By default, all keys of new components are initialized."""
        made = (made or keys) if source == NEW else made
        taken = [key for key in keys if key not in made] if source != NEW else []
        self.rows[name] = ComponentKeys(name, str(source), tuple(taken), tuple(made), tuple(left))


def weight_keys(component: object, motion: bool = False) -> list[str]:
    """Return the keys of a network's weights: without motion modules, or only theirs. Other objects have none."""
    keys = component.state_dict() if isinstance(component, nn.Module) else ()
    return [key for key in keys if (".motion_modules." in key) == motion]
