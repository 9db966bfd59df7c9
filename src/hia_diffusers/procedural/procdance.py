# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""ProcDance-v1, the fixed evaluation set of procedural people."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..conditioning.whole_body import FACE
from .scene import SCORE_VISIBLE, ProceduralScene


# Values of ProcDance-v1.
NUM_DANCES, DANCE_FRAMES, DANCE_FPS = 50, 32, 30.0
REFERENCE_CANDIDATES = range(48, 240, 12)
REFERENCE_SIZE = (160, 96)


@dataclass(frozen=True)
class ProcDanceClip:
    """One evaluation clip of ProcDance-v1.

    Args:
        name (`str`):
            Name, such as `"procdance-07"`.
        target (`ProceduralScene`):
            The ground truth, which a model should generate.
        driving (`ProceduralScene`):
            Another person in the same dance and setting, whose keypoints drive in cross-identity evaluation; `target`
            remains the ground truth.
        frames (`range`):
            The frames of the clip.
        fps (`float`):
            Frames per second.
    """

    name: str
    target: ProceduralScene
    driving: ProceduralScene
    frames: range
    fps: float

    @cached_property
    def reference_frame(self) -> int:
        """The frame of `target`'s scene that serves as the reference image, shortly after the clip.

        There are 16 candidates over 6 seconds. Among those that show nearly as many points of the face and both hands
        as the best (within 5%), it is the one whose hands move least during the exposure.
        """
        candidates = np.array(REFERENCE_CANDIDATES)
        around = np.stack([candidates, candidates + 1], axis=1).ravel()
        keypoints = self.target.keypoints(around.tolist(), *REFERENCE_SIZE, self.fps)
        shown = (keypoints.score[::2, FACE.start :] == SCORE_VISIBLE).sum(axis=1)
        hands = self.target._figure(around / self.fps, *REFERENCE_SIZE).hands.reshape(len(candidates), 2, -1, 2)
        moved = np.linalg.norm(hands[:, 1] - hands[:, 0], axis=-1).mean(axis=1)
        blur = np.where(shown >= 0.95 * shown.max(), moved * self.target.place.exposure(candidates), np.inf)
        return int(candidates[blur.argmin()])


def proc_dance_v1() -> list[ProcDanceClip]:
    """Return the fixed evaluation set ProcDance-v1.

    Returns:
        `list[ProcDanceClip]`: 50 clips of 32 frames at 30 frames per second, each with its own person, dance and
        setting, all of the test split.
    """
    return [
        ProcDanceClip(
            name=f"procdance-{index:02d}",
            target=ProceduralScene("test", identity=index, motion=index, setting=index),
            driving=ProceduralScene("test", identity=(index + 17) % NUM_DANCES, motion=index, setting=index),
            frames=range(DANCE_FRAMES),
            fps=DANCE_FPS,
        )
        for index in range(NUM_DANCES)
    ]
