"""A corpus at a glance, out of its shards: DuckDB reads, groups and sorts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_sig.corpus_query import OF_STRONGEST, STRONGEST, add_exact_sums, fetched, shards
from captum_sig.corpus_run import manifest
from captum_sig.corpus_terms import TERM_COLUMNS, effects, longest
from captum_sig.data.tables import Row, write_csv
from captum_sig.explainers.results import WordAttribution, scored_words
from captum_sig.words.grouping import Span

N_EXTREMES = 3  # texts for, and texts against, of each class
N_FLIPS = 50
OFTEN = 2  # times at least that a word must speak for and against to be told among the flips

Key = tuple[str, int]  # file and row

WORD_COLUMNS = ("class", "word", "sum", "mean", "count", "documents", "spread", "share_for")
FLIP_COLUMNS = (
    "class", "word", "sum_for", "sum_against", "n_for", "n_against",
    "file_for", "row_for", "file_against", "row_against",
)  # fmt: skip
EXTREME_COLUMNS = ("class", "word", "score", "file", "row")

# Of each class and word: its scores in all its occurrences, and in how many texts it occurs.
WORDS = f"""
    CREATE TEMP TABLE words AS
    WITH occurrences AS (
        SELECT target AS class, file, row, lower(trim(word)) AS word, score FROM (
            SELECT target, file, row, unnest(words) AS word, unnest(scores) AS score
            FROM explained
        )
    ),
    scored AS (
        SELECT class, word, exact_sum(score) AS sum, exact_mean(score) AS mean, count(*) AS count,
            exact_std(score) AS spread,
            count(*) FILTER (score > 0) AS n_for, count(*) FILTER (score < 0) AS n_against,
            exact_sum(greatest(score, 0)) AS sum_for, exact_sum(least(score, 0)) AS sum_against,
            {STRONGEST}
        FROM occurrences GROUP BY class, word
    ),
    found AS (
        SELECT class, word, count(*) AS documents FROM (
            SELECT target AS class,
                unnest(list_distinct(list_transform(words, lambda w: lower(trim(w))))) AS word
            FROM explained
        ) GROUP BY class, word
    )
    SELECT *, n_for / count AS share_for FROM scored JOIN found USING (class, word)
"""

OVERVIEW = """
    SELECT count(*) AS rows, count(error) AS bad,
        count(*) FILTER (dropped_tokens > 0) AS truncated,
        count(*) - count(DISTINCT id) AS duplicate_ids,
        max(max_abs_word_delta) AS max_abs_word_delta
    FROM texts
"""

CLASSES = """
    SELECT target AS class, count(*) AS texts, exact_mean(probability) AS mean_confidence,
        avg((label = target)::INT) AS share_predicted, avg(len(words)) AS words_per_text
    FROM explained GROUP BY target ORDER BY texts DESC, class
"""

FLIPS = f"""
    SELECT class, word, sum_for, sum_against, n_for, n_against, {OF_STRONGEST} FROM words
    WHERE n_for >= {OFTEN} AND n_against >= {OFTEN}
    ORDER BY least(sum_for, -sum_against) DESC, class, word LIMIT {N_FLIPS}
