# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""One writer per kind of output: MP4 and WebM by FFmpeg, GIF, WebP and folders of PNG by Pillow. Axes: H, W."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import ExifTags, Image, PngImagePlugin

from .display import CONVERSION
from .sound import Sound


# By container. Constant quality; the same frames give the same bytes. Without `cpu-independent`, the output of x264
# depends on the CPU, on some even on the run.
VIDEO_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "mp4": ("libx264", {"crf": "16", "x264-params": "cpu-independent=1"}),
    "webm": ("libvpx-vp9", {"crf": "20", "b:v": "0", "deadline": "good", "cpu-used": "2"}),
}
CONTAINER_OPTIONS = {"mp4": {"movflags": "faststart"}, "webm": {"fflags": "+bitexact"}}

# Names of the frames in a folder, and the pattern that they match.
FRAME_NAME, FRAME_PATTERN = "frame_{:06d}.png", "frame_[0-9]*.png"

# GIF files store durations in hundredths of a second, WebP files in thousandths.
GIF_CLOCK, WEBP_CLOCK = 100, 1000


@dataclass(frozen=True)
class Clip:
    """The properties of a clip, which are known before its first frame is written.

    Args:
        height, width (`int`):
            Size of the frames in pixels.
        rate (`Fraction`):
            Frames per second.
        keyframe_interval (`int`, *optional*):
            Maximum number of frames from one keyframe to the next.
        comment (`str`, *optional*):
            Comment in the metadata.
    """

    height: int
    width: int
    rate: Fraction
    keyframe_interval: int | None = None
    comment: str | None = None


class FrameWriter:
    """Write frames one by one.

    Attributes:
        count (`int`):
            Number of frames written so far.
    """

    count = 0

    def add(self, pixels: np.ndarray) -> None:
        """Write a frame.

        Args:
            pixels (`np.ndarray` of shape `(H, W, 3)`):
                uint8 RGB.
        """
        self._add(pixels)
        self.count += 1

    def finish(self) -> None:
        """Complete the output, after one frame or more."""
        self._finish()
        self.close()

    def close(self) -> None:
        """Release all resources, even without `finish`."""

    def _add(self, pixels: np.ndarray) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class VideoWriter(FrameWriter):
    """MP4 with H.264, or WebM with VP9, in yuv420p and BT.709.

    Odd sides are extended by a copy of the last row or column.

    Args:
        path (`Path`):
            The file.
        clip ([`Clip`]):
            Properties of the frames.
        container (`str`):
            `"mp4"` or `"webm"`.
        sound ([`~video.sound.Sound`], *optional*):
            Sound that is written along with the frames.
    """

    def __init__(self, path: Path, clip: Clip, container: str, sound: Sound | None = None):
        encoder, options = VIDEO_ENCODERS[container]
        if clip.keyframe_interval is not None:
            options = {**options, "g": str(clip.keyframe_interval)}
        # A name with a colon would be interpreted as a URL.
        url = f"file:{path.absolute()}"
        self._container: Any = av.open(url, "w", format=container, options=CONTAINER_OPTIONS[container])
        if clip.comment is not None:
            self._container.metadata["comment"] = clip.comment
        self._padding = ((0, clip.height % 2), (0, clip.width % 2), (0, 0))
        stream: Any = self._container.add_stream(encoder, rate=clip.rate, options=options)
        stream.height, stream.width = clip.height + clip.height % 2, clip.width + clip.width % 2
        stream.pix_fmt = "yuv420p"
        # Some players interpret untagged colours as BT.601, others as BT.709.
        context = stream.codec_context
        context.thread_count = 1  # the number of threads changes the bytes, and so would the number of cores
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._stream = stream
        self._rate, self._sound = clip.rate, sound
        if sound is not None:
            sound.add_to(self._container)

    def _add(self, pixels: np.ndarray) -> None:
        frame = av.VideoFrame.from_ndarray(np.pad(pixels, self._padding, mode="edge"), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=CONVERSION,
        )
        self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.write_until(self.count / self._rate)

    def _finish(self) -> None:
        self._container.mux(self._stream.encode())
        if self._sound is not None:
            self._sound.finish(self.count / self._rate)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class AnimationWriter(FrameWriter):
    """An animated GIF or WebP that repeats endlessly.

    Frames are compressed when all of them are available. Until then, a pixel of a GIF takes one byte, and one of a
    WebP three.

    Args:
        path (`Path`):
            The file.
        clip ([`Clip`]):
            Properties of the frames.
        format (`str`):
            `"GIF"` or `"WEBP"`.
    """

    def __init__(self, path: Path, clip: Clip, format: str):
        self._path, self._clip, self._format = path, clip, format
        self._frames: list[Image.Image] = []

    def _add(self, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels)
        if self._format == "GIF":
            image = image.quantize(palette=image.quantize(), dither=Image.Dither.FLOYDSTEINBERG)
        self._frames.append(image)

    def _finish(self) -> None:
        first, *others = self._frames
        options: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0}
        clock, comment = GIF_CLOCK, self._clip.comment
        if self._format == "WEBP":
            clock = WEBP_CLOCK
            options["quality"] = 90
        if comment is not None and self._format == "GIF":
            options["comment"] = comment.encode()
        elif comment is not None:
            exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = comment.encode()
            options["exif"] = exif
        # Durations are whole ticks of the clock: they are rounded so that no frame is off by more than half of one.
        ticks = [round(index * clock / self._clip.rate) for index in range(len(self._frames) + 1)]
        options["duration"] = [1000 // clock * (end - start) for start, end in zip(ticks, ticks[1:], strict=False)]
        first.save(self._path, self._format, **options)


class FrameFolderWriter(FrameWriter):
    """A folder of PNG files, numbered from 1.

    Args:
        path (`Path`):
            The folder, which is created.
        clip ([`Clip`]):
            Properties of the frames.
    """

    def __init__(self, path: Path, clip: Clip):
        path.mkdir()
        self._path, self._text = path, PngImagePlugin.PngInfo()
        if clip.comment is not None:
            self._text.add_itxt("Comment", clip.comment)

    def _add(self, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self._path / FRAME_NAME.format(self.count + 1), pnginfo=self._text)

    def _finish(self) -> None:
        """Every file is complete."""
