"""Integers that users pass: of Python, NumPy or PyTorch, within limits."""

from __future__ import annotations

import operator

# Beyond these a mistyped number would take hours and gigabytes, and no result is better.
MAX_N_STEPS = 2_000  # points of a path at which a gradient is taken, for each word
MAX_BACKGROUNDS = 10_000  # of a text, drawn by `contexts.sampled`
MAX_N_DRAWS = 1_000  # of a random baseline


def checked_integer(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return an integer of any type, such as NumPy's or PyTorch's, as Python's.

    Raises:
        ValueError: if the value is not an integer from `least` to `most`.

    >>> checked_integer("n_steps", 3_000, most=2_000)
    Traceback (most recent call last):
    ValueError: n_steps must be an integer from 1 to 2,000, got 3,000
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # also PyTorch's tensors of several numbers
        number = None
    if number is None or number < least or (most is not None and number > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        got = repr(value) if number is None else shown_number(number)
        raise ValueError(f"{name} must be an integer {wanted}, got {got}")
    return number


def shown_number(number: int) -> str:
    """Return a number with commas, or only how many digits it has.

    >>> shown_number(-3_000), shown_number(10**60)
    ('-3,000', 'a number of more than 30 digits')
    """
    return f"{number:,}" if abs(number) < 10**30 else "a number of more than 30 digits"
