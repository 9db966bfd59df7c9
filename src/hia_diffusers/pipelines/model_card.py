# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a saved [`HIAPipeline`] other than its components: the model card, and a file that names the class."""

from collections.abc import Mapping
from typing import Any

from ..conditioning.pose_maps import DENSEPOSE
from .call_defaults import POSE_MAP


CARD_FILE = "README.md"

MODEL_CARD = """---
library_name: diffusers
pipeline_tag: image-to-video
license: other
license_name: see-model-card
tags:
- hia-diffusers
- human-image-animation
---

# {name}

A human image animation pipeline in the format of hia-diffusers (`pip install hia-diffusers`), an independent
implementation of HIA ([arXiv 2409.19580](https://arxiv.org/abs/2409.19580)).

## Usage

```python
from hia_diffusers import HIAAnimator, HIAPipeline

pipe = HIAPipeline.from_pretrained("{name}"{options})
HIAAnimator(pipe)("person.png", "{driving}"{driving_options}, output="out.mp4")
```

{defaults}

## License

The code of hia-diffusers is licensed under Apache-2.0. The weights in this folder carry the license of the weights
that they were trained or converted from: weights derived from Stable Diffusion 1.5 remain under CreativeML OpenRAIL-M.
If you publish this folder, state here what the weights were trained from and which license applies, and replace
`license: other` above.

Animate only people who have consented, and disclose that the result is generated.
"""

# For `custom_pipeline` of Diffusers, which loads a pipeline's class from a file of the checkpoint.
PIPELINE_FILE = "pipeline.py"
PIPELINE_CODE = """# The class comes from the installed package: pip install hia-diffusers
from hia_diffusers import HIAPipeline
"""


DEFAULTS = """Arguments that are not given have the values that suit the weights, its `call_defaults`: {values}."""
NO_DEFAULTS = "Arguments that are not given have the default values of hia-diffusers."


def model_card(name: str, call_defaults: Mapping[str, Any], variant: str | None = None) -> str:
    """Return the model card of a pipeline.

    Args:
        name (`str`):
            Name by which the pipeline is loaded.
        call_defaults (`Mapping[str, Any]`):
            Default arguments of a call, and what its conditioning frames show.
        variant (`str`, *optional*):
            Variant of its weights.

    Returns:
        `str`: The model card in Markdown.
    """
    values = ", ".join(f"`{argument}={value!r}`" for argument, value in call_defaults.items())
    reads_densepose = call_defaults.get(POSE_MAP) == DENSEPOSE
    return MODEL_CARD.format(
        name=name,
        options=f', variant="{variant}"' if variant else "",
        driving="densepose.mp4" if reads_densepose else "dance.mp4",
        driving_options=', driving_type="densepose"' if reads_densepose else "",
        defaults=DEFAULTS.format(values=values) if values else NO_DEFAULTS,
    )
