# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The HIA pipeline: a reference picture and conditioning frames in, a video out (paper Sec. 3.4)."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.utils import BaseOutput, replace_example_docstring
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from . import checks, framewise_scheduling
from .conditioning.clips import ConditioningClips
from .conditioning.motion_blur import MotionBlurCondition
from .context_windows import context_windows, frame_weights
from .exclusive_use import USED_HERE, exclusive_use, is_used_here, one_call_at_a_time
from .finite_results import check_finite
from .fitting import fit_reference, warn_of_bars
from .images import image_tensors
from .ip_adapter import HIAIPAdapterMixin
from .lora import HIALoraLoaderMixin
from .models.appearance_encoder import HIAAppearanceEncoder
from .models.attachments import check_no_attachments, remove_fused_projections
from .models.autoencoder import Autoencoder, decode_latents, encode_pictures, vae_scale_factor
from .models.component_fit import COMPONENTS, REQUIRED, check_components, check_number_of_betas
from .models.controlnet import ConditioningEmbeddings, HIAControlNetModel
from .models.deep_cache import DeepCache
from .models.denoiser import HIAConditions, HIADenoiser
from .models.modeling_hia import StrictLoadingMixin, check_finite_weights, copy_out_of_mapped_file
from .models.reference_attention import ReferenceFeatures
from .models.unet_motion import HIAUNetMotionModel
from .pipeline_folder import check_index, check_pipeline_folder, find_pipeline
from .pipeline_inputs import (
    MAX_VIDEOS,
    DenoisingOptions,
    callback_inputs,
    check_attention_arguments,
    check_embeds,
    check_generator,
    check_tensor,
    custom_schedule,
    latents_of_callback,
    most_steps,
)
from .scheduler_rehearsal import check_kind, rehearse
from .window_parallelism import WindowGroup


# Axes: B clips, F frames, C channels, H, W. Clips are (B, F, C, H, W) outside the models and (B, C, F, H, W) inside;
# conditioning frames keep the outer form up to the ControlNet, latents have the inner form throughout.

Conditioning = MotionBlurCondition | list[PIL.Image.Image] | torch.Tensor
STREAM_TYPES = ("pil", "np", "pt")
OUTPUT_TYPES = (*STREAM_TYPES, "latent")

EXAMPLE_DOC_STRING = """
        Examples:

        ```py
        >>> import torch
        >>> from diffusers.utils import load_image
        >>> from hia_diffusers import HIAPipeline, MotionBlurConditioner, WholeBodyKeypoints
        >>> from hia_diffusers.data.video import write_video

        >>> pipe = HIAPipeline.from_pretrained("path/to/hia", dtype=torch.float16).to("cuda")
        >>> keypoints = WholeBodyKeypoints.load("dance.safetensors").fit(height=896, width=512)
        >>> condition = MotionBlurConditioner()(keypoints, sharpness=0.8)
        >>> frames = pipe(load_image("person.png"), condition, generator=torch.Generator().manual_seed(0)).frames[0]
        >>> write_video("out.mp4", frames, fps=keypoints.fps)
        ```
"""

MODEL_CARD = """---
library_name: diffusers
pipeline_tag: image-to-video
license: other
license_name: see-model-card
tags:
- hia-diffusers
- human-image-animation
---

# {name}

A human image animation pipeline in the format of hia-diffusers (`pip install hia-diffusers`), an independent
implementation of HIA ([arXiv 2409.19580](https://arxiv.org/abs/2409.19580)).

## Usage

```python
import torch
from diffusers.utils import load_image
from hia_diffusers import HIAPipeline, MotionBlurConditioner, WholeBodyKeypoints

pipe = HIAPipeline.from_pretrained("{name}"{options})
condition = MotionBlurConditioner()(WholeBodyKeypoints.load("motion.safetensors"))
frames = pipe(load_image("person.png"), condition, generator=torch.Generator().manual_seed(0)).frames[0]
```

## License

The code of hia-diffusers is under Apache-2.0. The weights in this folder carry the license of what they were made
from: weights that started from Stable Diffusion 1.5 stay under CreativeML OpenRAIL-M. Whoever publishes this folder
states here what the weights were trained from and which license applies, and replaces `license: other` above.

Animate only people who have agreed to it.
"""

# For `custom_pipeline` of diffusers, which looks for a pipeline's class in a file of the checkpoint.
PIPELINE_FILE = "pipeline.py"
PIPELINE_CODE = """# The class is that of the installed package: pip install hia-diffusers
from hia_diffusers import HIAPipeline
"""


@dataclass
class HIAPipelineOutput(BaseOutput):
    """Output of [`HIAPipeline`].

    Args:
        frames (`torch.Tensor`, `np.ndarray` or `list[list[PIL.Image.Image]]`):
            A batch of clips: `(B, F, 3, H, W)` in [0, 1] for `"pt"`, `(B, F, H, W, 3)` in [0, 1] for `"np"`, lists of
            pictures for `"pil"`, `(B, C, F, h, w)` latents for `"latent"`.
    """

    frames: torch.Tensor | np.ndarray | list[list[PIL.Image.Image]]


