# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a saved pipeline's index and components before it is loaded.

Before 0.42.1, diffusers imports any module that an index names as the library of a component, which runs its code.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.models.modeling_utils import no_init_weights
from diffusers.utils import logging
from huggingface_hub import hf_hub_download
from torch import nn
from transformers import ImageProcessingMixin, PreTrainedTokenizerBase

from ..models.attachments import check_no_attachments
from ..models.component_files import check_component_files, read_json_object, stored_shapes
from ..models.component_fit import CLASSES, COMPONENTS, CONVERTED_UNETS, REQUIRED, check_components
from ..models.modeling_hia import StrictLoadingMixin, check_finite_weights, load_without_mismatch
from .model_card import CARD_FILE, PIPELINE_CODE, PIPELINE_FILE, model_card


logger = logging.get_logger(__name__)

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
LIBRARIES = ("diffusers", "transformers", "hia_diffusers")
LOADED_CLASSES = CLASSES | {
    "unet": (*CLASSES["unet"], *CONVERTED_UNETS),
    "feature_extractor": (ImageProcessingMixin,),
    "tokenizer": (PreTrainedTokenizerBase,),
}
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def check_index(index: Mapping[str, Any]) -> dict[str, type]:
    """Return the classes of a pipeline's components, without importing modules that are not imported yet.

    Args:
        index (`Mapping[str, Any]`):
            Content of `model_index.json`.

    Raises:
        ValueError: If a component does not have a library and a suitable class.
    """
    classes = {}
    for name in COMPONENTS:
        entry = index.get(name) or [None, None]
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            raise ValueError(f"{INDEX} must name a library and a class as its `{name}`, got {entry!r}.")
        library, class_name = entry
        if library is None and class_name is None:
            continue
        if not isinstance(library, str) or not isinstance(class_name, str):
            raise ValueError(f"{INDEX} must name a library and a class as its `{name}`, got {list(entry)!r}.")
        _check_library(INDEX, name, library)
        named = getattr(importlib.import_module(library), class_name, None)
        if not isinstance(named, type) or not issubclass(named, LOADED_CLASSES[name]):
            accepted = " or ".join(c.__name__ for c in LOADED_CLASSES[name])
            raise ValueError(f"{INDEX} must name {accepted} as its `{name}`, got {library}.{class_name}.")
        classes[name] = named
    return classes


def check_modular_index(index: Mapping[str, Any]) -> None:
    """Refuse an index with libraries of components that are not imported yet.

    Args:
        index (`Mapping[str, Any]`):
            Content of `modular_model_index.json`: for each component a library, a class and how it is loaded, whose
            `type_hint` repeats both.

    Raises:
        ValueError: If there is such a library, or a component is malformed.
    """
    for name, entry in index.items():
        if not isinstance(entry, (list, tuple)) or len(entry) != 3:
            continue  # a setting, or something that diffusers ignores as well
        hint = entry[2].get("type_hint") if isinstance(entry[2], dict) else None
        if not isinstance(hint, (list, tuple)) or len(hint) != 2 or not {str, type(None)} >= {*map(type, hint)}:
            raise ValueError(f"{MODULAR_INDEX} must name a library and a class as the `type_hint` of its `{name}`.")
        if None not in hint:
            _check_library(MODULAR_INDEX, name, hint[0])


def _check_library(file: str, name: str, library: str) -> None:
    if library not in LIBRARIES and library not in sys.modules:
        raise ValueError(
            f"{file} must name {', '.join(LIBRARIES)} or a module that is imported already as the library of"
            f" `{name}`, got {library!r}: importing it would run its code."
        )


def find_pipeline(
    pipeline_class: type[DiffusionPipeline],
    pretrained_model_name_or_path: str | os.PathLike,
    options: Mapping[str, Any],
) -> Path:
    """Return the folder of a pipeline; it is downloaded only if its index is valid.

    Args:
        pipeline_class (`type`):
            A pipeline class of diffusers, which downloads.
        pretrained_model_name_or_path (`str` or `os.PathLike`):
            Hub id or local folder.
        options (`Mapping[str, Any]`):
            Options of `from_pretrained`.

    Raises:
        OSError: If it cannot be found.
        ValueError: If its index is invalid.
    """
    folder = Path(pretrained_model_name_or_path)
    if folder.exists() and not (folder / INDEX).is_file():
        from ..conversion.recognition import why_no_pipeline

        raise FileNotFoundError(f"`pretrained_model_name_or_path`: {why_no_pipeline(folder)}.")
    if folder.is_dir():
        return folder
    hub_options = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    index = hf_hub_download(str(pretrained_model_name_or_path), INDEX, **hub_options)
    check_index(read_json_object(Path(index)))
    return Path(pipeline_class.download(str(pretrained_model_name_or_path), **options))


