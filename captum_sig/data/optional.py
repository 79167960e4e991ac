"""Packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any


def optional_import(name: str, what: str, extra: str = "data") -> Any:
    """A module of a package that not everybody has.

    Raises:
        ValueError: if it is not installed; `what` needs it, and `extra` brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"{what} needs {name}: pip install 'captum-sig[{extra}]'"
        raise ValueError(message) from error
