# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reads uploaded files in a process of their own, which is killed if it takes too long.

A file may be made to hang a decoder or to take it over. Therefore the process gets the path of one file, cannot write
files, and returns numbers, which cannot carry code.
"""

import json
import math
import multiprocessing
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..animation.driving import KEYPOINT_SUFFIXES
from ..conditioning.keypoints import WholeBodyKeypoints
from ..video.reading import Video
from . import readers
from .limits import Limits


MAX_TEXT_BYTES = 2**16


class Decoder:
    """Reads uploaded files within limits.

    Args:
        limits ([`~app.limits.Limits`]):
            The limits of the content of a file, and of reading it.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        # On Linux, a process that has already loaded the libraries is forked; other systems do not fork safely.
        self._processes: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            from multiprocessing import forkserver

            self._processes.set_forkserver_preload([readers.__name__])
            forkserver.ensure_running()

    def image(self, path: Path) -> Image.Image:
        """Read an image.

        Args:
            path (`Path`):
                The file.

        Raises:
            ValueError: If it is no image, or exceeds the limits.
        """
        _, arrays = self._read("image", path, self.limits)
        return Image.fromarray(arrays["pixels"])

    def motion(self, path: Path, num_frames: int) -> Video | WholeBodyKeypoints:
        """Read the beginning of a video or of a keypoint file.

        Args:
            path (`Path`):
                The file.
            num_frames (`int`):
                The maximum number of frames to read.

        Raises:
            ValueError: If it is neither, or exceeds the limits.
        """
        limits = replace(self.limits, max_frames=num_frames)
        if path.suffix.lower() in KEYPOINT_SUFFIXES:
            numbers, arrays = self._read("keypoints", path, limits)
            size = int(numbers["height"]), int(numbers["width"])
            return WholeBodyKeypoints(arrays["xy"], arrays["score"], *size, numbers["fps"])
        numbers, arrays = self._read("video", path, limits)
        return Video(arrays["frames"], numbers["fps"])

    def _read(self, kind: str, path: Path, limits: Limits) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        receiver, sender = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=readers.answer, args=(sender, kind, path, limits), daemon=True)
        watch = threading.Timer(limits.seconds, process.kill)
        process.start()
        sender.close()
        end = time.monotonic() + limits.seconds
        watch.start()
        try:
            return _received(receiver, limits.memory_bytes)
        except (EOFError, OSError):
            reason = "cannot be read: it makes the decoder fail"
            if time.monotonic() >= end:
                reason = f"takes more than {limits.seconds:g} seconds to read; give a smaller or shorter one"
            raise ValueError(f"{path.name!r} {reason}.") from None
        finally:
            watch.cancel()
            process.kill()
            process.join()
            process.close()
            receiver.close()


def _received(receiver: Connection, max_bytes: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    text = json.loads(receiver.recv_bytes(MAX_TEXT_BYTES))
    if "error" in text:
        raise ValueError(text["error"])
    arrays = {}
    for name, dtype, shape in text["arrays"]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > max_bytes:
            raise ValueError(f"{name} of {shape} {dtype} is more than a file may contain.")
        max_bytes -= size
        arrays[name] = np.frombuffer(receiver.recv_bytes(size), dtype).reshape(shape)
    return text["numbers"], arrays
