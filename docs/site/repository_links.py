# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs: links that leave docs/ lead to files of the repository, which the site names and does not hold."""

import posixpath
import re


# [text](target#anchor), but no image.
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def name_files_outside(markdown: str, page: str) -> str:
    """`[RESULTS.md](../benchmarks/RESULTS.md)` becomes the path in the repository, behind the text if that says more.

    Args:
        markdown (`str`):
            Of a page.
        page (`str`):
            Its path in docs/.

    Returns:
        `str`: the same with code spans in place of these links.
    """

    def replace(match: re.Match) -> str:
        text, target = match[1], match[2]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if ":" in target or path.startswith("docs/"):
            return match[0]
        return f"`{path}`" if path.endswith(text.strip("`")) else f"{text} (`{path}`)"

    return LINK.sub(replace, markdown)


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    return name_files_outside(markdown, page.file.src_uri)
