# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""No key is lost: what is taken, made and left is reported, and nothing else is accepted."""

from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from published_weights import draw_weights, shapes_of

from hia_diffusers.conversion.converted import Conversion, ConversionReport
from hia_diffusers.conversion.key_tables import KeyTable, fill
from hia_diffusers.state_dicts import StateDict


OPTIONS = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
SHAPES = shapes_of(ControlNetModel, **OPTIONS)
WEIGHTS = draw_weights(SHAPES, "controlnet")
KEY = "conv_in.bias"


def empty():
    with torch.device("meta"):
        return ControlNetModel(**OPTIONS)


def source(weights, argument="weights"):
    return StateDict(argument, Path(f"{argument}.pth"), weights)


PLAIN = KeyTable()


def filled(*sources, table=PLAIN, **options):
    model = empty()
    return model, fill("controlnet", model, [(state_dict, table) for state_dict in sources], **options)


def without(*keys):
    return {key: tensor for key, tensor in WEIGHTS.items() if key not in keys}


def test_every_key_is_taken():
    model, (row,) = filled(source(WEIGHTS))
    assert set(row.taken) == WEIGHTS.keys() and row.made == row.left == () and row.source == "weights.pth"
    assert all(torch.equal(tensor, WEIGHTS[key]) for key, tensor in model.state_dict().items())
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_dtype_of_the_result():
    model, _ = filled(source(WEIGHTS), dtype=torch.float16)
    assert model.dtype is torch.float16 and torch.equal(model.conv_in.bias, WEIGHTS[KEY].half())


def test_leftover_keys_are_refused_unless_named():
    weights = WEIGHTS | {"stray": torch.ones(1), "more": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"`weights`: weights.pth must contain .* controlnet only, but stray, more are none"
    ):
        filled(source(weights))
    with pytest.raises(ValueError, match="but more is none"):
        filled(source(weights), allow=["stray"])
    _, (row,) = filled(source(weights), allow=["stray", "more"])
    assert row.left == ("stray", "more") and set(row.taken) == WEIGHTS.keys()
    _, (row,) = filled(source(weights), table=KeyTable(unused=("^stray$", "^more$")))
    assert row.left == ("stray", "more")


def test_missing_keys_are_refused_unless_named():
    with pytest.raises(
        ValueError, match=r"`weights`: weights.pth must contain all weights .* but conv_in.bias is missing"
    ):
        filled(source(without(KEY)))
    model, rows = filled(source(without(KEY)), allow=[KEY])
    assert [(row.source, row.made) for row in rows] == [("weights.pth", ()), ("new", (KEY,))]
    assert not model.conv_in.bias.is_meta and torch.isfinite(model.conv_in.bias).all()
    with pytest.raises(ValueError, match=r"are missing"):
        filled(source(without(KEY, "conv_in.weight")))


def test_tensors_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"conv_in.bias has the shape \(9,\) and not \(8,\)"):
        filled(source({**WEIGHTS, KEY: torch.ones(9)}))


def test_two_keys_may_become_one_only_if_they_are_equal():
    table = KeyTable(renames=((r"^copy\.", ""),))
    _, (row,) = filled(source({**WEIGHTS, f"copy.{KEY}": WEIGHTS[KEY].clone()}), table=table)
    assert {KEY, f"copy.{KEY}"} <= set(row.taken)
    with pytest.raises(
        ValueError, match=r"must contain conv_in.bias once, but conv_in.bias and copy.conv_in.bias differ"
    ):
        filled(source({**WEIGHTS, f"copy.{KEY}": WEIGHTS[KEY] + 1}), table=table)


def test_a_later_source_goes_before_an_earlier_one():
    model, (first, second) = filled(source(WEIGHTS, "base"), source({KEY: torch.full((8,), 3.0)}))
    assert first.left == second.taken == (KEY,) and KEY not in first.taken
    assert (model.conv_in.bias == 3).all()
    with pytest.raises(ValueError, match="`base` and `weights`: base.pth and weights.pth must contain all weights"):
        filled(source({}, "base"), source(without(KEY)))


def test_the_report_names_what_was_made_and_left():
    _, rows = filled(source({**without(KEY), "stray": torch.ones(1)}), allow=[KEY, "stray"])
    lines = str(ConversionReport(tuple(rows), ("a whole file",))).splitlines()
    assert lines[0].split() == ["component", "taken", "made", "left", "from"]
    assert lines[1].split() == ["controlnet", str(len(WEIGHTS) - 1), "0", "1", "weights.pth"]
    assert lines[2].split() == ["controlnet", "0", "1", "0", "new"]
    assert lines[3:] == ["Made:", f"  controlnet: {KEY}", "Left:", "  controlnet: stray", "  a whole file"]


def test_a_result_is_saved_whole_or_not_at_all(tmp_path):
    model, rows = filled(source(WEIGHTS))
    conversion = Conversion(model, ConversionReport(tuple(rows)))
    conversion.save_pretrained(tmp_path / "made")
    assert {path.name for path in tmp_path.iterdir()} == {"made"}
    reloaded = ControlNetModel.from_pretrained(tmp_path / "made")
    assert all(torch.equal(tensor, WEIGHTS[key]) for key, tensor in reloaded.state_dict().items())

    with pytest.raises(FileExistsError, match="`folder` must be a new folder"):
        conversion.save_pretrained(tmp_path / "made")
    with pytest.raises(FileNotFoundError, match="`folder` must be in an existing folder"):
        conversion.save_pretrained(tmp_path / "none" / "made")

    class Full:
        def save_pretrained(self, folder):
            folder.mkdir(parents=True)
            (folder / "half").touch()
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Conversion(Full(), conversion.report).save_pretrained(tmp_path / "second")
    assert {path.name for path in tmp_path.iterdir()} == {"made"}
