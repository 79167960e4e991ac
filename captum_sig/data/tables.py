"""Tables of results, written as CSV or Markdown or shown in a terminal.

A row maps columns to values: strings, numbers, booleans, or None for an empty cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captum_sig._files import replace_text

if TYPE_CHECKING:
    from rich.table import Table


Row = Mapping[str, Any]
Formats = Mapping[str, str]


def write_csv(rows: Sequence[Row], columns: Sequence[str], path: str | Path) -> None:
    """Write a table as CSV (RFC 4180, UTF-8) with a header and every digit of its floats.

    The file is replaced whole or not at all, as by `replace_text`.

    Raises:
        ValueError: if a row lacks a column.
        OSError: if the file cannot be written.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *_cells(_values(rows, columns), columns, {})])
    replace_text(Path(path), text.getvalue())


def to_markdown(rows: Sequence[Row], columns: Sequence[str], formats: Formats | None = None) -> str:
    r"""Return a table in GitHub's Markdown; columns of numbers are aligned to the right.

    Args:
        rows: the rows of the table; columns that are not requested are left out.
        columns: the columns, in this order.
        formats: format specifiers for columns of numbers, such as ".3f"; default: all digits.

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
    header, *body = [map(_escaped, line) for line in (columns, *_cells(values, columns, formats))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rules, *body))


def to_terminal(
    rows: Sequence[Row], columns: Sequence[str], formats: Formats | None = None
) -> Table:
    """Return a table for a terminal; arguments, alignment and errors are those of `to_markdown`."""
    from rich.table import Table
    from rich.text import Text  # rich reads brackets in a plain string as markup

    values = _values(rows, columns)
    table = Table()
    for column, numeric in zip(columns, _numeric(values, columns), strict=True):
        table.add_column(
            Text(column),
            justify="right" if numeric else "left",
            no_wrap=column == columns[0],  # it names the rows
            overflow="fold",
        )
    for row in _cells(values, columns, formats):
        table.add_row(*map(Text, row))
    return table


def _values(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Any]]:
    """Return the columns of every row in Python's own types."""
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if column not in row]:
            raise ValueError(
                f"row {number} of the table has no {', '.join(map(repr, missing))}: give a value "
                f"(or None) beside {', '.join(map(repr, row))}"
            )
    return [[_python(row[column]) for column in columns] for row in rows]


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _cells(
    values: list[list[Any]], columns: Sequence[str], formats: Formats | None
) -> list[list[str]]:
    specs = [(formats or {}).get(column) for column in columns]
    return [[_cell(value, spec) for value, spec in zip(row, specs, strict=True)] for row in values]


def _cell(value: Any, spec: str | None) -> str:
    if spec is not None and _is_number(value):
        return format(value, spec)
    return "" if value is None else str(value)  # of a float: all digits


def _numeric(values: list[list[Any]], columns: Sequence[str]) -> list[bool]:
    """Report for each column whether it holds numbers, and nothing else but None."""
    cells = [[row[i] for row in values if row[i] is not None] for i in range(len(columns))]
    return [bool(column) and all(map(_is_number, column)) for column in cells]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").splitlines())