def check_pipeline_folder(
    folder: Path, given: Mapping[str, Any], variant: str | None = None, use_safetensors: bool | None = True
) -> None:
    """Refuse an incomplete or inconsistent pipeline, based on its configurations and the headers of its weights.

    Args:
        folder (`Path`):
            Folder of the pipeline.
        given (`Mapping[str, Any]`):
            Components that will not be loaded, by name.
        variant, use_safetensors:
            As in `from_pretrained`.

    Raises:
        OSError: If a file is missing.
        TypeError, ValueError: If a file is damaged, has missing or unexpected keys, or does not fit the others.
    """
    components = dict(given)
    for name, component_class in check_index(read_json_object(folder / INDEX)).items():
        if name not in given:
            components[name] = _outline(
                name, component_class, folder / name, variant=variant, use_safetensors=use_safetensors
            )
    for name in REQUIRED:
        if name not in components:
            raise ValueError(f"{INDEX} in {folder} must name a class as its `{name}`, got none.")
    check_components(components)


def check_component(
    name: str,
    component_class: object,
    source: str | Path,
    subfolder: str | None = None,
    variant: str | None = None,
    **hub_options: Any,
) -> None:
    """Refuse an incomplete component, based on its configuration and the header of its weights.

    Args:
        name (`str`):
            Name of the component in error messages.
        component_class (`type`):
            Class of the component.
        source (`str` or `os.PathLike`):
            Hub id of a component that has been downloaded, or local folder.
        subfolder (`str`, *optional*):
            Subfolder of `source` that contains it.
        variant (`str`, *optional*):
            Variant of its weights.
        hub_options (`dict[str, Any]`):
            Options of `hf_hub_download`.

    Raises:
        OSError: If a file is missing.
        ValueError: If a file is damaged or outside the folder, or has missing or unexpected keys.
    """
    folder = Path(source, subfolder or "")
    if not folder.exists():
        options = {option: value for option, value in hub_options.items() if value is not None}
        folder = Path(hf_hub_download(str(source), "config.json", subfolder=subfolder, **options)).parent
    if folder.is_dir():
        _outline(name, component_class, folder, variant=variant)


