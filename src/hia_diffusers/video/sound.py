# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The sound of a video file, for an MP4 or WebM file with other frames.

It is copied without re-encoding if all players support it in the file. Times are in seconds since the first frame of
the result.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from .. import checks
from .animations import open_animation
from .containers import open_container


@dataclass(frozen=True)
class SoundEncoding:
    """How sound is stored in a container.

    Args:
        codec (`str`):
            FFmpeg's name of the codec, which is copied.
        encoder (`str`):
            Its encoder, for other codecs.
        sample_format (`str`):
            What the encoder takes.
        frame_size (`int`):
            Samples that it takes at a time.
        rates (`tuple[int, ...]`):
            Samples per second that it supports; others become 48000.
    """

    codec: str
    encoder: str
    sample_format: str
    frame_size: int
    rates: tuple[int, ...]


# MP4 and WebM files can contain other codecs, but some players do not support them there.
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
ENCODINGS = {
    "mp4": SoundEncoding("aac", "aac", "fltp", 1024, AAC_RATES),
    "webm": SoundEncoding("opus", "libopus", "s16", 960, (48000,)),
}
BIT_RATE = 96_000  # per channel


def has_sound(
    path: str | os.PathLike, seconds: float | None = None, start: float = 0.0, container: str = "mp4"
) -> bool:
    """Return whether a file has sound.

    The sound is read once, so that [`~video.writing.write_video`] does not fail later.

    Args:
        path (`str` or `os.PathLike`):
            A video or audio file, in one of the formats of [`~video.containers`].
        seconds (`float`, *optional*):
            Duration to read; all by default.
        start, container:
            As for [`open_sound`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `path` is not a video or audio file, or its sound is damaged or in a codec unknown to FFmpeg.
    """
    with open_sound(path, start, container) as sound:
        if sound is not None:
            sound.check(seconds)
        return sound is not None


@contextmanager
def open_sound(path: str | os.PathLike, start: float = 0.0, container: str = "mp4") -> Iterator["Sound | None"]:
    """Open the sound of a file; if there are several streams, the one that a player would choose.

    Args:
        path (`str` or `os.PathLike`):
            A video or audio file, in one of the formats of [`~video.containers`]. A GIF, PNG or WebP has no sound.
        start (`float`, *optional*, defaults to 0.0):
            Time in the file at which the result begins, in seconds since its first frame.
        container (`str`, *optional*, defaults to `"mp4"`):
            `"mp4"` or `"webm"`, of the result.

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
        yield None if stream is None else Sound(path, source, stream, start, container)


class Sound:
    """The sound of an open file, written to another file piece by piece. Created by [`open_sound`].

    Args:
        path (`str` or `os.PathLike`):
            The file, for error messages.
        source (`av.container.InputContainer`):
            The opened file.
        stream (`av.AudioStream`):
            Its audio stream.
        start, container:
            As for [`open_sound`].
    """

    def __init__(self, path: str | os.PathLike, source: Any, stream: Any, start: float, container: str):
        self._path, self._source, self._stream = path, source, stream
        images = source.streams.best("video")
        self._begin = Fraction(start)
        if images is not None and images.start_time is not None:
            self._begin += images.start_time * images.time_base
        self._format = ENCODINGS[container]
        self._is_copied = stream.codec_context.codec.canonical_name == self._format.codec
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
                The MP4 or WebM file.
        """
        if self._is_copied:
            packets = self._copied(output.add_stream_from_template(self._stream))
        else:
            rate = self._stream.rate if self._stream.rate in self._format.rates else 48000
            encoder = output.add_stream(self._format.encoder, rate=rate, options={"flags": "+bitexact"})
            encoder.layout = "mono" if self._stream.channels == 1 else "stereo"
            encoder.bit_rate = BIT_RATE * encoder.channels
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
        resampler = av.AudioResampler(
            self._format.sample_format, encoder.layout, encoder.rate, frame_size=self._format.frame_size
        )
        with _reading(self._path):
            for frame in itertools.chain(self._source.decode(self._stream), [None]):
                if frame is not None and frame.pts is not None:  # blocks would share a tick of a coarser clock
                    frame.pts = round(frame.pts * frame.time_base * frame.rate)
                    frame.time_base = Fraction(1, frame.rate)
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
