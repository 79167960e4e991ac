"""Texts as `captum-sig corpus` cuts them, and what it has written, read back."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from captum_sig.corpus.manifest import Manifest
from captum_sig.corpus.shard_files import shard_path
from captum_sig.corpus.shards import Corpus, cut, find_texts


def scan_corpus(
    inputs: Sequence[str],
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    id_column: str | None = None,
    **cutting: Any,
) -> Corpus:
    """Find files of texts and cut them."""
    files = find_texts(
        inputs, text_column=text_column, pair_column=pair_column, id_column=id_column
    )
    return cut(files, **cutting)


def content(folder: Path) -> dict[str, dict]:
    """The columns of each shard."""
    from pyarrow import parquet

    return {path.name: parquet.read_table(path).to_pydict()
            for path in sorted(folder.glob("part-*.parquet"))}  # fmt: skip


def multiply(folder: Path, target: Path, copies: int) -> None:
    """Make a folder with every shard of another so many times, all listed in its manifest."""
    target.mkdir()
    manifest = Manifest.read(folder)
    outcomes = [manifest.shards[number] for number in sorted(manifest.shards)] * copies
    for number, outcome in enumerate(outcomes):
        os.link(shard_path(folder, outcome.number), shard_path(target, number))
    manifest.shards = {n: replace(one, number=n) for n, one in enumerate(outcomes)}
    manifest.n_shards = len(outcomes)
    manifest.write(target)
