# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The limits of what users of the web page may send."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of uploads, of reading them, and of connections.

    Args:
        max_frames (`int`, *optional*, defaults to 64):
            Number of frames that are read of a motion, and of a result.
        max_upload_bytes (`int`, *optional*, defaults to 50 MiB):
            Size of an upload.
        max_stored_bytes (`int`, *optional*, defaults to 2 GiB):
            Size of all uploads that are kept. Beyond it, uploads are rejected.
        max_image_pixels (`int`, *optional*, defaults to 50 million):
            Width times height of an image.
        max_video_pixels (`int`, *optional*, defaults to that of 1920x1088):
            Width times height of a video.
        seconds (`float`, *optional*, defaults to 30):
            Time that reading one file may take.
        memory_bytes (`int`, *optional*, defaults to 2 GiB):
            Memory that reading one file may take, on Linux.
        keep_seconds (`int`, *optional*, defaults to one hour):
            Age from which on uploads and results are deleted.
        connections (`int`, *optional*, defaults to 400):
            Number of connections of all clients. Each needs an open file, of which a process usually may have 1024.
        address_connections (`int`, *optional*, defaults to 32):
            Number of connections of one address.
    """

    max_frames: int = 64
    max_upload_bytes: int = 50 * 2**20
    max_stored_bytes: int = 2 * 2**30
    max_image_pixels: int = 50_000_000
    max_video_pixels: int = 1920 * 1088
    seconds: float = 30.0
    memory_bytes: int = 2 * 2**30
    keep_seconds: int = 3600
    connections: int = 400
    address_connections: int = 32
