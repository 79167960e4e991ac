"""Summarise an explained corpus from its shards, which DuckDB reads, groups and sorts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from captum_sig._files import make_folder
from captum_sig.corpus.manifest import Manifest
from captum_sig.corpus.query import (
    STRONGEST,
    STRONGEST_COLUMNS,
    add_exact_sums,
    fetch,
    open_shards,
    stream,
)
from captum_sig.corpus.rows import from_row
from captum_sig.data.statistics import bootstrap
from captum_sig.data.tables import Row, write_csv
from captum_sig.explainers.results import WordAttribution

MAX_BOOTSTRAP_TEXTS = 2_000  # the mean over more is as good as normal

TERM_COLUMNS = (
    "term", "class", "mean", "low", "high", "count", "documents", "std", "share_for",
    "file_for", "row_for", "file_against", "row_against",
)  # fmt: skip

# A term occurs at n neighbours that, written together, are the term without its spaces.
ADD_OCCURRENCES = """
    INSERT INTO occurrences
    SELECT term, class, file, row, score FROM (
        SELECT class, file, row,
            unnest(list_transform(range(1, len(words) - {n} + 2),
                lambda i: lower(array_to_string(list_transform(
                    words[i:i + {n} - 1], lambda w: trim(w)), '')))) AS squeezed,
            unnest(list_transform(range(1, len(words) - {n} + 2),
                lambda i: list_sum(scores[i:i + {n} - 1]))) AS score,
            unnest(list_transform(range(1, len(words) - {n} + 2),
                lambda i: sides[i] IS NOT DISTINCT FROM sides[i + {n} - 1])) AS is_in_one_text
        FROM targets WHERE len(words) >= {n}
    ) JOIN terms USING (squeezed) WHERE n = {n} AND is_in_one_text
"""

TERM_EFFECTS = f"""
    SELECT term, class, mean, occurrences.count AS count, documents, std, share_for,
        {STRONGEST_COLUMNS}
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


def _max_words(term: str) -> int:
    """Return the maximum number of words of a term; a tokenizer may part it where letters end."""
    return len(re.findall(r"\w+|[^\w\s]", term))


def _term_effects(db: Any, terms: Sequence[str], max_bootstrap_texts: int) -> list[Row]:
    """Return the effects of the terms, in their order; one that occurs nowhere has no class."""
    db.execute("CREATE TEMP TABLE terms (term VARCHAR, squeezed VARCHAR, n INTEGER)")
    db.execute(
        "CREATE TEMP TABLE occurrences "
        "(term VARCHAR, class VARCHAR, file VARCHAR, row BIGINT, score DOUBLE)"
    )
    lengths: set[int] = set()
    for term in terms:
        parts = term.split()
        for n in range(len(parts), _max_words(term) + 1):
            db.execute("INSERT INTO terms VALUES (?, lower(?), ?)", [term, "".join(parts), n])
            lengths.add(n)
    for n in sorted(lengths):
        db.execute(ADD_OCCURRENCES.format(n=n))
    rows = [{**row, **_interval(db, row, max_bootstrap_texts)} for row in fetch(db, TERM_EFFECTS)]
    rows.sort(key=lambda row: terms.index(row["term"]))
    missing = set(terms) - {row["term"] for row in rows}
    empty = {**dict.fromkeys(TERM_COLUMNS), "count": 0, "documents": 0}
    return rows + [{**empty, "term": term} for term in terms if term in missing]


def _interval(db: Any, row: Row, max_bootstrap_texts: int) -> dict[str, float | None]:
    """Return the 95 % interval of the mean over texts; a single text has none."""
    if row["documents"] == 1:
        return {"low": None, "high": None}
    if row["documents"] > max_bootstrap_texts:
        half = NormalDist().inv_cdf(0.975) * row["std"] / math.sqrt(row["documents"])
        return {"low": row["mean"] - half, "high": row["mean"] + half}
    query = (
        "SELECT exact_mean(score) AS score FROM occurrences WHERE term = ? AND class = ? "
        "GROUP BY file, row ORDER BY file, row"
    )
    values = db.execute(query, [row["term"], row["class"]]).fetchnumpy()["score"]
    interval = bootstrap(values)
    return {"low": interval.low, "high": interval.high}


WORDS = "words"
N_EXTREMES = 3  # texts for, and texts against, of each class
N_SIGN_CHANGES = 50
MIN_OCCURRENCES = 2  # with each sign, for a word to be among the sign changes

