# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Marks of generated images: a visible label, and an invisible mark that survives H.264.

The invisible mark is `dwtDctSvd` of the library invisible-watermark, which diffusers uses for Stable Diffusion XL.
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


# The hidden message, for "AI-generated content". It is short because each bit of a longer one would have fewer blocks.
# The command of invisible-watermark can also read it.
MESSAGE = b"AIGC"
METHOD = "dwtDctSvd"

# The library rejects smaller images, which have too few blocks.
MIN_PIXELS = 256 * 256

# White cannot get brighter, nor black darker: half of the bits would be lost there.
HEADROOM = 4

# Height of the label as a fraction of the shorter side of the image.
LABEL_HEIGHT = 1 / 20
MIN_LABEL_HEIGHT = 9


@dataclass(frozen=True)
class Watermark:
    """Mark each frame as generated, for people or programs.

    Args:
        text (`str`, *optional*, defaults to `"AI-generated"`):
            Label in the lower right corner; `None` for no label.
        invisible (`bool`, *optional*, defaults to `False`):
            Whether to hide a mark in the pixels, for [`read_watermark`]. Needs the `watermark` extra, and frames of at
            least 65536 pixels.

    Raises:
        ImportError: If an invisible mark is requested, and the `watermark` extra is not installed.
        TypeError: If `text` is not a string, or `invisible` is not `True` or `False`.
        ValueError: If there is no mark, or `text` is empty, wider than any frame, or not printable ASCII, the
            characters of Pillow's built-in font.
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
            raise ValueError(f"`watermark`: its text must be printable ASCII, as in Pillow's font, got {self.text!r}.")
        if self.text is not None:
            self.check_size(checks.MAX_SIDE, round(MIN_LABEL_HEIGHT / LABEL_HEIGHT))
        if self.invisible:
            _invisible_watermark()

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Return the image with the marks.

        Args:
            image (`PIL.Image.Image`):
                An RGB image.

        Raises:
            ValueError: As [`~Watermark.check_size`].
        """
        self.check_size(image.width, image.height)
        if self.text is not None:
            image = image.copy()
            PIL.ImageDraw.Draw(image).text(text=self.text, fill="white", stroke_fill="black", **_label(image.size))
        return _with_hidden_message(image) if self.invisible else image

    def check_size(self, width: int, height: int) -> None:
        """Check the size of an image in advance.

        Args:
            width, height (`int`):
                Size of the image in pixels.

        Raises:
            ValueError: If the text does not fit, or the image is too small for an invisible mark.
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
    """Return how much of the invisible mark the beginning of a video contains.

    Args:
        path (`str` or `os.PathLike`):
            A video at the size at which it was marked.
        max_frames (`int`, *optional*, defaults to 16):
            Number of frames to read; each bit is decided by majority.

    Returns:
        `float`: The fraction of matching bits among its 32: 1.0 for a marked video, around 0.5 for others. See
        `docs/watermark.md` for measurements.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the `watermark` extra is not installed.
        TypeError, ValueError: If `max_frames` is not an integer from 1 on.
        ValueError: If `path` cannot be decoded, or its frames are too small for a mark.
    """
    checks.integer("max_frames", max_frames)
    decoder = _invisible_watermark().WatermarkDecoder("bits", 8 * len(MESSAGE))
    read = []
    for frame in itertools.islice(stream_frames(path), max_frames):
        height, width = frame.shape[:2]
        if height * width < MIN_PIXELS:
            raise ValueError(f"{str(path)!r} is too small for an invisible watermark: {width}x{height} pixels.")
        read.append(decoder.decode(np.ascontiguousarray(frame[..., ::-1]), METHOD))
    bits = np.mean(read, axis=0) > 0.5
    return float((bits == np.unpackbits(np.frombuffer(MESSAGE, np.uint8))).mean())


def _label(image_size: tuple[int, int]) -> dict[str, Any]:
    """Return Pillow's options for the label: position, font and outline."""
    width, height = image_size
    size = max(MIN_LABEL_HEIGHT, round(min(width, height) * LABEL_HEIGHT))
    place = (width - size // 2, height - size // 2)
    return {"xy": place, "anchor": "rd", "font": PIL.ImageFont.load_default(size), "stroke_width": max(1, size // 12)}


def _with_hidden_message(image: PIL.Image.Image) -> PIL.Image.Image:
    encoder = _invisible_watermark().WatermarkEncoder()
    encoder.set_watermark("bytes", MESSAGE)
    pixels = np.asarray(image)[..., ::-1].clip(HEADROOM, 255 - HEADROOM)
    return PIL.Image.fromarray(np.ascontiguousarray(encoder.encode(pixels, METHOD)[..., ::-1]))


def _invisible_watermark() -> Any:
    try:
        import imwatermark
    except ImportError as error:
        raise ImportError(
            'Invisible watermarks need the `watermark` extra: pip install "hia-diffusers[watermark]".'
        ) from error
    return imwatermark
