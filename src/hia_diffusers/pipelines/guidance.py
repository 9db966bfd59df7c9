# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance by diffusers' guiders, which decide which branches run in a step and how their predictions are combined."""

import copy
import logging
from typing import Any

import torch
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

from .. import checks


MAX_SCALE = 1000.0  # larger scales give noise


def classifier_free_guidance(guidance_scale: float, start: float = 0.0, stop: float = 1.0) -> ClassifierFreeGuidance:
    """Create a guider for animation-CFG (Eq. 4, with the sign corrected): `uncond + guidance_scale * (cond - uncond)`.

    Args:
        guidance_scale (`float`):
            Weight of the guidance, in [0, 1000]. Values up to 1 disable the unconditional branch.
        start (`float`, *optional*, defaults to 0.0):
            Fraction of the steps after which guidance starts.
        stop (`float`, *optional*, defaults to 1.0):
            Fraction of the steps after which guidance stops.

    Raises:
        TypeError, ValueError: If a value is not a number, or out of range.
    """
    scale = checks.number("guidance_scale", guidance_scale, low=0, high=MAX_SCALE)
    logger = logging.getLogger("diffusers.guiders.guider_utils")
    disabled, logger.disabled = logger.disabled, True  # it warns that guiders are experimental
    try:
        return ClassifierFreeGuidance(scale, start=start, stop=stop, enabled=scale > 1)
    finally:
        logger.disabled = disabled


def of_call(guider: BaseGuidance) -> Any:
    """Copy a guider for one call, since guiders store their current step.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            The guider; it is not modified.
    """
    guider = copy.copy(guider)
    guider._step = guider._num_inference_steps = guider._timestep = None
    return guider


def with_scale(guider: BaseGuidance, guidance_scale: float) -> Any:
    """Copy a guider with another guidance scale; values up to 1 disable guidance.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            The guider; it is not modified.
        guidance_scale (`float`):
            The scale, in [0, 1000].

    Raises:
        TypeError, ValueError: If the scale is not a number, or out of range.
    """
    guider = copy.copy(guider)
    guider.guidance_scale = checks.number("guidance_scale", guidance_scale, low=0, high=MAX_SCALE)
    guider.enable() if guidance_scale > 1 else guider.disable()
    return guider


def has_unconditional_branch(guider: BaseGuidance) -> bool:
    """Return whether a guider runs the unconditional branch in any step.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            Result of [`of_call`], before the first step.
    """
    return guider._enabled and guider.num_conditions > 1


def check_guider(guider: BaseGuidance, has_windows: bool, batch_guidance: bool) -> None:
    """Refuse a guider that cannot be used.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            A guider of diffusers.
        has_windows (`bool`):
            Whether a clip has several windows of time.
        batch_guidance (`bool`):
            Whether both branches run in one call of the UNet.

    Raises:
        TypeError, ValueError: If the guider cannot be used.
    """
    checks.instance("guider", guider, BaseGuidance)
    checks.flag("batch_guidance", batch_guidance)
    name = type(guider).__name__
    if not hasattr(guider, "guidance_scale"):
        raise ValueError(f"`guider` must have one `guidance_scale`, which a {name} does not have.")
    checks.number("guidance_scale", guider.guidance_scale, low=0, high=MAX_SCALE)
    if type(guider).prepare_models is not BaseGuidance.prepare_models:
        raise ValueError(f"`guider` must only combine predictions, but a {name} changes layers of a transformer.")
    if has_windows and getattr(guider, "adaptive_projected_guidance_momentum", None) is not None:
        raise ValueError(
            "`guider` must have no `adaptive_projected_guidance_momentum` if a clip has several windows, which it"
            " would mix up."
        )
    try:
        _rehearse(of_call(guider))
    except Exception as error:  # guiders raise different errors
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"`guider`: a {name} cannot combine the predictions of clips ({reason}).") from error


def _rehearse(guider: BaseGuidance) -> None:
    """Combine small predictions, since some guiders support images only."""
    for step in (0, int(1000 * guider._start)):
        guider.set_state(step, 1000, torch.zeros(()))
        branches = guider.prepare_inputs({"conditions": ("conditional", "unconditional")})
        for branch in branches:
            branch.noise_pred = torch.ones(1, 4, 2, 2, 2)
        guider(branches)
