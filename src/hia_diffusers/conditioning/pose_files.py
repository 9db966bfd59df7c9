# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Pose files of other tools: JSON of OpenPose, ComfyUI, MMPose and AlphaPose, and arrays of DWPose.

Axes: F frames, P people in a frame, n points of a part. A person is a dictionary of parts, each x, y, score `(n, 3)`:
`body` of OpenPose's 18 or 25 points or `coco_body` of 17, `feet` of 6, `face` of 68 or 70, and `left_hand` and
`right_hand` of 21.
"""

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..natural_order import natural_order


# Suffixes of files, in lower case; folders of .json files are supported as well.
SUFFIXES = (".json", ".npz", ".npy")
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")

# Maximum size of a file, or of an array in it, which bounds the memory of reading it.
MAX_BYTES = 2**30

# If people are numbered by frames: maximum number of missing frames, without people, for each frame that is present.
MAX_GAPS = 100

# Numbers of points of a person in other tools, and the position of each part.
LAYOUTS = {
    17: {"coco_body": slice(0, 17)},
    133: {
        **{"coco_body": slice(0, 17), "feet": slice(17, 23), "face": slice(23, 91)},
        **{"left_hand": slice(91, 112), "right_hand": slice(112, 133)},
    },
    134: {  # DWPose: with a neck, and the body in OpenPose's order
        **{"body": slice(0, 18), "feet": slice(18, 24), "face": slice(24, 92)},
        **{"left_hand": slice(92, 113), "right_hand": slice(113, 134)},
    },
}

OPENPOSE_KEYS = {
    "body": "pose_keypoints_2d",
    "left_hand": "hand_left_keypoints_2d",
    "right_hand": "hand_right_keypoints_2d",
    "face": "face_keypoints_2d",
}
COCO_KEYS = {"feet": "foot_kpts", "face": "face_kpts", "left_hand": "lefthand_kpts", "right_hand": "righthand_kpts"}

# Names of the arrays of all points and of their scores, and of DWPose's parts.
ARRAY_NAMES = (("keypoints", "scores"), ("keypoints", "keypoint_scores"), ("candidate", "subset"))
PART_NAMES = {"bodies": "body_scores", "faces": "faces_scores", "hands": "hands_scores"}

Person = dict[str, np.ndarray]


@dataclass(frozen=True)
class PoseFrame:
    """The people in a frame.

    Args:
        people (`list[dict[str, np.ndarray]]`):
            The parts of each person.
        canvas (`tuple[float, float]`, *optional*):
            Height and width of the image in which the points lie, if the file states them.
    """

    people: list[Person]
    canvas: tuple[float, float] | None = None


def read_pose_file(path: Path) -> tuple[list[PoseFrame], float | None]:
    """Read all frames of a file.

    Args:
        path (`Path`):
            A `.json`, `.npz` or `.npy` file, or a folder of `.json` files, which are sorted by the numbers in their
            names.

    Returns:
        `tuple[list[PoseFrame], float | None]`: The frames, and the frames per second if the file states them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a pickle or another kind of file, is damaged, or contains no known pose format.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".json":
        return read_json(path, "path"), None
    if suffix in PICKLES:
        raise ValueError(
            f"`path`: {path} is a pickle, which can run code, and is not opened; save its arrays elsewhere with "
            "`numpy.savez(file, keypoints=keypoints, scores=scores)`."
        )
    if suffix not in SUFFIXES:
        raise ValueError(f"`path` must end in .safetensors, {', '.join(SUFFIXES)}, or be a folder, got {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"`path` is not a file: {path}.")
    try:
        return _frames_of_arrays(_read_arrays(path, suffix))
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the readers fail in many ways
        raise ValueError(f"`path` cannot be read as a pose file: {path} ({_reason(error)}).") from error


def read_json(source: object, name: str) -> list[PoseFrame]:
    """Read the frames of JSON files.

    Args:
        source (`str`, `os.PathLike`, `dict` or `Sequence`):
            A file; a folder of `.json` files, which are sorted by the numbers in their names; the parsed content of a
            file; or a list of files and parsed contents.
        name (`str`):
            Name of the argument in error messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not JSON, or contains no known pose format.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"`{name}`: there is no file or folder {path}.")
        source = sorted(path.glob("*.json"), key=lambda file: natural_order(file.name)) if path.is_dir() else [path]
        if not source:
            raise ValueError(f"`{name}` has no .json files: {path}.")
    parsed: list[Any] = []
    for part in source if isinstance(source, Sequence) else [source]:
        if not isinstance(part, (str, os.PathLike)):
            parsed.append((f"frame {len(parsed)}", part))
            continue
        file = Path(part)
        if not file.is_file():
            raise FileNotFoundError(f"`{name}` names a file that does not exist: {file}.")
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"`{name}` contains a file of more than {MAX_BYTES} bytes: {file}.")
        try:
            parsed.append((str(file), json.loads(file.read_text(encoding="utf-8-sig"))))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`{name}` contains a file that is not JSON: {file} ({_reason(error)}).") from error
    frames: list[PoseFrame] = []
    for where, content in parsed:
        try:
            frames += _frames_of_json(content)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise ValueError(f"`{name}` contains no poses that can be read: {where} ({_reason(error)}).") from error
    if not frames:
        raise ValueError(f"`{name}` must contain at least one frame, got none.")
    return frames


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


# JSON


def _frames_of_json(content: Any) -> list[PoseFrame]:
    """Parse the content of one file, or of one entry of a list."""
    if isinstance(content, dict) and isinstance(content.get("instance_info"), list):
        content = content["instance_info"]  # MMPose's demos
    entries = content if isinstance(content, list) else [content]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it is neither a dictionary nor a list of dictionaries")

    def all_have(*keys: str) -> bool:
        return all(key in entry for entry in entries for key in keys)

    found: dict[Any, list[Person]] = {}
    if all_have("people"):  # OpenPose; ComfyUI saves a list of frames
        return [_openpose_frame(entry) for entry in entries]
    if all_have("instances"):  # MMPose's inferencer
        for number, entry in enumerate(entries):
            found.setdefault(entry.get("frame_id", number), []).extend(map(_mmpose_person, entry["instances"]))
        return _numbered(found)
    if all_have("image_id", "keypoints"):  # COCO results: MMPose's tests, AlphaPose
        for entry in entries:
            found.setdefault(_frame_number(entry["image_id"]), []).append(_coco_person(entry))
        return _numbered(found)
    if all_have("keypoints", "keypoint_scores"):  # MMPose's inferencer, on one image
        return [PoseFrame([_mmpose_person(entry) for entry in entries])]
    known = "OpenPose's `people`, MMPose's `instances`, or `image_id` and `keypoints` as in COCO results"
    raise ValueError(f"it has none of {known}, but {', '.join(list(map(str, entries[0]))[:6]) or 'nothing'}")


def _openpose_frame(entry: Mapping[str, Any]) -> PoseFrame:
    people = entry["people"]
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise ValueError("`people` must be a list of dictionaries")
    canvas = None
    if "canvas_width" in entry and "canvas_height" in entry:
        height, width = (checks.number(side, entry[side], above=0) for side in ("canvas_height", "canvas_width"))
        canvas = (height, width)
    return PoseFrame(
        [_parts({part: person.get(key) for part, key in OPENPOSE_KEYS.items()}) for person in people], canvas
    )


def _parts(values: Mapping[str, Any]) -> Person:
    """Parse parts listed as x, y, score, flat or as one list per point; missing parts are empty or null."""
    parts = {}
    for name, numbers in values.items():
        points = _numbers(numbers if numbers is not None else [])
        if points.size % 3 or points.ndim == 2 and points.shape[1] != 3 or points.ndim > 2:
            raise ValueError(f"x, y and score of each point must be listed for {name}, got shape {points.shape}")
        if points.size:
            parts[name] = points.reshape(-1, 3)
    return parts


def _coco_person(entry: Mapping[str, Any]) -> Person:
    return {
        **_split(_parts({"body": entry["keypoints"]})["body"]),
        **_parts({k: entry.get(v) for k, v in COCO_KEYS.items()}),
    }


def _mmpose_person(entry: Mapping[str, Any]) -> Person:
    xy, scores = _numbers(entry["keypoints"]), _numbers(entry["keypoint_scores"])
    return _split(np.concatenate([xy[:, :2], scores[:, None]], axis=1))


def _split(points: np.ndarray) -> Person:
    """Split all points of a person `(n, 3)` into parts."""
    if len(points) not in LAYOUTS:
        raise ValueError(f"a person must have {', '.join(map(str, LAYOUTS))} points, got {len(points)}")
    return {part: points[place] for part, place in LAYOUTS[len(points)].items()}


def _numbers(values: object) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _frame_number(image_id: object) -> int:
    """Return the last number in an id or a file name."""
    numbers = re.findall(r"[0-9]+", str(image_id))
    if not numbers:
        raise ValueError(f"image_id must contain a number, got {checks.shown(image_id)}")
    return int(numbers[-1])


def _numbered(people: Mapping[Any, list[Person]]) -> list[PoseFrame]:
    """Return the frames from the first to the last number; missing frames have no people."""
    numbers = {checks.integer("frame number", number, 0): found for number, found in people.items()}
    first, last = min(numbers), max(numbers)
    if last - first >= (MAX_GAPS + 1) * len(numbers):
        raise ValueError(f"its {len(numbers)} images are numbered {first} to {last}, which are not frames of a clip")
    return [PoseFrame(numbers.get(number, [])) for number in range(first, last + 1)]


# Arrays


def read_npz_member(archive: zipfile.ZipFile, name: str, most_bytes: int = MAX_BYTES) -> np.ndarray:
    """Read an array of an .npz file without decompressing more than its maximum size.

    Args:
        archive (`zipfile.ZipFile`):
            The file.
        name (`str`):
            Name of the array.
        most_bytes (`int`, *optional*, defaults to 2**30):
            Maximum size in bytes.

    Raises:
        Whatever `zipfile` and NumPy raise for damaged files, and `ValueError` for those that are too large.
    """
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > most_bytes:
        raise ValueError(f"{name} takes {member.file_size} bytes, more than the maximum of {most_bytes}")
    content = io.BytesIO(archive.read(member))
    major, _ = np.lib.format.read_magic(content)
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(content)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{name} has the shape {shape}, but contains less data")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def _read_arrays(path: Path, suffix: str) -> dict[str, np.ndarray]:
    if suffix == ".npy":
        return {"keypoints": np.load(path, mmap_mode="r", allow_pickle=False)}
    with zipfile.ZipFile(path) as archive:
        stored = {name.removesuffix(".npy") for name in archive.namelist()}
        wanted = {name for names in (*ARRAY_NAMES, *PART_NAMES.items()) for name in names}
        arrays = {name: read_npz_member(archive, name) for name in stored & {*wanted, "height", "width", "fps"}}
        if not arrays.keys() & wanted and len(stored) == 1:
            return {"keypoints": read_npz_member(archive, stored.pop())}
    if not arrays.keys() & wanted:
        raise ValueError(
            f"it contains {', '.join(sorted(stored)[:6]) or 'nothing'}; supported are xy and score of "
            "WholeBodyKeypoints, keypoints and scores, candidate and subset, or bodies, hands and faces"
        )
    return arrays


def _frames_of_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[list[PoseFrame], float | None]:
    canvas = None
    if "height" in arrays and "width" in arrays:
        canvas = (checks.side("height", arrays["height"].item()), checks.side("width", arrays["width"].item()))
    fps = checks.number("fps", arrays["fps"].item(), above=0) if "fps" in arrays else None
    points = _joined_dwpose_parts(arrays) if "bodies" in arrays else _all_points(arrays)
    if points.ndim == 3:
        points = points[:, None]  # one person
    if points.ndim != 4 or len(points) == 0:
        raise ValueError(f"its points must have the shape (F, K, 2 or 3) or (F, P, K, 2 or 3), got {points.shape}")
    people = [[_split(person) for person in frame] for frame in points]
    return [PoseFrame(found, canvas) for found in people], fps


def _all_points(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return x, y, score `(F, K, 3)` or `(F, P, K, 3)`."""
    names = next((names for names in ARRAY_NAMES if names[0] in arrays and names[1] in arrays), None)
    if names is not None:
        return _with_scores(arrays[names[0]], arrays[names[1]])
    return _with_scores(arrays["keypoints"] if "keypoints" in arrays else arrays["candidate"], None)


def _with_scores(xy: np.ndarray, scores: np.ndarray | None) -> np.ndarray:
    xy = np.asarray(xy, dtype=np.float64)
    if xy.ndim < 2 or xy.shape[-1] not in (2, 3):
        raise ValueError(f"its points must have x, y and optionally a score, got an array of shape {xy.shape}")
    if scores is None:
        # Without scores, a missing point is at zero, or at -1 in DWPose.
        found = ~((xy[..., :2] == 0).all(axis=-1) | (xy[..., :2] == -1).all(axis=-1))
        scores = xy[..., 2] if xy.shape[-1] == 3 else found.astype(np.float64)
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != xy.shape[:-1]:
        raise ValueError(f"its scores must have the shape {xy.shape[:-1]}, got {scores.shape}")
    return np.concatenate([xy[..., :2], scores[..., None]], axis=-1)


def _joined_dwpose_parts(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Join the parts of one person to x, y, score `(F, 134, 3)`.

    The parts are the bodies `(F, 18, 2)`, hands `(F, 2, 21, 2)` and faces `(F, 68, 2)`.
    """
    num_frames = len(arrays["bodies"])
    joined = np.full((num_frames, 134, 3), np.nan)
    places = {"bodies": slice(0, 18), "faces": slice(24, 92), "hands": slice(92, 134)}
    for name, place in places.items():
        if name in arrays:
            points = _with_scores(arrays[name], arrays.get(PART_NAMES[name]))
            size = place.stop - place.start
            if points.size != num_frames * size * 3:
                raise ValueError(
                    f"{name} must contain {size} points of one person per frame, got {arrays[name].shape}"
                )
            joined[:, place] = points.reshape(num_frames, size, 3)
    return joined
