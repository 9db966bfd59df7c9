# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib

import cv2
import lpips
import numpy as np
import pytest
import safetensors.torch
import torch
from rounding import assert_equal_up_to_rounding
from skimage.metrics import structural_similarity
from torch.nn import functional
from torchvision import models

from hia_diffusers.metrics import frame
from hia_diffusers.metrics.frame import LPIPS, disco_l1, l1, psnr, ssim


METRICS = [l1, disco_l1, psnr, ssim]


def images(num_frames=3, height=40, width=24, seed=0):
    """uint8 `(N, H, W, 3)`: blobs, so that neighbouring pixels resemble each other."""
    noise = np.random.default_rng(seed).normal(size=(num_frames, height, width, 3))
    smooth = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in noise])
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).round().astype(np.uint8)


def as_tensor(frames):
    return torch.from_numpy(frames / 255).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def pair():
    """Predictions of which each frame is noisier than the one before, and targets; uint8."""
    targets = images()
    noise = np.random.default_rng(1).normal(size=targets.shape) * np.array([2, 10, 40])[:, None, None, None]
    return (targets + noise).round().clip(0, 255).astype(np.uint8), targets


# Against DisCo's formulas, on 0-255 images as it reads them


def disco_l1_of(prediction, target):
    error = np.absolute(prediction.astype("float") - target.astype("float"))
    return (error / float(prediction.shape[0] * prediction.shape[1])).mean()


def disco_psnr_of(prediction, target):
    return 20 * np.log10(255.0 / np.sqrt(np.mean((prediction.astype(np.float64) - target.astype(np.float64)) ** 2)))


def disco_ssim_of(prediction, target):
    return structural_similarity(*(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (prediction, target)))


@pytest.mark.parametrize(
    "metric, formula, tolerance",
    [(disco_l1, disco_l1_of, 1e-12), (psnr, disco_psnr_of, 1e-9), (ssim, disco_ssim_of, 2e-3)],
)
def test_values_are_those_of_disco(pair, metric, formula, tolerance):
    """Its SSIM rounds the grey values to integers; ours does not."""
    expected = [formula(prediction, target) for prediction, target in zip(*pair, strict=True)]
    np.testing.assert_allclose(metric(*map(as_tensor, pair)), expected, rtol=0, atol=tolerance)


def test_ssim_is_that_of_scikit_image(pair):
    luma = np.array([0.299, 0.587, 0.114])
    grey = [frames / 255 @ luma for frames in pair]
    expected = [structural_similarity(*frames, data_range=1.0) for frames in zip(*grey, strict=True)]
    np.testing.assert_allclose(ssim(*map(as_tensor, pair)), expected, rtol=0, atol=1e-12)
    assert 0.1 < min(expected) < max(expected) < 0.999


def test_the_two_conventions_of_l1_differ_by_the_resolution(pair):
    plain, disco = l1(*map(as_tensor, pair)), disco_l1(*map(as_tensor, pair))
    np.testing.assert_allclose(plain, np.abs(pair[0] / 255 - pair[1] / 255).mean(axis=(1, 2, 3)))
    torch.testing.assert_close(disco, plain * 255 / (40 * 24))


