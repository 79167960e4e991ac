"""Warnings that point at the caller's line, not at the package's."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

INSIDE = {Path(__file__).parent.name, "captum", "contextlib", "functools"}


class TruncationWarning(UserWarning):
    """Texts exceed what the model reads, and their ends are dropped."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the nearest frame outside this package and what it calls through.

    So Python's default filter shows a warning once for each place in the caller's code.
    """
    level = 2  # as `warnings.warn` counts: 1 is this function
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in INSIDE:
        level += 1
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=level)
