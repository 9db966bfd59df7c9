# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import os

import pytest
import torch

from hia_diffusers import HIADataset
from hia_diffusers.data.clip_sources import ProceduralClips
from hia_diffusers.training.sample_cache import DamagedSampleError, SampleCache


KEY = {"seed": "0"}


@pytest.fixture
def dataset():
    dropouts = {"condition_dropout": 0.5, "blur_condition_dropout": 0.5}
    return HIADataset(
        ProceduralClips("train", 3, 8), [(32, 24)], num_frames=2, horizontal_flip_probability=0.5, **dropouts
    )


def keep_all(batch):
    return batch


def assert_same_sample(sample, other):
    assert sample.keys() == other.keys()
    for name, value in sample.items():
        same = torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
        assert same and type(value) is type(other[name]), name


def test_samples_are_those_of_the_dataset_epoch_by_epoch(dataset, tmp_path):
    cache = SampleCache(dataset, tmp_path, 2, KEY)
    assert list(cache.fill(keep_all)) == [5, 4, 3, 2, 1, 0]
    assert dataset.epoch == 0 and len(cache) == 3
    drawn = {}
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for index in range(3):
            drawn[epoch, index] = dataset[index]
            assert_same_sample(cache[index], drawn[epoch, index])
    assert not torch.equal(drawn[0, 1]["frames"], drawn[1, 1]["frames"])
    dataset.set_epoch(5)  # the second again
    assert torch.equal(cache[1]["pixel_values"], drawn[1, 1]["pixel_values"])


def test_each_epoch_drops_its_own_conditions(dataset, tmp_path):
    cache = SampleCache(dataset, tmp_path, 1, KEY)
    list(cache.fill(keep_all))
    dropped = {index: [] for index in range(3)}
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for index, kinds in dropped.items():
            sample = cache[index]
            kinds.append((bool(sample["drop_conditions"]), not sample["conditioning"][:, 3:].any()))
    every_kind = {(False, False), (False, True), (True, False), (True, True)}
    assert all(set(kinds) == every_kind for kinds in dropped.values())


def test_what_is_kept_is_what_encode_makes(dataset, tmp_path):
    cache = SampleCache(dataset, tmp_path, 1, KEY)
    kept = ("conditioning", "clip")
    list(cache.fill(lambda b: {"mean": b["pixel_values"].mean(dim=(1, 2, 3, 4)), **{name: b[name] for name in kept}}))
    assert cache[2].keys() == {"mean", "drop_conditions", *kept}
    assert torch.allclose(cache[2]["mean"], dataset[2]["pixel_values"].mean())
    assert cache[2]["clip"] == "procedural-train-2"


def test_filling_goes_on_and_is_shared(dataset, tmp_path):
    cache = SampleCache(dataset, tmp_path, 2, KEY)
    filling = cache.fill(keep_all)
    assert [next(filling), next(filling)] == [5, 4]
    filling.close()
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(first) == 2
    for rank in range(2):
        list(SampleCache(dataset, tmp_path, 2, KEY).fill(keep_all, rank, 2))
    assert len(list(tmp_path.rglob("*.npz"))) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert list(cache.fill(keep_all)) == []


def test_a_sample_that_was_not_written_to_its_end_does_not_count(dataset, tmp_path):
    cache = SampleCache(dataset, tmp_path, 1, KEY)

    def fail(batch):
        return {"broken": [object()]} if batch["clip"] == ["procedural-train-1"] else batch

    with pytest.raises(ValueError, match="allow_pickle"):
        list(cache.fill(fail))
        cache[1]
    (tmp_path / "epoch-0" / "0000001.npz").unlink()
    (tmp_path / "epoch-0" / ".unfinished-1-0000001.npz").write_bytes(b"PK")
    with pytest.raises(FileNotFoundError):
        cache[1]
    assert list(cache.fill(keep_all)) == [0]
    assert_same_sample(cache[1], dataset[1])


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-10], lambda content: content[:100]])
def test_a_sample_that_was_cut_off_is_named_and_drawn_anew(dataset, tmp_path, damage, caplog):
    cache = SampleCache(dataset, tmp_path, 1, KEY)
    list(cache.fill(keep_all))
    path = tmp_path / "epoch-0" / "0000001.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedSampleError, match=r"^The cached sample .*0000001.npz is damaged \(.*\); delete it"):
        cache[1]
    assert list(cache.fill(keep_all)) == [0]
    assert caplog.messages == [f"{path} is damaged and drawn again."]
    assert_same_sample(cache[1], dataset[1])


def test_damage_in_the_middle_of_a_sample_is_named_when_it_is_read(dataset, tmp_path):
    cache = SampleCache(dataset, tmp_path, 1, KEY)
    list(cache.fill(keep_all))
    path = tmp_path / "epoch-0" / "0000002.npz"
    content = bytearray(path.read_bytes())
    content[60:200] = b"\xff" * 140
    path.write_bytes(content)
    assert list(cache.fill(keep_all)) == []
    with pytest.raises(DamagedSampleError, match="0000002.npz is damaged"):
        cache[2]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FileNotFoundError, match="The cache contains no sample .*0000002.npz"):
        cache[2]


@pytest.mark.parametrize("content", ["", "[]", "{", "5", "[" * 10**5])
def test_a_damaged_key_is_refused_and_named(dataset, tmp_path, content):
    (tmp_path / "cache.json").write_text(content)
    with pytest.raises(ValueError, match="`folder` contains a damaged .*cache.json"):
        SampleCache(dataset, tmp_path, 1, KEY)


def test_samples_of_another_kind_are_refused(dataset, tmp_path):
    SampleCache(dataset, tmp_path, 1, KEY)
    SampleCache(dataset, tmp_path, 3, KEY)
    with pytest.raises(ValueError, match="`folder` contains samples with other options: seed was 0, is 1"):
        SampleCache(dataset, tmp_path, 1, {"seed": "1"})
    with pytest.raises(ValueError, match="`num_epochs` must be an integer from 1 to .*, got 0"):
        SampleCache(dataset, tmp_path / "other", 0, KEY)
