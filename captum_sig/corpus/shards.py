"""Shards: parts of the input that any worker can read, explain and write by itself."""

from __future__ import annotations

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

from captum_sig._files import replacing
from captum_sig._warnings import warn
from captum_sig.corpus.explainer import CorpusExplainer
from captum_sig.corpus.rows import arrow_schema
from captum_sig.data.columns import checked_text, choose_columns
from captum_sig.data.formats import FORMATS, Place, Source
from captum_sig.data.inputs import input_paths
from captum_sig.data.optional import optional_import
from captum_sig.explainers.models import weights_digest


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a file."""

    number: int  # among all shards
    path: str  # absolute
    file: str  # the path as rows name it
    columns: list[str]  # the column of texts, and that of ids if there is one
    row: int  # the first row's number in the file, from 1
    n_rows: int
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


@dataclass(frozen=True)
class InputRow:
    """A text with its id, or the error that prevents reading it."""

    row: int
    id: str
    text: str | None
    error: str


def scan_corpus(
    inputs: Sequence[str],
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    shard_size: int = 2048,
    limit: int | None = None,
    output: Path | None = None,
) -> Corpus:
    """Cut files into shards; text files are read to their ends, but their texts are not kept.

    Args:
        inputs: files, folders and glob patterns, as in `input_paths`.
        text_column: by default guessed, see `choose_columns`.
        id_column: by default guessed; without one, a row's id is the file's name and the row's
            number.
        shard_size: the maximum number of rows in a shard, which lies in one file.
        limit: the maximum number of rows in all; later rows are left out.
        output: the folder for the results, whose files are left out.

    Raises:
        ValueError: if there are no rows, a file's format is unknown, or columns are missing or
            ambiguous.
        OSError: if a file does not exist or cannot be opened.
    """
    for name, number in (("shard_size", shard_size), ("limit", limit)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    paths = [path.absolute() for path in input_paths(inputs, output)]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    files: list[dict[str, Any]] = []
    shards: list[Shard] = []
    remaining = limit
    for path in paths:
        if remaining == 0:
            break
        name = os.fsencode(path.relative_to(common).as_posix()).decode("utf-8", "replace")
        source: Source = FORMATS[path.suffix.lower()](path)
        columns = _choose_columns(path, source, text_column, id_column)
        row, n_bytes, digest = 1, path.stat().st_size, hashlib.sha256()
        pieces = source.places(shard_size, remaining, digest.update) if columns else ()
        for place, n_rows in pieces:
            shards.append(
                Shard(
                    number=len(shards), path=str(path), file=name, columns=columns, row=row,
                    n_rows=n_rows, place=place, bytes=n_bytes,
                )
            )  # fmt: skip
            row += n_rows
        remaining = None if remaining is None else remaining - (row - 1)
        files.append(
            {"file": name, "bytes": n_bytes, "rows": row - 1, "digest": digest.hexdigest()[:16]}
        )
        if row == 1 and len(paths) > 1:
            warn(f"{path} holds no rows")
    if not shards:
        raise ValueError(f"{', '.join(inputs)} holds no texts: add at least one row with a text")
    return Corpus(files, shards)


def _choose_columns(
    path: Path, source: Source, text_column: str | None, id_column: str | None
) -> list[str]:
    """Return the columns of texts and ids; none for an empty file."""
    present, strings = source.columns()
    if not present:
        return []
    columns = choose_columns(path, present, strings, text_column=text_column, id_column=id_column)
    if columns[0] not in strings:
        raise ValueError(
            f"column {columns[0]!r} of {path} does not hold strings: set text_column to one that "
            "does"
        )
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
    rows = source.rows(shard.columns, shard.place, shard.n_rows)
    for where, values in islice(rows, shard.n_rows):
        yield _input_row(shard, number, where, values)
        number += 1
    if number != shard.row + shard.n_rows:
        raise changed


def _input_row(shard: Shard, number: int, where: str, values: list[Any] | ValueError) -> InputRow:
    name = f"{shard.file}:{number}"
    if isinstance(values, ValueError):
        return InputRow(number, name, None, f"{where}: {values}")
    text, *ids = values
    if ids and ids[0] is not None:
        name = str(ids[0])
    try:
        return InputRow(number, name.encode("utf-8", "replace").decode(), checked_text(text), "")
    except ValueError as error:
        return InputRow(number, name, None, str(error))


COUNTS_KEY = b"captum_sig"  # in a Parquet file's metadata


@dataclass(frozen=True)
class Outcome:
    """The counts of a finished shard: its rows, those that failed, those cut at the limit."""

    number: int
    rows: int
    failed: int
    truncated: int

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Read the counts of a finished shard."""
        parquet = optional_import("pyarrow.parquet", "writing Parquet")
        try:
            return cls(**json.loads(parquet.read_schema(path).metadata[COUNTS_KEY]))
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is corrupt: delete it and rerun") from error


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a finished shard."""
    return folder / f"part-{number:06d}.parquet"


class ShardWriter:
    """Reads shards, explains their texts and writes them to a folder; made once in each worker.

    Args:
        folder: where the shards go.
        explain: explains the texts.
        weights: the digest that the model's weights must have here; None skips the check.
        threads: the number of PyTorch's threads here; None leaves it as it is.
    """

    def __init__(
        self,
        folder: str | Path,
        explain: CorpusExplainer,
        weights: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Store the arguments only: an exception in the constructor makes Ray retry forever."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder, self.explain, self.weights = Path(folder), explain, weights

    def _check_weights(self) -> None:
        """Load the model and compare its weights, once."""
        model = self.explain.explainer.model
        if self.weights is not None and weights_digest(model) != self.weights:
            raise ValueError(
                f"the model on {socket.gethostname()} has other weights than where the run began: "
                "give all nodes the same files"
            )
        self.weights = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Write the one shard in Ray's column `shard`; return its `Outcome`, and an error or ""."""
        shard = Shard.from_json(str(batch["shard"][0]))
        outcome, message = Outcome(shard.number, 0, 0, 0), ""
        try:
            self._check_weights()
            outcome = self.write(shard)
        except (ValueError, OSError, RuntimeError) as error:  # Ray would hide it in a traceback
            message = str(error) or repr(error)
        return {name: [value] for name, value in {**asdict(outcome), "error": message}.items()}

    def write(
        self, shard: Shard, progress: Callable[[int], object] = lambda n_texts: None
    ) -> Outcome:
        """Explain a shard and write it, unless its file exists.

        `progress` is called with the number of texts finished since the last call.

        Raises:
            ValueError: if its rows cannot be read again.
            OSError: if it cannot be written.
            RuntimeError: if the model has stopped working.
        """
        path = shard_path(self.folder, shard.number)
        if path.exists():
            return Outcome.read(path)
        rows = list(read_rows(shard))
        columns = self.explain.columns([row.text for row in rows], progress)
        columns["error"] = [
            row.error or error or None for row, error in zip(rows, columns["error"], strict=True)
        ]
        outcome = Outcome(
            number=shard.number,
            rows=len(rows),
            failed=sum(error is not None for error in columns["error"]),
            truncated=sum(dropped > 0 for dropped in columns["dropped_tokens"]),
        )
        source: dict[str, list[Any]] = {"file": [shard.file] * len(rows)}
        source |= {name: [getattr(row, name) for row in rows] for name in ("row", "id", "text")}
        _save(source | columns, outcome, path)
        optional_import("pyarrow", "writing Parquet").default_memory_pool().release_unused()
        return outcome


def _save(columns: Mapping[str, list[Any]], outcome: Outcome, path: Path) -> None:
    arrow, parquet = (
        optional_import(name, "writing Parquet") for name in ("pyarrow", "pyarrow.parquet")
    )
    counts = json.dumps(asdict(outcome), allow_nan=False)
    schema = arrow_schema(columns).with_metadata({COUNTS_KEY: counts})
    table = arrow.table(dict(columns), schema)
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            parquet.write_table(table, file, compression="zstd")
    except OSError as error:
        why = error.strerror or error
        raise OSError(
            f"{path} cannot be written: {why}; finished shards are kept: correct this, then rerun "
            "to resume"
        ) from error
