# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""An extension of Griffe, the docstring parser of the site, that converts diffusers' form to Google's.

In diffusers' form, "name (`int`, *optional*, defaults to 8):", the type has markup, and the default of the signature
is repeated. In Google's form, "name (int, optional):", the parentheses contain only a type.
"""

import re

import griffe


ARGUMENT = re.compile(r"^( +)(\*{0,2}\w+(?:, \w+)*) \((.*[`\"*].*)\):$", re.MULTILINE)
RESULT = re.compile(r"^(Returns|Yields|Raises):\n((?: +.*\n?|\n)+)", re.MULTILINE)
REFERENCE = re.compile(r"\[`~?([\w.]+)`\](\(hia_diffusers[\w.]*\))?(?![\[(])")


def to_google_form(docstring: str) -> str:
    """Convert a docstring, removing everything that only diffusers' own documentation builder understands."""

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
