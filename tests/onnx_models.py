# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Small ONNX files that rtmlib runs in place of YOLOX and RTMPose, and images of the people that they find.

To these models, an upright rectangle is a person. They see red light only, so an image whose channels are swapped
shows them nobody. People stand beside each other, with at least one dark column between them.

Axes: B batch, F frames, P people, K = 133 keypoints, H, W.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx.parser
from onnx import numpy_helper


MAX_PEOPLE = 4
RTMPOSE_MEAN, RTMPOSE_STD = 123.675, 58.395  # of the red channel


def person_points() -> np.ndarray:
    """The keypoints `(133, 2)` in a person's rectangle, whose corners are (0, 0) and (1, 1). He faces the viewer."""
    points = np.empty((133, 2))
    points[:5] = [(0.5, 0.12), (0.53, 0.1), (0.47, 0.1), (0.56, 0.11), (0.44, 0.11)]
    sides = [(0.62, 0.22), (0.75, 0.36), (0.8, 0.5), (0.57, 0.52), (0.58, 0.74), (0.58, 0.94)]
    points[5:17:2] = sides
    points[17:20] = [(0.64, 0.97), (0.67, 0.96), (0.56, 0.96)]
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points[23:91] = np.stack([0.5 + 0.07 * np.cos(turn), 0.11 + 0.04 * np.sin(turn)], axis=1)
    fingers = [(0.3 * finger - 0.6, joint / 4) for finger in range(5) for joint in range(1, 5)]
    points[91:112] = np.array(sides[2]) + np.array([(0, 0), *fingers]) * (0.1, 0.08)
    for left, right in ((slice(5, 17, 2), slice(6, 17, 2)), (slice(17, 20), slice(20, 23))):
        points[right] = (1, 0) + points[left] * (-1, 1)
    points[112:133] = (1, 0) + points[91:112] * (-1, 1)
    return points


PERSON_POINTS = person_points()


def draw_people(
    boxes: Sequence,
    height: int = 128,
    width: int = 160,
    color: tuple[int, int, int] = (220, 90, 30),
) -> np.ndarray:
    """Dark uint8 RGB frames `(F, H, W, 3)`; `boxes` holds per frame x0, y0, x1, y1 of its people, whole numbers."""
    frames = np.full((len(boxes), height, width, 3), 20, dtype=np.uint8)
    for frame, people in zip(frames, boxes, strict=True):
        for x0, y0, x1, y1 in people:
            frame[max(y0, 0) : y1, max(x0, 0) : x1] = color
    return frames


def points_in(box: Sequence) -> np.ndarray:
    """Where the pose model finds the keypoints `(133, 2)` of the person in the rectangle."""
    x0, y0, x1, y1 = box
    return np.array([x0, y0]) + PERSON_POINTS * (x1 - x0, y1 - y0)


