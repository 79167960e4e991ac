"""The columns of an explained corpus, and the conversion of a result to a row and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

import torch

from captum_sig.data.optional import optional_import
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.results import WordAttribution, scored_words
from captum_sig.words.grouping import Span

MAX_ERROR = 500  # characters of an error

# Names and Arrow types, in the order of the files.
SOURCE_COLUMNS = {
    "file": "string", "row": "int64", "id": "string", "text": "string", "text_pair": "string",
}  # fmt: skip
RESULT_COLUMNS = {
    "label": "string",
    "probability": "double",
    "target": "string",
    "value": "double",
    "unit": "string",
    "level": "string",
    "targets": "list<string>",
    "target_values": "list<float>",
    "target_probabilities": "list<float>",
    "target_starts": "list<int32>",
    "target_ends": "list<int32>",
    "words": "list<string>",
    "names": "list<string>",
    "sides": "list<string>",
    "offsets": "list<list<int32>>",
    "scores": "list<float>",
    "target_scores": "list<list<float>>",
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
SIDES = {"first", "last", "agreement"}  # of a word: alone, and in the text
IN_CONTEXTS_ONLY = {*SIDES, "standard_error", "residual"}
OF_TOP = {"evidence", "bound", "confidence"}  # where the strongest words alone are exact
OF_DRAWS = {"std"}
OF_SCORES = {*OF_DRAWS, *IN_CONTEXTS_ONLY, *OF_TOP}
# Each has an entry for each target in a column `target_…` where there are several.
RESULT_COLUMNS |= {f"target_{name}": f"list<{RESULT_COLUMNS[name]}>"
                   for name in RESULT_COLUMNS if name in OF_SCORES}  # fmt: skip
RESULT_COLUMNS["error"] = RESULT_COLUMNS.pop("error")  # the last
OF_ONE = {"target", "scores"}
OF_SEVERAL = {"targets", "target_values", "target_probabilities", "target_scores"}
LOCATED = {"target_starts", "target_ends"}  # targets are parts of the text
OF_VALUES = {"value", "unit"}  # where the target is not a logit
OF_PAIRS = {"text_pair", "sides"}
OF_UNITS = {"level", "names"}  # where more than words move as one
OPTIONAL_COLUMNS = {
    *OF_ONE, *OF_SEVERAL, *LOCATED, *OF_VALUES, *OF_PAIRS, *OF_UNITS, *OF_SCORES,
    *(f"target_{name}" for name in OF_SCORES),
}  # fmt: skip

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
    is_explained = set(known) >= OF_ONE or set(known) >= OF_SEVERAL
    return is_explained and required <= set(known) and schema.equals(arrow_schema(known))


def to_row(result: WordAttribution | TargetsAttribution) -> Row:
    """Return the `RESULT_COLUMNS` of a text that has any; the others are of other runs.

    Where the model predicts a value, there is no label.
    """
    if isinstance(result, WordAttribution) and result.target is None:
        return failed_row("the tokenizer returns no token for the text: there is nothing to read")
    words = result.words
    row = {
        "label": None if result.unit == "value" else result.label,
        "probability": result.probability,
        "unit": result.unit,
        "level": result.level,
        "words": [word.word for word in words],
        "names": [word.name for word in words],
        "sides": [word.side for word in words],
        "offsets": [[word.start, word.end] for word in words],
        "dropped_tokens": result.dropped_tokens,
        "error": "",
    }
    of_targets = _of_one(result) if isinstance(result, WordAttribution) else _of_several(result)
    return {**row, **of_targets}


def _of_one(result: WordAttribution) -> Row:
    words, audit = result.words, result.audit
    return {
        "target": result.target,
        "value": result.value,
        "scores": [word.score for word in words],
        "max_abs_word_delta": result.max_abs_word_delta,
        "std": _known([word.std for word in words]),
        "standard_error": _known([word.standard_error for word in words]),
        "first": _known([word.first for word in words]),
        "last": _known([word.last for word in words]),
        "agreement": _known([word.agreement for word in words]),
        "residual": result.residual,
        "evidence": _known([word.evidence for word in words]),
        "bound": None if audit is None else audit.bound,
        "confidence": None if audit is None else audit.confidence,
    }


def _of_several(result: TargetsAttribution) -> Row:
    targets = result.targets
    deltas = [delta for delta in result.max_abs_word_delta if delta is not None]
    row: Row = {
        "targets": [target.name for target in targets],
        "target_values": [target.value for target in targets],
        "target_probabilities": [target.probability for target in targets],
        "target_starts": [target.start for target in targets],
        "target_ends": [target.end for target in targets],
        "target_scores": _lists(result.matrix),
        "max_abs_word_delta": max(deltas, default=None),
        "target_std": _lists(result.std),
        "target_standard_error": _lists(result.standard_error),
        "target_first": _lists(result.matrix_first),
        "target_last": _lists(result.matrix_last),
        "target_residual": None if result.residual is None else list(result.residual),
        "target_evidence": _evidence(result),
    }
    row["target_agreement"] = None
    if result.matrix_first is not None:
        row["target_agreement"] = [[word.agreement for word in one.words] for one in result]
    for name in ("bound", "confidence"):
        row[f"target_{name}"] = (
            None if result.audit is None else [getattr(a, name, None) for a in result.audit]
        )
    return row


def _evidence(result: TargetsAttribution) -> list[list[str] | None] | None:
    if result.evidence is None:
        return None
    return [None if of_target is None else list(of_target) for of_target in result.evidence]


def _known(values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else values


def _lists(matrix: torch.Tensor | None) -> list[list[float | None]] | None:
    """Return the numbers of targets by words; NaN, which stands for what is not known, is None."""
    if matrix is None:
        return None
    rows = matrix.tolist()
    if matrix.isnan().any():
        return [[None if number != number else number for number in row] for row in rows]
    return rows


def failed_row(error: str) -> Row:
    """Return the `RESULT_COLUMNS` of a text that has no explanation."""
    empty: dict[str, list[Any]] = {
        name: [] for name in ("words", "names", "sides", "offsets", "scores", "targets",
                              "target_values", "target_probabilities", "target_scores", *LOCATED)
    }  # fmt: skip
    return dict.fromkeys(RESULT_COLUMNS) | empty | {"dropped_tokens": 0, "error": error[:MAX_ERROR]}


def from_row(row: Mapping[str, Any], method: str, baseline: str) -> WordAttribution:
    """Return the result of a row with one target, but for the probabilities of other labels.

    A row of several targets becomes one for each of them in `captum_sig.corpus.query`, where
    `target_probability` is the target's own.
    """
    optional = [row.get(name) or repeat(None) for name in ("sides", "names")]
    places = zip(row["words"], row["offsets"], *optional, strict=False)
    spans = [Span(number, word, start, end, side, name)
             for number, (word, (start, end), side, name) in enumerate(places)]  # fmt: skip
    kept = [number for number, score in enumerate(row["scores"]) if score is not None]
    words = scored_words([spans[n] for n in kept], [row["scores"][n] for n in kept])
    for name in ("std", "standard_error", "first", "last", "agreement"):
        if row.get(name) is not None:
            values = (row[name][number] for number in kept)
            words = tuple(
                replace(word, **{name: value}) for word, value in zip(words, values, strict=True)
            )
    probability = row.get("target_probability")
    return WordAttribution(
        text=row["text"],
        text_pair=row.get("text_pair"),
        label=row["label"],
        probability=row["probability"],
        probabilities={} if probability is None else {row["target"]: probability},
        target=row["target"],
        value=row.get("value"),
        unit=row.get("unit") or "logit",
        level=row.get("level") or "word",
        method=method,
        baseline=baseline,
        max_abs_word_delta=row["max_abs_word_delta"],
        words=words,
        residual=row.get("residual"),
    )
