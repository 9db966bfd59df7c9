# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Which module of the package may import which, and which libraries no module may import at its top level."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest


PACKAGE = "hia_diffusers"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

# Importer -> what it may import. A folder stands for every module in it, where the module has no line of its own; a
# module that has no line at all imports nothing of ours.
ALLOWED_IMPORTS = {
    # The root only maps public names to the modules that define them.
    "__init__": {
        *("_registration", "models", "schedulers", "conditioning", "detection", "data", "pipelines", "animation"),
    },
    "models.modeling_hia": {"models.attachments", "models.component_files"},
    "models.reference_attention": {"models.attention"},
    "models.appearance_encoder": {
        *("models.attachments", "models.attention", "models.layers", "models.modeling_hia"),
        "models.reference_attention",
    },
    "models.pose_guider": {"models.conditioning_embedding", "models.modeling_hia"},
    "models.controlnet": {
        *("models.attachments", "models.attention", "models.conditioning_embedding", "models.deep_cache"),
        *("models.layers", "models.modeling_hia", "models.pose_guider"),
    },
    "models.unet_motion": {
        *("models.attachments", "models.attention", "models.deep_cache", "models.layers", "models.modeling_hia"),
        "models.reference_attention",
    },
    "models.components": {"models"},
    "models.denoiser": {"models"},
    "models.component_fit": {"models"},
    "conditioning.keypoint_files": {"conditioning.pose_files", "conditioning.whole_body"},
    "conditioning.pose_people": {"conditioning.pose_files", "conditioning.tracking", "conditioning.whole_body"},
    "conditioning.keypoints": {
        *("conditioning.keypoint_files", "conditioning.pose_files", "conditioning.pose_people"),
        "conditioning.whole_body",
    },
    "conditioning.openpose": {"conditioning.keypoints", "conditioning.whole_body"},
    "conditioning.dynamicpose": {"conditioning.keypoints", "conditioning.whole_body"},
    "conditioning.pose_maps": {
        *("conditioning.dynamicpose", "conditioning.keypoints", "conditioning.openpose", "conditioning.whole_body"),
    },
    "conditioning.skeleton_reading": {"conditioning.keypoints", "conditioning.openpose", "conditioning.whole_body"},
    "conditioning.arrays": {"images"},
    "conditioning.sharpness": {"conditioning.arrays"},
    "conditioning.motion_blur_condition": {"conditioning.arrays"},
    "conditioning.motion_blur": {
        *("conditioning.arrays", "conditioning.keypoints", "conditioning.motion_blur_condition"),
        *("conditioning.openpose", "conditioning.pose_maps", "conditioning.sharpness", "conditioning.whole_body"),
        "images",
    },
    "conditioning.conditioning_clips": {"conditioning.motion_blur", "conditioning.motion_blur_condition", "images"},
    "conditioning.regions": {"conditioning.keypoints", "conditioning.whole_body"},
    "conditioning.retargeting": {"conditioning.keypoints", "conditioning.whole_body"},
    "detection": {"conditioning", "detection"},
    "video": {"images", "video"},
    "procedural": {"conditioning", "procedural"},
    "preparation": {"conditioning", "detection", "images", "preparation", "video"},
    "data": {"conditioning", "data", "preparation.clip_index", "procedural", "video"},
    "loaders": {"images", "loaders", "models"},
    "pipelines": {"conditioning", "finite_results", "images", "models", "pipelines"},
    # By function: what is published, or has another project's layout, becomes a pipeline first.
    "pipelines.pipeline_folder": {
        *("conversion.hub_downloads", "conversion.recognition", "models", "pipelines.model_card"),
    },
    "pipelines.inputs": {"conditioning", "images", "loaders.ip_adapter", "models", "pipelines"},
    "pipelines.pipeline_switches": {"memory.fitting", "pipelines.call_defaults"},  # the first by function
    "pipelines.streaming": {"exclusive_use"},
    "pipelines.pipeline_hia": {"conditioning", "exclusive_use", "finite_results", "loaders", "models", "pipelines"},
    "pipelines.modular": {
        *("animation.animator", "conditioning", "exclusive_use", "finite_results", "loaders", "models", "pipelines"),
        "schedulers",
    },
    "memory.training_memory": {"memory.counting", "models", "training"},
    "memory.call_memory": {"memory.counting", "models", "pipelines"},
    "memory.fitting": {"memory.call_memory", "memory.counting", "models", "pipelines"},
    "animation": {"animation", "conditioning", "detection", "images", "pipelines", "video"},
    "metrics": {"images", "metrics", "procedural"},
    "metrics.folders": {"conditioning", "images", "metrics", "video"},
    "metrics.procdance": {"conditioning", "finite_results", "metrics", "models", "procedural"},
    "training": {"conditioning", "data", "memory", "metrics", "models", "pipelines", "schedulers", "training"},
    "training.validation": {"data", "metrics", "pipelines", "training", "video"},
    "conversion": {"conversion", "models", "pipelines", "schedulers"},
    # Commands are like users: they may import the root.
    "commands": {
        *("__init__", "animation", "app", "commands", "conversion", "detection", "metrics", "pipelines"),
        *("preparation", "video", "models.deep_cache"),
    },
    "app": {"animation", "app", "conditioning", "detection", "images", "pipelines", "procedural", "video"},
    "__main__": {"__init__", "commands"},
}

