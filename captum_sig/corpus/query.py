"""The shards of a folder as a table of DuckDB, which reads them as a stream and spills to disk."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captum_sig.data.optional import optional_import
from captum_sig.data.tables import Row

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
    duckdb = optional_import("duckdb", "reading shards")
    paths = sorted(map(str, folder.glob("part-*.parquet")))
    if not paths:
        raise ValueError(f"{folder} holds no shards: name a folder that `corpus` has written")
    with (
        tempfile.TemporaryDirectory() as spilled,
        duckdb.connect(config={"temp_directory": spilled}) as connection,
    ):
        connection.read_parquet(paths).create_view("texts")
        yield connection


def add_exact_sums(db: Any, most_words: int) -> None:
    """Define `exact_sum` and `exact_mean` of scores or probabilities, and `exact_std` of scores.

    DuckDB adds up in parallel, and floats that are added up in another order are rounded otherwise.
    These SQL macros add whole numbers of 128 bits: the result does not depend on the order. Values
    become multiples of 2**-k, with k as large as no sum can overflow; for the standard deviation,
    n Σx² − (Σx)² neither.

    Args:
        db: has the view `explained`.
        most_words: how many scores of a text may be added up to one.
    """
    largest, n_scores, n_texts = db.execute(
        "SELECT coalesce(max(greatest(-list_min(scores), list_max(scores))), 0), "
        "coalesce(sum(len(scores)), 0), count(*) FROM explained"
    ).fetchone()
    count_bits = int(n_scores + n_texts).bit_length()
    _, exponent = math.frexp(largest * most_words)  # no score is 2**exponent or more
    for_sums = 2.0 ** (125 - count_bits - max(exponent, 1))  # of probabilities too
    for_squares = 2.0 ** (62 - count_bits - exponent)
    db.execute(f"""
        CREATE TEMP MACRO exact_sum(x) AS sum((x * {for_sums!r})::HUGEINT)::DOUBLE / {for_sums!r};
        CREATE TEMP MACRO exact_mean(x) AS exact_sum(x) / count(x);
        CREATE TEMP MACRO as_whole(x) AS (x * {for_squares!r})::HUGEINT;
        CREATE TEMP MACRO exact_std(x) AS CASE WHEN count(x) > 1 THEN
            sqrt((count(x) * sum(as_whole(x) * as_whole(x)) - sum(as_whole(x)) * sum(as_whole(x)))
                / (count(x)::DOUBLE * (count(x) - 1))) / {for_squares!r}
        END;
    """)


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


MANIFEST = "manifest.json"


def manifest(folder: Path) -> dict[str, Any]:
    """What a run in this folder was made with.

    Raises:
        ValueError: if there was none, or the file is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(f"there is no {path}: name a folder that `corpus` has written")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged: use another folder") from None
