# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What an installed package promises: one version, documented public names, a cheap import, a clean wheel."""

import ast
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import hia_diffusers


ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hia_diffusers"

# Distributions whose top-level module has another name.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless"}


def documented_arguments(docstring: str | None) -> list[str]:
    """The names in the `Args:` block of a docstring; one line may document several, `height, width (...)`."""
    block = re.search(r"^Args:\n((?:(?:    .*)?\n)+)", f"{inspect.cleandoc(docstring or '')}\n", re.MULTILINE)
    lines = re.findall(r"^    (\S.*)$", block[1], re.MULTILINE) if block else []
    return [name for line in lines for name in re.split(r", ", re.split(r"[(:]", line)[0].strip())]


def signature_arguments(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def documented_callables(public) -> list:
    """A public function or class (its docstring documents the constructor) and its own `__call__` and `forward`."""
    return [public, *(vars(public)[name] for name in ("__call__", "forward") if name in vars(public))]


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


@pytest.mark.parametrize("name", [name for name in hia_diffusers.__all__ if callable(getattr(hia_diffusers, name))])
def test_public_name_is_documented_as_its_signatures_say(name):
    public = getattr(hia_diffusers, name)
    for function in documented_callables(public):
        documented, accepted = documented_arguments(function.__doc__), signature_arguments(function)
        if documented[-1:] == ["kwargs"] and "kwargs" not in accepted:
            # `kwargs` stands for the arguments of the diffusers class that is extended, which documents them.
            inherited = {name for parent in public.__mro__[1:-1] for name in signature_arguments(parent)}
            documented, accepted = documented[:-1], [name for name in accepted if name not in inherited]
        assert function.__doc__
        assert documented == accepted, function.__qualname__


def test_argument_check_reads_docstrings_as_they_are_written():
    docstring = """Do it.

    Args:
        image (`PIL.Image.Image`, *optional*):
            An image: any size.

            More of it.
        height, width (`int`):
            Its size.

    Returns:
        `int`: a number.
    """
    assert documented_arguments(docstring) == ["image", "height", "width"]
    assert documented_arguments("No arguments.") == []


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
