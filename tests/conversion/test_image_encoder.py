# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import json
import shutil

import pytest
import torch
from published_weights import draw, image_encoder, write_image_encoder
from rounding import assert_equal_up_to_rounding
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from hia_diffusers.conversion.image_encoder import convert_image_encoder


@pytest.fixture
def folder(tmp_path):
    return write_image_encoder(tmp_path / "variations")


@torch.no_grad()
def test_encoder_and_feature_extractor_in_one_folder(folder, tmp_path):
    conversion = convert_image_encoder(folder)
    pixels = draw("pixels", 1, 3, 32, 32)
    expected = image_encoder()(pixels).image_embeds
    assert_equal_up_to_rounding(conversion.model(pixels).image_embeds, expected)
    (row,) = conversion.report.rows
    assert row.left == ("vision_model.embeddings.position_ids",) and row.made == ()
    assert len(row.taken) == len(image_encoder().state_dict())

    conversion.save_pretrained(tmp_path / "made")
    assert {path.suffix for path in (tmp_path / "made").iterdir()} == {".json", ".safetensors"}
    reloaded = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "made")
    assert_equal_up_to_rounding(reloaded(pixels).image_embeds, expected)
    extractor = CLIPImageProcessor.from_pretrained(tmp_path / "made")
    assert extractor.crop_size["height"] == extractor.size["shortest_edge"] == 32
    again = convert_image_encoder(tmp_path / "made")
    assert_equal_up_to_rounding(again.model(pixels).image_embeds, expected)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("image_encoder/config.json", "config.json"),
        ("image_encoder/pytorch_model.bin", "model.safetensors"),
    ],
)
def test_what_is_missing_is_named(folder, lost, named):
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"`weights`: there is no file .*{named}"):
        convert_image_encoder(folder)


def test_without_a_feature_extractor_clips_own_is_made(folder):
    shutil.rmtree(folder / "feature_extractor")
    conversion = convert_image_encoder(folder)
    extractor = conversion.feature_extractor
    assert extractor.crop_size["height"] == extractor.size["shortest_edge"] == image_encoder().config.image_size
    assert conversion.report.rows[-1].made == ("CLIP's at 32 x 32 pixels",)


def test_other_models_are_refused(folder):
    path = folder / "image_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "clip"}))
    with pytest.raises(ValueError, match="must contain a CLIPVisionModelWithProjection, got the model type clip"):
        convert_image_encoder(folder)
