# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What releases a version: workflows and forms that parse and name files that exist, and notes from the changelog."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hia_diffusers


ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
NOTES_SCRIPT = ROOT / "release" / "release_notes.py"
release_notes = runpy.run_path(str(NOTES_SCRIPT))["release_notes"]


def load_workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_name_jobs_actions_and_files_that_are_there(path):
    workflow = load_workflow(path.name)
    assert workflow.keys() == {"name", True, "permissions", "jobs"} | ({"concurrency"} & workflow.keys())  # True: `on`
    for job in workflow["jobs"].values():
        assert job.get("uses") == "./.github/workflows/ci.yml" or job["runs-on"] == "ubuntu-latest"
        assert job.get("needs") in {None, *workflow["jobs"]}
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])  # what a tag names can be changed
        for word in shlex.split(step.get("run", ""), comments=True):
            if re.match(r"\.ci/|release/|examples/", word):
                assert (ROOT / word).is_file(), word


def test_changes_are_checked_by_the_script_that_people_run():
    workflow = load_workflow("ci.yml")
    assert "pull_request" in workflow[True]
    assert [step["run"] for step in steps(workflow) if "run" in step] == [".ci/run"]


def test_only_a_checked_tag_is_published_and_without_a_password():
    workflow = load_workflow("release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    assert [jobs[name].get("needs") for name in ("test", "build", "check", "publish", "announce")] == [
        *(None, "test", "build", "check", "publish"),
    ]
    assert jobs["test"] == {"uses": "./.github/workflows/ci.yml"} and "workflow_call" in load_workflow("ci.yml")[True]
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["environment"] == "pypi"
    assert "secrets" not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert jobs["check"]["strategy"]["matrix"]["python"] == classifiers


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_have_what_github_asks_for(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in {"input", "textarea"} and field["attributes"]["label"]
    if path.stem != "feature":
        assert {"version", "environment"} <= set(ids)


def test_release_notes_are_the_section_of_the_version():
    changelog = (
        "# Changelog\n\n## [Unreleased]\n\n- soon\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- this\n\n## [0.1.0]\n"
    )
    assert release_notes(changelog, "0.2.0") == "### Added\n\n- this"
    for version in ("0.1.0", "0.2"):
        with pytest.raises(SystemExit, match=f"CHANGELOG.md says nothing about {version}"):
            release_notes(changelog, version)


def test_a_tag_that_is_not_the_version_is_refused():
    command = [sys.executable, str(NOTES_SCRIPT), "v99.0.0"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0
    version = hia_diffusers.__version__
    assert refused.stderr == f"the tag v99.0.0 is not that of version {version}, v{version}\n"
