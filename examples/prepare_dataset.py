# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Makes training clips of a folder of videos: cuts them at scene changes, finds the person, keeps the good clips.

    python examples/prepare_dataset.py --videos videos --output dataset --size 512x896 --workers 4

It is `hia-diffusers prepare`; from Python, the same is `hia_diffusers.data.preparation.prepare_dataset`. A run that is
interrupted goes on where it was when the same command is given again.
"""

from hia_diffusers.commands.prepare import main


if __name__ == "__main__":
    main(prog="prepare_dataset.py")
