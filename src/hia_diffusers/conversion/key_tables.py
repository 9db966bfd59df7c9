# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of key names, and filling networks by them, with every key accounted for."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from diffusers import ModelMixin
from diffusers.utils import logging
from transformers import PreTrainedModel

from ..state_dicts import StateDict


# Seconds after which a progress bar is shown.
PROGRESS_DELAY = 2.0


@dataclass(frozen=True)
class KeyTable:
    """Mapping of the keys of a source to those of a component.

    Two keys may be mapped to the same key if their tensors are equal.

    Args:
        renames (`tuple[tuple[str, str], ...]`, *optional*, defaults to `()`):
            Pairs of a regular expression and its replacement, applied one after the other.
        unused (`tuple[str, ...]`, *optional*, defaults to `()`):
            Regular expressions of keys that are not used, since no output depends on them.
    """

    renames: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()

    def target(self, key: str) -> str | None:
        """Return the component's key, or None if the key is not used.

        Args:
            key (`str`):
                A key of the source.
        """
        if any(re.search(pattern, key) for pattern in self.unused):
            return None
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


@dataclass(frozen=True)
class ComponentKeys:
    """Result of the conversion of one source of a component.

    Args:
        component (`str`):
            Name of the component in the pipeline.
        source (`str`):
            Path of the weights, or `"new"`.
        taken (`tuple[str, ...]`, *optional*, defaults to `()`):
            Keys of the source that are used.
        made (`tuple[str, ...]`, *optional*, defaults to `()`):
            Keys of the component that are completely or partly initialized.
        left (`tuple[str, ...]`, *optional*, defaults to `()`):
            Keys of the source that are not used.
    """

    component: str
    source: str
    taken: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def is_allowed(key: str, allow: Collection[str]) -> bool:
    """Return whether a key is listed, or matches a pattern such as `model_ema.*`.

    Args:
        key (`str`):
            The key.
        allow (`Collection[str]`):
            Keys and shell patterns.
    """
    return any(fnmatchcase(key, pattern) for pattern in allow)


def fill(
    component: str,
    model: ModelMixin | PreTrainedModel,
    sources: Sequence[tuple[StateDict, KeyTable]],
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> list[ComponentKeys]:
    """Load the weights of several sources into a network, in place.

    Args:
        component (`str`):
            Name of the network in the report and in error messages.
        model (`nn.Module`):
            A diffusers model on the meta device, or any network with weights. It is in evaluation mode afterwards.
        sources (`Sequence[tuple[StateDict, KeyTable]]`):
            Weights and the tables for their keys; later sources override earlier ones.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of sources that may be unused, and keys of the model that may be missing and are then initialized; or
            patterns of keys.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.

    Returns:
        `list[ComponentKeys]`: One for each source, and one for initialized keys, if there are any.

    Raises:
        ValueError: If keys that `allow` does not list are unused or missing, or have another shape than those of the
            model.
    """
    expected = model.state_dict()
    filled: dict[str, torch.Tensor] = {}
    taken: list[dict[str, list[str]]] = []  # for each source, the model's keys and the source's
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
    weights = logging.tqdm(filled.items(), desc=f"Converting the {component}", delay=PROGRESS_DELAY, leave=False)
    model.load_state_dict({key: tensor.to(dtype) for key, tensor in weights}, assign=True)
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
    """Return the keys of a source for each key of the model, and the unused keys."""
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
    """List the first keys, and the number of others.

    Args:
        keys (`Sequence[str]`):
            The keys.
        shown (`int`, *optional*, defaults to 40):
            Number of keys to list.
    """
    return ", ".join(keys[:shown]) + (f" and {len(keys) - shown} more" if len(keys) > shown else "")


def _listed(keys: Sequence[str]) -> str:
    return f"{shortened(keys)} {'is' if len(keys) == 1 else 'are'}"
