# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whoever gives the files of another project where a pipeline is wanted is told what they are."""

import pytest
import safetensors.torch
import torch
from published_weights import SMALL_SIZE, motion_shapes

from hia_diffusers import HIAPipeline
from hia_diffusers.conversion.recognition import recognize_layout


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (("denoising_unet.pth", "reference_unet.pth", "pose_guider.pth"), "moore-animate-anyone"),
        (("denoising_unet-30000.pth", "reference_unet-30000.pth"), "moore-animate-anyone"),
        (("denoising_unet.pth", "reference_unet.pth", "guidance_encoder_depth.pth"), "champ"),
        (("appearance_encoder/config.json", "densepose_controlnet/config.json"), "magic-animate"),
    ],
)
def test_a_folder_is_recognized_where_a_pipeline_is_wanted(tmp_path, names, source):
    touch(tmp_path, *names)
    with pytest.raises(FileNotFoundError, match=f"hia-diffusers convert {source}`") as raised:
        HIAPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


MOTION_KEYS = [*motion_shapes(SMALL_SIZE, length=24, mid_block=False)]


@pytest.mark.parametrize(
    ("keys", "source"),
    [
        (MOTION_KEYS, "motion-adapter"),
        ([f"module.{key}" for key in MOTION_KEYS], "motion-adapter"),
        (["model.diffusion_model.out.0.bias", "cond_stage_model.logit_scale"], "stable-diffusion"),
        (["control_model.input_hint_block.0.bias"], "controlnet"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pth"])
def test_a_file_is_recognized_by_its_keys(tmp_path, keys, source, suffix):
    tensors = {key: torch.zeros(1) for key in keys}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if suffix == ".ckpt" else tensors, path)
    assert f"convert {source}`" in recognize_layout(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.txt"])
def test_other_files_are_not_recognized_and_run_nothing(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert recognize_layout(tmp_path / name) is None
    assert recognize_layout(tmp_path) is None


def test_another_folder_names_what_a_pipeline_has(tmp_path):
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        HIAPipeline.from_pretrained(tmp_path)
