# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""ArcFace's network in torch, and reading of its files.

Axes: N faces, E the size of an embedding.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..files import sha256_of
from ..metrics.identity import FACE_SIDE
from ..metrics.weights import local_file
from ..state_dicts import read_state_dict


NORM_EPSILON = 1e-5  # torch's default


class IResNet(nn.Module):
    """InsightFace's improved residual network, differentiable with respect to the image.

    It is frozen: its parameters require no gradients, and `train()` leaves it in evaluation mode, so that batch norms
    do not change. Autocast is disabled inside: the rounding of bfloat16 alone changes an embedding more than a small
    change of the face does.

    The state dict has the keys of InsightFace's `iresnet.py`.

    Args:
        depths (`Sequence[int]`):
            Residual blocks in each of the four stages: `(2, 2, 2, 2)` is R18, `(3, 4, 6, 3)` R34, `(3, 4, 14, 3)` R50
            and `(3, 13, 30, 3)` R100.
        widths (`Sequence[int]`, *optional*, defaults to `(64, 64, 128, 256, 512)`):
            Channels of the first convolution and of each stage.
        num_features (`int`, *optional*, defaults to `512`):
            Size of an embedding, E.
        folded (`bool`, *optional*, defaults to `False`):
            Whether batch norms are folded into the preceding convolutions, which have a bias instead, as in files
            exported for inference.

    Attributes:
        sha256 (`str` or `None`): SHA-256 of the weights file.
    """

    sha256: str | None = None

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        num_features: int = 512,
        folded: bool = False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=folded)
        self.bn1 = _norm(widths[0], folded)
        self.prelu = nn.PReLU(widths[0])
        self.layer1 = _stage(depths[0], widths[0], widths[1], folded)
        self.layer2 = _stage(depths[1], widths[1], widths[2], folded)
        self.layer3 = _stage(depths[2], widths[2], widths[3], folded)
        self.layer4 = _stage(depths[3], widths[3], widths[4], folded)
        self.bn2 = nn.BatchNorm2d(widths[4])
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(widths[4] * (FACE_SIDE // 16) ** 2, num_features)
        self.features = nn.BatchNorm1d(num_features)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_weights(cls, weights: str | os.PathLike) -> "IResNet":
        """Read a network; its depths, widths and embedding size are derived from the weights.

        Known files are the recognition networks of InsightFace's packs (`w600k_r50.onnx` of buffalo_l,
        `glintr100.onnx` of antelopev2), the `backbone.pth` of its model zoo, and
        `hf://py-feat/arcface_r50/arcface_r50.safetensors`. InsightFace licenses all of these weights for
        non-commercial research only.

        Args:
            weights (`str` or `os.PathLike`):
                A local path or `hf://owner/name[@revision]/file`. It is read as an ONNX network if it ends in `.onnx`,
                and otherwise as [`~hia_diffusers.state_dicts.read_state_dict`] does.

        Raises:
            ImportError: If an ONNX network is given and onnx is not installed.
            FileNotFoundError: If there is no such file, or it is a folder.
            ValueError: If the file cannot be read, or contains another network.
        """
        path = _local_file(weights)
        state = _read_onnx(path) if path.suffix.lower() == ".onnx" else read_state_dict("weights", path).tensors
        # In py-feat's files, the batch norm is folded into the convolution.
        state = {re.sub(r"\.downsample\.(weight|bias)$", r".downsample.0.\1", name): state[name] for name in state}
        network = cls._for_state(state, path)
        network.load_state_dict(state, strict=False)
        network.sha256 = sha256_of(path)
        return network

    @classmethod
    def _for_state(cls, state: dict[str, Tensor], path: Path) -> "IResNet":
        """Create the network of a state dict, which may lack the step counters of norms."""
        sources = ["conv1.weight", *(f"layer{stage}.0.conv2.weight" for stage in range(1, 5)), "fc.weight"]
        if missing := [name for name in sources if name not in state]:
            raise ValueError(f"`weights`: {str(path)!r} contains no IResNet: it lacks {_listed(missing)}.")
        *widths, num_features = (len(state[name]) for name in sources)
        blocks = {match[1] for name in state if (match := re.match(r"(layer[1-4]\.\d+)\.", name))}
        depths = [sum(block.startswith(f"layer{stage}.") for block in blocks) for stage in range(1, 5)]
        network = cls(depths, widths, num_features, folded="conv1.bias" in state)

        expected = {name: value.shape for name, value in network.state_dict().items()}
        found = {name: value.shape for name, value in state.items()}
        differences = {
            "it lacks": [name for name in expected.keys() - found.keys() if "num_batches_tracked" not in name],
            "it has the unknown": found.keys() - expected.keys(),
            "the shape differs for": [name for name in found.keys() & expected if found[name] != expected[name]],
        }
        if any(differences.values()):
            told = "; ".join(f"{what} {_listed(names)}" for what, names in differences.items() if names)
            raise ValueError(f"`weights`: {str(path)!r} contains no IResNet of depths {tuple(depths)}: {told}.")
        return network

    def train(self, mode: bool = True) -> "IResNet":
        """Stay in evaluation mode.

        Args:
            mode (`bool`, *optional*, defaults to `True`):
                Ignored.
        """
        return super().train(False)

    def forward(self, faces: Tensor) -> Tensor:
        """Embed faces.

        Args:
            faces (`torch.Tensor` of shape `(N, 3, 112, 112)`):
                Aligned faces, RGB in [-1, 1], in the precision of the weights.

        Returns:
            `torch.Tensor`: Embeddings `(N, E)`, not normalized.

        Raises:
            ValueError: If the shape is not as above.
        """
        if faces.shape[1:] != (3, FACE_SIDE, FACE_SIDE):
            raise ValueError(f"`faces` must be of shape (N, 3, {FACE_SIDE}, {FACE_SIDE}), got {tuple(faces.shape)}.")
        with torch.autocast(faces.device.type, enabled=False):
            hidden = self.prelu(self.bn1(self.conv1(faces)))
            hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
            return self.features(self.fc(self.dropout(self.bn2(hidden).flatten(1))))


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, folded: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=folded)
        self.bn2 = _norm(out_channels, folded)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, padding=1, bias=folded)
        self.bn3 = _norm(out_channels, folded)
        self.downsample = nn.Sequential()
        if stride != 1:
            self.downsample.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=folded))
            self.downsample.append(_norm(out_channels, folded))

    def forward(self, hidden: Tensor) -> Tensor:
        change = self.prelu(self.bn2(self.conv1(self.bn1(hidden))))
        return self.bn3(self.conv2(change)) + self.downsample(hidden)


