# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The sound of a video file, for an MP4 file with other frames.

It is copied without re-encoding if possible. Times are in seconds since the first frame of the source file.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from .. import checks
from .animations import open_animation
from .containers import open_container


# MP4 files can contain other codecs, such as PCM and Vorbis, but few players support them.
COPIED_CODECS = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")

# Settings of AAC, if the sound cannot be copied.
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_BIT_RATE = 96_000  # per channel
AAC_FRAME_SIZE = 1024


def has_sound(path: str | os.PathLike, seconds: float | None = None) -> bool:
    """Return whether a file has sound.

    The sound is read once, so that [`~video.writing.write_video`] does not fail later.

    Args:
        path (`str` or `os.PathLike`):
            A video or audio file, in one of the formats of [`~video.containers`].
        seconds (`float`, *optional*):
            Duration to read; all by default.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `path` is not a video or audio file, or its sound is damaged or in a codec unknown to FFmpeg.
    """
    with open_sound(path) as sound:
        if sound is not None:
            sound.check(seconds)
        return sound is not None


@contextmanager
def open_sound(path: str | os.PathLike) -> Iterator["Sound | None"]:
    """Open the sound of a file; if there are several streams, the one that a player would choose.

    Args:
        path (`str` or `os.PathLike`):
            A video or audio file, in one of the formats of [`~video.containers`]. A GIF, PNG or WebP has no sound.

    Returns:
        A context manager for a [`Sound`], or for `None` if the file has no sound.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `path` is not a video or audio file, or its sound is in a codec unknown to FFmpeg.
    """
    if not Path(checks.path("audio_from", path)).is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} to take sound from.")
    with open_animation(path) as animation, ExitStack() as stack:
        if animation is not None:
            yield None
            return
        with _reading(path):
            source = stack.enter_context(open_container(path))
        stream = source.streams.best("audio")
        if stream is not None and stream.codec_context is None:
            raise ValueError(f"The sound of {str(path)!r} is in a codec that FFmpeg does not know.")
        yield None if stream is None else Sound(path, source, stream)


class Sound:
    """The sound of an open file, written to an MP4 file piece by piece. Created by [`open_sound`].

    Args:
        path (`str` or `os.PathLike`):
            The file, for error messages.
        source (`av.container.InputContainer`):
            The opened file.
        stream (`av.AudioStream`):
            Its audio stream.
    """

    def __init__(self, path: str | os.PathLike, source: Any, stream: Any):
        self._path, self._source, self._stream = path, source, stream
        images = source.streams.best("video")
        self._begin = Fraction(0)
        if images is not None and images.start_time is not None:
            self._begin = images.start_time * images.time_base
        self._is_copied = stream.codec_context.codec.canonical_name in COPIED_CODECS
        self._next: Any = None

    def check(self, end: float | None = None) -> None:
        """Read the sound to check it.

        Args:
            end (`float`, *optional*):
                Time up to which to read; all by default.

        Raises:
            ValueError: If it is damaged.
        """
        with _reading(self._path):
            for part in self._source.demux(self._stream) if self._is_copied else self._source.decode(self._stream):
                if end is not None and part.pts is not None and _start(part) - self._begin > end:
                    break

    def add_to(self, output: Any) -> None:
        """Add an audio stream to a file to which nothing has been written yet.

        Args:
            output (`av.container.OutputContainer`):
                The MP4 file.
        """
        if self._is_copied:
            packets = self._copied(output.add_stream_from_template(self._stream))
        else:
            rate = self._stream.rate if self._stream.rate in AAC_RATES else 48000
            encoder = output.add_stream("aac", rate=rate, options={"flags": "+bitexact"})
            encoder.layout = "mono" if self._stream.channels == 1 else "stereo"
            encoder.bit_rate = AAC_BIT_RATE * encoder.channels
            packets = self._encoded(encoder)
        # One packet before the first frame is kept: most codecs need it to decode the next one. It is not played.
        self._packets = (packet for packet in packets if _start(packet) + 2 * _duration(packet) > 0)
        self._output = output
        self._next = next(self._packets, None)

    def write_until(self, end: Fraction) -> None:
        """Write the remaining sound that ends by a given time.

        Args:
            end (`Fraction`):
                The time in seconds.
        """
        while self._next is not None and _start(self._next) + _duration(self._next) <= end:
            self._output.mux(self._next)
            self._next = next(self._packets, None)

    def finish(self, end: Fraction) -> None:
        """Write the remaining sound, cut at a given time.

        Args:
            end (`Fraction`):
                The time in seconds.
        """
        self.write_until(end)
        if self._next is not None and (start := _start(self._next)) < end:
            packet, rate = self._next, self._stream.rate  # some time bases are not finer than a packet
            packet.pts = packet.dts = round(start * rate)
            packet.duration = max(1, round((end - start) * rate))
            packet.time_base = Fraction(1, rate)
            self._output.mux(packet)

    def _copied(self, stream: Any) -> Iterator[Any]:
        with _reading(self._path):
            for packet in self._source.demux(self._stream):
                if packet.size == 0:
                    continue
                packet.pts = packet.dts = self._since_begin(packet, packet.time_base)
                packet.stream = stream
                yield packet

    def _encoded(self, encoder: Any) -> Iterator[Any]:
        resampler = av.AudioResampler("fltp", encoder.layout, encoder.rate, frame_size=AAC_FRAME_SIZE)
        with _reading(self._path):
            for frame in itertools.chain(self._source.decode(self._stream), [None]):
                for block in resampler.resample(frame):
                    block.pts = self._since_begin(block, Fraction(1, encoder.rate))
                    yield from encoder.encode(block)
            yield from encoder.encode()

    def _since_begin(self, part: Any, time_base: Fraction) -> int:
        if part.pts is None:
            raise ValueError(f"The sound of {str(self._path)!r} stores no time stamps.")
        return part.pts - round(self._begin / time_base)


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(f"The sound of {str(path)!r} cannot be read: {error.strerror}.") from error


def _start(packet: Any) -> Fraction:
    return packet.pts * packet.time_base


def _duration(packet: Any) -> Fraction:
    return (packet.duration or 0) * packet.time_base
