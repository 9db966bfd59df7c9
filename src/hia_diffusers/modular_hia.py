# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""HIA as modular blocks of diffusers: the stages of [`HIAPipeline`], which can be used, left out and replaced singly.

A block takes its values from the state, and computes with the stage of [`HIAPipeline`] that does the same in a call.
"""

import inspect
import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ModularPipeline, ModularPipelineBlocks, SequentialPipelineBlocks
from diffusers.configuration_utils import FrozenDict
from diffusers.modular_pipelines.modular_pipeline import BlockState, PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, ConfigSpec, InputParam, OutputParam
from diffusers.video_processor import VideoProcessor
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from . import checks
from .animation.animator import HIAAnimator
from .conditioning.conditioning_clips import ConditioningClips
from .exclusive_use import one_call_at_a_time
from .models.appearance_encoder import HIAAppearanceEncoder
from .models.attachments import check_no_attachments
from .models.controlnet import HIAControlNetModel
from .models.denoiser import HIAConditions
from .models.modeling_hia import check_finite_weights, copy_out_of_mapped_file
from .models.unet_motion import HIAUNetMotionModel
from .pipelines import call_stages as stages
from .pipelines import inputs
from .pipelines.call_defaults import CALL_DEFAULTS, defaults_beside
from .pipelines.inputs import DenoisingOptions, ReferenceImages
from .pipelines.pipeline_folder import check_component, check_index, check_modular_index
from .pipelines.pipeline_hia import HIAPipeline
from .schedulers.scheduling_shifted_snr import ShiftedSNRScheduler


COMPONENTS = {
    "vae": AutoencoderKL,
    "image_encoder": CLIPVisionModelWithProjection,
    "unet": HIAUNetMotionModel,
    "appearance_encoder": HIAAppearanceEncoder,
    "controlnet": HIAControlNetModel,
    "scheduler": ShiftedSNRScheduler,
    "feature_extractor": CLIPImageProcessor,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "ip_adapter_image_encoder": CLIPVisionModelWithProjection,
}
# Arguments of HIAPipeline that are no components.
CONFIGS = ("reference_timestep", "unconditional_controlnet", "call_defaults")

# What a saved folder holds as code: nothing of its own.
BLOCKS_FILE = "modular_hia.py"
BLOCKS_CODE = """# The blocks are those of the installed package: pip install hia-diffusers
from hia_diffusers import HIABlocks
"""


def pipeline_of(components: ModularPipeline) -> HIAPipeline:
    """The pipeline of the components that a modular pipeline holds, for what is no stage of its own."""
    arguments: dict[str, Any] = {name: getattr(components, name, None) for name in COMPONENTS}
    return HIAPipeline(**arguments, **{name: components.config[name] for name in CONFIGS})


def described_inputs(function: Callable[..., Any]) -> dict[str, InputParam]:
    """The arguments of a function as inputs of blocks, with what its docstring says of each."""
    docstring = inspect.cleandoc(function.__doc__ or "") + "\n"
    descriptions = {
        name: " ".join(text.split())
        for names, text in re.findall(r"^    ([\w, ]+)(?: \(.*\))?:\n((?:        .*\n|\n)+)", docstring, re.MULTILINE)
        for name in names.split(", ")
    }
    inputs = {}
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        inputs[name] = InputParam(name, parameter.annotation, default, required, descriptions.get(name, ""))
    return inputs


def shared_options(function: Callable[..., Any]) -> tuple[str, ...]:
    """The optional arguments of a stage that are arguments of a call as well."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.name in CALL_INPUTS and parameter.default is not parameter.empty
    )


CALL_INPUTS = described_inputs(HIAPipeline.__call__)
INPUTS = described_inputs(HIAAnimator.prepare) | CALL_INPUTS
INPUTS["conditioning_frames"].required = INPUTS["driving"].required = False  # one of them

