# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The HIA pipeline: it turns a reference image and conditioning frames into a video (paper Sec. 3.4)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel, UNetMotionModel
from diffusers.guiders import BaseGuidance
from diffusers.image_processor import PipelineImageInput
from diffusers.utils import replace_example_docstring
from diffusers.video_processor import VideoProcessor
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from .. import checks
from ..conditioning.conditioning_clips import ConditioningClips
from ..conditioning.motion_blur_condition import MotionBlurCondition
from ..exclusive_use import one_call_at_a_time
from ..finite_results import check_finite
from ..loaders.ip_adapter import HIAIPAdapterMixin, prepare_ip_adapter_embeds
from ..loaders.lora import HIALoraLoaderMixin
from ..models.appearance_encoder import HIAAppearanceEncoder
from ..models.autoencoder import Autoencoder, vae_scale_factor
from ..models.component_fit import COMPONENTS, check_components
from ..models.controlnet import HIAControlNetModel
from ..models.denoiser import HIAConditions, HIADenoiser
from ..models.modeling_hia import copy_out_of_mapped_file
from ..models.pose_guider import HIAPoseGuider
from ..models.unet_motion import HIAUNetMotionModel
from . import call_defaults as defaults
from . import call_stages as stages
from . import framewise_scheduling, guidance, inputs
from .clean_estimate import clean_estimate
from .denoising import WindowSchedule, predict_noise
from .execution_device import ExecutionDeviceMixin, on_one_device
from .inputs import DenoisingOptions, ReferenceImages
from .pipeline_folder import PipelineFolderMixin
from .pipeline_output import HIAPipelineOutput
from .pipeline_switches import PipelineSwitchesMixin
from .streaming import stream_frames
from .window_parallelism import WindowParallelismMixin


Conditioning = MotionBlurCondition | list[PIL.Image.Image] | torch.Tensor

EXAMPLE_DOC_STRING = """
        Examples:

        ```py
        >>> import torch
        >>> from diffusers.utils import load_image
        >>> from hia_diffusers import HIAPipeline, MotionBlurConditioner, WholeBodyKeypoints
        >>> from hia_diffusers.video.writing import write_video

        >>> pipe = HIAPipeline.from_pretrained("path/to/hia", dtype=torch.float16).to("cuda")
        >>> keypoints = WholeBodyKeypoints.load("dance.safetensors").fit(height=896, width=512)
        >>> condition = MotionBlurConditioner()(keypoints, sharpness=0.8)
        >>> frames = pipe(load_image("person.png"), condition, generator=torch.Generator().manual_seed(0)).frames[0]
        >>> write_video("out.mp4", frames, fps=keypoints.fps)
        ```
"""


