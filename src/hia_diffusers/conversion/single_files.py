# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Components in the layout of the original Stable Diffusion, which diffusers converts."""

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin


def read_described_config(component: str, model_class: type[ConfigMixin], config: str, **kwargs: Any) -> Any:
    """Read the configuration of a component in a single file, which does not contain it.

    Args:
        component (`str`):
            Name of the component in error messages.
        model_class (`type`):
            A class of diffusers.
        config (`str`):
            Local folder or Hub id.
        kwargs:
            Options of `load_config`, such as `subfolder`.

    Raises:
        FileNotFoundError: If it cannot be read.
    """
    try:
        return model_class.load_config(config, **kwargs)
    except OSError as error:
        raise FileNotFoundError(
            f"`config` must be a local folder or a Hub id with the configuration of the {component}, but {config}"
            " cannot be read."
        ) from error


def load_from_single_file(
    component: str,
    model_class: type[ConfigMixin],
    path: Path,
    tensors: dict[str, torch.Tensor],
    config: str,
    dtype: torch.dtype,
    **kwargs: Any,
) -> Any:
    """Load a component with diffusers' `from_single_file`, and refuse unused or missing keys, which it ignores.

    Args:
        component (`str`):
            Name of the component in error messages.
        model_class (`type`):
            A model class of diffusers.
        path (`Path`):
            The file, for error messages.
        tensors (`dict[str, torch.Tensor]`):
            Tensors of this component, under the keys of the file.
        config (`str`):
            Local folder or Hub id with the component's configuration.
        dtype (`torch.dtype`):
            Dtype of the weights.
        kwargs:
            Options of `load_config`, such as `subfolder`.

    Raises:
        ValueError: If the tensors do not match the configuration.
    """
    with torch.device("meta"):
        described = read_described_config(component, model_class, config, **kwargs)
        expected = model_class.from_config(described).state_dict()
    try:
        # A copy, because diffusers removes keys from the dictionary. It renames them one to one, so comparing their
        # number suffices.
        model = model_class.from_single_file(dict(tensors), config=config, torch_dtype=dtype, **kwargs)
        fits = len(tensors) == len(expected) and not any(tensor.is_meta for tensor in model.state_dict().values())
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _mismatch(component, path, config, len(expected), len(tensors)) from error
    if not fits:
        raise _mismatch(component, path, config, len(expected), len(tensors))
    return model.eval()


def _mismatch(component: str, path: Path, config: str, expected: int, found: int) -> ValueError:
    return ValueError(
        f"`weights`: {path} must contain the {expected} tensors of the {component} that `config` describes, those of"
        f" {config}, but has {found} for it, or others."
    )
