"""Tables of results, written as CSV or Markdown or shown in a terminal.

A row maps columns to values: strings, numbers, booleans, or None for an empty cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_sig._files import replacing_text
from captum_sig._spreadsheets import write_rows

if TYPE_CHECKING:
    from rich.table import Table


Row = Mapping[str, Any]
Formats = Mapping[str, str]


def write_csv(rows: Iterable[Row], columns: Sequence[str], path: str | Path) -> None:
    """Write a table as CSV (RFC 4180, UTF-8) with a header and every digit of its floats.

    Strings pass through `spreadsheet_safe`. The file is replaced whole or not at all, as by
    `replace_text`.

    Raises:
        ValueError: if a row lacks a column.
        OSError: if the file cannot be written.
    """
    lines = (_values(number, row, columns) for number, row in enumerate(rows, 1))
    with replacing_text(Path(path)) as file:
        write_rows(file, itertools.chain([columns], lines))


def _values(number: int, row: Row, columns: Sequence[str]) -> list[Any]:
    _check_columns(number, row, columns)
    return [row[column] for column in columns]


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
    cells, numeric = _cells(rows, columns, formats)
    rules = ["---:" if is_numeric else "---" for is_numeric in numeric]
    header, *body = [map(_escaped, line) for line in (columns, *cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rules, *body))


def to_terminal(
    rows: Sequence[Row], columns: Sequence[str], formats: Formats | None = None
) -> Table:
    """Return a table for a terminal; arguments, alignment and errors are those of `to_markdown`."""
    from rich.table import Table
    from rich.text import Text  # rich reads brackets in a plain string as markup

    cells, numeric = _cells(rows, columns, formats)
    table = Table()
    for column, is_numeric in zip(columns, numeric, strict=True):
        table.add_column(
            Text(column),
            justify="right" if is_numeric else "left",
            no_wrap=column == columns[0],  # it names the rows
            overflow="fold",
        )
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def _cells(
    rows: Sequence[Row], columns: Sequence[str], formats: Formats | None = None
) -> tuple[list[list[str]], list[bool]]:
    """Return the text of all cells, and for each column whether it has only numbers and None."""
    for number, row in enumerate(rows, 1):
        _check_columns(number, row, columns)
    specs = formats or {}
    cells = [[_cell(row[column], specs.get(column)) for column in columns] for row in rows]
    values = [[row[column] for row in rows if row[column] is not None] for column in columns]
    return cells, [bool(column) and all(map(_is_number, column)) for column in values]


def _check_columns(number: int, row: Row, columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in row]:
        raise ValueError(
            f"row {number} of the table has no {', '.join(map(repr, missing))}: give a value "
            f"(or None) beside {', '.join(map(repr, row))}"
        )


def _cell(value: Any, spec: str | None) -> str:
    if spec is not None and _is_number(value):
        return format(value, spec)
    return "" if value is None else str(value)  # of a float: all digits


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").splitlines())
