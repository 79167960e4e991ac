"""Whole numbers as arguments."""

from __future__ import annotations

import operator
from typing import Any


def whole_number(name: str, value: Any, *, at_least: int) -> int:
    """Return an integer of any kind (NumPy's and torch's too) as Python's.

    Raises:
        ValueError: for anything else, and for less than `at_least`; `name` is the argument's.

    >>> whole_number("seed", 1.5, at_least=0)
    Traceback (most recent call last):
    ValueError: seed must be an integer, got 1.5
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {number}")
    return number
