# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of `hia_diffusers` in diffusers as a library of pipeline components.

diffusers downloads a pipeline from the Hub only if its table `LOADABLE_CLASSES` contains the library of every
component. The table is in a module that takes seconds to import, so the entry is added when diffusers itself imports
it.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


TABLE_MODULE = "diffusers.pipelines.pipeline_loading_utils"
BASE_CLASSES = ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")


def _add_entry(module: ModuleType) -> None:
    module.LOADABLE_CLASSES["hia_diffusers"] = {
        base_class: ["save_pretrained", "from_pretrained"] for base_class in BASE_CLASSES
    }


class _EntryOnImport(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != TABLE_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_add_entry(module: ModuleType) -> None:
            run(module)
            _add_entry(module)

        spec.loader.exec_module = run_and_add_entry  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Add the entry now, or when diffusers imports its table."""
    if TABLE_MODULE in sys.modules:
        _add_entry(sys.modules[TABLE_MODULE])
    else:
        sys.meta_path.insert(0, _EntryOnImport())
