# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Random weights in the layouts in which other projects publish theirs: the same keys, with few channels or all."""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)


# Stable Diffusion 1.5, in its own size and in one for tests that has the same keys.
TRUE_SIZE = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SMALL_SIZE = {"block_out_channels": (32, 64, 96, 96), "cross_attention_dim": 32, "attention_head_dim": 8}

POSE_GUIDER_CHANNELS = (16, 32, 96, 256)

# Keys that a UNet2DConditionModel has and an appearance encoder of MagicAnimate or Moore-AnimateAnyone has not.
OUTPUT_KEYS = ("conv_norm_out.", "conv_out.")
LAST_TRANSFORMER = "up_blocks.3.attentions.2"
LAST_KEYS = (
    f"{LAST_TRANSFORMER}.proj_out.",
    *(f"{LAST_TRANSFORMER}.transformer_blocks.0.{name}." for name in ("attn1", "norm2", "attn2", "norm3", "ff")),
)

Shapes = dict[str, tuple[int, ...]]


def draw(name, *shape, uniform=False):
    """Numbers by their name, the same everywhere: the stream of this generator of numpy is frozen."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy((random.random_sample(shape) if uniform else random.standard_normal(shape)).astype("f4"))


def draw_weight(name, shape):
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if not name.endswith(".pe"):
        if len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:]))
        else:
            values = values * 0.1 + (1 if name.endswith("weight") else 0)
    return torch.from_numpy(values.astype("f4"))


def draw_weights(shapes, component):
    """Both copies of a position embedding are equal, as they are in published files."""
    names = {
        key: key.replace(".attention_blocks.1.pos_encoder.", ".attention_blocks.0.pos_encoder.") for key in shapes
    }
    return {key: draw_weight(f"{component}.{names[key]}", shape) for key, shape in shapes.items()}


def empty_weights(shapes):
    """On the meta device, but for the position embeddings, which are compared."""
    return {
        key: torch.zeros(shape) if key.endswith(".pe") else torch.empty(shape, device="meta")
        for key, shape in shapes.items()
    }


# Keys and shapes


def shapes_of(model_class, *args, **options) -> Shapes:
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in model_class(*args, **options).state_dict().items()}


def motion_shapes(size, length, mid_block) -> Shapes:
    """Motion modules in the layout of AnimateDiff."""
    channels = size["block_out_channels"]
    modules = {f"down_blocks.{i}.motion_modules.{j}": channels[i] for i in range(4) for j in range(2)}
    modules |= {f"up_blocks.{i}.motion_modules.{j}": channels[3 - i] for i in range(4) for j in range(3)}
    if mid_block:
        modules["mid_block.motion_modules.0"] = channels[3]
    shapes = {}
    for module, width in modules.items():
        transformer = f"{module}.temporal_transformer"
        block = f"{transformer}.transformer_blocks.0"
        for name in (f"{transformer}.norm", *(f"{block}.{norm}" for norm in ("norms.0", "norms.1", "ff_norm"))):
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        for name in (f"{transformer}.proj_in", f"{transformer}.proj_out"):
            shapes |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
        for attention in (f"{block}.attention_blocks.0", f"{block}.attention_blocks.1"):
            shapes |= {f"{attention}.{name}.weight": (width, width) for name in ("to_q", "to_k", "to_v", "to_out.0")}
            shapes |= {f"{attention}.to_out.0.bias": (width,), f"{attention}.pos_encoder.pe": (1, length, width)}
        shapes |= {f"{block}.ff.net.0.proj.weight": (8 * width, width), f"{block}.ff.net.0.proj.bias": (8 * width,)}
        shapes |= {f"{block}.ff.net.2.weight": (width, 4 * width), f"{block}.ff.net.2.bias": (width,)}
    return shapes


def unet_shapes(size) -> Shapes:
    return shapes_of(UNet2DConditionModel, **size)


def magic_animate_shapes(size) -> dict[str, Shapes]:
    spatial = unet_shapes(size)
    return {
        "unet": spatial | motion_shapes(size, length=24, mid_block=False),
        "appearance_encoder": {k: v for k, v in spatial.items() if not k.startswith((*OUTPUT_KEYS, *LAST_KEYS))},
        "controlnet": shapes_of(ControlNetModel, **size),
    }


def moore_shapes(size) -> dict[str, Shapes]:
    spatial = unet_shapes(size)
    channels = size["block_out_channels"][0]
    return {
        "unet": spatial | motion_shapes(size, length=32, mid_block=True),
        "appearance_encoder": {k: v for k, v in spatial.items() if not k.startswith(OUTPUT_KEYS)},
        "pose_guider": shapes_of(ControlNetConditioningEmbedding, channels, 3, POSE_GUIDER_CHANNELS),
    }


def is_motion(key):
    return ".motion_modules." in key


def split(weights):
    """Weights without motion modules, and those of motion modules."""
    spatial = {key: tensor for key, tensor in weights.items() if not is_motion(key)}
    return spatial, {key: tensor for key, tensor in weights.items() if is_motion(key)}


# The layout of the original Stable Diffusion: pairs of a regular expression of diffusers' keys and of what it becomes.

RESNET_PARTS = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)


def original_unet_key(key):
    """Also of a ControlNet."""
    if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)(.*)", key):
        side, i, kind, j, rest = match.groups()
        number = 3 * int(i) + int(j) + (1 if side == "down" else 0)
        key = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{0 if kind == 'resnets' else 1}{rest}"
    elif match := re.match(r"mid_block\.(resnets|attentions)\.(\d)(.*)", key):
        key = f"middle_block.{1 if match[1] == 'attentions' else 2 * int(match[2])}{match[3]}"
    elif match := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv(.*)", key):
        key = f"input_blocks.{3 * int(match[1]) + 3}.0.op{match[2]}"
    elif match := re.match(r"up_blocks\.(\d)\.upsamplers\.0(.*)", key):
        key = f"output_blocks.{3 * int(match[1]) + 2}.{1 if match[1] == '0' else 2}{match[2]}"
    elif match := re.match(r"controlnet_down_blocks\.(\d+)(.*)", key):
        key = f"zero_convs.{match[1]}.0{match[2]}"
    elif match := re.match(r"controlnet_cond_embedding\.(conv_in|blocks\.(\d)|conv_out)(.*)", key):
        number = {"conv_in": 0, "conv_out": 14}.get(match[1]) if match[2] is None else 2 * int(match[2]) + 2
        key = f"input_hint_block.{number}{match[3]}"
    if not re.search(r"transformer_blocks|attentions", key) and re.match(r"(input|middle|output)_block", key):
        for pattern, part in RESNET_PARTS:
            key = re.sub(pattern, part, key)
    names = {
        "controlnet_mid_block.": "middle_block_out.0.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "conv_in.": "input_blocks.0.0.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
    }
    for name, original in names.items():
        if key.startswith(name):
            key = original + key.removeprefix(name)
    return key


def original_vae_key(key):
    key = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{3 - int(match[1])}", key)
    for pattern, replacement in (
        (r"down_blocks\.", "down."),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"resnets", "block"),
        (r"(down|up)samplers\.0", r"\1sample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ):
        key = re.sub(pattern, replacement, key)
    return key


def single_file_weights(pipeline):
    """Stable Diffusion as one state dict, with the buffers of the schedule."""
    weights = {
        f"model.diffusion_model.{original_unet_key(key)}": tensor for key, tensor in pipeline.unet.state_dict().items()
    }
    for key, tensor in pipeline.vae.state_dict().items():
        original = original_vae_key(key)
        is_convolution = ".attn_1." in original and tensor.ndim == 2
        weights[f"first_stage_model.{original}"] = tensor[:, :, None, None] if is_convolution else tensor
    for key, tensor in pipeline.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(5)[None]
    weights |= {name: torch.rand(1000) for name in ("betas", "sqrt_alphas_cumprod", "posterior_mean_coef1")}
    return weights


# Files


def write_component(folder, config, weights, name="diffusion_pytorch_model.safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(weights, folder / name, metadata={"format": "pt"})
    else:
        torch.save(weights, folder / name)
    return folder


def tokenizer(folder):
    """A real one with a vocabulary of single letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=5)


