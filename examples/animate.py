# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Animates the person in a picture with the motion of a person in a video, of a keypoint file or of a pose video.

python examples/animate.py --image picture.png --driving dance.mp4 --output out.mp4 --model ID_OR_PATH

It is `hia-diffusers animate`; from Python, the same is `hia_diffusers.HIAAnimator`.
"""

from hia_diffusers.commands.animate import main


if __name__ == "__main__":
    main(prog="animate.py")
