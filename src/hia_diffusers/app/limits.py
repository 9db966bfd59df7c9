# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What the web page takes from its users."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """
    What an upload may be, what reading it may take, and how many connections there may be.

    Args:
        max_frames (`int`, *optional*, defaults to 64):
            Frames that are read of a motion, and made.
        max_upload_bytes (`int`, *optional*, defaults to 50 MiB):
            Size of an uploaded file.
        max_stored_bytes (`int`, *optional*, defaults to 2 GiB):
            Size of all uploads and results that are kept; no upload is taken beyond it.
        max_picture_pixels (`int`, *optional*, defaults to 50 million):
            Width times height of a picture.
        max_video_pixels (`int`, *optional*, defaults to that of 1920x1088):
            Width times height of a video.
        seconds (`float`, *optional*, defaults to 30):
            Time that reading one file may take.
        memory_bytes (`int`, *optional*, defaults to 2 GiB):
            Memory that reading one file may take, on Linux.
        keep_seconds (`float`, *optional*, defaults to one hour):
            Uploads and results are deleted when they are older.
        connections (`int`, *optional*, defaults to 400):
            Connections of all clients. Each keeps a file open, of which a process usually may have 1024.
        address_connections (`int`, *optional*, defaults to 32):
            Connections of one address.
    """

    max_frames: int = 64
    max_upload_bytes: int = 50 * 2**20
    max_stored_bytes: int = 2 * 2**30
    max_picture_pixels: int = 50_000_000
    max_video_pixels: int = 1920 * 1088
    seconds: float = 30.0
    memory_bytes: int = 2 * 2**30
    keep_seconds: float = 3600.0
    connections: int = 400
    address_connections: int = 32
