# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The script as its users run it, in processes forked from one that has done its imports."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderDC
from forked_python import start as start_python
from safetensors.torch import load_file
from small_networks import DC_VAE

from hia_diffusers.data.clip_sources import ProceduralClips, UnreadableClipError
from hia_diffusers.models.autoencoder import encode_images


SCRIPT = Path(__file__).parents[2] / "examples" / "train_autoencoder.py"
SIZE = (48, 32)


def load_script():
    spec = importlib.util.spec_from_file_location("example_train_autoencoder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture
def networks(tmp_path):
    return write_networks(tmp_path / "networks.yaml")


def write_networks(path, **options):
    path.write_text(yaml.safe_dump({"vae": {**DC_VAE, **options}}))
    return path


def start(folder, networks, *more):
    """The script in the background, and the file that it prints to."""
    arguments = ["--from_scratch", networks, "--procedural_clips", 8, "--size", "32x48", "--validation_clips", 2]
    arguments += ["--max_train_steps", 4, "--checkpointing_steps", 2, "--output_dir", folder, *more]
    output = folder.with_name(f"{folder.name}.txt")
    return start_python([SCRIPT, *arguments], output), output


def train(folder, networks, *more, status=0):
    """Run the script to its end; returns what it printed."""
    process, output = start(folder, networks, *more)
    process.join()
    printed = output.read_text()
    assert process.exitcode == status, printed
    return printed


def training_images(count):
    images = script.Images(ProceduralClips("train", 8), range(8), count, 4, SIZE, 0)
    return torch.cat([images[index]["images"] for index in range(count)])


def best_linear_round_trip(images, num_components):
    """Of patches of 4 x 4 pixels."""
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
    flat = patches.flatten(3).flatten(0, 2).double()
    mean = flat.mean(0)
    components = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:num_components]
    restored = ((flat - mean) @ components.T @ components + mean).float().view(patches.shape)
    return restored.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


@pytest.mark.parametrize("num_components", [6, 12])
def test_it_starts_as_the_best_linear_autoencoder(tmp_path, num_components):
    vae = script.build_autoencoder(write_networks(tmp_path / "networks.yaml", latent_channels=num_components))
    images = training_images(8)
    script.start_as_principal_components(vae, images)
    with torch.no_grad():
        error = (script.reconstruct(vae, images) - images).square().mean()
    best = (best_linear_round_trip(images, num_components) - images).square().mean()
    assert best < 0.03 and error < 1.1 * best
    latents = script.encode(vae, images)
    assert abs(latents.mean()) < 1e-3 and torch.isclose(latents.std(), torch.tensor(0.4), rtol=0.01)


def test_without_steps_it_stays_the_linear_one(networks, tmp_path):
    printed = train(tmp_path / "vae", networks, "--max_train_steps", 0)
    (metrics,) = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert metrics["step"] == 0 and metrics["psnr"] > 25
    vae = AutoencoderDC.from_pretrained(tmp_path / "vae")
    images = training_images(2)
    with torch.no_grad():
        error = (script.reconstruct(vae, images) - images).square().mean()
        deviation = encode_images(vae, images).std()
    assert error < 1.5 * (best_linear_round_trip(images, 12) - images).square().mean()
    assert torch.isclose(deviation, torch.tensor(1.0), rtol=0.3)


def test_every_weight_is_trained(networks):
    vae = script.build_autoencoder(networks)
    images = training_images(2)
    script.start_as_principal_components(vae, images)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in vae.named_parameters()}
    for _ in range(4):
        optimizer.zero_grad()
        (script.reconstruct(vae, images) - images).abs().mean().backward()
        optimizer.step()
    assert [name for name, value in vae.named_parameters() if torch.equal(value, before[name])] == []


def test_a_run_goes_on_exactly_and_its_result_has_latents_of_deviation_one(networks, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    printed = train(whole, networks)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert all(18 < line["psnr"] < 60 and line["hand_sharpness_ratio"] > 0 for line in lines)

    process, _ = start(folder, networks)
    while process.is_alive() and not (folder / "state.pt").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (folder / "config.json").exists()
    assert "Resuming from step 2." in train(folder, networks)
    # Equal bits: a resumed run makes the same steps by the same kernels in as many threads.
    assert_same(folder, whole)
    assert "belongs to a run with other options" in train(whole, networks, "--seed", 1, status=2)

    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:1000])
    printed = train(folder, networks, status=2).splitlines()[-1]
    assert printed.startswith(
        f"train_autoencoder.py: error: {folder / 'state.pt'} is damaged and the only state of the"
    )

    vae = AutoencoderDC.from_pretrained(whole)
    assert torch.isclose(encode_images(vae, training_images(8)).std(), torch.tensor(1.0), rtol=0.1)


class Broken(ProceduralClips):
    """All clips but one cannot be read."""

    def load(self, clip, *arguments, **options):
        if clip != 3:
            raise UnreadableClipError(f"Clip {clip} is broken.")
        return super().load(clip, *arguments, **options)


def test_clips_that_cannot_be_read_are_skipped_but_not_for_ever(networks, capsys):
    images = script.Images(Broken("train", 4), range(4), 2, 1, SIZE, 0)
    assert images[0]["images"].shape == (1, 3, *SIZE)
    with pytest.raises(UnreadableClipError, match="is broken"):
        script.Images(Broken("train", 4), range(3), 2, 1, SIZE, 0)[0]
    vae = script.build_autoencoder(networks)
    assert script.validate(vae, Broken("train", 4), range(2, 4), SIZE, "cpu")["psnr"] > 0
    with pytest.raises(UnreadableClipError, match="Clip 1 is broken"):
        script.validate(vae, Broken("train", 4), range(2), SIZE, "cpu")
    assert "Clip 2 is broken." in capsys.readouterr().out


def assert_same(folder, other):
    one, another = (load_file(path / "diffusion_pytorch_model.safetensors") for path in (folder, other))
    assert one.keys() == another.keys() and all(torch.equal(one[name], another[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "must be AutoencoderDC"),
        ({"latent_chanels": 12}, "`vae` in"),
        ({"encoder_out_shortcut": True}, "neither `encoder_out_shortcut` nor"),
        ({"encoder_block_out_channels": [16, 16, 32], "decoder_block_out_channels": [16, 16, 32]}, "four times"),
        ({"encoder_layers_per_block": [1, 1, 1]}, "no layers in its first level"),
    ],
)
def test_autoencoders_that_cannot_start_so_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        script.build_autoencoder(write_networks(tmp_path / "networks.yaml", **options))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "30x48"], "--size must be multiples of 4, got 30x48"),
        (["--frames_per_clip", "301"], "--frames_per_clip must be at most 300"),
        (["--learning_rate", "0"], "--learning_rate must be a finite number, above 0, got 0.0."),
        (["--train_data_dir", "nowhere"], "give either --train_data_dir or --procedural_clips"),
    ],
)
def test_mistakes_are_one_sentence(networks, tmp_path, capsys, more, message):
    folder = tmp_path / "run"
    arguments = ["--from_scratch", str(networks), "--procedural_clips", "8", "--output_dir", str(folder)]
    with pytest.raises(SystemExit, match="2"):
        script.main([*arguments, *more])
    assert message in capsys.readouterr().err
    assert not folder.exists()
