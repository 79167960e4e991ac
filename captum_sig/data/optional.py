"""Import packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any


def optional_import(name: str, what: str, extra: str = "data") -> Any:
    """Import a module of a package that may not be installed.

    Args:
        name: of the module.
        what: the feature that needs it, named in the error.
        extra: the extra of this package that installs it.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"{what} needs {name}: pip install 'captum-sig[{extra}]'"
        raise ValueError(message) from error
