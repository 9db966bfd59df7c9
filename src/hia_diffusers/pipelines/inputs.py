# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of [`HIAPipeline`] before a network runs, and of the results of callbacks.

Axes: B clips, F frames, C channels, H, W.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.guiders import BaseGuidance
from diffusers.image_processor import PipelineImageInput

from .. import checks
from ..conditioning.conditioning_clips import ConditioningClips
from ..images import image_tensors
from ..loaders.ip_adapter import check_ip_adapter_inputs
from ..models import autoencoder
from ..models.component_fit import COMPONENTS, REQUIRED, check_components, check_number_of_betas
from ..models.components import HIAComponents
from ..models.unet_motion import HIAUNetMotionModel
from ..tensor_checks import check_tensor
from . import guidance
from .scheduler_rehearsal import check_kind, rehearse


MAX_VIDEOS = 1024  # per image and motion
STREAM_TYPES = ("pil", "np", "pt")
OUTPUT_TYPES = (*STREAM_TYPES, "latent")
CALLBACK_TENSORS = ("latents", "pred_original_sample")  # that can be passed to a callback

# Arguments that are always passed to attention processors.
OWN_ATTENTION_ARGUMENTS = {
    *("self", "attn", "hidden_states", "encoder_hidden_states", "attention_mask", "temb", "args", "kwargs"),
}


class ReferenceImages(tuple[torch.Tensor, ...]):
    """The reference images of a call, each float32 `(3, H, W)` in [0, 1], parsed and checked once."""

    @classmethod
    def from_any(cls, image: object, name: str = "image") -> "ReferenceImages":
        """Parse images in any form that [`HIAPipeline.__call__`] accepts.

        Args:
            image:
                The images. Parsed images are returned unchanged.
            name (`str`, *optional*, defaults to `"image"`):
                Name of the argument in error messages.
        """
        return image if isinstance(image, cls) else cls(image_tensors(image, name))


def count_clips(images: ReferenceImages, clips: ConditioningClips, num_videos_per_prompt: object = 1) -> int:
    """Return the number of clips that a call generates.

    Args:
        images ([`ReferenceImages`]):
            Reference images.
        clips ([`~conditioning.conditioning_clips.ConditioningClips`]):
            As many clips as images, or one of either.
        num_videos_per_prompt (`int`, *optional*, defaults to 1):
            Number of videos per image and motion.
    """
    number = checks.integer("num_videos_per_prompt", num_videos_per_prompt, low=1, high=MAX_VIDEOS)
    return max(len(images), len(clips)) * number


@dataclass(frozen=True)
class DenoisingOptions:
    """The options of the denoising loop. Names, meanings and defaults are those of [`HIAPipeline.__call__`]."""

    guidance_scale: float = 3.5
    guider: BaseGuidance | None = None
    batch_guidance: bool = False
    controlnet_conditioning_scale: float = 1.0
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    context_frames: int = 16
    context_overlap: int = 4
    context_shift: bool = True
    context_batch_size: int = 1

    def make_guider(self) -> Any:
        """Create the guider of a call, which stores its current step."""
        if self.guider is None:
            return guidance.classifier_free_guidance(self.guidance_scale)
        return guidance.of_call(checks.instance("guider", self.guider, BaseGuidance))

    def control_at(self, step: int, num_steps: int) -> float:
        """Return the factor of the ControlNet's outputs in a step, which is 0 while the ControlNet is inactive."""
        acts = step / num_steps >= self.control_guidance_start and (step + 1) / num_steps <= self.control_guidance_end
        return self.controlnet_conditioning_scale if acts else 0.0

    def check(self, num_frames: int, longest_window: int) -> None:
        """Check that the options can be used.

        Args:
            num_frames (`int`):
                F, the number of frames.
            longest_window (`int`):
                Maximum number of frames that the UNet's motion modules support.

        Raises:
            TypeError, ValueError: If an option cannot be used. The message names it.
        """
        scale = self.controlnet_conditioning_scale
        checks.number("controlnet_conditioning_scale", scale, low=-guidance.MAX_SCALE, high=guidance.MAX_SCALE)
        start = checks.number("control_guidance_start", self.control_guidance_start, low=0, high=1)
        end = checks.number("control_guidance_end", self.control_guidance_end, low=0, high=1)
        if start >= end:
            raise ValueError(
                "`control_guidance_start` and `control_guidance_end` must satisfy 0 <= start < end <= 1, got"
                f" {start:g} and {end:g}."
            )
        checks.flag("context_shift", self.context_shift)
        window = checks.integer("context_frames", self.context_frames)
        if min(window, num_frames) > longest_window:
            raise ValueError(
                f"`context_frames` must be at most the {longest_window} frames that the UNet's motion modules can tell"
                f" apart, got {window}."
            )
        overlap = checks.integer("context_overlap", self.context_overlap, low=0)
        if overlap >= window:
            raise ValueError(f"`context_overlap` must be less than `context_frames`, {window}, got {overlap}.")
        checks.integer("context_batch_size", self.context_batch_size)
        guidance.check_guider(self.make_guider(), num_frames > window, self.batch_guidance)


