# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics that compare a predicted frame with the ground truth.

Axes: N frames, C = 3 channels (RGB), H, W. Every metric takes predictions and targets `(N, 3, H, W)`, floating point
    in [0, 1], and returns one value per frame, float64 `(N,)`.

The paper's protocol (A.2) is the evaluation code of DisCo (arXiv 2307.00040) with PSNR computed in floating point.
"""

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..files import sha256_of
from ..images import LUMA
from ..state_dicts import read_state_dict
from .weights import local_file


# Value of an identical frame, whose PSNR is infinite, as in DisCo's code.
MAX_PSNR = 100.0

# The defaults of scikit-image, which DisCo uses, for images in [0, 1].
SSIM_WINDOW = 7
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error.

    Args:
        predictions (`torch.Tensor` of shape `(N, 3, H, W)`):
            Predicted frames, floating point in [0, 1].
        targets (`torch.Tensor` of shape `(N, 3, H, W)`):
            Ground-truth frames, floating point in [0, 1].

    Returns:
        `torch.Tensor`: float64 `(N,)` in [0, 1].

    Raises:
        TypeError: If one of the two is not a floating-point tensor.
        ValueError: If the shapes differ or are wrong, or a value lies outside [0, 1].
    """
    predictions, targets = checked_frames(predictions, targets)
    return (predictions - targets).abs().mean(dim=(1, 2, 3))


def disco_l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """L1 as in DisCo and in the tables of the literature.

    It is the mean absolute difference of 0-255 images, divided by the number of pixels `H * W`. It depends on the
    resolution and is of the order of 1e-4 at 512 x 896.

    Args:
        predictions, targets:
            As in [`l1`].

    Returns:
        `torch.Tensor`: float64 `(N,)`.

    Raises:
        TypeError, ValueError: As [`l1`].
    """
    errors = l1(predictions, targets)
    height, width = targets.shape[-2:]
    return errors * 255 / (height * width)


