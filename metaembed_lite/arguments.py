"""Checks of single arguments, shared by all modules. No torch."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number from ``least`` up. Floats and bools are not.

    Example:
        >>> is_count(3), is_count(True), is_count(3.0)
        (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_finite_number(value: Any) -> bool:
    """Whether a value is a real, finite number. Bools are not.

    Example:
        >>> is_finite_number(0.5), is_finite_number(float("nan")), is_finite_number(True)
        (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole_number(value: Any, name: str, least: int = 1, reason: str = "") -> int:
    """The value as an ``int``. Integers of numpy and pandas are accepted, floats and bools are not.

    Args:
        value: the argument.
        name: of the argument, for the error.
        least: the smallest value allowed. Defaults to 1.
        reason: a sentence for the error, before what to do. Defaults to none.

    Raises:
        ValueError: naming the argument, if the value is not a whole number of at least ``least``.

    Example:
        >>> whole_number(64, "r_c")
        64
        >>> whole_number(0, "r_c")
        Traceback (most recent call last):
        ...
        ValueError: r_c=0: use a whole number from 1 up
    """
    if not is_count(value, least):
        raise ValueError(f"{name}={value!r}: {reason}use a whole number from {least} up")
    return int(value)


def check_counts(**counts: Any) -> None:
    """Check that each argument is a whole number from 1 up, or None.

    Raises:
        ValueError: naming the argument and its value.

    Example:
        >>> check_counts(dim=32, lora_rank=None)
    """
    for name, value in counts.items():
        if value is not None and not is_count(value):
            raise ValueError(f"{name}={value!r}: use a whole number from 1 up, or None")