def write_detector(
    path: Path,
    height: int = 64,
    width: int = 64,
    batch: int | str = "batch",
    with_nms: bool = True,
    label: int = 0,
) -> Path:
    """
    A model with the inputs and outputs of YOLOX: BGR images to boxes of the rectangles, from left to right.

    Args:
        path (`Path`):
            The file to write.
        height, width (`int`):
            Size of the images it takes.
        batch (`int` or `str`, *optional*, defaults to `"batch"`):
            A name for an axis of any length, or the one length that it takes.
        with_nms (`bool`, *optional*, defaults to `True`):
            Whether it gives boxes, as the models do that rtmlib downloads, or the raw head of two classes.
        label (`int`, *optional*, defaults to `0`):
            Class of all that it finds; 0 is a person.
    """
    boxes = """
        red = Gather <axis = 1> (image, two)
        bright = Greater (red, threshold)
        pixels = Cast <to = 1> (bright)
        columns = ReduceMax <axes = [1], keepdims = 0> (pixels)
        padded = Pad (columns, around)
        before = Slice (padded, zero_1, minus_two_1, one_1)
        after = Slice (padded, two_1, far_1, one_1)
        begins = Greater (columns, before)
        ends = Greater (columns, after)
        begin_columns = Cast <to = 1> (begins)
        end_columns = Cast <to = 1> (ends)
        begin_weights = Mul (begin_columns, from_right)
        end_weights = Mul (end_columns, from_right)
        left_weights, left_indices = TopK (begin_weights, people_1)
        right_weights, right_indices = TopK (end_weights, people_1)
        x0 = Sub (width, left_weights)
        last = Sub (width, right_weights)
        x1 = Add (last, one)
        x0_n = Unsqueeze (x0, two_1)
        x1_n = Unsqueeze (x1, two_1)
        is_right = GreaterOrEqual (x, x0_n)
        is_left = Less (x, x1_n)
        is_inside = And (is_right, is_left)
        inside = Cast <to = 1> (is_inside)
        mask = Unsqueeze (inside, two_1)
        all_pixels = Unsqueeze (pixels, one_1)
        own_pixels = Mul (all_pixels, mask)
        rows = ReduceMax <axes = [3], keepdims = 0> (own_pixels)
        weights_from_bottom = Mul (rows, from_bottom)
        weights_from_top = Mul (rows, from_top)
        top_weight = ReduceMax <axes = [2], keepdims = 0> (weights_from_bottom)
        y0 = Sub (height, top_weight)
        y1 = ReduceMax <axes = [2], keepdims = 0> (weights_from_top)
        is_found = Greater (left_weights, zero)
        found = Cast <to = 1> (is_found)
        score = Mul (found, sure)
    """
    nms_head = """
        y0_n = Unsqueeze (y0, two_1)
        y1_n = Unsqueeze (y1, two_1)
        score_n = Unsqueeze (score, two_1)
        dets = Concat <axis = 2> (x0_n, y0_n, x1_n, y1_n, score_n)
        score_class = Cast <to = 7> (score)
        labels = Add (score_class, label)
    """
    # The n-th person is put into the n-th cell of the first row: YOLOX decodes x as 8 * (n + output).
    raw_head = """
        x_sum = Add (x0, x1)
        y_sum = Add (y0, y1)
        x_cells = Div (x_sum, sixteen)
        center_x = Sub (x_cells, cell)
        center_y = Div (y_sum, sixteen)
        x_size = Sub (x1, x0)
        y_size = Sub (y1, y0)
        x_positive = Max (x_size, one)
        y_positive = Max (y_size, one)
        x_relative = Div (x_positive, eight)
        y_relative = Div (y_positive, eight)
        log_width = Log (x_relative)
        log_height = Log (y_relative)
        x_n = Unsqueeze (center_x, two_1)
        y_n = Unsqueeze (center_y, two_1)
        width_n = Unsqueeze (log_width, two_1)
        height_n = Unsqueeze (log_height, two_1)
        score_n = Unsqueeze (score, two_1)
        as_person = Mul (score_n, person_share)
        as_thing = Mul (score_n, thing_share)
        head = Concat <axis = 2> (x_n, y_n, width_n, height_n, score_n, as_person, as_thing)
        cells = Pad (head, empty_cells)
    """
    cells = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    values = {
        "threshold": 127.0,
        "two": 2,
        "zero": 0.0,
        "one": 1.0,
        "eight": 8.0,
        "sixteen": 16.0,
        "zero_1": [0],
        "one_1": [1],
        "two_1": [2],
        "minus_two_1": [-2],
        "far_1": [width + 2],
        "around": [0, 1, 0, 1],
        "people_1": [MAX_PEOPLE],
        "height": float(height),
        "width": float(width),
        "x": np.arange(width, dtype=np.float32),
        "from_right": width - np.arange(width, dtype=np.float32),
        "from_bottom": height - np.arange(height, dtype=np.float32),
        "from_top": 1 + np.arange(height, dtype=np.float32),
        "sure": 0.95,
        "label": label,
        "cell": np.arange(MAX_PEOPLE, dtype=np.float32),
        "person_share": float(label == 0),
        "thing_share": float(label != 0),
        "empty_cells": [0, 0, 0, 0, cells - MAX_PEOPLE, 0],
    }
    inputs = f"float[{batch}, 3, {height}, {width}] image"
    if with_nms:
        outputs = f"float[{batch}, {MAX_PEOPLE}, 5] dets, int64[{batch}, {MAX_PEOPLE}] labels"
        return _write(path, inputs, outputs, boxes + nms_head, values)
    return _write(path, inputs, f"float[{batch}, {cells}, 7] cells", boxes + raw_head, values)


