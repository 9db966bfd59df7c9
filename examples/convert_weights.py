# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Converts published weights of other projects into pipelines of HIA, and into parts that training starts from.

python examples/convert_weights.py moore-animate-anyone --weights AnimateAnyone --base stable-diffusion-v1-5 \
    --image-encoder sd-image-variations-diffusers --output moore

It is `hia-diffusers convert`; from Python, the same are the functions of `hia_diffusers.conversion`.
"""

from hia_diffusers.commands.convert import main


if __name__ == "__main__":
    main(prog="convert_weights.py")
