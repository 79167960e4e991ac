"""A corpus on its way into a folder: what it is made with, what is there, what is left."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from captum_sig._files import replace_text
from captum_sig._warnings import warn
from captum_sig.corpus.query import MANIFEST, duplicate_ids, manifest
from captum_sig.corpus.shards import TEMPORARY, Corpus, Outcome, Shard, ShardWriter, shard_path
from captum_sig.data.optional import optional_import

# How shards are explained: the writer of this process, the shards, and what is told of progress.
Engine = Callable[[ShardWriter, list[Shard], Callable[[int], object]], Iterator[Outcome]]


class CorpusRun:
    """A run in a folder, alone in it while it is entered.

    Args:
        folder: where shards and manifest go; made if it is not there.
        corpus: the texts.
        settings: all that rows depend on, ready for JSON; a folder goes on with equal ones only.

    Raises:
        ValueError: if the folder is a file, or another run is writing to it, or it holds shards of
            other texts, settings or weights, or if packages are missing.
        OSError: if it cannot be written.
    """

    def __init__(self, folder: Path, corpus: Corpus, settings: Mapping[str, Any]) -> None:
        """Look at nothing yet."""
        for name in ("pyarrow.parquet", "duckdb"):
            optional_import(name, "writing shards")
        self.folder, self.corpus = folder, corpus
        asked = {**settings, "input": [asdict(file) for file in corpus.files]}
        self.settings: dict[str, Any] = json.loads(json.dumps(asked))
        self.outcomes: dict[int, Outcome] = {}  # of finished shards

    @contextmanager
    def entered(self) -> Iterator[CorpusRun]:
        """While open, no other run can enter; starts with what is there."""
        from filelock import FileLock, Timeout

        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: name a folder for the shards")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is writing to {self.folder}: wait for it") from None
        except NotImplementedError:  # some file systems of networks
            warn(f"{self.folder} cannot be locked: see that no other run writes to it")
        try:
            self._begin()
            yield self
        finally:
            lock.release()

    def _begin(self) -> None:
        if (self.folder / MANIFEST).exists():
            then = manifest(self.folder)
            self._check_same(then)
        elif any(self.folder.glob("part-*.parquet")):
            raise ValueError(f"{self.folder} holds shards, but no {MANIFEST}: use another folder")
        else:
            then = {}
        for unfinished in self.folder.glob(f".*{TEMPORARY}"):
            unfinished.unlink()
        versions, now = then.get("versions", []), _versions()
        if now not in versions:
            versions = [*versions, now]
        self._write({"settings": self.settings, "versions": versions, "finished": False})
        for shard in self.corpus.shards:
            path = shard_path(self.folder, shard.number)
            if path.exists():
                self.outcomes[shard.number] = Outcome.of(path)

    def _write(self, told: Mapping[str, Any]) -> None:
        text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
        replace_text(self.folder / MANIFEST, text)

    def _check_same(self, then: Mapping[str, Any]) -> None:
        settings = then.get("settings", {})
        for name, asked in self.settings.items():
            if settings.get(name) == asked:
                continue
            if name == "input":
                raise ValueError(
                    f"{self.folder} holds shards of other texts ({_listed(settings.get(name))}): "
                    "restore them, or use another folder"
                )
            raise ValueError(
                f"{self.folder} holds shards made with {name} {settings.get(name)!r}, not "
                f"{asked!r}: use the same, or another folder"
            )

    @property
    def left(self) -> list[Shard]:
        """Shards that are not finished, in order."""
        return [shard for shard in self.corpus.shards if shard.number not in self.outcomes]

    @property
    def counts(self) -> dict[str, int]:
        """Of the finished shards: rows, and which of them were explained, bad or cut."""
        found = self.outcomes.values()
        rows, bad = sum(one.rows for one in found), sum(one.bad for one in found)
        return {
            "shards": len(found),
            "rows": rows,
            "explained": rows - bad,
            "bad": bad,
            "truncated": sum(one.truncated for one in found),
        }

    def __call__(
        self, engine: Engine, writer: ShardWriter, progress: Callable[[int], object]
    ) -> dict[str, int]:
        """Explain what is left; returns the counts, which the manifest then tells too.

        Args:
            engine: explains shards.
            writer: writes them.
            progress: told how many texts are done since it was last told.

        Raises:
            ValueError: if texts cannot be read again.
            OSError: if a shard cannot be written.
            RuntimeError: if the model explains nothing any more.
        """
        for outcome in engine(writer, self.left, progress):
            if not shard_path(self.folder, outcome.number).exists():
                raise ValueError(
                    f"a worker wrote shard {outcome.number}, but not where {self.folder} is here: "
                    "wanted a folder that all nodes share"
                )
            self.outcomes[outcome.number] = outcome
        has_ids = any(shard.id_column for shard in self.corpus.shards)  # else they differ
        counts = {**self.counts, "duplicate_ids": duplicate_ids(self.folder) if has_ids else 0}
        self._write({**manifest(self.folder), "finished": True, "counts": counts})
        return counts


def _versions() -> dict[str, str]:
    names = ("captum_sig", "captum", "torch", "transformers", "tokenizers", "numpy", "pyarrow")
    return {**{name: _version(name) for name in names}, "python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        return "unknown"


def _listed(files: Any) -> str:
    names = [str(file.get("file")) for file in files or []]
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
