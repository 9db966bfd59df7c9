# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import os

import pytest
import torch
from torch import nn

from hia_diffusers.training.small_runs import check_settings, load_state, save_state


def parts(outputs=2):
    network = nn.Linear(3, outputs)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"network": network, "optimizer": optimizer}


def test_a_state_comes_back(tmp_path):
    before, after = parts(), parts()
    save_state(tmp_path / "state.pt", 7, before)
    assert load_state(tmp_path / "state.pt", after) == 7
    assert torch.equal(before["network"].weight, after["network"].weight)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: torch.save([], path),
        lambda path: torch.save({}, path),
        lambda path: torch.save({"step": 3, "network": {}}, path),
        lambda path: torch.save({"step": "3", "network": {}, "optimizer": {}}, path),
        lambda path: torch.save({"step": 3, "network": {}, "optimizer": {}}, path),
        lambda path: save_state(path, 3, parts(outputs=5)),
        lambda path: save_state(path, -3, parts()),
        lambda path: [path.unlink(), os.mkfifo(path)],
        lambda path: [path.unlink(), path.mkdir()],
    ],
)
def test_a_damaged_state_is_named(tmp_path, damage):
    path = tmp_path / "state.pt"
    save_state(path, 3, parts())
    damage(path)
    with pytest.raises(
        ValueError, match=r"state.pt is damaged and the only state of the run \(.*\); delete it to start over"
    ) as error:
        load_state(path, parts())
    assert "\n" not in str(error.value)


def test_settings_are_written_once_and_compared_from_then_on(tmp_path):
    path = tmp_path / "settings.json"
    for _ in range(2):
        check_settings(path, {"seed": 3})
    with pytest.raises(ValueError, match="belongs to a run with other options; see settings.json"):
        check_settings(path, {"seed": 4})
    for content in (b"", b"[]", b"{", b"\xff", b"[" * 10**5):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="settings.json is damaged, so the settings of the run"):
            check_settings(path, {"seed": 3})
        assert path.read_bytes() == content
