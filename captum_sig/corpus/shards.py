"""Shards: pieces of the input that any worker can read, explain and write by itself."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from captum_sig._warnings import warn
from captum_sig.corpus.explainer import CorpusExplainer
from captum_sig.data.columns import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    check_once,
    check_present,
    checked_text,
    first,
    single_string_column,
)
from captum_sig.data.formats import FORMATS, Place, Source
from captum_sig.data.optional import optional_import
from captum_sig.explainers.models import weights_digest

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
    text = text or first(TEXT_COLUMNS, present, id) or single_string_column(strings, id, label)
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
    for row in islice(source.rows(columns, shard.place, shard.n_rows), shard.n_rows):
        yield _row(shard, number, *row)
        number += 1
    if number != shard.row + shard.n_rows:
        raise changed


def _row(shard: Shard, number: int, where: str, values: list[Any] | ValueError) -> Row:
    name = f"{shard.file}:{number}"
    if isinstance(values, ValueError):
        return Row(number, name, None, f"{where}: {values}")
    text, *id = values
    name = str(id[0]) if id and id[0] is not None else name
    try:
        return Row(number, name.encode("utf-8", "replace").decode(), checked_text(text), "")
    except ValueError as error:
        return Row(number, name, None, str(error))


FOOTER = b"captum_sig"  # in it a shard's own numbers stand
TEMPORARY = ".tmp"  # how files end until they are whole
PROBLEMS = (ValueError, OSError, RuntimeError)  # what a user can mend


@dataclass(frozen=True)
class Outcome:
    """What is in a shard: how many rows, how many of them bad, and cut by the model's limit."""

    number: int
    rows: int
    bad: int
    truncated: int

    @classmethod
    def of(cls, path: Path) -> Outcome:
        """Of a finished shard.

        Raises:
            ValueError: if it is damaged.
        """
        parquet = optional_import("pyarrow.parquet", "writing Parquet")
        try:
            return cls(**json.loads(parquet.read_schema(path).metadata[FOOTER]))
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: remove it, and run again") from error


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard stands."""
    return folder / f"part-{number:06d}.parquet"


class ShardWriter:
    """Reads shards, explains their texts and writes them; made once in each worker.

    Args:
        folder: where the shards go.
        explain: explains the texts.
        weights: digest that the model's weights must have here; None does not look.
        threads: how many threads PyTorch may use here; None leaves it as it is.
    """

    def __init__(
        self,
        folder: str | Path,
        explain: CorpusExplainer,
        weights: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Keep what was given; nothing fails here, where Ray would try again for ever."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder, self.explain, self.weights = Path(folder), explain, weights

    def _check_weights(self) -> None:
        """Load the model and look, once."""
        model = self.explain.explainer.model
        if self.weights is not None and weights_digest(model) != self.weights:
            raise ValueError(
                f"the model on {socket.gethostname()} has other weights than where the run began: "
                "give all nodes the same files"
            )
        self.weights = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Shards as JSON in, outcomes out, for Ray Data; a problem ends in the last column."""
        found = []
        for text in batch["shard"]:
            shard = Shard.from_json(str(text))
            try:
                self._check_weights()
                found.append({**asdict(self.write(shard)), "problem": ""})
            except PROBLEMS as error:
                nothing = Outcome(shard.number, 0, 0, 0)
                found.append({**asdict(nothing), "problem": str(error) or repr(error)})
        return {name: [one[name] for one in found] for name in found[0]}

    def write(self, shard: Shard, progress: Callable[[int], object] | None = None) -> Outcome:
        """Explain a shard unless it is there.

        Args:
            shard: which one.
            progress: told how many texts are done since it was last told.

        Raises:
            ValueError: if its rows cannot be read again.
            OSError: if it cannot be written.
            RuntimeError: if the model explains nothing any more.
        """
        path = shard_path(self.folder, shard.number)
        if path.exists():
            return Outcome.of(path)
        given = list(rows(shard))
        columns = self.explain.columns([row.text for row in given], progress)
        columns["error"] = [
            row.error or error or None for row, error in zip(given, columns["error"], strict=True)
        ]
        outcome = Outcome(
            number=shard.number,
            rows=len(given),
            bad=sum(error is not None for error in columns["error"]),
            truncated=sum(dropped > 0 for dropped in columns["dropped_tokens"]),
        )
        _save(_table(shard, given, columns), outcome, path)
        optional_import("pyarrow", "writing Parquet").default_memory_pool().release_unused()
        return outcome


def _table(shard: Shard, given: Sequence[Row], columns: Mapping[str, list[Any]]) -> Any:
    arrow = optional_import("pyarrow", "writing Parquet")
    texts = {
        "file": [shard.file] * len(given),
        "row": [row.row for row in given],
        "id": [row.id for row in given],
        "text": [row.text for row in given],
    }
    string, scores = arrow.string(), arrow.list_(arrow.float32())
    types = {
        "row": arrow.int64(),
        "probability": arrow.float64(),
        "words": arrow.list_(string),
        "offsets": arrow.list_(arrow.list_(arrow.int32())),
        "scores": scores,
        "std": scores,
        "standard_error": scores,
        "max_abs_word_delta": arrow.float64(),
        "residual": arrow.float64(),
        "dropped_tokens": arrow.int32(),
    }
    values = {**texts, **columns}
    schema = arrow.schema([(name, types.get(name, string)) for name in values])
    return arrow.table(values, schema)


def _save(table: Any, outcome: Outcome, path: Path) -> None:
    """Under another name first: what has a shard's name is whole, also after a power failure."""
    parquet = optional_import("pyarrow.parquet", "writing Parquet")
    beside = path.with_name(f".{path.stem}.{socket.gethostname()}.{os.getpid()}{TEMPORARY}")
    table = table.replace_schema_metadata({FOOTER: json.dumps(asdict(outcome))})
    try:
        with beside.open("wb") as file:
            parquet.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        why = error.strerror or error
        raise OSError(
            f"{path} cannot be written: {why}; the shards that are there are whole, and the same "
            "command goes on behind them"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
