"""A corpus at a glance, out of its shards: DuckDB reads, groups and sorts them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from captum_sig.corpus.query import (
    OF_STRONGEST,
    STRONGEST,
    add_exact_sums,
    fetched,
    manifest,
    shards,
)
from captum_sig.data.statistics import bootstrap
from captum_sig.data.tables import Row, write_csv
from captum_sig.explainers.results import WordAttribution, scored_words
from captum_sig.words.grouping import Span

BOOTSTRAPPED = 2_000  # texts; the mean over more is as good as normal

TERM_COLUMNS = (
    "term", "class", "mean", "low", "high", "count", "documents", "std", "share_for",
    "file_for", "row_for", "file_against", "row_against",
)  # fmt: skip

# A term of n words stands where n neighbours, written together, are the term without its spaces.
TERMS = """
    INSERT INTO occurrences
    SELECT term, class, file, row, score FROM (
        SELECT target AS class, file, row,
            unnest(list_transform(range(1, len(words) - {n} + 2),
                lambda i: lower(array_to_string(list_transform(
                    words[i:i + {n} - 1], lambda w: trim(w)), '')))) AS squeezed,
            unnest(list_transform(range(1, len(words) - {n} + 2),
                lambda i: list_sum(scores[i:i + {n} - 1]))) AS score
        FROM explained WHERE len(words) >= {n}
    ) JOIN terms USING (squeezed) WHERE n = {n}
"""

OF_TERMS = f"""
    SELECT term, class, mean, occurrences.count AS count, documents, std, share_for,
        {OF_STRONGEST}
    FROM (
        SELECT term, class, exact_mean(score) AS mean, count(*) AS documents,
            exact_std(score) AS std
        FROM (SELECT term, class, exact_mean(score) AS score FROM occurrences
              GROUP BY term, class, file, row)
        GROUP BY term, class
    ) JOIN (
        SELECT term, class, count(*) AS count, avg((score > 0)::INT) AS share_for, {STRONGEST}
        FROM occurrences GROUP BY term, class
    ) AS occurrences USING (term, class)
    ORDER BY term, class
"""


def longest(terms: Sequence[str]) -> int:
    """The most words of a text that one of the terms may be."""
    return max(map(_most_words, terms), default=1)


def _most_words(term: str) -> int:
    """A tokenizer may or may not part it further where letters end."""
    return len(re.findall(r"\w+|[^\w\s]", term))


def effects(db: Any, terms: Sequence[str]) -> list[Row]:
    """Effects of the terms; a term that occurs nowhere has one row, of no class.

    Args:
        db: has the view `explained` and exact sums of scores of `longest(terms)` words.
        terms: words or phrases.
    """
    db.execute("CREATE TEMP TABLE terms (term VARCHAR, squeezed VARCHAR, n INTEGER)")
    db.execute(
        "CREATE TEMP TABLE occurrences "
        "(term VARCHAR, class VARCHAR, file VARCHAR, row BIGINT, score DOUBLE)"
    )
    lengths: set[int] = set()
    for term in terms:
        parts = term.split()
        for n in range(len(parts), _most_words(term) + 1):
            db.execute("INSERT INTO terms VALUES (?, lower(?), ?)", [term, "".join(parts), n])
            lengths.add(n)
    for n in sorted(lengths):
        db.execute(TERMS.format(n=n))
    found = [{**row, **_interval(db, row)} for row in fetched(db, OF_TERMS)]
    found.sort(key=lambda row: terms.index(row["term"]))
    there = {row["term"] for row in found}
    missing = [term for term in terms if term not in there]
    empty = dict.fromkeys(TERM_COLUMNS)
    return found + [{**empty, "term": term, "count": 0, "documents": 0} for term in missing]


def _interval(db: Any, row: Row) -> dict[str, float | None]:
    """Of the mean over texts, 95 %; one text tells of no other."""
    if row["documents"] == 1:
        return {"low": None, "high": None}
    if row["documents"] > BOOTSTRAPPED:
        half = NormalDist().inv_cdf(0.975) * row["std"] / math.sqrt(row["documents"])
        return {"low": row["mean"] - half, "high": row["mean"] + half}
    query = (
        "SELECT exact_mean(score) AS score FROM occurrences WHERE term = ? AND class = ? "
        "GROUP BY file, row ORDER BY file, row"
    )
    values = db.execute(query, [row["term"], row["class"]]).fetchnumpy()["score"]
    interval = bootstrap(values)
    return {"low": interval.low, "high": interval.high}


N_EXTREMES = 3  # texts for, and texts against, of each class
N_FLIPS = 50
OFTEN = 2  # times at least that a word must speak for and against to be told among the flips

Key = tuple[str, int]  # file and row

WORD_COLUMNS = ("class", "word", "sum", "mean", "count", "documents", "std", "share_for")
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
            exact_std(score) AS std,
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
