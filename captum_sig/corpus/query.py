"""Query the shards of a folder with DuckDB, which streams them and spills to disk."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captum_sig.corpus.rows import OF_SCORES, OPTIONAL_COLUMNS, RESULT_COLUMNS, SOURCE_COLUMNS
from captum_sig.data.optional import optional_import
from captum_sig.data.tables import Row

SQL_TYPES = {
    "string": "VARCHAR", "float": "FLOAT", "double": "DOUBLE", "int32": "INTEGER",
    "int64": "BIGINT",
}  # fmt: skip
N_FETCHED = 1024  # rows at a time

# The highest and the lowest score of a group with their texts. Ties go to the same text whatever
# is read first, as file and row are compared too.
STRONGEST = """
    max({'score': score, 'file': file, 'row': row}) AS most_for,
    min({'score': score, 'file': file, 'row': row}) AS most_against
"""
STRONGEST_COLUMNS = """
    most_for.file AS file_for, most_for.row AS row_for,
    most_against.file AS file_against, most_against.row AS row_against
"""


LISTS = ("scores", "first", "last")  # whose numbers are added up
LARGEST = "-list_min({0}), list_max({0})"


@contextmanager
def open_shards(paths: Sequence[Path]) -> Iterator[Any]:
    """Yield a connection to DuckDB in which the view `texts` has the rows of all shards.

    Columns that no shard, or not each of them, has are null. The view `explained` has a row for
    each target of a text that was explained, in the columns of runs with one target, and the
    target's own `target_probability` where it has one.

    Raises:
        ValueError: if DuckDB is not installed.
        OSError: if DuckDB cannot read a shard, has not enough memory, or its disk is full.
    """
    duckdb = optional_import("duckdb", "reading shards")
    with (
        tempfile.TemporaryDirectory() as spilled,
        duckdb.connect(config={"temp_directory": spilled}) as connection,
    ):
        try:
            files = connection.read_parquet(list(map(str, paths)), union_by_name=True)
            types = SOURCE_COLUMNS | RESULT_COLUMNS
            absent = [name for name in OPTIONAL_COLUMNS if name not in files.columns]
            nulls = [f"NULL::{_sql_type(types[name])} AS {name}" for name in absent]
            files.project(", ".join(["*", *nulls])).create_view("texts")
            connection.execute(_explained(files.columns))
            yield connection
        except duckdb.Error as error:
            why = str(error).splitlines()[0]
            raise OSError(f"{paths[0].parent} cannot be summarised: {why}") from error


def _sql_type(arrow_type: str) -> str:
    """Return the SQL type of a column.

    >>> _sql_type("list<list<float>>")
    'FLOAT[][]'
    """
    if arrow_type.startswith("list<"):
        return f"{_sql_type(arrow_type[len('list<') : -1])}[]"
    return SQL_TYPES[arrow_type]


def _explained(columns: Sequence[str]) -> str:
    """Return the statement that makes the view `explained` of files with these columns."""
    if "targets" not in columns:
        return (
            "CREATE VIEW explained AS SELECT *, NULL::DOUBLE AS target_probability FROM texts "
            "WHERE error IS NULL AND target IS NOT NULL"
        )
    lists = {
        "target": "targets", "value": "target_values", "scores": "target_scores",
        "target_probability": "target_probabilities",
        **{name: f"target_{name}" for name in sorted(OF_SCORES) if f"target_{name}" in columns},
    }  # fmt: skip
    unnested = ", ".join(f"unnest({column}) AS {name}" for name, column in lists.items())
    same = [name for name in (*SOURCE_COLUMNS, *RESULT_COLUMNS)
            if name not in lists and not name.startswith("target")]  # fmt: skip
    return (
        f"CREATE VIEW explained AS SELECT {', '.join(same)}, {unnested} FROM texts "
        "WHERE error IS NULL"
    )


def add_exact_sums(db: Any, max_words: int) -> None:
    """Define SQL's `exact_sum`, `exact_mean` and `exact_std` of scores and of effects.

    The first two also take probabilities, values and residuals.

    DuckDB adds in parallel, and the rounding of a sum of floats depends on the order. These SQL
    macros add 128-bit integers, so that the order does not matter. Values become multiples of
    2**-k, with the largest k for which no sum can overflow, nor n Σx² − (Σx)² of the standard
    deviation. At most `max_words` scores of the view `explained` are added up before.
    """
    largest, largest_of_text, n_scores, n_texts = db.execute(
        f"SELECT coalesce(max(greatest({', '.join(map(LARGEST.format, LISTS))})), 0), "
        "coalesce(max(greatest(abs(residual), abs(list_sum(scores) - residual), abs(value))), 0), "
        "coalesce(sum(len(scores)), 0), count(*) FROM explained"
    ).fetchone()
    count_bits = int(n_scores + n_texts).bit_length()
    _, exponent = math.frexp(largest * max_words)  # every score is below 2**exponent
    _, exponent_of_text = math.frexp(largest_of_text)
    largest_exponent = max(exponent, exponent_of_text, 1)  # at least 1 for probabilities
    for_sums = 2.0 ** (125 - count_bits - largest_exponent)
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


def fetch(db: Any, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
    """Run a query and return its rows, all in memory."""
    return list(stream(db, query, parameters))


def stream(db: Any, query: str, parameters: Sequence[Any] = ()) -> Iterator[Row]:
    """Run a query and yield its rows, of which few are in memory; run no other one meanwhile."""
    result = db.execute(query, parameters)
    names = [column[0] for column in result.description]
    while rows := result.fetchmany(N_FETCHED):
        for row in rows:
            yield dict(zip(names, row, strict=True))


def duplicate_ids(paths: Sequence[Path]) -> int:
    """Count the rows of shards whose id another row has before them."""
    with open_shards(paths) as db:
        query = "SELECT count(*) - count(DISTINCT id) FROM texts"
        return int(db.execute(query).fetchone()[0])


def failed_rows(paths: Sequence[Path], limit: int) -> list[tuple[str, int, str]]:
    """Return file, row and error of the first rows of shards that could not be explained."""
    query = "SELECT file, row, error FROM texts WHERE error IS NOT NULL ORDER BY ALL LIMIT ?"
    with open_shards(paths) as db:
        return list(db.execute(query, [limit]).fetchall())
