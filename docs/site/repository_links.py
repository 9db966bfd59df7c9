# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs that replaces links to files outside docs/, which the site does not contain, by their names."""

import posixpath
import re


# [text](target#anchor), but no image.
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def name_files_outside(markdown: str, page: str) -> str:
    """Replace links to files outside docs/ by their paths.

    `[RESULTS.md](../benchmarks/RESULTS.md)` becomes the path in the repository, after the text if that contains more.

    Args:
        markdown (`str`):
            Markdown of a page.
        page (`str`):
            Path of the page in docs/.

    Returns:
        `str`: The Markdown with code spans instead of these links.
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
