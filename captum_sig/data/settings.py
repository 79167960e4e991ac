"""The settings file of a folder of results, which decides whether a run may be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise a ValueError if the file is missing or holds something else."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} has no {path.name}, the settings of its results: use another folder"
        ) from None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is corrupt: use another folder")
    return settings


def check_same_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a ValueError if results in a folder were made with other settings than those of now.

    Only the names in `now` are compared; tuples count as lists, as `before` was read from JSON.
    """
    for name, value in json.loads(json.dumps(now, allow_nan=False)).items():
        if before.get(name) != value:
            raise ValueError(
                f"{folder} was made with {name} {before.get(name)!r}, not {value!r}: use the same "
                "settings, or another folder"
            )
