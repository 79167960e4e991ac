"""Import packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any


def optional_import(name: str, what: str, extra: str = "data") -> Any:
    """Import a module, or raise a ValueError that names the extra of this package with it.

    `what` is the feature that needs the module.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"{what} needs {name}: pip install 'captum-sig[{extra}]'"
        raise ValueError(message) from error