def stable_diffusion(folder, unet_weights=None):
    """A small pipeline of random weights with the keys of Stable Diffusion 1.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(sample_size=8, **SMALL_SIZE)
        if unet_weights is not None:
            unet.load_state_dict(unet_weights)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 16, 16, 16),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=54,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=5,
                bos_token_id=52,
                eos_token_id=53,
            )
        )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer(folder),
        unet=unet.eval(),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def image_encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        return CLIPVisionModelWithProjection(config).eval()


def write_stable_diffusion(folder: Path, unet_weights=None) -> Path:
    stable_diffusion(folder.with_name(f"{folder.name}-vocabulary"), unet_weights).save_pretrained(folder)
    return folder


def write_image_encoder(folder: Path) -> Path:
    """As sd-image-variations has it: a pickle, with the numbers of positions among its keys."""
    encoder = image_encoder()
    weights = {**encoder.state_dict(), "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    config = {**encoder.config.to_dict(), "architectures": ["CLIPVisionModelWithProjection"]}
    write_component(folder / "image_encoder", config, weights, "pytorch_model.bin")
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    extractor.save_pretrained(folder / "feature_extractor")
    return folder


def write_magic_animate(folder: Path) -> Path:
    """Weights and base, as `folder/weights` and `folder/base`."""
    shapes = magic_animate_shapes(SMALL_SIZE)
    spatial, motion = split(draw_weights(shapes["unet"], "unet"))
    write_stable_diffusion(folder / "base", spatial)
    weights = draw_weights(shapes["appearance_encoder"], "appearance_encoder")
    write_component(folder / "weights" / "appearance_encoder", SMALL_SIZE, weights)
    weights = draw_weights(shapes["controlnet"], "controlnet")
    write_component(folder / "weights" / "densepose_controlnet", SMALL_SIZE, weights)
    checkpoint = {"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in motion.items()}}
    (folder / "weights" / "temporal_attention").mkdir()
    torch.save(checkpoint, folder / "weights" / "temporal_attention" / "temporal_attention.ckpt")
    return folder


def write_moore(folder: Path) -> Path:
    """Weights, base and image encoder, as `folder/weights`, `folder/base` and `folder/variations`."""
    shapes = moore_shapes(SMALL_SIZE)
    spatial, motion = split(draw_weights(shapes["unet"], "unet"))
    write_stable_diffusion(folder / "base")
    write_image_encoder(folder / "variations")
    (folder / "weights").mkdir()
    files = {
        "denoising_unet": spatial,
        "motion_module": motion,
        "reference_unet": draw_weights(shapes["appearance_encoder"], "appearance_encoder"),
        "pose_guider": draw_weights(shapes["pose_guider"], "pose_guider"),
    }
    for name, weights in files.items():
        torch.save(weights, folder / "weights" / f"{name}.pth")
    return folder
