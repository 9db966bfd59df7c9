# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single arguments: one sentence that names the argument, says what is accepted and what was given.

A wrong type is a `TypeError`, a wrong value a `ValueError`. NumPy's scalars are numbers and flags like Python's.
"""

import functools
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import numpy as np


Function = TypeVar("Function", bound=Callable[..., Any])

# Width and height in pixels: as many as H.264 can encode.
MAX_SIDE = 16384

# Width times height in pixels: as many as the highest level of H.264 allows, of which 8192x4352 is one shape.
MAX_AREA = 139_264 * 16 * 16

# Of anything that is counted: what fits into 32 bits with a sign.
MAX_COUNT = 2**31 - 1

# What fits into 64 bits with a sign.
MAX_SEED = 2**63 - 1


def integer(name: str, value: Any, low: int = 1, high: int = MAX_COUNT, multiple_of: int = 1) -> int:
    """
    A whole number in a range.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.
        low (`int`, *optional*, defaults to 1):
            The least that is accepted.
        high (`int`, *optional*, defaults to 2**31 - 1):
            The most that is accepted.
        multiple_of (`int`, *optional*, defaults to 1):
            What it must be a multiple of.

    Returns:
        `int`: the same as a number of Python's.
    """
    kind = "an integer" if multiple_of == 1 else f"a multiple of {multiple_of}"
    accepted = f"`{name}` must be {kind} from {low} to {high}, got {shown(value)}."
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(accepted)
    whole = int(value)
    if not low <= whole <= high or whole % multiple_of:
        raise ValueError(accepted)
    return whole


def side(name: str, value: Any, multiple_of: int = 1) -> int:
    """
    A width or a height in pixels.

    Args:
        name, value, multiple_of:
            As for [`integer`].
    """
    return integer(name, value, multiple_of, MAX_SIDE, multiple_of)


def area(width: int, height: int) -> None:
    """
    The size of a frame whose sides are known to be right.

    Args:
        width, height (`int`):
            In pixels.
    """
    if width * height > MAX_AREA:
        raise ValueError(f"`width` times `height` must be at most {MAX_AREA} pixels, got {width}x{height}.")


def box(name: str, value: Any) -> np.ndarray:
    """
    A box in pixels.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.

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
    value: Any,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """
    A finite number in a range.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.
        low, high (`float`, *optional*):
            The least and the most that are accepted.
        above, below (`float`, *optional*):
            Between which it must lie.

    Returns:
        `float`: the same as a number of Python's.
    """
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    accepted = f"`{name}` must be a finite number{words and f', {words}'}, got {shown(value)}."
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(accepted)
    try:
        real = float(value)
    except OverflowError:  # a larger integer than a float can be
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


def flag(name: str, value: Any) -> bool:
    """
    `True` or `False`.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False, got {shown(value)}.")
    return bool(value)


def one_of(name: str, value: Any, accepted: Collection[str]) -> str:
    """
    One of some words.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.
        accepted (`Collection[str]`):
            The words.
    """
    if not isinstance(value, str) or value not in accepted:
        words = ", ".join(f'"{word}"' for word in accepted)
        raise (ValueError if isinstance(value, str) else TypeError)(
            f"`{name}` must be one of {words}, got {shown(value)}."
        )
    return value


def path(name: str, value: Any) -> str:
    """
    A path, or a URL of fsspec's, whether there is anything or not.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.

    Returns:
        `str`: the same as text.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path, got {shown(value)}.")
    return os.fspath(value)


def instance(name: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    """
    An object of a class.

    Args:
        name (`str`):
            Of the argument.
        value:
            What was given.
        kind (`type` or `tuple[type, ...]`):
            The class, or several of them.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        accepted = " or ".join(_article(kind.__name__) for kind in kinds)
        raise TypeError(f"`{name}` must be {accepted}, got {shown(value)}.")
    return value


def shown(value: Any, longest: int = 80) -> str:
    """
    A value in a message: written out where that is short, else its class.

    Args:
        value:
            What was given.
        longest (`int`, *optional*, defaults to 80):
            Characters that are short.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = longest + 1
    try:
        text = " ".join(short.repr(value).split())
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = ""
    return text if 0 < len(text) <= longest else _article(type(value).__name__)


def python_numbers(function: Function) -> Function:
    """
    Let a function be called with NumPy's scalars: it is given Python's.

    Args:
        function (`Callable`):
            Any function or method.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    return called  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    for kind, plain in ((np.bool_, bool), (np.integer, int), (np.floating, float)):
        if isinstance(value, kind):
            return plain(value)
    return value


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiouAEIOU" else f"a {noun}"