def _outline(
    name: str, component_class: Any, folder: Path, variant: str | None = None, use_safetensors: bool | None = None
) -> Any:
    """Load a network on the meta device, or any other component completely."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, where the `{name}` must be.")
    if variant is not None and not any(folder.glob(f"*.{variant}*")):
        variant = None  # as in diffusers: not every component needs the variant
    try:
        if not issubclass(component_class, nn.Module):
            check_component_files(folder)
            return component_class.from_pretrained(folder)
        options: dict[str, Any] = {"variant": variant, "use_safetensors": use_safetensors}
        if (folder / "config.json").is_file():
            config = read_json_object(folder / "config.json")
            if config.get("quantization_config") is not None:  # its keys are those of the quantizer
                check_component_files(folder, **options)
                return _build_on_meta(component_class, config)
            if use_safetensors is not False and config.get("_class_name") == component_class.__name__:
                check_component_files(folder, **options)
                network = _build_on_meta(component_class, config)
                shapes = {key: [*value.shape] for key, value in network.state_dict().items()}
                if shapes == stored_shapes(folder, variant):
                    return network
        # Finds out what differs, unless the libraries rename keys as they load.
        return load_without_mismatch(component_class, folder, device_map="meta", **options)
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # libraries raise errors of many classes on damaged files
        reason = " ".join(str(error).split()).removeprefix("`pretrained_model_name_or_path`: ")
        raise ValueError(f"the `{name}` in {folder} cannot be used: {reason}") from error


def _build_on_meta(component_class: type[ModelMixin], config: dict[str, Any]) -> nn.Module:
    with no_init_weights(), torch.device("meta"):
        if hasattr(component_class, "load_config"):
            return component_class.from_config(config)
        return component_class(component_class.config_class.from_dict(config))


class PipelineFolderMixin(DiffusionPipeline):
    """Loading with checks, and saving with a model card and a file that names the class."""

    _lora_loadable_modules: list[str]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load a pipeline as [`~diffusers.DiffusionPipeline.from_pretrained`] does, but refuse mismatched weights.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or local folder.
            kwargs:
                Options of [`~diffusers.DiffusionPipeline.from_pretrained`]; `use_safetensors` is `True` by default.

        Raises:
            OSError: If a file is missing.
            TypeError, ValueError: If a file is damaged, weights have missing or unexpected keys or are not finite
                floating-point numbers, or components do not fit each other. What can be seen in the headers is checked
                before weights are read.
        """
        kwargs.setdefault("use_safetensors", True)
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32  # transformers would use the dtype in its config
        try:
            folder = find_pipeline(cls, pretrained_model_name_or_path, kwargs)
            given = {name: kwargs[name] for name in COMPONENTS if name in kwargs}
            check_pipeline_folder(
                folder, given, variant=kwargs.get("variant"), use_safetensors=kwargs["use_safetensors"]
            )
        except ValueError as error:
            raise ValueError(f"`pretrained_model_name_or_path`: {error}") from error
        pipeline = super().from_pretrained(str(folder), **kwargs)
        for name, component in pipeline.components.items():
            if isinstance(component, torch.nn.Module) and not isinstance(component, StrictLoadingMixin):
                check_finite_weights(component, folder / name)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def from_published(
        cls,
        name: str,
        dtype: torch.dtype = torch.float32,
        cache_dir: str | Path | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a published checkpoint, such as `HIAPipeline.from_published("moore-animate-anyone")`.

        The first time, its files are downloaded from the Hub and converted; the result is kept and used the next time.

        Args:
            name (`str`):
                A name listed by `hia-diffusers models`.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
                Dtype of the weights.
            cache_dir (`str` or `os.PathLike`, *optional*):
                Folder for downloads and the result, by default the cache of `huggingface_hub`.
            revision (`str`, *optional*):
                Branch, tag or commit of the checkpoint's own repository.
            kwargs:
                Options of [`~HIAPipeline.from_pretrained`].

        Raises:
            ValueError: If there is no checkpoint of that name, or it needs training first.
            ConnectionError: If the Hub cannot be reached, or a download is interrupted; it resumes the next time.
            FileNotFoundError, OSError, PermissionError: If files do not exist, do not fit on the disk, or require
                agreeing to their terms.
        """
        from ..conversion.hub_downloads import converted_checkpoint

        folder = converted_checkpoint(name, dtype, cache_dir=cache_dir, revision=revision, notify=logger.warning)
        return cls.from_pretrained(folder, dtype=dtype, **kwargs)

    @classmethod
    def extract_init_dict(
        cls, config_dict: dict[str, Any], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Check the index of a pipeline, then read it as in [`~diffusers.ConfigMixin.extract_init_dict`]."""
        # `DiffusionPipeline.from_pretrained` calls this before it imports the libraries named in the index.
        check_index(config_dict)
        return super().extract_init_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save the pipeline as [`~diffusers.DiffusionPipeline.save_pretrained`] does, with two additional files.

        They are a model card, unless there is already a `README.md`, and `pipeline.py`, which names the class for
        `DiffusionPipeline.from_pretrained(..., custom_pipeline="pipeline")`.

        Raises:
            ValueError: If LoRA, an IP-Adapter or fused projections are loaded. Nothing is written.
        """
        for name, component in self.components.items():
            if isinstance(component, nn.Module):
                is_of_pipeline = name in self._lora_loadable_modules
                check_no_attachments(name, component, "unload_lora_weights" if is_of_pipeline else "unload_lora")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PIPELINE_FILE).write_text(PIPELINE_CODE)  # first: diffusers may upload the folder
        super().save_pretrained(save_directory, *args, **kwargs)
        if not (folder / CARD_FILE).exists():
            card = model_card(folder.resolve().name, self.config["call_defaults"], kwargs.get("variant"))
            (folder / CARD_FILE).write_text(card)

    def _upload_folder(self, working_dir: str | Path, repo_id: str, **kwargs: Any) -> Any:
        card = Path(working_dir) / CARD_FILE
        if "hia-diffusers" not in card.read_text():  # diffusers has written an empty card
            card.write_text(model_card(repo_id, self.config["call_defaults"]))
        return super()._upload_folder(working_dir, repo_id, **kwargs)
