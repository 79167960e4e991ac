"""The columns of an explained corpus, and the conversion of a result to a row and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    "residual": "double",
    "error": "string",
}
OPTIONAL_COLUMNS = {"std", "standard_error", "residual"}  # only with certain methods

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
    """Return the `RESULT_COLUMNS` of a text; `std` and others are None where there are none."""
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
        "std": _if_any([word.std for word in words]),
        "standard_error": _if_any([word.standard_error for word in words]),
        "residual": result.residual,
        "error": "",
    }


def _if_any(values: list[float | None]) -> list[float | None] | None:
    return values if not values or any(value is not None for value in values) else None


def failed_row(error: str) -> Row:
    """Return the `RESULT_COLUMNS` of a text that has no explanation."""
    return dict.fromkeys(RESULT_COLUMNS) | {
        "words": [], "offsets": [], "scores": [], "dropped_tokens": 0, "error": error[:MAX_ERROR],
    }  # fmt: skip


def from_row(row: Mapping[str, Any], method: str, baseline: str) -> WordAttribution:
    """Return the result of a row, without what methods add to it (`std`, `residual`, …)."""
    places = zip(row["words"], row["offsets"], strict=True)
    spans = [Span(number, word, start, end) for number, (word, (start, end)) in enumerate(places)]
    return WordAttribution(
        text=row["text"],
        label=row["label"],
        probability=row["probability"],
        target=row["target"],
        method=method,
        baseline=baseline,
        max_abs_word_delta=row["max_abs_word_delta"],
        words=scored_words(spans, row["scores"]),
    )
