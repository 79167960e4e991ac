"""A traced path in strings: the sentence that a model was asked about on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