# What any module may import; it imports nothing else of ours.
COMMON = {"checks", "files", "fitting", "folder_lock", "natural_order", "state_dicts", "tensor_checks"}

# Everyone who installs the package may lack these; each belongs in the function that needs it.
OPTIONAL_LIBRARIES = {
    *("bitsandbytes", "controlnet_aux", "datasets", "gradio", "imwatermark", "insightface", "lpips", "matplotlib"),
    *(
        "mediapipe",
        "onnx",
        "onnxruntime",
        "pandas",
        "peft",
        "pillow_heif",
        "pyarrow",
        "ray",
        "rtmlib",
        "scipy",
        "tensorboard",
        "torch_fidelity",
    ),
    *("torchmetrics", "yaml"),
}


def covers(entry: str, module: str) -> bool:
    return module == entry or module.startswith(f"{entry}.")


def allowed_imports(module: str) -> set[str]:
    entries = [entry for entry in ALLOWED_IMPORTS if covers(entry, module)]
    return COMMON | (ALLOWED_IMPORTS[max(entries, key=len)] if entries else set())


def package_modules(source: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name in it; a folder's `__init__` keeps that as its last part."""
    paths = sorted(source.rglob("*.py"))
    return {".".join(path.relative_to(source).with_suffix("").parts): path for path in paths}


def imported_names(nodes: Iterator[ast.AST], module: str) -> Iterator[str]:
    """The absolute dotted names, down to the imported attribute, of the import statements among the nodes."""
    folders = [PACKAGE, *module.split(".")[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folders[: len(folders) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*prefix, alias.name]) for alias in node.names)


def imports_at_module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run on import: all but those inside functions and under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (statement for branch in node.orelse for statement in ast.walk(branch))
            continue
        yield node
        yield from imports_at_module_level(node)


def forbidden_imports(source: Path) -> list[str]:
    modules = package_modules(source)
    found = []
    for module, path in modules.items():
        for name in imported_names(ast.walk(ast.parse(path.read_text())), module):
            if not covers(PACKAGE, name):
                continue
            target = name.removeprefix(PACKAGE).removeprefix(".")
            while target and target not in modules and f"{target}.__init__" not in modules:
                target = target.rpartition(".")[0]
            target = target or "__init__"
            if not any(covers(entry, target) for entry in allowed_imports(module)):
                found.append(f"{module} -> {target}")
    return sorted(set(found))


def eager_optional_imports(source: Path) -> list[str]:
    found = []
    for module, path in package_modules(source).items():
        for name in imported_names(imports_at_module_level(ast.parse(path.read_text())), module):
            if name.split(".")[0] in OPTIONAL_LIBRARIES:
                found.append(f"{module} -> {name.split('.')[0]}")
    return found


def write_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_modules_import_only_the_layers_below_them():
    assert forbidden_imports(SOURCE) == []


def test_examples_import_no_other_example():
    examples = {path.stem: path for path in (SOURCE.parents[1] / "examples").glob("*.py")}
    assert len(examples) > 5
    for name, path in examples.items():
        imported = {other.split(".")[0] for other in imported_names(ast.walk(ast.parse(path.read_text())), name)}
        assert not imported & examples.keys(), name


def test_optional_libraries_are_imported_in_functions():
    assert eager_optional_imports(SOURCE) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from ..pipeline_hia import HIAPipeline",
        "from .. import pipeline_hia",
        "from hia_diffusers.pipeline_hia import HIAPipeline",
        "from hia_diffusers import pipeline_hia",
        "import hia_diffusers.pipeline_hia",
        "def late():\n    from ..pipeline_hia import HIAPipeline",
    ],
)
def test_checker_finds_a_forbidden_import_however_it_is_written(tmp_path, statement):
    files = {"__init__.py": "", "pipeline_hia.py": "", "models/__init__.py": "", "models/controlnet.py": statement}
    source = write_package(tmp_path, files)
    assert forbidden_imports(source) == ["models.controlnet -> pipeline_hia"]


def test_checker_tells_modules_of_one_folder_apart_and_refuses_the_root(tmp_path):
    files = {
        "__init__.py": "from .conditioning.keypoints import WholeBodyKeypoints",
        "conditioning/__init__.py": "",
        "conditioning/keypoints.py": "from .openpose import draw_openpose",
        "conditioning/openpose.py": "from .keypoints import WholeBodyKeypoints\nfrom .. import __version__",
        "context_windows.py": "import torch\nfrom . import conditioning",
    }
    source = write_package(tmp_path, files)
    assert forbidden_imports(source) == [
        "conditioning.keypoints -> conditioning.openpose",
        "conditioning.openpose -> __init__",
        "context_windows -> conditioning",
    ]


def test_checker_finds_an_optional_library_only_where_it_is_imported_eagerly(tmp_path):
    files = {
        "eager.py": "import onnxruntime as ort\nclass Detector:\n    import rtmlib.tools",
        "guarded.py": "try:\n    from peft import LoraConfig\nexcept ImportError:\n    LoraConfig = None",
        "lazy.py": "def detect():\n    import insightface",
        "typed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray",
    }
    source = write_package(tmp_path, files)
    assert eager_optional_imports(source) == ["eager -> onnxruntime", "eager -> rtmlib", "guarded -> peft"]
