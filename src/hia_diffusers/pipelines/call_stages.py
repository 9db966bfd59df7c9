# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The stages of a call before and after denoising, which are also methods of [`HIAPipeline`].

The first argument of each is any object that has the components as attributes, such as the pipeline.

Axes: B clips, F frames, C channels, H, W pixels, h, w latent pixels. Clips are `(B, F, C, H, W)` outside the networks
and `(B, C, F, H, W)` inside. Conditioning frames have the outer form up to the ControlNet; latents always have the
inner form.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor

from .. import checks
from ..conditioning.conditioning_clips import ConditioningClips
from ..finite_results import check_finite
from ..fitting import fit_reference, warn_of_bars
from ..models import autoencoder
from ..models.components import HIAComponents
from ..models.conditioning_embedding import ConditioningEmbeddings
from ..models.denoiser import HIAConditions, HIADenoiser
from ..models.reference_attention import ReferenceFeatures
from . import framewise_scheduling
from .inputs import ReferenceImages, custom_schedule, most_steps


# Encoding


def encode_image(
    components: HIAComponents,
    image: PipelineImageInput,
    image_embeds: torch.Tensor | None = None,
    prompt_embeds: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input of cross-attention in both branches.

    Args:
        components:
            Object with `image_encoder` and `feature_extractor`, or `text_encoder` and `tokenizer`; and `unet`.
        image:
            Reference images.
        image_embeds (`torch.Tensor` of shape `(images, tokens, C)`, *optional*):
            Replaces the output of `image_encoder`.
        prompt_embeds (`torch.Tensor` of shape `(images, tokens, C)`, *optional*):
            Replaces the output of `text_encoder`.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Hidden states of the conditional and the unconditional branch, each
            `(images, tokens, C)`. Image tokens are zeros in the latter; text is the same in both.
    """
    device, dtype = components._execution_device, components.unet.dtype
    images = ReferenceImages.from_any(image)
    if prompt_embeds is None and image_embeds is None:
        if components.text_encoder is not None:
            tokens = components.tokenizer("", padding="max_length", return_tensors="pt").input_ids.to(device)
            prompt_embeds = components.text_encoder(tokens)[0]
        else:
            image_embeds = _clip_embeds(components, images, device).image_embeds[:, None]
    embeds = image_embeds if prompt_embeds is None else prompt_embeds
    assert embeds is not None
    states = embeds.to(device, dtype).expand(len(images), -1, -1)
    check_finite("The embeddings of `image`", [states], components.components)
    return states, torch.zeros_like(states) if prompt_embeds is None else states


def _clip_embeds(components: HIAComponents, images: Sequence[torch.Tensor], device: torch.device) -> Any:
    bytes_ = [(image * 255).round().byte() for image in images]
    pixels = components.feature_extractor(images=bytes_, return_tensors="pt").pixel_values
    encoder = components.image_encoder
    return encoder(pixels.to(device, encoder.dtype))


@checks.python_numbers
def prepare_conditioning_frames(
    components: HIAComponents, conditioning_frames: Any, height: int, width: int
) -> ConditioningClips:
    """Convert conditioning frames to one form.

    Args:
        components:
            Object with `controlnet`.
        conditioning_frames:
            Any form that [`HIAPipeline.__call__`] accepts.
        height, width (`int`):
            Size to which they are converted.

    Returns:
        [`~conditioning.conditioning_clips.ConditioningClips`]: The frames with the ControlNet's channels, read window
            by window.
    """
    clips = ConditioningClips.from_any(conditioning_frames, components.controlnet.config.conditioning_channels)
    warn_of_bars("conditioning_frames", clips.height, clips.width, new_height=height, new_width=width)
    return clips.resize(height, width)


@checks.python_numbers
def encode_reference_latents(
    components: HIAComponents, image: PipelineImageInput, height: int, width: int
) -> torch.Tensor:
    """Encode the reference images to latents, scaled for the UNet.

    Args:
        components:
            Object with `vae`.
        image:
            Reference images, fitted into `height` x `width` with antialiasing.
        height, width (`int`):
            Size of the clip in pixels.

    Returns:
        `torch.Tensor` of shape `(images, C, h, w)`: float32.
    """
    images = torch.stack([fit_reference(image, height, width) for image in ReferenceImages.from_any(image)])
    latents = autoencoder.encode_images(components.vae, (2 * images - 1).to(components._execution_device))
    check_finite("The latents of `image`", [latents], components.components)
    return latents


# Before denoising


def prepare_conditions(
    components: HIAComponents,
    encoder_hidden_states: tuple[torch.Tensor, torch.Tensor],
    reference_latents: torch.Tensor,
    conditioning_frames: ConditioningClips,
    image_embeds: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]] = ((), ()),
    cross_attention_kwargs: dict[str, Any] | None = None,
) -> HIAConditions:
    """Collect the inputs of the denoiser other than noisy latents.

    The reference is encoded here, once per clip, unless `reference_timestep` of the pipeline is `"current"`.

    Args:
        components:
            Object with `appearance_encoder`, `controlnet` and `unet`.
        encoder_hidden_states (`tuple[torch.Tensor, torch.Tensor]`):
            Result of [`encode_image`], each `(1 or B, tokens, C)`.
        reference_latents (`torch.Tensor` of shape `(1 or B, C, h, w)`):
            Result of [`encode_reference_latents`].
        conditioning_frames ([`~conditioning.conditioning_clips.ConditioningClips`]):
            Result of [`prepare_conditioning_frames`], B clips.
        image_embeds (`tuple`, *optional*, defaults to `((), ())`):
            Result of [`~loaders.ip_adapter.prepare_ip_adapter_embeds`].
        cross_attention_kwargs (`dict`, *optional*):
            As in [`HIAPipeline.__call__`].
    """
    states, null_states = encoder_hidden_states
    has_null_states = null_states is not states
    states, null_states = (_repeat_to(each, len(conditioning_frames)) for each in (states, null_states))
    dtype = components.controlnet.dtype
    conditions = HIAConditions(
        encoder_hidden_states=states,
        reference=reference_latents,
        conditioning_frames=ConditioningEmbeddings(
            lambda frames: conditioning_frames.read(frames).to(dtype),
            conditioning_frames.num_frames,
        ),
        null_encoder_hidden_states=null_states if has_null_states else None,
        image_embeds=tuple(image_embeds[0]),
        null_image_embeds=tuple(image_embeds[1]),
        attention_kwargs=cross_attention_kwargs,
    )
    if components.config["reference_timestep"] == "current":
        return conditions
    conditions = HIADenoiser.of_pipeline(components).read_reference(conditions)
    if isinstance(conditions.reference, ReferenceFeatures):
        check_finite("The features of `image`", conditions.reference.features.values(), components.components)
    return conditions


@checks.python_numbers
def prepare_timesteps(
    components: HIAComponents,
    num_inference_steps: int,
    timesteps: list[int] | None = None,
    sigmas: list[float] | None = None,
) -> torch.Tensor:
    """Set the timesteps of the scheduler.

    Args:
        components:
            Object with `scheduler`.
        num_inference_steps, timesteps, sigmas:
            As in [`HIAPipeline.__call__`].

    Returns:
        `torch.Tensor`: The timesteps, on the CPU. Schedulers read their values, which would synchronize with another
            device each time.
    """
    checks.integer("num_inference_steps", num_inference_steps, low=1, high=most_steps(components.scheduler))
    schedule = custom_schedule(components.scheduler, timesteps, sigmas)
    return retrieve_timesteps(components.scheduler, num_inference_steps, **schedule)[0]


def prepare_extra_step_kwargs(
    components: HIAComponents, generator: torch.Generator | list[torch.Generator] | None, eta: float
) -> dict[str, Any]:
    """Return `generator` and `eta`, as far as the scheduler's `step` accepts them."""
    accepted = inspect.signature(components.scheduler.step).parameters
    return {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in accepted}


def prepare_latents(
    components: HIAComponents,
    shape: tuple[int, ...],
    reference_latents: torch.Tensor,
    timestep: torch.Tensor,
    reference_noise: bool = True,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
    shared_noise: float = 0.0,
) -> torch.Tensor:
    """Create the noisy latents from which denoising starts.

    With `reference_noise`, these are the paper's initial reference noise (Sec. 3.4): the reference latents, diffused
    to the first timestep (999 with trailing spacing) with separate noise for each frame.

    Args:
        components:
            Object with `scheduler` and `unet`.
        shape (`tuple[int, ...]`):
            `(B, C, F, h, w)`.
        reference_latents (`torch.Tensor` of shape `(1 or B, C, h, w)`):
            Result of [`encode_reference_latents`].
        timestep (`torch.Tensor`):
            The first timestep.
        reference_noise (`bool`, *optional*, defaults to `True`):
            Whether to start from the diffused reference instead of pure noise.
        generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
            Generator of the noise, one for all clips or one per clip.
        latents (`torch.Tensor`, *optional*):
            Standard normal noise of shape `shape`, used instead of generating it.
        shared_noise (`float`, *optional*, defaults to 0.0):
            Fraction of the variance of the noise that all frames of a clip share, in [0, 1].
    """
    device, dtype = components._execution_device, components.unet.dtype
    noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype) if latents is None else latents
    noise = noise.to(device, dtype)
    if shared_noise:
        shared = randn_tensor((*shape[:2], 1, *shape[3:]), generator=generator, device=device, dtype=dtype)
        noise = shared_noise**0.5 * shared + (1 - shared_noise) ** 0.5 * noise
    if reference_noise:
        clean = _repeat_to(reference_latents.to(device, dtype), shape[0])[:, :, None]
        initial = framewise_scheduling.add_noise(components.scheduler, clean, noise, timestep=timestep)
    else:
        initial = noise * components.scheduler.init_noise_sigma
    group = getattr(components, "_window_group", None)
    if group is not None:
        group.check_equal("generator", initial)
    return initial


