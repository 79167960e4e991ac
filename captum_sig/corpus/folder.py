"""A folder that a corpus is explained into: its manifest, its finished shards, what remains."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from captum_sig._files import make_folder
from captum_sig._warnings import warn
from captum_sig.corpus.explainer import Progress
from captum_sig.corpus.manifest import MANIFEST, Manifest, digest
from captum_sig.corpus.query import duplicate_ids
from captum_sig.corpus.shard_files import Outcome, ShardWriter, read_outcome, shard_path
from captum_sig.corpus.shards import Corpus, Shard
from captum_sig.data.optional import optional_import
from captum_sig.data.settings import check_same_settings

# Explains shards: takes this process's writer, the shards, and a callable for progress.
Engine = Callable[[ShardWriter, list[Shard], Progress], Iterator[Outcome]]

# Settings that earlier versions did not have, and what they did: left out while they are that, so
# that folders of these versions are resumed.
LATER_SETTINGS: dict[str, Any] = {
    "task": "text-classification", "pair_column": None, "units_column": None, "budget": None,
    "stride": None, "window_logits": None,
}  # fmt: skip

SECONDS_BETWEEN_RECORDS = 1.0  # a manifest of many shards takes time to write


def check_packages(*, with_ray: bool) -> None:
    """Import what writes shards, and Ray if it is needed; a ValueError names what is missing."""
    for name in ("pyarrow.parquet", "duckdb"):
        optional_import(name, "writing shards")
    if with_ray:
        optional_import("ray", "the Ray engine", "ray")


class CorpusFolder:
    """A folder of shards and its manifest; entering it makes it and locks out other runs.

    A shard gets its name when it is complete, and keeps it. The manifest lists it soon after. A run
    that was killed in between finds a shard that is not listed: the shard itself says which run it
    is part of, and its pages have checksums. So nothing is lost, and nothing is taken that the run
    did not write.

    `settings` are all that rows depend on, ready for JSON; only equal settings resume a folder.
    """

    def __init__(self, folder: Path, corpus: Corpus, settings: Mapping[str, Any]) -> None:
        self.folder, self.corpus = folder, corpus
        kept = {
            name: value for name, value in settings.items()
            if name not in LATER_SETTINGS or value != LATER_SETTINGS[name]
        }  # fmt: skip
        as_read: dict[str, Any] = json.loads(
            json.dumps({**kept, "input": corpus.files}, allow_nan=False)
        )
        pieces = [[shard.file, shard.row, shard.n_rows] for shard in corpus.shards]
        self.manifest = Manifest(digest([as_read, pieces]), as_read, len(pieces))

    @contextmanager
    def entered(self) -> Iterator[CorpusFolder]:
        """Read the finished shards; lock the folder while the context is open, if some remain.

        Nothing is written to the folder of a finished run.

        Raises:
            ValueError: if the folder is a file, another run is writing to it, shards or manifest
                are damaged, or they are of other texts, settings or weights.
            OSError: if it cannot be written.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: name a folder for the shards")
        self._read_manifest()
        if self.manifest.finished and not self._missing():
            self.manifest.check_shards(self.folder)
            yield self
            return
        make_folder(self.folder)
        with self._locked():
            self._resume()
            yield self

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is writing to {self.folder}: wait for it") from None
        except NotImplementedError:  # some network file systems
            warn(f"{self.folder} cannot be locked: make sure that no other run writes to it")
        try:
            yield
        finally:
            lock.release()

    def _read_manifest(self) -> None:
        """Read what earlier runs have finished, if there is a manifest."""
        if not os.path.lexists(self.folder / MANIFEST):
            return
        before = Manifest.read(self.folder)
        self._check_same(before.settings)
        if before.run != self.manifest.run:
            raise ValueError(
                f"{self.folder} was made by a version that cuts the input into other shards: use "
                "that version, or another folder"
            )
        self.manifest = before

    def _missing(self) -> list[Shard]:
        """Return shards without a file."""
        return [
            shard
            for shard in self.corpus.shards
            if not os.path.lexists(shard_path(self.folder, shard.number))
        ]

    def _resume(self) -> None:
        self._read_manifest()
        for leftover in self.folder.glob(".*.tmp"):  # of a run that was killed while writing
            leftover.unlink()
        for shard in self._missing():
            self.manifest.shards.pop(shard.number, None)
        self.manifest.counts = None
        self.manifest.check_shards(self.folder)
        for shard in self.corpus.shards:
            path = shard_path(self.folder, shard.number)
            if shard.number not in self.manifest.shards and os.path.lexists(path):
                outcome = read_outcome(path, self.manifest.run, shard)
                self.manifest.shards[shard.number] = outcome
        if (now := _versions()) not in self.manifest.versions:
            self.manifest.versions.append(now)
        self.manifest.write(self.folder)

    def _check_same(self, before: Mapping[str, Any]) -> None:
        now = LATER_SETTINGS | self.manifest.settings
        texts = now.pop("input")
        check_same_settings(self.folder, LATER_SETTINGS | dict(before), now)
        if before.get("input") != texts:
            names = [str(file.get("file")) for file in before.get("input") or []]
            listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise ValueError(
                f"{self.folder} holds shards of other texts ({listed}): restore them, or use "
                "another folder"
            )

    @property
    def remaining(self) -> list[Shard]:
        """Shards that are not finished, in order."""
        return [shard for shard in self.corpus.shards if shard.number not in self.manifest.shards]

    @property
    def counts(self) -> dict[str, int]:
        """The number of finished shards, of their rows, and of rows explained, failed or cut."""
        outcomes = self.manifest.shards.values()
        rows, failed = sum(o.rows for o in outcomes), sum(o.failed for o in outcomes)
        return {
            "shards": len(outcomes),
            "rows": rows,
            "explained": rows - failed,
            "failed": failed,
            "truncated": sum(o.truncated for o in outcomes),
        }

    def explain_remaining(
        self, engine: Engine, writer: ShardWriter, progress: Progress
    ) -> dict[str, int]:
        """Explain the remaining shards; return the counts and add them to the manifest.

        `progress` is called with the number of texts finished since the last call, and their work.

        Raises:
            ValueError: if texts cannot be read again.
            OSError: if a shard cannot be written.
            RuntimeError: if the model has stopped working.
        """
        if self.manifest.counts is None:
            try:
                self._explain(engine, writer, progress)
            except BaseException:
                with suppress(OSError):  # then the shards are there, but not listed
                    self.manifest.write(self.folder)
                raise
            paths = self.manifest.paths(self.folder)
            # without a column of ids, ids are file and row
            has_ids = any("id" in shard.columns for shard in self.corpus.shards)
            repeated = duplicate_ids(paths) if has_ids else 0
            self.manifest.counts = {**self.counts, "duplicate_ids": repeated}
            self.manifest.write(self.folder)
        return self.manifest.counts

    def _explain(self, engine: Engine, writer: ShardWriter, progress: Progress) -> None:
        written = time.monotonic()
        for outcome in engine(writer, self.remaining, progress):
            if not shard_path(self.folder, outcome.number).exists():
                raise ValueError(
                    f"a worker wrote shard {outcome.number}, but not where {self.folder} is here: "
                    "use a folder that all nodes share"
                )
            self.manifest.shards[outcome.number] = outcome
            if time.monotonic() > written + SECONDS_BETWEEN_RECORDS:
                self.manifest.write(self.folder)
                written = time.monotonic()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("captum_sig", "captum", "torch", "transformers", "tokenizers", "numpy", "pyarrow"):
        versions[name] = "unknown"  # stays in a checkout that was not installed
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
