# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the three networks share: a constructor that extends its parent's, and loading that refuses a mismatch."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from diffusers.models.modeling_utils import ModelMixin
from torch import nn


Init = TypeVar("Init", bound=Callable[..., None])
Model = TypeVar("Model", bound="StrictLoadingMixin")

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def extends_init(parent: type, **defaults: Any) -> Callable[[Init], Init]:
    """Give `__init__(self, **kwargs)` the parent's signature, with other defaults and further arguments.

    diffusers reads configs by the constructor's signature. Restating forty arguments of a parent would silently lose
    the one that its next release adds.
    """

    def decorate(init: Init) -> Init:
        parameters = dict(inspect.signature(parent.__init__).parameters)  # type: ignore[misc]
        for name, default in defaults.items():
            parameters[name] = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        signature = inspect.Signature(list(parameters.values()))

        @functools.wraps(init)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
            arguments = signature.bind(self, *args, **kwargs).arguments
            del arguments["self"]
            init(self, **{**defaults, **arguments})

        wrapped.__signature__ = signature  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate


def copy_out_of_mapped_file(module: nn.Module) -> None:
    """Give a module's CPU weights memory of their own, in place, where they lie in a mapped safetensors file.

    There they start at any byte, CPU kernels sum unaligned numbers in another order, and a pipeline that was saved and
    loaded would not give the same frames bit for bit.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def load_without_mismatch(model_class: Any, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
    """`from_pretrained` of a model of diffusers or transformers that raises where they would warn.

    Raises:
        ValueError: If the checkpoint has missing or unexpected keys; names them.
    """
    output_loading_info = kwargs.pop("output_loading_info", False)
    model, loading_info = model_class.from_pretrained(
        pretrained_model_name_or_path, output_loading_info=True, **kwargs
    )
    for kind in ("missing_keys", "unexpected_keys"):
        if keys := sorted(loading_info[kind]):
            raise ValueError(
                f"`pretrained_model_name_or_path`: the {type(model).__name__} in {pretrained_model_name_or_path} has"
                f" {len(keys)} {kind.replace('_', ' ')}: {', '.join(keys)}"
            )
    copy_out_of_mapped_file(model)
    return (model, loading_info) if output_loading_info else model


class StrictLoadingMixin(ModelMixin):
    """A model whose `from_pretrained` raises where diffusers would warn: weights that do not match are an error."""

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: Any, **kwargs: Any) -> Model:
        """Load a checkpoint of exactly this class.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or local folder, as in [`~diffusers.ModelMixin.from_pretrained`].
            kwargs:
                The options of [`~diffusers.ModelMixin.from_pretrained`]; `use_safetensors` is `True` unless given.

        Raises:
            ValueError: If the checkpoint was saved by another class, or has missing or unexpected keys.
        """
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        config = cls.load_config(pretrained_model_name_or_path, **hub_arguments)
        saved_by = config.get("_class_name")
        if saved_by != cls.__name__:
            raise ValueError(
                f"`pretrained_model_name_or_path`: {pretrained_model_name_or_path} holds a {saved_by}, not a"
                f" {cls.__name__}; {cls._other_class_hint}"
            )

        return load_without_mismatch(super(), pretrained_model_name_or_path, **{"use_safetensors": True, **kwargs})

    _other_class_hint: str = "load it with that class."