Key = tuple[str, int, str]  # file, row and class

WORD_COLUMNS = ("class", "word", "sum", "mean", "count", "documents", "std", "share_for")
# Where contexts gave both sides of words; shares are of the occurrences with both.
SIDE_COLUMNS = ("mean_first", "mean_last", "share_redundant", "share_synergistic")
SIGN_CHANGE_COLUMNS = (
    "class", "word", "sum_for", "sum_against", "n_for", "n_against",
    "file_for", "row_for", "file_against", "row_against",
)  # fmt: skip
EXTREME_COLUMNS = ("class", "word", "score", "file", "row")

# Entities are named "PER: Ada": their class is the label, which a text may have several times.
TARGETS = """
    CREATE VIEW targets AS SELECT *, {of_target} AS class,
        CASE WHEN names IS NULL THEN list_transform(words, lambda w: lower(trim(w)))
        ELSE list_transform(list_zip(words, names), lambda pair: coalesce(pair[2],
            lower(trim(pair[1])))) END AS keys
    FROM explained
"""
# A similarity's target is the other text, of which there may be as many as rows: one class.
OF_TASK = {
    "token-classification": "split_part(target, ': ', 1)", "sentence-similarity": "'similarity'",
}  # fmt: skip

OVERVIEW = """
    SELECT count(*) AS rows, count(error) AS failed,
        count(*) FILTER (dropped_tokens > 0) AS truncated,
        count(*) - count(DISTINCT id) AS duplicate_ids,
        max(max_abs_word_delta) AS max_abs_word_delta
    FROM texts
"""
RESIDUALS = """
    SELECT exact_mean(abs(residual)) AS mean_abs_residual,
        exact_mean(abs(list_sum(scores) - residual)) AS mean_abs_effect
    FROM targets
"""

# By what the classes are: labels that are predicted, values, or several targets of each text.
CLASSES = """
    SELECT class, count(DISTINCT (file, row)) AS texts, {columns}, avg(len(words)) AS words_per_text
    FROM targets GROUP BY class ORDER BY texts DESC, {order} class
"""
OF_LABELS = """
    exact_mean(probability) AS mean_confidence, avg((label = target)::INT) AS share_predicted
"""
OF_VALUES = "exact_mean(value) AS mean_value, min(value) AS lowest, max(value) AS highest"
OF_SEVERAL = "exact_mean(value) AS mean_value, exact_mean(target_probability) AS mean_probability"

TOP_WORDS = """
    SELECT {columns} FROM words
    QUALIFY row_number() OVER (PARTITION BY class ORDER BY abs(sum) DESC, word, side) <= ?
    ORDER BY class, abs(sum) DESC, word, side
"""

ALL_WORDS = "SELECT {columns} FROM words ORDER BY class, sum DESC, word, side"
HAS_SIDES = "SELECT count(agreement) > 0 FROM targets"

SIGN_CHANGES = f"""
    SELECT {{columns}} FROM (SELECT *, {STRONGEST_COLUMNS} FROM words)
    WHERE n_for >= {MIN_OCCURRENCES} AND n_against >= {MIN_OCCURRENCES}
    ORDER BY least(sum_for, -sum_against) DESC, class, word, side LIMIT {N_SIGN_CHANGES}
"""


@dataclass(frozen=True)
class Report:
    """The effects of a corpus's words, and the texts that show them."""

    settings: dict[str, Any]  # of the run
    method: str  # with its contexts
    unit: str  # of scores and values
    kinds: str  # of what moves: "words", "sentences", …
    has_pairs: bool  # then words have a `side`
    overview: Row
    classes: list[Row]
    words: list[Row]  # those with the largest sums of each class, either way
    side_columns: tuple[str, ...]  # of `words`: `SIDE_COLUMNS`; none where sides are not known
    sign_changes: list[Row]  # words that speak for a class here and against it there
    terms: list[Row]
    extremes: list[Row]
    # The texts that sign changes, terms and extremes name, with each of their targets of a class.
    examples: dict[Key, list[WordAttribution]]


