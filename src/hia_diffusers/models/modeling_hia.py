# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Common parts of the networks: options in addition to those of the base class, and strict loading."""

import functools
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub import hf_hub_download
from torch import nn

from .attachments import check_no_attachments
from .component_files import check_component_files, read_json_object


Model = TypeVar("Model", bound="StrictLoadingMixin")

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def parent_options(parent: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a configuration that the constructor of the base class takes."""
    parameters = inspect.signature(parent.__init__).parameters  # type: ignore[misc]
    return {name: config[name] for name in parameters if name in config}


def same_option(value: object, other: object) -> bool:
    """Return whether two options are equivalent: one number means the same for each block, and lists equal tuples."""
    if isinstance(value, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(value) == len(other) and all(map(same_option, value, other))
    if isinstance(value, (list, tuple)):
        return all(same_option(item, other) for item in value)
    if isinstance(other, (list, tuple)):
        return all(same_option(value, item) for item in other)
    return value == other


def check_same_options(name: str, model: ModelMixin, unet: ModelMixin, options: Mapping[str, str]) -> None:
    """Refuse a model whose options differ from those of a UNet.

    Args:
        name (`str`):
            Name of the model in error messages.
        model, unet (`ModelMixin`):
            The model, and the UNet that it is used with.
        options (`Mapping[str, str]`):
            Options of the model, and their names in the UNet's configuration. An option that the UNet lacks must be 1.

    Raises:
        ValueError: If an option differs.
    """
    for option, of_unet in options.items():
        value, expected = model.config[option], unet.config.get(of_unet, 1)
        if not same_option(value, expected):
            raise ValueError(f"`{name}`: its `{option}` must be {expected}, the `{of_unet}` of the UNet, got {value}.")


def copy_out_of_mapped_file(module: nn.Module) -> None:
    """Copy CPU weights that lie in a memory-mapped safetensors file, in place.

    In the file they may be unaligned; CPU kernels sum unaligned numbers in another order, so a pipeline that was saved
    and loaded would not generate bit-identical frames.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def load_without_mismatch(model_class: Any, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
    """Call `from_pretrained` of a diffusers or transformers model, and raise errors where it would only warn.

    With `device_map="meta"`, only the headers of weights are read, and the result is the network without its weights.

    Raises:
        ValueError: If the checkpoint has missing or unexpected keys, which are named, is damaged, or contains weights
            that are not finite floating-point numbers.
    """
    output_loading_info = kwargs.pop("output_loading_info", False)
    start = "`pretrained_model_name_or_path`: "
    is_local = Path(pretrained_model_name_or_path).is_dir()
    options = {name: kwargs[name] for name in ("variant", "use_safetensors") if name in kwargs}
    try:
        if is_local:
            check_component_files(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""), **options)
        model, loading_info = model_class.from_pretrained(
            pretrained_model_name_or_path, output_loading_info=True, **kwargs
        )
        if not is_local:
            hub = {name: kwargs[name] for name in ("cache_dir", "revision", "subfolder") if kwargs.get(name)}
            config = hf_hub_download(str(pretrained_model_name_or_path), "config.json", local_files_only=True, **hub)
            check_component_files(Path(config).parent, **options)
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise errors of many classes on damaged files
        raise ValueError(f"{start}{' '.join(str(error).split()).removeprefix(start)}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := sorted(map(str, loading_info[kind])):
            raise ValueError(
                f"{start}the {type(model).__name__} in {pretrained_model_name_or_path} has {len(keys)}"
                f" {kind.replace('_', ' ')}: {', '.join(keys)}"
            )
    check_finite_weights(model, pretrained_model_name_or_path)
    copy_out_of_mapped_file(model)
    return (model, loading_info) if output_loading_info else model


def check_finite_weights(model: nn.Module, source: object) -> None:
    """Refuse weights that contain infinity or NaN.

    Args:
        model (`nn.Module`):
            The network. Quantized weights and weights on the meta device are not checked.
        source (`str` or `os.PathLike`):
            Where it was loaded from, for error messages.

    Raises:
        ValueError: If there are any.
    """
    for key, tensor in model.state_dict().items():
        if type(tensor) is not torch.Tensor or not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
            continue
        low, high = (tensor if tensor.dtype.itemsize > 1 else tensor.float()).aminmax()  # a NaN makes both NaN
        if not (low.isfinite() and high.isfinite()):
            raise ValueError(
                f"`pretrained_model_name_or_path`: the {type(model).__name__} in {source} has weights that are not"
                f" finite, in {key}."
            )


class StrictLoadingMixin(ModelMixin, ConfigMixin):
    """A model whose `from_pretrained` raises an error if weights do not match, where that of diffusers warns."""

    _other_class_hint: str = "load it with that class."

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Model:
        """Load a checkpoint of exactly this class.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or local folder, as in [`~diffusers.ModelMixin.from_pretrained`].
            kwargs:
                Options of [`~diffusers.ModelMixin.from_pretrained`]; `use_safetensors` is `True` unless given.

        Raises:
            ValueError: If the checkpoint was saved by another class, or has missing or unexpected keys.
        """
        config_file = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", cls.config_name)
        if config_file.is_file():
            read_json_object(config_file)
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        config = cls.load_config(pretrained_model_name_or_path, **hub_arguments)
        if not cls._is_described_by(config):
            raise ValueError(
                f"`pretrained_model_name_or_path`: {pretrained_model_name_or_path} holds a"
                f" {config.get('_class_name')}, not a {cls.__name__}; {cls._other_class_hint}"
            )
        return load_without_mismatch(super(), pretrained_model_name_or_path, **{"use_safetensors": True, **kwargs})

    @classmethod
    def _is_described_by(cls, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == cls.__name__

    def register_to_config(self, **kwargs: Any) -> None:
        """Store the arguments of the constructor, including unchanged defaults."""
        # Defaults differ between the classes that read a configuration, so each option is stored as if it was given.
        kwargs.pop("_use_default_values", None)
        super().register_to_config(**kwargs)

    @functools.wraps(ModelMixin.save_pretrained)  # diffusers inspects the arguments
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the model, as in [`~diffusers.ModelMixin.save_pretrained`], if nothing is attached to it."""
        check_no_attachments(type(self).__name__, self)
        super().save_pretrained(*args, **kwargs)
