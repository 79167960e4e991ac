"""Import packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any


def optional_import(name: str, what: str, extra: str = "data") -> Any:
    """Import a module, or raise a ValueError that names the extra of this package with it.

    `what` is the feature that needs the module. The package is not on PyPI, so that the advice is
    for a checkout.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'{what} needs {name}: run pip install ".[{extra}]" in the checkout of captum_sig'
        ) from error
