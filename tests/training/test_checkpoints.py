# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import shutil

import pytest
from accelerate import Accelerator

from hia_diffusers.training.checkpoints import CheckpointFolder, damage_of, step_of


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def write(folder):
    (folder / "model").write_text("whole")


def interrupted(folder):
    (folder / "model").write_text("ha")
    raise KeyboardInterrupt


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_what_was_written(tmp_path, accelerator):
    checkpoints = CheckpointFolder(tmp_path / "run")
    assert checkpoints.steps() == []
    assert checkpoints.save(2, write, accelerator) == checkpoints.path(2) == tmp_path / "run" / "checkpoint-2"
    assert (checkpoints.path(2) / "model").read_text() == "whole"


def test_a_checkpoint_that_was_not_finished_does_not_count_and_goes_at_the_next_save(tmp_path, accelerator):
    checkpoints = CheckpointFolder(tmp_path)
    checkpoints.save(2, write, accelerator)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(4, interrupted, accelerator)
    assert checkpoints.steps() == [2]
    assert names(tmp_path) == [".unfinished-checkpoint-4", "checkpoint-2"]
    checkpoints.save(4, write, accelerator)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert (checkpoints.path(4) / "model").read_text() == "whole"


def test_steps_are_ordered_as_numbers(tmp_path, accelerator):
    checkpoints = CheckpointFolder(tmp_path)
    for step in (9, 10, 100):
        checkpoints.save(step, write, accelerator)
    assert checkpoints.steps() == [9, 10, 100]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model").write_text("wh"), "model is damaged: its content has changed"),
        (lambda folder: (folder / "model").write_text("whose"), "model is damaged: its content has changed"),
        (lambda folder: (folder / "model").write_text(""), "model is damaged: its content has changed"),
        (lambda folder: (folder / "model").unlink(), "model is missing"),
        (lambda folder: (folder / "contents.json").unlink(), "contents.json is missing or damaged"),
        (lambda folder: (folder / "contents.json").write_text("[]"), "contents.json is missing or damaged"),
        (lambda folder: (folder / "contents.json").write_text('{"model":'), "contents.json is missing or damaged"),
        (lambda folder: [shutil.rmtree(folder), folder.touch()], "contents.json is missing or damaged"),
    ],
)
def test_damage_is_named_and_the_last_whole_checkpoint_is_found(tmp_path, accelerator, damage, message):
    checkpoints = CheckpointFolder(tmp_path)
    for step in (2, 4, 6):
        checkpoints.save(step, write, accelerator)
        assert damage_of(checkpoints.path(step)) is None
    for step in (4, 6):
        damage(checkpoints.path(step))
        assert damage_of(checkpoints.path(step)) == f"{checkpoints.path(step)}/{message}"
    assert checkpoints.last_whole(6) == checkpoints.path(2) and checkpoints.last_whole(2) is None


def test_the_newest_are_kept(tmp_path, accelerator):
    checkpoints = CheckpointFolder(tmp_path, total_limit=2)
    for step in (9, 10, 11, 100):
        checkpoints.save(step, write, accelerator)
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-11"]


def test_none_is_deleted_before_the_new_one_is_there(tmp_path, accelerator):
    checkpoints = CheckpointFolder(tmp_path, total_limit=1)
    checkpoints.save(1, write, accelerator)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, interrupted, accelerator)
    assert checkpoints.steps() == [1]


def test_what_was_left_unfinished_can_be_deleted_without_a_save(tmp_path, accelerator, monkeypatch):
    checkpoints = CheckpointFolder(tmp_path, total_limit=1)
    checkpoints.save(2, write, accelerator)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", interrupted)
        checkpoints.save(4, write, accelerator)  # ends while it deletes the other
    assert names(tmp_path) == [".unfinished-checkpoint-2-deleted", "checkpoint-4"]
    checkpoints.delete_unfinished(accelerator)
    assert names(tmp_path) == ["checkpoint-4"]


def test_other_things_in_the_folder_are_left_alone(tmp_path, accelerator):
    for name in ("checkpoint-best", "checkpoint-", "notes", ".unfinished-pipeline"):
        (tmp_path / name).mkdir()
    (tmp_path / ".unfinished-options.json").write_text("")
    before = names(tmp_path)
    checkpoints = CheckpointFolder(tmp_path, total_limit=1)
    assert checkpoints.steps() == []
    checkpoints.save(3, write, accelerator)
    assert names(tmp_path) == sorted([*before, "checkpoint-3"])


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-7", 7), ("run/checkpoint-12", 12), ("checkpoint-best", None), (".unfinished-checkpoint-7", None)]
    + [("7", None), ("checkpoint-7-deleted", None)],
)
def test_a_name_tells_the_step(name, step):
    assert step_of(name) == step


def test_a_checkpoint_is_never_replaced(tmp_path, accelerator):
    checkpoints = CheckpointFolder(tmp_path)
    checkpoints.save(2, write, accelerator)
    with pytest.raises(FileExistsError, match="`step` must be a step without a checkpoint, but .*checkpoint-2 exists"):
        checkpoints.save(2, interrupted, accelerator)
    assert (checkpoints.path(2) / "model").read_text() == "whole"


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`total_limit` must be an integer from 1 to .*, got 0."):
        CheckpointFolder(tmp_path, total_limit=0)
