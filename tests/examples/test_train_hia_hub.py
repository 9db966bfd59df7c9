# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""A trained pipeline goes to the Hub: processes of their own, which ask a hub on this machine."""

import json
from pathlib import Path

import asking_a_hub
import forked_python
import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from small_networks import NETWORKS, write_pipeline


ROOT = Path(__file__).parents[2]

# Its arguments: the repository, and where the weights of its networks go.
LOAD = """
import json, sys
import torch
from safetensors.torch import save_file
from hia_diffusers import HIAPipeline

pipeline = HIAPipeline.from_pretrained(sys.argv[1])
networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
for name, network in networks.items():
    save_file(dict(network.state_dict()), f"{sys.argv[2]}/{name}.safetensors")
"""


def run(endpoint, cache, *command):
    return forked_python.run(asking_a_hub.__file__, endpoint, cache, *command)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """A run that may not write to the repository, and the same again that may; what the hub got in each."""
    folder = tmp_path_factory.mktemp("uploads")
    start = write_pipeline(folder / "start", NETWORKS)
    arguments = (
        f"--stage spatial --pretrained_model_name_or_path {start} --procedural_clips 2 --sizes 32x48 "
        "--max_train_steps 1 --gradient_accumulation_steps 1 --report_to tensorboard --logging_dir ./logs "
        "--validation_steps 1 --validation_clips 1 --validation_frames 1 --num_inference_steps 1 "
        "--push_to_hub --hub_model_id user/hia "
        f"--resume_from_checkpoint latest --output_dir {folder / 'run'} --hub_token"
    ).split()
    script = ROOT / "examples" / "train_hia.py"
    with HubServer(folder / "hub", {"users-token": "user", "anothers-token": "another"}) as server:
        refused = run(server.endpoint, folder / "cache", script, *arguments, "anothers-token")
        created = (folder / "hub").exists()
        accepted = run(server.endpoint, folder / "cache", script, *arguments, "users-token")
        weights = folder / "weights"
        weights.mkdir()
        (folder / "load.py").write_text(LOAD)
        loaded = run(server.endpoint, folder / "cache", folder / "load.py", "user/hia", weights)
        assert loaded.returncode == 0, loaded.stderr
    return folder, refused, created, accepted


def test_an_upload_that_is_refused_leaves_the_pipeline_and_says_how_to_go_on(uploads):
    folder, refused, created, _ = uploads
    assert refused.returncode == 2 and not created
    assert "Traceback" not in refused.stderr
    (message,) = [line for line in refused.stderr.splitlines() if line.startswith("train_hia.py: error: ")]
    assert message.startswith("train_hia.py: error: --push_to_hub: the upload to user/hia failed: 403 ")
    assert "Your token does not let you write to user" in message
    assert message.endswith(
        f" The result is in {folder / 'run'}; the same command with --resume_from_checkpoint latest uploads "
        "it without training."
    )


def test_the_same_command_uploads_it_without_training(uploads):
    folder, _, _, accepted = uploads
    assert accepted.returncode == 0, accepted.stderr
    assert f"Resuming from {folder / 'run' / 'checkpoint-1'}, step 1." in accepted.stdout


def test_the_pipeline_is_uploaded_and_nothing_else(uploads):
    folder, *_ = uploads
    local, uploaded = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (folder / "run", folder / "hub" / "user" / "hia")
    )
    kept = {name.split("/")[0] for name in local.keys() - uploaded.keys()}
    assert kept == {"checkpoint-1", "logs", "validation", "options.json"}
    assert uploaded == {name: local[name] for name in uploaded}
    components = {name for name, value in json.loads(uploaded["model_index.json"]).items() if isinstance(value, list)}
    assert components >= {"unet", "appearance_encoder", "controlnet", "vae", "image_encoder", "scheduler"}
    assert {name.split("/")[0] for name in uploaded} == {"model_index.json", "pipeline.py", "README.md"} | {
        name for name in components if (folder / "run" / name).exists()
    }
    assert b"users-token" not in b"".join(local.values())


def test_another_process_loads_the_same_weights(uploads):
    folder, *_ = uploads
    for path in (folder / "weights").iterdir():
        (local,) = (folder / "run" / path.stem).glob("*.safetensors")
        ours, expected = load_file(path), load_file(local)
        assert ours.keys() == expected.keys()
        assert all((ours[name] == value).all() for name, value in expected.items())
    names = {path.stem for path in (folder / "weights").iterdir()}
    assert names == {"unet", "appearance_encoder", "controlnet", "vae", "image_encoder"}


def test_the_model_card_is_one_that_the_hub_reads(uploads):
    folder, *_ = uploads
    card = ModelCard.load(folder / "hub" / "user" / "hia" / "README.md")
    assert card.data.library_name and "Stage `spatial` of `examples/train_hia.py`" in card.text
