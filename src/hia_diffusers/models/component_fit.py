# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the components of a pipeline fit each other, according to their classes and configurations.

Networks may be on the meta device, so that unsuitable ones are refused before their weights are read.
"""

import copy
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from .appearance_encoder import HIAAppearanceEncoder
from .autoencoder import AUTOENCODERS, vae_scale_factor
from .controlnet import HIAControlNetModel
from .modeling_hia import check_same_options, same_option
from .pose_guider import HIAPoseGuider
from .unet_motion import HIAUNetMotionModel


CLASSES: dict[str, tuple[type, ...]] = {
    "vae": AUTOENCODERS,
    "image_encoder": (CLIPVisionModelWithProjection,),
    "unet": (HIAUNetMotionModel,),
    "appearance_encoder": (HIAAppearanceEncoder,),
    "controlnet": (HIAControlNetModel, HIAPoseGuider),
    "scheduler": (SchedulerMixin,),
    "text_encoder": (CLIPTextModel,),
    "ip_adapter_image_encoder": (CLIPVisionModelWithProjection,),
}
COMPONENTS = (*CLASSES, "feature_extractor", "tokenizer")
REQUIRED = ("vae", "unet", "appearance_encoder", "controlnet", "scheduler")  # for a call
CONVERTED_UNETS = (UNet2DConditionModel, UNetMotionModel)  # the pipeline converts them to HIAUNetMotionModel

# Options that must be the same in a ControlNet and the UNet.
CONTROLNET_OPTIONS = ("block_out_channels", "layers_per_block", "cross_attention_dim")

_tried_schedulers: WeakSet[SchedulerMixin] = WeakSet()


def check_components(components: Mapping[str, Any]) -> None:
    """Refuse components that do not fit each other.

    Args:
        components (`Mapping[str, Any]`):
            The components by their names in [`HIAPipeline`]; missing ones and None are ignored. A UNet of diffusers
            that the pipeline converts is treated as its result.

    Raises:
        TypeError: If a component has an unsupported class.
        ValueError: If two do not fit each other, or the scheduler cannot do what the pipeline needs.
    """
    # Compiled modules wrap their original.
    parts = {name: getattr(part, "_orig_mod", part) for name, part in components.items() if part is not None}
    unet = parts.get("unet")
    if isinstance(unet, CONVERTED_UNETS) and not isinstance(unet, HIAUNetMotionModel):
        with torch.device("meta"):
            if isinstance(unet, UNet2DConditionModel):
                unet = UNet2DConditionModel.from_config(unet.config)
                parts["unet"] = HIAUNetMotionModel.from_unet2d(unet, load_weights=False)
            else:
                parts["unet"] = HIAUNetMotionModel.from_config(unet.config)
    for name, accepted in CLASSES.items():
        if name in parts and not isinstance(parts[name], accepted):
            names = " or ".join(c.__name__ for c in accepted)
            raise TypeError(f"`{name}` must be of class {names}, got {type(parts[name]).__name__}.")
    if "image_encoder" in parts and "text_encoder" in parts:
        raise ValueError("Pass either `image_encoder` or `text_encoder`, not both: cross-attention has one source.")
    _check_channels(parts)
    _check_context(parts)
    _check_reference(parts)
    _check_controlnet(parts)
    if "image_encoder" in parts and "feature_extractor" in parts:
        check_feature_extractor("image_encoder", parts["image_encoder"], parts["feature_extractor"])
    if "text_encoder" in parts and "tokenizer" in parts:
        _check_tokenizer(parts["text_encoder"], parts["tokenizer"])
    if "scheduler" in parts:
        _check_scheduler(parts["scheduler"])


def check_feature_extractor(name: str, encoder: CLIPVisionModelWithProjection, extractor: object) -> None:
    """Refuse a feature extractor whose images have another size than the image encoder expects.

    Args:
        name (`str`):
            Name of the encoder in error messages.
        encoder (`CLIPVisionModelWithProjection`):
            The image encoder.
        extractor (`CLIPImageProcessor`):
            Its feature extractor.

    Raises:
        ValueError: If the sizes differ.
    """
    option = "crop_size" if getattr(extractor, "do_center_crop", False) else "size"
    given = getattr(extractor, option, None)
    if given is None:
        return
    expected, sides = encoder.config.image_size, [given.get("height"), given.get("width")]
    if not same_option(expected, sides):
        got = "x".join(map(str, sides)) if None not in sides else "a size that depends on the image"
        raise ValueError(
            f"`{name}`: the `{option}` of its feature extractor must be its `image_size`, {expected}, got {got}."
        )


def check_number_of_betas(scheduler: SchedulerMixin) -> None:
    """Refuse a scheduler that does not have one beta per timestep.

    Args:
        scheduler (`SchedulerMixin`):
            A scheduler of any class; some have no betas.

    Raises:
        ValueError: If the numbers differ.
    """
    steps, betas = scheduler.config.get("num_train_timesteps"), getattr(scheduler, "betas", None)
    if steps is not None and betas is not None and len(betas) != steps:
        raise ValueError(
            f"`scheduler`: its `num_train_timesteps` must be the number of its betas, {len(betas)}, got {steps}."
        )


def _check_channels(parts: Mapping[str, Any]) -> None:
    """Check that all networks fit the latents of one autoencoder.

    The UNet must return as many channels as it takes.
    """
    vae, unet = parts.get("vae"), parts.get("unet")
    if vae is not None:
        for option in ("in_channels", "out_channels"):
            if vae.config.get(option, 3) != 3:
                raise ValueError(f"`vae`: its `{option}` must be 3, for RGB, got {vae.config[option]}.")
    if unet is not None and unet.config.in_channels != unet.config.out_channels:
        raise ValueError(
            f"`unet`: its `out_channels` must be its `in_channels`, {unet.config.in_channels}, got"
            f" {unet.config.out_channels}: a UNet for inpainting or another task does not fit."
        )
    latents = vae.config.latent_channels if vae is not None else unet.config.in_channels if unet is not None else None
    for name in ("unet", "appearance_encoder", "controlnet"):
        network = parts.get(name)
        if network is None or latents is None or isinstance(network, HIAPoseGuider):
            continue
        if network.config.in_channels != latents:
            other = "`vae` has" if vae is not None else "`unet` is for"
            raise ValueError(
                f"`{name}` takes {network.config.in_channels} channels but {other} {latents} latent channels."
            )


def _check_context(parts: Mapping[str, Any]) -> None:
    """Check that the cross-attention of all networks has the same width."""
    if "unet" not in parts:
        return
    width = parts["unet"].config.cross_attention_dim
    for name, option in (
        ("image_encoder", "projection_dim"),
        ("text_encoder", "hidden_size"),
        ("appearance_encoder", "cross_attention_dim"),
    ):
        if name in parts:
            value = getattr(parts[name].config, option)
            if not same_option(value, width):
                raise ValueError(
                    f"`{name}`: its `{option}` must be {width}, the `cross_attention_dim` of the UNet, got {value}."
                )


def _check_reference(parts: Mapping[str, Any]) -> None:
    """Check that the appearance encoder has features of the right width for each block of the UNet that reads them."""
    if "unet" not in parts or "appearance_encoder" not in parts:
        return
    unet, encoder = parts["unet"], parts["appearance_encoder"]
    if missing := set(unet.reference_names) - set(encoder.reference_names):
        raise ValueError(f"`appearance_encoder` lacks the blocks {', '.join(sorted(missing))} of `unet`.")
    for name in unet.reference_names:
        given, taken = (net.get_submodule(name).norm1.normalized_shape[0] for net in (encoder, unet))
        if given != taken:
            raise ValueError(f"`appearance_encoder` returns {given} channels in {name}, but `unet` expects {taken}.")
    told = unet.config.spatial_position_embedding
    if encoder.config.spatial_position_embedding != told:
        raise ValueError(
            f"`appearance_encoder`: its `spatial_position_embedding` must be {told}, that of the UNet, got {not told}."
        )


def _check_controlnet(parts: Mapping[str, Any]) -> None:
    controlnet = parts.get("controlnet")
    if controlnet is None:
        return
    if "vae" in parts:
        stride = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
        if stride != vae_scale_factor(parts["vae"]):
            raise ValueError(
                f"`controlnet` reduces conditioning frames by {stride}, but `vae` reduces images by"
                f" {vae_scale_factor(parts['vae'])}; set the ControlNet's `conditioning_embedding_out_channels`."
            )
    if "unet" not in parts:
        return
    unet = parts["unet"]
    if not isinstance(controlnet, HIAPoseGuider):
        check_same_options("controlnet", controlnet, unet, {name: name for name in CONTROLNET_OPTIONS})
    elif controlnet.config.out_channels != unet.config.block_out_channels[0]:
        raise ValueError(
            f"`controlnet` returns {controlnet.config.out_channels} channels of pose features, but `unet` expects"
            f" {unet.config.block_out_channels[0]}."
        )


def _check_tokenizer(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    config = text_encoder.config
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"`tokenizer` has {len(tokenizer)} tokens, but the `vocab_size` of `text_encoder` is {config.vocab_size}."
        )
    if config.max_position_embeddings < tokenizer.model_max_length < VERY_LARGE_INTEGER:  # which means no limit
        raise ValueError(
            f"`tokenizer`: its `model_max_length` must be at most {config.max_position_embeddings}, the"
            f" `max_position_embeddings` of `text_encoder`, got {tokenizer.model_max_length}."
        )


def _check_scheduler(scheduler: SchedulerMixin) -> None:
    """Run two steps on zeros, since diffusers' schedulers differ in what they support without declaring it."""
    if scheduler in _tried_schedulers:
        return
    trial = copy.deepcopy(scheduler)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            trial.set_timesteps(2)
            clean = torch.zeros(1, 1, 1, 1, 1)
            sample = trial.add_noise(clean, clean, trial.timesteps[:1]) + clean * trial.init_noise_sigma
            for timestep in trial.timesteps:
                model_input = trial.scale_model_input(sample, timestep)
                sample = trial.step(torch.zeros_like(model_input), timestep, sample).prev_sample
        if trial.order < 1 or not sample.isfinite().all():
            raise ValueError("its steps return values that are not finite")
    except Exception as error:  # a scheduler for another purpose may raise anything
        raise ValueError(
            f"`scheduler` must add noise and denoise step by step, as DDIMScheduler does, but this"
            f" {type(scheduler).__name__} cannot: {' '.join(str(error).split()) or type(error).__name__}."
        ) from error
    check_number_of_betas(scheduler)
    _tried_schedulers.add(scheduler)