# Decoding


def default_chunk_size(device: torch.device) -> int:
    """Return the number of frames that are decoded at a time unless a call says otherwise.

    It is 2 on a CPU, whose caches do not hold the activations of more frames, and 16 on other devices.

    Args:
        device (`torch.device`):
            Device of the latents.
    """
    return 2 if device.type == "cpu" else 16


@checks.python_numbers
def decode_latents(
    components: HIAComponents,
    latents: torch.Tensor,
    decode_chunk_size: int | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Decode clips, some frames at a time.

    Args:
        components:
            Object with `vae`.
        latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
            Clean latents.
        decode_chunk_size (`int`, *optional*):
            Number of frames that the VAE decodes at a time, by default that of [`default_chunk_size`].
        device (`torch.device`, *optional*):
            Device of the decoded frames, by default the CPU.

    Returns:
        `torch.Tensor` of shape `(B, 3, F, H, W)`: Frames in [-1, 1], float32.
    """
    if decode_chunk_size is None:
        decode_chunk_size = default_chunk_size(latents.device)
    chunks, device = latents.transpose(1, 2).flatten(0, 1).split(decode_chunk_size), device or torch.device("cpu")

    def decode_chunk(chunk: torch.Tensor) -> torch.Tensor:
        return autoencoder.decode_latents(components.vae, chunk)

    group = getattr(components, "_window_group", None)
    if group is None:
        decoded = torch.cat([decode_chunk(chunk).to(device) for chunk in chunks])
    else:
        decoded = group.map(decode_chunk, chunks, device)
    check_finite("The frames", [decoded], components.components)
    return decoded.unflatten(0, (latents.shape[0], -1)).transpose(1, 2)


@checks.python_numbers
def decode(
    components: HIAComponents, latents: torch.Tensor, output_type: str = "pil", decode_chunk_size: int | None = None
) -> Any:
    """Decode clips to the frames of a [`HIAPipelineOutput`].

    Args:
        components:
            Object with `vae` and `video_processor`.
        latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
            Clean latents.
        output_type (`str`, *optional*, defaults to `"pil"`):
            `"pil"`, `"np"`, `"pt"` (frames stay on the device of `latents`), or `"latent"` (`latents` are returned).
        decode_chunk_size (`int`, *optional*):
            Number of frames that the VAE decodes at a time, by default that of [`default_chunk_size`].
    """
    if output_type == "latent":
        check_finite("The latents", [latents], components.components)
        return latents
    device = latents.device if output_type == "pt" else None
    video = decode_latents(components, latents, decode_chunk_size, device=device)
    return components.video_processor.postprocess_video(video, output_type=output_type)


def _repeat_to(entries: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Repeat each entry of a batch, to a total of `batch_size`, with repetitions of one entry next to each other."""
    if len(entries) == batch_size:
        return entries
    return entries.repeat_interleave(batch_size // len(entries), dim=0)