class HIAPipeline(DiffusionPipeline, StableDiffusionMixin, HIALoraLoaderMixin, HIAIPAdapterMixin):
    """Animates reference pictures with the motion of conditioning frames.

    Cross-attention takes its context from one of two sources: the projected token of `image_encoder` (zeros for the
    unconditional branch), or the empty prompt of `text_encoder` (the same for both branches, as weights of
    MagicAnimate need it). Without either, pass `image_embeds` or `prompt_embeds` to the call.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            Encodes the reference picture and decodes the frames.
        image_encoder (`CLIPVisionModelWithProjection`, *optional*):
            CLIP vision tower of the context token.
        unet ([`HIAUNetMotionModel`]):
            Denoises clips. A `UNet2DConditionModel` or `UNetMotionModel` is converted.
        appearance_encoder ([`HIAAppearanceEncoder`]):
            Reads the reference picture, once per clip.
        controlnet ([`HIAControlNetModel`]):
            Reads the conditioning frames.
        scheduler (`SchedulerMixin`):
            [`ShiftedSNRScheduler`], or any of diffusers made with `from_config` of its configuration.
        feature_extractor (`CLIPImageProcessor`, *optional*):
            Prepares pictures for `image_encoder`.
        text_encoder (`CLIPTextModel`, *optional*):
            Encodes the empty prompt.
        tokenizer (`CLIPTokenizer`, *optional*):
            Belongs to `text_encoder`.
        reference_timestep (`"zero"` or `"current"`, *optional*, defaults to `"zero"`):
            The timestep at which the appearance encoder runs: 0, once per clip, or the current one, once per step
            (weights of MagicAnimate).
        unconditional_controlnet (`bool`, *optional*, defaults to `False`):
            Whether the ControlNet also acts in the unconditional branch of guidance, with what it gives on the context
            of the other (weights of MagicAnimate and Moore-AnimateAnyone).
        ip_adapter_image_encoder (`CLIPVisionModelWithProjection`, *optional*):
            CLIP vision tower of IP-Adapters, which bring one of another width than the context's.

    Raises:
        TypeError: If a component is of a class that does not fit.
        ValueError: If two components do not fit each other.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->appearance_encoder->ip_adapter_image_encoder->unet->vae"
    _optional_components = [
        *("image_encoder", "feature_extractor", "text_encoder", "tokenizer", "ip_adapter_image_encoder"),
    ]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae: Autoencoder,
        image_encoder: CLIPVisionModelWithProjection | None,
        unet: HIAUNetMotionModel | UNetMotionModel | UNet2DConditionModel,
        appearance_encoder: HIAAppearanceEncoder,
        controlnet: HIAControlNetModel,
        scheduler: SchedulerMixin,
        feature_extractor: CLIPImageProcessor | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        reference_timestep: str = "zero",
        unconditional_controlnet: bool = False,
        ip_adapter_image_encoder: CLIPVisionModelWithProjection | None = None,
    ) -> None:
        super().__init__()
        if reference_timestep not in ("zero", "current"):
            raise ValueError(f'`reference_timestep` must be "zero" or "current", got {reference_timestep!r}.')
        components = {
            "vae": vae,
            "image_encoder": image_encoder,
            "unet": unet,
            "appearance_encoder": appearance_encoder,
            "controlnet": controlnet,
            "scheduler": scheduler,
            "feature_extractor": feature_extractor,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "ip_adapter_image_encoder": ip_adapter_image_encoder,
        }
        check_components(components)
        if isinstance(unet, UNet2DConditionModel):
            unet = HIAUNetMotionModel.from_unet2d(unet)
        elif isinstance(unet, UNetMotionModel) and not isinstance(unet, HIAUNetMotionModel):
            unet = HIAUNetMotionModel.from_unet_motion(unet)
        components["unet"] = unet
        for component in components.values():
            if isinstance(component, torch.nn.Module):
                copy_out_of_mapped_file(component)

        self.register_modules(**components)
        self.register_to_config(
            reference_timestep=reference_timestep, unconditional_controlnet=unconditional_controlnet
        )
        self._interrupt = False
        self._window_group: WindowGroup | None = None
        self.vae_scale_factor = vae_scale_factor(vae) if vae is not None else 8
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    def register_modules(self, **kwargs: Any) -> None:
        """Put components in place of others, as [`~diffusers.DiffusionPipeline.register_modules`] does.

        Args:
            kwargs:
                Components by name, or None.

        Raises:
            TypeError, ValueError: If one does not fit the others; nothing is changed then.
        """
        check_components({**{name: getattr(self, name, None) for name in COMPONENTS}, **kwargs})
        super().register_modules(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "HIAPipeline":
        """Load a pipeline as [`~diffusers.DiffusionPipeline.from_pretrained`] does, refusing weights that differ.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or local folder.
            kwargs:
                Options of [`~diffusers.DiffusionPipeline.from_pretrained`]; `use_safetensors` is `True` by default.

        Raises:
            OSError: If a file is missing.
            TypeError, ValueError: If a file is damaged, weights have missing or unexpected keys, are no floating-point
                numbers or not finite, or components do not fit each other; before weights are read where their headers
                tell it.
        """
        kwargs.setdefault("use_safetensors", True)
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None:
            kwargs["dtype"] = torch.float32  # transformers would take that in its config, of whoever saved it last
        try:
            folder = find_pipeline(cls, pretrained_model_name_or_path, kwargs)
            given = {name: kwargs[name] for name in COMPONENTS if name in kwargs}
            check_pipeline_folder(folder, given, kwargs.get("variant"), kwargs["use_safetensors"])
        except ValueError as error:
            raise ValueError(f"`pretrained_model_name_or_path`: {error}") from error
        pipeline = super().from_pretrained(str(folder), **kwargs)
        for name, component in pipeline.components.items():
            if isinstance(component, torch.nn.Module) and not isinstance(component, StrictLoadingMixin):
                check_finite_weights(component, folder / name)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def extract_init_dict(
        cls, config_dict: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        # What `DiffusionPipeline.from_pretrained` calls before it imports the libraries that the index names.
        check_index(config_dict)
        return super().extract_init_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Save the pipeline as [`~diffusers.DiffusionPipeline.save_pretrained`] does, with two files beside it.

        They are a model card, unless there is a `README.md` already, and `pipeline.py`, which says to
        `DiffusionPipeline.from_pretrained(..., custom_pipeline="pipeline")` that the class is this one.

        Raises:
            ValueError: If LoRA, an IP-Adapter or fused projections are in the way; nothing is written then.
        """
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                is_of_pipeline = name in self._lora_loadable_modules
                check_no_attachments(name, component, "unload_lora_weights" if is_of_pipeline else "unload_lora")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        (Path(save_directory) / PIPELINE_FILE).write_text(PIPELINE_CODE)  # first: diffusers may upload the folder
        super().save_pretrained(save_directory, *args, **kwargs)
        card = Path(save_directory) / "README.md"
        if not card.exists():
            options = f', variant="{kwargs["variant"]}"' if kwargs.get("variant") else ""
            card.write_text(MODEL_CARD.format(name=card.parent.resolve().name, options=options))

    def _upload_folder(self, working_dir: str | Path, repo_id: str, **kwargs: Any) -> Any:
        card = Path(working_dir) / "README.md"
        if "hia-diffusers" not in card.read_text():  # diffusers has put an empty card there
            card.write_text(MODEL_CARD.format(name=repo_id, options=""))
        return super()._upload_folder(working_dir, repo_id, **kwargs)

    def enable_window_parallelism(self, group: "torch.distributed.ProcessGroup | None" = None) -> None:
        """Share each clip between the processes of `torch.distributed`: its windows of time, and its decoding.

        All processes make the same calls with the same arguments, `generator` seeded alike, and all get the result. It
        differs from that of one process by rounding only. A clip of one window is denoised by one of them.

        Args:
            group (`torch.distributed.ProcessGroup`, *optional*):
                Those that share; by default all.

        Raises:
            RuntimeError: If `torch.distributed` is not initialized.
        """
        self._window_group = WindowGroup(group)

    def disable_window_parallelism(self) -> None:
        """Make clips in this process alone."""
        self._window_group = None

    def unfuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Undo [`~diffusers.StableDiffusionMixin.fuse_qkv_projections`], and leave nothing of it behind."""
        super().unfuse_qkv_projections(unet, vae)
        if vae:
            remove_fused_projections(self.vae)

    def set_use_memory_efficient_attention_xformers(
        self, valid: bool, attention_op: Callable[..., Any] | None = None
    ) -> None:
        """Put spatial attention on xformers, or back on SDPA; motion modules stay on SDPA ([`HIAUNetMotionModel`]).

        Raises:
            RuntimeError: If xformers is installed without kernels for this torch.
        """
        if valid:
            _check_xformers()
        super().set_use_memory_efficient_attention_xformers(valid, attention_op)

    # 1. Inputs

    def check_inputs(
        self,
        image: Any,
        conditioning_frames: Any,
        height: int | None,
        width: int | None,
        num_inference_steps: int = 25,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
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
        deep_cache_interval: int = 1,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        output_type: str = "pil",
        cross_attention_kwargs: dict[str, Any] | None = None,
        decode_chunk_size: int = 16,
        callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> None:
        """Raise a `ValueError` or `TypeError` that names the argument if a call's arguments cannot be used.

        The arguments are those of [`HIAPipeline.__call__`]. No model runs.
        """
        self._check_complete()
        images = image_tensors(image)
        clips = ConditioningClips.from_any(conditioning_frames, self.controlnet.config.conditioning_channels)
        if 1 not in (len(images), len(clips)) and len(images) != len(clips):
            raise ValueError(
                f"`image` holds {len(images)} pictures but `conditioning_frames` {len(clips)} clips; give as many, or"
                " one of either."
            )
        latent_size = []
        for name, value, default in (("height", height, clips.height), ("width", width, clips.width)):
            if value is None and default % self.vae_scale_factor:
                raise ValueError(
                    f"`{name}` must be a multiple of {self.vae_scale_factor}, got {default} (from"
                    " `conditioning_frames`)."
                )
            size = checks.side(name, default if value is None else value, self.vae_scale_factor)
            latent_size.append(size // self.vae_scale_factor)
        checks.area(*(side * self.vae_scale_factor for side in reversed(latent_size)))
        DenoisingOptions(
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            batch_guidance=batch_guidance,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            context_frames=context_frames,
            context_overlap=context_overlap,
            context_shift=context_shift,
            context_batch_size=context_batch_size,
            deep_cache_interval=deep_cache_interval,
        ).check(clips.num_frames, self.unet.config.motion_max_seq_length)
        check_attention_arguments(cross_attention_kwargs, self.unet)
        callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        checks.flag("reference_noise", reference_noise)
        checks.number("shared_noise", shared_noise, 0, 1)
        if shared_noise and latents is not None:
            raise ValueError("`shared_noise` must be 0 where `latents` are given: they are the noise.")
        checks.one_of("output_type", output_type, OUTPUT_TYPES)
        checks.integer("decode_chunk_size", decode_chunk_size)
        checks.number("eta", eta, 0, 1)
        checks.integer("num_videos_per_prompt", num_videos_per_prompt, 1, MAX_VIDEOS)
        batch_size = self.batch_size(images, clips, num_videos_per_prompt)
        check_generator(generator, batch_size, self._execution_device)
        if latents is not None:
            shape = (batch_size, self.unet.config.in_channels, clips.num_frames, *latent_size)
            check_tensor("latents", latents, shape, self.unet.dtype)
        self._check_context(len(images), image_embeds, prompt_embeds)
        self.check_ip_adapter_inputs(ip_adapter_image, ip_adapter_image_embeds, batch_size, guidance_scale > 1)
        num_inference_steps = checks.integer("num_inference_steps", num_inference_steps, 1, most_steps(self.scheduler))
        rehearse(self.scheduler, num_inference_steps, custom_schedule(self.scheduler, timesteps, sigmas), eta)

    def _check_complete(self) -> None:
        parts = {name: getattr(self, name) for name in COMPONENTS}
        for name in REQUIRED:
            if parts[name] is None:
                raise ValueError(f"`{name}` is missing: the pipeline was made without it. Set `pipe.{name}` first.")
        check_kind(self.scheduler)
        check_number_of_betas(self.scheduler)
        check_components({**parts, "scheduler": None})  # a rehearsal tries more of the scheduler

    def _check_context(
        self, num_images: int, image_embeds: torch.Tensor | None, prompt_embeds: torch.Tensor | None
    ) -> None:
        if image_embeds is not None and prompt_embeds is not None:
            raise ValueError("Give `image_embeds` or `prompt_embeds`, not both.")
        dim = self.unet.config.cross_attention_dim
        for name, embeds in (("image_embeds", image_embeds), ("prompt_embeds", prompt_embeds)):
            check_embeds(name, embeds, num_images, dim, self.unet.dtype)
        if image_embeds is None and prompt_embeds is None:
            if self.image_encoder is None and self.text_encoder is None:
                raise ValueError(
                    "Give `image_embeds` or `prompt_embeds`: the pipeline has neither `image_encoder` nor"
                    " `text_encoder`."
                )
            if self.text_encoder is not None and self.tokenizer is None:
                raise ValueError("`text_encoder` needs a `tokenizer`, which the pipeline lacks.")
            if self.text_encoder is None and self.feature_extractor is None:
                raise ValueError("`image_encoder` needs a `feature_extractor`, which the pipeline lacks.")

    # 2. The stages of a call

    @staticmethod
    def batch_size(image: Any, conditioning_frames: ConditioningClips, num_videos_per_prompt: int = 1) -> int:
        """How many clips a call makes.

        Args:
            image:
                Reference pictures.
            conditioning_frames ([`~conditioning.clips.ConditioningClips`]):
                As many clips as pictures, or one of either.
            num_videos_per_prompt (`int`, *optional*, defaults to 1):
                Videos per picture and motion.
        """
        return max(len(image_tensors(image)), len(conditioning_frames)) * num_videos_per_prompt

    def encode_image(
        self,
        image: Any,
        image_embeds: Any = None,
        prompt_embeds: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Context of cross-attention for both branches.

        Args:
            image:
                Reference pictures.
            image_embeds (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
                Instead of what `image_encoder` would give.
            prompt_embeds (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
                Instead of what `text_encoder` would give.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: context of the conditional and of the unconditional branch, each
            `(B, tokens, C)`. Image tokens are zeros in the latter, text is the same in both.
        """
        device, dtype = self._execution_device, self.unet.dtype
        pictures = image_tensors(image)
        if prompt_embeds is None and image_embeds is None:
            if self.text_encoder is not None:
                tokens = self.tokenizer("", padding="max_length", return_tensors="pt").input_ids.to(device)
                prompt_embeds = self.text_encoder(tokens)[0]
            else:
                image_embeds = self._clip_embeds(pictures).image_embeds[:, None]
        embeds = image_embeds if prompt_embeds is None else prompt_embeds
        context = embeds.to(device, dtype).expand(len(pictures), -1, -1)
        check_finite("The embeddings of `image`", [context], self.components)
        return context, torch.zeros_like(context) if prompt_embeds is None else context

    def _clip_embeds(self, pictures: list[torch.Tensor]) -> Any:
        bytes_ = [(picture * 255).round().byte() for picture in pictures]
        pixels = self.feature_extractor(images=bytes_, return_tensors="pt").pixel_values
        return self.image_encoder(pixels.to(self._execution_device, self.image_encoder.dtype))

    @checks.python_numbers
    def prepare_timesteps(
        self, num_inference_steps: int, timesteps: list[int] | None = None, sigmas: list[float] | None = None
    ) -> torch.Tensor:
        """Set the scheduler's steps.

        The arguments are those of [`HIAPipeline.__call__`].

        Returns:
            `torch.Tensor`: the timesteps, on the host, where schedulers look at their values: on the device, each look
            would wait for it.
        """
        schedule = custom_schedule(self.scheduler, timesteps, sigmas)
        return retrieve_timesteps(self.scheduler, num_inference_steps, **schedule)[0]

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        """Of `generator` and `eta`, those that the scheduler's `step` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in accepted}

    @checks.python_numbers
    def prepare_conditioning_frames(self, conditioning_frames: Any, height: int, width: int) -> ConditioningClips:
        """Conditioning frames in one form.

        Args:
            conditioning_frames:
                In any form that [`HIAPipeline.__call__`] takes.
            height, width (`int`):
                The size to bring them to.

        Returns:
            [`~conditioning.clips.ConditioningClips`]: with the ControlNet's channels, read window by window.
        """
        clips = ConditioningClips.from_any(conditioning_frames, self.controlnet.config.conditioning_channels)
        warn_of_bars("conditioning_frames", clips.height, clips.width, height, width)
        return clips.resize(height, width)

    @checks.python_numbers
    def encode_reference_latents(self, image: Any, height: int, width: int) -> torch.Tensor:
        """Latents of the reference pictures, scaled as the VAE's configuration says.

        Args:
            image:
                Reference pictures, fitted into `height` x `width` with antialiasing.
            height, width (`int`):
                Size of the clip in pixels.

        Returns:
            `torch.Tensor` of shape `(B, C, h, w)`: float32.
        """
        pictures = torch.stack([fit_reference(picture, height, width) for picture in image_tensors(image)])
        latents = encode_pictures(self.vae, (2 * pictures - 1).to(self._execution_device))
        check_finite("The latents of `image`", [latents], self.components)
        return latents

    def prepare_conditions(
        self,
        encoder_hidden_states: tuple[torch.Tensor, torch.Tensor],
        reference_latents: torch.Tensor,
        conditioning_frames: ConditioningClips,
        image_embeds: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]] = ((), ()),
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> HIAConditions:
        """What the denoiser is given besides noisy latents. The reference is read here, once per clip, unless
        `reference_timestep` of the pipeline is `"current"`.

        Args:
            encoder_hidden_states (`tuple[torch.Tensor, torch.Tensor]`):
                From [`HIAPipeline.encode_image`], each of 1 or B entries.
            reference_latents (`torch.Tensor` of shape `(1 or B, C, h, w)`):
                From [`HIAPipeline.encode_reference_latents`].
            conditioning_frames ([`~conditioning.clips.ConditioningClips`]):
                From [`HIAPipeline.prepare_conditioning_frames`], B clips.
            image_embeds (`tuple`, *optional*):
                From [`HIAPipeline.prepare_ip_adapter_embeds`].
            cross_attention_kwargs (`dict`, *optional*):
                As of [`HIAPipeline.__call__`].
        """
        batch_size = len(conditioning_frames)
        states, null_states = (_repeat_to(states, batch_size) for states in encoder_hidden_states)
        conditions = HIAConditions(
            encoder_hidden_states=states,
            reference=reference_latents,
            conditioning_frames=ConditioningEmbeddings(
                lambda frames: conditioning_frames.read(frames).to(self.controlnet.dtype),
                conditioning_frames.num_frames,
            ),
            null_encoder_hidden_states=null_states,
            image_embeds=tuple(image_embeds[0]),
            null_image_embeds=tuple(image_embeds[1]),
            attention_kwargs=cross_attention_kwargs,
        )
        if self.config.reference_timestep == "current":
            return conditions
        conditions = HIADenoiser.of_pipeline(self).read_reference(conditions)
        if isinstance(conditions.reference, ReferenceFeatures):
            check_finite("The features of `image`", conditions.reference.features.values(), self.components)
        return conditions

    def prepare_latents(
        self,
        shape: tuple[int, ...],
        reference_latents: torch.Tensor,
        timestep: torch.Tensor,
        reference_noise: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        shared_noise: float = 0.0,
    ) -> torch.Tensor:
        """The noisy latents that denoising starts from.

        With `reference_noise`, the paper's initial reference noise (Sec. 3.4): the reference latents, diffused to the
        first timestep (999 with trailing spacing) by noise of their own for every frame.

        Args:
            shape (`tuple[int, ...]`):
                `(B, C, F, h, w)`.
            reference_latents (`torch.Tensor` of shape `(1 or B, C, h, w)`):
                From [`HIAPipeline.encode_reference_latents`].
            timestep (`torch.Tensor`):
                The first timestep.
            reference_noise (`bool`, *optional*, defaults to `True`):
                Whether to start from the diffused reference, or from pure noise.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Draws the noise, one for all clips or one per clip.
            latents (`torch.Tensor`, *optional*):
                Standard normal noise to use instead of drawing it, of that `shape`.
            shared_noise (`float`, *optional*, defaults to 0.0):
                Share of the noise's variance that all frames of a clip have in common, in [0, 1].
        """
        device, dtype = self._execution_device, self.unet.dtype
        noise = randn_tensor(shape, generator=generator, device=device, dtype=dtype) if latents is None else latents
        noise = noise.to(device, dtype)
        if shared_noise:
            shared = randn_tensor((*shape[:2], 1, *shape[3:]), generator=generator, device=device, dtype=dtype)
            noise = shared_noise**0.5 * shared + (1 - shared_noise) ** 0.5 * noise
        if reference_noise:
            clean = _repeat_to(reference_latents.to(device, dtype), shape[0])[:, :, None]
            initial = framewise_scheduling.add_noise(self.scheduler, clean, noise, timestep)
        else:
            initial = noise * self.scheduler.init_noise_sigma
        if self._window_group is not None:
            self._window_group.check_equal("generator", initial)
        return initial

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditions: HIAConditions,
        options: DenoisingOptions | None = None,
        extra_step_kwargs: Mapping[str, Any] | None = None,
        callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> torch.Tensor:
        """The denoising loop, over windows of frames at every step.

        Args:
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
                From [`HIAPipeline.prepare_latents`].
            timesteps (`torch.Tensor`):
                Of the scheduler, on the host.
            conditions ([`~models.denoiser.HIAConditions`]):
                From [`HIAPipeline.prepare_conditions`], of B clips.
            options ([`~pipeline_inputs.DenoisingOptions`], *optional*):
                Guidance, ControlNet, windows and reuse, with the defaults of [`HIAPipeline.__call__`].
            extra_step_kwargs (`Mapping`, *optional*):
                From [`HIAPipeline.prepare_extra_step_kwargs`].
            callback_on_step_end, callback_on_step_end_tensor_inputs:
                As of [`HIAPipeline.__call__`].

        Returns:
            `torch.Tensor` of shape `(B, C, F, h, w)`: clean latents.
        """
        options = options or DenoisingOptions()
        num_frames, num_steps = latents.shape[2], len(timesteps)
        options.check(num_frames, self.unet.config.motion_max_seq_length)
        tensor_inputs = callback_inputs(
            callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        denoiser, device_timesteps = HIADenoiser.of_pipeline(self), timesteps.to(latents.device)
        # Seeded, not drawn from the call's generator: a clip's offsets depend neither on its batch nor on the device.
        offsets = torch.Generator().manual_seed(0)
        self._guidance_scale, self._num_timesteps = options.guidance_scale, num_steps
        num_warmup_steps = num_steps - (num_steps // self.scheduler.order) * self.scheduler.order
        with (
            DeepCache(self.unet, options.deep_cache_interval) as cache,
            self.progress_bar(total=num_steps) as progress_bar,
        ):
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = t
                guidance_scale = options.guidance_at(i, num_steps, self.guidance_scale)
                control_scale = options.control_at(i, num_steps)
                seen = replace(denoiser.read_reference(conditions, device_timesteps[i]), control_scale=control_scale)
                cache.begin_step(guidance_scale, control_scale)
                if not cache.reuse:
                    windows = context_windows(
                        num_frames,
                        options.context_frames,
                        options.context_overlap,
                        shift=options.context_shift,
                        generator=offsets,
                    )

                # Predict the noise of each window, and average where windows overlap
                sample = self.scheduler.scale_model_input(latents, t)
                weights = frame_weights(windows, num_frames).to(latents)[:, None, None]
                noise_pred = torch.zeros_like(latents)
                own_windows = windows if self._window_group is None else self._window_group.share(windows)
                for first in range(0, len(own_windows), options.context_batch_size):
                    batch = own_windows[first : first + options.context_batch_size]
                    cache.begin_window(first)
                    predicted = denoiser.guided(
                        torch.cat([sample[:, :, window.start : window.stop] for window in batch]),
                        device_timesteps[i],
                        seen.window(*batch),
                        guidance_scale=guidance_scale,
                        batch_guidance=options.batch_guidance,
                        cache=cache,
                    )
                    for window, prediction in zip(batch, predicted.chunk(len(batch)), strict=True):
                        frames = slice(window.start, window.stop)
                        noise_pred[:, :, frames] += weights[frames] * prediction
                if self._window_group is not None:
                    self._window_group.sum_(noise_pred)

                # x_t -> x_t-1
                latents = framewise_scheduling.step(
                    self.scheduler, noise_pred, t, latents=latents, **(extra_step_kwargs or {})
                )
                if i == 0:  # sooner than at the end, and once, as the device is waited for
                    check_finite("The latents after the first step", [latents], self.components)

                if callback_on_step_end is not None:
                    tensors = {"latents": latents}
                    chosen = {name: tensors[name] for name in tensor_inputs}
                    latents = latents_of_callback(callback_on_step_end(self, i, t, chosen), latents)
                if i == num_steps - 1 or (i + 1 > num_warmup_steps and (i + 1) % self.scheduler.order == 0):
                    progress_bar.update()
        return latents

    @checks.python_numbers
    def decode_latents(self, latents: torch.Tensor, decode_chunk_size: int = 16) -> torch.Tensor:
        """Decode clips, some frames at a time.

        Args:
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
                Clean latents.
            decode_chunk_size (`int`, *optional*, defaults to 16):
                Frames that the VAE decodes at a time.

        Returns:
            `torch.Tensor` of shape `(B, 3, F, H, W)`: in [-1, 1], float32, on the host.
        """
        chunks = latents.transpose(1, 2).flatten(0, 1).split(decode_chunk_size)
        if self._window_group is None:
            decoded = torch.cat([decode_latents(self.vae, chunk).cpu() for chunk in chunks])
        else:
            decoded = self._window_group.map(lambda chunk: decode_latents(self.vae, chunk), chunks)
        check_finite("The frames", [decoded], self.components)
        return decoded.unflatten(0, (latents.shape[0], -1)).transpose(1, 2)

    @checks.python_numbers
    def decode(self, latents: torch.Tensor, output_type: str = "pil", decode_chunk_size: int = 16) -> Any:
        """Decode clips to the frames of a [`HIAPipelineOutput`].

        Args:
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
                Clean latents.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"`, or `"latent"` for `latents` as they are.
            decode_chunk_size (`int`, *optional*, defaults to 16):
                Frames that the VAE decodes at a time.
        """
        if output_type == "latent":
            check_finite("The latents", [latents], self.components)
            return latents
        video = self.decode_latents(latents, decode_chunk_size)
        return self.video_processor.postprocess_video(video, output_type=output_type)

    @checks.python_numbers
    def stream(
        self,
        image: Any,
        conditioning_frames: Any,
        output_type: Literal["pil", "np", "pt"] = "pil",
        decode_chunk_size: int = 16,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Animate one picture and hand out its frames one by one, so that a long video is written while it is decoded.

        Denoising is done when this returns: all frames of a clip become final in the last step. A thread decodes the
        next chunk of frames while those of the last one are handed out and, say, written. What grows with the length
        of the clip are its latents and the embeddings of its conditioning frames.

        Args:
            image, conditioning_frames:
                As for [`HIAPipeline.__call__`]; one clip.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"` or `"pt"`.
            decode_chunk_size (`int`, *optional*, defaults to 16):
                Frames that the VAE decodes at a time.
            kwargs:
                Further arguments of [`HIAPipeline.__call__`].

        Returns:
            `Iterator`: a `PIL.Image.Image`, an array `(H, W, 3)` or a tensor `(3, H, W)` per frame, the last two in
            [0, 1].

        Raises:
            ValueError, TypeError: If an argument cannot be used, there is more than one clip, or `output_type` is not
                one of those; before any model runs.
            RuntimeError: As of a call; of frames that are not finite, when they are decoded.
        """
        self._check_complete()
        checks.one_of("output_type", output_type, STREAM_TYPES)
        checks.integer("decode_chunk_size", decode_chunk_size)
        num_videos = checks.integer("num_videos_per_prompt", kwargs.get("num_videos_per_prompt", 1), 1, MAX_VIDEOS)
        clips = ConditioningClips.from_any(conditioning_frames, self.controlnet.config.conditioning_channels)
        num_clips = self.batch_size(image, clips, num_videos)
        if num_clips > 1:
            raise ValueError(f"`image` and `conditioning_frames` must be those of one clip, got {num_clips}.")
        latents = self(image, clips, output_type="latent", return_dict=True, **kwargs).frames
        return self._stream_frames(latents, output_type, decode_chunk_size)

    def _stream_frames(self, latents: torch.Tensor, output_type: str, decode_chunk_size: int) -> Iterator[Any]:
        num_processes = 1 if self._window_group is None else self._window_group.size

        @torch.no_grad()  # which each thread has for itself
        def decode(chunk: torch.Tensor) -> Any:
            with exclusive_use([self.vae]):
                return self.decode(chunk, output_type, decode_chunk_size)[0]

        chunks = latents.split(decode_chunk_size * num_processes, dim=2)
        ahead = ThreadPoolExecutor(1)
        try:
            decoding = ahead.submit(decode, chunks[0])
            for chunk in (*chunks[1:], None):
                if is_used_here(self.vae):
                    raise RuntimeError(USED_HERE)
                frames = decoding.result()
                if chunk is not None:
                    decoding = ahead.submit(decode, chunk)
                yield from frames
        finally:
            # A thread whose call uses the VAE must not wait for one that waits for the VAE.
            ahead.shutdown(wait=not is_used_here(self.vae), cancel_futures=True)
        self.maybe_free_model_hooks()

    # 3. The call

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        return self._cross_attention_kwargs

    @property
    def current_timestep(self) -> torch.Tensor | None:
        return self._current_timestep

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    @checks.python_numbers
    @one_call_at_a_time
    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: PIL.Image.Image | np.ndarray | torch.Tensor | list[Any],
        conditioning_frames: Conditioning | list[Conditioning],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.5,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
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
        deep_cache_interval: int = 1,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        decode_chunk_size: int = 16,
        callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  diffusers' signature
    ) -> HIAPipelineOutput | tuple[Any]:
        """Animate reference pictures.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                The reference picture, or a batch of them: arrays `(H, W, C)` or `(B, H, W, C)`, tensors `(C, H, W)` or
                `(B, C, H, W)`, in [0, 1] or uint8 or uint16, C from grey to RGB and alpha. Taken upright, in sRGB and
                on white, as [`~images.image_tensor`] says, and fitted into `height` x `width` whole: with bars in the
                colour of its border where the aspect differs, as the conditioning frames are with nothing beside them.
            conditioning_frames ([`MotionBlurCondition`], `list[PIL.Image.Image]` or `torch.Tensor`):
                The motion: a condition, pose maps as pictures, or a tensor `(F, C, H, W)` in [0, 1] with the
                ControlNet's channels; for a batch a list of those, or `(B, F, C, H, W)`. Pose maps of 3 channels are
                taken by a ControlNet of 6: the blur is then unknown. One picture with several motions, and several
                pictures with one motion, make a batch as well.
            height, width (`int`, *optional*):
                Of the video in pixels, multiples of the VAE's factor and at most 16384; by default those of
                `conditioning_frames`.
            num_inference_steps (`int`, *optional*, defaults to 25):
                Denoising steps, at most the timesteps of training.
            timesteps (`list[int]`, *optional*):
                Descending timesteps to use instead of the scheduler's spacing.
            sigmas (`list[float]`, *optional*):
                Descending sigmas to use instead, where the scheduler takes them. As diffusers has it, the last is
                where the last step of an `EulerDiscreteScheduler` ends, usually 0.
            guidance_scale (`float`, *optional*, defaults to 3.5):
                The weight of animation-CFG (Eq. 4): `uncond + guidance_scale * (cond - uncond)`, the unconditional
                branch with neither reference nor ControlNet. At most 1 runs no unconditional branch. In [0, 1000].
            guidance_interval (`tuple[float, float]`, *optional*, defaults to `(0.0, 1.0)`):
                Shares of the steps between which there is guidance (arXiv 2404.07724); the others run no unconditional
                branch.
            batch_guidance (`bool`, *optional*, defaults to `False`):
                Whether both branches are one call of the UNet. It takes more memory, and more operations, as the
                unconditional half carries the reference's tokens masked; quicker only where calls are what takes time.
            controlnet_conditioning_scale (`float`, *optional*, defaults to 1.0):
                Factor on the ControlNet's residuals, in [-1000, 1000].
            control_guidance_start (`float`, *optional*, defaults to 0.0):
                Share of the steps after which the ControlNet sets in.
            control_guidance_end (`float`, *optional*, defaults to 1.0):
                Share of the steps after which the ControlNet stops.
            reference_noise (`bool`, *optional*, defaults to `True`):
                Initial reference noise (Sec. 3.4); `False` starts from pure noise.
            shared_noise (`float`, *optional*, defaults to 0.0):
                Share of the initial noise's variance that all frames of a clip have in common, in [0, 1] (the mixed
                noise of arXiv 2305.10474). Still parts of the image change less from frame to frame with it.
            context_frames (`int`, *optional*, defaults to 16):
                Frames of a window. Longer clips are denoised window by window.
            context_overlap (`int`, *optional*, defaults to 4):
                Frames that neighbouring windows share and average.
            context_shift (`bool`, *optional*, defaults to `True`):
                Prompt travelling (Sec. 3.4): shift the windows by a random offset at each step. The offsets come from
                a fixed seed of their own.
            context_batch_size (`int`, *optional*, defaults to 1):
                Windows that are denoised at a time. More take more memory.
            deep_cache_interval (`int`, *optional*, defaults to 1):
                Steps of which one is computed whole ([`~models.deep_cache.DeepCache`]): in the others the ControlNet
                and all but the outermost blocks of the UNet give what they gave, and windows stay where they are.
            num_videos_per_prompt (`int`, *optional*, defaults to 1):
                Videos per picture and motion, at most 1024.
            eta (`float`, *optional*, defaults to 0.0):
                Of DDIM, in [0, 1]; other schedulers ignore it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Draws all noise. With one per clip, a clip does not depend on its batch.
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`, *optional*):
                Standard normal noise to start from instead of drawing it.
            image_embeds (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
                Context instead of that of `image_encoder`.
            prompt_embeds (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
                Context instead of that of `text_encoder`, used in both branches.
            ip_adapter_image (*optional*):
                A picture, or a list with one per loaded IP-Adapter, or with a list of pictures each.
            ip_adapter_image_embeds (`list[torch.Tensor]`, *optional*):
                Embeddings instead of `ip_adapter_image`, per adapter `(1 or B, pictures, ...)`. With guidance twice as
                many, those of the unconditional branch first, as
                [`HIAPipeline.prepare_ip_adapter_image_embeds`] gives them.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`HIAPipelineOutput`] instead of a tuple.
            cross_attention_kwargs (`dict`, *optional*):
                For the UNet's attention, such as `{"scale": 0.5}` for LoRA; nothing that it would not read.
            decode_chunk_size (`int`, *optional*, defaults to 16):
                Frames that the VAE decodes at a time.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": ...})` after each step; may return new latents of
                the same shape as `{"latents": ...}`.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`):
                Which tensors `callback_on_step_end` is given.

        Returns:
            [`HIAPipelineOutput`] or `tuple`.

        Raises:
            ValueError, TypeError: If an argument cannot be used, before any model runs, or what a callback returns.
            RuntimeError: If the result is not finite, or the call is made inside another of the same components.

        Examples:
        """
        # 1. Check inputs
        self._check_complete()
        checks.flag("return_dict", return_dict)
        pictures = image_tensors(image)
        clips = ConditioningClips.from_any(conditioning_frames, self.controlnet.config.conditioning_channels)
        self.check_inputs(
            pictures,
            clips,
            height,
            width,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            batch_guidance=batch_guidance,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            reference_noise=reference_noise,
            shared_noise=shared_noise,
            context_frames=context_frames,
            context_overlap=context_overlap,
            context_shift=context_shift,
            context_batch_size=context_batch_size,
            deep_cache_interval=deep_cache_interval,
            num_videos_per_prompt=num_videos_per_prompt,
            eta=eta,
            generator=generator,
            latents=latents,
            image_embeds=image_embeds,
            prompt_embeds=prompt_embeds,
            ip_adapter_image=ip_adapter_image,
            ip_adapter_image_embeds=ip_adapter_image_embeds,
            output_type=output_type,
            cross_attention_kwargs=cross_attention_kwargs,
            decode_chunk_size=decode_chunk_size,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        self._interrupt, self._cross_attention_kwargs = False, cross_attention_kwargs
        step_times = self.prepare_timesteps(num_inference_steps, timesteps, sigmas)

        # 2. What cross-attention reads
        encoder_hidden_states = self.encode_image(pictures, image_embeds, prompt_embeds)

        # 3. Conditioning frames
        height, width = height or clips.height, width or clips.width
        batch_size = self.batch_size(pictures, clips, num_videos_per_prompt)
        clips = self.prepare_conditioning_frames(clips, height, width).repeat_to(batch_size)

        # 4. Reference
        reference_latents = self.encode_reference_latents(pictures, height, width)
        conditions = self.prepare_conditions(
            encoder_hidden_states,
            reference_latents,
            clips,
            image_embeds=self.prepare_ip_adapter_embeds(
                ip_adapter_image, ip_adapter_image_embeds, batch_size, guidance_scale > 1
            ),
            cross_attention_kwargs=cross_attention_kwargs,
        )

        # 5. Denoise. The initial latents have no name here, which would keep them in memory to the end.
        clean = self.denoise(
            self.prepare_latents(
                (batch_size, self.unet.config.in_channels, clips.num_frames, *reference_latents.shape[-2:]),
                reference_latents,
                step_times[0],
                reference_noise=reference_noise,
                shared_noise=shared_noise,
                generator=generator,
                latents=latents,
            ),
            step_times,
            conditions,
            options=DenoisingOptions(
                guidance_scale=guidance_scale,
                guidance_interval=guidance_interval,
                batch_guidance=batch_guidance,
                controlnet_conditioning_scale=controlnet_conditioning_scale,
                control_guidance_start=control_guidance_start,
                control_guidance_end=control_guidance_end,
                context_frames=context_frames,
                context_overlap=context_overlap,
                context_shift=context_shift,
                context_batch_size=context_batch_size,
                deep_cache_interval=deep_cache_interval,
            ),
            extra_step_kwargs=self.prepare_extra_step_kwargs(generator, eta),
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )

        # 6. Decode
        frames = self.decode(clean, output_type, decode_chunk_size)
        self.maybe_free_model_hooks()
        return HIAPipelineOutput(frames=frames) if return_dict else (frames,)


def _check_xformers() -> None:
    try:
        from xformers import _cpp_lib
    except ImportError:
        return  # diffusers says how to install it
    error = _cpp_lib._cpp_library_load_exception
    if error is not None:
        raise RuntimeError(f"xformers cannot be used and attention stays on torch's SDPA: {error}") from error


def _repeat_to(entries: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Repeat each entry of a batch so that there are `batch_size`, repetitions of one entry side by side."""
    if len(entries) == batch_size:
        return entries
    return entries.repeat_interleave(batch_size // len(entries), dim=0)
