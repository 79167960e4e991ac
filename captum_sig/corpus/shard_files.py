"""Shards as files: explained and written by any worker, and verified when they are read again."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from captum_sig._files import creating
from captum_sig.corpus.explainer import CorpusExplainer, Progress
from captum_sig.corpus.rows import arrow_schema, is_complete
from captum_sig.corpus.shards import Shard, read_rows
from captum_sig.data.columns import PAIR
from captum_sig.data.optional import optional_import
from captum_sig.explainers.models import weights_digest

METADATA_KEY = b"captum_sig"  # in a Parquet file's metadata: the run, and the counts of `Outcome`
PATTERN = "part-*.parquet"
REWRITE = "delete it and rerun `captum-sig corpus`, which writes it again"


@dataclass(frozen=True)
class Outcome:
    """A finished shard: its rows, those that failed, those cut at the limit, and its checksum."""

    number: int
    rows: int
    failed: int
    truncated: int
    digest: str  # of the file's bytes

    def check(self, path: Path) -> None:
        """Raise a ValueError unless a file is the shard that was written."""
        if not os.path.lexists(path):
            raise ValueError(f"{path} is missing: rerun `captum-sig corpus`, which writes it again")
        if _digest(path) != self.digest:
            raise ValueError(
                f"{path} is not as the run wrote it, as its checksum differs: {REWRITE}"
            )


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a finished shard."""
    return folder / f"part-{number:06d}.parquet"


def _digest(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path} is not a file: {REWRITE}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


def read_outcome(path: Path, run: str, shard: Shard) -> Outcome:
    """Read the outcome of a shard that no manifest lists, after verifying all of its pages.

    Raises:
        ValueError: if the file is damaged, or is not this shard of this run.
        OSError: if it cannot be read.
    """
    arrow, parquet = (
        optional_import(name, "reading shards") for name in ("pyarrow", "pyarrow.parquet")
    )
    digest = _digest(path)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            stored = json.loads(file.metadata.metadata[METADATA_KEY])
            made_by, outcome = stored.pop("run"), Outcome(digest=digest, **stored)
            complete = is_complete(file.schema_arrow)
            rows = [row for batch in file.iter_batches() for row in batch["row"].to_pylist()]
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {REWRITE}") from error
    if made_by != run:
        raise ValueError(
            f"{path} is of a run with other settings, texts or weights: use another folder, or "
            f"{REWRITE}"
        )
    if outcome.number != shard.number:
        raise ValueError(f"{path} is shard {outcome.number} of this run: {REWRITE}")
    if not complete or rows != list(range(shard.row, shard.row + shard.n_rows)):
        raise ValueError(f"{path} lacks columns or rows: {REWRITE}")
    return outcome


class ShardWriter:
    """Reads shards, explains their texts and writes them to a folder; made once in each worker.

    Args:
        folder: where the shards go.
        explain: explains the texts.
        run: identifies the run in its shards, see `CorpusFolder`.
        weights: the digest that the model's weights must have here; None skips the check.
        threads: the number of PyTorch's threads here; None leaves it as it is.
    """

    def __init__(
        self,
        folder: str | Path,
        explain: CorpusExplainer,
        run: str,
        *,
        weights: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Store the arguments only: an exception in the constructor makes Ray retry forever."""
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder, self.explain, self.run, self.weights = Path(folder), explain, run, weights

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
        outcome, message = Outcome(shard.number, 0, 0, 0, ""), ""
        try:
            self._check_weights()
            outcome = self.write(shard)
        except (ValueError, OSError, RuntimeError) as error:  # Ray would hide it in a traceback
            message = str(error) or repr(error)
        return {name: [value] for name, value in {**asdict(outcome), "error": message}.items()}

    def write(self, shard: Shard, progress: Progress = lambda n_texts, work: None) -> Outcome:
        """Explain a shard and write it, unless its file exists.

        `progress` is called with the number of texts finished since the last call, and their work.

        Raises:
            ValueError: if its rows cannot be read again, or its file exists and is damaged.
            OSError: if it cannot be written.
            RuntimeError: if the model has stopped working.
        """
        path = shard_path(self.folder, shard.number)
        if os.path.lexists(path):
            return read_outcome(path, self.run, shard)
        rows = list(read_rows(shard))
        columns = self.explain.columns(
            [row.input for row in rows], progress, units=[row.units for row in rows]
        )
        columns["error"] = [
            row.error or error or None for row, error in zip(rows, columns["error"], strict=True)
        ]
        counts = {
            "number": shard.number,
            "rows": len(rows),
            "failed": sum(error is not None for error in columns["error"]),
            "truncated": sum(dropped > 0 for dropped in columns["dropped_tokens"]),
        }
        source: dict[str, list[Any]] = {"file": [shard.file] * len(rows)}
        names = ["row", "id", "text", *([PAIR] if PAIR in shard.columns else [])]
        source |= {name: [getattr(row, name) for row in rows] for name in names}
        try:
            digest = _save(source | columns, {"run": self.run, **counts}, path)
        except FileExistsError:  # a worker that was given up as lost has written it meanwhile
            return read_outcome(path, self.run, shard)
        optional_import("pyarrow", "writing Parquet").default_memory_pool().release_unused()
        return Outcome(**counts, digest=digest)


def _save(columns: Mapping[str, list[Any]], metadata: Mapping[str, Any], path: Path) -> str:
    """Write a shard and return the digest of its file.

    Raises:
        FileExistsError: if it exists.
        OSError: if it cannot be written.
    """
    arrow, parquet = (
        optional_import(name, "writing Parquet") for name in ("pyarrow", "pyarrow.parquet")
    )
    schema = arrow_schema(columns).with_metadata(
        {METADATA_KEY: json.dumps(metadata, allow_nan=False)}
    )
    table = arrow.table(dict(columns), schema)
    try:
        with creating(path) as temporary:
            with temporary.open("wb") as file:
                parquet.write_table(table, file, compression="zstd", write_page_checksum=True)
            return _digest(temporary)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            f"{error}; finished shards are kept: correct this, then rerun to resume"
        ) from error
