# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Print the section of CHANGELOG.md about a release, after checking that its tag is the version of the package."""

import argparse
import re
from pathlib import Path


ROOT = Path(__file__).parents[1]


def package_version() -> str:
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "src/hia_diffusers/__init__.py").read_text(), re.MULTILINE)[1]


def release_notes(changelog: str, version: str) -> str:
    """Return the section of a version, without its heading."""
    found = re.search(rf"^## \[{re.escape(version)}\].*\n([\s\S]*?)(?=^## |^\[|\Z)", changelog, re.MULTILINE)
    if found is None or not found[1].strip():
        raise SystemExit(f"CHANGELOG.md says nothing about {version}")
    return found[1].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("tag", help="such as v0.1.0")
    tag, version = parser.parse_args().tag, package_version()
    if tag != f"v{version}":
        raise SystemExit(f"the tag {tag} is not that of version {version}, v{version}")
    print(release_notes((ROOT / "CHANGELOG.md").read_text(), version))


if __name__ == "__main__":
    main()
