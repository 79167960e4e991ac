"""Tables of results: rows that map columns to values, as CSV, Markdown or in a terminal.

A value is a string, a number, a boolean or None, which leaves its cell empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from captum_sig._files import replace_text

if TYPE_CHECKING:
    from rich.table import Table


Row = Mapping[str, Any]


def write_csv(rows: Sequence[Row], columns: Sequence[str], path: str | Path) -> None:
    """Write a table as CSV (RFC 4180, UTF-8) with a header and every digit of its floats.

    Whole or not at all, as `replace_text`.

    Raises:
        ValueError: if a row lacks a column.
        OSError: if the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows(
        [columns, *([_plain(value) for value in row] for row in _values(rows, columns))]
    )
    replace_text(Path(path), text.getvalue())


def to_markdown(
    rows: Sequence[Row], columns: Sequence[str], formats: Mapping[str, str] | None = None
) -> str:
    r"""A table in GitHub's Markdown, columns of numbers to the right.

    Args:
        rows: the table, a mapping from columns to values for each row.
        columns: which columns, in this order.
        formats: for columns of numbers, how they are written, such as ".3f"; default: all digits.

    Raises:
        ValueError: if a row lacks a column, or a format does not fit its values.

    >>> rows = [{"method": "sig", "log-odds": -1.23456}, {"method": "a|b", "log-odds": None}]
    >>> print(to_markdown(rows, ["method", "log-odds"], {"log-odds": ".2f"}), end="")
    | method | log-odds |
    | --- | ---: |
    | sig | -1.23 |
    | a\|b |  |
    """
    values = _values(rows, columns)
    rules = ["---:" if numeric else "---" for numeric in _numeric(values, columns)]
    body = [[_escaped(cell) for cell in row] for row in _formatted(values, columns, formats)]
    lines = [[_escaped(column) for column in columns], rules, *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_terminal(
    rows: Sequence[Row], columns: Sequence[str], formats: Mapping[str, str] | None = None
) -> Table:
    """A table for a terminal, columns of numbers to the right; arguments as in `to_markdown`.

    Raises:
        ValueError: as in `to_markdown`.
    """
    from rich.table import Table
    from rich.text import Text  # brackets in a plain string would be read as markup

    values = _values(rows, columns)
    table = Table()
    for column, numeric in zip(columns, _numeric(values, columns), strict=True):
        justify: Literal["left", "right"] = "right" if numeric else "left"
        names_rows = column == columns[0]
        table.add_column(Text(column), justify=justify, no_wrap=names_rows, overflow="fold")
    for row in _formatted(values, columns, formats):
        table.add_row(*map(Text, row))
    return table


def _values(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Any]]:
    """The columns of every row, in Python's own types."""
    for number, row in enumerate(rows, 1):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(
                f"row {number} of the table has no {', '.join(map(repr, missing))}: give a value "
                f"(or None) beside {', '.join(map(repr, row))}"
            )
    return [[_python(row[column]) for column in columns] for row in rows]


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _plain(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _formatted(
    values: list[list[Any]], columns: Sequence[str], formats: Mapping[str, str] | None
) -> list[list[str]]:
    chosen = [(formats or {}).get(column) for column in columns]
    return [
        [
            format(value, spec) if spec is not None and _is_number(value) else _plain(value)
            for value, spec in zip(row, chosen, strict=True)
        ]
        for row in values
    ]


def _numeric(values: list[list[Any]], columns: Sequence[str]) -> list[bool]:
    """Which columns hold numbers, and nothing else but None."""
    found = []
    for number in range(len(columns)):
        cells = [row[number] for row in values if row[number] is not None]
        found.append(bool(cells) and all(map(_is_number, cells)))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").splitlines())
