# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The example people and motions of the page, drawn on the spot."""

from PIL import Image

from ..conditioning.keypoints import WholeBodyKeypoints
from ..procedural.scene import ProceduralScene


# Scenes of the test split: nothing of them was in the training of hia-tiny.
SPLIT = "test"
PEOPLE = (2, 7, 8, 13, 20, 21)
PICTURE_FRAME = 60

# Whose motion an image of anybody else gets.
DEFAULT_PERSON = 13

MOTIONS = {
    "Calm hands": 12,
    "Arms up, slowly": 3,
    "Hands before the face": 4,
    "Waving overhead": 1,
    "Pointing": 8,
    "Wide and fast": 6,
}
FPS = 30.0


class ExampleMotions:
    """
    Example pictures of procedural people in one size, and motions for them and for others.

    Args:
        width (`int`):
            Width in pixels.
        height (`int`):
            Height in pixels.
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.pictures = [
            Image.fromarray(self._scene(person).render([PICTURE_FRAME], height, width, FPS).frames[0])
            for person in PEOPLE
        ]
        self._people = {picture.tobytes(): person for picture, person in zip(self.pictures, PEOPLE, strict=True)}

    def keypoints(self, picture: Image.Image) -> WholeBodyKeypoints | None:
        """
        The person in an example picture, one frame; `None` where the picture is none of the examples.

        Args:
            picture (`PIL.Image.Image`):
                Any RGB picture.
        """
        person = self._people.get(picture.tobytes())
        if person is None:
            return None
        return self._scene(person).keypoints([PICTURE_FRAME], self.height, self.width, FPS)

    def motion(self, name: str, num_frames: int, picture: Image.Image) -> WholeBodyKeypoints:
        """
        A motion, danced by the person in the picture where that is an example.

        Args:
            name (`str`):
                A key of `MOTIONS`.
            num_frames (`int`):
                Its length.
            picture (`PIL.Image.Image`):
                Any RGB picture.
        """
        person = self._people.get(picture.tobytes(), DEFAULT_PERSON)
        return self._scene(person, MOTIONS[name]).keypoints(range(num_frames), self.height, self.width, FPS)

    def _scene(self, person: int, motion: int | None = None) -> ProceduralScene:
        return ProceduralScene(SPLIT, identity=person, motion=person if motion is None else motion, setting=person)
