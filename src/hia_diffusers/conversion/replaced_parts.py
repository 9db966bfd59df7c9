# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Parts from a checkpoint of their own: a ControlNet, motion modules, an image encoder."""

import torch
from diffusers import ControlNetModel, MotionAdapter
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection, PreTrainedConfig

from ..models.component_fit import check_components
from ..models.controlnet import HIAControlNetModel
from ..models.modeling_hia import copy_out_of_mapped_file
from ..models.unet_motion import HIAUNetMotionModel, check_motion_adapter
from .part_sources import NEW, Parts, Source


# Weights of a CLIPModel other than those of the vision model.
TEXT_TOWER = ("text_model.", "text_projection.", "logit_scale")


def add_controlnet(parts: Parts, source: Source, weights: bool) -> None:
    """Add a ControlNet, with six channels."""
    controlnet = source.read(HIAControlNetModel, ControlNetModel, weights=weights)
    config = controlnet.config
    with source.named_in_errors():
        if config.conditioning_channels not in (3, 6):
            raise ValueError(f"its `conditioning_channels` must be 3 or 6, got {config.conditioning_channels}.")
        if config.controlnet_conditioning_channel_order != "rgb":
            raise ValueError(
                "its `controlnet_conditioning_channel_order` must be rgb, got"
                f" {config.controlnet_conditioning_channel_order}: the order of six channels would be reversed."
            )
    made: list[str] = []
    if config.conditioning_channels == 3 or not isinstance(controlnet, HIAControlNetModel):
        controlnet = HIAControlNetModel.from_controlnet(controlnet)
        if config.conditioning_channels == 3:
            made = ["controlnet_cond_embedding.conv_in.weight[:, 3:]"]
    with source.named_in_errors():
        check_components({"controlnet": controlnet, "unet": parts.modules["unet"]})
    parts.add("controlnet", controlnet, source, made)


def add_motion_adapter(parts: Parts, source: Source, weights: bool) -> None:
    """Add the motion modules of an adapter to the UNet."""
    adapter = source.read(MotionAdapter, weights=weights)
    unet = parts.modules["unet"]
    with source.named_in_errors():
        check_motion_adapter(adapter, unet)
    options = {
        "use_motion_modules": True,
        "motion_max_seq_length": adapter.config.motion_max_seq_length,
        "motion_num_attention_heads": adapter.config.motion_num_attention_heads,
        "use_motion_mid_block": adapter.config.use_motion_mid_block,
        "temporal_transformer_layers_per_block": adapter.config.motion_transformer_layers_per_block,
        "temporal_transformer_layers_per_mid_block": adapter.config.motion_transformer_layers_per_mid_block,
        "reverse_temporal_transformer_layers_per_block": None,
        "reverse_motion_num_attention_heads": None,
    }
    with torch.device("meta"):
        other = HIAUNetMotionModel.from_config(unet.config, **options)
    spatial = {name: value for name, value in unet.state_dict().items() if ".motion_modules." not in name}
    with source.named_in_errors():
        other.load_state_dict({**spatial, **adapter.state_dict()}, assign=True)
    before = parts.rows["motion_modules"]
    if before.source != NEW:
        parts.left_over.append(f"the motion modules of {before.source}")
    parts.add_motion_modules(other, source)


def add_image_encoder(parts: Parts, source: Source, extractor_source: Source, weights: bool) -> None:
    """Add an image encoder and its feature extractor."""
    with extractor_source.named_in_errors():
        extractor = CLIPImageProcessor.from_pretrained(extractor_source.path, **extractor_source.arguments)
    with source.named_in_errors():
        config, _ = PreTrainedConfig.get_config_dict(source.path, **source.arguments)
        if config.get("model_type") not in ("clip", "clip_vision_model"):
            raise ValueError(f"its `model_type` must be clip or clip_vision_model, got {config.get('model_type')}.")
        encoder, left = _vision_tower(source) if weights else (_empty_vision_tower(source), [])
        unet = parts.modules["unet"]
        check_components({"image_encoder": encoder, "feature_extractor": extractor, "unet": unet})
    parts.add("image_encoder", encoder, source, left=left)
    parts.add("feature_extractor", extractor, extractor_source)


def _empty_vision_tower(source: Source) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(source.path, **source.arguments))


def _vision_tower(source: Source) -> tuple[CLIPVisionModelWithProjection, list[str]]:
    """Load a vision model, allowing the text model of a CLIPModel, and return it with the keys of the latter."""
    arguments = {**source.arguments, "variant": source.variant, "use_safetensors": True, "output_loading_info": True}
    encoder, info = CLIPVisionModelWithProjection.from_pretrained(source.path, dtype=torch.float32, **arguments)
    text_tower = [name for name in info["unexpected_keys"] if name.startswith(TEXT_TOWER)]
    unexpected = [name for name in info["unexpected_keys"] if name not in text_tower]
    for kind, names in (("missing", info["missing_keys"]), ("unexpected", unexpected)):
        if names:
            raise ValueError(f"the weights have {len(names)} {kind} keys: {', '.join(sorted(names))}.")
    copy_out_of_mapped_file(encoder)
    return encoder, sorted(text_tower)
