# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Small videos with sound: silence, and a tone that begins at a known moment."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


FPS = 30
TONE = 0.5  # when it begins, in seconds after the sound


def write_clip(
    path: Path,
    sound: str | None = "aac",
    video: str = "libx264",
    rate: int = 44100,
    seconds: float = 1.5,
    sound_start: float = 0.0,
    video_start: float = 0.0,
    frames: np.ndarray | None = None,
    times: np.ndarray | None = None,
    channels: int = 2,
) -> Path:
    """
    A video with sound of another length.

    Args:
        path (`Path`):
            The file; its suffix chooses the container.
        sound, video (`str`):
            Encoders of FFmpeg; without `sound` there is none.
        rate (`int`):
            Samples per second.
        seconds (`float`):
            Length of the sound.
        sound_start, video_start (`float`):
            When they begin, in seconds.
        frames (`np.ndarray`, *optional*):
            uint8 RGB `(F, H, W, 3)`; the default are 30 frames, a second.
        times (`np.ndarray`, *optional*):
            When each frame is shown, in seconds, in place of 30 per second.
        channels (`int`):
            Of the sound.
    """
    frames = np.zeros((30, 48, 64, 3), np.uint8) if frames is None else frames
    shown = np.arange(len(frames)) / FPS if times is None else times
    with av.open(str(path), "w") as container:
        # Frames in the order they are shown: PyAV gives reordered ones of a variable rate a wrong duration.
        options = {} if times is None else {"bf": "0"}
        images = container.add_stream(video, rate=FPS, options=options)
        images.height, images.width, images.pix_fmt = *frames.shape[1:3], "yuv420p"
        if video == "libx264":
            images.codec_context.time_base = Fraction(1, 600)
        if sound is not None:
            track = container.add_stream(sound, rate=rate)
            track.layout = "mono" if channels == 1 else "stereo"
        container.start_encoding()
        base = images.codec_context.time_base
        for pixels, time in zip(frames, shown, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round((time + video_start) / base), base
            container.mux(images.encode(frame))
        container.mux(images.encode())
        if sound is not None:
            size = track.codec_context.frame_size or 1024
            resampler = av.AudioResampler(track.codec_context.format.name, track.layout, rate, frame_size=size)
            frame = av.AudioFrame.from_ndarray(tone(rate, seconds)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, round(sound_start * rate), Fraction(1, rate)
            for block in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(track.encode(block))
            container.mux(track.encode())
    return path


def tone(rate: int, seconds: float) -> np.ndarray:
    """float32 samples in [-0.5, 0.5]."""
    time = np.arange(round(rate * seconds)) / rate
    return np.where(time < TONE, 0, 0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def tone_start(path: Path) -> float:
    """When the tone begins, in seconds after the first image."""
    with av.open(str(path)) as container:
        sound, images = container.streams.audio[0], container.streams.video[0]
        begin = images.start_time * images.time_base
        resampler = av.AudioResampler("fltp", "mono", sound.rate)
        for frame in container.decode(sound):
            for block in resampler.resample(frame):
                loud = np.flatnonzero(np.abs(block.to_ndarray()[0]) > 0.1)
                if len(loud):
                    return float(block.pts * block.time_base - begin) + loud[0] / sound.rate
    raise AssertionError(f"{path} has no tone")


def sound_end(path: Path) -> float:
    """When the sound ends, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return float((stream.start_time + stream.duration) * stream.time_base)


def last_sound(path: Path) -> float:
    """When the last packet of sound ends, in seconds; WebM files state no duration of the stream."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return float((packets[-1].pts + packets[-1].duration) * packets[-1].time_base)


def sound_codec(path: Path) -> str | None:
    """What the sound is encoded with; `None` where there is none."""
    with av.open(str(path)) as container:
        streams = container.streams.audio
        return streams[0].codec_context.codec.canonical_name if streams else None
