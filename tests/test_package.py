# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What an installed package promises: one version, a cheap import, a clean wheel."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import hia_diffusers


ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hia_diffusers"

# Distributions whose top-level module has another name.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless"}


def third_party_imports(path: Path) -> set[str]:
    """Libraries that a module names in an import statement outside functions."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hia_diffusers"}


def loaded_modules(statement: str) -> set[str]:
    """Names in `sys.modules` after a statement in a fresh process."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_version_is_written_in_one_place():
    assert importlib.metadata.version("hia-diffusers") == hia_diffusers.__version__
    written = f'"{hia_diffusers.__version__}"'
    places = [ROOT / "pyproject.toml", *SOURCE.rglob("*.py")]
    assert [path.name for path in places if re.search(rf"version.*{re.escape(written)}", path.read_text())] == [
        "__init__.py"
    ]


def test_every_import_is_a_declared_dependency():
    required = importlib.metadata.requires("hia-diffusers")
    declared = {re.match(r"[\w.-]+", line)[0].lower() for line in required if "extra ==" not in line}
    imported = set().union(*(third_party_imports(path) for path in SOURCE.rglob("*.py")))
    assert {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in imported} <= declared


def test_import_loads_nothing_beyond_diffusers():
    added = loaded_modules("import hia_diffusers") - loaded_modules("import diffusers")
    foreign = {name.split(".")[0] for name in added} - {"hia_diffusers"} - set(sys.stdlib_module_names)
    assert foreign == set()


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"hia_diffusers-{hia_diffusers.__version__}.dist-info"
    assert {"hia_diffusers/py.typed", f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= names
    assert {f"hia_diffusers/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")} <= names
    assert {name.split("/")[0] for name in names} == {"hia_diffusers", info}


def test_sdist_holds_all_that_is_needed_to_build_test_and_release(tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("benchmarks", "docs", "examples", "integrations", "release", "src", "tests")
    written = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert written <= names
    assert {"LICENSE", "NOTICE", "CHANGELOG.md", "Makefile", "integrations/comfyui/requirements.txt"} <= names
    assert not {name.split("/")[0] for name in names} & {".venv", "build", "dist", "runs"}