def test_psnr_is_computed_in_floating_point():
    """In uint8, 1 - 255 would be 2, and the square of 16 would be 0."""
    black = torch.zeros(2, 3, 8, 8)
    torch.testing.assert_close(psnr(black, torch.ones(2, 3, 8, 8)), torch.zeros(2, dtype=torch.float64))
    expected = torch.full((2,), 20 * np.log10(255 / 16), dtype=torch.float64)
    torch.testing.assert_close(psnr(black, torch.full_like(black, 16 / 255)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric, perfect", [(l1, 0), (disco_l1, 0), (psnr, 100), (ssim, 1)])
def test_a_frame_against_itself(metric, perfect):
    frames = as_tensor(images())
    torch.testing.assert_close(metric(frames, frames.clone()), torch.full((3,), perfect, dtype=torch.float64))


@pytest.mark.parametrize("metric", METRICS)
def test_values_are_per_frame_and_worse_with_more_noise(pair, metric):
    predictions, targets = map(as_tensor, pair)
    values = metric(predictions, targets)
    assert values.dtype == torch.float64 and values.shape == (3,)
    worse = values.diff() if metric in (l1, disco_l1) else -values.diff()
    assert (worse > 0).all()
    alone = torch.cat([metric(predictions[[index]], targets[[index]]) for index in range(3)])
    torch.testing.assert_close(values, alone, rtol=1e-12, atol=0)


# LPIPS


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A checkpoint of torchvision's smallest backbone, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_lpips_is_the_librarys_with_the_given_backbone(backbone, pair):
    predictions, targets = (as_tensor(np.repeat(np.repeat(frames, 2, 1), 2, 2)).float() for frames in pair)
    model = LPIPS("squeeze", backbone)
    library = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    state = torch.load(backbone)
    for name, parameter in library.net.named_parameters():
        parameter.data.copy_(state[f"features.{name.split('.', 1)[1]}"])
    with torch.no_grad():
        scaled = library(predictions * 2 - 1, targets * 2 - 1).flatten().double()
        unscaled = library(predictions, targets).flatten().double()
    torch.testing.assert_close(model(predictions, targets), scaled, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(model(predictions, targets, unscaled=True), unscaled, rtol=1e-4, atol=1e-7)
    assert (scaled.diff() > 0).all() and not torch.allclose(scaled, unscaled, rtol=0.1)
    assert not model(targets, targets).any()


def test_lpips_tells_which_weights_it_has(backbone):
    model = LPIPS("squeeze", backbone)
    assert model.name == "LPIPS (squeeze)"
    assert model.sha256 == hashlib.sha256(backbone.read_bytes()).hexdigest()


def test_lpips_reads_safetensors(tmp_path, backbone, pair):
    safetensors.torch.save_file(torch.load(backbone), tmp_path / "squeezenet.safetensors")
    frames = [functional.interpolate(as_tensor(frames), scale_factor=2) for frames in pair]
    values = [LPIPS("squeeze", path)(*frames) for path in (tmp_path / "squeezenet.safetensors", backbone)]
    assert_equal_up_to_rounding(*values)


def test_lpips_refuses_other_weights(tmp_path, backbone):
    state = torch.load(backbone)
    del state["features.3.squeeze.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(
        ValueError, match=r"`weights` contains no tensor 'features\.3\.squeeze\.weight' of shape \(16, 64"
    ):
        LPIPS("squeeze", tmp_path / "less.pth")
    with pytest.raises(ValueError, match="`network` must be one of vgg, alex, squeeze"):
        LPIPS("resnet", backbone)
    with pytest.raises(FileNotFoundError, match="none.pth"):
        LPIPS("squeeze", tmp_path / "none.pth")


def test_lpips_needs_frames_that_can_be_pooled(backbone):
    model = LPIPS("squeeze", backbone)
    assert model(FRAMES[..., :1].expand(2, 3, 16, 17).repeat(1, 1, 2, 1), torch.ones(2, 3, 32, 17)).isfinite().all()
    with pytest.raises(ValueError, match=r"`targets` must be at least 17 pixels .* for LPIPS \(squeeze\), got"):
        model(FRAMES, FRAMES)


# Bad input

FRAMES = torch.zeros(2, 3, 16, 16)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "argument, predictions, targets",
    [
        ("predictions", FRAMES.numpy(), FRAMES),
        ("predictions", FRAMES.to(torch.uint8), FRAMES),
        ("targets", FRAMES, FRAMES + 1.01),
        ("targets", FRAMES, FRAMES - 0.01),
        ("predictions", FRAMES * torch.nan, FRAMES),
        ("predictions", FRAMES[0], FRAMES[0]),
        ("predictions", FRAMES[:, :1], FRAMES[:, :1]),
        ("predictions", FRAMES[:0], FRAMES[:0]),
        ("predictions", FRAMES[:1], FRAMES),
        ("predictions", FRAMES[..., :8], FRAMES),
    ],
)
def test_bad_input_is_named(metric, argument, predictions, targets):
    with pytest.raises((TypeError, ValueError), match=f"`{argument}`"):
        metric(predictions, targets)


def test_ssim_needs_a_whole_window():
    assert ssim(FRAMES[..., :7, :7], FRAMES[..., :7, :7]).tolist() == [1, 1]
    with pytest.raises(ValueError, match="at least 7 pixels"):
        ssim(FRAMES[..., :6], FRAMES[..., :6])


def test_a_backbone_whose_download_broke_is_fetched_again(tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(5000)
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / name).write_bytes(content)
    kept = tmp_path / "hub" / "checkpoints" / name
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content[:2000])
    for _ in range(2):
        assert frame._downloaded((tmp_path / name).as_uri()) == kept and kept.read_bytes() == content
    kept.write_bytes(content[:2000])
    (tmp_path / name).write_bytes(content[:3000])
    with pytest.raises(ConnectionError, match=f"cannot be downloaded to {kept} .*invalid hash"):
        frame._downloaded((tmp_path / name).as_uri())