class HIAPipeline(
    PipelineFolderMixin,
    PipelineSwitchesMixin,
    ExecutionDeviceMixin,
    WindowParallelismMixin,
    HIALoraLoaderMixin,
    HIAIPAdapterMixin,
):
    """Animates reference images with the motion of conditioning frames.

    The input of cross-attention has one of two sources: the projected token of `image_encoder` (zeros in the
    unconditional branch), or the empty prompt of `text_encoder` (the same in both branches, as the weights of
    MagicAnimate need it). If the pipeline has neither, pass `image_embeds` or `prompt_embeds` to the call.

    Args:
        vae (`AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`):
            Encodes the reference image and decodes the frames.
        image_encoder (`CLIPVisionModelWithProjection` or `None`):
            CLIP vision model for the token of cross-attention.
        unet ([`HIAUNetMotionModel`]):
            Denoises clips. A `UNet2DConditionModel` or `UNetMotionModel` is converted.
        appearance_encoder ([`HIAAppearanceEncoder`]):
            Encodes the reference image, once per clip.
        controlnet ([`HIAControlNetModel`] or [`HIAPoseGuider`]):
            Encodes the conditioning frames.
        scheduler (`SchedulerMixin`):
            [`ShiftedSNRScheduler`], or a scheduler of diffusers created from its configuration with `from_config`.
        feature_extractor (`CLIPImageProcessor`, *optional*):
            Prepares images for `image_encoder`.
        text_encoder (`CLIPTextModel`, *optional*):
            Encodes the empty prompt.
        tokenizer (`CLIPTokenizer`, *optional*):
            Tokenizer of `text_encoder`.
        reference_timestep (`"zero"` or `"current"`, *optional*, defaults to `"zero"`):
            The timestep at which the appearance encoder runs: 0, once per clip, or the current one, in every step (for
            the weights of MagicAnimate).
        unconditional_controlnet (`bool`, *optional*, defaults to `False`):
            Whether the outputs of the ControlNet are also used in the unconditional branch of guidance (for the
            weights of MagicAnimate and Moore-AnimateAnyone).
        ip_adapter_image_encoder (`CLIPVisionModelWithProjection`, *optional*):
            CLIP vision model of IP-Adapters, whose width may differ from that of cross-attention.
        call_defaults (`dict[str, Any]`, *optional*):
            Default arguments of a call that suit the weights, such as `{"num_inference_steps": 30}`.

    Raises:
        TypeError: If a component has an unsupported class.
        ValueError: If two components do not fit each other.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->appearance_encoder->ip_adapter_image_encoder->unet->vae"
    _optional_components = [
        *("image_encoder", "feature_extractor", "text_encoder", "tokenizer", "ip_adapter_image_encoder"),
    ]
    _callback_tensor_inputs = list(inputs.CALLBACK_TENSORS)

    def __init__(
        self,
        vae: Autoencoder,
        image_encoder: CLIPVisionModelWithProjection | None,
        unet: HIAUNetMotionModel | UNetMotionModel | UNet2DConditionModel,
        appearance_encoder: HIAAppearanceEncoder,
        controlnet: HIAControlNetModel | HIAPoseGuider,
        scheduler: SchedulerMixin,
        feature_extractor: CLIPImageProcessor | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        reference_timestep: str = "zero",
        unconditional_controlnet: bool = False,
        ip_adapter_image_encoder: CLIPVisionModelWithProjection | None = None,
        call_defaults: dict[str, Any] | None = None,
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
            reference_timestep=reference_timestep,
            unconditional_controlnet=unconditional_controlnet,
            call_defaults=defaults.check_call_defaults(call_defaults),
        )
        self._interrupt = False
        self.vae_scale_factor = vae_scale_factor(vae) if vae is not None else 8
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    def register_modules(self, **kwargs: Any) -> None:
        """Replace components, as [`~diffusers.DiffusionPipeline.register_modules`] does.

        Args:
            kwargs:
                Components by name, or None.

        Raises:
            TypeError, ValueError: If a component does not fit the others. Nothing is changed.
        """
        check_components({**{name: getattr(self, name, None) for name in COMPONENTS}, **kwargs})
        super().register_modules(**kwargs)

    # 1. The stages before denoising

    check_inputs = inputs.check_inputs
    encode_image = stages.encode_image
    prepare_conditioning_frames = stages.prepare_conditioning_frames
    encode_reference_latents = stages.encode_reference_latents
    prepare_conditions = stages.prepare_conditions
    prepare_timesteps = stages.prepare_timesteps
    prepare_extra_step_kwargs = stages.prepare_extra_step_kwargs
    prepare_latents = stages.prepare_latents

    # 2. Denoising

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
        """Run the denoising loop, over windows of frames in every step.

        Args:
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
                Result of [`HIAPipeline.prepare_latents`].
            timesteps (`torch.Tensor`):
                Timesteps of the scheduler, on the CPU.
            conditions ([`~models.denoiser.HIAConditions`]):
                Result of [`HIAPipeline.prepare_conditions`], for B clips.
            options ([`~pipelines.inputs.DenoisingOptions`], *optional*):
                Options of guidance, ControlNet and windows, with the defaults of [`HIAPipeline.__call__`].
            extra_step_kwargs (`Mapping`, *optional*):
                Result of [`HIAPipeline.prepare_extra_step_kwargs`].
            callback_on_step_end, callback_on_step_end_tensor_inputs (*optional*):
                As in [`HIAPipeline.__call__`].

        Returns:
            `torch.Tensor` of shape `(B, C, F, h, w)`: Clean latents.
        """
        options = options or DenoisingOptions()
        num_frames, num_steps = latents.shape[2], len(timesteps)
        options.check(num_frames, self.unet.config.motion_max_seq_length)
        tensor_inputs = inputs.callback_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        denoiser, device_timesteps = HIADenoiser.of_pipeline(self), timesteps.to(latents.device)
        guider, schedule = options.make_guider(), WindowSchedule(denoiser, num_frames, options)
        self._guidance_scale, self._num_timesteps = guider.guidance_scale, num_steps
        num_warmup_steps = num_steps - (num_steps // self.scheduler.order) * self.scheduler.order
        with denoiser.caching(), self.progress_bar(total=num_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = t
                if self.guidance_scale != guider.guidance_scale:  # a callback has changed it
                    guider = guidance.with_scale(guider, self.guidance_scale)
                guider.set_state(step=i, num_inference_steps=num_steps, timestep=t)
                control_scale = options.control_at(i, num_steps)
                seen = replace(denoiser.read_reference(conditions, device_timesteps[i]), control_scale=control_scale)
                sample = self.scheduler.scale_model_input(latents, t)
                noise_pred = predict_noise(
                    denoiser,
                    guider,
                    sample,
                    timestep=device_timesteps[i],
                    conditions=seen,
                    windows=schedule.next(guider.num_conditions, guider.guidance_scale, control_scale),
                    options=options,
                    window_group=self._window_group,
                )

                tensors = {}
                if "pred_original_sample" in tensor_inputs:  # before the prediction is overwritten
                    tensors["pred_original_sample"] = clean_estimate(self.scheduler, sample, noise_pred, t)

                # x_t -> x_t-1
                latents = framewise_scheduling.step(
                    self.scheduler, noise_pred, t, latents=latents, **(extra_step_kwargs or {})
                )
                if i == 0:  # early, but in one step only, since it synchronizes with the device
                    check_finite("The latents after the first step", [latents], self.components)

                if callback_on_step_end is not None:
                    tensors["latents"] = latents
                    chosen = {name: tensors[name] for name in tensor_inputs}
                    latents = inputs.latents_of_callback(callback_on_step_end(self, i, t, chosen), latents)
                if i == num_steps - 1 or (i + 1 > num_warmup_steps and (i + 1) % self.scheduler.order == 0):
                    progress_bar.update()
        return latents

    # 3. Decoding

    decode_latents = stages.decode_latents
    decode = stages.decode
    _default_chunk_size = staticmethod(stages.default_chunk_size)
    call_default = defaults.call_default

    # 4. The call

    @checks.python_numbers
    @defaults.with_call_defaults
    def stream(
        self,
        image: object,
        conditioning_frames: object,
        output_type: Literal["pil", "np", "pt"] = "pil",
        decode_chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Animate one image and return the frames one by one, so that a long video is written while it is decoded.

        All denoising is done when this method returns, since all frames of a clip are finished in the last step. A
        thread decodes the next chunk of frames while you use those of the last one. Only the latents and the
        embeddings of the conditioning frames need memory in proportion to the length of the clip.

        Args:
            image, conditioning_frames:
                As in [`HIAPipeline.__call__`], for one clip.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"` or `"pt"`.
            decode_chunk_size (`int`, *optional*):
                Number of frames that the VAE decodes at a time: by default 2 on a CPU, and 16 on other devices.
            kwargs:
                Other arguments of [`HIAPipeline.__call__`].

        Returns:
            `Iterator`: For each frame, a `PIL.Image.Image`, an array `(H, W, 3)` or a tensor `(3, H, W)`; the last two
                are in [0, 1].

        Raises:
            ValueError, TypeError: If an argument cannot be used or there is more than one clip, before any model runs.
            RuntimeError: As in [`HIAPipeline.__call__`]; if frames are not finite, when they are decoded.
        """
        inputs.check_complete(self)
        checks.one_of("output_type", output_type, inputs.STREAM_TYPES)
        if decode_chunk_size is not None:
            checks.integer("decode_chunk_size", decode_chunk_size)
        images = ReferenceImages.from_any(image)
        clips = ConditioningClips.from_any(conditioning_frames, self.controlnet.config.conditioning_channels)
        num_clips = inputs.count_clips(images, clips, kwargs.get("num_videos_per_prompt", 1))
        if num_clips > 1:
            raise ValueError(f"`image` and `conditioning_frames` must be those of one clip, got {num_clips}.")
        latents = self(images, clips, output_type="latent", return_dict=True, **kwargs).frames
        return stream_frames(self, latents, output_type, decode_chunk_size=decode_chunk_size)

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the current call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the current call runs the unconditional branch."""
        return self._guidance_scale > 1

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """The argument `cross_attention_kwargs` of the current call."""
        return self._cross_attention_kwargs

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """The timestep of the current step, or None outside the denoising loop."""
        return self._current_timestep

    @property
    def num_timesteps(self) -> int:
        """The number of timesteps of the current call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether denoising stops before the next step."""
        return self._interrupt

    @checks.python_numbers
    @defaults.with_call_defaults
    @one_call_at_a_time
    @on_one_device
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
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        decode_chunk_size: int | None = None,
        callback_on_step_end: Callable[..., Mapping[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  diffusers' signature
    ) -> HIAPipelineOutput | tuple[Any]:
        """Animate reference images. Missing arguments are those in `call_defaults`, or else as below.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                The reference image, or a batch of images: arrays `(H, W, C)` or `(B, H, W, C)`, or tensors `(C, H, W)`
                or `(B, C, H, W)`, in [0, 1], uint8 or uint16, from greyscale to RGB with alpha. Images are converted
                as [`~images.image_tensor`] describes: upright, in sRGB and on white. An image of another aspect ratio
                is fitted into `height` x `width` whole, with bars in the colour of its border; conditioning frames get
                empty bars.
            conditioning_frames ([`MotionBlurCondition`], `list[PIL.Image.Image]` or `torch.Tensor`):
                The motion: a condition, pose maps as images, or a tensor `(F, C, H, W)` in [0, 1] with the
                ControlNet's channels; for a batch, a list of these, or `(B, F, C, H, W)`. A ControlNet with 6 channels
                accepts pose maps with 3; the blur is then unknown. You can also combine one image with several
                motions, or several images with one motion.
            height, width (`int`, *optional*):
                Size of the video in pixels: multiples of the VAE's factor, at most 16384; by default the size of
                `conditioning_frames`.
            num_inference_steps (`int`, *optional*, defaults to 25):
                Number of denoising steps, at most the number of training timesteps.
            timesteps (`list[int]`, *optional*):
                Descending timesteps to use instead of the scheduler's spacing.
            sigmas (`list[float]`, *optional*):
                Descending sigmas to use instead, if the scheduler supports them. As in diffusers, the last one is that
                at which the last step of an `EulerDiscreteScheduler` ends, usually 0.
            guidance_scale (`float`, *optional*, defaults to 3.5):
                Weight of animation-CFG (Eq. 4), in [0, 1000]: `uncond + guidance_scale * (cond - uncond)`, where the
                unconditional branch has neither reference nor ControlNet. Values up to 1 disable the unconditional
                branch.
            guider ([`~diffusers.guiders.BaseGuidance`], *optional*):
                A guider of diffusers with its own `guidance_scale`, used instead of animation-CFG. For example,
                `ClassifierFreeGuidance(guidance_scale=3.5, start=0.25, stop=0.75)` runs the unconditional branch in
                half of the steps (arXiv 2404.07724).
            batch_guidance (`bool`, *optional*, defaults to `False`):
                Whether both branches run in one call of the UNet. This needs more memory and more operations, since
                the unconditional half contains the masked tokens of the reference. It is faster only if the overhead
                of calls dominates.
            controlnet_conditioning_scale (`float`, *optional*, defaults to 1.0):
                Factor by which the ControlNet's residuals are multiplied, in [-1000, 1000].
            control_guidance_start (`float`, *optional*, defaults to 0.0):
                Fraction of the steps after which the ControlNet starts.
            control_guidance_end (`float`, *optional*, defaults to 1.0):
                Fraction of the steps after which the ControlNet stops.
            reference_noise (`bool`, *optional*, defaults to `True`):
                Whether to start from initial reference noise (Sec. 3.4) instead of pure noise.
            shared_noise (`float`, *optional*, defaults to 0.0):
                Fraction of the noise that all frames share, in [0, 1] (arXiv 2305.10474). It makes static parts
                steadier.
            context_frames (`int`, *optional*, defaults to 16):
                Number of frames per window. Longer clips are denoised window by window.
            context_overlap (`int`, *optional*, defaults to 4):
                Number of frames that adjacent windows share, in which their predictions are averaged.
            context_shift (`bool`, *optional*, defaults to `True`):
                Whether to shift the windows in each step, by random offsets with a fixed seed (prompt travelling, Sec.
                3.4).
            context_batch_size (`int`, *optional*, defaults to 1):
                Number of windows that are denoised at a time. Larger values need more memory.
            num_videos_per_prompt (`int`, *optional*, defaults to 1):
                Number of videos per image and motion, at most 1024.
            eta (`float`, *optional*, defaults to 0.0):
                Parameter of DDIM, in [0, 1]; other schedulers ignore it.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Generator of all noise. With one per clip, a clip does not depend on its batch.
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`, *optional*):
                Standard normal noise to start from, used instead of generating it.
            image_embeds (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
                Replaces the output of `image_encoder`.
            prompt_embeds (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
                Replaces the output of `text_encoder` in both branches.
            ip_adapter_image (*optional*):
                An image, or a list with one image, or one list of images, per loaded IP-Adapter.
            ip_adapter_image_embeds (`list[torch.Tensor]`, *optional*):
                Embeddings `(1 or B, images, ...)` per adapter, used instead of `ip_adapter_image`. With guidance,
                those of the unconditional branch come first, as returned by
                [`HIAPipeline.prepare_ip_adapter_image_embeds`].
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`HIAPipelineOutput`] instead of a tuple.
            cross_attention_kwargs (`dict`, *optional*):
                Arguments of the UNet's attention, such as `{"scale": 0.5}` for LoRA. Unknown arguments are refused.
            decode_chunk_size (`int`, *optional*):
                Number of frames that the VAE decodes at a time: by default 2 on a CPU, and 16 on other devices.
            callback_on_step_end (`Callable`, *optional*):
                Called as `callback(pipe, step, timestep, {"latents": ...})` after each step; it may return new latents
                of the same shape as `{"latents": ...}`.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`):
                Names of the tensors that are passed to `callback_on_step_end`: `"latents"` and
                `"pred_original_sample"`, the clean latents that the step predicts. [`PreviewCallback`] decodes these.

        Returns:
            [`HIAPipelineOutput`] or `tuple`.

        Raises:
            ValueError, TypeError: If an argument cannot be used, before any model runs; or if a callback returns
                something that cannot.
            RuntimeError: If the result is not finite, or the call is made within another call of the same components.

        Examples:
        """  # noqa: D414  diffusers fills in the example
        # 1. Check inputs
        inputs.check_complete(self)
        checks.flag("return_dict", return_dict)
        images = ReferenceImages.from_any(image)
        clips = ConditioningClips.from_any(conditioning_frames, self.controlnet.config.conditioning_channels)
        self.check_inputs(
            images,
            clips,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            guider=guider,
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
        self._interrupt, self._cross_attention_kwargs = False, cross_attention_kwargs
        step_times = self.prepare_timesteps(num_inference_steps, timesteps, sigmas)

        # 2. Input of cross-attention
        encoder_hidden_states = self.encode_image(images, image_embeds, prompt_embeds)

        # 3. Conditioning frames
        height, width = height or clips.height, width or clips.width
        batch_size = inputs.count_clips(images, clips, num_videos_per_prompt)
        clips = self.prepare_conditioning_frames(clips, height, width).repeat_to(batch_size)

        # 4. Reference
        reference_latents = self.encode_reference_latents(images, height, width)
        conditions = self.prepare_conditions(
            encoder_hidden_states,
            reference_latents,
            clips,
            image_embeds=prepare_ip_adapter_embeds(
                self,
                ip_adapter_image,
                ip_adapter_image_embeds,
                batch_size=batch_size,
                do_classifier_free_guidance=guidance.has_unconditional_branch(options.make_guider()),
            ),
            cross_attention_kwargs=cross_attention_kwargs,
        )

        # 5. Denoise. No variable refers to the initial latents, which would keep them in memory.
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
            options=options,
            extra_step_kwargs=self.prepare_extra_step_kwargs(generator, eta),
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )

        # 6. Decode
        frames = self.decode(clean, output_type, decode_chunk_size)
        self.maybe_free_model_hooks()
        return HIAPipelineOutput(frames=frames) if return_dict else (frames,)
