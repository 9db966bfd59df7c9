# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Layers of diffusers that layers of HIA replace: each network has a table of them, which one function applies.

A layer of ours has the parameters of the one that it replaces, so that state-dict keys stay those of the plain network
and its checkpoints remain valid.
"""

import re
from collections.abc import Iterable

from torch import nn


# Regular expressions of the names of spatial transformers and motion modules, and of their blocks.
SPATIAL = r".+\.attentions\.\d+"
SPATIAL_BLOCK = SPATIAL + r"\.transformer_blocks\.\d+"
MOTION = r".+\.motion_modules\.\d+"
MOTION_BLOCK = MOTION + r"\.transformer_blocks\.\d+"

# A row: the names of the layers as a regular expression, their class, and the class that takes its place.
Replacement = tuple[str, type[nn.Module], type[nn.Module]]


def replace_layers(network: nn.Module, table: Iterable[Replacement]) -> None:
    """Turn layers of a network into others, in place.

    Args:
        network (`nn.Module`):
            The network.
        table (`Iterable[Replacement]`):
            Rows of a regular expression for whole names, the class of those layers, and a subclass of it, which must
            be able to do with the attributes that the layers have. Layers of another class stay as they are.
    """
    for name, layer in list(network.named_modules()):
        for names, old_class, new_class in table:
            if type(layer) is old_class and re.fullmatch(names, name):
                layer.__class__ = new_class
