"""Record the tables that `captum-sig evaluate` wrote.

captum-sig evaluate dev.tsv --output results …
python -m tests.benchmarks.evaluated results --record NAME
"""

import argparse
import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.benchmarks.record import add_record_option, show_and_record

FILES = {"methods": "table.csv", "differences": "paired.csv"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file; cells that are numbers become numbers, empty ones None."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def _value(cell: str) -> str | int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(cell)
    return cell or None


def main(arguments: Sequence[str] | None = None) -> None:
    """Show and record."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.evaluated", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("folder", type=Path, help="the folder of the command's output")
    add_record_option(options)
    given = options.parse_args(arguments)
    tables = {name: rows_of(given.folder / file) for name, file in FILES.items()}
    show_and_record(given, __spec__.name, tables)


if __name__ == "__main__":
    main()
