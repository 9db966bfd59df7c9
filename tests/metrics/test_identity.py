# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hia_diffusers.metrics.identity import FACE_POINTS, FACE_TEMPLATE, ArcFace


SIDE = 112


def write_network(path, inputs=("N", 3, SIDE, SIDE), outputs=("N", 3 * SIDE * SIDE)):
    """A network whose embedding of a face is the face itself."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["face"], ["embedding"])],
        "embed",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, outputs)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("arcface") / "identity.onnx")


def landmarks_of(points):
    """`(68, 2)` with the five points, in the order of the template, at the places that are looked at."""
    landmarks = np.full((68, 2), np.nan)
    for indices, point in zip(FACE_POINTS, points, strict=True):
        landmarks[list(indices)] = point
    return landmarks


def ramp(height, width):
    """An image `(3, H, W)` whose value is linear in the coordinates of the pixels' centres, so that sampling between
    pixels is exact."""
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    return torch.from_numpy(np.stack([x / width, y / height, (x + y) / (width + height)]))


@pytest.mark.parametrize(
    "angle, scale, shift", [(0, 1, (0, 0)), (0, 1, (33, 61)), (20, 1.5, (90, 40)), (-75, 0.7, (40, 190))]
)
def test_a_face_is_turned_to_the_template(network, angle, scale, shift):
    radians = np.deg2rad(angle)
    turn = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    height, width = 300, 280
    landmarks = landmarks_of(FACE_TEMPLATE @ turn.T + shift)
    face = ArcFace(network)(ramp(height, width)[None], landmarks[None]).reshape(3, SIDE, SIDE)

    y, x = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5, indexing="ij")
    x, y = np.moveaxis(np.stack([x, y], axis=-1) @ turn.T + shift, -1, 0)
    expected = 2 * np.stack([x / width, y / height, (x + y) / (width + height)]) - 1
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    assert inside.mean() > 0.95
    np.testing.assert_allclose(face.numpy()[:, inside], expected[:, inside], atol=0.02 / min(height, width) * 8)


def test_a_face_that_insightface_has_aligned_stays_as_it_is(network):
    """Its template, where the centre of the first pixel is (0, 0)."""
    template = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    face = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    aligned = ArcFace(network)(face, landmarks_of(np.array(template) + 0.5)[None]).reshape(1, 3, SIDE, SIDE)
    torch.testing.assert_close(aligned, 2 * face - 1, rtol=0, atol=1e-5)


def test_other_points_do_not_matter_and_all_of_an_eye_do(network):
    frames = torch.rand(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    landmarks = landmarks_of(FACE_TEMPLATE + 40)
    embed = ArcFace(network)
    expected = embed(frames, landmarks[None])
    jaw = landmarks.copy()
    jaw[:17] = 5
    torch.testing.assert_close(embed(frames, jaw[None]), expected)
    eye = landmarks.copy()
    eye[36:42] += [[6, 0], [-6, 0], [0, 6], [0, -6], [3, 3], [-3, -3]]
    torch.testing.assert_close(embed(frames, eye[None]), expected, rtol=0, atol=1e-4)
    eye[40] += 12
    assert not torch.allclose(embed(frames, eye[None]), expected, atol=1e-2)


def test_a_face_without_a_nose_has_no_embedding(network):
    landmarks = np.stack([landmarks_of(FACE_TEMPLATE + 40)] * 3)
    landmarks[1, 30] = np.nan
    embeddings = ArcFace(network)(torch.zeros(3, 3, 200, 200), landmarks)
    assert embeddings.shape == (3, 3 * SIDE * SIDE)
    assert embeddings.isnan().all(dim=1).tolist() == [False, True, False]
    assert embeddings.isnan().any(dim=1).tolist() == [False, True, False]


def test_the_file_is_told(network):
    assert ArcFace(network).sha256 == hashlib.sha256(network.read_bytes()).hexdigest()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        ArcFace(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match="text.onnx' cannot be read as an ONNX network"):
        ArcFace(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"must map \(N, 3, 112, 112\) to \(N, E\), got \['N', 3, 64, 64\]"):
        ArcFace(write_network(tmp_path / "small.onnx", ("N", 3, 64, 64), ("N", 3 * 64 * 64)))


def test_bad_input_is_named(network):
    embed = ArcFace(network)
    with pytest.raises(ValueError, match="`frames`"):
        embed(torch.zeros(3, 200, 200), np.zeros((1, 68, 2)))
    with pytest.raises(ValueError, match=r"`landmarks` must be of shape \(2, 68, 2\), got \(1, 68, 2\)"):
        embed(torch.zeros(2, 3, 200, 200), np.zeros((1, 68, 2)))
