# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import io
import os
import warnings

import asking_a_hub
import forked_python
import numpy as np
import pytest
import safetensors.torch
import torch
from hub_server import HubServer
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from hia_diffusers.metrics import extractors
from hia_diffusers.metrics.extractors import (
    PROCEDURAL_SHA256,
    PROCEDURAL_WEIGHTS,
    I3DFeatures,
    InceptionFeatures,
    ProceduralClipFeatures,
    ProceduralFrameFeatures,
    ResNet3DFeatures,
    pad_to_square,
    split_into_clips,
)
from hia_diffusers.metrics.frechet import FrechetStatistics, frechet_distance
from hia_diffusers.metrics.video_networks import I3D, ResNet3D50
from hia_diffusers.procedural.scene import ProceduralScene


# What the code that published figures come from (DisCo's evaluation, resizing with Pillow) gives for `smooth_clips()`,
# padded to squares, and `seeded_weights(..., seed=1)` and `seed=2`: the first four features of either clip.
PUBLISHED_RESNET = [
    [35002.9765625, 70163.109375, 96751.1640625, 76035.3359375],
    [31891.6640625, 66060.9296875, 94426.7109375, 73560.1328125],
]
PUBLISHED_I3D = [
    [2.5684614181518555, -88.47994232177734, 76.743896484375, -48.638275146484375],
    [2.5094375610351562, -88.15576934814453, 78.10348510742188, -48.70146942138672],
]


