# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Docstrings document the arguments that signatures have: their names, their order and their defaults."""

import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import hia_diffusers


API_PAGES = Path(__file__).parents[1] / "docs" / "api"

# More arguments than this need a description each.
UNDESCRIBED_ARGUMENTS = 2

# An entry of `Args:`, such as "height, width (`int`, *optional*, defaults to 512):", or "kwargs:" without a type.
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<kind>.+)\))?:")

# A default is the rest of the entry; words such as "50 MiB" are not compared.
DEFAULT = re.compile(r".*, defaults to (`.+`|[-\d.e]+)")


def documented_arguments(docstring: str | None) -> list[tuple[str, str | None]]:
    """Names in the `Args:` section of a docstring, each with the text in the parentheses of its entry."""
    block = re.search(r"^Args:\n((?:(?:    .*)?\n)+)", f"{inspect.cleandoc(docstring or '')}\n", re.MULTILINE)
    lines = re.findall(r"^    (\S.*)$", block[1], re.MULTILINE) if block else []
    entries = [ENTRY.fullmatch(line) for line in lines]
    if None in entries:
        raise ValueError(f"`Args` must contain entries such as 'name (`int`):', got {lines[entries.index(None)]!r}.")
    return [(name.lstrip("*"), entry["kind"]) for entry in entries for name in entry["names"].split(", ")]


def parameters_of(documented: object) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(documented).parameters
    except ValueError:  # an exception with the constructor of its base class
        return {}
    return {name: parameter for name, parameter in parameters.items() if name not in ("self", "cls")}


def mistakes(documented: object, scope: dict[str, object]) -> list[str]:
    """What the `Args:` section of a function or class says differently from its signature, by argument.

    `scope` contains the names that defaults may use.
    """
    arguments, parameters = documented_arguments(documented.__doc__), parameters_of(documented)
    if not arguments:
        return []
    names, accepted = [name for name, _ in arguments], list(parameters)
    if isinstance(documented, type) and names[-1] == "kwargs" and "kwargs" not in parameters:
        # `kwargs` stands for the arguments of the diffusers class that is extended, which documents them.
        inherited = {name for parent in documented.__mro__[1:-1] for name in parameters_of(parent)}
        names, accepted = names[:-1], [name for name in accepted if name not in inherited]
    if names != accepted:
        return [f"documents {names}, accepts {accepted}"]
    return [
        f"{name} ({kind})"
        for name, kind in arguments
        # An entry without parentheses refers to another docstring.
        if kind and name in parameters and not is_correct(kind, parameters[name], scope)
    ]


def is_correct(kind: str, parameter: inspect.Parameter, scope: dict[str, object]) -> bool:
    """Whether an entry says that an argument is optional exactly if it is, and states no wrong default."""
    is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    if ("*optional*" in kind) != (parameter.default is not parameter.empty) and not is_variable:
        return False
    stated = DEFAULT.fullmatch(kind)
    return not stated or eval(stated[1].strip("`"), scope) == parameter.default


def documented_objects() -> Iterator[tuple[str, object, dict[str, object]]]:
    """Every function, class and method of the package, by its full name, with the names of its module."""
    for info in pkgutil.walk_packages(hia_diffusers.__path__, "hia_diffusers."):
        if info.name == "hia_diffusers.__main__":
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != info.name or not isinstance(value, type | types.FunctionType):
                continue
            yield f"{info.name}.{name}", value, vars(module)
            for method_name, method in vars(value).items() if isinstance(value, type) else ():
                method = getattr(method, "__func__", method)
                if isinstance(method, types.FunctionType):
                    yield f"{info.name}.{name}.{method_name}", method, vars(module)


def test_arguments_are_those_of_the_signature():
    found = {name: mistakes(value, scope) for name, value, scope in documented_objects()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def describes_arguments(docstring: str | None) -> bool:
    """Whether a docstring has an `Args:` section, or says whose arguments they are."""
    return bool(documented_arguments(docstring) or re.search(r"are those of \[`", " ".join((docstring or "").split())))


def test_arguments_of_public_callables_are_described():
    listed = {line.removeprefix("::: ") for page in API_PAGES.glob("*.md") for line in page.read_text().splitlines()}
    exported = [getattr(hia_diffusers, name) for name in hia_diffusers.__all__]
    for name, value, _ in documented_objects():
        if value in exported or name in listed:
            assert len(parameters_of(value)) <= UNDESCRIBED_ARGUMENTS or describes_arguments(value.__doc__), name


def planted(image: str, size: tuple[int, int] = (512, 896), fps: float = 30.0, **kwargs: int) -> None: ...


ARGUMENTS = """Do it.

    Args:
        image (`str`):
            An image: any size.

            More of it.
        size (`tuple[int, int]`, *optional*, defaults to `(512, 896)`):
            Its size.
        fps (`float`, *optional*, defaults to 30.0):
            Its rate.
        kwargs:
            Others.

    Returns:
        `int`: A number.
    """


@pytest.mark.parametrize(
    "right, wrong, mistake",
    [
        ("", "", []),
        ("image (", "picture (", ["documents ['picture', 'size', 'fps', 'kwargs'], accepts"]),
        ("image (`str`)", "image (`str`, *optional*)", ["image (`str`, *optional*)"]),
        ("`float`, *optional*, defaults to 30.0", "`float`", ["fps (`float`)"]),
        ("30.0", "25.0", ["fps (`float`, *optional*, defaults to 25.0)"]),
        ("(512, 896)", "(896, 512)", ["size (`tuple[int, int]`, *optional*, defaults to `(896, 512)`)"]),
    ],
)
def test_a_planted_mistake_is_found(right, wrong, mistake):
    planted.__doc__ = ARGUMENTS.replace(right, wrong)
    found = mistakes(planted, {})
    assert len(found) == len(mistake) and all(map(str.startswith, found, mistake))


def test_missing_descriptions_are_found():
    assert describes_arguments(ARGUMENTS)
    assert describes_arguments("Do it. The arguments are those of\n    [`it`].")
    assert not describes_arguments("Do it.")


def test_a_malformed_entry_is_found():
    with pytest.raises(ValueError, match="got 'image: The image.'"):
        documented_arguments("Do it.\n\nArgs:\n    image: The image.\n")
