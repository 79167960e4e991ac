"""How files are cut into pieces and read from the middle: text files by lines, Parquet by rows."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from captum_sig.data.columns import string_columns
from captum_sig.data.optional import optional_import

LOOKED_AT = 1000  # rows of JSON that tell which columns there are
LONGEST = 2**26  # bytes of a line or characters of a field; what is longer is no text
ROWS_AT_ONCE = 1024  # out of Parquet

Place = tuple[int, int]  # the first byte and its line; or the first row, and 0
Values = list[Any] | ValueError  # of a row's columns; or why they cannot be read


class Source(Protocol):
    """A file of rows."""

    def columns(self) -> tuple[list[str], list[str]]:
        """All columns, and those that may hold strings; none if the file is empty."""

    def places(
        self, size: int, limit: int | None, told: Callable[[bytes], object]
    ) -> Iterator[tuple[Place, int]]:
        """Where each piece of `size` rows begins, and how many it has; `told` gets the bytes."""

    def rows(self, place: Place, columns: Sequence[str], n_rows: int) -> Iterator[Values]:
        """The columns' values from there on, of `n_rows` at least unless the file ends."""


class Lines:
    """The lines of an open file, one byte string each, and where in the file they end."""

    def __init__(self, file: BinaryIO, place: Place, told: Callable[[bytes], object]) -> None:
        """Go to a place; `told` gets all that is read."""
        self.file, self.told = file, told
        self.end, line = place
        self.line = line - 1  # the number of the line that was read last
        file.seek(self.end)

    def __iter__(self) -> Lines:
        """Itself."""
        return self

    def __next__(self) -> bytes:
        r"""The next line; only \n ends one. What exceeds `LONGEST` is cut off."""
        line = part = self.file.readline(LONGEST)
        if not line:
            raise StopIteration
        self.told(line)
        self.end += len(line)
        self.line += 1
        while len(part) == LONGEST and not part.endswith(b"\n"):
            part = self.file.readline(LONGEST)
            self.told(part)
            self.end += len(part)
        return line.removeprefix(b"\xef\xbb\xbf") if self.line == 1 else line


Split = Callable[[Lines], Iterator[Any]]  # records, one or several lines each, or csv.Error
Fields = Callable[[Any], list[str]]  # of a record


class TextFile(ABC):
    """Records that stand one behind the other.

    Args:
        path: of the file.
        split: how lines become records.
    """

    def __init__(self, path: Path, split: Split) -> None:
        """Refuse what is no UTF-8 from its first bytes on."""
        self.path, self.split = path, split
        with path.open("rb") as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise ValueError(f"{path} is UTF-16: save it as UTF-8")

    def places(
        self, size: int, limit: int | None, told: Callable[[bytes], object]
    ) -> Iterator[tuple[Place, int]]:
        """See `Source`."""
        with self.path.open("rb") as file:
            lines = Lines(file, (0, 1), told)
            records = islice(self.body(self.split(lines)), limit)
            while True:
                place = lines.end, lines.line + 1
                n_rows = sum(1 for _ in islice(records, size))
                if not n_rows:
                    return
                yield place, n_rows

    @abstractmethod
    def body(self, records: Iterator[Any]) -> Iterator[Any]:
        """The records that are rows."""

    def records(self, place: Place) -> Iterator[tuple[str, Any]]:
        """Where each stands, and the record."""
        with self.path.open("rb") as file:
            lines = Lines(file, place, lambda part: None)
            before = lines.line
            for record in self.split(lines):
                span = f"{before + 1}" + (f"–{lines.line}" if lines.line > before + 1 else "")
                yield f"line{'s' if '–' in span else ''} {span}", record
                before = lines.line


class Delimited(TextFile):
    """Fields under a header, as .csv and .tsv have them."""

    def __init__(self, path: Path, split: Split, fields: Fields) -> None:
        """Read the header."""
        super().__init__(path, split)
        self.fields = fields
        record = next((one for _, one in self.records((0, 1)) if _is_row(one)), None)
        try:
            if isinstance(record, csv.Error):
                raise ValueError(str(record))
            self.header = [] if record is None else fields(record)
        except ValueError as error:
            raise ValueError(f"the header of {path} cannot be read: {error}") from None

    def columns(self) -> tuple[list[str], list[str]]:
        """See `Source`."""
        return self.header, self.header

    def body(self, records: Iterator[Any]) -> Iterator[Any]:
        """Without the header and blank lines."""
        return islice(filter(_is_row, records), 1, None)

    def rows(self, place: Place, columns: Sequence[str], n_rows: int) -> Iterator[Values]:
        """See `Source`."""
        places = [self.header.index(name) for name in columns]
        found = ((where, one) for where, one in self.records(place) if _is_row(one))
        for where, record in islice(found, 0 if place[0] else 1, None):
            try:
                if isinstance(record, csv.Error):
                    raise ValueError(str(record))
                fields = self.fields(record)
                if len(fields) != len(self.header):
                    raise ValueError(f"got {len(fields)} fields; wanted {len(self.header)}")
                yield [fields[number] for number in places]
            except ValueError as error:
                yield ValueError(f"{where}: {error}")


