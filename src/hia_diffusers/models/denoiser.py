# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The three networks of HIA as one denoiser, and the inputs of each branch of animation-CFG (paper Sec. 3, Eq. 4).

Sampling, training, distillation and memory estimates all call [`HIADenoiser`], so that they cannot differ.

Axes: B clips, F frames, C channels, H, W pixels, h, w latent pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import ModelMixin
from diffusers.guiders import BaseGuidance
from torch import nn

from .appearance_encoder import HIAAppearanceEncoder
from .components import HIAComponents
from .conditioning_embedding import ConditioningEmbeddings, ConditioningWindows
from .controlnet import HIAControlNetModel
from .pose_guider import HIAPoseGuider
from .reference_attention import ReferenceFeatures
from .shared_blocks import computed_once
from .unet_motion import HIAUNetMotionModel


# Arguments of the UNet that come from a ControlNet or pose guider, and their values, each `(B * F, C, h, w)`.
Residuals = Mapping[str, torch.Tensor | tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class HIAConditions:
    """The inputs of [`HIADenoiser`] other than noisy latents, for B clips.

    Args:
        encoder_hidden_states (`torch.Tensor` of shape `(B, tokens, C)`):
            Input of cross-attention in the conditional branch.
        reference (`torch.Tensor` of shape `(images, C, h, w)` or [`ReferenceFeatures`]):
            Clean latents of the reference images, which are encoded in every call, or the features of B clips, from
            [`HIADenoiser.read_reference`]. B is a multiple of the number of images; the clips of an image are
            adjacent.
        conditioning_frames (`torch.Tensor` of shape `(B, F, C, H, W)`, or embeddings):
            Conditioning frames in [0, 1], or their [`ConditioningEmbeddings`] or [`ConditioningWindows`].
        null_encoder_hidden_states (`torch.Tensor` of shape `(B, tokens, C)`, *optional*):
            Input of cross-attention in the unconditional branch; by default, that of the conditional branch.
        image_embeds (`tuple[torch.Tensor, ...]`, *optional*, defaults to `()`):
            Embeddings of the conditional branch for each loaded IP-Adapter, `(B, images, ...)`.
        null_image_embeds (`tuple[torch.Tensor, ...]`, *optional*, defaults to `()`):
            Embeddings of the unconditional branch.
        control_scale (`float`, *optional*, defaults to 1.0):
            Factor by which the outputs of the ControlNet are multiplied. If it is 0, the ControlNet does not run.
        attention_kwargs (`dict`, *optional*):
            `cross_attention_kwargs` of the UNet; the appearance encoder reads `scale`, that of its LoRA.
        unconditional (`bool` or `torch.Tensor` of shape `(B,)`, *optional*, defaults to `False`):
            Which clips are in the unconditional branch: all, none, or those for which a boolean tensor is true.
    """

    encoder_hidden_states: torch.Tensor
    reference: torch.Tensor | ReferenceFeatures
    conditioning_frames: torch.Tensor | ConditioningEmbeddings | ConditioningWindows
    null_encoder_hidden_states: torch.Tensor | None = None
    image_embeds: tuple[torch.Tensor, ...] = ()
    null_image_embeds: tuple[torch.Tensor, ...] = ()
    control_scale: float = 1.0
    attention_kwargs: dict[str, Any] | None = None
    unconditional: bool | torch.Tensor = False

    def __len__(self) -> int:
        """B."""
        return len(self.encoder_hidden_states)

    def drop(self, unconditional: bool | torch.Tensor = True) -> "HIAConditions":
        """Return the conditions of the unconditional branch, for all clips or some.

        Args:
            unconditional (`bool` or `torch.Tensor` of shape `(B,)`, *optional*, defaults to `True`):
                As in [`HIAConditions`].
        """
        reference = self.reference
        if isinstance(reference, ReferenceFeatures) and not isinstance(unconditional, bool):
            reference = ReferenceFeatures(reference.features, unconditional)
        return replace(self, reference=reference, unconditional=unconditional)

    def window(self, *windows: range) -> "HIAConditions":
        """Return the conditions of some frames.

        Args:
            windows (`range`):
                Frame numbers. With several windows of equal length, the B clips of the first window come first, then
                those of the second, and so on.
        """
        frames = self.conditioning_frames
        if isinstance(frames, torch.Tensor):
            frames = torch.cat([frames[:, window.start : window.stop] for window in windows])
        elif isinstance(frames, ConditioningEmbeddings):
            frames = frames.windows(windows, self.encoder_hidden_states.device)
        else:
            raise ValueError("`window`: the conditions are those of windows already.")
        times = len(windows)
        return replace(self._repeat_clips(times), reference=self._repeat_reference(times), conditioning_frames=frames)

    def repeat(self, times: int) -> "HIAConditions":
        """Repeat the batch of B clips.

        Args:
            times (`int`):
                Number of repetitions.
        """
        return replace(
            self._repeat_clips(times),
            reference=self._repeat_reference(times),
            conditioning_frames=self._repeat_frames(times),
        )

    def both_branches(self) -> "HIAConditions":
        """Return 2 B clips: those of the conditional branch, then those of the unconditional branch."""
        return replace(
            self._repeat_clips(2),
            reference=self._repeat_reference(2, unconditional=True),
            conditioning_frames=self._repeat_frames(2),
            unconditional=torch.arange(2 * len(self), device=self.encoder_hidden_states.device) >= len(self),
        )

    def _repeat_clips(self, times: int) -> "HIAConditions":
        """Repeat the tensors with one entry per clip."""
        null_states, unconditional = self.null_encoder_hidden_states, self.unconditional
        return replace(
            self,
            encoder_hidden_states=_repeated(self.encoder_hidden_states, times),
            null_encoder_hidden_states=None if null_states is None else _repeated(null_states, times),
            image_embeds=tuple(_repeated(embeds, times) for embeds in self.image_embeds),
            null_image_embeds=tuple(_repeated(embeds, times) for embeds in self.null_image_embeds),
            unconditional=unconditional if isinstance(unconditional, bool) else _repeated(unconditional, times),
        )

    def _repeat_reference(self, times: int, unconditional: bool = False) -> torch.Tensor | ReferenceFeatures:
        """Repeat latents of images or features of clips, the second half optionally in the unconditional branch."""
        if isinstance(self.reference, ReferenceFeatures):
            return self.reference.batch(times * len(self), unconditional)
        return _repeated(self.reference, times)

    def _repeat_frames(self, times: int) -> torch.Tensor | ConditioningWindows:
        frames = self.conditioning_frames
        if isinstance(frames, torch.Tensor):
            return _repeated(frames, times)
        if isinstance(frames, ConditioningEmbeddings):
            frames = frames.windows([range(frames.num_frames)], self.encoder_hidden_states.device)
        return replace(frames, windows=[*frames.windows] * times)


class HIADenoiser(nn.Module):
    """Predict the noise of clips from their conditions.

    In the unconditional branch, there is no reference and no residual of the ControlNet (unless
    `unconditional_controlnet` is set), and cross-attention and IP-Adapters read the null embeddings. The appearance
    encoder and the ControlNet always have the inputs of the conditional branch.

    Args:
        appearance_encoder ([`HIAAppearanceEncoder`]):
            Encodes the reference images.
        controlnet ([`HIAControlNetModel`] or [`HIAPoseGuider`]):
            Encodes the conditioning frames.
        unet ([`HIAUNetMotionModel`]):
            Denoises.
        reference_timestep (`"zero"` or `"current"`, *optional*, defaults to `"zero"`):
            As in [`HIAPipeline`].
        unconditional_controlnet (`bool`, *optional*, defaults to `False`):
            As in [`HIAPipeline`].
    """

    def __init__(
        self,
        appearance_encoder: HIAAppearanceEncoder,
        controlnet: HIAControlNetModel | HIAPoseGuider,
        unet: HIAUNetMotionModel,
        reference_timestep: Literal["zero", "current"] = "zero",
        unconditional_controlnet: bool = False,
    ) -> None:
        super().__init__()
        self.appearance_encoder = appearance_encoder
        self.controlnet = controlnet
        self.unet = unet
        self.reference_timestep = reference_timestep
        self.unconditional_controlnet = unconditional_controlnet

    @classmethod
    def of_pipeline(cls, pipeline: HIAComponents) -> "HIADenoiser":
        """Create the denoiser of a pipeline, which shares its networks.

        Args:
            pipeline ([`HIAPipeline`] or `ModularPipeline`):
                The pipeline, whose three networks and configuration are used.
        """
        return cls(
            pipeline.appearance_encoder,
            pipeline.controlnet,
            pipeline.unet,
            reference_timestep=pipeline.config["reference_timestep"],
            unconditional_controlnet=pipeline.config["unconditional_controlnet"],
        )

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditions: HIAConditions,
        residuals: Residuals | None = None,
    ) -> torch.Tensor:
        """Predict the noise, or whatever the `prediction_type` of the schedule is.

        If `conditions.unconditional` is a tensor, all networks run for all clips, and dropped conditions get gradients
        of zero instead of none, so that distributed training finds every parameter in use.

        Args:
            latents (`torch.Tensor` of shape `(B, C, F, h, w)`):
                Noisy latents.
            timestep (`torch.Tensor` of shape `()` or `(B,)`):
                The timestep, one for all clips or one per clip.
            conditions ([`HIAConditions`]):
                The conditions of B clips and F frames.
            residuals (`Mapping`, *optional*):
                Result of [`HIADenoiser.control`] for these clips, or for the conditional half of
                [`HIAConditions.both_branches`]; computed by default.

        Returns:
            `torch.Tensor` of shape `(B, C, F, h, w)`.
        """
        reference = None
        if conditions.unconditional is not True:
            conditions = self.read_reference(conditions, timestep)
            reference = conditions.reference
        if residuals is None:
            residuals = self.control(latents, timestep, conditions)
        return self.unet(
            latents,
            timestep,
            encoder_hidden_states=_of_branch(
                conditions.encoder_hidden_states, conditions.null_encoder_hidden_states, conditions.unconditional
            ),
            added_cond_kwargs=self._added_cond_kwargs(conditions),
            cross_attention_kwargs=conditions.attention_kwargs,
            reference_features=reference,
            return_dict=False,
            **self._seen_residuals(residuals, conditions, latents.shape[2]),
        )[0]

    def guided(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditions: HIAConditions,
        guider: BaseGuidance,
        batch_guidance: bool = False,
        window: str = "",
    ) -> torch.Tensor:
        """Predict with guidance.

        Args:
            latents, timestep, conditions:
                As in [`HIADenoiser.forward`]; the conditions are those of the conditional branch.
            guider ([`~diffusers.guiders.BaseGuidance`]):
                Decides which branches run, and combines their predictions.
            batch_guidance (`bool`, *optional*, defaults to `False`):
                Whether both branches run in one call of the UNet.
            window (`str`, *optional*, defaults to `""`):
                Name of the window, for which a cache keeps outputs.

        Returns:
            `torch.Tensor` of shape `(B, C, F, h, w)`.
        """
        with self.cache_context(window):
            residuals = self.control(latents, timestep, conditions)
        branches = guider.prepare_inputs({"conditions": (conditions, conditions.drop())})
        if batch_guidance and len(branches) == 2:
            with self.cache_context(f"{window} both"):
                both = self(latents.repeat(2, 1, 1, 1, 1), timestep, conditions.both_branches(), residuals)
            for branch, noise_pred in zip(branches, both.chunk(2), strict=True):
                branch.noise_pred = noise_pred
        else:
            with computed_once(self._common_blocks(conditions, residuals) if len(branches) > 1 else ()):
                for branch in branches:
                    with self.cache_context(f"{window} {getattr(branch, guider._identifier_key)}"):
                        branch.noise_pred = self(latents, timestep, branch.conditions, residuals)
        return guider(branches).pred

    def _common_blocks(self, conditions: HIAConditions, residuals: Residuals) -> list[nn.Module]:
        """Return the blocks that have the same inputs in both branches.

        There are none if the network is compiled or has hooks, such as those of offloading, which expect all calls.
        """
        differs = (
            conditions.null_encoder_hidden_states is not None
            or bool(conditions.image_embeds)
            or ("pose_features" in residuals and not self.unconditional_controlnet)
        )
        if differs or hasattr(self.unet, "_orig_mod") or self.unet._compiled_call_impl is not None:
            return []
        is_hooked = any("forward" in vars(layer) for layer in self.unet.modules() if layer is not self.unet)
        return [] if is_hooked else self.unet.blocks_before_reference

    @property
    def cache_interval(self) -> int:
        """Number of steps in which the full network runs once: 1 without a cache."""
        return max((network._cache_config.interval for network in self._cached_networks), default=1)

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        """Name the outputs that caches keep and reuse.

        Args:
            name (`str`):
                Name of a window and branch.
        """
        with ExitStack() as contexts:
            for network in self._cached_networks:
                contexts.enter_context(network.cache_context(name))
            yield

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Discard the outputs in the caches at the end, whether or not an error is raised."""
        try:
            yield
        finally:
            self.reset_cache()

    def reset_cache(self) -> None:
        """Discard the outputs in the caches, so that the next step runs the full network."""
        for network in self._cached_networks:
            network._reset_stateful_cache()

    @property
    def _cached_networks(self) -> list[Any]:
        return [network for network in (self.controlnet, self.unet) if getattr(network, "is_cache_enabled", False)]

    def read_reference(self, conditions: HIAConditions, timestep: torch.Tensor | int = 0) -> HIAConditions:
        """Run the appearance encoder.

        The result is valid for all calls with the same timestep or, if `reference_timestep` is `"zero"`, for all of a
        clip.

        Args:
            conditions ([`HIAConditions`]):
                Conditions with the latents of reference images. Conditions with features are returned unchanged.
            timestep (`torch.Tensor` or `int`, *optional*, defaults to 0):
                The current timestep.
        """
        if isinstance(conditions.reference, ReferenceFeatures):
            return conditions
        latents, encoder = conditions.reference, self.appearance_encoder
        clips_per_image = len(conditions) // len(latents)
        states = conditions.encoder_hidden_states[::clips_per_image]
        if self.reference_timestep == "zero":
            timestep = torch.zeros_like(torch.as_tensor(timestep))
        in_dtype = _to_dtype_of(encoder)
        scale = {name: value for name, value in (conditions.attention_kwargs or {}).items() if name == "scale"}
        output = encoder(in_dtype(latents), timestep, in_dtype(states), cross_attention_kwargs=scale)
        in_dtype = _to_dtype_of(self.unet)
        features = {
            name: in_dtype(value.repeat_interleave(clips_per_image, dim=0))
            for name, value in output.reference_features.items()
        }
        dropped = None if isinstance(conditions.unconditional, bool) else conditions.unconditional
        return replace(conditions, reference=ReferenceFeatures(features, dropped))

    def control(self, latents: torch.Tensor, timestep: torch.Tensor, conditions: HIAConditions) -> Residuals:
        """Run the ControlNet or the pose guider; the latter reads the conditioning frames alone.

        Args:
            latents, timestep, conditions:
                As in [`HIADenoiser.forward`].

        Returns:
            `Mapping`: Arguments of the UNet and their values, a tensor or a tuple of tensors, each `(B * F, C, h, w)`;
                empty if the ControlNet has no effect.
        """
        if conditions.control_scale == 0:
            return {}
        num_frames, frames = latents.shape[2], conditions.conditioning_frames
        if isinstance(frames, ConditioningEmbeddings):
            frames = frames.windows([range(num_frames)], latents.device)
        inputs: dict[str, Any] = {
            "controlnet_cond": frames.flatten(0, 1) if isinstance(frames, torch.Tensor) else frames,
            "conditioning_scale": conditions.control_scale,
        }
        if "pose_features" not in self.controlnet.unet_arguments:
            states = conditions.encoder_hidden_states.repeat_interleave(num_frames, dim=0)
            in_dtype = _to_dtype_of(self.controlnet)
            inputs |= {
                "sample": in_dtype(latents.transpose(1, 2).flatten(0, 1)),
                "timestep": timestep.repeat_interleave(num_frames) if timestep.ndim else timestep,
                "encoder_hidden_states": in_dtype(states),
            }
        outputs = self.controlnet(**inputs, return_dict=False)
        residuals = dict(zip(self.controlnet.unet_arguments, outputs, strict=True))
        return _of_each(residuals, _to_dtype_of(self.unet))

    def _seen_residuals(self, residuals: Residuals, conditions: HIAConditions, num_frames: int) -> Residuals:
        unconditional = conditions.unconditional
        if isinstance(unconditional, bool):
            return {} if unconditional and not self.unconditional_controlnet else residuals
        kept = None if self.unconditional_controlnet else ~unconditional.repeat_interleave(num_frames)

        def seen(residual: torch.Tensor) -> torch.Tensor:
            residual = _repeated(residual, len(conditions) * num_frames // len(residual))
            return residual if kept is None else residual * kept[:, None, None, None]

        return _of_each(residuals, seen)

    def _added_cond_kwargs(self, conditions: HIAConditions) -> dict[str, list[torch.Tensor]] | None:
        if not conditions.image_embeds:
            return None
        pairs = zip(conditions.image_embeds, conditions.null_image_embeds, strict=True)
        return {"image_embeds": [_of_branch(*pair, conditions.unconditional) for pair in pairs]}


def _of_each(residuals: Residuals, change: Callable[[torch.Tensor], torch.Tensor]) -> Residuals:
    return {
        name: change(values) if isinstance(values, torch.Tensor) else tuple(map(change, values))
        for name, values in residuals.items()
    }


def _of_branch(
    conditional: torch.Tensor, null: torch.Tensor | None, unconditional: bool | torch.Tensor
) -> torch.Tensor:
    """Return the entries of one of two tensors for each clip, depending on its branch."""
    if null is None or unconditional is False:
        return conditional
    if unconditional is True:
        return null
    return torch.where(unconditional.reshape(-1, *[1] * (conditional.ndim - 1)), null, conditional)


def _repeated(values: torch.Tensor, times: int) -> torch.Tensor:
    return values if times == 1 else values.repeat(times, *[1] * (values.ndim - 1))


def _to_dtype_of(network: ModelMixin) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that converts tensors to the dtype of a network.

    The networks of a pipeline may have different dtypes; in training, autocast converts the inputs of each layer.
    Diffusers determines the dtype of a network by iterating over its modules, so do this once for all tensors of a
    call.
    """
    dtype = None if torch.is_grad_enabled() else network.dtype
    return lambda values: values if dtype is None else values.to(dtype)
