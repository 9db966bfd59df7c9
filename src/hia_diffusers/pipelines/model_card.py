# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The files that a saved [`HIAPipeline`] has besides its components: a model card, and the name of its class."""

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
import torch
from diffusers.utils import load_image
from hia_diffusers import HIAPipeline, MotionBlurConditioner, WholeBodyKeypoints

pipe = HIAPipeline.from_pretrained("{name}"{options})
condition = MotionBlurConditioner()(WholeBodyKeypoints.load("motion.safetensors"))
frames = pipe(load_image("person.png"), condition, generator=torch.Generator().manual_seed(0)).frames[0]
```

## License

The code of hia-diffusers is under Apache-2.0. The weights in this folder carry the license of what they were made
from: weights that started from Stable Diffusion 1.5 stay under CreativeML OpenRAIL-M. Whoever publishes this folder
states here what the weights were trained from and which license applies, and replaces `license: other` above.

Animate only people who have agreed to it.
"""

# For `custom_pipeline` of diffusers, which looks for a pipeline's class in a file of the checkpoint.
PIPELINE_FILE = "pipeline.py"
PIPELINE_CODE = """# The class is that of the installed package: pip install hia-diffusers
from hia_diffusers import HIAPipeline
"""


def model_card(name: str, variant: str | None = None) -> str:
    """The model card of a pipeline.

    Args:
        name (`str`):
            What it is loaded by.
        variant (`str`, *optional*):
            Of its weights.
    """
    return MODEL_CARD.format(name=name, options=f', variant="{variant}"' if variant else "")
