# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs that makes the colours of code blocks, for light and dark pages."""

from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter


STYLES = {"light": "default", "dark": "github-dark"}


def on_files(files, config, **kwargs):
    rules = [
        HtmlFormatter(style=style).get_style_defs(f'[data-bs-theme="{mode}"] .highlight')
        for mode, style in STYLES.items()
    ]
    files.append(File.generated(config, "site/code.css", content="\n".join(rules)))
    return files
