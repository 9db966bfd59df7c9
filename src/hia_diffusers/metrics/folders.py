# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of clips to compare from two folders, which contain videos, folders of frames, or frames of the same names.

Folders of frames may be those of the TikTok dataset, `NAME/images/0001.png`. One folder with the frames of all clips,
`NAME_0001.png`, is what DisCo's code writes.

Axes: F frames, H, W; hands are ordered left, right (the person's).
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

from .. import checks
from ..conditioning.keypoints import WholeBodyKeypoints
from ..conditioning.motion_blur import MotionBlurConditioner
from ..conditioning.regions import box_masks, face_boxes
from ..conditioning.whole_body import FACE
from ..files import sha256_of
from ..images import load_image
from ..natural_order import natural_order
from ..video.frame_folders import FRAME_SUFFIXES, IMAGES_FOLDER, in_order, is_frame
from ..video.reading import VIDEO_SUFFIXES, read_video, stream_frames
from .evaluation import EvaluationClip
from .frame import SSIM_WINDOW


KEYPOINT_SUFFIXES = (".safetensors", ".npz")
MASK_SUFFIXES = (".safetensors",)

SHOWN_NAMES = 5  # of missing or additional clips

# The clip and the number in the name of a frame that lies in one folder with those of other clips.
FRAME_NAME = re.compile(r"(?P<clip>.*[^\W_])[\W_]+(?P<number>\d+)")


@dataclass(frozen=True)
class _Clip:
    """A clip: where it is, for messages, and the files of its frames, or `None` for a video."""

    path: Path
    frames: tuple[Path, ...] | None = None


def clips_in_folders(
    predictions: str | os.PathLike,
    targets: str | os.PathLike,
    keypoints: str | os.PathLike | None = None,
    masks: str | os.PathLike | None = None,
) -> list[EvaluationClip]:
    """Return the clips, after checking that all files exist, are intact, and have matching sizes and lengths.

    For this check, everything is decoded once. Hidden files are ignored. Frames have the orientation in which a
    browser shows them, and are ordered by the numbers in their names.

    Args:
        predictions (`str` or `os.PathLike`):
            A folder of videos, or of folders of frames, one per clip, where the frames may be in a folder `images`; or
            a folder of the frames of all clips, named `CLIP_NUMBER`.
        targets (`str` or `os.PathLike`):
            The ground truth, with the same names.
        keypoints (`str` or `os.PathLike`, *optional*):
            A folder with the keypoints of the targets as `NAME.safetensors` or `NAME.npz`. They determine the boxes of
            face and hands, the sharpness of the hands and the points of the face.
        masks (`str` or `os.PathLike`, *optional*):
            A folder with `NAME.safetensors` files that contain `face_mask` `(F, H, W)` and `hand_masks` `(F, 2, H,
            W)`, which are used instead of boxes.

    Returns:
        `list[EvaluationClip]`: The clips, sorted by name.

    Raises:
        FileNotFoundError: If one of the folders does not exist.
        ValueError: If a file is missing, has no counterpart, is damaged, or has another size or length.
    """
    folders = {"predictions": predictions, "targets": targets, "keypoints": keypoints, "masks": masks}
    for name, folder in folders.items():
        if folder is not None and not Path(checks.path(name, folder)).is_dir():
            raise FileNotFoundError(f"`{name}`: there is no folder {str(folder)!r}")
    predicted, expected = _find_clips("predictions", predictions), _find_clips("targets", targets)
    _check_same_names("`predictions`", predicted, "`targets`", expected)
    points = _find_annotations("keypoints", keypoints, KEYPOINT_SUFFIXES, expected)
    regions = _find_annotations("masks", masks, MASK_SUFFIXES, expected)
    clips = []
    for name, target in expected.items():
        shape = _checked_shape(predicted[name], target)
        annotations: dict[str, Any] = {}
        if points:
            annotations["keypoints"] = _load_keypoints(points[name], shape)
        if regions:
            _load_masks(regions[name], shape)
            annotations["masks"] = regions[name]
        load = functools.partial(_load_pair, predicted[name], target, shape, **annotations)
        clips.append(EvaluationClip(name, shape[0], load))
    return clips


def sha256_of_folder(folder: str | os.PathLike) -> str:
    """Return the SHA-256 of the names and contents of all files that are not hidden, in a folder and its clips.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
    """
    digest = hashlib.sha256()
    for path in _visible(Path(folder)):
        for file in _visible(_images_of(path)) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\0".encode())
    return digest.hexdigest()


# Names


def _visible(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(paths, key=lambda path: natural_order(path.name))


def _find_clips(argument: str, folder: str | os.PathLike) -> dict[str, _Clip]:
    """Return the clips in a folder by their names: those of videos without suffix, of folders, or of frames."""
    found: dict[str, _Clip] = {}
    paths = _visible(Path(folder))
    if paths and all(is_frame(path.name) and path.is_file() for path in paths):
        return _find_clips_of_frames(argument, paths)
    for path in paths:
        if path.is_dir():
            _add_new(found, path.name, _Clip(path, tuple(_frame_files(_images_of(path)))), argument)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            _add_new(found, path.stem, _Clip(path), argument)
        else:
            advice = "; put the frames of each clip into a folder of its own" if is_frame(path.name) else ""
            raise ValueError(
                f"`{argument}`: {str(path)!r} is neither a video ({', '.join(VIDEO_SUFFIXES)}) nor a folder{advice}"
            )
    if not found:
        raise ValueError(f"`{argument}`: {str(folder)!r} contains no clips")
    return found


def _find_clips_of_frames(argument: str, paths: Sequence[Path]) -> dict[str, _Clip]:
    """Return the clips of a folder with the frames of all of them."""
    frames: dict[str, list[Path]] = {}
    for path in paths:
        match = FRAME_NAME.fullmatch(path.stem)
        if match is None:
            raise ValueError(
                f"`{argument}`: {str(path)!r} must be named after its clip and its number, such as dance_0001.png, or "
                "be in a folder for its clip"
            )
        frames.setdefault(match["clip"], []).append(path)
    return {name: _Clip(files[0].with_name(name), tuple(in_order(files))) for name, files in frames.items()}


def _images_of(folder: Path) -> Path:
    """Return the folder of the frames: that of the clip, or the one in it that is meant for them."""
    return folder / IMAGES_FOLDER if (folder / IMAGES_FOLDER).is_dir() else folder


def _find_annotations(
    argument: str, folder: str | os.PathLike | None, suffixes: Sequence[str], targets: Mapping[str, _Clip]
) -> dict[str, Path] | None:
    if folder is None:
        return None
    found: dict[str, Path] = {}
    for path in _visible(Path(folder)):
        if path.suffix.lower() in suffixes:
            _add_new(found, path.stem, path, argument)
    _check_same_names(f"`{argument}`", found, "`targets`", targets)
    return found


def _add_new(found: dict[str, Any], name: str, clip: Any, argument: str) -> None:
    if name in found:
        first, second = (getattr(each, "path", each) for each in (found[name], clip))
        raise ValueError(f"`{argument}`: {str(second)!r} and {str(first)!r} have the same name")
    found[name] = clip


def _check_same_names(where: str, found: Iterable[str], elsewhere: str, expected: Iterable[str]) -> None:
    missing, extra = set(expected) - set(found), set(found) - set(expected)
    differences = [f"there is no {_listed(missing)}, which is in {elsewhere}"] if missing else []
    differences += [f"{_listed(extra)} is not in {elsewhere}"] if extra else []
    if differences:
        raise ValueError(f"{where}: {'; '.join(differences)}")


def _listed(names: Iterable[str]) -> str:
    words = [repr(name) for name in sorted(names)]
    more = len(words) - SHOWN_NAMES
    return ", ".join([*words[:SHOWN_NAMES], *([f"{more} more"] if more > 0 else [])])


def _frame_files(folder: Path) -> list[Path]:
    """Return the frames in a folder, with 2 before 10."""
    for path in _visible(folder):
        if path.suffix.lower() not in FRAME_SUFFIXES:
            raise ValueError(f"{str(path)!r} is not a frame ({', '.join(FRAME_SUFFIXES)})")
    files = in_order(_visible(folder))
    if not files:
        raise ValueError(f"{str(folder)!r} contains no frames")
    return files


# Contents


def _checked_shape(prediction: _Clip, target: _Clip) -> tuple[int, int, int]:
    """Return number of frames, height and width, which must be the same for both."""
    shape, predicted = _shape_of(target), _shape_of(prediction)
    if predicted != shape:
        raise ValueError(
            f"`predictions`: {str(prediction.path)!r} has {_written(predicted)}, but {str(target.path)!r} in "
            f"`targets` has {_written(shape)}"
        )
    if min(shape[1:]) < SSIM_WINDOW:
        raise ValueError(f"`targets`: {str(target.path)!r} is smaller than {SSIM_WINDOW}x{SSIM_WINDOW} pixels")
    if target.frames is not None and prediction.frames is not None:
        predicted_names, names = ([file.stem for file in clip.frames or ()] for clip in (prediction, target))
        name = target.path.name
        _check_same_names(f"`predictions` {name}", predicted_names, f"`targets` {name}", names)
    return shape


def _shape_of(clip: _Clip) -> tuple[int, int, int]:
    """Return number of frames, height and width.

    The whole video is decoded, so that damage is detected before the evaluation begins.
    """
    frames = stream_frames(clip.path) if clip.frames is None else map(load_frame, clip.frames)
    sizes = [frame.shape[:2] for frame in frames]
    if len(set(sizes)) > 1:
        raise ValueError(f"{str(clip.path)!r} changes its frame size")
    return len(sizes), *sizes[0]


def _written(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} frames of {shape[2]}x{shape[1]}"


def _load_frames(clip: _Clip) -> np.ndarray:
    """Return the frames, uint8 `(F, H, W, 3)`."""
    return (
        read_video(clip.path).frames if clip.frames is None else np.stack([load_frame(path) for path in clip.frames])
    )


def load_frame(path: Path) -> np.ndarray:
    """Read a frame from a folder of frames.

    Args:
        path (`Path`):
            The image.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB, upright.

    Raises:
        ValueError: If it cannot be read, or contains several images.
    """
    frame = np.asarray(load_image(path, "frame"))
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{str(path)!r} contains several images")
    return frame


def _load_keypoints(path: Path, shape: tuple[int, int, int]) -> WholeBodyKeypoints:
    keypoints = WholeBodyKeypoints.load(path)
    found = (len(keypoints), keypoints.height, keypoints.width)
    if found != shape:
        raise ValueError(f"`keypoints`: {str(path)!r} is of {_written(found)}, but the clip has {_written(shape)}")
    return keypoints


def _load_masks(path: Path, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return `face_masks` and `hand_masks` for `VideoEvaluation.add`."""
    num_frames, height, width = shape
    shapes = {"face_mask": (num_frames, height, width), "hand_masks": (num_frames, 2, height, width)}
    try:
        arrays = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"`masks`: {str(path)!r} cannot be read ({error})") from error
    for name, expected in shapes.items():
        if name not in arrays or arrays[name].shape != expected:
            found = arrays[name].shape if name in arrays else "none"
            raise ValueError(f"`masks`: {str(path)!r} must contain {name} of shape {expected}, got {found}")
    return {"face_masks": arrays["face_mask"].astype(bool), "hand_masks": arrays["hand_masks"].astype(bool)}


def _load_pair(
    prediction: _Clip,
    target: _Clip,
    shape: tuple[int, int, int],
    keypoints: WholeBodyKeypoints | None = None,
    masks: Path | None = None,
) -> dict[str, np.ndarray]:
    """Return the arguments of `VideoEvaluation.add`."""
    clip = {"predictions": _load_frames(prediction), "targets": _load_frames(target)}
    if keypoints is not None:
        clip |= _from_keypoints(keypoints, clip["predictions"], clip["targets"])
    if masks is not None:
        clip |= _load_masks(masks, shape)
    return clip


def _from_keypoints(
    keypoints: WholeBodyKeypoints, predictions: np.ndarray, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """Return boxes of face and hands as masks, sharpness of the hands in predictions and targets, and face points."""
    conditioner = MotionBlurConditioner()
    wanted = conditioner(keypoints, targets)
    boxes = np.concatenate([face_boxes(keypoints)[:, None], wanted.hand_boxes], axis=1)
    masks = box_masks(boxes, *targets.shape[1:3])
    return {
        "face_masks": masks[:, 0],
        "hand_masks": masks[:, 1:],
        "wanted_sharpness": wanted.hand_sharpness,
        "measured_sharpness": conditioner(keypoints, predictions).hand_sharpness,
        "face_landmarks": keypoints.xy[:, FACE],
    }
