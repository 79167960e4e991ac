"""Tables as CSV that no spreadsheet takes for anything but values."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import Any, TextIO

# Where a spreadsheet may begin a cell that it would take for a formula.
_FORMULA_START = re.compile(
    r"""(?:\A | (?<=[;\t\r\n]))  (?=(?:[^\S\t\r\n] | ['"])* [-=+@\uff0d\uff1d\uff0b\uff20])
    | \A (?=[\t\r\n])""",
    re.VERBOSE,
)
_BIDI_CONTROL = re.compile("[\u202a-\u202e\u2066-\u2069]")


def spreadsheet_safe(text: str) -> str:
    r"""Return a text that no spreadsheet takes for a formula, and that keeps its neighbours' order.

    As OWASP recommends, an apostrophe precedes texts that begin with = + - @, a tab or a line
    break. It also precedes = + - @ after a semicolon, a tab or a line break, where some programs
    begin a cell. Spaces and quotes before these characters do not hide them. Characters that
    override the direction of writing are written as escapes. Numbers are not texts: leave them out.

    >>> spreadsheet_safe("=1+1"), spreadsheet_safe("a-b"), spreadsheet_safe("a\u202eb")
    ("'=1+1", 'a-b', 'a\\u202eb')
    """
    guarded = _FORMULA_START.sub("'", text)
    return _BIDI_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", guarded)


def write_rows(file: TextIO, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV (RFC 4180) with every digit of their floats; None is an empty cell.

    Strings pass through `spreadsheet_safe`.
    """
    csv.writer(file).writerows(map(_safe, row) for row in rows)


def _safe(value: Any) -> str:
    if isinstance(value, str):
        return spreadsheet_safe(value)
    return "" if value is None else str(value)
