"""A folder that a corpus is explained into: its settings, its finished shards, what remains."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from captum_sig._files import replace_text
from captum_sig._warnings import warn
from captum_sig.corpus.query import MANIFEST, duplicate_ids
from captum_sig.corpus.shards import Corpus, Outcome, Shard, ShardWriter, shard_path
from captum_sig.data.optional import optional_import
from captum_sig.data.settings import check_same_settings, read_settings

# Explains shards: takes this process's writer, the shards, and a callable for progress.
Engine = Callable[[ShardWriter, list[Shard], Callable[[int], object]], Iterator[Outcome]]


def check_packages(*, with_ray: bool) -> None:
    """Import what writes shards, and Ray if it is needed; a ValueError names what is missing."""
    for name in ("pyarrow.parquet", "duckdb"):
        optional_import(name, "writing shards")
    if with_ray:
        optional_import("ray", "the Ray engine", "ray")


class CorpusFolder:
    """A folder of shards and its manifest; entering it makes it and locks out other runs.

    `settings` are all that rows depend on, ready for JSON; only equal settings resume a folder.
    """

    def __init__(self, folder: Path, corpus: Corpus, settings: Mapping[str, Any]) -> None:
        self.folder, self.corpus = folder, corpus
        settings = {**settings, "input": corpus.files}
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
        self.outcomes: dict[int, Outcome] = {}  # of finished shards

    @contextmanager
    def entered(self) -> Iterator[CorpusFolder]:
        """Lock the folder while the context is open, and read its finished shards.

        Raises:
            ValueError: if the folder is a file, another run is writing to it, or it holds shards
                of other texts, settings or weights.
            OSError: if it cannot be written.
        """
        from filelock import FileLock, Timeout

        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: name a folder for the shards")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is writing to {self.folder}: wait for it") from None
        except NotImplementedError:  # some network file systems
            warn(f"{self.folder} cannot be locked: make sure that no other run writes to it")
        try:
            self._resume()
            yield self
        finally:
            lock.release()

    def _resume(self) -> None:
        versions: list[dict[str, str]] = []
        if (self.folder / MANIFEST).exists():
            manifest = read_settings(self.folder / MANIFEST)
            self._check_same(manifest.get("settings", {}))
            versions = manifest.get("versions", [])
        elif any(self.folder.glob("part-*.parquet")):
            raise ValueError(f"{self.folder} holds shards, but no {MANIFEST}: use another folder")
        for leftover in self.folder.glob(".*.tmp"):  # of a run that was killed while writing
            leftover.unlink()
        if (now := _versions()) not in versions:
            versions = [*versions, now]
        self._write(settings=self.settings, versions=versions, finished=False)
        for shard in self.corpus.shards:
            path = shard_path(self.folder, shard.number)
            if path.exists():
                self.outcomes[shard.number] = Outcome.read(path)

    def _write(self, **manifest: Any) -> None:
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_text(self.folder / MANIFEST, text)

    def _check_same(self, before: Mapping[str, Any]) -> None:
        now = {name: value for name, value in self.settings.items() if name != "input"}
        check_same_settings(self.folder, before, now)
        if before.get("input") != self.settings["input"]:
            names = [str(file.get("file")) for file in before.get("input") or []]
            listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise ValueError(
                f"{self.folder} holds shards of other texts ({listed}): restore them, or use "
                "another folder"
            )

    @property
    def remaining(self) -> list[Shard]:
        """Shards that are not finished, in order."""
        return [shard for shard in self.corpus.shards if shard.number not in self.outcomes]

    @property
    def counts(self) -> dict[str, int]:
        """The number of finished shards, of their rows, and of rows explained, failed or cut."""
        outcomes = self.outcomes.values()
        rows, failed = sum(o.rows for o in outcomes), sum(o.failed for o in outcomes)
        return {
            "shards": len(outcomes),
            "rows": rows,
            "explained": rows - failed,
            "failed": failed,
            "truncated": sum(o.truncated for o in outcomes),
        }

    def explain_remaining(
        self, engine: Engine, writer: ShardWriter, progress: Callable[[int], object]
    ) -> dict[str, int]:
        """Explain the remaining shards; return the counts and add them to the manifest.

        `progress` is called with the number of texts finished since the last call.

        Raises:
            ValueError: if texts cannot be read again.
            OSError: if a shard cannot be written.
            RuntimeError: if the model has stopped working.
        """
        for outcome in engine(writer, self.remaining, progress):
            if not shard_path(self.folder, outcome.number).exists():
                raise ValueError(
                    f"a worker wrote shard {outcome.number}, but not where {self.folder} is here: "
                    "use a folder that all nodes share"
                )
            self.outcomes[outcome.number] = outcome
        has_ids = any(len(shard.columns) > 1 for shard in self.corpus.shards)  # else they differ
        counts = {**self.counts, "duplicate_ids": duplicate_ids(self.folder) if has_ids else 0}
        manifest = read_settings(self.folder / MANIFEST)
        self._write(**{**manifest, "finished": True, "counts": counts})
        return counts


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("captum_sig", "captum", "torch", "transformers", "tokenizers", "numpy", "pyarrow"):
        versions[name] = "unknown"  # stays in a checkout that was not installed
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