# What blocks hand on to those after them.
INTERMEDIATES = {
    "fps": (float, "Frames per second of the driving clip."),
    "conditioning_clips": (ConditioningClips, "The conditioning frames of B clips, in the size of the video."),
    "batch_size": (int, "B, the clips to make."),
    "encoder_hidden_states": (tuple, "What cross-attention reads in both branches, each `(1 or B, tokens, C)`."),
    "reference_latents": (torch.Tensor, "Latents of the reference pictures, `(1 or B, C, h, w)`."),
    "conditions": (HIAConditions, "What the denoiser is given for B clips besides their latents."),
    "step_times": (torch.Tensor, "The scheduler's timesteps."),
    "initial_latents": (torch.Tensor, "The noisy latents that denoising starts from, `(B, C, F, h, w)`."),
    "clean_latents": (torch.Tensor, "The latents of the video, `(B, C, F, h, w)`."),
    "frames": (list, "A batch of clips, in the form that `output_type` says."),
}


for name in CALL_DEFAULTS:
    INPUTS[name].default = None  # what the configuration's `call_defaults` say is not known yet


def wanted_value(components: ModularPipeline, values: BlockState, name: str) -> Any:
    """What an input that is left out is: that of `call_defaults`, or else of the pipeline's signature."""
    defaults = defaults_beside(components.config.get("call_defaults") or {}, getattr(values, "latents", None))
    return defaults.get(name, inspect.signature(HIAPipeline.__call__).parameters[name].default)


class HIAStep(ModularPipelineBlocks):
    """A block that is described by the names of the components it uses, the values it takes, and those it gives."""

    model_name = "hia"
    uses: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        return inspect.cleandoc(type(self).__doc__ or "")

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec(name, COMPONENTS[name]) for name in self.uses]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        parameters = inspect.signature(HIAPipeline).parameters
        return [ConfigSpec(name, parameters[name].default) for name in CONFIGS]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            INPUTS.get(name) or InputParam(name, INTERMEDIATES[name][0], None, True, INTERMEDIATES[name][1])
            for name in self.takes
        ]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam(name, *INTERMEDIATES[name]) for name in self.gives]

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        for name in self.uses:
            if getattr(components, name) is None and name not in HIAPipeline._optional_components:
                raise ValueError(f"`{name}` is missing: call `load_components` or `update_components` first.")
        values = self.get_block_state(state)
        for name in self.takes:
            if name in CALL_DEFAULTS and getattr(values, name) is None:
                setattr(values, name, wanted_value(components, values, name))
        self.run(components, values)
        self.set_block_state(state, values)
        return components, state

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        """Compute what the block gives.

        Args:
            components (`ModularPipeline`):
                Has them as attributes.
            values (`BlockState`):
                What the block takes, by name. What it gives is set on it, and may also replace what it takes.
        """
        raise NotImplementedError


class HIADrivingStep(HIAStep):
    """Where there is a driving clip, makes the conditioning frames of it, and fits the picture to them."""

    options = (
        *("driving", "driving_type", "driving_fps", "driving_size", "max_frames", "person", "retarget"),
        *("image_keypoints", "sharpness"),
    )
    takes = ("image", "conditioning_frames", *options, "height", "width")
    gives = ("fps",)

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        values.fps = None
        if values.driving is None:
            return
        if values.conditioning_frames is not None:
            raise ValueError("Give `conditioning_frames` or `driving`, not both.")
        arguments = {name: values[name] for name in self.options}
        animation = HIAAnimator().prepare(values.image, height=values.height, width=values.width, **arguments)
        values.image, values.conditioning_frames, values.fps = animation.image, animation.condition, animation.fps


class HIAInputStep(HIAStep):
    """Checks all inputs, before any network runs, and brings the conditioning frames into one form."""

    uses = tuple(COMPONENTS)
    options = shared_options(HIAPipeline.check_inputs)
    takes = ("image", "conditioning_frames", "height", "width", *options)
    gives = ("conditioning_clips", "batch_size")

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        if values.conditioning_frames is None:
            raise ValueError("`conditioning_frames` must be given, or a `driving` clip to make them of.")
        inputs.check_complete(components)
        frames, channels = values.conditioning_frames, components.controlnet.config.conditioning_channels
        clips = ConditioningClips.from_any(frames, channels)
        values.image = ReferenceImages.from_any(values.image)
        arguments = {name: values[name] for name in ("height", "width", *self.options)}
        pipeline_of(components).check_inputs(values.image, clips, **arguments)
        values.height, values.width = values.height or clips.height, values.width or clips.width
        values.batch_size = inputs.count_clips(values.image, clips, values.num_videos_per_prompt)
        clips = stages.prepare_conditioning_frames(components, clips, values.height, width=values.width)
        values.conditioning_clips = clips.repeat_to(values.batch_size)


