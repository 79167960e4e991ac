"""Labelled texts from files: .tsv, .csv, JSON, Parquet, or a folder saved by `datasets`."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from captum_sig.data.columns import ColumnChoice, checked_text, string_columns
from captum_sig.data.optional import optional_import

ROWS_AT_ONCE = 1024  # out of Parquet and `datasets`

Rows = Iterator[tuple[str, list[Any]]]  # where it stands; its text, and its label if there are any


@dataclass(frozen=True)
class Record:
    """One text, and its label as written in the data."""

    text: str
    label: str | None


def read_records(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
) -> list[Record]:
    r"""Labelled texts, in the order of the file.

    The file's ending chooses one of `READERS`. Text files are UTF-8, and blank lines in them are
    skipped; .tsv and .csv begin with a header; a quote in a .tsv is a character like any other.

    A label is the class's name where `datasets` keeps one for the number; whole numbers lose their
    decimal point; nothing, null, NaN, and −1 where classes have names are None.

    Args:
        path: a file, or a folder that `datasets` saved.
        text_column: by default the first of `TEXT_COLUMNS` (see `captum_sig.data.columns`) in any
            case, else the only column of strings beside the labels.
        label_column: by default the first of `LABEL_COLUMNS` in any case, else, or for "", none.
        limit: read so many records and nothing that follows them.

    Raises:
        ValueError: if the file is not what its ending says or holds no texts, if columns are
            missing or unclear, a text is no string, or pyarrow or datasets is not installed.
        OSError: if the file is not there or cannot be opened.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "reviews.tsv")
    ...     _ = path.write_text('Sentence\tlabel\nA "quiet" joy .\t1\nToo long .\t\n')
    ...     read_records(path)
    [Record(text='A "quiet" joy .', label='1'), Record(text='Too long .', label=None)]
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    ending = "/" if path.is_dir() else path.suffix.lower()
    if ending not in READERS:
        known = f"{', '.join(READERS)} (a folder that datasets saved)"
        raise ValueError(f"{path} ends in none of {known}: convert or rename it")
    rows = READERS[ending](ColumnChoice(path, text_column, label_column, limit))
    records = []
    for where, (text, *label) in islice(rows, limit):
        try:
            records.append(Record(checked_text(text), _label(*label)))
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from None
    if not records:
        raise ValueError(f"{path} holds no texts: it needs a row with a text at least")
    return records


def _label(value: Any = None) -> str | None:
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # as pandas writes 1 if some are missing
        value = int(value)
    if isinstance(value, (str, int, float)):
        return str(value)
    got = type(value).__name__
    raise ValueError(f"the label is a {got}; wanted a string or number: choose --label-column")


def _lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file with their ends; only \n ends one."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode().removeprefix("" if offset else "\ufeff")
            except UnicodeDecodeError as error:
                place = f"line {number}, byte {offset + error.start} of the file"
                raise ValueError(f"{path} is not UTF-8 at {place}: save it as UTF-8") from None
            offset += len(line)


def _tsv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(_lines(path), 1):
        yield number, line.removesuffix("\n").removesuffix("\r").split("\t")


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(path), strict=True)
    number = 1  # where the row begins: line breaks may stand in its quotes
    try:
        for fields in reader:
            yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        wanted = 'wanted quotes as in RFC 4180: "a ""b"", c"'
        raise ValueError(f"{path}, line {number}: {error}; {wanted}") from None


def _delimited(
    wanted: ColumnChoice, split: Callable[[Path], Iterator[tuple[int, list[str]]]]
) -> Rows:
    rows = ((n, fields) for n, fields in split(wanted.path) if any(map(str.strip, fields)))
    _, header = next(rows, (0, []))
    if not header:
        return
    places = [header.index(name) for name in wanted.columns(header, header)]
    for number, fields in rows:
        if len(fields) != len(header):
            raise ValueError(
                f"{wanted.path}, line {number}: got {len(fields)} fields; wanted {len(header)} as "
                "in the header: fields with commas or tabs need a .csv with quotes"
            )
        yield f"line {number}", [fields[place] for place in places]


