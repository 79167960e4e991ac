"""The shards of a folder as a table of DuckDB, which reads them as a stream and spills to disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captum_sig.columns import package
from captum_sig.tables import Row

# The strongest texts of a group, either way; ties go to the same text whatever is read first.
STRONGEST = """
    max({'score': score, 'file': file, 'row': row}) AS most_for,
    min({'score': score, 'file': file, 'row': row}) AS most_against
"""
OF_STRONGEST = """
    most_for.file AS file_for, most_for.row AS row_for,
    most_against.file AS file_against, most_against.row AS row_against
"""


@contextmanager
def shards(folder: Path) -> Iterator[Any]:
    """A connection to DuckDB in which `texts` are the rows of all shards.

    Raises:
        ValueError: if the folder holds none, or DuckDB is not installed.
    """
    duckdb = package("duckdb", "reading shards")
    paths = sorted(map(str, folder.glob("part-*.parquet")))
    if not paths:
        raise ValueError(f"{folder} holds no shards: name a folder that `corpus` has written")
    with (
        tempfile.TemporaryDirectory() as spilled,
        duckdb.connect(config={"temp_directory": spilled}) as connection,
    ):
        connection.read_parquet(paths).create_view("texts")
        yield connection


def fetched(db: Any, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
    """The rows of a result, which are few."""
    result = db.execute(query, parameters)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def duplicate_ids(folder: Path) -> int:
    """How many rows have the id of another row before them."""
    with shards(folder) as connection:
        query = "SELECT count(*) - count(DISTINCT id) FROM texts"
        return int(connection.execute(query).fetchone()[0])


def bad_rows(folder: Path, limit: int) -> list[tuple[str, int, str]]:
    """File, row and error of the first rows that could not be explained."""
    query = "SELECT file, row, error FROM texts WHERE error IS NOT NULL ORDER BY ALL LIMIT ?"
    with shards(folder) as connection:
        return list(connection.execute(query, [limit]).fetchall())
