# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The conditioning frames of a clip: OpenPose maps, and the motion and sharpness of each hand in its box.

Axes: F frames, H, W; hands are ordered left, right (the person's). Pixels follow the convention of `keypoints.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch

from .. import checks
from .arrays import float_array


@dataclass(eq=False)
class MotionBlurCondition:
    """The conditioning frames of a clip, created by [`MotionBlurConditioner`].

    Args:
        pose (`np.ndarray`):
            uint8 RGB OpenPose maps `(F, H, W, 3)`.
        hand_boxes (`np.ndarray`):
            float32 `(F, 2, 4)`, `x0, y0, x1, y1` in pixels of the square boxes of the left and right hand. Boxes may
            extend beyond the image; NaN means that there is no box.
        hand_motion (`np.ndarray`):
            float32 `(F, 2, 2)`, `v_x, v_y` in hand-box sides per frame at 30 frames per second; NaN if unknown.
        hand_sharpness (`np.ndarray`):
            float32 `(F, 2)`, normalized to `[0, 1]`; NaN if unknown.
        max_motion (`float`, *optional*, defaults to `1.0`):
            The motion stored as 1 (and its negative as 0) in the maps.

    Raises:
        TypeError: If `pose` is not an array, another array contains no numbers, or `max_motion` is none.
        ValueError: If a shape or the dtype of `pose` is wrong, there are no frames, a value is infinite, a sharpness
            is not in [0, 1], a box is partly NaN or has no area, or `max_motion` is not positive.
    """

    pose: np.ndarray
    hand_boxes: np.ndarray
    hand_motion: np.ndarray
    hand_sharpness: np.ndarray
    max_motion: float = 1.0

    def __post_init__(self):
        checks.instance("pose", self.pose, np.ndarray)
        shape = self.pose.shape
        if self.pose.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
            raise ValueError(f"`pose` must be uint8 of shape (F, H, W, 3) with F >= 1, got {self.pose.dtype} {shape}.")
        for name, last in (("hand_boxes", (4,)), ("hand_motion", (2,)), ("hand_sharpness", ())):
            values = float_array(name, getattr(self, name))
            if values.shape != (len(self), 2, *last):
                raise ValueError(f"`{name}` must have the shape {(len(self), 2, *last)}, got {values.shape}.")
            if np.isinf(values).any():
                raise ValueError(f"`{name}` must be finite, or NaN without a hand, got infinite values.")
            setattr(self, name, values.astype(np.float32, copy=False))
        boxes = self.hand_boxes[np.isfinite(self.hand_boxes).any(axis=-1)]
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise ValueError("`hand_boxes` must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, or all NaN.")
        if (self.hand_sharpness < 0).any() or (self.hand_sharpness > 1).any():
            raise ValueError("`hand_sharpness` must be in [0, 1], or NaN if unknown.")
        self.max_motion = checks.number("max_motion", self.max_motion, above=0)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.pose)

    def __getitem__(self, frames: slice | Sequence[int]) -> "MotionBlurCondition":
        """Select frames by a slice or a list of their numbers."""
        return MotionBlurCondition(
            self.pose[frames],
            self.hand_boxes[frames],
            self.hand_motion[frames],
            self.hand_sharpness[frames],
            self.max_motion,
        )

    @property
    def height(self) -> int:
        """Height of the frames in pixels."""
        return self.pose.shape[1]

    @property
    def width(self) -> int:
        """Width of the frames in pixels."""
        return self.pose.shape[2]

    def to_tensor(self) -> torch.Tensor:
        """Return the input of the ControlNet.

        Returns:
            `torch.Tensor`: float32 `(F, 6, H, W)` in `[0, 1]`. Channels 0-2 are the OpenPose map in RGB order.
            Channels 3-5 are zero outside the hand boxes and if the sharpness is unknown. Inside, they are `0.5 + 0.5 *
            clip(v / max_motion, -1, 1)` for `v_x` and `v_y` (0.5 if the motion is unknown) and the sharpness. A pixel
            in two boxes belongs to the one whose centre is nearer.
        """
        maps = np.zeros((len(self), 6, self.height, self.width), dtype=np.float32)
        np.divide(self.pose.transpose(0, 3, 1, 2), np.float32(255), out=maps[:, :3])
        for frame, hand, values in self._known_hands():
            rows, columns, owned = self._pixels_of_hand(frame, hand)
            np.copyto(maps[frame, 3:, rows, columns], values[:, None, None], where=owned)
        return torch.from_numpy(maps)

    def preview(self) -> list[PIL.Image.Image]:
        """Visualize the conditioning frames.

        The image is the OpenPose map, with `(v_x, v_y, sharpness)` as RGB colour in the hand boxes.

        Returns:
            `list[PIL.Image.Image]`: One RGB image per frame.
        """
        images = self.pose.copy()
        for frame, hand, values in self._known_hands():
            rows, columns, owned = self._pixels_of_hand(frame, hand)
            region = images[frame, rows, columns]
            background = owned & ~region.any(axis=-1)
            region[background] = (255 * values).round()
        return [PIL.Image.fromarray(image) for image in images]

    def _known_hands(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Iterate over frame, hand and values `(v_x, v_y, s)` in [0, 1] of each hand with known box and sharpness."""
        motion = np.nan_to_num(np.clip(self.hand_motion / self.max_motion, -1, 1), nan=0.0)
        values = np.concatenate([0.5 + 0.5 * motion, self.hand_sharpness[..., None]], axis=-1).astype(np.float32)
        known = np.isfinite(self.hand_sharpness) & np.isfinite(self.hand_boxes).all(axis=-1)
        for frame, hand in np.argwhere(known):
            yield frame, hand, values[frame, hand]

    def _pixels_of_hand(self, frame: int, hand: int) -> tuple[slice, slice, np.ndarray]:
        """Return the rows and columns of a hand's box, and a mask of the pixels in them that belong to it."""
        box, other = self.hand_boxes[frame, [hand, 1 - hand]].astype(np.float64)
        size = [self.width, self.height]
        x0, y0 = np.ceil(box[:2] - 0.5).clip(0, size).astype(int)
        x1, y1 = np.floor(box[2:] + 0.5).clip(0, size).astype(int)
        x, y = np.arange(x0, x1) + 0.5, np.arange(y0, y1)[:, None] + 0.5
        in_other = (other[0] <= x) & (x <= other[2]) & (other[1] <= y) & (y <= other[3])
        nearer_other = _squared_distance(x, y, other) < _squared_distance(x, y, box)
        return slice(y0, y1), slice(x0, x1), ~(in_other & nearer_other)


def _squared_distance(x: np.ndarray, y: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the squared distance of each point from the centre of a box."""
    return (x - (box[0] + box[2]) / 2) ** 2 + (y - (box[1] + box[3]) / 2) ** 2
