# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of a call that a pipeline's weights want, kept in its configuration."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .. import checks


Call = TypeVar("Call", bound=Callable[..., Any])

# What depends on the weights, and not on the caller's machine, inputs or wishes.
CALL_DEFAULTS = (
    *("num_inference_steps", "guidance_scale", "controlnet_conditioning_scale", "reference_noise"),
    *("shared_noise", "context_frames", "context_overlap", "context_shift", "eta"),
)
# Pixels of a frame that the weights were trained at. It is no argument of the call: `HIAAnimator` reads it.
AREA = "area"


def check_call_defaults(call_defaults: Mapping[str, Any] | None) -> dict[str, Any]:
    """The defaults as they are saved.

    Args:
        call_defaults (`Mapping[str, Any]`, *optional*):
            Arguments of [`HIAPipeline.__call__`] by name, of those in `CALL_DEFAULTS`, and `"area"`, the
            pixels of a frame.

    Raises:
        TypeError: If they are no mapping.
        ValueError: If one has another name. Values are checked by the call.
    """
    if call_defaults is None:
        return {}
    checks.instance("call_defaults", call_defaults, Mapping)
    unknown = [name for name in call_defaults if name not in (*CALL_DEFAULTS, AREA)]
    if unknown:
        names = ", ".join((*CALL_DEFAULTS, AREA))
        raise ValueError(f"`call_defaults` must name arguments of {names}, got {checks.shown(unknown[0])}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in call_defaults.items()}


def call_default(pipe: Any, name: str) -> Any:
    """What a call takes for an argument that is left out.

    Args:
        name (`str`):
            Of the argument.
    """
    default = inspect.signature(type(pipe).__call__).parameters[name].default
    return pipe.config.call_defaults.get(name, default)


def defaults_beside(call_defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a call that are compatible with the arguments that the caller gave.

    `shared_noise` has no default if `latents` are given, since they are the noise. `guidance_scale` has none if a
    guider is given, since it has a scale of its own.

    Args:
        call_defaults (`Mapping[str, Any]`):
            Of the pipeline.
        given (`Mapping[str, Any]`):
            The arguments that the caller gave.

    Raises:
        ValueError: If the caller gave both `guidance_scale` and `guider`.
    """
    if given.get("guider") is not None and "guidance_scale" in given:
        raise ValueError("Give `guidance_scale` or a `guider`, which has one of its own, not both.")
    replaced = {"shared_noise": "latents", "guidance_scale": "guider"}
    return {
        name: value
        for name, value in call_defaults.items()
        if name != AREA and given.get(replaced.get(name, name)) is None
    }


def with_call_defaults(call: Call) -> Call:
    """Let arguments of a pipeline's call that are left out take their values from its `call_defaults`, then from the
    signature.

    Args:
        call (`Callable`):
            A method of the pipeline.
    """
    names = list(inspect.signature(call).parameters)

    @functools.wraps(call)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names[1:], args, strict=False)), **kwargs}
        defaults = defaults_beside(self.config.call_defaults, given)
        left_out = {name: value for name, value in defaults.items() if name not in given}
        return call(self, *args, **left_out, **kwargs)

    return called  # type: ignore[return-value]
