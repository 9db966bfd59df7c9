# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The size of an animation: requested, or taken from the image or the driving clip."""

import logging
import math
from dataclasses import dataclass

from .. import checks
from .driving import Driving


logger = logging.getLogger(__name__)


@dataclass
class RequestedSize:
    """What a caller wants of the size of the result; everything is optional.

    Args:
        step (`int`):
            Height and width are multiples of this.
        height, width (`int`, *optional*):
            Sides in pixels.
        area (`int`, *optional*):
            Pixels of a frame, with the aspect ratio of an image.
        long_side (`int`, *optional*):
            Longer side in pixels, instead of `area`.

    Raises:
        TypeError, ValueError: If an argument is invalid, or `long_side` is combined with another.
    """

    step: int
    height: int | None = None
    width: int | None = None
    area: int | None = None
    long_side: int | None = None

    def __post_init__(self):
        for name in ("height", "width", "long_side"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else checks.side(name, value, self.step))
        if self.height is not None and self.width is not None:
            checks.area(self.width, self.height)
        self.area = None if self.area is None else checks.integer("area", self.area)
        if self.long_side is not None and not (self.height is self.width is self.area is None):
            raise ValueError("`long_side` cannot be combined with `height`, `width` or `area`.")

    def of(self, driving: Driving, shape: tuple[int, int] | None) -> tuple[int, int]:
        """Return the height and width of the result.

        Args:
            driving ([`~animation.driving.Driving`]):
                The driving clip, whose sides replace those that are not requested.
            shape (`tuple[int, int]` or `None`):
                Height and width of what `area` and `long_side` keep the aspect ratio of. Without it, they have no
                effect.
        """
        height, width = self.height, self.width
        if height is None and width is None and shape is not None:
            if self.long_side is not None:
                height, width = (self._multiple(side * self.long_side / max(shape)) for side in shape)
            elif self.area is not None:
                height, width = (self._multiple(side * (self.area / math.prod(shape)) ** 0.5) for side in shape)
        rounded = [self._multiple(side) for side in (driving.height, driving.width)]
        if height is None and width is None and rounded != [driving.height, driving.width]:
            logger.info("The driving's %dx%d is rounded to %dx%d.", driving.width, driving.height, *rounded[::-1])
        height, width = height or rounded[0], width or rounded[1]
        checks.area(width, height)
        return height, width

    def _multiple(self, side: float) -> int:
        """Return the nearest multiple of `step`, which is at least one."""
        return max(self.step, round(side / self.step) * self.step)