class HIAImageEncoderStep(HIAStep):
    """Makes what cross-attention reads: the reference picture's token, or the empty prompt."""

    uses = ("image_encoder", "feature_extractor", "text_encoder", "tokenizer", "unet")
    takes = ("image", "image_embeds", "prompt_embeds")
    gives = ("encoder_hidden_states",)

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        values.encoder_hidden_states = stages.encode_image(
            components, values.image, values.image_embeds, prompt_embeds=values.prompt_embeds
        )


class HIAReferenceEncoderStep(HIAStep):
    """Encodes the reference picture, and puts together what the denoiser is given besides latents."""

    uses = (
        *("vae", "appearance_encoder", "controlnet", "unet"),
        *("image_encoder", "feature_extractor", "ip_adapter_image_encoder"),
    )
    takes = (
        *("image", "height", "width", "encoder_hidden_states", "conditioning_clips", "batch_size"),
        *("ip_adapter_image", "ip_adapter_image_embeds", "guidance_scale", "cross_attention_kwargs"),
    )
    gives = ("reference_latents", "conditions")

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        values.reference_latents = stages.encode_reference_latents(
            components, values.image, values.height, width=values.width
        )
        values.conditions = stages.prepare_conditions(
            components,
            values.encoder_hidden_states,
            values.reference_latents,
            conditioning_frames=values.conditioning_clips,
            image_embeds=pipeline_of(components).prepare_ip_adapter_embeds(
                values.ip_adapter_image,
                values.ip_adapter_image_embeds,
                values.batch_size,
                do_classifier_free_guidance=values.guidance_scale > 1,
            ),
            cross_attention_kwargs=values.cross_attention_kwargs,
        )


class HIAPrepareLatentsStep(HIAStep):
    """Sets the scheduler's steps and draws the latents that denoising starts from."""

    uses = ("unet", "scheduler")
    takes = (
        *("num_inference_steps", "timesteps", "sigmas", "reference_noise", "shared_noise"),
        *("generator", "latents"),
        *("reference_latents", "conditioning_clips", "batch_size"),
    )
    gives = ("step_times", "initial_latents")

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        values.step_times = stages.prepare_timesteps(
            components, values.num_inference_steps, values.timesteps, sigmas=values.sigmas
        )
        channels, num_frames = components.unet.config.in_channels, values.conditioning_clips.num_frames
        values.initial_latents = stages.prepare_latents(
            components,
            (values.batch_size, channels, num_frames, *values.reference_latents.shape[-2:]),
            values.reference_latents,
            timestep=values.step_times[0],
            reference_noise=values.reference_noise,
            shared_noise=values.shared_noise,
            generator=values.generator,
            latents=values.latents,
        )


