# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Default arguments of a call that suit a pipeline's weights, stored in its configuration."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .. import checks
from ..conditioning.pose_maps import DENSEPOSE, POSE_MAPS


if TYPE_CHECKING:
    from .pipeline_hia import HIAPipeline


Call = TypeVar("Call", bound=Callable[..., Any])

# Arguments that depend on the weights, not on the caller's hardware, inputs or preferences.
CALL_DEFAULTS = (
    *("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale", "reference_noise"),
    *("shared_noise", "context_frames", "context_overlap", "context_shift", "eta"),
)
# Number of pixels of the frames that the weights were trained on, and the maps that they were trained on, a name in
# `POSE_MAPS` or `DENSEPOSE`. `HIAAnimator` uses both; they are not arguments of a call.
AREA, POSE_MAP = "area", "pose_map"


def check_call_defaults(call_defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the names of default arguments, and return them as they are saved.

    Args:
        call_defaults (`Mapping[str, Any]` or `None`):
            Arguments of [`HIAPipeline.__call__`] by name, among those in `CALL_DEFAULTS`, `"area"`, the number of
            pixels of a frame, and `"pose_map"`, the kind of map that the ControlNet or pose guider reads.

    Raises:
        TypeError: If it is not a mapping.
        ValueError: If it contains another name or an unknown pose map. Other values are checked by the call.
    """
    if call_defaults is None:
        return {}
    checks.instance("call_defaults", call_defaults, Mapping)
    known = (*CALL_DEFAULTS, AREA, POSE_MAP)
    unknown = [name for name in call_defaults if name not in known]
    if unknown:
        names = ", ".join(known)
        raise ValueError(f"`call_defaults` must name arguments of {names}, got {checks.shown(unknown[0])}.")
    checks.one_of(POSE_MAP, call_defaults.get(POSE_MAP, "openpose"), (*POSE_MAPS, DENSEPOSE))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in call_defaults.items()}


def call_default(pipe: "HIAPipeline", name: str) -> Any:
    """Return the value of an argument that is not given in a call.

    Args:
        pipe ([`HIAPipeline`]):
            The pipeline.
        name (`str`):
            Name of the argument.
    """
    default = inspect.signature(type(pipe).__call__).parameters[name].default
    return (pipe._memory_defaults | pipe.config.call_defaults).get(name, default)


def defaults_beside(call_defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that are compatible with the arguments of a call.

    If `latents` are given, they are the noise, so `shared_noise` has no default. A given guider has its own
    `guidance_scale`.

    Args:
        call_defaults (`Mapping[str, Any]`):
            Defaults of the pipeline.
        given (`Mapping[str, Any]`):
            Arguments of the call.

    Raises:
        ValueError: If both `guidance_scale` and `guider` are given.
    """
    if given.get("guider") is not None and "guidance_scale" in given:
        raise ValueError("Pass either `guidance_scale` or a `guider`, which has its own, not both.")
    replaced = {"shared_noise": "latents", "guidance_scale": "guider"}
    return {
        name: value
        for name, value in call_defaults.items()
        if name not in (AREA, POSE_MAP) and given.get(replaced.get(name, name)) is None
    }


def with_call_defaults(call: Call) -> Call:
    """Decorate a call, so that missing arguments have the values in `call_defaults` or else those in the signature.

    Args:
        call (`Callable`):
            A method of the pipeline.
    """
    names = list(inspect.signature(call).parameters)

    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names[1:], args, strict=False)), **kwargs}
        defaults = self._memory_defaults | defaults_beside(self.config.call_defaults, given)
        left_out = {name: value for name, value in defaults.items() if name not in given}
        return call(self, *args, **left_out, **kwargs)

    return called  # type: ignore[return-value]