def psnr(predictions: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in floating point, at most 100 dB, the value of identical frames.

    Args:
        predictions, targets:
            As in [`l1`].

    Returns:
        `torch.Tensor`: float64 `(N,)` in dB.

    Raises:
        TypeError, ValueError: As [`l1`].
    """
    predictions, targets = checked_frames(predictions, targets)
    squared_error = (predictions - targets).square().mean(dim=(1, 2, 3))
    return (-10 * squared_error.log10()).clamp(max=MAX_PSNR)


def ssim(predictions: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity with the settings of DisCo.

    They are grey values, uniform 7 x 7 windows inside the image, and sample covariances. It equals
    `skimage.metrics.structural_similarity` of the grey images.

    Args:
        predictions, targets:
            As in [`l1`], at least 7 x 7 pixels.

    Returns:
        `torch.Tensor`: float64 `(N,)`, at most 1.

    Raises:
        TypeError, ValueError: As [`l1`], or the frames are smaller than a window.
    """
    predictions, targets = checked_frames(predictions, targets)
    if min(targets.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"`targets` must be at least {SSIM_WINDOW} pixels high and wide, got {tuple(targets.shape)}.")
    x, y = (_grey(frames) for frames in (predictions, targets))
    mean_x, mean_y = _window_means(x), _window_means(y)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variance_x = unbiased * (_window_means(x * x) - mean_x**2)
    variance_y = unbiased * (_window_means(y * y) - mean_y**2)
    covariance = unbiased * (_window_means(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)
    return (luminance * structure).mean(dim=(1, 2))


class LPIPS:
    """Learned perceptual image patch similarity (Zhang et al., 2018), version 0.1, from the `lpips` library.

    It is 0 for identical images.

    Args:
        network (`str`, *optional*, defaults to `"vgg"`):
            The backbone, "vgg" (DisCo's choice), "alex" or "squeeze".
        weights (`str` or `os.PathLike`, *optional*):
            torchvision's ImageNet checkpoint of the backbone, `.pth` or `.safetensors`: a local path or
            `hf://owner/name/file`. By default, it is downloaded to the folder of torch hub. The linear heads are part
            of the library.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`):
            Device of the network.

    Attributes:
        name (`str`): such as "LPIPS (vgg)".
        sha256 (`str`): of the backbone's checkpoint.

    Raises:
        ImportError: If lpips is not installed.
        FileNotFoundError: If there is no file `weights`.
        ValueError: If `network` is unknown, or the file does not contain its weights.
    """

    def __init__(
        self,
        network: str = "vgg",
        weights: str | os.PathLike | None = None,
        device: str | torch.device = "cpu",
    ):
        try:
            import lpips
        except ImportError as error:
            raise ImportError("LPIPS needs the `eval` extra: pip install 'hia-diffusers[eval]'") from error
        from torchvision import models

        checkpoints = {
            "vgg": models.VGG16_Weights.IMAGENET1K_V1,
            "alex": models.AlexNet_Weights.IMAGENET1K_V1,
            "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
        }
        minimum_sides = {"vgg": 16, "alex": 31, "squeeze": 17}  # smaller images are too small for the pooling layers
        if network not in checkpoints:
            raise ValueError(f"`network` must be one of {', '.join(checkpoints)}, got {network!r}.")
        path = _downloaded(checkpoints[network].url) if weights is None else local_file(weights)
        state = read_state_dict("weights", path).tensors
        self.name = f"LPIPS ({network})"
        self.sha256 = sha256_of(path)
        self.device = torch.device(device)
        self._minimum_side = minimum_sides[network]
        with warnings.catch_warnings():  # lpips still calls torchvision's models with `pretrained=False`
            warnings.simplefilter("ignore", UserWarning)
            self._model = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
        # torchvision numbers the layers features.0, features.1, ...; lpips keeps the numbers within its slices.
        own = self._model.net.state_dict()
        sources = {name: f"features.{name.split('.', 1)[1]}" for name in own}
        for name, source in sources.items():
            if source not in state or state[source].shape != own[name].shape:
                raise ValueError(f"`weights` contains no tensor {source!r} of shape {tuple(own[name].shape)}: {path}.")
        self._model.net.load_state_dict({name: state[source] for name, source in sources.items()})
        self._model.to(self.device)

    @torch.inference_mode()
    def __call__(self, predictions: Tensor, targets: Tensor, unscaled: bool = False) -> Tensor:
        """Compare frames, one at a time, in float32.

        Args:
            predictions (`torch.Tensor` of shape `(N, 3, H, W)`):
                Predicted frames, floating point in [0, 1].
            targets (`torch.Tensor` of shape `(N, 3, H, W)`):
                Ground-truth frames, floating point in [0, 1].
            unscaled (`bool`, *optional*, defaults to `False`):
                Whether to leave the frames in [0, 1], as DisCo's code does, for comparison with the tables of the
                literature. By default, they are scaled to [-1, 1], on which the network was calibrated.

        Returns:
            `torch.Tensor`: float64 `(N,)`.

        Raises:
            TypeError, ValueError: As [`l1`], or the frames are too small for the network: 16 pixels for "vgg", 31
                for "alex", 17 for "squeeze".
        """
        pair = [frames.to(self.device, torch.float32) for frames in checked_frames(predictions, targets)]
        if min(targets.shape[-2:]) < self._minimum_side:
            raise ValueError(
                f"`targets` must be at least {self._minimum_side} pixels high and wide for {self.name}, "
                f"got {tuple(targets.shape)}."
            )
        values = [
            self._model(prediction[None], target[None], normalize=not unscaled).reshape(1).cpu()
            for prediction, target in zip(*pair, strict=True)
        ]
        return torch.cat(values).double()


def checked_frames(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Check that two sets of frames can be compared, and convert them to float64.

    Args:
        predictions (`torch.Tensor` of shape `(N, 3, H, W)`):
            Predicted frames, floating point in [0, 1].
        targets (`torch.Tensor` of shape `(N, 3, H, W)`):
            Ground-truth frames, floating point in [0, 1].

    Raises:
        TypeError: If one of the two is not a floating-point tensor.
        ValueError: If the shapes differ or are wrong, or a value lies outside [0, 1].
    """
    for name, frames in (("predictions", predictions), ("targets", targets)):
        if not isinstance(frames, Tensor) or not frames.is_floating_point():
            kind = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
            raise TypeError(f"`{name}` must be a floating-point tensor, got {kind}.")
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.numel() == 0:
            raise ValueError(f"`{name}` must be of shape (N, 3, H, W) with N >= 1, got {tuple(frames.shape)}.")
        if not (frames.min() >= 0 and frames.max() <= 1):
            raise ValueError(f"`{name}` must lie in [0, 1].")
    if predictions.shape != targets.shape:
        raise ValueError(
            f"`predictions` must have the shape of `targets`, {tuple(targets.shape)}, got {tuple(predictions.shape)}."
        )
    return predictions.double(), targets.double()


def _grey(frames: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", frames, torch.tensor(LUMA, dtype=frames.dtype, device=frames.device))


def _window_means(values: Tensor) -> Tensor:
    return functional.avg_pool2d(values[:, None], SSIM_WINDOW, stride=1)[:, 0]


def _downloaded(url: str) -> Path:
    """Return the path in torch hub's folder. The file name ends in the beginning of its SHA-256, which is checked."""
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1])
    beginning = path.stem.rsplit("-", 1)[1]
    if path.is_file() and sha256_of(path).startswith(beginning):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=beginning)
    except (OSError, RuntimeError) as error:  # from the network, or a truncated file
        raise ConnectionError(
            f"{url} cannot be downloaded to {path} ({error}); try again, or pass the path of the file."
        ) from error
    return path
