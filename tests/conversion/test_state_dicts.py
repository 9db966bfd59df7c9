# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reading files of others: no code of theirs runs, and what cannot be read is refused in one sentence."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hia_diffusers.conversion.weight_files import find_file, find_weights
from hia_diffusers.state_dicts import read_state_dict


WEIGHTS = {"a.weight": torch.rand(40, 50), "a.bias": torch.rand(50)}


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(path, content, legacy=False):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and len(text) < 400


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.ckpt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_read_as_they_are(tmp_path, name, legacy):
    read = read_state_dict("weights", write(tmp_path / name, WEIGHTS, legacy))
    assert read.tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(read.tensors[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.parametrize(
    "content", [{"state_dict": WEIGHTS, "epoch": 3}, OrderedDict(WEIGHTS), {"state_dict": OrderedDict(WEIGHTS)}]
)
def test_a_checkpoint_around_the_state_dict_is_unpacked(tmp_path, content):
    assert read_state_dict("weights", write(tmp_path / "a.ckpt", content)).tensors.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_carries_code_is_refused_and_its_code_does_not_run(tmp_path, legacy):
    content = {**WEIGHTS, "attack": Attack(tmp_path / "ran")}
    path = write(tmp_path / "weights.pth", content, legacy)
    with pytest.raises(ValueError, match=r"`weights`: .*weights\.pth cannot be read: .*mkdir") as error:
        read_state_dict("weights", path)
    assert one_sentence(error) and not (tmp_path / "ran").exists()

    torch.load(path, weights_only=False)  # the attack is one
    assert (tmp_path / "ran").exists()


def test_a_bare_pickle_of_code_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(Attack(tmp_path / "ran"), protocol=2))
    with pytest.raises(ValueError, match="cannot be read") as error:
        read_state_dict("weights", tmp_path / "weights.bin")
    assert one_sentence(error) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "legacy.pth"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused_in_one_sentence(tmp_path, name, share):
    path = write(tmp_path / name, WEIGHTS, legacy=name.startswith("legacy"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"`base`: .*{name} cannot be read: it is damaged or truncated") as error:
        read_state_dict("base", path)
    assert one_sentence(error)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_the_pointer_of_git_lfs_is_no_weights(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="cannot be read: it is damaged") as error:
        read_state_dict("weights", tmp_path / name)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"a": torch.ones(1), "b": 3}, {"state_dict": {"a": "b"}}, {5: torch.ones(1)}]
)
def test_anything_but_tensors_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="must contain a state dict of tensors and nothing else"):
        read_state_dict("weights", write(tmp_path / "a.pth", content))


def test_an_archive_that_would_grow_is_refused_before_it_is_read(tmp_path):
    write(tmp_path / "stored.pth", WEIGHTS)
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(tmp_path / "grows.pth", "w") as grows:
        for member in stored.namelist():
            grows.writestr(member, stored.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="must not be compressed") as error:
        read_state_dict("weights", tmp_path / "grows.pth")
    assert one_sentence(error)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_wrappers_of_modules_and_of_state_dicts_are_taken_away(tmp_path, prefix, wrapper):
    weights = {f"{prefix}{key}": tensor for key, tensor in WEIGHTS.items()}
    read = read_state_dict("weights", write(tmp_path / "a.pth", {wrapper: weights} if wrapper else weights))
    assert read.tensors.keys() == WEIGHTS.keys()
    with pytest.raises(ValueError, match="must contain each key once"):
        read_state_dict("weights", write(tmp_path / "b.pth", {**weights, **WEIGHTS}))


def test_files_are_found_in_order_and_named_where_there_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`base`: there is no file .*a\.pth or .*b\.pth\."):
        find_file("base", tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(FileNotFoundError, match=r"`base`: there is no file .*config\.json\."):
        find_weights("base", tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(FileNotFoundError, match=r"`base`: there is no file .*diffusion_pytorch_model\.safetensors or"):
        find_weights("base", tmp_path)
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (tmp_path / name).touch()
        assert find_weights("base", tmp_path).name == name


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' count of memory")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_read_are_not_copied_into_memory(tmp_path, suffix):
    def anonymous_bytes():
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return 1024 * int(line.split()[1])

    path = tmp_path / f"weights{suffix}"
    tensors = {"weight": torch.ones(1 << 24)}
    safetensors.torch.save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    del tensors
    before = anonymous_bytes()
    weight = read_state_dict("weights", path).tensors["weight"]
    assert weight[:: 1 << 10].sum() == 1 << 14
    assert anonymous_bytes() - before < path.stat().st_size / 4
