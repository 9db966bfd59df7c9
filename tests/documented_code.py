# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the documentation, and a process that runs those of a page one after the other.

Python is executed, in one namespace per page. Of commands, those that take seconds with small inputs are executed, and
the others are given to the parser of the program that they call.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import yaml
from packaging.requirements import Requirement


try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

# Scripts and commands that run here; those that are not named are parsed.
EXECUTED = {
    *("animate", "convert", "evaluate", "prepare"),
    *("examples/make_demo_inputs.py", "examples/train_autoencoder.py"),
}

# Of no extra: without it a block that imports it is compiled, and its other imports are executed.
OPTIONAL_LIBRARY = "torchao"

# What the process that pages are forked from imports, so that they need not.
PRELOADED = (
    *("datasets", "diffusers.pipelines", "huggingface_hub.cli.hf", "onnxruntime", "rtmlib", "transformers"),
    *("documented_inputs", "hia_diffusers.animation.animator", "hia_diffusers.commands.animate"),
    *("hia_diffusers.commands.convert", "hia_diffusers.commands.evaluate", "hia_diffusers.commands.prepare"),
    *("hia_diffusers.data.dataset", "hia_diffusers.metrics.evaluation", "hia_diffusers.pipelines.pipeline_hia"),
)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block; `line` is that of its fence."""

    line: int
    language: str
    text: str


def code_blocks(page: Path) -> list[CodeBlock]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    fences = re.finditer(r"^( *)```([\w-]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    blocks = [CodeBlock(text[: fence.start()].count("\n") + 1, fence[2], fence[3]) for fence in fences]
    assert 2 * len(blocks) == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page} has a fence of another form"
    return blocks


def commands(text: str) -> list[str]:
    """The commands of a block, without what goes on in the next line and comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


# Blocks by their language


def run_python(text: str, namespace: dict) -> None:
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    foreign = [node for node in imports if OPTIONAL_LIBRARY in ast.unparse(node).split()[1]]
    if foreign and importlib.util.find_spec(OPTIONAL_LIBRARY) is None:
        tree.body = [node for node in imports if node not in foreign]
    exec(compile(tree, "block", "exec"), namespace)


def run_bash(text: str, namespace: dict) -> None:
    for command in commands(text):
        sys.stdout.write(f"$ {command}\n")
        sys.stdout.flush()
        run_command(shlex.split(command, comments=True))


def read_json(text: str, namespace: dict) -> None:
    for line in text.splitlines():
        json.loads(line)


def read_yaml(text: str, namespace: dict) -> None:
    assert isinstance(yaml.safe_load(text), dict)


def read_bibtex(text: str, namespace: dict) -> None:
    entry = re.fullmatch(r"@\w+\{\w+,\n((?: +\w+ += \{[^{}]+\},?\n)+)\}\n", text)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert re.search(r"title += \{(.+)\}", entry[1])[1] == cited["preferred-citation"]["title"]


def read_nginx(text: str, namespace: dict) -> None:
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    assert all(line == "}" or re.fullmatch(r"[a-z_]+ [^{};]+( \{|;)", line) for line in lines if line)
    assert text.count("{") == text.count("}")


LANGUAGES = {
    "python": run_python,
    "bash": run_bash,
    "json": read_json,
    "yaml": read_yaml,
    "bibtex": read_bibtex,
    "nginx": read_nginx,
    "text": lambda text, namespace: None,  # trees of files, and what a program prints
}


# Commands by their program


def run_command(words: Sequence[str]) -> None:
    environment = {}
    while match := re.fullmatch(r"([A-Z_]+)=(.*)", words[0]):
        environment[match[1]], words = match[2], words[1:]
    program, *arguments = words
    if program not in PROGRAMS:
        raise ValueError(f"no program of which is known how to check its calls: {program}")
    with mock.patch.dict(os.environ, environment):
        PROGRAMS[program](arguments)


def check_pip(arguments: list[str]) -> None:
    """Options are pip's, extras are ours, and packages are those that an extra or the examples have."""
    from pip._internal.commands import create_command

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {Requirement(line).name for lines in [project["dependencies"], *extras.values()] for line in lines}
    options, names = create_command(arguments[0]).parse_args(arguments[1:])
    for file in getattr(options, "requirements", None) or []:
        assert Path(file).is_file(), file
        names += [line for line in Path(file).read_text().splitlines() if not line.startswith(("#", "-e"))]
        known.add("bitsandbytes")
    assert names
    for requirement in map(Requirement, names):
        assert requirement.name in known | {"hia-diffusers"}, requirement
        assert requirement.name != "hia-diffusers" or requirement.extras <= extras.keys(), requirement


def check_make(arguments: list[str]) -> None:
    subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def run_mkdir(arguments: list[str]) -> None:
    subprocess.run(["mkdir", *arguments], check=True)


def run_hf(arguments: list[str]) -> None:
    from huggingface_hub.cli.hf import main

    with mock.patch.object(sys, "argv", ["hf", *arguments]):
        ends_well(main)