def _json_lines(wanted: ColumnChoice) -> Rows:
    form = "an object on each line (a list of objects is .json)"
    lines = ((f"line {n}", line) for n, line in enumerate(_lines(wanted.path), 1) if line.strip())
    parsed = ((where, _parsed(wanted, where, line, form)) for where, line in lines)
    return _objects(wanted, parsed, form)


def _json_list(wanted: ColumnChoice) -> Rows:
    form = "a list of objects (an object on each line is .jsonl)"
    values = _parsed(wanted, "as a whole", "".join(_lines(wanted.path)).rstrip() or "[]", form)
    if not isinstance(values, list):
        raise ValueError(f"{wanted.path} holds a {type(values).__name__}; wanted {form}")
    return _objects(wanted, ((f"row {n}", value) for n, value in enumerate(values, 1)), form)


def _parsed(wanted: ColumnChoice, where: str, text: str, form: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(f"{wanted.path}, {where},", form, error) from None


def _objects(wanted: ColumnChoice, found: Iterable[tuple[str, Any]], form: str) -> Rows:
    rows = list(islice(found, wanted.limit))  # any of them may be the first to have a label
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{wanted.path}, {where}: got a {type(row).__name__}; wanted {form}")
    if rows:
        present = list(dict.fromkeys(name for _, row in rows for name in row))
        strings = [name for name in present if any(isinstance(r.get(name), str) for _, r in rows)]
        columns = wanted.columns(present, strings)
        yield from ((where, list(map(row.get, columns))) for where, row in rows)


def _parquet(wanted: ColumnChoice) -> Rows:
    arrow, parquet = (
        optional_import(name, "reading Parquet") for name in ("pyarrow", "pyarrow.parquet")
    )
    try:
        with parquet.ParquetFile(wanted.path) as file:
            schema = file.schema_arrow
            columns = wanted.columns(schema.names, string_columns(schema))
            metadata = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
            feature = metadata.get("info", {}).get("features", {}).get(columns[-1])
            names = feature.get("names") if isinstance(feature, dict) else None
            batches = file.iter_batches(ROWS_AT_ONCE, columns=columns)
            yield from _of_batches((batch.to_pydict() for batch in batches), columns, names)
    except (arrow.ArrowException, OSError) as error:
        raise _unreadable(wanted.path, "Parquet", error) from error


def _saved(wanted: ColumnChoice) -> Rows:
    if not any((wanted.path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise ValueError(f"{wanted.path} is a folder but none saved by datasets: name a file in it")
    datasets = optional_import("datasets", "reading this folder")
    try:
        found = datasets.load_from_disk(str(wanted.path))
    except Exception as error:  # whatever it stumbles over: KeyError, TypeError, …
        raise _unreadable(wanted.path, "a folder saved by datasets", error) from error
    if isinstance(found, dict):
        if len(found) != 1:
            splits = ", ".join(str(wanted.path / split) for split in found)
            raise ValueError(f"{wanted.path} holds {len(found)} splits: name one of {splits}")
        (found,) = found.values()
    kinds = {name: getattr(kind, "dtype", None) for name, kind in found.features.items()}
    strings = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
    columns = wanted.columns(list(kinds), strings)
    names = getattr(found.features[columns[-1]], "names", None)
    batches = found.with_format(None).select_columns(columns).iter(ROWS_AT_ONCE)
    yield from _of_batches(batches, columns, names)


def _of_batches(
    batches: Iterable[Mapping[str, Any]], columns: list[str], names: Sequence[str] | None
) -> Rows:
    rows = (row for batch in batches for row in zip(*map(batch.get, columns), strict=True))
    classes = {-1: None, **dict(enumerate(names))} if names else {}
    for number, (text, *label) in enumerate(rows, 1):
        found = [classes.get(one, one) if isinstance(one, int) else one for one in label]
        yield f"row {number}", [text, *found]


def _unreadable(what: object, form: str, error: BaseException) -> ValueError:
    return ValueError(f"{what} cannot be read as {form}: {' '.join(str(error).split())}")


READERS: dict[str, Callable[[ColumnChoice], Rows]] = {
    ".tsv": functools.partial(_delimited, split=_tsv_fields),
    ".csv": functools.partial(_delimited, split=_csv_fields),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".parquet": _parquet,
    "/": _saved,  # a folder
}
