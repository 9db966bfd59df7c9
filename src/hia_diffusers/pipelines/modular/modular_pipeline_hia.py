# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The modular pipeline of HIA: loading with checks, calling, and saving."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ModularPipeline, ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from torch import nn

from ... import checks
from ...exclusive_use import one_call_at_a_time
from ...models.attachments import check_no_attachments
from ...models.modeling_hia import check_finite_weights, copy_out_of_mapped_file
from ..pipeline_folder import check_component, check_index, check_modular_index
from .modular_blocks_hia import HIABlocks


# A saved folder contains no code of its own, but diffusers looks for the module of the blocks' class.
BLOCKS_FILE = "modular_blocks_hia.py"
BLOCKS_CODE = """# The blocks are those of the installed package: pip install hia-diffusers
from hia_diffusers import HIABlocks
"""


class HIAModularPipeline(ModularPipeline):
    """A modular pipeline of [`HIABlocks`].

    `HIAModularPipeline.from_pretrained` reads its own folders and those of [`HIAPipeline`], and runs no code from
    them. Folders written by `save_pretrained` can also be read by `diffusers.ModularPipeline` with
    `trust_remote_code=True`, and thus by the command `diffusers-cli`.

    Args:
        blocks (`ModularPipelineBlocks`, *optional*):
            By default, all of [`HIABlocks`].
        kwargs:
            Arguments of [`~diffusers.ModularPipeline`].
    """

    default_blocks_name = "HIABlocks"

    def __init__(self, blocks: ModularPipelineBlocks | None = None, **kwargs: Any) -> None:
        if kwargs.get("pretrained_model_name_or_path") is not None:  # diffusers does not load components from a `Path`
            kwargs["pretrained_model_name_or_path"] = str(kwargs["pretrained_model_name_or_path"])
        super().__init__(blocks=HIABlocks() if blocks is None else blocks, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, trust_remote_code: bool = False, **kwargs: Any
    ) -> "HIAModularPipeline":
        """Create a pipeline for a checkpoint, whose components are loaded by `load_components`.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or folder of a [`HIAPipeline`] or [`HIAModularPipeline`].
            trust_remote_code (`bool`, *optional*, defaults to `False`):
                Whether to use the blocks in the folder, which are code, instead of [`HIABlocks`].
            kwargs:
                Arguments of [`~diffusers.ModularPipeline.from_pretrained`].
        """
        if trust_remote_code:
            return super().from_pretrained(pretrained_model_name_or_path, trust_remote_code=True, **kwargs)
        return cls(pretrained_model_name_or_path=pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _load_pipeline_config(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        modular, plain = super()._load_pipeline_config(*args, **kwargs)
        # Check them before the libraries that they name are imported.
        check_modular_index(modular or {})
        check_index(plain or {})
        # HIAPipeline writes [null, null] for components that it lacks; there is nothing to load.
        return modular, plain and {name: value for name, value in plain.items() if value != [None, None]}

    @checks.python_numbers
    @one_call_at_a_time
    def __call__(
        self, state: PipelineState | None = None, output: str | list[str] | None = None, **kwargs: Any
    ) -> Any:
        """Run the blocks as [`~diffusers.ModularPipeline.__call__`] does. Calls that share components take turns.

        Missing inputs are those of `call_defaults` in the configuration, or else those of [`HIAPipeline.__call__`].

        Args:
            state (`PipelineState`, *optional*):
                State of an earlier call, to continue from.
            output (`str` or `list[str]`, *optional*):
                Names of the values to return instead of the state.
            kwargs:
                Inputs of the blocks.
        """
        return super().__call__(state, output, **kwargs)

    def load_components(self, names: list[str] | str | None = None, **kwargs: Any) -> None:
        """Load components as [`~diffusers.ModularPipeline.load_components`] does, in float32 by default.

        Args:
            names (`list[str]` or `str`, *optional*):
                Names of the components. By default, all that have a source and are not loaded yet.
            kwargs:
                Arguments of [`~diffusers.ModularPipeline.load_components`].

        Raises:
            OSError: If a file is missing.
            ValueError: If a component cannot be loaded, or its weights have missing or unexpected keys or are not
                finite floating-point numbers. The component is then missing.
        """
        if "torch_dtype" not in kwargs:  # otherwise, transformers uses the dtype in its config
            kwargs.setdefault("dtype", torch.float32)
        before = {name for name in self._component_specs if getattr(self, name, None) is not None}
        super().load_components(names, **kwargs)
        wanted = {names} if isinstance(names, str) else set(self._component_specs if names is None else names)
        for name in wanted & set(self._component_specs) - (before if names is None else set()):
            spec, component = self._component_specs[name], getattr(self, name, None)
            source = spec.pretrained_model_name_or_path
            if source is None or not isinstance(component, (nn.Module, type(None))):
                continue
            try:
                loaded_class = spec.type_hint if component is None else type(component)
                hub_options = {"revision": spec.revision, "cache_dir": kwargs.get("cache_dir")}
                check_component(
                    name, loaded_class, source, subfolder=spec.subfolder, variant=spec.variant, **hub_options
                )
                if component is None:
                    raise ValueError(f"`{name}` cannot be loaded from {source}; a warning says why.")
                check_finite_weights(component, source)
                copy_out_of_mapped_file(component)
            except (OSError, ValueError):
                self.register_components(**{name: None})
                raise

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the pipeline as [`~diffusers.ModularPipeline.save_pretrained`] does, together with its blocks.

        Blocks of another class than [`HIABlocks`] are saved by their own `save_pretrained`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder.
            kwargs:
                Arguments of [`~diffusers.ModularPipeline.save_pretrained`]; `overwrite_modular_index` is `True` by
                default.

        Raises:
            ValueError: If LoRA, an IP-Adapter or fused projections are loaded. Nothing is written.
        """
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                check_no_attachments(name, component)
        if type(self._blocks) is HIABlocks:
            self._blocks.save_pretrained(save_directory)
            (Path(save_directory) / BLOCKS_FILE).write_text(BLOCKS_CODE)
        super().save_pretrained(str(save_directory), **{"overwrite_modular_index": True, **kwargs})

    def to_json_string(self) -> str:
        """Return the configuration as JSON."""
        # Diffusers looks up the class that loads the folder among its own classes.
        config = json.loads(super().to_json_string()) | {"_class_name": ModularPipeline.__name__}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"
