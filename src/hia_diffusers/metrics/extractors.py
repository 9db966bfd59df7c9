# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Feature networks of the Fréchet distances, each with its preprocessing and the hash of its weights.

FID, FID-VID and FVD use published weights, given as a local file or `hf://owner/name/file`. FID-p and FVD-p use the
package's own small networks, which are trained on procedural people only: their values cannot be compared with FID and
FVD.

Axes: N frames or clips, F frames of a clip, H, W.
"""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from .. import checks
from ..files import sha256_of
from ..procedural.feature_networks import ProceduralClipNetwork, ProceduralFrameNetwork
from ..state_dicts import read_state_dict
from .video_networks import I3D, ResNet3D50
from .weights import local_file


CLIP_LENGTH = 16

PROCEDURAL_WEIGHTS = Path(__file__).parents[1] / "assets" / "procedural_features.safetensors"
PROCEDURAL_SHA256 = "28938808e6fb3793cef9563aacb7aec8e43df478b20ca652b05010156c225709"

# Tolerance of values outside [0, 1], for example after resizing or blurring.
ROUNDING = 1e-4

# RGB in [0, 255], of the training data of the 3D ResNet-50.
KINETICS_MEAN = (114.7748, 107.7354, 99.4750)


class FeatureExtractor:
    """A network in evaluation mode with its preprocessing. Use one of the subclasses.

    Attributes:
        name (`str`):
            The metric that uses the features.
        preprocessing (`str`):
            Description of the preprocessing in one line, to be reported with the value.
        sha256 (`str`):
            SHA-256 of the weights file, in hexadecimal digits.
        clip_length (`int`, *optional*):
            Number of frames of a clip; `None` for single frames.
        num_features (`int`):
            Length D of a feature vector.
    """

    name: str
    preprocessing: str
    clip_length: int | None
    num_features: int
    _batch_size: int

    def __init__(self, network: nn.Module, sha256: str, device: str | torch.device) -> None:
        self.sha256 = sha256
        self._device = torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)

    @classmethod
    def check_clips(cls, num_frames: Mapping[str, int], clip_stride: int = CLIP_LENGTH) -> None:
        """Check that videos suffice for a Fréchet distance, which compares distributions.

        Args:
            num_frames (`Mapping[str, int]`):
                Number of frames of each video, by its name.
            clip_stride (`int`, *optional*, defaults to 16):
                Number of frames from the start of one clip to that of the next.

        Raises:
            ValueError: If a video is shorter than a clip, or there are fewer than two samples in total.
        """
        length = cls.clip_length or 1
        for name, number in num_frames.items():
            if number < length:
                raise ValueError(f"{cls.name} needs clips of {length} frames; {name!r} has {number}")
        stride = clip_stride if cls.clip_length else 1
        samples = sum(1 + (number - length) // stride for number in num_frames.values())
        if samples < 2:
            raise ValueError(f"{cls.name} compares distributions; it needs more than one sample, got {samples}")

    @torch.inference_mode()
    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute the features of frames.

        Args:
            frames (`torch.Tensor`):
                Floating point RGB in `[0, 1]`: `(N, 3, H, W)` if `clip_length` is `None`, otherwise `(N, clip_length,
                3, H, W)`. They are moved to the device in small batches, so N may be large.

        Returns:
            `torch.Tensor`: float32 `(N, D)` on the CPU.

        Raises:
            ValueError: If `frames` has another shape or dtype, is empty, or contains values outside `[0, 1]`.
        """
        self._check(frames)
        batches = frames.split(self._batch_size)
        return torch.cat([self._features(batch.to(self._device, torch.float32)).cpu() for batch in batches])

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _check(self, frames: torch.Tensor) -> None:
        expected = ("N", 3, "H", "W") if self.clip_length is None else ("N", self.clip_length, 3, "H", "W")
        fits = frames.ndim == len(expected) and all(
            size == wanted or isinstance(wanted, str) for size, wanted in zip(frames.shape, expected, strict=True)
        )
        if not fits or frames.numel() == 0:
            shape = ", ".join(map(str, expected))
            raise ValueError(f"`frames` must be ({shape}) for {self.name}, got {tuple(frames.shape)}.")
        if not frames.is_floating_point():
            raise ValueError(f"`frames` must be floating point in [0, 1], got {frames.dtype}.")
        low, high = torch.aminmax(frames)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also true for NaN
            raise ValueError(f"`frames` must lie in [0, 1], got values from {low.item():g} to {high.item():g}.")


