"""The columns of an explained corpus, and the conversion of a result to a row and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from captum_sig.data.optional import optional_import
from captum_sig.explainers.results import WordAttribution, scored_words
from captum_sig.words.grouping import Span

MAX_ERROR = 500  # characters of an error

# Names and Arrow types, in the order of the files.
SOURCE_COLUMNS = {"file": "string", "row": "int64", "id": "string", "text": "string"}
RESULT_COLUMNS = {
    "label": "string",
    "probability": "double",
    "target": "string",
    "words": "list<string>",
    "offsets": "list<list<int32>>",
    "scores": "list<float>",
    "max_abs_word_delta": "double",
    "dropped_tokens": "int32",
    "std": "list<float>",
    "standard_error": "list<float>",
    "first": "list<float>",
    "last": "list<float>",
    "agreement": "list<string>",
    "residual": "double",
    "evidence": "list<string>",
    "bound": "double",
    "confidence": "double",
    "error": "string",
}
SIDES = {"first", "last", "agreement"}  # of a word
IN_CONTEXTS_ONLY = {*SIDES, "standard_error", "residual"}
OF_TOP = {"evidence", "bound", "confidence"}  # where the strongest words alone are exact
OPTIONAL_COLUMNS = {"std", *IN_CONTEXTS_ONLY, *OF_TOP}

Row = dict[str, Any]


def arrow_schema(columns: Iterable[str]) -> Any:
    """Return the Arrow schema of these columns."""
    arrow = optional_import("pyarrow", "writing Parquet")

    def arrow_type(name: str) -> Any:
        if name.startswith("list<"):
            return arrow.list_(arrow_type(name[len("list<") : -1]))
        return arrow.type_for_alias(name)

    types = SOURCE_COLUMNS | RESULT_COLUMNS
    return arrow.schema([(name, arrow_type(types[name])) for name in columns])


def is_complete(schema: Any) -> bool:
    """Return whether an Arrow schema has the columns of an explained corpus."""
    required = set(SOURCE_COLUMNS | RESULT_COLUMNS) - OPTIONAL_COLUMNS
    known = [name for name in SOURCE_COLUMNS | RESULT_COLUMNS if name in schema.names]
    return required <= set(known) and schema.equals(arrow_schema(known))


def to_row(result: WordAttribution, dropped_tokens: int) -> Row:
    """Return the `RESULT_COLUMNS` of a text; the optional ones are None where nothing is known."""
    if result.label is None:
        return failed_row("the tokenizer returns no token for the text: there is nothing to read")
    words = result.words
    return {
        "label": result.label,
        "probability": result.probability,
        "target": result.target,
        "words": [word.word for word in words],
        "offsets": [[word.start, word.end] for word in words],
        "scores": [word.score for word in words],
        "max_abs_word_delta": result.max_abs_word_delta,
        "dropped_tokens": dropped_tokens,
        "std": _known([word.std for word in words]),
        "standard_error": _known([word.standard_error for word in words]),
        "first": _known([word.first for word in words]),
        "last": _known([word.last for word in words]),
        "agreement": _known([word.agreement for word in words]),
        "residual": result.residual,
        "evidence": _known([word.evidence for word in words]),
        "bound": None if result.audit is None else result.audit.bound,
        "confidence": None if result.audit is None else result.audit.confidence,
        "error": "",
    }


def _known(values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else values


def failed_row(error: str) -> Row:
    """Return the `RESULT_COLUMNS` of a text that has no explanation."""
    return dict.fromkeys(RESULT_COLUMNS) | {
        "words": [], "offsets": [], "scores": [], "dropped_tokens": 0, "error": error[:MAX_ERROR],
    }  # fmt: skip


def from_row(row: Mapping[str, Any], method: str, baseline: str) -> WordAttribution:
    """Return the result of a row, but for the probabilities of other labels."""
    places = zip(row["words"], row["offsets"], strict=True)
    spans = [Span(number, word, start, end) for number, (word, (start, end)) in enumerate(places)]
    words = scored_words(spans, row["scores"])
    for name in ("std", "standard_error", "first", "last", "agreement"):
        if row.get(name) is not None:
            words = tuple(
                replace(word, **{name: value}) for word, value in zip(words, row[name], strict=True)
            )
    return WordAttribution(
        text=row["text"],
        label=row["label"],
        probability=row["probability"],
        target=row["target"],
        method=method,
        baseline=baseline,
        max_abs_word_delta=row["max_abs_word_delta"],
        words=words,
        residual=row.get("residual"),
    )
