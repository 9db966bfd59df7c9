# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Decoded frames as a player displays them: shape, colours and orientation. Axes: H, W."""

import math
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

from ..checks import MAX_SIDE


# Flags of FFmpeg's libswscale, which some releases of PyAV do not name: bicubic, full chroma interpolation and
# accurate rounding. The default rounds down, which would darken a video by one level.
CONVERSION = 0x4 | 0x2000 | 0x40000

# For frames whose gamut is converted.
RGB_16, RGB_MATRIX = "gbrp16le", 0

HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
WIDE_GAMUT = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)

# FFmpeg ignores rotations up to this angle.
LEVEL = math.tan(math.radians(1))


# The frame's own property creates a reference cycle, which would keep the frame until garbage collection.
SIDE_DATA: Any = SideDataContainer


class Display:
    """Convert the frames of one stream to what a player displays.

    The colour matrix and range are applied, wide gamuts and high dynamic range are converted to BT.709, alpha is
    composited on white, non-square pixels are made square by enlarging, and the frame is rotated and mirrored by its
    display matrix.

    Args:
        name (`str`):
            Name of the file in error messages.
        pixel_aspect (`Fraction`, *optional*):
            Width of a pixel divided by its height. `None` or 0 means unknown, and counts as 1.
    """

    def __init__(self, name: str, pixel_aspect: Fraction | None = None):
        self._name, self._pixel_aspect = name, pixel_aspect or Fraction(1)
        self._graph: Any = None
        self._graph_source: tuple[int, int, bool] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert one frame.

        Args:
            frame (`av.VideoFrame`):
                The decoded frame.

        Returns:
            `np.ndarray`: uint8 RGB `(H, W, 3)`, contiguous.

        Raises:
            ValueError: If it is rotated by an angle that is not a multiple of 90 degrees, or would be too large.
        """
        width, height = frame.width, frame.height
        if self._pixel_aspect > 1:
            width = round(width * self._pixel_aspect)
        else:
            height = round(height / self._pixel_aspect)
        if max(width, height) > MAX_SIDE:
            raise ValueError(
                f"{self._name!r} has a display size of {width}x{height}; sides must be at most {MAX_SIDE} pixels."
            )
        matrix = SIDE_DATA(frame).get(Type.DISPLAYMATRIX)
        if frame.color_trc in HDR or frame.color_primaries in WIDE_GAMUT:
            frame = self._in_bt709(frame)
        see_through = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
        layout = "rgba" if see_through else "rgb24"
        pixels = frame.to_ndarray(format=layout, width=width, height=height, interpolation=CONVERSION)
        if see_through:
            alpha = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        if matrix is not None:
            pixels = self._upright(pixels, np.frombuffer(matrix, np.int32).tolist())
        return np.ascontiguousarray(pixels)

    def _in_bt709(self, frame: av.VideoFrame) -> Any:
        """Convert the colours with FFmpeg, which tabulates the conversion once for all frames; this takes seconds."""
        # First without a change of gamut, because FFmpeg misinterprets the primaries of YUV.
        frame = frame.reformat(format=RGB_16, dst_color_range=ColorRange.JPEG, interpolation=CONVERSION)
        frame.colorspace, frame.color_range = RGB_MATRIX, ColorRange.JPEG
        source = (frame.width, frame.height, frame.color_trc in HDR)
        if self._graph_source != source:
            width, height, is_hdr = source
            size = f"video_size={width}x{height}:pix_fmt={RGB_16}:colorspace={RGB_MATRIX}:range=pc:time_base=1/1000"
            conversion = "out_primaries=bt709:"
            if is_hdr:
                conversion += "out_transfer=iec61966-2-1:intent=perceptual"  # compresses highlights
            else:
                conversion += "in_transfer=bt709:out_transfer=bt709:intent=relative_colorimetric"
            graph = av.filter.Graph()
            filters = [("buffer", size), ("scale", conversion), ("format", "pix_fmts=rgb24"), ("buffersink", "")]
            nodes = [graph.add(name, arguments) for name, arguments in filters]
            for node, following in zip(nodes, nodes[1:], strict=False):
                node.link_to(following)
            graph.configure()
            self._graph, self._graph_source = graph, source
        self._graph.push(frame)
        return self._graph.pull()

    def _upright(self, pixels: np.ndarray, matrix: list[int]) -> np.ndarray:
        """Rotate and mirror a frame. `matrix` gives the directions of the stored x and y axes on the display."""
        (x_right, x_down), (y_right, y_down) = matrix[:2], matrix[3:5]
        if abs(x_down) <= LEVEL * abs(x_right) and abs(y_right) <= LEVEL * abs(y_down):
            right, down = x_right, y_down
        elif abs(x_right) <= LEVEL * abs(x_down) and abs(y_down) <= LEVEL * abs(y_right):
            pixels = pixels.transpose(1, 0, 2)
            right, down = y_right, x_down
        else:
            angle = math.degrees(math.atan2(x_down, x_right))
            raise ValueError(f"{self._name!r} has a display rotation of {angle:.0f} degrees; make it upright first.")
        return pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
