# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The two video networks of published metrics, with the keys of their public weights.

Axes: N clips, C channels, F frames, H, W.
"""

import torch
from torch import nn
from torch.nn import functional


class ResNet3D50(nn.Module):
    """The 3D ResNet-50 of [Hara et al.](https://arxiv.org/abs/1711.09577) for Kinetics-400.

    `state_dict()` has the keys of `resnet-50-kinetics.pth`, without the prefix `module.` of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.layer1 = _bottlenecks(64, 64, num_blocks=3, stride=1)
        self.layer2 = _bottlenecks(256, 128, num_blocks=4, stride=2)
        self.layer3 = _bottlenecks(512, 256, num_blocks=6, stride=2)
        self.layer4 = _bottlenecks(1024, 512, num_blocks=3, stride=2)
        self.fc = nn.Linear(2048, 400)  # unused, but in the file

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Compute features of clips.

        Args:
            clips (`torch.Tensor`):
                `(N, 3, F, H, W)`, RGB in `[0, 255]` minus the mean of the training data.

        Returns:
            `torch.Tensor`: `(N, 2048)`, the inputs of the classifier.
        """
        hidden_states = functional.relu(self.bn1(self.conv1(clips)))
        hidden_states = functional.max_pool3d(hidden_states, 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden_states = layer(hidden_states)
        return hidden_states.mean(dim=(2, 3, 4))


class _Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv3d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = nn.Conv3d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels)
        self.downsample = None
        if in_channels != out_channels:
            shortcut = nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out_channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.downsample is None else self.downsample(hidden_states)
        hidden_states = functional.relu(self.bn1(self.conv1(hidden_states)))
        hidden_states = functional.relu(self.bn2(self.conv2(hidden_states)))
        return functional.relu(self.bn3(self.conv3(hidden_states)) + residual)


def _bottlenecks(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    rest = [_Bottleneck(4 * channels, channels, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(_Bottleneck(in_channels, channels, stride), *rest)


class I3D(nn.Module):
    """The RGB stream of [I3D](https://arxiv.org/abs/1705.07750) for Kinetics-400.

    It is an Inception-v1 inflated to three dimensions. `state_dict()` has the keys of the PyTorch port's
    `rgb_imagenet.pt`, which is also known as `i3d_pretrained_400.pt`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _ConvUnit(3, 64, kernel_size=7, stride=2)
        self.MaxPool3d_2a_3x3 = _MaxPool((1, 3, 3), stride=(1, 2, 2))
        self.Conv3d_2b_1x1 = _ConvUnit(64, 64, kernel_size=1)
        self.Conv3d_2c_3x3 = _ConvUnit(64, 192, kernel_size=3)
        self.MaxPool3d_3a_3x3 = _MaxPool((1, 3, 3), stride=(1, 2, 2))
        self.Mixed_3b = _Inception(192, 64, (96, 128), (16, 32), 32)
        self.Mixed_3c = _Inception(256, 128, (128, 192), (32, 96), 64)
        self.MaxPool3d_4a_3x3 = _MaxPool((3, 3, 3), stride=(2, 2, 2))
        self.Mixed_4b = _Inception(480, 192, (96, 208), (16, 48), 64)
        self.Mixed_4c = _Inception(512, 160, (112, 224), (24, 64), 64)
        self.Mixed_4d = _Inception(512, 128, (128, 256), (24, 64), 64)
        self.Mixed_4e = _Inception(512, 112, (144, 288), (32, 64), 64)
        self.Mixed_4f = _Inception(528, 256, (160, 320), (32, 128), 128)
        self.MaxPool3d_5a_2x2 = _MaxPool((2, 2, 2), stride=(2, 2, 2))
        self.Mixed_5b = _Inception(832, 256, (160, 320), (32, 128), 128)
        self.Mixed_5c = _Inception(832, 384, (192, 384), (48, 128), 128)
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, 400, 1)})

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Compute the logits of clips.

        Args:
            clips (`torch.Tensor`):
                `(N, 3, F, 224, 224)`, RGB in `[-1, 1]`; F is a multiple of 8.

        Returns:
            `torch.Tensor`: `(N, 400)`, the logits' mean over time.
        """
        hidden_states = clips
        for name, layer in self.named_children():
            if name != "logits":
                hidden_states = layer(hidden_states)
        # The classifier is linear: the mean of the logits equals the logits of the mean.
        return self.logits["conv3d"](hidden_states.mean(dim=(2, 3, 4), keepdim=True)).flatten(1)


class _ConvUnit(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.padding = _same_padding((kernel_size,) * 3, (stride,) * 3)
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel_size, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv3d(functional.pad(hidden_states, self.padding))))


class _MaxPool(nn.Module):
    def __init__(self, kernel_size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = _same_padding(kernel_size, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return functional.max_pool3d(functional.pad(hidden_states, self.padding), self.kernel_size, self.stride)


class _Inception(nn.Module):
    def __init__(
        self,
        in_channels: int,
        point_channels: int,
        first_channels: tuple[int, int],
        second_channels: tuple[int, int],
        pool_channels: int,
    ) -> None:
        super().__init__()
        self.b0 = _ConvUnit(in_channels, point_channels, kernel_size=1)
        self.b1a = _ConvUnit(in_channels, first_channels[0], kernel_size=1)
        self.b1b = _ConvUnit(*first_channels, kernel_size=3)
        self.b2a = _ConvUnit(in_channels, second_channels[0], kernel_size=1)
        self.b2b = _ConvUnit(*second_channels, kernel_size=3)
        self.b3a = _MaxPool((3, 3, 3), stride=(1, 1, 1))
        self.b3b = _ConvUnit(in_channels, pool_channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        branches = [
            self.b0(hidden_states),
            self.b1b(self.b1a(hidden_states)),
            self.b2b(self.b2a(hidden_states)),
            self.b3b(self.b3a(hidden_states)),
        ]
        return torch.cat(branches, dim=1)


def _same_padding(kernel_size: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """Return TensorFlow's "SAME" padding for sizes divisible by the stride, in the order of `functional.pad`.

    Odd pixels come last.
    """
    totals = [size - step for size, step in zip(kernel_size, stride, strict=True)]
    return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