class InceptionFeatures(FeatureExtractor):
    """Inception-v3 features of single frames, for FID.

    The network is torch-fidelity's port of the TensorFlow original.

    Args:
        weights (`str` or `os.PathLike`):
            torch-fidelity's `weights-inception-2015-12-05-6726825d.pth` (pytorch-fid's
            `pt_inception-2015-12-05-6726825d.pth` contains the same), as `.pth`, `.pt` or `.safetensors`: a local path
            or `hf://owner/name/file`.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the network.
        pad (`bool`, *optional*, defaults to `False`):
            Whether to pad frames to squares with black, as in HIA's paper (A.2). DisCo's code does not.

    Raises:
        ImportError: If torch-fidelity is missing.
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read safely or contains other weights.
    """

    name = "FID"
    clip_length = None
    num_features = 2048
    _batch_size = 32

    def __init__(self, weights: str | os.PathLike, device: str | torch.device = "cpu", pad: bool = False) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError("FID needs the `eval` extra: pip install 'hia-diffusers[eval]'") from error

        state_dict, sha256 = _read(weights)
        # torch-fidelity unpickles any file: pass a copy that contains only tensors.
        tensors_only = io.BytesIO()
        torch.save(state_dict, tensors_only)
        tensors_only.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=tensors_only)
        except RuntimeError as error:
            raise _wrong_weights(weights, "torch-fidelity's Inception-v3", error) from error
        super().__init__(network, sha256, device)
        self._pad = pad
        self.preprocessing = (
            f"8 bit{', padded to a square with black' if pad else ''}, resized to 299x299 by the network (bilinear as "
            "in TensorFlow 1, no antialiasing), [-1, 1]"
        )

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        frames = pad_to_square(frames) if self._pad else frames
        return self._network((255 * frames).round().to(torch.uint8))[0]