class JsonLines(TextFile):
    """An object on each line."""

    def columns(self) -> tuple[list[str], list[str]]:
        """See `Source`; of the first objects that can be read."""
        present: dict[str, bool] = {}
        parsed = (_parsed(line) for _, line in self.records((0, 1)) if line.strip())
        for found in islice(parsed, LOOKED_AT):
            for name, value in found.items() if isinstance(found, dict) else ():
                present[name] = present.get(name, False) or isinstance(value, str)
        return list(present), [name for name, holds_strings in present.items() if holds_strings]

    def body(self, records: Iterator[bytes]) -> Iterator[bytes]:
        """Without blank lines."""
        return filter(bytes.strip, records)

    def rows(self, place: Place, columns: Sequence[str], n_rows: int) -> Iterator[Values]:
        """See `Source`."""
        for where, line in self.records(place):
            if line.strip():
                found = _parsed(line)
                if not isinstance(found, dict):
                    yield ValueError(f"{where}: {found}")
                elif columns[0] not in found:
                    yield ValueError(f"{where}: there is no {columns[0]!r}")
                else:
                    yield list(map(found.get, columns))


class ParquetFile:
    """Rows in groups."""

    def __init__(self, path: Path) -> None:
        """Open it once, to see that it is Parquet."""
        self.path = path
        self.parquet = optional_import("pyarrow.parquet", "reading Parquet")
        try:
            self.metadata = self.parquet.read_metadata(path)
        except (ValueError, OSError) as error:  # Arrow's own are ValueErrors
            raise ValueError(f"{path} cannot be read as Parquet: {error}") from error

    def columns(self) -> tuple[list[str], list[str]]:
        """See `Source`."""
        schema = self.metadata.schema.to_arrow_schema()
        return schema.names, string_columns(schema)

    def places(
        self, size: int, limit: int | None, told: Callable[[bytes], object]
    ) -> Iterator[tuple[Place, int]]:
        """See `Source`; only the footer is read, which knows the place and size of every column."""
        with self.path.open("rb") as file:
            file.seek(-8 - self.metadata.serialized_size, 2)
            told(file.read())
        n_rows = min(self.metadata.num_rows, limit or self.metadata.num_rows)
        for start in range(0, n_rows, size):
            yield (start, 0), min(size, n_rows - start)

    def rows(self, place: Place, columns: Sequence[str], n_rows: int) -> Iterator[Values]:
        """See `Source`; of the row groups that hold these rows."""
        start, groups, before = place[0], [], 0
        for group in range(self.metadata.num_row_groups):
            rows_of_group = self.metadata.row_group(group).num_rows
            if before + rows_of_group <= place[0]:
                start -= rows_of_group
            elif before < place[0] + n_rows:
                groups.append(group)
            before += rows_of_group
        with self.parquet.ParquetFile(self.path, memory_map=True) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=columns):
                for number in range(min(start, len(batch)), len(batch)):
                    yield _values([batch.column(name)[number] for name in columns])
                start = max(0, start - len(batch))


def _values(scalars: Iterable[Any]) -> Values:
    try:
        return [scalar.as_py() for scalar in scalars]
    except UnicodeDecodeError as error:
        return _not_utf8(error)
    except (ValueError, OverflowError) as error:  # dates that Python does not know
        return ValueError(f"a value cannot be read: {error}")


def _is_row(record: Any) -> bool:
    """Neither blank nor [] nor a row of nothing but blanks; errors are rows."""
    if isinstance(record, list):
        return any(map(str.strip, record))
    return isinstance(record, csv.Error) or bool(record.strip())


def _parsed(line: bytes) -> Any:
    """The object on a line, or why there is none."""
    try:
        found = json.loads(_decoded(line))
    except json.JSONDecodeError as error:
        return ValueError(f"no JSON at its character {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # the encoding, a number of too many digits
        return ValueError(str(error))
    if not isinstance(found, dict):
        return ValueError(f"got a {type(found).__name__}; wanted an object")
    return found


def _decoded(line: bytes) -> str:
    if len(line) >= LONGEST and not line.endswith(b"\n"):
        raise ValueError(f"longer than {LONGEST} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"not UTF-8 at its byte {error.start}: save it as UTF-8")


def _tsv_fields(line: bytes) -> list[str]:
    return _decoded(line).removesuffix("\n").removesuffix("\r").split("\t")


def _csv_records(lines: Lines) -> Iterator[list[str] | csv.Error]:
    """Bytes as characters, one for one, so that an encoding's mistake stays in its row."""
    reader = csv.reader((line.decode("latin-1") for line in lines), strict=True)
    while True:
        limit = csv.field_size_limit(LONGEST)
        try:
            record: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = error
        finally:
            csv.field_size_limit(limit)
        yield record


def _csv_fields(record: list[str]) -> list[str]:
    return [_decoded(field.encode("latin-1")) for field in record]


FORMATS: dict[str, Callable[[Path], Source]] = {
    ".tsv": lambda path: Delimited(path, iter, _tsv_fields),
    ".csv": lambda path: Delimited(path, _csv_records, _csv_fields),
    ".jsonl": lambda path: JsonLines(path, iter),
    ".ndjson": lambda path: JsonLines(path, iter),
    ".parquet": ParquetFile,
}
