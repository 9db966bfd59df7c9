# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of key names, and what fills a network by them: every key has its place, or is named."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from ..state_dicts import StateDict


@dataclass(frozen=True)
class KeyTable:
    """How the keys of a source become those of a component.

    Two keys may become one where their tensors are equal.

    Args:
        renames (`tuple[tuple[str, str], ...]`, *optional*, defaults to `()`):
            Pairs of a regular expression and of what its matches become, applied one after the other.
        unused (`tuple[str, ...]`, *optional*, defaults to `()`):
            Regular expressions of keys of the source that are left, as no output depends on them.
    """

    renames: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()

    def target(self, key: str) -> str | None:
        """The component's key, or None if the key is not used.

        Args:
            key (`str`):
                Of the source.
        """
        if any(re.search(pattern, key) for pattern in self.unused):
            return None
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


@dataclass(frozen=True)
class ComponentKeys:
    """What became of the keys of one source of a component.

    Args:
        component (`str`):
            Name in the pipeline.
        source (`str`):
            Where the weights lie, or `"new"`.
        taken (`tuple[str, ...]`, *optional*, defaults to `()`):
            Keys of the source that are in the component.
        made (`tuple[str, ...]`, *optional*, defaults to `()`):
            Keys of the component that no source has, or not all of.
        left (`tuple[str, ...]`, *optional*, defaults to `()`):
            Keys of the source that are not in the component.
    """

    component: str
    source: str
    taken: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def is_allowed(key: str, allow: Collection[str]) -> bool:
    """Whether a key is named, or matches a pattern such as `model_ema.*`.

    Args:
        key (`str`):
            The key.
        allow (`Collection[str]`):
            Keys and patterns of the shell.
    """
    return any(fnmatchcase(key, pattern) for pattern in allow)


def fill(
    component: str,
    model: Any,
    sources: Sequence[tuple[StateDict, KeyTable]],
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> list[ComponentKeys]:
    """Give a network the weights of its sources, in place.

    Args:
        component (`str`):
            Its name, for the report and for errors.
        model (`nn.Module`):
            Of diffusers on the meta device, or any that has its weights. It is in evaluation mode afterwards.
        sources (`Sequence[tuple[StateDict, KeyTable]]`):
            Weights and the tables for their keys; later sources go before earlier ones.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of sources that may be left, and keys of the model that may be missing and are new then, or patterns.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Of the weights.

    Returns:
        `list[ComponentKeys]`: One for each source, and one for what is new, if anything is.

    Raises:
        ValueError: If keys are left or missing that `allow` does not name, or of another shape than the model's.
    """
    expected = model.state_dict()
    filled: dict[str, torch.Tensor] = {}
    taken: list[dict[str, list[str]]] = []  # for each source: key of the model to its own
    left: list[list[str]] = []
    for state_dict, table in sources:
        own, unused = _sort(component, state_dict, table, expected, allow)
        for earlier, earlier_unused in zip(taken, left, strict=True):
            for key in own.keys() & earlier.keys():
                earlier_unused += earlier.pop(key)
        taken.append(own)
        left.append(unused)
        filled |= {key: state_dict.tensors[names[0]] for key, names in own.items()}

    missing = [key for key in expected if key not in filled]
    if refused := [key for key in missing if not is_allowed(key, allow)]:
        where = " and ".join(f"`{state_dict.argument}`" for state_dict in _by_argument(sources))
        paths = " and ".join(str(state_dict.path) for state_dict, _ in sources)
        raise ValueError(
            f"{where}: {paths} must contain all weights of the {component}, but {_listed(refused)} missing; list "
            "keys that may be missing in `allow`."
        )
    if missing:
        new = model if not next(iter(expected.values())).is_meta else type(model).from_config(model.config)
        filled |= {key: new.state_dict()[key] for key in missing}
    model.load_state_dict({key: tensor.to(dtype) for key, tensor in filled.items()}, assign=True)
    model.eval()

    rows = [
        ComponentKeys(
            component,
            str(state_dict.path),
            tuple(name for names in own.values() for name in names),
            left=tuple(unused),
        )
        for (state_dict, _), own, unused in zip(sources, taken, left, strict=True)
    ]
    return [*rows, ComponentKeys(component, "new", made=tuple(missing))] if missing else rows


def _sort(
    component: str, state_dict: StateDict, table: KeyTable, expected: dict[str, torch.Tensor], allow: Collection[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """The keys of a source that become one of the model's each, and those that are left."""
    taken: dict[str, list[str]] = {}
    left, refused = [], []
    start = f"`{state_dict.argument}`: {state_dict.path}"
    for key, tensor in state_dict.tensors.items():
        target = table.target(key)
        if target not in expected:
            left.append(key)
            if target is not None and not is_allowed(key, allow):
                refused.append(key)
        elif not tensor.is_floating_point():
            raise ValueError(f"{start} must contain floating-point weights, but {key} is of dtype {tensor.dtype}.")
        elif tensor.shape != expected[target].shape:
            raise ValueError(
                f"{start} must fit the {component}, but {key} has the shape {tuple(tensor.shape)} and not"
                f" {tuple(expected[target].shape)}."
            )
        elif target in taken and not _equal(tensor, state_dict.tensors[taken[target][0]]):
            raise ValueError(f"{start} must contain {target} once, but {taken[target][0]} and {key} differ.")
        else:
            taken.setdefault(target, []).append(key)
    if refused:
        raise ValueError(
            f"{start} must contain weights of the {component} only, but {_listed(refused)} none; list keys "
            "that may be unused in `allow`."
        )
    return taken, left


def _equal(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.is_meta or other.is_meta or torch.equal(tensor, other)


def _by_argument(sources: Sequence[tuple[StateDict, KeyTable]]) -> list[StateDict]:
    return list({state_dict.argument: state_dict for state_dict, _ in sources}.values())


def shortened(keys: Sequence[str], shown: int = 40) -> str:
    """Names of keys, and how many more there are.

    Args:
        keys (`Sequence[str]`):
            The keys.
        shown (`int`, *optional*, defaults to 40):
            How many are named.
    """
    return ", ".join(keys[:shown]) + (f" and {len(keys) - shown} more" if len(keys) > shown else "")


def _listed(keys: Sequence[str]) -> str:
    return f"{shortened(keys)} {'is' if len(keys) == 1 else 'are'}"
