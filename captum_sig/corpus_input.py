"""The files of a corpus, cut into shards: pieces that any worker can read by itself."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from captum_sig._warnings import warn
from captum_sig.data.columns import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    check_once,
    check_present,
    checked_text,
    first,
    only,
)
from captum_sig.data.formats import FORMATS, Place, Source

ID_COLUMNS = ("id", "idx", "uid", "guid")  # in lower case, in the order in which they are sought


@dataclass(frozen=True)
class Shard:
    """Some rows of a file, one behind the other."""

    number: int  # among all shards
    path: str  # absolute
    file: str  # the path as rows name it
    text_column: str
    id_column: str | None
    row: int  # the first row's number in the file, from 1
    n_rows: int
    place: Place  # where to find it
    bytes: int  # of the whole file

    def to_json(self) -> str:
        """As Ray carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Shard:
        """The inverse."""
        found = json.loads(text)
        return cls(**{**found, "place": tuple(found["place"])})


@dataclass(frozen=True)
class File:
    """What tells whether a file is still the same."""

    file: str
    bytes: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Corpus:
    """All that is to be explained."""

    files: list[File]
    shards: list[Shard]

    @property
    def n_rows(self) -> int:
        """Of all shards."""
        return sum(shard.n_rows for shard in self.shards)


@dataclass(frozen=True)
class Row:
    """A text with its id; or why it cannot be read."""

    row: int
    id: str
    text: str | None
    error: str


def corpus(
    inputs: Sequence[str],
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    shard_size: int = 2048,
    limit: int | None = None,
) -> Corpus:
    """Look through the files once; a text file is read to its end, but its texts are not kept.

    Args:
        inputs: files, folders, which are searched for files of `FORMATS`, and glob patterns.
        text_column: by default the first of `TEXT_COLUMNS` in any case, else the only column of
            strings beside ids and labels.
        id_column: by default the first of `ID_COLUMNS` in any case; without any a row's id is the
            file's name and the row's number.
        shard_size: most rows in a shard; a shard lies in one file.
        limit: take so many rows and none that follow.

    Raises:
        ValueError: if there are no rows, a file's form is unknown, or columns are missing or
            unclear.
        OSError: if a file is not there or cannot be opened.
    """
    for name, number in (("shard_size", shard_size), ("limit", limit)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    paths = [path.absolute() for path in _paths(inputs)]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    files: list[File] = []
    shards: list[Shard] = []
    left = limit
    for path in paths:
        if left == 0:
            break
        name = os.fsencode(path.relative_to(common).as_posix()).decode("utf-8", "replace")
        found, digest = _cut(path, name, text_column, id_column, shard_size, left, len(shards))
        n_rows = sum(shard.n_rows for shard in found)
        left = None if left is None else left - n_rows
        shards += found
        files.append(File(name, path.stat().st_size, n_rows, digest))
        if not n_rows and len(paths) > 1:
            warn(f"{path} holds no rows")
    if not shards:
        raise ValueError(f"{', '.join(inputs)} holds no texts: it needs a row with a text at least")
    return Corpus(files, shards)


def _paths(inputs: Sequence[str]) -> list[Path]:
    found: dict[str, Path] = {}
    known = ", ".join(FORMATS)
    for given in inputs:
        if "://" in given:
            raise ValueError(f"{given} is no file: mount the store, so that all workers see files")
        several = [given] if Path(given).exists() else sorted(glob.glob(given, recursive=True))
        if not several:
            raise FileNotFoundError(f"there is no file or folder {given}")
        for one in map(Path, several):
            files = _inside(one) if one.is_dir() else [one]
            if not files:
                raise ValueError(f"{one} has no files that end in {known}")
            for file in files:
                if file.suffix.lower() not in FORMATS:
                    raise ValueError(f"{file} ends in none of {known}: convert or rename it")
                if not file.is_file():
                    raise ValueError(f"{file} cannot be read twice, as a pipe: save it as a file")
                found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _inside(folder: Path) -> list[Path]:
    """Files of known forms, without hidden ones and those that systems leave (`_SUCCESS`)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in FORMATS
        and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def _cut(
    path: Path,
    name: str,
    text_column: str | None,
    id_column: str | None,
    size: int,
    limit: int | None,
    number: int,
) -> tuple[list[Shard], str]:
    """The shards of a file, numbered from `number`, and a digest of it."""
    source = FORMATS[path.suffix.lower()](path)
    present, strings = source.columns()
    if not present:
        return [], ""
    text, id = _chosen(path, present, strings, text_column, id_column)
    shards: list[Shard] = []
    row, bytes = 1, path.stat().st_size
    digest = hashlib.sha256()
    for place, n_rows in source.places(size, limit, digest.update):
        shards.append(
            Shard(number + len(shards), str(path), name, text, id, row, n_rows, place, bytes)
        )
        row += n_rows
    return shards, digest.hexdigest()[:16]


def _chosen(
    path: Path,
    present: Sequence[str],
    strings: Sequence[str],
    text: str | None,
    id: str | None,
) -> tuple[str, str | None]:
    check_present(path, present, text=text, id=id)
    id = id or first(ID_COLUMNS, present, text)
    label = first(LABEL_COLUMNS, present, id)
    text = text or first(TEXT_COLUMNS, present, id) or only(strings, id, label)
    if text is None:
        raise ValueError(
            f"which column of {path} holds the texts is unclear: give --text-column, one of "
            f"{', '.join(map(repr, present))}"
        )
    check_once(path, present, [text, id] if id else [text])
    if text not in strings:
        raise ValueError(f"column {text!r} of {path} holds no strings: --text-column must name one")
    return text, id


def rows(shard: Shard) -> Iterator[Row]:
    """The rows of a shard, `n_rows` in all.

    Raises:
        ValueError: if the file is not what it was when the shard was cut.
        OSError: if it cannot be read.
    """
    path = Path(shard.path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path} here: the input must lie where every worker finds it"
        )
    changed = ValueError(f"{path} has changed since the run began: restore it, or begin anew")
    if path.stat().st_size != shard.bytes:
        raise changed
    source: Source = FORMATS[path.suffix.lower()](path)
    columns = [shard.text_column, *([shard.id_column] if shard.id_column else [])]
    number = shard.row
    for values in islice(source.rows(shard.place, columns, shard.n_rows), shard.n_rows):
        yield _row(shard, number, values)
        number += 1
    if number != shard.row + shard.n_rows:
        raise changed


def _row(shard: Shard, number: int, values: list[Any] | ValueError) -> Row:
    name = f"{shard.file}:{number}"
    if isinstance(values, ValueError):
        return Row(number, name, None, str(values))
    text, *id = values
    name = str(id[0]) if id and id[0] is not None else name
    try:
        return Row(number, name.encode("utf-8", "replace").decode(), checked_text(text), "")
    except ValueError as error:
        return Row(number, name, None, str(error))
