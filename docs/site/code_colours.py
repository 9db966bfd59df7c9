# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs that makes the colours of code blocks, for light and dark pages."""

from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter


STYLES = {"light": "default", "dark": "github-dark"}


def on_files(files, config, **kwargs):
    for mode, style in STYLES.items():
        colours = HtmlFormatter(style=style).get_style_defs(".highlight")
        files.append(File.generated(config, f"site/code-{mode}.css", content=colours))
    return files
