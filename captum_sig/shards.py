"""Shards of a corpus on their way into Parquet: explained, written whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus_input import Row, Shard, rows
from captum_sig.data.columns import package
from captum_sig.explainers.models import weights_digest

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
        parquet = package("pyarrow.parquet", "writing Parquet")
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
        package("pyarrow", "writing Parquet").default_memory_pool().release_unused()
        return outcome


def _table(shard: Shard, given: Sequence[Row], columns: Mapping[str, list[Any]]) -> Any:
    arrow = package("pyarrow", "writing Parquet")
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
        "spread": scores,
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
    parquet = package("pyarrow.parquet", "writing Parquet")
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