def make_report(
    folder: Path,
    output: Path,
    *,
    terms: Sequence[str] = (),
    top: int = 500,
    max_bootstrap_texts: int = MAX_BOOTSTRAP_TEXTS,
) -> Report:
    """Summarise a folder of shards, and write its tables as CSV to another folder.

    Words are compared in lower case. Units of several words go by their names, or else are compared
    like words: so a field or passage with a name has one effect over all texts. A word's effect is
    its score, in logits of the class that was explained for the text. A term's effect in a text is
    the mean over its occurrences; a term of several words has the sum of their scores. Where both
    sides of words are known, each word has the means of both, and the shares of its occurrences
    that are redundant and synergistic.

    Where several targets of a text are explained, each is a class, to which the text belongs;
    entities belong to the class of their label. In pairs of texts, a word of the first text is
    another one than the same word of the second. Where the model predicts a value, there is one
    class, and effects are in the value's unit.

    Args:
        folder: holds the shards, which are compared with their checksums first.
        output: receives `words.csv` (all words), `sign_changes.csv`, `terms.csv`, `extremes.csv`.
        terms: words or phrases to look for.
        top: the number of words that the report itself holds for each class.
        max_bootstrap_texts: up to so many texts, the interval of a term's mean effect is a
            bootstrap over texts, above it normal.

    Raises:
        ValueError: if there is no run, none of its shards is finished, a file of it is damaged, no
            text was explained, or terms are to be looked up where units moved.
        OSError: if the shards cannot be read or the tables cannot be written.
    """
    manifest = Manifest.read(folder)
    if not manifest.shards:
        raise ValueError(f"{folder} holds no finished shards: rerun `captum-sig corpus` first")
    settings = manifest.settings
    kinds = kinds_of(settings)
    if terms and kinds != WORDS:
        raise ValueError(
            f"terms are of words, and {folder} explains {kinds}: leave terms out, or explain the "
            "texts at level 'word'"
        )
    manifest.check_shards(folder)
    make_folder(output)
    method = ":".join(filter(None, [settings["method"], settings["contexts"]]))
    is_entities = settings.get("task") == "token-classification"
    of_target = OF_TASK.get(str(settings.get("task")), "target")
    has_pairs = settings.get("pair_column") is not None
    with open_shards(manifest.paths(folder)) as db:
        db.execute(TARGETS.format(of_target=of_target))
        add_exact_sums(db, max(map(_max_words, terms), default=1))
        db.execute(_words_query(has_pairs=has_pairs, is_entities=is_entities))
        unit = (db.execute("SELECT any_value(unit) FROM texts").fetchone() or [None])[0] or "logit"
        classes = _classes(db, unit)
        if not classes:
            raise ValueError(
                f"no text in {folder} could be explained, or had a target: see column `error`"
            )
        of_changes = with_side(SIGN_CHANGE_COLUMNS, has_pairs)
        tables = {
            "sign_changes": fetch(db, SIGN_CHANGES.format(columns=", ".join(of_changes))),
            "terms": _term_effects(db, terms, max_bootstrap_texts),
            "extremes": _extremes(db),
        }
        side_columns = SIDE_COLUMNS if db.execute(HAS_SIDES).fetchone()[0] else ()
        columns = (*with_side(WORD_COLUMNS, has_pairs), *side_columns)
        all_words, top_words = (
            query.format(columns=", ".join(columns)) for query in (ALL_WORDS, TOP_WORDS)
        )
        write_csv(stream(db, all_words), columns, output / "words.csv")
        report = Report(
            settings=settings,
            method=method,
            unit=unit,
            kinds=kinds,
            has_pairs=has_pairs,
            overview={
                **fetch(db, OVERVIEW)[0],
                **fetch(db, RESIDUALS)[0],
                "finished": manifest.finished,
                "rows_in_input": sum(file["rows"] for file in settings["input"]),
            },
            classes=classes,
            words=fetch(db, top_words, [top]),
            side_columns=side_columns,
            **tables,
            examples=_examples(db, tables.values(), method, settings["baseline"]),
        )
    write_csv(report.sign_changes, of_changes, output / "sign_changes.csv")
    write_csv(report.extremes, EXTREME_COLUMNS, output / "extremes.csv")
    if terms:
        write_csv(report.terms, TERM_COLUMNS, output / "terms.csv")
    return report


def kinds_of(settings: Mapping[str, Any]) -> str:
    """Return what moves in the texts of a run, in the plural.

    >>> kinds_of({"level": "sentence"}), kinds_of({"level": "auto"})
    ('sentences', 'units')
    """
    level = settings.get("level", "word")
    if settings.get("units_column") is not None or level == "auto":
        return "units"
    return WORDS if level in ("word", "token") else f"{level}s"


def with_side(columns: tuple[str, ...], has_pairs: bool) -> tuple[str, ...]:
    """Add the side of words in pairs of texts to the columns of a table, after the word."""
    if not has_pairs:
        return columns
    number = columns.index("word") + 1
    return (*columns[:number], "side", *columns[number:])


