# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The example people and motions of the page, which are drawn at the start."""

from PIL import Image

from ..conditioning.keypoints import WholeBodyKeypoints
from ..procedural.scene import ProceduralScene


# Scenes of the test split, which hia-tiny was not trained on.
SPLIT = "test"
PEOPLE = (2, 7, 8, 13, 20, 21)
IMAGE_FRAME = 60

# The person whose motions other images get.
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
    """Example images of procedural people in one size, and motions for them and for others.

    Args:
        width (`int`):
            Width in pixels.
        height (`int`):
            Height in pixels.
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.images = [
            Image.fromarray(self._scene(person).render([IMAGE_FRAME], height, width, FPS).frames[0])
            for person in PEOPLE
        ]
        self._people = {image.tobytes(): person for image, person in zip(self.images, PEOPLE, strict=True)}

    def keypoints(self, image: Image.Image) -> WholeBodyKeypoints | None:
        """Return the keypoints of the person in an example image, one frame; `None` for other images.

        Args:
            image (`PIL.Image.Image`):
                Any RGB image.
        """
        person = self._people.get(image.tobytes())
        if person is None:
            return None
        return self._scene(person).keypoints([IMAGE_FRAME], self.height, self.width, FPS)

    def motion(self, name: str, num_frames: int, image: Image.Image) -> WholeBodyKeypoints:
        """Return a motion, made by the person in the image if that is an example.

        Args:
            name (`str`):
                A key of `MOTIONS`.
            num_frames (`int`):
                The number of frames.
            image (`PIL.Image.Image`):
                Any RGB image.
        """
        person = self._people.get(image.tobytes(), DEFAULT_PERSON)
        return self._scene(person, MOTIONS[name]).keypoints(range(num_frames), self.height, self.width, FPS)

    def _scene(self, person: int, motion: int | None = None) -> ProceduralScene:
        return ProceduralScene(SPLIT, identity=person, motion=person if motion is None else motion, setting=person)