def seeded_weights(shapes: dict[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep the signal in range, the same on every platform."""
    random = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros((), dtype=torch.int64)
            continue
        values = torch.from_numpy(random.random(tuple(shape), dtype=np.float32))
        if name.endswith("running_mean"):
            values = 0.2 * values - 0.1
        elif len(shape) > 1:
            values = (2 * values - 1) * (6 / shape[1:].numel()) ** 0.5
        else:
            values = 0.5 + values
        weights[name] = values
    return weights


def network_shapes(network_class) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: value.shape for name, value in network_class().state_dict().items()}


def smooth_clips() -> torch.Tensor:
    """(2, 16, 3, 180, 120)"""
    coarse = np.random.Generator(np.random.PCG64(0)).random((2, 16, 3, 9, 12), dtype=np.float32)
    frames = functional.interpolate(torch.from_numpy(coarse).flatten(0, 1), (180, 120), mode="bilinear")
    return frames.unflatten(0, (2, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def resnet_weights(folder):
    """A training checkpoint of `DataParallel` from before batch norms counted their batches, as the public file is."""
    weights = seeded_weights(network_shapes(ResNet3D50), seed=1)
    state_dict = {f"module.{name}": value for name, value in weights.items() if "num_batches" not in name}
    torch.save({"epoch": 200, "arch": "resnet-50", "state_dict": state_dict}, folder / "resnet-50-kinetics.pth")
    return folder / "resnet-50-kinetics.pth"


@pytest.fixture(scope="module")
def i3d_weights(folder):
    safetensors.torch.save_file(seeded_weights(network_shapes(I3D), seed=2), folder / "i3d.safetensors")
    return folder / "i3d.safetensors"


@pytest.fixture(scope="module")
def inception_weights(folder):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """The constructor insists on loading something."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Unloaded("inception", ["2048"], feature_extractor_weights_path=nothing)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    torch.save(seeded_weights(shapes, seed=3), folder / "inception.pth")
    return folder / "inception.pth"


@pytest.fixture(scope="module")
def resnet(resnet_weights):
    return ResNet3DFeatures(resnet_weights)


@pytest.fixture(scope="module")
def i3d(i3d_weights):
    return I3DFeatures(i3d_weights)


@pytest.fixture(scope="module")
def inception(inception_weights):
    return InceptionFeatures(inception_weights)


# Published networks


def test_resnet_features_are_those_of_the_published_evaluation(resnet):
    features = resnet(smooth_clips())
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    torch.testing.assert_close(features[:, :4], torch.tensor(PUBLISHED_RESNET), rtol=1e-4, atol=0)


def test_i3d_features_are_those_of_the_published_evaluation(i3d):
    features = i3d(smooth_clips())
    assert features.shape == (2, 400) and features.dtype == torch.float32
    torch.testing.assert_close(features[:, :4], torch.tensor(PUBLISHED_I3D), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("pad", [False, True])
def test_inception_features_are_those_of_torchmetrics(inception_weights, pad):
    from torchmetrics.image.fid import FrechetInceptionDistance

    frames = smooth_clips()[0, :2]
    library = FrechetInceptionDistance(2048, antialias=False, feature_extractor_weights_path=str(inception_weights))
    images = functional.pad((255 * frames).round().to(torch.uint8), (30, 30) if pad else (0, 0))
    with torch.inference_mode():
        expected = library.inception(images)
    inception = InceptionFeatures(inception_weights, pad=pad)
    features = inception(frames)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, expected)
    assert ("padded to a square" in inception.preprocessing) == pad


def test_extractors_say_what_they_do_and_which_file_they_read(
    inception, inception_weights, resnet, resnet_weights, i3d, i3d_weights
):
    cases = [
        (inception, inception_weights, "FID", None, "299x299"),
        (resnet, resnet_weights, "FID-VID", 16, "112x112"),
        (i3d, i3d_weights, "FVD", 16, "224x224"),
    ]
    for extractor, weights, name, clip_length, size in cases:
        assert extractor.name == name
        assert extractor.clip_length == clip_length
        assert extractor.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert ("square" in extractor.preprocessing) == (clip_length is not None) and size in extractor.preprocessing


def test_weights_come_from_the_hub(tmp_path, i3d_weights):
    repository = tmp_path / "hub" / "someone" / "video"
    repository.mkdir(parents=True)
    (repository / "i3d.safetensors").write_bytes(i3d_weights.read_bytes())
    program = tmp_path / "program.py"
    program.write_text(
        "from hia_diffusers.metrics.extractors import I3DFeatures\n"
        "print(I3DFeatures('hf://someone/video@main/i3d.safetensors').sha256)"
    )
    with HubServer(tmp_path / "hub") as server:
        done = forked_python.run(asking_a_hub.__file__, server.endpoint, tmp_path / "cache", program)
    assert done.stdout.strip() == hashlib.sha256(i3d_weights.read_bytes()).hexdigest(), done.stderr


def test_an_incomplete_hub_address_is_refused():
    with pytest.raises(ValueError, match=r"hf://owner/name\[@revision\]/file, got 'hf://someone/i3d.pt'"):
        I3DFeatures("hf://someone/i3d.pt")


def test_weights_of_another_network_are_refused(resnet_weights, i3d_weights):
    with pytest.raises(ValueError, match="are not those of I3D: .*Conv3d_1a_7x7"):
        I3DFeatures(resnet_weights)
    with pytest.raises(ValueError, match="are not those of torch-fidelity's Inception-v3: .*Conv2d_1a_3x3"):
        InceptionFeatures(i3d_weights)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    torch.save({"state_dict": Payload()}, tmp_path / "weights.pth")
    for extractor_class in (InceptionFeatures, ResNet3DFeatures, I3DFeatures):
        with pytest.raises(ValueError, match="cannot be read: loading it would call .*, and only tensors are read"):
            extractor_class(tmp_path / "weights.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"<html>", b"version https://git-lfs.github.com/spec/v1"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, content, suffix):
    (tmp_path / f"weights{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=f"weights{suffix} cannot be read: it is damaged or truncated"):
        ResNet3DFeatures(tmp_path / f"weights{suffix}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        ResNet3DFeatures(tmp_path / "nowhere.pth")


# Squares and clips


@pytest.mark.parametrize(("size", "left", "top"), [((5, 2), 1, 0), ((2, 5), 0, 1), ((3, 3), 0, 0)])
def test_padding_centres_the_frame_on_black(size, left, top):
    frames = torch.rand(4, 3, *size)
    square = pad_to_square(frames)
    assert square.shape == (4, 3, max(size), max(size))
    assert torch.equal(square[..., top : top + size[0], left : left + size[1]], frames)
    assert square.sum() == pytest.approx(frames.sum().item(), rel=1e-6)


def test_clips_follow_each_other_and_the_rest_is_left_out():
    frames = torch.arange(40.0).view(40, 1, 1, 1).expand(40, 3, 2, 2)
    clips = split_into_clips(frames)
    assert clips.shape == (2, 16, 3, 2, 2)
    assert torch.equal(clips[1, :, 0, 0, 0], torch.arange(16.0, 32.0))


def test_a_clip_starts_at_every_frame():
    clips = split_into_clips(torch.arange(20.0).view(20, 1, 1, 1), stride=1)
    assert clips.shape == (5, 16, 1, 1, 1)
    assert torch.equal(clips[:, 0].flatten(), torch.arange(5.0))


def test_a_video_shorter_than_a_clip_is_refused():
    with pytest.raises(ValueError, match="at least the 16 frames of a clip, got 15"):
        split_into_clips(torch.zeros(15, 3, 8, 8))
    with pytest.raises(ValueError, match="`stride` must be an integer from 1"):
        split_into_clips(torch.zeros(15, 3, 8, 8), stride=0)


# Procedural people


@pytest.fixture(scope="module")
def clips():
    """(16, 16, 3, 160, 96), people that the networks were not trained on."""
    scenes = [ProceduralScene(split="test", identity=index, motion=index, setting=index) for index in range(16)]
    frames = np.stack([scene.render(frames=range(16), height=160, width=96).frames for scene in scenes])
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3) / 255


@pytest.fixture(scope="module")
def fid_p(clips):
    """The distance of clips from `clips`, frame by frame."""
    extractor = ProceduralFrameFeatures()
    return distance_from(extractor(clips.flatten(0, 1)), lambda others: extractor(others.flatten(0, 1)))


@pytest.fixture(scope="module")
def fvd_p(clips):
    extractor = ProceduralClipFeatures()
    return distance_from(extractor(clips), extractor)


def distance_from(features, extract):
    truth = FrechetStatistics()
    truth.update(features)

    def distance(others):
        statistics = FrechetStatistics()
        statistics.update(extract(others))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # too few clips for the covariance, which is fine for a comparison
            return frechet_distance(truth, statistics)

    return distance


def blurred(clips, sigma):
    return gaussian_blur(clips.flatten(0, 1), 13, sigma).view_as(clips)


def noisy(clips, scale):
    return (clips + scale * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def shuffled(clips):
    return clips[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))]


def test_people_are_at_no_distance_from_themselves(clips, fid_p, fvd_p):
    assert abs(fid_p(clips)) < 1e-3 and abs(fvd_p(clips)) < 1e-3


@pytest.mark.parametrize(("degrade", "strengths"), [(blurred, (1, 2, 4)), (noisy, (0.05, 0.1, 0.2))])
def test_distances_grow_with_degradation(clips, fid_p, fvd_p, degrade, strengths):
    for distance in (fid_p, fvd_p):
        weak, medium, strong = (distance(degrade(clips, strength)) for strength in strengths)
        assert 0.01 < weak < medium < strong


def test_only_the_distance_of_clips_sees_the_order_of_frames(clips, fid_p, fvd_p):
    assert abs(fid_p(shuffled(clips))) < 1e-3
    assert fvd_p(shuffled(clips)) > 1


def test_wrong_colours_and_turned_images_are_far(clips, fid_p, fvd_p):
    for changed in (clips.flip(2), clips.flip(3)):  # blue for red, upside down
        assert fid_p(changed) > 20 and fvd_p(changed) > 5


@pytest.mark.parametrize("size", [(320, 192), (96, 96), (64, 160)])
def test_procedural_features_take_any_size(clips, size):
    resized = functional.interpolate(clips[0], size, mode="bilinear", antialias=True)
    assert ProceduralFrameFeatures()(resized).shape == (16, 64)
    assert ProceduralClipFeatures()(resized[None]).shape == (1, 32)


def test_features_do_not_depend_on_how_many_there_are(clips):
    extractor = ProceduralClipFeatures()
    torch.testing.assert_close(extractor(clips)[12:13], extractor(clips[12:13]), rtol=1e-4, atol=1e-4)


def test_procedural_weights_are_small_and_the_ones_that_figures_are_of(monkeypatch, tmp_path):
    assert PROCEDURAL_WEIGHTS.stat().st_size < 3_000_000
    extractor = ProceduralFrameFeatures()
    assert extractor.sha256 == ProceduralClipFeatures().sha256 == PROCEDURAL_SHA256
    content = bytearray(PROCEDURAL_WEIGHTS.read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(content)
    monkeypatch.setattr(extractors, "PROCEDURAL_WEIGHTS", tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=f"weights.safetensors' has the SHA-256 .*, expected {PROCEDURAL_SHA256}"):
        ProceduralFrameFeatures()


# Input


@pytest.mark.parametrize("shape", [(2, 160, 96, 3), (3, 160, 96), (0, 3, 160, 96), (1, 16, 3, 160, 96)])
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"`frames` must be \(N, 3, H, W\) for FID-p, got"):
        ProceduralFrameFeatures()(torch.zeros(shape))


def test_clips_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"`frames` must be \(N, 16, 3, H, W\) for FVD-p, got \(1, 15, 3, 160, 96\)"):
        ProceduralClipFeatures()(torch.zeros(1, 15, 3, 160, 96))


def test_rounding_outside_the_range_is_accepted():
    assert ProceduralFrameFeatures()(torch.full((1, 3, 160, 96), 1 + 1e-6)).isfinite().all()


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_values_outside_the_range_are_refused(value):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        ProceduralFrameFeatures()(torch.full((1, 3, 160, 96), value))


def test_integers_are_refused():
    with pytest.raises(ValueError, match="must be floating point"):
        ProceduralFrameFeatures()(torch.zeros(1, 3, 160, 96, dtype=torch.uint8))
