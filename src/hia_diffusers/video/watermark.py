# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Marks that say that pictures are generated: a label to read, and an invisible one that survives H.264.

The invisible one is the `dwtDctSvd` of the library invisible-watermark, which diffusers uses for Stable Diffusion XL.
"""

import itertools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from .. import checks
from .reading import stream_frames


# What is hidden: "AI-generated content", in few bits, since each of more would have fewer blocks. The command of
# invisible-watermark can read it, too.
MESSAGE = b"AIGC"
METHOD = "dwtDctSvd"

# The library refuses smaller pictures: they hold too few blocks.
MIN_PIXELS = 256 * 256

# Nothing can be added to white, or taken from black: half of the bits would be lost there.
HEADROOM = 4

# The height of the label is this part of the shorter side of the picture.
LABEL_HEIGHT = 1 / 20
MIN_LABEL_HEIGHT = 9


@dataclass(frozen=True)
class Watermark:
    """
    What is added to each frame, so that people or programs see that it is generated.

    Args:
        text (`str`, *optional*, defaults to `"AI-generated"`):
            A label in the lower right corner. `None` draws none.
        invisible (`bool`, *optional*, defaults to `False`):
            Whether to hide a mark in the pixels that [`read_watermark`] finds. Needs the `watermark` extra, and frames
            of at least 65536 pixels.

    Raises:
        `ImportError`: an invisible mark is wanted, and the `watermark` extra is not installed.
        `TypeError`: `text` is no text, or `invisible` not `True` or `False`.
        `ValueError`: there is nothing to add, or `text` is empty, not printable ASCII, the characters of Pillow's own
            font, or longer than any frame is wide.
    """

    text: str | None = "AI-generated"
    invisible: bool = False

    def __post_init__(self):
        if self.text is not None:
            checks.instance("text", self.text, str)
        checks.flag("invisible", self.invisible)
        if self.text is None and not self.invisible:
            raise ValueError("`watermark` must have a `text` or be `invisible`, got neither.")
        if self.text is not None and not (self.text.strip() and self.text.isascii() and self.text.isprintable()):
            raise ValueError(f"`watermark`: its text must be printable ASCII, as Pillow's font is, got {self.text!r}.")
        if self.text is not None:
            self.check_size(checks.MAX_SIDE, round(MIN_LABEL_HEIGHT / LABEL_HEIGHT))
        if self.invisible:
            _invisible_watermark()

    def __call__(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """
        The picture with the marks.

        Args:
            picture (`PIL.Image.Image`):
                An RGB picture.

        Raises:
            `ValueError`: as [`~Watermark.check_size`].
        """
        self.check_size(picture.width, picture.height)
        if self.text is not None:
            picture = picture.copy()
            PIL.ImageDraw.Draw(picture).text(text=self.text, fill="white", stroke_fill="black", **_label(picture.size))
        return _with_hidden_message(picture) if self.invisible else picture

    def check_size(self, width: int, height: int) -> None:
        """
        What is known of a picture before it is there.

        Args:
            width, height (`int`):
                Its size in pixels.

        Raises:
            `ValueError`: the text does not fit into it, or it is too small for an invisible mark.
        """
        if self.text is not None:
            drawing = PIL.ImageDraw.Draw(PIL.Image.new("RGB", (1, 1)))
            left, top, _, _ = drawing.textbbox(text=self.text, **_label((width, height)))
            if min(left, top) < 0:
                raise ValueError(f"`watermark`: its text {self.text!r} does not fit into {width}x{height} pixels.")
        if self.invisible and width * height < MIN_PIXELS:
            raise ValueError(
                f"`watermark`: an invisible one needs frames of at least {MIN_PIXELS} pixels, got {width}x{height}."
            )


def read_watermark(path: str | os.PathLike, max_frames: int = 16) -> float:
    """
    How much of the invisible mark the beginning of a video holds.

    Args:
        path (`str` or `os.PathLike`):
            A video in the size in which it was marked.
        max_frames (`int`, *optional*, defaults to 16):
            Frames to read; each bit is what most of them say.

    Returns:
        `float`: the part of its 32 bits that are there: 1.0 for a marked video, around 0.5 for others. See
        `docs/watermark.md` for what was measured.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ImportError`: the `watermark` extra is not installed.
        `TypeError`, `ValueError`: `max_frames` is no integer from 1 on.
        `ValueError`: `path` cannot be decoded, or its frames are too small to hold a mark.
    """
    checks.integer("max_frames", max_frames)
    decoder = _invisible_watermark().WatermarkDecoder("bits", 8 * len(MESSAGE))
    read = []
    for frame in itertools.islice(stream_frames(path), max_frames):
        height, width = frame.shape[:2]
        if height * width < MIN_PIXELS:
            raise ValueError(f"{str(path)!r} is too small to hold an invisible watermark: {width}x{height} pixels.")
        read.append(decoder.decode(np.ascontiguousarray(frame[..., ::-1]), METHOD))
    bits = np.mean(read, axis=0) > 0.5
    return float((bits == np.unpackbits(np.frombuffer(MESSAGE, np.uint8))).mean())


def _label(picture_size: tuple[int, int]) -> dict[str, Any]:
    """How Pillow draws the label: where, in what font, with what outline."""
    width, height = picture_size
    size = max(MIN_LABEL_HEIGHT, round(min(width, height) * LABEL_HEIGHT))
    place = (width - size // 2, height - size // 2)
    return {"xy": place, "anchor": "rd", "font": PIL.ImageFont.load_default(size), "stroke_width": max(1, size // 12)}


def _with_hidden_message(picture: PIL.Image.Image) -> PIL.Image.Image:
    encoder = _invisible_watermark().WatermarkEncoder()
    encoder.set_watermark("bytes", MESSAGE)
    pixels = np.asarray(picture)[..., ::-1].clip(HEADROOM, 255 - HEADROOM)
    return PIL.Image.fromarray(np.ascontiguousarray(encoder.encode(pixels, METHOD)[..., ::-1]))


def _invisible_watermark() -> Any:
    try:
        import imwatermark
    except ImportError as error:
        raise ImportError(
            'Invisible watermarks need the `watermark` extra: pip install "hia-diffusers[watermark]".'
        ) from error
    return imwatermark