def run_diffusers_cli(arguments: list[str]) -> None:
    from diffusers.commands.diffusers_cli import main

    with mock.patch.object(sys, "argv", ["diffusers-cli", *arguments]):
        ends_well(main)


def run_hia_diffusers(arguments: list[str]) -> None:
    command, *options = arguments
    from hia_diffusers.__main__ import COMMANDS

    assert command in COMMANDS, command
    main = importlib.import_module(f"hia_diffusers.commands.{command}").main
    if command in EXECUTED and "ray" not in options:
        ends_well(lambda: main(options))
    else:
        with only_parsed():
            main(options)


def run_interpreter(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        with mock.patch.object(sys, "argv", arguments[1:]):
            return ends_well(lambda: runpy.run_module(arguments[1], run_name="__main__", alter_sys=True))
    script, *options = arguments
    if script in EXECUTED:
        with as_script(script, options):
            return ends_well(lambda: runpy.run_path(script, run_name="__main__"))
    check_script(script, options)


def check_script(script: str, options: list[str]) -> None:
    """Where a script has a function `parse_args`, that is asked, since it may look at more than each option alone."""
    with as_script(script, options):
        parse_args = runpy.run_path(script).get("parse_args")
        if parse_args is not None:
            parse_args(options)
        else:
            with only_parsed():
                runpy.run_path(script, run_name="__main__")


def check_accelerate(arguments: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert arguments[0] == "launch", arguments
    launch = launch_command_parser().parse_args(arguments[1:])
    assert launch.config_file is None or Path(launch.config_file).is_file(), launch.config_file
    check_script(launch.training_script, launch.training_script_args)


def run_all_stages(arguments: list[str]) -> None:
    """It trains where this interpreter launches it, and else runs in an empty folder, to tell what it would launch."""
    launch = os.environ.get("LAUNCH", "accelerate launch")
    command = ["bash", "examples/train_all_stages.sh", *arguments]
    if launch == sys.executable:
        subprocess.run(command, check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "examples").symlink_to(ROOT / "examples")
        Path(folder, "tell.py").write_text("import json, sys\nprint('called', json.dumps(sys.argv[1:]))\n")
        environment = {**os.environ, "LAUNCH": f"{sys.executable} tell.py"}
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    printed = done.stdout
    calls = re.findall(r"^called (.*)$", printed, re.MULTILINE)
    assert len(calls) == 4, printed
    for call in calls:
        run_command([*shlex.split(launch), *json.loads(call)])


PROGRAMS = {
    "pip": check_pip,
    "make": check_make,
    "hf": run_hf,
    "mkdir": run_mkdir,
    "diffusers-cli": run_diffusers_cli,
    "hia-diffusers": run_hia_diffusers,
    "python": run_interpreter,
    "accelerate": check_accelerate,
    "examples/train_all_stages.sh": run_all_stages,
}


class Parsed(BaseException):
    """The arguments of a program were accepted."""


@contextlib.contextmanager
def only_parsed() -> Iterator[None]:
    """Ends a program when its arguments are parsed; it is an error if they are not."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_end(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_end):
        try:
            yield
        except Parsed:
            return
    raise AssertionError("the program has parsed no arguments")


@contextlib.contextmanager
def as_script(script: str, options: list[str]) -> Iterator[None]:
    """What Python sets for a script."""
    path = [str(Path(script).resolve().parent), *sys.path]
    with mock.patch.object(sys, "argv", [script, *options]), mock.patch.object(sys, "path", path):
        yield


def ends_well(main) -> None:
    try:
        main()
    except SystemExit as exit_:
        assert exit_.code in (None, 0), f"exit status {exit_.code}"


# The process


class PageRunner:
    """Runs pages in processes forked from one that has done the imports.

        with PageRunner({"HF_ENDPOINT": server.endpoint}) as runner:
            runner.run(blocks, ["image"], tmp_path)

    Args:
        environment (`dict[str, str]`):
            Of these processes, beside that of this one.
    """

    def __init__(self, environment: dict[str, str]):
        self.environment = {**os.environ, **environment}

    def __enter__(self) -> "PageRunner":
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *exception_info) -> None:
        self.process.communicate()

    def run(self, blocks: Sequence[CodeBlock], names: Sequence[str], folder: Path) -> None:
        """Run the blocks in a folder, in one namespace that holds some of the inputs from the start."""
        request = {"blocks": [vars(block) for block in blocks], "names": list(names), "folder": str(folder)}
        self.process.stdin.write(f"{json.dumps(request)}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        log = folder / "log.txt"
        assert answer.strip() == "0", log.read_text()[-6000:] if log.exists() else "the runner has ended"


def run_page(request: dict) -> None:
    """Run the blocks of a request; prints the block that fails."""
    from documented_inputs import INPUTS

    os.chdir(request["folder"])
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    namespace = {name: INPUTS[name]() for name in request["names"]}
    for block in request["blocks"]:
        sys.stdout.write(f"--- line {block['line']}\n{block['text']}")
        sys.stdout.flush()
        LANGUAGES[block["language"]](block["text"], namespace)


def serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run_page(json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
