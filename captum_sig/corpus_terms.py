"""Terms that an audit looks for: what each of them does to a model's decisions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from captum_sig.corpus_query import OF_STRONGEST, STRONGEST, fetched
from captum_sig.data.statistics import bootstrap
from captum_sig.data.tables import Row

BOOTSTRAPPED = 2_000  # texts; the mean over more is as good as normal

TERM_COLUMNS = (
    "term", "class", "mean", "low", "high", "count", "documents", "spread", "share_for",
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
    SELECT term, class, mean, occurrences.count AS count, documents, spread, share_for,
        {OF_STRONGEST}
    FROM (
        SELECT term, class, exact_mean(score) AS mean, count(*) AS documents,
            exact_std(score) AS spread
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
        half = NormalDist().inv_cdf(0.975) * row["spread"] / math.sqrt(row["documents"])
        return {"low": row["mean"] - half, "high": row["mean"] + half}
    query = (
        "SELECT exact_mean(score) AS score FROM occurrences WHERE term = ? AND class = ? "
        "GROUP BY file, row ORDER BY file, row"
    )
    values = db.execute(query, [row["term"], row["class"]]).fetchnumpy()["score"]
    interval = bootstrap(values)
    return {"low": interval.low, "high": interval.high}