class HIADenoiseStep(HIAStep):
    """Denoises the clips: the loop over steps and windows of frames."""

    uses = ("unet", "appearance_encoder", "controlnet", "scheduler")
    options = tuple(field.name for field in fields(DenoisingOptions))
    takes = (
        *("initial_latents", "step_times", "conditions", "generator", "eta"),
        *("callback_on_step_end", "callback_on_step_end_tensor_inputs", *options),
    )
    gives = ("clean_latents",)

    def __init__(self) -> None:
        super().__init__()
        self._progress_bar_config: dict[str, Any] = {}

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Options of tqdm, such as `disable`, as of [`~diffusers.DiffusionPipeline.set_progress_bar_config`]."""
        self._progress_bar_config = kwargs

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        pipe = pipeline_of(components)
        pipe.set_progress_bar_config(**self._progress_bar_config)
        values.clean_latents = pipe.denoise(
            values.initial_latents,
            values.step_times,
            values.conditions,
            options=DenoisingOptions(**{name: values[name] for name in self.options}),
            extra_step_kwargs=pipe.prepare_extra_step_kwargs(values.generator, values.eta),
            callback_on_step_end=values.callback_on_step_end,
            callback_on_step_end_tensor_inputs=values.callback_on_step_end_tensor_inputs,
        )


class HIADecodeStep(HIAStep):
    """Decodes the latents to frames."""

    uses = ("vae",)
    takes = ("clean_latents", "output_type", "decode_chunk_size")
    gives = ("frames",)

    @property
    def expected_components(self) -> list[ComponentSpec]:
        config = FrozenDict({"vae_scale_factor": 8})
        processor = ComponentSpec(
            "video_processor", VideoProcessor, config=config, default_creation_method="from_config"
        )
        return [*super().expected_components, processor]

    def run(self, components: ModularPipeline, values: BlockState) -> None:
        values.frames = stages.decode(
            components, values.clean_latents, values.output_type, decode_chunk_size=values.decode_chunk_size
        )


class HIABlocks(SequentialPipelineBlocks):
    """The stages of [`HIAPipeline`] as blocks of a modular pipeline.

    The inputs are the arguments of [`HIAPipeline.__call__`], and the motion may also be a `driving` clip, with the
    arguments of [`HIAAnimator.prepare`]; it is used in place of `conditioning_frames`.

    ```py
    pipe = HIABlocks().init_pipeline("path/or/hub-id")
    pipe.load_components()
    frames = pipe(image=picture, conditioning_frames=condition, output="frames")[0]
    ```
    """

    model_name = "hia"
    block_classes = [
        HIADrivingStep,
        HIAInputStep,
        HIAImageEncoderStep,
        HIAReferenceEncoderStep,
        HIAPrepareLatentsStep,
        HIADenoiseStep,
        HIADecodeStep,
    ]
    block_names = [
        *("driving", "input", "image_encoder", "reference_encoder", "prepare_latents", "denoise", "decode"),
    ]

    @property
    def description(self) -> str:
        return "Animates the person in a picture with the motion of conditioning frames, or of a driving clip."

    def init_pipeline(
        self, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any
    ) -> "HIAModularPipeline":
        """A pipeline of these blocks.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`, *optional*):
                Hub id or folder of a [`HIAPipeline`] or a [`HIAModularPipeline`], of which `load_components` takes the
                components.
            kwargs:
                Those of [`~diffusers.ModularPipelineBlocks.init_pipeline`].
        """
        return HIAModularPipeline(
            deepcopy(self), pretrained_model_name_or_path=pretrained_model_name_or_path, **kwargs
        )


class HIAModularPipeline(ModularPipeline):
    """A modular pipeline of [`HIABlocks`].

    `HIAModularPipeline.from_pretrained` reads the folders of [`HIAPipeline`] and its own, and runs no code of theirs.
    What `save_pretrained` writes is also read by `diffusers.ModularPipeline` with `trust_remote_code=True`, and so by
    the command `diffusers-cli`.

    Args:
        blocks (`ModularPipelineBlocks`, *optional*):
            By default all of [`HIABlocks`].
        kwargs:
            Those of [`~diffusers.ModularPipeline`].
    """

    default_blocks_name = "HIABlocks"

    def __init__(self, blocks: ModularPipelineBlocks | None = None, **kwargs: Any) -> None:
        if kwargs.get("pretrained_model_name_or_path") is not None:  # diffusers loads no component of a `Path`
            kwargs["pretrained_model_name_or_path"] = str(kwargs["pretrained_model_name_or_path"])
        super().__init__(blocks=HIABlocks() if blocks is None else blocks, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, trust_remote_code: bool = False, **kwargs: Any
    ) -> "HIAModularPipeline":
        """Make a pipeline of a checkpoint, whose components `load_components` then loads.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                Hub id or folder of a [`HIAPipeline`] or a [`HIAModularPipeline`].
            trust_remote_code (`bool`, *optional*, defaults to `False`):
                Whether to use the blocks in the folder, which are code, in place of [`HIABlocks`].
            kwargs:
                Those of [`~diffusers.ModularPipeline.from_pretrained`].
        """
        if trust_remote_code:
            return super().from_pretrained(pretrained_model_name_or_path, trust_remote_code=True, **kwargs)
        return cls(pretrained_model_name_or_path=pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _load_pipeline_config(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        modular, plain = super()._load_pipeline_config(*args, **kwargs)
        # Before the libraries that they name are imported.
        check_modular_index(modular or {})
        check_index(plain or {})
        # HIAPipeline writes [null, null] for the components that it lacks: there is nothing to load.
        return modular, plain and {name: value for name, value in plain.items() if value != [None, None]}

    @checks.python_numbers
    @one_call_at_a_time
    def __call__(
        self, state: PipelineState | None = None, output: str | list[str] | None = None, **kwargs: Any
    ) -> Any:
        """Run the blocks as [`~diffusers.ModularPipeline.__call__`] does. Calls that share components take turns.

        Inputs that are left out are those of the `call_defaults` in the configuration, or else those of
        [`HIAPipeline.__call__`].

        Args:
            state (`PipelineState`, *optional*):
                Of an earlier call, to go on from.
            output (`str` or `list[str]`, *optional*):
                The values to return in place of the state.
            kwargs:
                Inputs of the blocks.
        """
        return super().__call__(state, output, **kwargs)

    def load_components(self, names: list[str] | str | None = None, **kwargs: Any) -> None:
        """Load components as [`~diffusers.ModularPipeline.load_components`] does, in float32 unless told otherwise.

        Args:
            names (`list[str]` or `str`, *optional*):
                Of the components. The default is all that have a source and are not there.
            kwargs:
                Those of [`~diffusers.ModularPipeline.load_components`].

        Raises:
            OSError: If a file is missing.
            ValueError: If a component cannot be loaded, or weights have missing or unexpected keys, are no
                floating-point numbers or not finite. It is not there then.
        """
        if "torch_dtype" not in kwargs:  # without one, transformers takes that in its config, and diffusers float32
            kwargs.setdefault("dtype", torch.float32)
        before = {name for name in self._component_specs if getattr(self, name, None) is not None}
        super().load_components(names, **kwargs)
        wanted = {names} if isinstance(names, str) else set(self._component_specs if names is None else names)
        for name in wanted & set(self._component_specs) - (before if names is None else set()):
            spec, component = self._component_specs[name], getattr(self, name, None)
            source = spec.pretrained_model_name_or_path
            if source is None or not isinstance(component, (nn.Module, type(None))):
                continue
            try:
                loaded_class = spec.type_hint if component is None else type(component)
                hub_options = {"revision": spec.revision, "cache_dir": kwargs.get("cache_dir")}
                check_component(
                    name, loaded_class, source, subfolder=spec.subfolder, variant=spec.variant, **hub_options
                )
                if component is None:
                    raise ValueError(f"`{name}` cannot be loaded from {source}; a warning says why.")
                check_finite_weights(component, source)
                copy_out_of_mapped_file(component)
            except (OSError, ValueError):
                self.register_components(**{name: None})
                raise

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save the pipeline as [`~diffusers.ModularPipeline.save_pretrained`] does, and its blocks beside it.

        Blocks of another class than [`HIABlocks`] are left to their own `save_pretrained`.

        Args:
            save_directory (`str` or `os.PathLike`):
                The folder.
            kwargs:
                Those of [`~diffusers.ModularPipeline.save_pretrained`]; `overwrite_modular_index` is `True` by
                default.

        Raises:
            ValueError: If LoRA, an IP-Adapter or fused projections are in the way; nothing is written then.
        """
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                check_no_attachments(name, component)
        if type(self._blocks) is HIABlocks:
            self._blocks.save_pretrained(save_directory)
            (Path(save_directory) / BLOCKS_FILE).write_text(BLOCKS_CODE)
        super().save_pretrained(str(save_directory), **{"overwrite_modular_index": True, **kwargs})

    def to_json_string(self) -> str:
        # The class that is to load the folder, which diffusers looks for among its own.
        config = json.loads(super().to_json_string()) | {"_class_name": ModularPipeline.__name__}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"
