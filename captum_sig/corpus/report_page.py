"""Show the report of a corpus as one self-contained HTML page: tables to search and to sort."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from captum_sig.corpus.report import WORDS, Report
from captum_sig.corpus.tasks import LABELLED
from captum_sig.data.tables import Row
from captum_sig.explainers.results import Word, WordAttribution
from captum_sig.viz.characters import shortened
from captum_sig.viz.pages import render

MAX_EXAMPLE_WORDS = 40  # a longer text is cut around its word
MAX_EXAMPLE_UNITS = 3
MAX_CELL = 160  # characters of a unit in a table


def to_page(report: Report) -> str:
    """Return the page; whatever comes from texts, models or options is escaped."""
    strongest: dict[str, float] = {}  # mean effect in each class
    for row in report.words:
        strongest[row["class"]] = max(strongest.get(row["class"], 0.0), abs(row["mean"]))

    def example(row: Row, word: str, side: str) -> WordAttribution:
        key = row[f"file{side}"], row[f"row{side}"], row["class"]
        result, position = _strongest(report.examples[key], row, word, lowest=side == "_against")
        result = replace(result, residual=None)  # the overview has that of all texts
        limit = MAX_EXAMPLE_WORDS if report.kinds == WORDS else MAX_EXAMPLE_UNITS
        return around_word(result, position, limit)

    return render(
        "report.html", "captum_sig.corpus", report=report, strongest=strongest, example=example,
        number=_number, search_key=_search_key, explained=_explained(report),
        in_cell=lambda text: shortened(text, MAX_CELL),
    )  # fmt: skip


def _explained(report: Report) -> str:
    """Say what the run explained of each text."""
    target = report.settings.get("target")
    if isinstance(target, list):
        return ", ".join(map(str, target))
    if target is not None:
        return str(target)
    if report.unit != "logit":
        return "the value that the model gives each text"
    task = report.settings.get("task", LABELLED)
    return "the predicted label of each text" if task == LABELLED else "all that the model finds"


def _strongest(
    results: Sequence[WordAttribution], row: Row, word: str, lowest: bool
) -> tuple[WordAttribution, int]:
    """Return the result, and the place in it, where a row's word has its highest or lowest score.

    The place is 0 for a term of several words.
    """
    places = [
        (result, number)
        for result in results
        for number, one in enumerate(result.words)
        if one.label.strip().lower() == word.strip().lower() and row.get("side") in (None, one.side)
    ]
    choose = min if lowest else max
    return choose(places, key=lambda place: place[0].scores[place[1]], default=(results[0], 0))


def around_word(
    result: WordAttribution, position: int, limit: int = MAX_EXAMPLE_WORDS
) -> WordAttribution:
    """Cut a text to at most `limit` words, with the word at this position in their middle.

    The words of a pair of texts count together.
    """
    first = max(0, min(position - limit // 2, len(result.words) - limit))
    words = result.words[first : first + limit]
    if len(words) == len(result.words):
        return result
    if any(word.start is None or word.end is None for word in words):
        return replace(result, words=words)
    text, of_text = _cut(result.text, [word for word in words if word.side != "text_pair"])
    if result.text_pair is None:
        return replace(result, text=text, words=tuple(of_text))
    pair, of_pair = _cut(result.text_pair, [word for word in words if word.side == "text_pair"])
    return replace(result, text=text, text_pair=pair, words=(*of_text, *of_pair))


def _cut(text: str, words: Sequence[Word]) -> tuple[str, list[Word]]:
    """Cut a text to some of its words, and move their offsets accordingly."""
    places = [(word.start or 0, word.end or 0) for word in words]  # they are located
    start, end = (places[0][0], places[-1][1]) if places else (len(text), len(text))
    before, after = ("… " if start else ""), (" …" if end < len(text) else "")
    shift = len(before) - start
    moved = [
        replace(word, start=one + shift, end=other + shift)
        for word, (one, other) in zip(words, places, strict=True)
    ]
    return f"{before}{text[start:end]}{after}", moved


def _search_key(row: Row, columns: Iterable[str]) -> str:
    return " ".join(str(row[name] or "") for name in columns).lower()


def _number(value: float | None, spec: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, spec)
