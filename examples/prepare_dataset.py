# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Makes training clips of a folder of videos: cuts them at scene changes, finds the person, keeps the good clips.

    python examples/prepare_dataset.py --videos videos --output dataset --size 512x896 --workers 4

It is `hia-diffusers prepare`; from Python, call `hia_diffusers.preparation.prepare_dataset.prepare_dataset`. The same
command resumes an interrupted run.
"""

from hia_diffusers.commands.prepare import main


if __name__ == "__main__":
    main(prog="prepare_dataset.py")
