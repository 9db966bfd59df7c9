# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from forked_python import run
from safetensors import safe_open
from safetensors.torch import load_file

from hia_diffusers.folder_lock import locked_folder
from hia_diffusers.procedural.feature_networks import ProceduralClipNetwork, ProceduralFrameNetwork
from hia_diffusers.procedural.scene import ProceduralScene


SCRIPT = Path(__file__).parents[2] / "examples" / "train_procedural_features.py"

specification = importlib.util.spec_from_file_location("train_procedural_features", SCRIPT)
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work folder, and what a short training in it wrote."""
    folder = tmp_path_factory.mktemp("features")
    files = ["--output", folder / "features.safetensors", "--work_dir", folder / "work"]
    amounts = ["--clips", "16", "--frame_steps", "3", "--clip_steps", "2", "--workers", "1"]
    done = run(SCRIPT, *files, *amounts)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_file_holds_both_networks(trained):
    weights = load_file(trained / "features.safetensors")
    for prefix, network, steps in (("frame.", ProceduralFrameNetwork(), 3), ("clip.", ProceduralClipNetwork(), 2)):
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        network.load_state_dict(own, strict=True)
        assert {int(value) for name, value in own.items() if name.endswith("num_batches_tracked")} == {steps}
    with safe_open(trained / "features.safetensors", "pt") as file:
        assert json.loads(file.metadata()["training"]) == {"clips": 16, "frame_steps": 3, "clip_steps": 2, "seed": 0}


def test_an_interrupted_training_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    arguments = ["--work_dir", str(tmp_path), "--clips", "16", "--frame_steps", "3", "--clip_steps", "2"]
    (tmp_path / "clips").symlink_to(trained / "work" / "clips")
    monkeypatch.setattr(script, "SAVE_EVERY", 1)
    replace, replaced = os.replace, []

    def replace_and_stop(source, target):
        replace(source, target)
        replaced.append(target.name)
        if len(replaced) in (3, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace_and_stop)
    for _ in range(2):
        with pytest.raises(SystemExit, match="130"):
            script.main(["--output", str(tmp_path / "features.safetensors"), *arguments])
    script.main(["--output", str(tmp_path / "features.safetensors"), *arguments])
    assert replaced == ["settings.json", *["frame.pt"] * 3, *["clip.pt"] * 2, "features.safetensors"]
    ours, expected = (load_file(folder / "features.safetensors") for folder in (tmp_path, trained))
    # AdamW makes whole steps of gradients near zero, of their rounding too: single weights may differ, while one step
    # more or less moves nearly all of them by its learning rate.
    differences = torch.cat([(ours[name] - value).abs().flatten() for name, value in expected.items()])
    assert differences.mean() < 1e-3 * script.LEARNING_RATE
    assert differences.max() < script.LEARNING_RATE / 10  # of the warm-up


def test_a_work_folder_of_other_settings_is_refused(trained, capsys):
    before = (trained / "work" / "settings.json").read_text()
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(trained / "o.safetensors"), "--work_dir", str(trained / "work"), "--clips", "17"])
    assert "belongs to a run with other options; see settings.json" in capsys.readouterr().err
    assert (trained / "work" / "settings.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "features.pt", "--work_dir", "work"], "--output: must end in .safetensors"),
        (["--output", "nowhere/f.safetensors", "--work_dir", "work"], "in a folder that exists"),
        (
            ["--output", "f.safetensors", "--work_dir", "work", "--clips", "15"],
            "must be a whole number from 16 to 2147",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        script.main(arguments)
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_labels_are_what_is_in_the_image():
    scene = ProceduralScene(split="train", identity=1, motion=1, setting=1)
    clip = scene.render(range(4), height=160, width=96)
    clip.keypoints.score[3, 9] = 0
    labels = script.frame_labels(clip, scene.person)
    np.testing.assert_allclose(labels["joints"][:, 0], clip.keypoints.xy[:, 0] / (96, 160), atol=1e-6)
    assert np.isnan(labels["joints"][3, 9]).all() and np.isfinite(labels["joints"][2]).all()
    np.testing.assert_allclose(labels["thumbnail"][2, 4, 0], clip.frames[2, 128:, :24].mean(axis=(0, 1)), atol=1)
    assert labels["looks"][0].sum() == 4 + scene.person.glasses + scene.person.beard
    np.testing.assert_allclose(labels["colours"][1, 0], scene.person.skin, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "ways"), [((64, 3, 40, 24), script.FRAME_WAYS), ((64, 16, 3, 20, 12), script.CLIP_WAYS)]
)
def test_degradation_changes_what_it_says_and_nothing_else(shape, ways):
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    outputs, amounts = script.degrade(inputs, ways, torch.Generator().manual_seed(1))
    assert 0 <= outputs.min() and outputs.max() <= 1
    assert ((amounts > 0).sum(1) <= 1).all() and (amounts > 0).any(0).all()
    changed = (outputs != inputs).flatten(1).any(1)
    assert torch.equal(changed, (amounts > 0).any(1))


def test_what_is_shifted_moves_by_as_many_pixels():
    frames = torch.zeros(2, 3, 16, 12)
    frames[:, :, 5, 4] = 1
    moved = script.shift(frames, torch.tensor([[3.0, 0.0], [0.0, -2.0]]).view(2, 2, 1, 1))
    assert moved[0, 0, 5, 7] > 0.99 and moved[1, 0, 3, 4] > 0.99


def test_shuffled_clips_hold_the_same_frames():
    clips = torch.arange(16.0).view(1, 16, 1, 1, 1).repeat(2, 1, 3, 2, 2)
    shuffled = script.shuffle_clips(clips, torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0))
    assert torch.equal(shuffled.sort(dim=1).values, clips)
    assert (shuffled != clips)[:, :, 0, 0, 0].sum(1).tolist() == [2, 16]


def test_what_is_damaged_in_a_work_folder_is_rendered_again_or_named(trained, tmp_path, capsys):
    work = shutil.copytree(trained / "work", tmp_path / "work")
    arguments = ["--output", str(tmp_path / "features.safetensors"), "--work_dir", str(work), "--clips", "16"]
    arguments += ["--frame_steps", "3", "--clip_steps", "2"]
    clip = work / "clips" / "00003.safetensors"
    os.truncate(clip, 1000)
    (work / "frame.pt").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(SystemExit, match="2"):
            script.main(arguments)
    printed = capsys.readouterr()
    assert printed.out.count(f"{clip} is damaged and rendered again") == 1
    assert clip.read_bytes() == (trained / "work" / "clips" / clip.name).read_bytes()
    assert f"{work / 'frame.pt'} is damaged and the only state of the run" in printed.err
    with locked_folder(work), pytest.raises(SystemExit, match="2"):
        script.main(arguments)
    assert f"Another run is writing to {work}" in capsys.readouterr().err
