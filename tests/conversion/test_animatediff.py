# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import MotionAdapter
from published_weights import SMALL_SIZE, draw, draw_weights, moore_shapes, motion_shapes, split, stable_diffusion

from hia_diffusers import HIAUNetMotionModel
from hia_diffusers.conversion.animatediff import convert_motion_adapter
from hia_diffusers.conversion.parts import convert_parts


VERSIONS = {1: (24, False), 2: (32, True), 3: (32, False)}


def weights_of(version):
    length, mid_block = VERSIONS[version]
    return draw_weights(motion_shapes(SMALL_SIZE, length, mid_block), "unet")


def write(path, version):
    """As the versions were published, but that any of them may be a safetensors file."""
    weights = weights_of(version)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    elif version == 2:
        torch.save(weights, path)
    else:
        torch.save({"global_step": 1, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    return path


@pytest.mark.parametrize("name", ["mm.ckpt", "mm.safetensors"])
@pytest.mark.parametrize("version", VERSIONS)
def test_versions(tmp_path, version, name):
    conversion = convert_motion_adapter(write(tmp_path / name, version))
    adapter, (row,) = conversion.model, conversion.report.rows
    assert len(row.taken) == len(weights_of(version)) and row.left == row.made == ()
    length, mid_block = VERSIONS[version]
    assert (adapter.config.motion_max_seq_length, adapter.config.use_motion_mid_block) == (length, mid_block)
    conversion.save_pretrained(tmp_path / "adapter")
    reloaded = MotionAdapter.from_pretrained(tmp_path / "adapter").state_dict()
    assert all(torch.equal(reloaded[key], tensor) for key, tensor in adapter.state_dict().items())


@torch.no_grad()
def test_version_2_computes_what_the_original_did(tmp_path):
    """AnimateDiff's UNet is that of Moore-AnimateAnyone without reference and pose, of which there are outputs."""
    adapter = convert_motion_adapter(write(tmp_path / "mm_sd_v15_v2.ckpt", 2)).model
    spatial, _ = split(draw_weights(moore_shapes(SMALL_SIZE)["unet"], "unet"))
    unet = HIAUNetMotionModel.from_unet2d(stable_diffusion(tmp_path / "vocabulary", spatial).unet, adapter).eval()
    golden = safetensors.torch.load_file(Path(__file__).parent / "golden" / "moore_animate_anyone.safetensors")
    context = draw("context", 2, 1, 32)
    context[0] = 0
    output = unet(draw("latents", 1, 4, 3, 8, 12).repeat(2, 1, 1, 1, 1), 999, context).sample
    assert (output - golden["plain"]).abs().max() < 1e-5


@torch.no_grad()
def test_version_1_computes_what_the_original_did(tmp_path):
    """Its UNet is that of MagicAnimate, whose resnet norms pool over the clip."""
    adapter = convert_motion_adapter(write(tmp_path / "mm_sd_v15.ckpt", 1)).model
    spatial, _ = split(draw_weights(moore_shapes(SMALL_SIZE)["unet"], "unet"))
    by_frame = HIAUNetMotionModel.from_unet2d(stable_diffusion(tmp_path / "vocabulary", spatial).unet, adapter)
    unet = HIAUNetMotionModel.from_config(by_frame.config, resnet_norm="clip").eval()
    unet.load_state_dict(by_frame.state_dict())
    golden = safetensors.torch.load_file(Path(__file__).parent / "golden" / "magic_animate.safetensors")
    inputs = (draw("latents", 1, 4, 3, 8, 12).repeat(2, 1, 1, 1, 1), 681, draw("context", 2, 5, 32))
    assert (unet(*inputs).sample - golden["plain"]).abs().max() < 1e-5
    assert (by_frame.eval()(*inputs).sample - golden["plain"]).abs().max() > 0.05


def test_training_takes_the_result(tmp_path):
    convert_motion_adapter(write(tmp_path / "mm.ckpt", 3)).save_pretrained(tmp_path / "adapter")
    networks = {
        "unet": {"sample_size": 8, **SMALL_SIZE},
        "vae": {
            "block_out_channels": [8] * 4,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "norm_num_groups": 4,
        },
        "image_encoder": {
            "hidden_size": 8,
            "intermediate_size": 16,
            "projection_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
    }
    unet = convert_parts(networks, motion_adapter=tmp_path / "adapter").model.unet
    assert unet.config.motion_max_seq_length == 32 and not unet.config.use_motion_mid_block


def test_other_files_are_refused(tmp_path):
    torch.save({"conv_in.weight": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(
        ValueError, match="`weights`: .*other.ckpt must contain motion modules in the layout of AnimateDiff"
    ):
        convert_motion_adapter(tmp_path / "other.ckpt")
    with pytest.raises(FileNotFoundError, match="`weights`: there is no file"):
        convert_motion_adapter(tmp_path / "none.ckpt")
    weights = weights_of(3)
    converted = convert_motion_adapter(write(tmp_path / "mm.ckpt", 3)).model
    torch.save(converted.state_dict(), tmp_path / "diffusers.ckpt")
    with pytest.raises(ValueError, match="diffusers.ckpt must contain .* needs no conversion: `MotionAdapter.load"):
        convert_motion_adapter(tmp_path / "diffusers.ckpt")
    key = next(key for key in weights if key.endswith("attention_blocks.1.pos_encoder.pe"))
    torch.save({**weights, key: weights[key] + 1}, tmp_path / "unequal.ckpt")
    with pytest.raises(ValueError, match="must contain .*pos_embed.pe once, but .* differ"):
        convert_motion_adapter(tmp_path / "unequal.ckpt")
    torch.save({**weights, "down_blocks.0.lora.weight": torch.ones(1)}, tmp_path / "more.ckpt")
    with pytest.raises(ValueError, match="down_blocks.0.lora.weight is none"):
        convert_motion_adapter(tmp_path / "more.ckpt")
