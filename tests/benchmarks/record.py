"""Figures in files: what a command measured, and with which command, version, day and machine.

`python -m tests.benchmarks.render` writes RESULTS.md and its neighbours from these files.
"""

import argparse
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from captum_sig._files import replace_text
from captum_sig.data.tables import to_markdown

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "captum", "transformers")
DIGITS = 6  # significant ones of a float

Value = str | int | float | bool | None
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Figures:
    """The content of a file of figures."""

    name: str
    command: str
    commit: str
    date: str
    machine: dict[str, Any]
    tables: dict[str, list[dict[str, Value]]]
    figures: dict[str, Value]
    transcribed: str | None = None  # "<file> at <commit>": measured before figures had files

    def row(self, table: str, **values: Value) -> dict[str, Value]:
        """Return the one row with these values in these columns.

        Raises:
            ValueError: if there is none, or more than one.
        """
        rows = self.tables[table]
        matching = [row for row in rows if all(row[key] == of for key, of in values.items())]
        if len(matching) != 1:
            raise ValueError(
                f"{len(matching)} rows of table {table!r} in {self.name!r} have {values}: give the "
                "values that one row has"
            )
        return matching[0]


def record(
    name: str,
    tables: Mapping[str, Sequence[Row]],
    *,
    command: str,
    figures: Mapping[str, Value] | None = None,
    packages: Sequence[str] = (),
    folder: Path | None = None,
) -> Path:
    """Write figures to `<folder>/<name>.json`, beside command, commit, date and machine.

    Args:
        name: lower-case letters, digits and underscores.
        tables: rows by the table's name; a row maps columns to strings, numbers, booleans or None,
            and all rows of a table have the same columns. Floats keep 6 significant digits.
        command: the line that writes this file; see `command_line`.
        figures: single figures by name.
        packages: distributions whose versions matter, beside those of `PACKAGES`.
        folder: where the file goes; by default the project's.

    Raises:
        ValueError: if the name, a column or a value is not of this form.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"a record is named {name!r}: use lower-case letters, digits and _ alone")
    content = {
        "name": name,
        "command": command,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": _machine(packages),
        "tables": {table: _rows(table, rows) for table, rows in tables.items()},
        "figures": {key: _value(key, value) for key, value in (figures or {}).items()},
    }
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    replace_text(path, _as_text(content))
    return path


def read(name: str, folder: Path | None = None) -> Figures:
    """Return the figures of a file that `record` wrote.

    Raises:
        FileNotFoundError: if there is none of this name; the message lists the names.
    """
    folder = folder or RESULTS
    path = folder / f"{name}.json"
    if not path.exists():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
        raise FileNotFoundError(f"no record {name!r}: choose from {names}")
    return Figures(**json.loads(path.read_text(encoding="utf-8")))


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Let a command write its figures to a file: see `show_and_record`."""
    parser.add_argument("--record", metavar="NAME", help="write the figures to results/NAME.json")


def show_and_record(
    options: argparse.Namespace,
    module: str,
    tables: Mapping[str, Sequence[Row]],
    figures: Mapping[str, Value] | None = None,
) -> None:
    """Print tables and single figures, and record them if the command was given a name for them.

    Args:
        options: what `add_record_option` added to.
        module: the command's, `__spec__.name`.
        tables: as in `record`; what is nested in a row is flattened, and what a row lacks is None.
        figures: as in `record`.
    """
    tables = {name: _filled([flattened(row)[0] for row in rows]) for name, rows in tables.items()}
    for name, rows in tables.items():
        shown = [{key: _rounded(value) for key, value in row.items()} for row in rows]
        print(f"{name}:\n{to_markdown(shown, list(rows[0]) if rows else [])}")
    for name, value in (figures or {}).items():
        print(f"{name}: {_rounded(value)}")
    if options.record is not None:
        command = command_line(module.removesuffix(".__main__"))
        print(record(options.record, tables, command=command, figures=figures))


def _rounded(value: Value) -> Value:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def flattened(nested: Mapping[Any, Any], *columns: str) -> list[dict[str, Any]]:
    """Return nested mappings as rows: the keys of the outer ones fill these columns.

    Names of mappings that are nested more deeply are joined by underscores.

    >>> flattened({"bert": {"16": {"s": {"a": 1, "b": 2}}}}, "model", "length")
    [{'model': 'bert', 'length': '16', 's_a': 1, 's_b': 2}]
    """
    if columns:
        return _filled([
            {columns[0]: key, **row}
            for key, inner in nested.items()
            for row in flattened(inner, *columns[1:])
        ])  # fmt: skip
    row: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            row |= {f"{key}_{inner}": of for inner, of in flattened(value)[0].items()}
        else:
            row[key] = value
    return [row]


def _filled(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with None where one lacks a column of another."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def command_line(module: str, arguments: Sequence[str] | None = None) -> str:
    """Return `python -m <module> …` as it was given, without the folders of this machine.

    Of a path that begins at the root or goes up, the last two parts stay.

    >>> command_line("tests.benchmarks.top", ["--model", "/data/models/minilm", "--seed", "0"])
    'python -m tests.benchmarks.top --model models/minilm --seed 0'
    """
    given = sys.argv[1:] if arguments is None else arguments
    return " ".join(["python", "-m", module, *(shlex.quote(_shortened(part)) for part in given)])


def _shortened(argument: str) -> str:
    outside = argument.startswith(("/", "../", "~"))
    return "/".join(Path(argument).parts[-2:]) if outside else argument


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found.group(1) if found else platform.machine()


def _machine(packages: Sequence[str]) -> dict[str, Value]:
    facts: dict[str, Value] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    for package in (*PACKAGES, *packages):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def _commit() -> str:
    """The commit, with "+" if code differs from it; "unknown" outside a checkout."""
    code = ("captum_sig", "tests", ":!*.md", ":!*.jinja", ":!tests/benchmarks/results")
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", *code) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    call = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def _rows(table: str, rows: Sequence[Row]) -> list[dict[str, Value]]:
    for number, row in enumerate(rows, 1):
        if list(row) != list(rows[0]):
            raise ValueError(
                f"row {number} of table {table!r} has the columns {list(row)} where the first has "
                f"{list(rows[0])}: give all rows the same, None where there is no value"
            )
    return [{key: _value(f"{table}.{key}", row[key]) for key in row} for row in rows]


def _value(where: str, value: Any) -> Value:
    if hasattr(value, "item"):  # a scalar of NumPy or PyTorch
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(
            f"{where} is {value!r}: give a string, a finite number, a boolean, or None for no value"
        )
    return float(f"{value:.{DIGITS}g}")


def _as_text(content: Mapping[str, Any]) -> str:
    """JSON with each row of a table on one line, so that differences can be read."""
    tables = content["tables"]
    text = json.dumps({**content, "tables": {}}, indent=1, ensure_ascii=False, allow_nan=False)
    parts = [
        f"\n  {json.dumps(name)}: [\n   "
        + ",\n   ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        + "\n  ]"
        for name, rows in tables.items()
    ]
    return text.replace('"tables": {}', '"tables": {' + ",".join(parts) + "\n }", 1) + "\n"