def write_pose_model(
    path: Path,
    height: int = 64,
    width: int = 48,
    batch: int | str = "batch",
    score: float | np.ndarray = 0.9,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """
    A model with the inputs and outputs of RTMPose: normalised RGB crops to the SimCC of the rectangle at the centre.

    Args:
        path (`Path`):
            The file to write.
        height, width (`int`):
            Size of the crops it takes.
        batch (`int` or `str`, *optional*, defaults to `"batch"`):
            A name for an axis of any length, or the one length that it takes.
        score (`float` or `np.ndarray` of shape `(133,)`, *optional*, defaults to 0.9):
            Score of the points of a rectangle that is fully red (255); it falls in proportion. 0 is not found.
        shift (`tuple[float, float]`, *optional*, defaults to `(0, 0)`):
            Added to all points, in units of the rectangle's sides.
    """
    body = """
        scaled = Mul (crop, std)
        light = Add (scaled, mean)
        red = Gather <axis = 1> (light, zero_index)
        bright = Greater (red, threshold)
        pixels = Cast <to = 1> (bright)
        columns = ReduceMax <axes = [1], keepdims = 0> (pixels)
        dark = Sub (one, columns)
        dark_left = Mul (dark, left_positions)
        dark_right = Mul (dark, right_positions)
        x0 = ReduceMax <axes = [1]> (dark_left)
        from_right = ReduceMax <axes = [1]> (dark_right)
        x1 = Sub (width, from_right)
        is_right = GreaterOrEqual (x, x0)
        is_left = Less (x, x1)
        is_inside = And (is_right, is_left)
        inside = Cast <to = 1> (is_inside)
        mask = Unsqueeze (inside, one_1)
        own_pixels = Mul (pixels, mask)
        rows = ReduceMax <axes = [2], keepdims = 0> (own_pixels)
        weights_from_bottom = Mul (rows, from_bottom)
        weights_from_top = Mul (rows, from_top)
        top_weight = ReduceMax <axes = [1]> (weights_from_bottom)
        y0 = Sub (height, top_weight)
        y1 = ReduceMax <axes = [1]> (weights_from_top)
        own_light = Mul (own_pixels, red)
        brightest = ReduceMax <axes = [1, 2], keepdims = 0> (own_light)
        brightest_1 = Unsqueeze (brightest, one_1)
        share = Div (brightest_1, full)
        scores = Mul (share, score)
        scores_k = Unsqueeze (scores, two_1)
    """
    # Index coordinates of the pixels' centres; two SimCC bins per pixel.
    for axis in "xy":
        body += f"""
        size_{axis} = Sub ({axis}1, {axis}0)
        part_{axis} = Mul (size_{axis}, points_{axis})
        edge_{axis} = Add (part_{axis}, {axis}0)
        index_{axis} = Sub (edge_{axis}, half)
        target_{axis} = Unsqueeze (index_{axis}, two_1)
        offset_{axis} = Sub (bins_{axis}, target_{axis})
        distance_{axis} = Abs (offset_{axis})
        loss_{axis} = Mul (distance_{axis}, slope)
        peak_{axis} = Sub (one, loss_{axis})
        simcc_{axis} = Mul (peak_{axis}, scores_k)
        """
    position = np.arange(width, dtype=np.float32)
    points = (PERSON_POINTS + np.array(shift)).astype(np.float32)
    values = {
        "std": RTMPOSE_STD,
        "mean": RTMPOSE_MEAN,
        "threshold": 127.0,
        "full": 255.0,
        "zero_index": 0,
        "one": 1.0,
        "half": 0.5,
        "slope": 0.001,
        "one_1": [1],
        "two_1": [2],
        "height": float(height),
        "width": float(width),
        "x": position,
        "left_positions": np.where(position < width // 2, position + 1, 0).astype(np.float32),
        "right_positions": np.where(position >= width // 2, width - position, 0).astype(np.float32),
        "from_bottom": height - np.arange(height, dtype=np.float32),
        "from_top": 1 + np.arange(height, dtype=np.float32),
        "score": np.broadcast_to(np.asarray(score, dtype=np.float32), 133),
        "points_x": points[:, 0],
        "points_y": points[:, 1],
        "bins_x": np.arange(2 * width, dtype=np.float32) / 2,
        "bins_y": np.arange(2 * height, dtype=np.float32) / 2,
    }
    inputs = f"float[{batch}, 3, {height}, {width}] crop"
    outputs = f"float[{batch}, 133, {2 * width}] simcc_x, float[{batch}, 133, {2 * height}] simcc_y"
    return _write(path, inputs, outputs, body, values)


def write_models(folder: Path) -> dict[str, Path]:
    """A detector, a pose model and a feet model, as the arguments of `KeypointDetector` that name them."""
    return {
        "detector_model": write_detector(folder / "detector.onnx"),
        "pose_model": write_pose_model(folder / "pose.onnx"),
        "feet_model": write_pose_model(folder / "feet.onnx"),
    }


def _write(path: Path, inputs: str, outputs: str, body: str, values: dict) -> Path:
    nodes = "\n".join(line.strip() for line in body.splitlines() if line.strip())
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> people ({inputs}) => ({outputs}) {{ {nodes} }}'
    )
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(values)):
        array = np.asarray(values[name])
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