def _classes(db: Any, unit: str) -> list[Row]:
    """Return the number of texts of each class, and what the model predicts of them."""
    is_several = db.execute("SELECT count(targets) > 0 FROM texts").fetchone()[0]
    columns, order = (OF_LABELS, "") if unit == "logit" else (OF_VALUES, "")
    if is_several:
        columns, order = OF_SEVERAL, "mean_probability DESC NULLS LAST,"
    return fetch(db, CLASSES.format(columns=columns, order=order))


def _words_query(*, has_pairs: bool, is_entities: bool) -> str:
    """Return what makes the table `words`: the scores of each word for a class, over its texts.

    A unit goes by its name, in any text, or by its own text if it has none.
    In pairs of texts, a word in the first text is another one than in the second. A text counts
    once in `documents`, however many of its entities have the class.
    """
    sides = "sides" if has_pairs else "list_transform(words, lambda w: '')"
    documents = "targets"
    if is_entities:
        documents = "(SELECT DISTINCT class, file, row, keys, words, sides FROM targets)"
    return f"""
        CREATE TEMP TABLE words AS
        WITH occurrences AS (
            SELECT class, file, row, unnest(keys) AS word, unnest(scores) AS score,
                unnest({sides}) AS side,
                unnest(first) AS first, unnest(last) AS last, unnest(agreement) AS agreement
            FROM targets
        ),
        scored AS (
            SELECT class, side, word, exact_sum(score) AS sum, exact_mean(score) AS mean,
                count(*) AS count, exact_std(score) AS std,
                count(*) FILTER (score > 0) AS n_for, count(*) FILTER (score < 0) AS n_against,
                exact_sum(greatest(score, 0)) AS sum_for, exact_sum(least(score, 0)) AS sum_against,
                exact_mean(first) AS mean_first, exact_mean(last) AS mean_last,
                count(*) FILTER (agreement = 'redundant') / nullif(count(agreement), 0)
                    AS share_redundant,
                count(*) FILTER (agreement = 'synergistic') / nullif(count(agreement), 0)
                    AS share_synergistic,
                {STRONGEST}
            FROM occurrences GROUP BY class, side, word
        ),
        counted AS (
            SELECT class, one.side AS side, one.word AS word, count(*) AS documents FROM (
                SELECT class, unnest(list_distinct(list_transform(list_zip(keys, {sides}),
                    lambda pair: {{'word': pair[1], 'side': pair[2]}}))) AS one
                FROM {documents}
            ) GROUP BY ALL
        )
        SELECT *, n_for / count AS share_for FROM scored JOIN counted USING (class, side, word)
    """


def _extremes(db: Any) -> list[Row]:
    """Return the texts with the strongest words for each class, then those against it."""
    query = f"""
        SELECT class, max(side, {N_EXTREMES}) AS most_for, min(side, {N_EXTREMES}) AS most_against
        FROM (
            SELECT class, unnest([
                {{'score': score, 'file': file, 'row': row,
                  'word': coalesce(names[list_position(scores, score)],
                                   words[list_position(scores, score)])}}
                for score in [list_max(scores), list_min(scores)]
            ]) AS side
            FROM targets WHERE len(scores) > 0
        ) GROUP BY class ORDER BY class
    """
    return [
        {"class": row["class"], **side}
        for row in fetch(db, query)
        for side in (*row["most_for"], *row["most_against"])
    ]


def _examples(
    db: Any, tables: Iterable[list[Row]], method: str, baseline: str
) -> dict[Key, list[WordAttribution]]:
    """Return the texts that rows of these tables name, as the explainer returned them."""
    keys = {
        (row[f"file{side}"], row[f"row{side}"], row["class"])
        for rows in tables
        for row in rows
        for side in ("", "_for", "_against")
        if row.get(f"file{side}") is not None
    }
    db.execute("CREATE TEMP TABLE keys (file VARCHAR, row BIGINT, class VARCHAR)")
    if keys:
        db.executemany("INSERT INTO keys VALUES (?, ?, ?)", list(keys))
    examples: dict[Key, list[WordAttribution]] = {}
    for row in fetch(db, "SELECT targets.* FROM targets JOIN keys USING (file, row, class)"):
        of_key = examples.setdefault((row["file"], row["row"], row["class"]), [])
        of_key.append(from_row(row, method, baseline))
    return examples
