# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""How many arguments functions have: more than eight cannot be told apart by who reads a call."""

import ast
from pathlib import Path

from test_layering import SOURCE, package_modules, write_package


MOST_ARGUMENTS = 8

# Calls, the checks of their arguments, and constructors, which have those of a configuration.
EXEMPT = {"__call__", "__init__", "check_inputs"}

# Those that stand, to become fewer: `forward` has the arguments of diffusers' UNet.
LONG = {
    "animation.animator.prepare",
    "app.page.animate",
    "models.unet_motion.forward",
}


def long_signatures(source: Path) -> set[str]:
    """Functions by module and name, without `self` and `cls`, that have more arguments than that."""
    found = set()
    for module, path in package_modules(source).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in EXEMPT:
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([name for name in arguments if name not in ("self", "cls")]) > MOST_ARGUMENTS:
                    found.add(f"{module}.{node.name}")
    return found


def test_functions_have_few_arguments():
    assert long_signatures(SOURCE) == LONG


def test_a_long_signature_is_found(tmp_path):
    files = {
        "short.py": "class A:\n    def f(self, a, b, c, d, e, f, g, *, h): ...",
        "long.py": "async def f(a, b, c, d, e, f, g, *, h, i=1): ...\ndef __call__(a, b, c, d, e, f, g, h, i): ...",
    }
    assert long_signatures(write_package(tmp_path, files)) == {"long.f"}
