"""Shards: parts of the input that any worker can read and explain by itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from captum_sig._warnings import warn
from captum_sig.data.columns import (
    PAIR,
    TEXT,
    UNITS,
    check_strings,
    checked_pair,
    checked_text,
    choose_columns,
)
from captum_sig.data.formats import FORMATS, START, Place, Source
from captum_sig.data.inputs import input_paths

# The work in a shard: that of moving each word of texts of 16 tokens.
WORK_OF_A_ROW = 256  # row-tokens: rows at which the model is evaluated, times their tokens
MIN_SHARD_SIZE = 2048  # shards of fewer rows may hold as much work as this many


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a file."""

    number: int  # among all shards
    path: str  # absolute
    file: str  # the path as rows name it
    columns: dict[str, str]  # of texts; second texts, units and ids if any: by their purpose
    row: int  # the first row's number in the file, from 1
    n_rows: int
    work: int  # of all rows, in row-tokens
    place: Place  # where the file's reader finds it
    bytes: int  # of the whole file

    def to_json(self) -> str:
        """Return the shard as Ray carries it."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Shard:
        """Invert `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "place": tuple(fields["place"])})


@dataclass(frozen=True)
class Corpus:
    """The texts to be explained."""

    files: list[dict[str, Any]]  # name, bytes, rows and digest, which show whether it has changed
    shards: list[Shard]

    @property
    def n_rows(self) -> int:
        """The number of rows of all shards."""
        return sum(shard.n_rows for shard in self.shards)

    @property
    def work(self) -> int:
        """The work of all shards."""
        return sum(shard.work for shard in self.shards)


@dataclass(frozen=True)
class InputRow:
    """A text, or a pair of texts, with its id, or the error that prevents reading it."""

    row: int
    id: str
    text: str | None
    error: str
    text_pair: str | None = None
    units: Any = None  # as the file has them

    @property
    def input(self) -> str | tuple[str, str] | None:
        """What is explained; None if it cannot be read."""
        if self.text is None or self.text_pair is None:
            return self.text
        return self.text, self.text_pair


@dataclass(frozen=True)
class TextFile:
    """A file of texts that has been opened, and the columns that are read."""

    path: Path  # absolute
    name: str  # as rows name it
    source: Source
    columns: dict[str, str]  # as in `Shard`; none if it is empty


def find_texts(
    inputs: Sequence[str],
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    units_column: str | None = None,
    id_column: str | None = None,
    output: Path | None = None,
) -> list[TextFile]:
    """Find files of texts, and choose their columns.

    Args:
        inputs: files, folders and glob patterns, as in `input_paths`.
        text_column: by default guessed, see `choose_columns`.
        pair_column: the second texts of pairs; by default "text_pair", if there is one; "" reads no
            pairs.
        units_column: the units of the texts, as JSON; by default none.
        id_column: by default guessed; without one, a row's id is the file's name and the row's
            number.
        output: the folder for the results, whose files are left out.

    Raises:
        ValueError: if a file's format is unknown, columns are missing or ambiguous, or some files
            have pairs and others do not.
        OSError: if a file does not exist or cannot be opened.
    """
    paths = [path.absolute() for path in input_paths(inputs, output)]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    files = []
    for path in paths:
        name = os.fsencode(path.relative_to(common).as_posix()).decode("utf-8", "replace")
        source: Source = FORMATS[path.suffix.lower()](path)
        columns = _choose_columns(
            path, source, text_column=text_column, pair_column=pair_column,
            units_column=units_column, id_column=id_column,
        )  # fmt: skip
        files.append(TextFile(path, name, source, columns))
    _check_same_kind([file for file in files if file.columns])
    return files


def _check_same_kind(files: Sequence[TextFile]) -> None:
    """Raise a ValueError if some files have pairs of texts, and others texts alone."""
    kinds = {PAIR in file.columns: file.path for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"{kinds[True]} has pairs of texts, and {kinds[False]} has no second texts: explain "
            "them in two runs, or set pair_column to '' to read the first texts alone"
        )


def cut(
    files: Sequence[TextFile],
    *,
    shard_size: int = 2048,
    limit: int | None = None,
    work: Callable[..., int] = lambda *texts: 1,
) -> Corpus:
    """Cut files into shards; they are read to their ends, but their texts are not kept.

    A shard lies in one file, and ends before it would hold more than `shard_size` rows, or more
    work than `WORK_OF_A_ROW` for each of `shard_size` or `MIN_SHARD_SIZE` rows. So a few long texts
    take no longer than many short ones.

    Args:
        files: the files, as `find_texts` returns them.
        shard_size: the maximum number of rows in a shard.
        limit: the maximum number of rows in all; later rows are left out.
        work: estimates the work of explaining a text, in row-tokens; takes both texts of a pair.

    Raises:
        ValueError: if there are no rows, or a file cannot be read.
        OSError: if a file cannot be read.
    """
    for name, number in (("shard_size", shard_size), ("limit", limit)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    descriptions: list[dict[str, Any]] = []
    shards: list[Shard] = []
    remaining = limit
    for file in files:
        if remaining == 0:
            break
        row, n_bytes, digest = 1, file.path.stat().st_size, hashlib.sha256()
        for place, n_rows, in_all in _pieces(file, shard_size, remaining, work, digest.update):
            shards.append(
                Shard(
                    number=len(shards), path=str(file.path), file=file.name, columns=file.columns,
                    row=row, n_rows=n_rows, work=in_all, place=place, bytes=n_bytes,
                )
            )  # fmt: skip
            row += n_rows
        remaining = None if remaining is None else remaining - (row - 1)
        descriptions.append(
            {"file": file.name, "bytes": n_bytes, "rows": row - 1,
             "digest": digest.hexdigest()[:16]}
        )  # fmt: skip
        if row == 1 and len(files) > 1:
            warn(f"{file.path} holds no rows")
    if not shards:
        names = ", ".join(str(file.path) for file in files)
        raise ValueError(f"{names} holds no texts: add at least one row with a text")
    return Corpus(descriptions, shards)


def _pieces(
    file: TextFile,
    shard_size: int,
    limit: int | None,
    work: Callable[..., int],
    on_bytes: Callable[[bytes], object],
) -> Iterator[tuple[Place, int, int]]:
    """Yield where each shard of a file begins, its number of rows, and their work."""
    if not file.columns:
        return
    max_work = WORK_OF_A_ROW * max(shard_size, MIN_SHARD_SIZE)
    start, n_rows, in_all = START, 0, 0
    places = file.source.places(1, limit, on_bytes)
    rows = file.source.rows([file.columns[kind] for kind in (TEXT, PAIR) if kind in file.columns])
    for (place, _), (_, values) in zip(places, rows, strict=False):
        texts = values if isinstance(values, list) else [None]
        of_row = work(*texts) if all(isinstance(text, str) for text in texts) else 0
        if n_rows == shard_size or (n_rows and in_all + of_row > max_work):
            yield start, n_rows, in_all
            n_rows = in_all = 0
        if not n_rows:
            start = place
        n_rows, in_all = n_rows + 1, in_all + of_row
    if n_rows:
        yield start, n_rows, in_all


def _choose_columns(path: Path, source: Source, **named: str | None) -> dict[str, str]:
    """Return the columns of texts, second texts and ids; none for an empty file."""
    present, strings = source.columns()
    if not present:
        return {}
    columns = choose_columns(path, present, strings, **named)
    check_strings(path, columns, strings)
    return columns


def read_rows(shard: Shard) -> Iterator[InputRow]:
    """Yield the rows of a shard, `n_rows` in all.

    Raises:
        ValueError: if the file has changed since the shard was cut.
        OSError: if it cannot be read.
    """
    path = Path(shard.path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path} here: put the input where every worker finds it"
        )
    changed = ValueError(f"{path} has changed since the run began: restore it, or begin anew")
    if path.stat().st_size != shard.bytes:
        raise changed
    source: Source = FORMATS[path.suffix.lower()](path)
    number = shard.row
    rows = source.rows(list(shard.columns.values()), shard.place, shard.n_rows)
    for where, values in islice(rows, shard.n_rows):
        yield _input_row(shard, number, where, values)
        number += 1
    if number != shard.row + shard.n_rows:
        raise changed


def _input_row(shard: Shard, number: int, where: str, values: list[Any] | ValueError) -> InputRow:
    name = f"{shard.file}:{number}"
    if isinstance(values, ValueError):
        return InputRow(number, name, None, f"{where}: {values}")
    named = dict(zip(shard.columns, values, strict=True))
    if named.get("id") is not None:
        name = str(named["id"])
    name = name.encode("utf-8", "replace").decode()
    units = named.get(UNITS)
    try:
        if PAIR not in named:
            return InputRow(number, name, checked_text(named[TEXT]), "", units=units)
        text, pair = checked_pair(named[TEXT], named[PAIR])
        return InputRow(number, name, text, "", pair, units)
    except ValueError as error:
        return InputRow(number, name, None, str(error))
