# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Check the sdist and the wheel of a release: their metadata, their files, and that they work in an empty environment.

An environment with torch needs up to 8 GB; environments are created one after the other, and deleted.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


SMOKE_CHECK = Path(__file__).with_name("smoke_check.py")
ENVIRONMENT_BYTES = 10 * 10**9


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("dist", type=Path, help="folder with one wheel and its sdist, as `python -m build` fills it")
    help = "a Python to install the wheel for, such as python3.10; may be repeated (default: the current one)"
    parser.add_argument("--python", action="append", help=help)
    return parser


def only_file(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise SystemExit(f"{folder} must contain one {pattern}, but contains {len(files)}")
    return files[0]


def contents(wheel: Path) -> dict[str, str]:
    """Return the hash of every file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def check_metadata(wheel: Path, sdist: Path) -> None:
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], check=True)


def check_sdist(wheel: Path, sdist: Path, folder: Path) -> None:
    """Check that the same wheel can be built from the sdist alone."""
    shutil.unpack_archive(sdist, folder, filter="data")
    source = only_file(folder, "hia_diffusers-*")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", source], check=True)
    rebuilt, expected = contents(only_file(folder / "dist", "*.whl")), contents(wheel)
    different = sorted(name for name in rebuilt.keys() | expected.keys() if rebuilt.get(name) != expected.get(name))
    if different:
        raise SystemExit(f"{sdist.name} makes another wheel than {wheel.name}; these files differ: {different}")
    print(f"{sdist.name} makes the wheel again, file by file: {len(expected)} files.", flush=True)


def check_installation(wheel: Path, python: str, folder: Path) -> None:
    """Check that the wheel works in an empty environment, outside the source tree."""
    free = shutil.disk_usage(folder).free
    if free < ENVIRONMENT_BYTES:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free; an environment needs {ENVIRONMENT_BYTES / 1e9:.0f}")
    subprocess.run([python, "-m", "venv", folder / "environment"], check=True)
    binaries = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", wheel], check=True)
    subprocess.run([binaries / "python", "-m", "pip", "check"], check=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [binaries / "python", "-I", SMOKE_CHECK]
    subprocess.run(command, check=True, cwd=folder, env={**variables, **offline})


def main() -> None:
    args = make_parser().parse_args()
    wheel, sdist = only_file(args.dist.resolve(), "*.whl"), only_file(args.dist.resolve(), "*.tar.gz")
    check_metadata(wheel, sdist)
    with tempfile.TemporaryDirectory() as folder:
        check_sdist(wheel, sdist, Path(folder))
    for python in args.python or [sys.executable]:
        with tempfile.TemporaryDirectory() as folder:
            check_installation(wheel, python, Path(folder))


if __name__ == "__main__":
    main()