def _stage(depth: int, in_channels: int, out_channels: int, folded: bool) -> nn.Sequential:
    """Residual blocks; the first one halves height and width."""
    others = (_Block(out_channels, out_channels, 1, folded) for _ in range(depth - 1))
    return nn.Sequential(_Block(in_channels, out_channels, 2, folded), *others)


def _norm(channels: int, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.BatchNorm2d(channels)


def _local_file(weights: str | os.PathLike) -> Path:
    """Return the local file. If it is missing, the error message considers how InsightFace's packs are unpacked."""
    path = Path(checks.path("weights", weights))
    if path.is_dir():
        inside = sorted(
            str(file) for file in path.rglob("*") if file.suffix.lower() in (".onnx", ".pth", ".safetensors")
        )
        raise FileNotFoundError(
            f"`weights`: {str(path)!r} is a folder, pass the file of the recognition network in it, such as"
            f" w600k_r50.onnx or glintr100.onnx; it contains {_listed(inside) or 'no weights'}."
        )
    doubled = path.parent / path.parent.name / path.name
    if doubled.is_file() and not path.is_file():
        raise FileNotFoundError(
            f"`weights`: there is no {str(path)!r}: the zip file was unpacked into a folder of its own name;"
            f" give {str(doubled)!r} or move its files one folder up."
        )
    return local_file(weights)


def _listed(names: Any) -> str:
    first, rest = sorted(names)[:6], len(names) - 6
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """Read the state dict of an IResNet that was exported to ONNX, where most weights have numbers as names."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "Reading .onnx weights needs the `train` extra: pip install 'hia-diffusers[train]'"
        ) from error
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's errors depend on its implementation
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"`weights`: {str(path)!r} cannot be read as an ONNX network: {reason}") from error
    try:
        return _OnnxWalk(graph).state
    except _OtherNetworkError as error:
        raise ValueError(f"`weights`: {str(path)!r} contains no IResNet: {error}.") from error


class _OtherNetworkError(Exception):
    """A graph is not an IResNet."""


class _OnnxWalk:
    """Traverse a graph from the face to the embedding, and collect the weights in `state`."""

    # Further inputs of a node, by torch's names.
    WEIGHTS = {
        "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
        "Conv": ("weight", "bias"),
        "Gemm": ("weight", "bias"),
        "PRelu": ("weight",),
    }

    # Nodes without effect on values.
    MOVES = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")

    def __init__(self, graph: Any):
        from onnx import numpy_helper

        self.state: dict[str, Tensor] = {}
        self._values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in self._values:  # equal weights are stored once
                self._values[node.output[0]] = self._values[node.input[0]]
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        faces = [value.name for value in graph.input if value.name not in self._values]
        embeddings = [value.name for value in graph.output]
        if len(faces) != 1 or [self._network(faces[0])] != embeddings:
            raise _OtherNetworkError(f"it maps {_listed(faces)} to {_listed(embeddings)}")

    def _network(self, tensor: str) -> str:
        tensor = self._convolution(tensor, "conv1", "bn1")
        tensor = self._layer("PRelu", tensor, "prelu")
        stage = block = 0
        while len(self._readers.get(tensor, ())) > 1:
            is_first = any(node.op_type == "Conv" for node in self._readers[tensor])
            stage, block = (stage + 1, 0) if is_first else (stage, block + 1)
            tensor = self._block(tensor, f"layer{stage}.{block}", 2 if is_first else 1)
        tensor = self._layer("BatchNormalization", tensor, "bn2")
        tensor = self._layer("Gemm", self._moved(tensor), "fc")
        return self._moved(self._layer("BatchNormalization", self._moved(tensor), "features"))

    def _block(self, tensor: str, name: str, stride: int) -> str:
        change = self._layer("BatchNormalization", tensor, f"{name}.bn1")
        change = self._convolution(change, f"{name}.conv1", f"{name}.bn2")
        change = self._layer("PRelu", change, f"{name}.prelu")
        change = self._convolution(change, f"{name}.conv2", f"{name}.bn3", stride)
        if stride == 2:
            tensor = self._convolution(tensor, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        total = self._reader("Add", change)
        if set(total.input) != {change, tensor}:
            raise _OtherNetworkError(f"{name} adds {_listed(total.input)}")
        return total.output[0]

    def _convolution(self, tensor: str, name: str, norm: str, stride: int = 1) -> str:
        """Read a convolution, and the batch norm after it unless it is folded."""
        attributes = {item.name: item for item in self._reader("Conv", tensor).attribute}
        strides = list(attributes["strides"].ints) if "strides" in attributes else [1, 1]
        if strides != [stride, stride]:
            raise _OtherNetworkError(f"{name} must have stride {stride}, got {strides}")
        tensor = self._layer("Conv", tensor, name)
        if any(node.op_type == "BatchNormalization" for node in self._readers.get(tensor, ())):
            tensor = self._layer("BatchNormalization", tensor, norm)
        return tensor

    def _layer(self, kind: str, tensor: str, name: str) -> str:
        node = self._reader(kind, tensor)
        for weight, source in zip(self.WEIGHTS[kind], node.input[1:], strict=False):
            if source not in self._values:
                raise _OtherNetworkError(f"{name}.{weight} is computed")
            value = torch.from_numpy(self._values[source].copy())
            self.state[f"{name}.{weight}"] = value.flatten() if kind == "PRelu" else value
        if kind == "BatchNormalization":
            epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), NORM_EPSILON)
            self.state[f"{name}.running_var"] += epsilon - NORM_EPSILON
        return node.output[0]

    def _moved(self, tensor: str) -> str:
        while readers := [node for node in self._readers.get(tensor, ()) if node.op_type in self.MOVES]:
            tensor = readers[0].output[0]
        return tensor

    def _reader(self, kind: str, tensor: str) -> Any:
        readers = [node for node in self._readers.get(tensor, ()) if node.op_type == kind]
        if len(readers) != 1:
            kinds = [node.op_type for node in self._readers.get(tensor, ())]
            raise _OtherNetworkError(f"{tensor!r} must be read by one {kind}, got {_listed(kinds) or 'none'}")
        return readers[0]
