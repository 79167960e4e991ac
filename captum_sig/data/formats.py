"""Readers of rows: text files and Parquet, also from the middle; JSON lists and `datasets` whole.

A reader names the columns of its file and yields rows as pairs: where the row stands, such as
"line 3", and either the values of the requested columns or the `ValueError` that says why they
cannot be read. Text files are UTF-8; blank lines in them are skipped.
"""

from __future__ import annotations

import codecs
import csv
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from captum_sig.data.columns import string_columns
from captum_sig.data.optional import optional_import

N_COLUMN_ROWS = 1000  # rows of JSON Lines that are searched for columns
MAX_LINE_BYTES = 2**26  # also characters of a CSV field; anything longer is not a text
BATCH_ROWS = 1024  # rows decoded at a time from Parquet and `datasets`
MIXED_BATCH_ROWS = 64  # of Parquet, where some values may be stored once for many rows
BATCH_BYTES = 2**24  # of Parquet that are decoded at a time
HEAD_BYTES = 8000  # of a text file that are searched for NUL, as git does

Place = tuple[int, int]  # text files: byte and line; Parquet: row and 0
Row = tuple[str, "list[Any] | ValueError"]
START: Place = (0, 1)


class Reader(Protocol):
    """A file or folder of rows."""

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        """Return all columns, and those that may hold strings; both are empty for an empty file.

        Args:
            n_rows: JSON has no header: search this many rows for columns, or all for None.
        """

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these columns for every row."""


class Source(Reader, Protocol):
    """A reader that can start in the middle of its file."""

    def places(
        self, size: int, limit: int | None, on_bytes: Callable[[bytes], object]
    ) -> Iterator[tuple[Place, int]]:
        """Yield where each piece of `size` rows begins, and its number of rows.

        Args:
            size: the number of rows in a piece; the last piece may have fewer.
            limit: stop after this many rows.
            on_bytes: called with the bytes that identify the file's content.
        """

    def rows(
        self, columns: Sequence[str], place: Place = START, n_rows: int | None = None
    ) -> Iterator[Row]:
        """Yield rows from `place` on: at least `n_rows`, or all up to the end of the file."""


class _Lines:
    """Iterate over the lines of an open file; `end` and `number` are those of the last line."""

    def __init__(self, file: BinaryIO, place: Place, on_bytes: Callable[[bytes], object]) -> None:
        self.file, self.on_bytes = file, on_bytes
        self.end, next_number = place
        self.number = next_number - 1
        file.seek(self.end)

    def __iter__(self) -> Iterator[bytes]:
        r"""Only \n ends a line; what exceeds `MAX_LINE_BYTES` is cut off."""
        while line := self._read():
            part = line
            while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
                part = self._read()
            self.number += 1
            yield line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line

    def _read(self) -> bytes:
        part = self.file.readline(MAX_LINE_BYTES)
        self.on_bytes(part)
        self.end += len(part)
        return part


Split = Callable[[_Lines], Iterable[Any]]  # lines → records: bytes, fields, or a csv.Error


class _TextFile:
    """Records in lines, `n_header` of them before the first row."""

    n_header = 0

    def __init__(self, path: Path, split: Split = iter) -> None:
        self.path, self.split = path, split
        with path.open("rb") as file:
            _check_is_text(path, file.read(HEAD_BYTES))

    def places(
        self, size: int, limit: int | None, on_bytes: Callable[[bytes], object]
    ) -> Iterator[tuple[Place, int]]:
        with self.path.open("rb") as file:
            lines = _Lines(file, START, on_bytes)
            end = None if limit is None else self.n_header + limit
            records = islice(filter(_is_row, self.split(lines)), self.n_header, end)
            place = START
            while n_rows := sum(1 for _ in islice(records, size)):
                yield place, n_rows
                place = lines.end, lines.number + 1

    def records(self, place: Place) -> Iterator[tuple[str, Any]]:
        """Yield each record that is not blank, the header included, and where it stands."""
        with self.path.open("rb") as file:
            lines = _Lines(file, place, lambda part: None)
            last = lines.number
            for record in self.split(lines):
                first, last = last + 1, lines.number
                if _is_row(record):
                    yield f"line {first}" if first == last else f"lines {first}–{last}", record

    def rows(
        self, columns: Sequence[str], place: Place = START, n_rows: int | None = None
    ) -> Iterator[Row]:
        n_header = self.n_header if place == START else 0
        for where, record in islice(self.records(place), n_header, None):
            yield where, _or_error(self.values, record, columns)

    def values(self, record: Any, columns: Sequence[str]) -> list[Any]:
        raise NotImplementedError


class Delimited(_TextFile):
    """Fields under a header: .csv and .tsv."""

    n_header = 1

    def __init__(self, path: Path, split: Split, fields: Callable[[Any], list[str]]) -> None:
        super().__init__(path, split)
        self.fields = fields
        _, record = next(self.records(START), ("", None))
        try:
            self.header = [] if record is None else fields(record)
        except ValueError as error:
            raise ValueError(f"the header of {path} cannot be read: {error}") from None

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        return self.header, self.header

    def values(self, record: Any, columns: Sequence[str]) -> list[str]:
        fields = self.fields(record)
        if len(fields) != len(self.header):
            raise ValueError(
                f"got {len(fields)} fields; wanted {len(self.header)} as in the header: fields "
                "with commas or tabs need a .csv with quotes"
            )
        return [fields[self.header.index(name)] for name in columns]


class JsonLines(_TextFile):
    """An object on each line: .jsonl and .ndjson."""

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        objects = []
        for _, line in islice(self.records(START), n_rows):
            with suppress(ValueError):  # `rows` reports it
                objects.append(_parsed(line))
        return _object_columns(objects)

    def values(self, record: bytes, columns: Sequence[str]) -> list[Any]:
        return _object_values(_parsed(record), columns)


class ParquetFile:
    """Rows in groups."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrow = optional_import("pyarrow", "reading Parquet")
        self.parquet = optional_import("pyarrow.parquet", "reading Parquet")
        try:
            self.metadata = self.parquet.read_metadata(path)
        except (self.arrow.ArrowException, OSError) as error:
            raise _unreadable(path, "Parquet", error) from error
        self.schema = self.metadata.schema.to_arrow_schema()

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        return self.schema.names, string_columns(self.schema)

    def places(
        self, size: int, limit: int | None, on_bytes: Callable[[bytes], object]
    ) -> Iterator[tuple[Place, int]]:
        """Read only the footer, which holds the place and size of every column."""
        with self.path.open("rb") as file:
            file.seek(-8 - self.metadata.serialized_size, 2)
            on_bytes(file.read())
        n_rows = min(self.metadata.num_rows, limit or self.metadata.num_rows)
        for start in range(0, n_rows, size):
            yield (start, 0), min(size, n_rows - start)

    def rows(
        self, columns: Sequence[str], place: Place = START, n_rows: int | None = None
    ) -> Iterator[Row]:
        """Read the row groups that hold these rows; numbered classes become their names."""
        start, end = place[0], self.metadata.num_rows if n_rows is None else place[0] + n_rows
        sizes = (self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups))
        bounds = pairwise(accumulate(sizes, initial=0))
        groups = {i: low for i, (low, high) in enumerate(bounds) if low < end and high > start}
        classes = list(map(self._classes, columns))
        try:
            batches = (batch for group in groups for batch in self._batches(group, columns))
            rows = (
                row
                for batch in batches
                for row in zip(*map(_readers, map(batch.column, columns)), strict=True)
            )
            for row, readers in enumerate(rows, min(groups.values(), default=0) + 1):
                if row > start:
                    yield f"row {row}", _or_error(_read_values, readers, classes)
        except (self.arrow.ArrowException, OSError) as error:
            raise _unreadable(self.path, "Parquet", error) from error

    def _batches(self, group: int, columns: Sequence[str]) -> Iterator[Any]:
        """Read a row group so that a batch needs about `BATCH_BYTES`, however well it compresses.

        Values that repeat are stored once, in a dictionary. A small row group is read with its
        dictionary; of a large one, whose size says little about them, few rows are read at a time.
        """
        metadata = self.metadata.row_group(group)
        parts = [metadata.column(i) for i in range(metadata.num_columns)]
        parts = [
            x for x in parts if {x.path_in_schema, x.path_in_schema.split(".")[0]} & {*columns}
        ]
        n_bytes = sum(part.total_uncompressed_size for part in parts)
        n_rows, with_dictionary = BATCH_ROWS, string_columns(self.schema)
        if n_bytes > BATCH_BYTES:
            repeats = any(part.has_dictionary_page for part in parts)
            average = max(1, BATCH_BYTES * metadata.num_rows // n_bytes)
            n_rows = min(average, MIXED_BATCH_ROWS if repeats else BATCH_ROWS)
            with_dictionary = []
        with self.parquet.ParquetFile(
            self.path, metadata=self.metadata, memory_map=True, read_dictionary=with_dictionary
        ) as file:
            yield from file.iter_batches(n_rows, row_groups=[group], columns=columns)

    def _classes(self, column: str) -> dict[Any, Any]:
        """Return the names of classes that `datasets` has stored for a column."""
        stored = json.loads((self.schema.metadata or {}).get(b"huggingface", "{}"))
        feature = stored.get("info", {}).get("features", {}).get(column)
        return _classes(feature.get("names") if isinstance(feature, dict) else None)


class JsonList:
    """A list of objects, read whole: .json."""

    def __init__(self, path: Path) -> None:
        form = "a list of objects (an object on each line is .jsonl)"
        try:
            content = path.read_bytes()
            _check_is_text(path, content[:HEAD_BYTES])
            self.objects = json.loads(content.decode("utf-8-sig").rstrip() or "[]")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ValueError(f"{path}, line {line}: {_not_utf8(error)}") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise _unreadable(path, form, error) from None
        if not isinstance(self.objects, list):
            raise ValueError(f"{path} holds a {type(self.objects).__name__}; wanted {form}")

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        return _object_columns(self.objects[:n_rows])

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number, value in enumerate(self.objects, 1):
            yield f"row {number}", _or_error(_object_values, value, columns)


class SavedDataset:
    """A folder that `datasets` saved."""

    def __init__(self, path: Path) -> None:
        if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            raise ValueError(f"{path} is a folder that datasets did not save: name a file in it")
        datasets = optional_import("datasets", "reading this folder")
        try:
            dataset = datasets.load_from_disk(str(path))
        except Exception as error:  # damaged folders raise KeyError, TypeError, …
            raise _unreadable(path, "a folder saved by datasets", error) from error
        if isinstance(dataset, dict):
            if len(dataset) != 1:
                splits = ", ".join(str(path / split) for split in dataset)
                raise ValueError(f"{path} holds {len(dataset)} splits: name one of {splits}")
            (dataset,) = dataset.values()
        self.dataset = dataset.with_format(None)

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        features = self.dataset.features
        types = {name: getattr(feature, "dtype", None) for name, feature in features.items()}
        return list(types), [n for n, kind in types.items() if kind in ("string", "large_string")]

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        features = self.dataset.features
        classes = [_classes(getattr(features[name], "names", None)) for name in columns]
        batches = self.dataset.select_columns(list(columns)).iter(BATCH_ROWS)
        rows = (row for batch in batches for row in zip(*map(batch.get, columns), strict=True))
        for number, values in enumerate(rows, 1):
            yield f"row {number}", _with_class_names(values, classes)


def _is_row(record: Any) -> bool:
    """Return False for blank lines, [] and fields that are all blank; a lone "" is a row."""
    if isinstance(record, list):
        return record == [""] or any(map(str.strip, record))
    return isinstance(record, csv.Error) or bool(record.strip())


def _tsv_fields(line: bytes) -> list[str]:
    return _decoded(line).removesuffix("\n").removesuffix("\r").split("\t")


def _csv_records(lines: _Lines) -> Iterator[list[str] | csv.Error]:
    """Map bytes to characters one to one, so that an encoding error stays in its row."""
    reader = csv.reader((line.decode("latin-1") for line in lines), strict=True)
    while True:
        limit = csv.field_size_limit(MAX_LINE_BYTES)
        try:
            record: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = error
        finally:
            csv.field_size_limit(limit)
        yield record


def _csv_fields(record: list[str] | csv.Error) -> list[str]:
    if isinstance(record, csv.Error):
        raise ValueError(f'{record}; wanted quotes as in RFC 4180: "a ""b"", c"')
    return [_decoded(field.encode("latin-1")) for field in record]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(_decoded(line))
    except json.JSONDecodeError as error:
        got = f"not valid JSON at character {error.colno}: {error.msg}"
        raise ValueError(f"{got}; wanted an object on each line") from None
    except RecursionError as error:
        raise ValueError(f"not valid JSON: {error}") from None


def _object_columns(values: Iterable[Any]) -> tuple[list[str], list[str]]:
    holds_strings: dict[str, bool] = {}
    for row in values:
        for name, value in row.items() if isinstance(row, dict) else ():
            holds_strings[name] = holds_strings.get(name, False) or isinstance(value, str)
    return list(holds_strings), [name for name, strings in holds_strings.items() if strings]


def _object_values(row: Any, columns: Sequence[str]) -> list[Any]:
    """Return the values of an object, which must have the first column."""
    if not isinstance(row, dict):
        raise ValueError(f"got a {type(row).__name__}; wanted an object")
    if columns and columns[0] not in row:
        raise ValueError(f"there is no {columns[0]!r}")
    return list(map(row.get, columns))


def _classes(names: Sequence[str] | None) -> dict[Any, Any]:
    """Map the numbers of classes to their names; `datasets` uses −1 for a missing class."""
    return {-1: None, **dict(enumerate(names))} if names else {}


def _with_class_names(values: Iterable[Any], classes: Iterable[Mapping[Any, Any]]) -> list[Any]:
    return [
        names.get(value, value) if isinstance(value, int) else value
        for value, names in zip(values, classes, strict=True)
    ]


def _readers(column: Any) -> Iterator[Callable[[], Any]]:
    """Yield a function for each value of an Arrow array that returns it; equal ones are shared."""
    if not hasattr(column, "dictionary"):
        yield from (scalar.as_py for scalar in column)
        return

    @functools.cache
    def value(index: int | None) -> Any:
        return None if index is None else column.dictionary[index].as_py()

    yield from (functools.partial(value, index) for index in column.indices.to_pylist())


def _read_values(
    readers: Iterable[Callable[[], Any]], classes: Iterable[Mapping[Any, Any]]
) -> list[Any]:
    try:
        return _with_class_names([read() for read in readers], classes)
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    except (ValueError, OverflowError) as error:  # dates that Python does not know
        raise ValueError(f"a value cannot be read: {error}") from None


def _or_error(read: Callable[..., list[Any]], *arguments: Any) -> list[Any] | ValueError:
    try:
        return read(*arguments)
    except ValueError as error:
        return error


def _check_is_text(path: Path, head: bytes) -> None:
    """Refuse a file that is not UTF-8 by its first bytes: a mark of another encoding, or NUL."""
    for bits, marks in (
        ("32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),  # the first begins as UTF-16's does
        ("16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
    ):
        if head.startswith(marks):
            raise ValueError(f"{path} is UTF-{bits}: save it as UTF-8")
    if b"\0" in head:
        seems = _encoding_of(head)
        advice = "use a text file" if seems is None else f"it seems to be {seems}: save it as UTF-8"
        raise ValueError(f"{path} is binary, with NUL at byte {head.index(0)}; {advice}")


def _encoding_of(head: bytes) -> str | None:
    """Guess the encoding of a text whose ASCII characters have bytes of 0, by their places."""
    zeros = [head[place::4].count(0) for place in range(4)]
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if even + odd > len(head) / 2:
        guess = "UTF-32-LE" if zeros[0] < zeros[3] else "UTF-32-BE"
    elif max(even, odd) > max(1, 4 * min(even, odd)):
        guess = "UTF-16-LE" if even < odd else "UTF-16-BE"
    else:
        return None
    try:
        codecs.getincrementaldecoder(guess)().decode(head)
    except UnicodeDecodeError:
        return None
    return guess


def _decoded(line: bytes) -> str:
    if len(line) >= MAX_LINE_BYTES and not line.endswith(b"\n"):
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"not UTF-8 at byte {error.start}: save it as UTF-8")


def _unreadable(path: Path, form: str, error: BaseException) -> ValueError:
    return ValueError(f"{path} cannot be read as {form}: {' '.join(str(error).split())}")


# The formats that can be read from the middle.
FORMATS: dict[str, Callable[[Path], Source]] = {
    ".tsv": lambda path: Delimited(path, iter, _tsv_fields),
    ".csv": lambda path: Delimited(path, _csv_records, _csv_fields),
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": ParquetFile,
}
