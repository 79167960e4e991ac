"""Show the report of a corpus as one self-contained HTML page: tables to search and to sort."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from captum_sig.corpus.report import Report
from captum_sig.data.tables import Row
from captum_sig.explainers.results import WordAttribution
from captum_sig.viz.pages import render

MAX_EXAMPLE_WORDS = 40  # a longer text is cut around its word


def to_page(report: Report) -> str:
    """Return the page; whatever comes from texts, models or options is escaped."""
    strongest: dict[str, float] = {}  # mean effect in each class
    for row in report.words:
        strongest[row["class"]] = max(strongest.get(row["class"], 0.0), abs(row["mean"]))

    def example(row: Row, word: str, side: str) -> WordAttribution:
        whole = report.examples[row[f"file{side}"], row[f"row{side}"]]
        result = replace(whole, residual=None)  # the overview has that of all texts
        return around_word(result, _position(result, word, lowest=side == "_against"))

    return render(
        "report.html", "captum_sig.corpus", report=report, strongest=strongest, example=example,
        number=_number, search_key=_search_key,
    )  # fmt: skip


def _position(result: WordAttribution, word: str, lowest: bool) -> int:
    """Return where the word has its highest or lowest score; 0 for a term of several words."""
    occurrences = [n for n, w in enumerate(result.words) if w.word.strip().lower() == word.lower()]
    choose = min if lowest else max
    return choose(occurrences, key=lambda n: result.scores[n], default=0)


def around_word(
    result: WordAttribution, position: int, limit: int = MAX_EXAMPLE_WORDS
) -> WordAttribution:
    """Cut a text to at most `limit` words, with the word at this position in their middle."""
    first = max(0, min(position - limit // 2, len(result.words) - limit))
    words = result.words[first : first + limit]
    if len(words) == len(result.words):
        return result
    start, end = words[0].start, words[-1].end
    if start is None or end is None:
        return replace(result, words=words)
    before, after = ("… " if start else ""), (" …" if end < len(result.text) else "")
    shift = len(before) - start
    moved = tuple(
        replace(
            word,
            start=None if word.start is None else word.start + shift,
            end=None if word.end is None else word.end + shift,
        )
        for word in words
    )
    return replace(result, text=f"{before}{result.text[start:end]}{after}", words=moved)


def _search_key(row: Row, columns: Iterable[str]) -> str:
    return " ".join(str(row[name] or "") for name in columns).lower()


def _number(value: float | None, spec: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, spec)