class ResNet3DFeatures(FeatureExtractor):
    """3D ResNet-50 features of clips, for FID-VID as [DisCo](https://github.com/Wangt-CN/DisCo) computes it.

    Args:
        weights (`str` or `os.PathLike`):
            `resnet-50-kinetics.pth` of the 3D ResNets for Kinetics-400, as `.pth`, `.pt` or `.safetensors`: a local
            path or `hf://owner/name/file`.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read safely or contains other weights.
    """

    name = "FID-VID"
    preprocessing = (
        "16-frame clips, padded to a square with black, resized to 112x112 (bicubic with antialiasing), [0, 255] less "
        "(114.7748, 107.7354, 99.4750)"
    )
    clip_length = CLIP_LENGTH
    num_features = 2048
    _batch_size = 4

    def __init__(self, weights: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        state_dict, sha256 = _read(weights)
        super().__init__(_load_strictly(ResNet3D50(), state_dict, weights, "the 3D ResNet-50"), sha256, device)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor(KINETICS_MEAN, device=frames.device).view(3, 1, 1)
        clips = 255 * _resize(pad_to_square(frames), (112, 112), "bicubic") - mean
        return self._network(clips.transpose(1, 2))


class I3DFeatures(FeatureExtractor):
    """I3D features (the logits) of clips, for FVD as [DisCo](https://github.com/Wangt-CN/DisCo) computes it.

    Args:
        weights (`str` or `os.PathLike`):
            `i3d_pretrained_400.pt`, which is `rgb_imagenet.pt` of the PyTorch port of I3D, as `.pth`, `.pt` or
            `.safetensors`: a local path or `hf://owner/name/file`. The TorchScript file of other implementations also
            contains a program and is not read.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read safely or contains other weights.
    """

    name = "FVD"
    preprocessing = (
        "16-frame clips, padded to a square with black, resized to 224x224 (bicubic with antialiasing), [-1, 1]"
    )
    clip_length = CLIP_LENGTH
    num_features = 400
    _batch_size = 2

    def __init__(self, weights: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        state_dict, sha256 = _read(weights)
        super().__init__(_load_strictly(I3D(), state_dict, weights, "I3D"), sha256, device)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        clips = 2 * _resize(pad_to_square(frames), (224, 224), "bicubic") - 1
        return self._network(clips.transpose(1, 2))


class ProceduralFrameFeatures(FeatureExtractor):
    """Features of single frames of procedural people, for FID-p. The weights are part of the package.

    Args:
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the network.

    Raises:
        ValueError: If the file in the package is not the one used for the published values.
    """

    name = "FID-p"
    preprocessing = "resized to 96x160 whatever the aspect ratio (bilinear with antialiasing), [-1, 1]"
    clip_length = None
    num_features = ProceduralFrameNetwork.NUM_FEATURES
    _batch_size = 64

    def __init__(self, device: str | torch.device = "cpu") -> None:
        network = _procedural_network(ProceduralFrameNetwork(), "frame.")
        super().__init__(network, PROCEDURAL_SHA256, device)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        return self._network(2 * _resize(frames, ProceduralFrameNetwork.INPUT_SIZE, "bilinear") - 1)


class ProceduralClipFeatures(FeatureExtractor):
    """Features of clips of procedural people, for FVD-p. The weights are part of the package.

    Args:
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the network.

    Raises:
        ValueError: If the file in the package is not the one used for the published values.
    """

    name = "FVD-p"
    preprocessing = "16-frame clips, resized to 48x80 whatever the aspect ratio (bilinear with antialiasing), [-1, 1]"
    clip_length = CLIP_LENGTH
    num_features = ProceduralClipNetwork.NUM_FEATURES
    _batch_size = 8

    def __init__(self, device: str | torch.device = "cpu") -> None:
        network = _procedural_network(ProceduralClipNetwork(), "clip.")
        super().__init__(network, PROCEDURAL_SHA256, device)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        clips = 2 * _resize(frames, ProceduralClipNetwork.INPUT_SIZE, "bilinear") - 1
        return self._network(clips.transpose(1, 2))


def pad_to_square(frames: torch.Tensor) -> torch.Tensor:
    """Pad the shorter side with black on both ends; an odd pixel is added on the right or at the bottom.

    Args:
        frames (`torch.Tensor`):
            `(..., H, W)`.

    Returns:
        `torch.Tensor`: `(..., S, S)` with `S = max(H, W)`.
    """
    height, width = frames.shape[-2:]
    rows, columns = max(width - height, 0), max(height - width, 0)
    return functional.pad(frames, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def split_into_clips(frames: torch.Tensor, length: int = CLIP_LENGTH, stride: int = CLIP_LENGTH) -> torch.Tensor:
    """Split a video into clips of equal length. Remaining frames at the end are dropped.

    Args:
        frames (`torch.Tensor`):
            `(F, ...)`.
        length (`int`, *optional*, defaults to 16):
            Number of frames of a clip.
        stride (`int`, *optional*, defaults to 16):
            Frames from the start of one clip to that of the next. 1 is DisCo's choice for folders of frames: a clip
            starts at every frame.

    Returns:
        `torch.Tensor`: `(N, length, ...)`, a view of `frames`.

    Raises:
        ValueError: If `length` or `stride` is below 1 or the video is shorter than a clip.
    """
    length, stride = checks.integer("length", length), checks.integer("stride", stride)
    if not checks.instance("frames", frames, torch.Tensor).ndim or len(frames) < length:
        raise ValueError(f"`frames` must contain at least the {length} frames of a clip, got {len(frames)}.")
    return frames.unfold(0, length, stride).movedim(-1, 1)


def _resize(frames: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Resize `(..., 3, H, W)` to `(..., 3, *size)` as Pillow resizes floating point images."""
    resized = functional.interpolate(frames.flatten(end_dim=-4), size, mode=mode, antialias=True)
    return resized.unflatten(0, frames.shape[:-3])


def _read(weights: str | os.PathLike) -> tuple[dict[str, torch.Tensor], str]:
    path = local_file(weights)
    return read_state_dict("weights", path).tensors, sha256_of(path)


def _load_strictly(
    network: nn.Module, state_dict: dict[str, torch.Tensor], weights: str | os.PathLike, title: str
) -> nn.Module:
    try:
        network.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise _wrong_weights(weights, title, error) from error
    return network


def _wrong_weights(weights: str | os.PathLike, title: str, error: RuntimeError) -> ValueError:
    first_difference = str(error).split("\n")[1].strip()[:200]
    return ValueError(f"`weights`: {str(weights)!r} are not those of {title}: {first_difference}")


def _procedural_network(network: nn.Module, prefix: str) -> nn.Module:
    sha256 = sha256_of(PROCEDURAL_WEIGHTS)
    if sha256 != PROCEDURAL_SHA256:
        raise ValueError(f"{str(PROCEDURAL_WEIGHTS)!r} has the SHA-256 {sha256}, expected {PROCEDURAL_SHA256}.")
    weights = safetensors.torch.load_file(PROCEDURAL_WEIGHTS)
    network.load_state_dict({name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)})
    return network
