# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single arguments: one sentence that names the argument, the accepted values and the given value.

A wrong type is a `TypeError`, a wrong value a `ValueError`. NumPy's scalars are numbers and flags like Python's.
"""

import functools
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Collection
from typing import Any, TypeGuard, TypeVar

import numpy as np


Function = TypeVar("Function", bound=Callable[..., Any])

# Maximum width and height in pixels that H.264 can encode.
MAX_SIDE = 16384

# Maximum width times height in pixels of the highest level of H.264, for example 8192x4352.
MAX_AREA = 139_264 * 16 * 16

# Maximum of counts: 32 bits with a sign.
MAX_COUNT = 2**31 - 1

# Maximum of 64 bits with a sign.
MAX_SEED = 2**63 - 1


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a value is an integer, and no flag."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def integer(name: str, value: object, low: int = 1, high: int = MAX_COUNT, multiple_of: int = 1) -> int:
    """Check an integer in a range.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.
        low (`int`, *optional*, defaults to 1):
            Minimum.
        high (`int`, *optional*, defaults to 2**31 - 1):
            Maximum.
        multiple_of (`int`, *optional*, defaults to 1):
            Required divisor.

    Returns:
        `int`: The value as a Python integer.
    """
    kind = "an integer" if multiple_of == 1 else f"a multiple of {multiple_of}"
    accepted = f"`{name}` must be {kind} from {low} to {high}, got {shown(value)}."
    if not is_integer(value):
        raise TypeError(accepted)
    whole = int(value)
    if not low <= whole <= high or whole % multiple_of:
        raise ValueError(accepted)
    return whole


def side(name: str, value: object, multiple_of: int = 1) -> int:
    """Check a width or a height in pixels.

    Args:
        name, value, multiple_of:
            As for [`integer`].
    """
    return integer(name, value, multiple_of, MAX_SIDE, multiple_of)


def area(width: int, height: int) -> None:
    """Check the area of a frame whose sides are valid.

    Args:
        width, height (`int`):
            Size in pixels.
    """
    if width * height > MAX_AREA:
        raise ValueError(f"`width` times `height` must be at most {MAX_AREA} pixels, got {width}x{height}.")


def box(name: str, value: Any) -> np.ndarray:
    """Check a box in pixels.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.

    Returns:
        `np.ndarray`: float64 x0, y0, x1, y1.
    """
    accepted = f"`{name}` must be a box x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {shown(value)}."
    try:
        corners = np.array([number(name, side) for side in value])
    except (TypeError, ValueError) as error:
        raise type(error)(accepted) from error
    if corners.shape != (4,) or (corners[2:] <= corners[:2]).any():
        raise ValueError(accepted)
    return corners


def number(
    name: str,
    value: object,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Check a finite number in a range.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.
        low, high (`float`, *optional*):
            Minimum and maximum, inclusive.
        above, below (`float`, *optional*):
            Exclusive bounds.

    Returns:
        `float`: The value as a Python float.
    """
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    accepted = f"`{name}` must be a finite number{words and f', {words}'}, got {shown(value)}."
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(accepted)
    try:
        real = float(value)
    except OverflowError:  # an integer too large for a float
        real = math.inf
    if (
        not math.isfinite(real)
        or (low is not None and real < low)
        or (high is not None and real > high)
        or (above is not None and real <= above)
        or (below is not None and real >= below)
    ):
        raise ValueError(accepted)
    return real


def flag(name: str, value: object) -> bool:
    """Check a flag, `True` or `False`.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False, got {shown(value)}.")
    return bool(value)


def one_of(name: str, value: object, accepted: Collection[str]) -> str:
    """Check one of several words.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.
        accepted (`Collection[str]`):
            The accepted words.
    """
    if not isinstance(value, str) or value not in accepted:
        words = ", ".join(f'"{word}"' for word in accepted)
        raise (ValueError if isinstance(value, str) else TypeError)(
            f"`{name}` must be one of {words}, got {shown(value)}."
        )
    return value


def path(name: str, value: object) -> str:
    """Check a path or an fsspec URL, which need not exist.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.

    Returns:
        `str`: The value as text.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path, got {shown(value)}.")
    return os.fspath(value)


def instance(name: str, value: object, kind: type | tuple[type, ...]) -> Any:
    """Check an instance of a class.

    Args:
        name (`str`):
            Name of the argument.
        value:
            The given value.
        kind (`type` or `tuple[type, ...]`):
            The accepted class or classes.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        accepted = " or ".join(_article(kind.__name__) for kind in kinds)
        raise TypeError(f"`{name}` must be {accepted}, got {shown(value)}.")
    return value


def shown(value: object, longest: int = 80) -> str:
    """Format a value for a message: the value itself if it is short, otherwise its class.

    Args:
        value:
            The given value.
        longest (`int`, *optional*, defaults to 80):
            Maximum length in characters.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = longest + 1
    try:
        text = " ".join(short.repr(value).split())
    except ValueError:  # Python does not format integers of more than 4300 digits
        text = ""
    return text if 0 < len(text) <= longest else _article(type(value).__name__)


def python_numbers(function: Function) -> Function:
    """Let a function accept NumPy's scalars, which are converted to Python's.

    Args:
        function (`Callable`):
            Any function or method.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    return called  # type: ignore[return-value]


def _plain(value: object) -> Any:
    for kind, plain in ((np.bool_, bool), (np.integer, int), (np.floating, float)):
        if isinstance(value, kind):
            return plain(value)
    return value


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiouAEIOU" else f"a {noun}"


def counted(number: int, noun: str) -> str:
    """Return a number with a noun, such as "1 frame" or "2 frames".

    Args:
        number (`int`):
            The number.
        noun (`str`):
            The noun, in the singular.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