"""


@dataclass(frozen=True)
class Report:
    """What a corpus says of its words, and the texts that show it."""

    settings: dict[str, Any]  # of the run
    method: str  # with its contexts
    overview: Row
    classes: list[Row]
    words: list[Row]  # of each class those of the largest sums, either way
    flips: list[Row]
    terms: list[Row]
    extremes: list[Row]
    examples: dict[Key, WordAttribution]  # the texts that flips, terms and extremes name


def report(folder: Path, output: Path, *, terms: Sequence[str] = (), top: int = 500) -> Report:
    """Read a folder that `corpus` has written; tables as CSV go to another.

    Words are compared in lower case. A word's effect is its score, in logits of the class that was
    explained for the text. A term's effect in a text is the mean over its occurrences; one of
    several words has the sum of their scores, each of which says what that word alone does. The
    interval is for the mean over texts: by bootstrap, or normal from `BOOTSTRAPPED` texts on.

    Args:
        folder: of the shards.
        output: where `words.csv` (all words), `flips.csv`, `terms.csv` and `extremes.csv` go.
        terms: words or phrases to look for.
        top: how many words of each class the report itself holds.

    Raises:
        ValueError: if there are no shards, or no text was explained.
        OSError: if the tables cannot be written.
    """
    run = manifest(folder)
    settings = run["settings"]
    method = ":".join(filter(None, [settings["method"], settings["contexts"]]))
    with shards(folder) as db:
        db.execute("CREATE VIEW explained AS FROM texts WHERE error IS NULL AND target IS NOT NULL")
        add_exact_sums(db, longest(terms))
        db.execute(WORDS)
        classes = fetched(db, CLASSES)
        if not classes:
            raise ValueError(f"no text in {folder} could be explained: see column `error`")
        found = {
            "flips": fetched(db, FLIPS),
            "terms": effects(db, terms),
            "extremes": _extremes(db),
        }
        output.mkdir(parents=True, exist_ok=True)
        _copy_words(db, output / "words.csv")
        result = Report(
            settings=settings,
            method=method,
            overview={
                **fetched(db, OVERVIEW)[0],
                "finished": run["finished"],
                "rows_in_input": sum(file["rows"] for file in settings["input"]),
            },
            classes=classes,
            words=fetched(db, _words(top)),
            **found,
            examples=_examples(db, found.values(), method, settings["baseline"]),
        )
    write_csv(result.flips, FLIP_COLUMNS, output / "flips.csv")
    write_csv(result.extremes, EXTREME_COLUMNS, output / "extremes.csv")
    if terms:
        write_csv(result.terms, TERM_COLUMNS, output / "terms.csv")
    return result


def _words(top: int) -> str:
    return f"""
        SELECT {", ".join(WORD_COLUMNS)} FROM words
        QUALIFY row_number() OVER (PARTITION BY class ORDER BY abs(sum) DESC, word) <= {top:d}
        ORDER BY class, abs(sum) DESC, word
    """


def _copy_words(db: Any, path: Path) -> None:
    """All of them, as CSV, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    quoted = str(beside).replace("'", "''")
    columns = ", ".join(WORD_COLUMNS)
    try:
        db.execute(
            f"COPY (SELECT {columns} FROM words ORDER BY class, sum DESC, word) "
            f"TO '{quoted}' (FORMAT csv, HEADER)"
        )
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _extremes(db: Any) -> list[Row]:
    """Of each class the texts with the strongest words for it, then those against it."""
    query = f"""
        SELECT class, max(side, {N_EXTREMES}) AS most_for, min(side, {N_EXTREMES}) AS most_against
        FROM (
            SELECT target AS class, unnest([
                {{'score': score, 'file': file, 'row': row,
                  'word': words[list_position(scores, score)]}}
                for score in [list_max(scores), list_min(scores)]
            ]) AS side
            FROM explained WHERE len(scores) > 0
        ) GROUP BY class ORDER BY class
    """
    return [
        {"class": row["class"], **side}
        for row in fetched(db, query)
        for side in (*row["most_for"], *row["most_against"])
    ]


def _keys(rows: Iterable[Row]) -> list[Key]:
    """The texts that rows name, each once."""
    pairs = [
        (row.get(f"file{side}"), row.get(f"row{side}"))
        for row in rows
        for side in ("", "_for", "_against")
    ]
    return [
        (file, row) for file, row in dict.fromkeys(pairs) if file is not None and row is not None
    ]


def _examples(
    db: Any, tables: Iterable[list[Row]], method: str, baseline: str
) -> dict[Key, WordAttribution]:
    """The texts that rows of these tables name, as the explainer gave them."""
    keys = _keys(row for rows in tables for row in rows)
    db.execute("CREATE TEMP TABLE wanted (file VARCHAR, row BIGINT)")
    if keys:
        db.executemany("INSERT INTO wanted VALUES (?, ?)", keys)
    found = {}
    for row in fetched(db, "SELECT texts.* FROM texts JOIN wanted USING (file, row)"):
        spans = [
            Span(number, word, start, end)
            for number, (word, (start, end)) in enumerate(
                zip(row["words"], row["offsets"], strict=True)
            )
        ]
        found[row["file"], row["row"]] = WordAttribution(
            text=row["text"],
            label=row["label"],
            probability=row["probability"],
            target=row["target"],
            method=method,
            baseline=baseline,
            max_abs_word_delta=row["max_abs_word_delta"],
            words=scored_words(spans, row["scores"]),
        )
    return found
