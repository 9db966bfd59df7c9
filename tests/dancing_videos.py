# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Videos of the people of `onnx_models.py`, who hop and wave, and what the detector finds in them.

Axes: F frames, H, W.
"""

from pathlib import Path

import numpy as np
from onnx_models import draw_people, points_in

from hia_diffusers import WholeBodyKeypoints
from hia_diffusers.video.writing import write_video


HEIGHT, WIDTH, FPS = 128, 160, 30
BLUE, GREEN, GREY = (10, 30, 200), (10, 180, 20), (20, 20, 20)


def dancer_boxes(num_frames: int, x: int = 60, step: int = 2, height: int = 100) -> list[list[tuple]]:
    """Per frame the box of one person, who goes to and fro by `step` pixels a frame."""
    path = x + step * np.abs(np.arange(num_frames) % 20 - 10)
    return [[(left, 14, left + 36, 14 + height)] for left in path.tolist()]


def draw_scene(boxes: list, background: tuple[int, int, int] = GREY) -> np.ndarray:
    """uint8 RGB `(F, H, W, 3)`; to the detector, who sees red only, blue and green are as dark as grey."""
    frames = draw_people(boxes, HEIGHT, WIDTH)
    frames[(frames == 20).all(axis=-1)] = background
    return frames


def keypoints_of(boxes: list) -> WholeBodyKeypoints:
    """The first person of each frame; missing where there is none."""
    points = [points_in(people[0]) if people else np.full((133, 2), np.nan) for people in boxes]
    return WholeBodyKeypoints(np.stack(points), np.ones((len(points), 133)), HEIGHT, WIDTH, FPS)


def write_dance(path: Path, scenes: list[tuple[list, tuple[int, int, int]]], keypoints: Path | None = None) -> None:
    """A video of scenes, each the boxes of its people and its background; and its keypoints in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.concatenate([draw_scene(*scene) for scene in scenes]), FPS)
    if keypoints is not None:
        keypoints.mkdir(parents=True, exist_ok=True)
        boxes = [people for scene, _ in scenes for people in scene]
        keypoints_of(boxes).save(keypoints / f"{path.stem}.safetensors")
