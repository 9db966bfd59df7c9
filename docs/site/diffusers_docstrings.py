# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""An extension of Griffe, which reads docstrings for the site: those in diffusers' form become those of Google's.

In "name (`int`, *optional*, defaults to 8):" diffusers marks the type up and repeats the default, which the signature
has; in Google's form, "name (int, optional):", all between the parentheses is a type.
"""

import re

import griffe


ARGUMENT = re.compile(r"^( +)(\*{0,2}\w+(?:, \w+)*) \((.*[`\"*].*)\):$", re.MULTILINE)
RESULT = re.compile(r"^(Returns|Yields|Raises):\n((?: +.*\n?|\n)+)", re.MULTILINE)
REFERENCE = re.compile(r"\[`~?([\w.]+)`\](\(hia_diffusers[\w.]*\))?(?![\[(])")


def to_google_form(docstring: str) -> str:
    """A docstring without what only diffusers' own documentation builder reads."""

    def argument(match: re.Match) -> str:
        kind = re.sub(r"(, )?\*optional\*.*", "", match[3]).replace("`", "")
        if "(" not in kind and "[" not in kind:
            kind = re.sub(r",? or |, ", " | ", kind)  # a list of types; others are of a shape, or of other types
        told = [kind] * bool(kind) + ["optional"] * ("*optional*" in match[3])
        return f"{match[1]}{match[2]} ({', '.join(told)}):"

    def result(match: re.Match) -> str:
        return f"{match[1]}:\n" + re.sub(
            r"^    (`[^:]+):",
            lambda kind: kind[0].replace("`", "").replace(", *optional*", " | None"),
            match[2],
            flags=re.M,
        )

    return RESULT.sub(result, ARGUMENT.sub(argument, REFERENCE.sub(r"`\1`", docstring)))


class DiffusersDocstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_google_form(obj.docstring.value)
