# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Guidance by diffusers' guiders, which say what branches run in a step and how their predictions are combined."""

import copy
import logging
from typing import Any

import torch
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

from .. import checks


MAX_SCALE = 1000.0  # beyond, numbers are only noise


def classifier_free_guidance(guidance_scale: float, start: float = 0.0, stop: float = 1.0) -> ClassifierFreeGuidance:
    """The animation-CFG of the paper (Eq. 4, with its sign set right): `uncond + guidance_scale * (cond - uncond)`.

    Args:
        guidance_scale (`float`):
            Its weight, in [0, 1000]. At most 1 runs no unconditional branch.
        start, stop (`float`, *optional*, default to 0.0 and 1.0):
            Shares of the steps between which there is guidance.

    Raises:
        TypeError, ValueError: If a number is none, or out of range.
    """
    scale = checks.number("guidance_scale", guidance_scale, low=0, high=MAX_SCALE)
    logger = logging.getLogger("diffusers.guiders.guider_utils")
    disabled, logger.disabled = logger.disabled, True  # it warns of every guider that guiders are experimental
    try:
        return ClassifierFreeGuidance(scale, start=start, stop=stop, enabled=scale > 1)
    finally:
        logger.disabled = disabled


def of_call(guider: BaseGuidance) -> Any:
    """A copy for one call, as guiders hold the step that they are in.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            Stays as it is.
    """
    guider = copy.copy(guider)
    guider._step = guider._num_inference_steps = guider._timestep = None
    return guider


def with_scale(guider: BaseGuidance, guidance_scale: float) -> Any:
    """A copy with another weight of guidance, which at most 1 switches off.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            Stays as it is.
        guidance_scale (`float`):
            In [0, 1000].

    Raises:
        TypeError, ValueError: If the scale is none.
    """
    guider = copy.copy(guider)
    guider.guidance_scale = checks.number("guidance_scale", guidance_scale, low=0, high=MAX_SCALE)
    guider.enable() if guidance_scale > 1 else guider.disable()
    return guider


def has_unconditional_branch(guider: BaseGuidance) -> bool:
    """Whether a guider runs the unconditional branch in some step.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            From [`of_call`], before the first step.
    """
    return guider._enabled and guider.num_conditions > 1


def check_guider(guider: Any, has_windows: bool, batch_guidance: bool) -> None:
    """Raise a `ValueError` or `TypeError` if a guider cannot be used.

    Args:
        guider ([`~diffusers.guiders.BaseGuidance`]):
            Of diffusers.
        has_windows (`bool`):
            Whether a clip has several windows of time.
        batch_guidance (`bool`):
            Whether branches are one call of the UNet.
    """
    checks.instance("guider", guider, BaseGuidance)
    checks.flag("batch_guidance", batch_guidance)
    name = type(guider).__name__
    if not hasattr(guider, "guidance_scale"):
        raise ValueError(f"`guider` must have one `guidance_scale`, which a {name} has not.")
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
    except Exception as error:  # each guider has its own way to say what it cannot do
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"`guider`: a {name} cannot combine the predictions of clips ({reason}).") from error


def _rehearse(guider: Any) -> None:
    """Combine small predictions, as some guiders take images only."""
    for step in (0, int(1000 * guider._start)):
        guider.set_state(step, 1000, torch.zeros(()))
        branches = guider.prepare_inputs({"conditions": ("conditional", "unconditional")})
        for branch in branches:
            branch.noise_pred = torch.ones(1, 4, 2, 2, 2)
        guider(branches)