def check_inputs(
    components: HIAComponents,
    image: PipelineImageInput,
    conditioning_frames: Any,
    height: int | None,
    width: int | None,
    num_inference_steps: int = 25,
    timesteps: list[int] | None = None,
    sigmas: list[float] | None = None,
    guidance_scale: float = 3.5,
    guider: BaseGuidance | None = None,
    batch_guidance: bool = False,
    controlnet_conditioning_scale: float = 1.0,
    control_guidance_start: float = 0.0,
    control_guidance_end: float = 1.0,
    reference_noise: bool = True,
    shared_noise: float = 0.0,
    context_frames: int = 16,
    context_overlap: int = 4,
    context_shift: bool = True,
    context_batch_size: int = 1,
    num_videos_per_prompt: int = 1,
    eta: float = 0.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
    image_embeds: torch.Tensor | None = None,
    prompt_embeds: torch.Tensor | None = None,
    ip_adapter_image: PipelineImageInput | None = None,
    ip_adapter_image_embeds: list[torch.Tensor] | None = None,
    output_type: str = "pil",
    cross_attention_kwargs: dict[str, Any] | None = None,
    decode_chunk_size: int | None = None,
    callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
    callback_on_step_end_tensor_inputs: list[str] | None = None,
) -> None:
    """Check that the arguments of a call can be used, before any model runs.

    The arguments are those of [`HIAPipeline.__call__`].

    Raises:
        TypeError, ValueError: If an argument cannot be used. The message names it.
    """
    check_complete(components)
    unet, scheduler, factor = components.unet, components.scheduler, autoencoder.vae_scale_factor(components.vae)
    images = ReferenceImages.from_any(image)
    clips = ConditioningClips.from_any(conditioning_frames, components.controlnet.config.conditioning_channels)
    if 1 not in (len(images), len(clips)) and len(images) != len(clips):
        raise ValueError(
            f"`image` contains {len(images)} images, but `conditioning_frames` {len(clips)} clips; pass equally many,"
            " or one of either."
        )
    latent_size = []
    for name, value, default in (("height", height, clips.height), ("width", width, clips.width)):
        if value is None and default % factor:
            raise ValueError(f"`{name}` must be a multiple of {factor}, got {default} (from `conditioning_frames`).")
        latent_size.append(checks.side(name, default if value is None else value, factor) // factor)
    checks.area(*(side * factor for side in reversed(latent_size)))
    options = DenoisingOptions(
        guidance_scale=guidance_scale,
        guider=guider,
        batch_guidance=batch_guidance,
        controlnet_conditioning_scale=controlnet_conditioning_scale,
        control_guidance_start=control_guidance_start,
        control_guidance_end=control_guidance_end,
        context_frames=context_frames,
        context_overlap=context_overlap,
        context_shift=context_shift,
        context_batch_size=context_batch_size,
    )
    options.check(clips.num_frames, unet.config.motion_max_seq_length)
    check_attention_arguments(cross_attention_kwargs, unet)
    callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
    checks.flag("reference_noise", reference_noise)
    checks.number("shared_noise", shared_noise, low=0, high=1)
    if shared_noise and latents is not None:
        raise ValueError("`shared_noise` must be 0 if `latents` are given, since they are the noise.")
    checks.one_of("output_type", output_type, OUTPUT_TYPES)
    if decode_chunk_size is not None:
        checks.integer("decode_chunk_size", decode_chunk_size)
    checks.number("eta", eta, low=0, high=1)
    batch_size = count_clips(images, clips, num_videos_per_prompt)
    check_generator(generator, batch_size, components._execution_device)
    if latents is not None:
        shape = (batch_size, unet.config.in_channels, clips.num_frames, *latent_size)
        check_tensor("latents", latents, shape, dtype=unet.dtype)
    check_context(components, len(images), image_embeds, prompt_embeds=prompt_embeds)
    check_ip_adapter_inputs(
        components,
        ip_adapter_image,
        ip_adapter_image_embeds,
        batch_size=batch_size,
        do_classifier_free_guidance=guidance.has_unconditional_branch(options.make_guider()),
    )
    num_inference_steps = checks.integer("num_inference_steps", num_inference_steps, low=1, high=most_steps(scheduler))
    rehearse(scheduler, num_inference_steps, custom_schedule(scheduler, timesteps, sigmas), eta=eta)


def check_complete(components: HIAComponents) -> None:
    """Refuse to start a call if a component is missing or does not fit the others.

    Args:
        components:
            Any object that has the components of [`HIAPipeline`] as attributes.
    """
    parts = {name: getattr(components, name, None) for name in COMPONENTS}
    for name in REQUIRED:
        if parts[name] is None:
            raise ValueError(f"`{name}` is missing: the pipeline was made without it. Set `pipe.{name}` first.")
    check_kind(components.scheduler)
    check_number_of_betas(components.scheduler)
    check_components({**parts, "scheduler": None})  # a rehearsal checks more of the scheduler


def check_context(
    components: HIAComponents, num_images: int, image_embeds: torch.Tensor | None, prompt_embeds: torch.Tensor | None
) -> None:
    """Check that the input of cross-attention has exactly one source.

    Args:
        components:
            Any object that has the components of [`HIAPipeline`] as attributes.
        num_images (`int`):
            Number of reference images.
        image_embeds, prompt_embeds:
            As in [`HIAPipeline.__call__`].
    """
    if image_embeds is not None and prompt_embeds is not None:
        raise ValueError("Give `image_embeds` or `prompt_embeds`, not both.")
    dim = components.unet.config.cross_attention_dim
    for name, embeds in (("image_embeds", image_embeds), ("prompt_embeds", prompt_embeds)):
        check_embeds(name, embeds, num_images, channels=dim, dtype=components.unet.dtype)
    if image_embeds is None and prompt_embeds is None:
        if components.image_encoder is None and components.text_encoder is None:
            raise ValueError(
                "Give `image_embeds` or `prompt_embeds`: the pipeline has neither `image_encoder` nor `text_encoder`."
            )
        if components.text_encoder is not None and components.tokenizer is None:
            raise ValueError("`text_encoder` needs a `tokenizer`, which the pipeline lacks.")
        if components.text_encoder is None and components.feature_extractor is None:
            raise ValueError("`image_encoder` needs a `feature_extractor`, which the pipeline lacks.")


def check_attention_arguments(cross_attention_kwargs: Any, unet: HIAUNetMotionModel) -> None:
    """Refuse arguments that the attention layers would ignore.

    Args:
        cross_attention_kwargs (`dict` or `None`):
            As in [`HIAPipeline.__call__`].
        unet ([`HIAUNetMotionModel`]):
            The UNet, whose attention processors read the arguments.
    """
    if cross_attention_kwargs is None:
        return
    checks.instance("cross_attention_kwargs", cross_attention_kwargs, dict)
    processors = {type(processor) for processor in unet.attn_processors.values()}
    read = {name for processor in processors for name in inspect.signature(processor.__call__).parameters}
    accepted = {"scale", "ip_adapter_masks"} | (read - OWN_ATTENTION_ARGUMENTS)
    unread = [name for name in cross_attention_kwargs if name not in accepted]
    if unread:
        raise ValueError(
            f"`cross_attention_kwargs` may contain {', '.join(sorted(accepted))}, got {checks.shown(unread[0])}, which"
            " the UNet's attention does not read."
        )
    if "scale" in cross_attention_kwargs:
        scale = cross_attention_kwargs["scale"]
        checks.number('cross_attention_kwargs["scale"]', scale, low=-guidance.MAX_SCALE, high=guidance.MAX_SCALE)


def callback_inputs(callback: object, tensor_inputs: Any) -> list[str]:
    """Return the names of the tensors that are passed to a callback.

    Args:
        callback (`Callable` or `None`):
            `callback_on_step_end` of [`HIAPipeline.__call__`]. A callback of diffusers' class declares its inputs
            itself.
        tensor_inputs (`Sequence[str]` or `None`):
            `callback_on_step_end_tensor_inputs`.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback_on_step_end` must be callable, got {checks.shown(callback)}.")
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        tensor_inputs = callback.tensor_inputs
    if tensor_inputs is None:
        return []
    checks.instance("callback_on_step_end_tensor_inputs", tensor_inputs, (list, tuple))
    return [checks.one_of("callback_on_step_end_tensor_inputs", name, CALLBACK_TENSORS) for name in tensor_inputs]


def latents_of_callback(returned: object, latents: torch.Tensor) -> torch.Tensor:
    """Return the latents after a callback.

    Args:
        returned:
            Result of the callback.
        latents (`torch.Tensor`):
            Latents that were passed to it.
    """
    if returned is None:
        return latents
    # A callback may return all that it was given; only the latents are used.
    if not isinstance(returned, Mapping) or not set(returned) <= set(CALLBACK_TENSORS):
        raise TypeError(
            '`callback_on_step_end` must return a dictionary with "latents" or without, or None, got'
            f" {checks.shown(returned)}."
        )
    replaced = returned.get("latents", latents)
    if replaced is latents:
        return latents
    check_tensor("latents` of `callback_on_step_end", replaced, tuple(latents.shape), dtype=latents.dtype)
    return replaced.to(latents)


def custom_schedule(
    scheduler: SchedulerMixin, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None
) -> dict[str, list]:
    """Return given `timesteps` or `sigmas`, which replace a scheduler's spacing, as Python numbers.

    Args:
        scheduler (`SchedulerMixin`):
            The scheduler.
        timesteps, sigmas:
            As in [`HIAPipeline.__call__`].

    Returns:
        `dict[str, list]`: The one that is given, by its name.
    """
    given = {name: value for name, value in {"timesteps": timesteps, "sigmas": sigmas}.items() if value is not None}
    if not given:
        return {}
    if len(given) > 1:
        raise ValueError("Give `timesteps` or `sigmas`, not both.")
    [(name, values)] = given.items()
    if name not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"`{name}` cannot be set on a {type(scheduler).__name__}.")
    if isinstance(values, (np.ndarray, torch.Tensor)) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or not values:
        raise TypeError(f"`{name}` must be a list of descending numbers, got {checks.shown(values)}.")
    if name == "timesteps":
        schedule: list = [checks.integer(name, value, low=0, high=most_steps(scheduler) - 1) for value in values]
    else:
        most = _largest_sigma(scheduler)
        schedule = [checks.number(name, value, low=0, high=most) for value in values]
    if any(later >= earlier for earlier, later in zip(schedule, schedule[1:], strict=False)):
        raise ValueError(f"`{name}` must descend, got {checks.shown(schedule)}.")
    return {name: schedule}


def most_steps(scheduler: SchedulerMixin) -> int:
    """Return the number of timesteps that a scheduler was trained with.

    Args:
        scheduler (`SchedulerMixin`):
            The scheduler.
    """
    return scheduler.config.get("num_train_timesteps", 1000)


def check_generator(generator: Any, batch_size: int, device: torch.device) -> None:
    """Check the random generators of a call.

    Args:
        generator (`torch.Generator`, `list[torch.Generator]` or `None`):
            One for all clips, or one per clip.
        batch_size (`int`):
            B, the number of clips.
        device (`torch.device`):
            Device of the noise; generators must be on this device or on the CPU.
    """
    generators = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(g, torch.Generator) for g in generators):
        raise TypeError(f"`generator` must be a torch.Generator or a list of them, got {checks.shown(generator)}.")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"`generator` must contain one per clip ({batch_size}), got {len(generator)}.")
    for one in generators:
        if one is not None and one.device.type not in ("cpu", device.type):
            raise ValueError(f"`generator` must be one of the CPU or of {device}, got one of {one.device}.")


def check_embeds(name: str, embeds: object, num_images: int, channels: int, dtype: torch.dtype) -> None:
    """Check embeddings that replace the output of an encoder.

    Args:
        name (`str`):
            Name of the argument.
        embeds (`torch.Tensor` of shape `(1 or B, tokens, C)`, or `None`):
            The embeddings.
        num_images (`int`):
            B, the number of reference images.
        channels (`int`):
            C, the number of channels of the UNet's cross-attention.
        dtype (`torch.dtype`):
            Dtype to which they will be converted.
    """
    if embeds is not None:
        entries = 1 if isinstance(embeds, torch.Tensor) and embeds.ndim and embeds.size(0) == 1 else num_images
        check_tensor(name, embeds, (entries, None, channels), dtype=dtype)


def _largest_sigma(scheduler: SchedulerMixin) -> float:
    """Return the largest noise level that the networks know, relative to the signal."""
    signal = float(scheduler.alphas_cumprod.min())
    return ((1 - signal) / signal) ** 0.5 * (1 + 1e-3) if signal > 0 else 1e4
